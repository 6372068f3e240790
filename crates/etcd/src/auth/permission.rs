//! Permissions on ranges of keys, as they are granted.

/// What a permission lets one do with its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    ReadWrite,
}

impl Access {
    pub(crate) fn reads(self) -> bool {
        self != Self::Write
    }

    pub(crate) fn writes(self) -> bool {
        self != Self::Read
    }
}

/// One permission of a role, as it was granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Permission {
    pub(crate) access: Access,
    pub(crate) key: Vec<u8>,
    /// Empty: `key` alone. One zero byte: `key` and all above it.
    pub(crate) range_end: Vec<u8>,
}

impl Permission {
    /// Whether key and end name a range at all; etcd refuses to grant others.
    pub(crate) fn is_range(&self) -> bool {
        !self.key.is_empty() && (self.range_end.is_empty() || self.key < self.range_end || is_open(&self.range_end))
    }
}

fn is_open(range_end: &[u8]) -> bool {
    range_end == [0]
}
