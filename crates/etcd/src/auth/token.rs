//! Simple tokens: what one member remembers of who logged in. They reach every member through the log, live as long as
//! they are used, and are gone with the process: a client whose token is refused logs in again.

use std::{collections::HashMap, time::Duration};

/// Tokens of the users who logged in; all are forgotten when authentication is turned off.
#[derive(Debug)]
pub(crate) struct Tokens {
    ttl: Duration,
    tokens: HashMap<String, Login>,
    /// When expired tokens were last looked for.
    swept: Duration,
}

#[derive(Debug)]
struct Login {
    user: String,
    expires: Duration,
}

/// Expired tokens are looked for this often.
const SWEEP: Duration = Duration::from_secs(1);

impl Tokens {
    pub(crate) fn new(ttl: Duration) -> Self {
        Self { ttl, tokens: HashMap::new(), swept: Duration::ZERO }
    }

    /// Remembers a login. A token is its random part and the index of the log entry that made it, `prefix.index`.
    pub(crate) fn add(&mut self, now: Duration, token: String, user: &str) {
        self.sweep(now);
        self.tokens.insert(token, Login { user: user.to_owned(), expires: now + self.ttl });
    }

    /// Who logged in with the token, which thereby lives on.
    pub(crate) fn user(&mut self, now: Duration, token: &str) -> Option<String> {
        let login = self.tokens.get_mut(token).filter(|login| now < login.expires)?;
        login.expires = now + self.ttl;
        Some(login.user.clone())
    }

    /// Ends all logins of a user.
    pub(crate) fn forget(&mut self, user: &str) {
        self.tokens.retain(|_, login| login.user != user);
    }

    /// Ends all logins.
    pub(crate) fn clear(&mut self) {
        self.tokens.clear();
    }

    fn sweep(&mut self, now: Duration) {
        if now >= self.swept + SWEEP {
            self.swept = now;
            self.tokens.retain(|_, login| now < login.expires);
        }
    }
}

/// The index of the log entry that made a token, which a member must have applied before it can know the token.
pub(crate) fn index_of(token: &str) -> Option<u64> {
    let (prefix, index) = token.split_once('.')?;
    (!prefix.is_empty()).then(|| index.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_token_lives_as_long_as_it_is_used() {
        let mut tokens = Tokens::new(3 * SECOND);
        tokens.add(SECOND, "x.7".to_owned(), "ann");
        assert_eq!(tokens.user(3 * SECOND, "x.7").as_deref(), Some("ann"));
        assert_eq!(tokens.user(5 * SECOND, "x.7").as_deref(), Some("ann"));
        assert_eq!(tokens.user(8 * SECOND, "x.7"), None);
        tokens.add(9 * SECOND, "y.8".to_owned(), "bob");
        assert_eq!(tokens.tokens.len(), 1, "expired tokens are swept");
    }

    #[test]
    fn a_token_names_its_log_entry() {
        assert_eq!(index_of("abc.17"), Some(17));
        for wrong in ["", "abc", ".17", "abc.", "abc.x", "a.b.c", "abc.-1"] {
            assert_eq!(index_of(wrong), None, "{wrong}");
        }
    }
}
