//! Revisions and the bytes under which changes are stored: etcd's `key` bucket, byte for byte.

/// A change's place in history: `main` counts transactions that changed anything, `sub` the changes within one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// The transaction.
    pub main: i64,
    /// The change within it, from 0.
    pub sub: i64,
}

/// Bytes of a stored revision: 8 of `main`, `_`, 8 of `sub`, big endian.
pub(crate) const REVISION_BYTES: usize = 17;
/// What follows the revision where the change is a deletion.
pub(crate) const TOMBSTONE: u8 = b't';

impl Revision {
    /// The first change of a transaction.
    pub(crate) fn first(main: i64) -> Self {
        Self { main, sub: 0 }
    }

    /// The bytes under which a write is stored; those of a deletion end in [`TOMBSTONE`] besides.
    pub(crate) fn encode(self) -> [u8; REVISION_BYTES] {
        let mut bytes = [b'_'; REVISION_BYTES];
        bytes[..8].copy_from_slice(&self.main.to_be_bytes());
        bytes[9..].copy_from_slice(&self.sub.to_be_bytes());
        bytes
    }

    /// The bytes under which a deletion is stored.
    pub(crate) fn encode_tombstone(self) -> [u8; REVISION_BYTES + 1] {
        let mut bytes = [TOMBSTONE; REVISION_BYTES + 1];
        bytes[..REVISION_BYTES].copy_from_slice(&self.encode());
        bytes
    }

    /// The revision, and whether it is a deletion's; `None` for bytes that are no revision.
    pub(crate) fn decode(bytes: &[u8]) -> Option<(Self, bool)> {
        let (revision, mark) = bytes.split_at_checked(REVISION_BYTES)?;
        let deleted = match mark {
            [] => false,
            [TOMBSTONE] => true,
            _ => return None,
        };
        let main = i64::from_be_bytes(revision[..8].try_into().ok()?);
        let sub = i64::from_be_bytes(revision[9..].try_into().ok()?);
        (revision[8] == b'_').then_some((Self { main, sub }, deleted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        let revision = Revision { main: 258, sub: 3 };
        assert_eq!(Revision::decode(&revision.encode()), Some((revision, false)));
        assert_eq!(Revision::decode(&revision.encode_tombstone()), Some((revision, true)));
        assert_eq!(&revision.encode()[6..10], [1, 2, b'_', 0]);
    }

    #[test]
    fn other_bytes_are_no_revision() {
        for bytes in [&b""[..], b"_", &[0; 17], &[b'_'; 19]] {
            assert_eq!(Revision::decode(bytes), None);
        }
    }
}
