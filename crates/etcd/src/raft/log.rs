//! The raft log and the vote, in one WAL.
//!
//! Everything goes through the WAL's queue, so that votes, entries and truncations reach the disk in the order of the
//! calls; proposals that wait become one write and one sync. All entries behind the last purge are also in memory, from
//! where followers and the state machine are served, as in etcd. A write is answered when its group is synced.
//!
//! The commit index rides along with the entries instead of costing a sync of its own. Layout: `docs/formats/raft-log.md`.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};

use goulette_env::Env;
use goulette_logging::warn;
use goulette_wal::{
    AppendError, Committed, Corruption, Payload, RecoveredEntry, Sink, Wal, WalError, WalOptions, WalPosition,
};
use openraft::{
    OptionalSend,
    entry::RaftEntry,
    storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage},
};
use tokio::sync::{oneshot, watch};

use super::{
    record::{Kind, Record},
    types::{Entry, LogId, TypeConfig, Vote},
};
use crate::consensus::MemberId;

/// Raft entries are small; a segment of this size is recycled every few ten thousand of them.
const SEGMENT_BYTES: u32 = 16 << 20;
/// What one message to a follower carries at most, if it carries more than one entry.
const READ_BYTES_MAX: usize = 1 << 20;
/// How often an append that the WAL had no room for is tried again.
const BUSY_RETRY: Duration = Duration::from_millis(2);
const FULL_RETRY: Duration = Duration::from_millis(250);

/// Why the log could not be opened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The WAL could not be read.
    #[error("cannot read the raft log in {}", dir.display())]
    Recover {
        /// The log's folder.
        dir: PathBuf,
        /// Why not.
        source: goulette_wal::RecoverError,
    },
    /// The WAL could not be opened for appending.
    #[error("cannot open the raft log in {}", dir.display())]
    Open {
        /// The log's folder.
        dir: PathBuf,
        /// Why not.
        source: goulette_wal::OpenError,
    },
    /// Entries or votes that this member acknowledged are gone: it may not take part with what is left.
    #[error(
        "the raft log is damaged at byte {offset} of {}: what this member promised to its cluster is lost. Remove the \
         member from the cluster, delete its data directory, and add it again as a new member",
        file.display()
    )]
    Corrupt {
        /// The damaged file, or the one before.
        file: PathBuf,
        /// Where the sound part ends.
        offset: u32,
    },
    /// The log does not begin where it was last cut.
    #[error("the raft log in {} misses entries behind index {purged}: restore the directory, or replace the member", dir.display())]
    Hole {
        /// The log's folder.
        dir: PathBuf,
        /// The last purged index.
        purged: u64,
    },
}

/// What waits for a WAL entry.
enum Done {
    Nothing,
    /// An append: all below this index is durable then.
    Appended {
        end: u64,
        flushed: IOFlushed<TypeConfig>,
    },
    /// A vote or a truncation.
    Written(oneshot::Sender<Result<(), io::Error>>),
    /// The purge is durable: segments before may go.
    Purged {
        upto: u64,
    },
}

/// An entry's own number, to know which segments are needed, and what waits for it.
struct Tag {
    index: Option<u64>,
    done: Done,
}

/// The log; a handle that may be cloned.
#[derive(Clone)]
pub(crate) struct LogStore {
    shared: Arc<Shared>,
}

struct Shared {
    wal: OnceLock<Wal<Tag>>,
    memory: Mutex<Memory>,
    durable: watch::Sender<Durable>,
}

/// How far the log is on stable storage.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Durable {
    /// The first index that is not.
    pub(crate) end: u64,
    /// The log has failed: the end will not rise any more.
    pub(crate) failed: bool,
}

/// The log as the calls have left it; the disk follows.
#[derive(Default)]
struct Memory {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    /// Without holes, from behind `purged` on.
    entries: VecDeque<Entry>,
    /// The highest index that each WAL segment holds.
    segments: BTreeMap<u64, u64>,
}

impl LogStore {
    /// Reads the log of member `own` in `dir`, or makes an empty one. Blocks on the disk.
    pub(crate) fn open(env: &Env, dir: &Path, own: MemberId) -> Result<Self, LogError> {
        let options = WalOptions { segment_bytes: SEGMENT_BYTES, spare_segments_max: 2, ..WalOptions::default() };
        let mut memory = Memory::default();
        let recovery = Wal::<Tag>::recover(env, dir, options, None, &mut |entry| memory.replay(entry))
            .map_err(|source| LogError::Recover { dir: dir.into(), source })?;
        if let Some(Corruption { file, offset, .. }) = recovery.lost {
            return Err(LogError::Corrupt { file, offset });
        }
        memory.resign(own);
        let purged = memory.purged.map(|id| id.index);
        let first = memory.entries.front().map(|entry| entry.log_id.index);
        if let Some(first) = first
            && first != purged.map_or(0, |purged| purged + 1)
        {
            return Err(LogError::Hole { dir: dir.into(), purged: purged.unwrap_or(0) });
        }
        let durable = watch::Sender::new(Durable { end: memory.end(), failed: false });
        let shared = Arc::new(Shared { wal: OnceLock::new(), memory: Mutex::new(memory), durable });
        let sink = LogSink { shared: Arc::downgrade(&shared) };
        let wal = Wal::open(recovery, Box::new(sink)).map_err(|source| LogError::Open { dir: dir.into(), source })?;
        assert!(shared.wal.set(wal).is_ok(), "the log was made a moment ago");
        Ok(Self { shared })
    }

