//! Names that people choose. They become file names and metadata keys, so their alphabet is narrow.

use std::{fmt, str::FromStr, sync::Arc};

/// Why a name is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("{what} is empty: use 1 to {length_max} of A-Z a-z 0-9 . _ -")]
    Empty {
        /// What was to be named.
        what: &'static str,
        /// Bytes allowed.
        length_max: usize,
    },
    /// Too long.
    #[error("{what} has {length} bytes: at most {length_max} are allowed")]
    Long {
        /// What was to be named.
        what: &'static str,
        /// Bytes given.
        length: usize,
        /// Bytes allowed.
        length_max: usize,
    },
    /// A byte outside of the alphabet, or a name of dots alone.
    #[error("{what} {name:?} is not allowed: use 1 to {length_max} of A-Z a-z 0-9 . _ - (not . or ..)")]
    Alphabet {
        /// What was to be named.
        what: &'static str,
        /// The name given, cut to 64 characters.
        name: String,
        /// Bytes allowed.
        length_max: usize,
    },
}

fn check(what: &'static str, name: &str, length_max: usize) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty { what, length_max });
    }
    if name.len() > length_max {
        return Err(NameError::Long { what, length: name.len(), length_max });
    }
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if !name.bytes().all(legal) || name == "." || name == ".." {
        return Err(NameError::Alphabet { what, name: name.chars().take(64).collect(), length_max });
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $length_max:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Bytes that such a name may have.
            pub const LENGTH_MAX: usize = $length_max;

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(name: &str) -> Result<Self, NameError> {
                check($what, name, $length_max)?;
                Ok(Self(name.into()))
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;

            fn try_from(name: String) -> Result<Self, NameError> {
                name.parse()
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, out)
            }
        }
    };
}

name!(
    /// A topic's name: 1 to 249 bytes of `A-Z a-z 0-9 . _ -`, as in Kafka.
    TopicName, "topic name", 249
);
name!(
    /// A broker's id: 1 to 64 bytes of `A-Z a-z 0-9 . _ -`; it becomes a file name.
    BrokerId, "broker id", 64
);
name!(
    /// A sentinel's id: 1 to 64 bytes of `A-Z a-z 0-9 . _ -`; it becomes a file name.
    SentinelId, "sentinel id", 64
);
name!(
    /// A consumer group's name: 1 to 249 bytes of `A-Z a-z 0-9 . _ -`.
    GroupName, "group name", 249
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_to_their_alphabet() {
        for good in ["a", "A.b_c-9", "...", &"x".repeat(249)] {
            assert!(good.parse::<TopicName>().is_ok(), "{good:?}");
        }
        for bad in ["", ".", "..", "../x", "a b", "a/b", "ä", "a\0", &"x".repeat(250)] {
            assert!(bad.parse::<TopicName>().is_err(), "{bad:?}");
        }
        assert!("x".repeat(65).parse::<BrokerId>().is_err());
    }
}
