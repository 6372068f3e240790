//! Which leader epoch wrote which offsets.

use goulette_types::{LeaderEpoch, Offset};

/// One epoch and the first offset that it wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// The first offset written in it; it ends where the next one starts.
    pub start: Offset,
}

/// The epochs of a partition that wrote anything, oldest first; both fields rise strictly from entry to entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Epochs(Vec<EpochStart>);

impl Epochs {
    /// Takes stored entries; none if they do not rise.
    pub(crate) fn from_entries(entries: Vec<EpochStart>) -> Option<Self> {
        let rises = entries.windows(2).all(|two| two[0].epoch < two[1].epoch && two[0].start < two[1].start);
        rises.then_some(Self(entries))
    }

    pub(crate) fn entries(&self) -> &[EpochStart] {
        &self.0
    }

    /// Notes that a batch at `base` was written in `epoch`, which is not older than the last one.
    pub(crate) fn note(&mut self, epoch: LeaderEpoch, base: Offset) {
        match self.0.last() {
            Some(last) if last.epoch == epoch => {}
            last => {
                debug_assert!(last.is_none_or(|last| last.epoch < epoch && last.start < base), "epochs rise");
                self.0.push(EpochStart { epoch, start: base });
            }
        }
    }

    /// Forgets the epochs of which nothing is kept in a log that starts at `start`.
    pub(crate) fn trim(&mut self, start: Offset) {
        let behind = self.0.partition_point(|entry| entry.start <= start);
        self.0.drain(..behind.saturating_sub(1));
    }

    /// The last epoch that wrote anything.
    pub(crate) fn last(&self) -> Option<LeaderEpoch> {
        self.0.last().map(|last| last.epoch)
    }

    /// The epoch that wrote `offset`.
    pub(crate) fn at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let behind = self.0.partition_point(|entry| entry.start <= offset);
        behind.checked_sub(1).map(|index| self.0[index].epoch)
    }

    /// The entries of a log that ends at `end`.
    pub(crate) fn before(&self, end: Offset) -> Vec<EpochStart> {
        self.0.iter().copied().take_while(|entry| entry.start < end).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs(entries: &[(u32, u64)]) -> Epochs {
        let mut epochs = Epochs::default();
        for &(epoch, start) in entries {
            epochs.note(LeaderEpoch(epoch), Offset(start));
        }
        epochs
    }

    #[test]
    fn an_offset_belongs_to_the_last_epoch_that_starts_at_or_before_it() {
        let epochs = epochs(&[(1, 0), (1, 5), (4, 10)]);
        let at = |offset| epochs.at(Offset(offset)).map(|epoch| epoch.0);
        assert_eq!([at(0), at(9), at(10), at(99)], [Some(1), Some(1), Some(4), Some(4)]);
        assert_eq!(epochs.entries().len(), 2);
        assert_eq!(epochs.before(Offset(10)).len(), 1);
        assert_eq!(Epochs::default().at(Offset(0)), None);
    }

    #[test]
    fn epochs_of_which_nothing_is_kept_are_forgotten() {
        let mut epochs = epochs(&[(1, 0), (3, 5), (4, 10)]);
        epochs.trim(Offset(4));
        assert_eq!(epochs.entries().len(), 3);
        epochs.trim(Offset(5));
        assert_eq!((epochs.entries().len(), epochs.at(Offset(5))), (2, Some(LeaderEpoch(3))));
        epochs.trim(Offset(99));
        assert_eq!(epochs.last(), Some(LeaderEpoch(4)));
    }

    #[test]
    fn entries_that_do_not_rise_are_refused() {
        let entry = |epoch, start| EpochStart { epoch: LeaderEpoch(epoch), start: Offset(start) };
        assert!(Epochs::from_entries(vec![entry(1, 0), entry(2, 7)]).is_some());
        assert!(Epochs::from_entries(vec![entry(2, 0), entry(2, 7)]).is_none());
        assert!(Epochs::from_entries(vec![entry(1, 7), entry(2, 7)]).is_none());
    }
}