    /// Whether nothing was ever stored.
    pub(crate) fn is_pristine(&self) -> bool {
        let memory = self.memory();
        memory.vote.is_none() && memory.purged.is_none() && memory.entries.is_empty()
    }

    /// Follows the end of what is durable.
    pub(crate) fn durable(&self) -> watch::Receiver<Durable> {
        self.shared.durable.subscribe()
    }

    /// The first index that is not purged.
    pub(crate) fn start(&self) -> u64 {
        self.memory().purged.map_or(0, |id| id.index + 1)
    }

    /// The WAL's own facts.
    pub(crate) fn stats(&self) -> goulette_wal::WalStats {
        self.shared.wal().stats()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.shared.memory()
    }

    /// Hands records to the WAL, in this order; waits while it has no room.
    async fn write(&self, mut entries: Vec<goulette_wal::Entry<Tag>>) -> Result<(), io::Error> {
        let mut told = false;
        loop {
            let wait = match self.shared.wal().append_all(entries) {
                Ok(()) => return Ok(()),
                Err(AppendError::Busy(back)) => {
                    entries = back;
                    BUSY_RETRY
                }
                Err(AppendError::StorageFull(back)) => {
                    if !std::mem::replace(&mut told, true) {
                        warn!("no space for the raft log: this member answers no writes until there is");
                    }
                    entries = back;
                    FULL_RETRY
                }
                Err(error) => return Err(io::Error::other(error.to_string())),
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Writes one record, and returns when it is durable.
    async fn write_through(&self, record: (Kind, Payload)) -> Result<(), io::Error> {
        let (done, written) = oneshot::channel();
        self.write(vec![wal_entry(record, None, Done::Written(done))]).await?;
        written.await.map_err(|_| io::Error::other("the raft log was closed"))?
    }
}

impl Shared {
    fn wal(&self) -> &Wal<Tag> {
        self.wal.get().expect("set before the handle is given out")
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // Nothing under this lock panics half way through a change.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    /// Ends a leadership that this member held when it stopped. openraft would go on with it in the same term; but what
    /// was committed last is not in the log by then, and a read would be answered without it. A leader that is elected
    /// anew serves nothing before an entry of its own term is committed.
    fn resign(&mut self, own: MemberId) {
        if let Some(vote) = &mut self.vote
            && vote.leader_id.voted_for == own
        {
            vote.committed = false;
        }
    }

    /// The first index that is not in the log.
    fn end(&self) -> u64 {
        self.last().map_or(0, |id| id.index + 1)
    }

    fn last(&self) -> Option<LogId> {
        self.entries.back().map(|entry| entry.log_id).or(self.purged)
    }

    /// The position in `entries` of an index at or above the first one.
    fn at(&self, index: u64) -> usize {
        let first = self.entries.front().map_or(index, |entry| entry.log_id.index);
        index.saturating_sub(first).min(self.entries.len() as u64) as usize
    }

    fn truncate_after(&mut self, last: Option<u64>) {
        let keep = last.map_or(0, |last| last + 1);
        let keep = if self.entries.front().is_some_and(|first| first.log_id.index >= keep) { 0 } else { self.at(keep) };
        self.entries.truncate(keep);
    }

    fn purge(&mut self, upto: LogId) {
        let gone = if self.last().is_none_or(|last| last.index <= upto.index) {
            self.entries.len()
        } else {
            self.at(upto.index + 1)
        };
        self.entries.drain(..gone);
        self.purged = self.purged.max(Some(upto));
    }

    /// Takes in a record of the WAL. The oldest segment may begin long before the last purge, in the middle of anything.
    fn replay(&mut self, entry: RecoveredEntry) -> Result<(), goulette_wal::VisitError> {
        match Record::decode(entry.kind, &entry.payload)? {
            Record::Entry { entry: raft, committed } => {
                let index = raft.log_id.index;
                let expected = self.entries.back().map(|last| last.log_id.index + 1);
                if expected.is_some_and(|expected| expected != index) {
                    return Err(format!("index {index} where {} was to follow", expected.unwrap_or(0)).into());
                }
                self.entries.push_back(raft);
                self.committed = self.committed.max(committed);
                self.note_segment(entry.position, index);
            }
            Record::Vote(vote) => self.vote = Some(vote),
            Record::Truncate { last } => self.truncate_after(last.map(|id| id.index)),
            Record::Purge { upto, vote } => {
                self.purge(upto);
                self.vote = vote.or(self.vote);
                self.committed = self.committed.max(Some(upto));
            }
        }
        Ok(())
    }

    fn note_segment(&mut self, position: WalPosition, index: u64) {
        let highest = self.segments.entry(position.segment).or_insert(index);
        *highest = (*highest).max(index);
    }

    /// The first segment that is still needed when all up to `upto` is purged; none if none of them is.
    fn first_needed(&mut self, upto: u64) -> Option<u64> {
        while let Some(first) = self.segments.first_entry() {
            if *first.get() > upto {
                return Some(*first.key());
            }
            first.remove();
        }
        None
    }
}

/// Hears of synced groups, on the WAL's thread.
struct LogSink {
    shared: Weak<Shared>,
}

impl Sink<Tag> for LogSink {
    fn committed(&mut self, entries: &mut Vec<Committed<Tag>>) {
        let Some(shared) = self.shared.upgrade() else { return };
        {
            let mut memory = shared.memory();
            for entry in entries.iter() {
                if let Some(index) = entry.tag.index {
                    memory.note_segment(entry.position, index);
                }
            }
        }
        for Committed { tag, position, .. } in entries.drain(..) {
            match tag.done {
                Done::Nothing => {}
                Done::Appended { end, flushed } => {
                    // Before openraft knows: whoever it wakes may look here. An entry that was truncated since is not
                    // waited for.
                    shared.durable.send_modify(|durable| durable.end = end);
                    flushed.io_completed(Ok(()));
                }
                Done::Written(done) => {
                    let _ = done.send(Ok(()));
                }
                Done::Purged { upto } => {
                    let first = shared.memory().first_needed(upto);
                    // The record of the purge itself, with the vote, stays.
                    let segment = first.unwrap_or(position.segment).min(position.segment);
                    if let Some(wal) = shared.wal.get() {
                        wal.recycle_before(WalPosition { segment, offset: 0 });
                    }
                }
            }
        }
    }

    fn failed(&mut self, tags: Vec<Tag>, error: &WalError) {
        if let Some(shared) = self.shared.upgrade() {
            shared.durable.send_modify(|durable| durable.failed = true);
        }
        let failure = || Err(io::Error::other(error.to_string()));
        for tag in tags {
            match tag.done {
                Done::Nothing | Done::Purged { .. } => {}
                Done::Appended { flushed, .. } => flushed.io_completed(failure()),
                Done::Written(done) => {
                    let _ = done.send(failure());
                }
            }
        }
    }
}

fn wal_entry(record: (Kind, Payload), index: Option<u64>, done: Done) -> goulette_wal::Entry<Tag> {
    let (kind, payload) = record;
    goulette_wal::Entry { kind: kind as u8, payload, tag: Tag { index, done } }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let memory = self.memory();
        let (from, to) = (memory.at(start), memory.at(end));
        Ok(memory.entries.range(from..to.max(from)).cloned().collect())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.memory().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let memory = self.memory();
        let (from, to) = (memory.at(start), memory.at(end));
        let mut bytes = 0;
        let entries = memory.entries.range(from..to.max(from)).take_while(|entry| {
            let before = bytes;
            bytes += super::record::payload_bytes(entry);
            before == 0 || bytes <= READ_BYTES_MAX
        });
        Ok(entries.cloned().collect())
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let memory = self.memory();
        Ok(LogState { last_purged_log_id: memory.purged, last_log_id: memory.last() })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.write_through(Record::encode_vote(vote)).await?;
        self.memory().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        // It goes to the disk with the next entry.
        self.memory().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        let memory = self.memory();
        // What was cut off with a torn tail was not durable here when it was called committed.
        Ok(memory.committed.min(memory.last()))
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut records = Vec::new();
        let end = {
            let mut memory = self.memory();
            for entry in entries {
                let record = Record::encode_entry(&entry, memory.committed);
                records.push(wal_entry(record, Some(entry.index()), Done::Nothing));
                memory.entries.push_back(entry);
            }
            memory.end()
        };
        match records.last_mut() {
            Some(last) => last.tag.done = Done::Appended { end, flushed },
            None => {
                flushed.io_completed(Ok(()));
                return Ok(());
            }
        }
        self.write(records).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        self.memory().truncate_after(last.map(|id| id.index));
        self.write_through(Record::encode_truncate(last)).await?;
        // All appends from before have been answered by now: none of them raises it again.
        let end = last.map_or(0, |last| last.index + 1);
        self.shared.durable.send_modify(|durable| durable.end = durable.end.min(end));
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let record = {
            let mut memory = self.memory();
            memory.purge(upto);
            Record::encode_purge(&upto, memory.vote)
        };
        // What a snapshot replaced is durable in the state machine.
        self.shared.durable.send_modify(|durable| durable.end = durable.end.max(upto.index + 1));
        self.write(vec![wal_entry(record, None, Done::Purged { upto: upto.index })]).await
    }
}
