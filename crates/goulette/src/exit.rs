//! How the process ends: the exit codes, and the one line that says why.

use std::{fmt, process::ExitCode};

use goulette_client::{ClientError, ConsumeError};

/// Why a command failed; prints as one line.
#[derive(Debug)]
pub(crate) struct Failure {
    code: Code,
    message: String,
}

/// The exit codes beside 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// It was tried and failed.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// Nobody answers at the addresses given.
    Unreachable = 3,
}

impl Failure {
    pub(crate) fn failed(message: impl fmt::Display) -> Self {
        Self { code: Code::Failed, message: message.to_string() }
    }

    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self { code: Code::Usage, message: message.to_string() }
    }

    /// The same failure, with what to do about it.
    pub(crate) fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.message = format!("{}: {hint}", self.message);
        self
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One line, whatever a peer or the system says.
        for (number, line) in self.message.lines().map(str::trim).filter(|line| !line.is_empty()).enumerate() {
            write!(out, "{}{line}", if number > 0 { "; " } else { "" })?;
        }
        Ok(())
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let code = match &error {
            ClientError::Unreachable { .. } => Code::Unreachable,
            ClientError::Address { .. } | ClientError::Name(_) => Code::Usage,
            _ => Code::Failed,
        };
        Self { code, message: error.to_string() }
    }
}

impl From<ConsumeError> for Failure {
    fn from(error: ConsumeError) -> Self {
        match error {
            ConsumeError::Client(error) => error.into(),
            ConsumeError::OutOfRange { .. } => Self::failed(error).hint("begin elsewhere, as with -from beginning"),
            other => Self::failed(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line() {
        assert_eq!(Failure::failed("a\n\n  b\nc\n").to_string(), "a; b; c");
        assert_eq!(Failure::failed("no such thing").hint("make it").to_string(), "no such thing: make it");
    }

    #[test]
    fn who_does_not_answer_is_unreachable() {
        let error =
            ClientError::Unreachable { role: "sentinel", addresses: "x:1".to_owned(), reason: "refused".to_owned() };
        assert_eq!(Failure::from(error).code, Code::Unreachable);
    }
}
