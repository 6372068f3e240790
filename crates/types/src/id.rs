//! Random 128-bit ids, written as 32 lower-case hexadecimal digits, and what is composed of them.

use std::{fmt, str::FromStr};

use crate::PartitionIndex;

/// Why a text is not an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id is 32 hexadecimal digits, not {text:?}")]
pub struct ParseIdError {
    text: String,
}

macro_rules! id_128 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u128);

        impl $name {
            /// The id's 16 bytes, most significant first: its form on disk and on the wire.
            pub fn to_bytes(self) -> [u8; 16] {
                self.0.to_be_bytes()
            }

            /// The inverse of [`to_bytes`](Self::to_bytes).
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(u128::from_be_bytes(bytes))
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = ParseIdError;

            /// Takes exactly 16 bytes.
            fn try_from(bytes: &[u8]) -> Result<Self, ParseIdError> {
                let bytes = <[u8; 16]>::try_from(bytes)
                    .map_err(|_| ParseIdError { text: format!("{} bytes", bytes.len()) })?;
                Ok(Self::from_bytes(bytes))
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let digits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
                match u128::from_str_radix(text, 16) {
                    Ok(value) if digits => Ok(Self(value)),
                    _ => Err(ParseIdError { text: text.chars().take(64).collect() }),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(out, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, out)
            }
        }
    };
}

id_128!(
    /// A topic's identity: never reused, not even by a topic of the same name.
    TopicId
);
id_128!(
    /// A cluster's identity, made by its first sentinel; brokers refuse any other.
    ClusterId
);
id_128!(
    /// A data directory's identity: renewed when the directory is new, or when recovery lost what may have been durable.
    StorageId
);
id_128!(
    /// One start of a broker process: fences its predecessors.
    Incarnation
);

/// An idempotent producer, numbered by the sentinels; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerId(pub u64);

/// One partition of one topic, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId {
    /// The topic.
    pub topic: TopicId,
    /// The partition's place in the topic, from 0.
    pub index: PartitionIndex,
}

impl fmt::Display for PartitionId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.topic, self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_what_it_prints() {
        let id = TopicId(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
        assert_eq!(id.to_string(), "0123456789abcdef0011223344556677");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(TopicId::try_from(&id.to_bytes()[..]), Ok(id));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "12", "+123456789abcdef0011223344556677", "0123456789abcdef00112233445566zz"] {
            assert!(text.parse::<TopicId>().is_err(), "{text:?}");
        }
        assert!(TopicId::try_from(&[1u8, 2][..]).is_err());
    }
}
