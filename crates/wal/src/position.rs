//! A place in the log.

/// A place in the log: what was appended later stands higher.
///
/// The end of a group's last entry is where the next group begins. So a position that the log gave is always one
/// where an entry stands or will stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalPosition {
    /// The segment's number, from 1.
    pub segment: u64,
    /// Bytes from the segment file's start.
    pub offset: u32,
}

impl std::fmt::Display for WalPosition {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}:{}", self.segment, self.offset)
    }
}
