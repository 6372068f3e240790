//! Which leader epoch wrote which offsets: what two logs compare to find where they part.

use goulette_types::{LeaderEpoch, Offset};

use crate::state::LogEnd;

/// One epoch and the first offset that it wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// The first offset written in it; it ends where the next one starts.
    pub start: Offset,
}

/// The epochs of a log that wrote anything, oldest first; both fields rise strictly from entry to entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Epochs(Vec<EpochStart>);

impl Epochs {
    /// Takes a log's entries; `None` if they do not rise.
    pub fn new(entries: Vec<EpochStart>) -> Option<Self> {
        let rises = entries.windows(2).all(|two| two[0].epoch < two[1].epoch && two[0].start < two[1].start);
        rises.then_some(Self(entries))
    }

    /// The entries, oldest first.
    pub fn entries(&self) -> &[EpochStart] {
        &self.0
    }

    /// The last epoch that wrote anything; 0 if none did.
    pub fn last(&self) -> LeaderEpoch {
        self.0.last().map_or(LeaderEpoch(0), |last| last.epoch)
    }

    /// Notes a batch at `base`; false if its epoch is older than the last one, or starts where another one does.
    pub fn note(&mut self, epoch: LeaderEpoch, base: Offset) -> bool {
        match self.0.last() {
            Some(last) if last.epoch == epoch => true,
            Some(last) if last.epoch > epoch || last.start >= base => false,
            _ => {
                self.0.push(EpochStart { epoch, start: base });
                true
            }
        }
    }

    /// Forgets what lies at or behind `end`.
    pub fn truncate(&mut self, end: Offset) {
        let kept = self.0.partition_point(|entry| entry.start < end);
        self.0.truncate(kept);
    }

    /// Forgets the epochs of which nothing is kept in a log that starts at `start`.
    pub fn trim(&mut self, start: Offset) {
        let behind = self.0.partition_point(|entry| entry.start <= start);
        self.0.drain(..behind.saturating_sub(1));
    }

    /// The highest epoch at or below `asked`, and where it ends in a log that ends at `end` (KIP-101, KIP-279).
    pub fn end_of(&self, asked: LeaderEpoch, end: Offset) -> Option<LogEnd> {
        let behind = self.0.partition_point(|entry| entry.epoch <= asked);
        let found = self.0[..behind].last()?;
        let end = self.0.get(behind).map_or(end, |next| next.start);
        Some(LogEnd { epoch: found.epoch, end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs(entries: &[(u32, u64)]) -> Epochs {
        let entry = |&(epoch, start)| EpochStart { epoch: LeaderEpoch(epoch), start: Offset(start) };
        Epochs::new(entries.iter().map(entry).collect()).unwrap()
    }

    #[test]
    fn an_epoch_ends_where_the_next_one_starts() {
        let epochs = epochs(&[(1, 0), (3, 5), (4, 10)]);
        let end_of = |asked| epochs.end_of(LeaderEpoch(asked), Offset(12)).map(|found| (found.epoch.0, found.end.0));
        assert_eq!(end_of(0), None);
        assert_eq!(end_of(1), Some((1, 5)));
        assert_eq!(end_of(2), Some((1, 5)));
        assert_eq!(end_of(3), Some((3, 10)));
        assert_eq!(end_of(9), Some((4, 12)));
    }

    #[test]
    fn what_is_cut_off_leaves_no_epoch_behind() {
        let mut epochs = epochs(&[(1, 0), (3, 5), (4, 10)]);
        epochs.truncate(Offset(10));
        assert_eq!(epochs.last(), LeaderEpoch(3));
        epochs.truncate(Offset(5));
        assert_eq!(epochs.last(), LeaderEpoch(1));
        epochs.truncate(Offset(0));
        assert_eq!(epochs, Epochs::default());
    }

    #[test]
    fn an_older_epoch_is_never_noted() {
        let mut epochs = epochs(&[(3, 5)]);
        assert!(!epochs.note(LeaderEpoch(2), Offset(9)));
        assert!(!epochs.note(LeaderEpoch(4), Offset(5)));
        assert!(epochs.note(LeaderEpoch(3), Offset(9)) && epochs.note(LeaderEpoch(4), Offset(10)));
    }
}
