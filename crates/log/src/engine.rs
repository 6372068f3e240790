//! What all partitions of a log share: the WAL, the budgets, the queues of the background threads, and the one way to
//! stop for good.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, RwLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{self, Receiver},
    },
    time::Duration,
};

use goulette_env::{Disk, Env, FileSystem, OpenMode};
use goulette_types::{BrokerId, PartitionId, Timestamp, TopicId, TopicName};
use goulette_wal::{AppendError as WalRefusal, Entry, Payload, SyncPolicy, Wal, WalPosition};

use crate::{
    applier::{ChangeDone, Tag},
    checkpoint::DeletedTopic,
    checkpoint_file::CheckpointFile,
    clock_watch::ClockWatch,
    direct::DirectQueue,
    entry::Kind,
    error::{AppendError, ChangeError, Poisoned},
    flusher::FlushQueue,
    fragment_pool::{self, FragmentPool},
    handles::Handles,
    lock,
    options::LogOptions,
    partition::Partition,
    quarantine::Quarantine,
    retention::RetentionListener,
    scrub::Scrub,
    space::{self, Space},
    tail_cache::TailCache,
    trigger::Trigger,
};

/// How long a change waits for the WAL.
pub(crate) const CHANGE_DEADLINE: Duration = Duration::from_secs(30);

/// Called once, when the engine is poisoned, with the reason.
pub type PoisonListener = Box<dyn Fn(&str) + Send + Sync>;

pub(crate) struct Engine {
    pub(crate) env: Env,
    pub(crate) options: LogOptions,
    /// To sync many files at once; none where that cannot be trusted.
    pub(crate) file_system: Option<Box<dyn FileSystem>>,
    pub(crate) dir: PathBuf,
    pub(crate) tail_cache: TailCache,
    pub(crate) flush_queue: FlushQueue,
    pub(crate) direct: DirectQueue,
    pub(crate) fragment_pool: FragmentPool,
    /// Bytes of removed fragments that wait for a checkpoint.
    removed_bytes: AtomicU64,
    /// What fragments keep open.
    pub(crate) handles: Arc<Handles>,
    pub(crate) checkpoint_trigger: Arc<Trigger>,
    /// Pulled only to stop.
    pub(crate) retention_trigger: Trigger,
    pub(crate) quarantine: Quarantine,
    pub(crate) space: Space,
    /// Pulled only to stop.
    pub(crate) space_trigger: Trigger,
    pub(crate) scrub: Scrub,
    /// Pulled to stop, and when the scrub may go on.
    pub(crate) scrub_trigger: Trigger,
    pub(crate) retention_listener: Mutex<Option<RetentionListener>>,
    /// Held while retention looks at the partitions.
    pub(crate) clock_watch: Mutex<ClockWatch>,
    /// Held while a checkpoint is taken: there is one at a time.
    pub(crate) checkpointing: Mutex<CheckpointFile>,
    /// Topics that are gone, but whose files a checkpoint has yet to remove.
    pub(crate) deleted: Mutex<Vec<DeletedTopic>>,
    /// None before the log is recovered and after it is closed.
    wal: RwLock<Option<Wal<Tag>>>,
    partitions: RwLock<HashMap<PartitionId, Arc<Partition>>>,
    /// Bytes of batches that were accepted and are not in their fragment yet.
    unflushed: AtomicUsize,
    /// The WAL's id, once there is one.
    wal_log: Mutex<Option<u128>>,
    /// Where the WAL ended when its entries were last applied to the partitions.
    applied: Mutex<Option<WalPosition>>,
    /// From where a recovery would replay the WAL now.
    checkpointed: Mutex<Option<WalPosition>>,
    /// Bytes in the WAL that a recovery would replay.
    replay_bytes: AtomicU64,
    poisoned: OnceLock<Arc<str>>,
    poison_listeners: Mutex<Vec<PoisonListener>>,
}

impl Engine {
    pub(crate) fn new(env: Env, dir: &Path, broker: Option<BrokerId>, options: LogOptions) -> Self {
        let checkpoint_trigger = Arc::<Trigger>::default();
        Self {
            file_system: env.disk.file_system(dir).ok(),
            tail_cache: TailCache::new(options.tail_cache_bytes),
            flush_queue: FlushQueue::default(),
            direct: DirectQueue::default(),
            fragment_pool: FragmentPool::new(dir.join(fragment_pool::FOLDER), options.recycled_bytes_max),
            removed_bytes: AtomicU64::new(0),
            handles: Arc::new(Handles::new(options.fragment_handles_max, checkpoint_trigger.clone())),
            checkpoint_trigger,
            retention_trigger: Trigger::default(),
            space: Space::new(&*env.disk, dir.join(space::FILE), broker, &options),
            space_trigger: Trigger::default(),
            scrub: Scrub::default(),
            scrub_trigger: Trigger::default(),
            quarantine: Quarantine::default(),
            retention_listener: Mutex::default(),
            clock_watch: Mutex::new(ClockWatch::open(&env, dir)),
            checkpointing: Mutex::default(),
            deleted: Mutex::default(),
            wal: RwLock::new(None),
            partitions: RwLock::default(),
            unflushed: AtomicUsize::new(0),
            wal_log: Mutex::default(),
            applied: Mutex::default(),
            checkpointed: Mutex::default(),
            replay_bytes: AtomicU64::new(0),
            poisoned: OnceLock::new(),
            poison_listeners: Mutex::default(),
            dir: dir.to_owned(),
            env,
            options,
        }
    }

    // Folders.

    pub(crate) fn topics_dir(&self) -> PathBuf {
        self.dir.join("topics")
    }

    pub(crate) fn topic_dir(&self, id: TopicId, name: &TopicName) -> PathBuf {
        self.topics_dir().join(format!("{name}.{id}"))
    }

    pub(crate) fn wal_dir(&self) -> PathBuf {
        self.dir.join("wal")
    }

    pub(crate) fn wall(&self) -> Timestamp {
        Timestamp(self.env.clock.wall_ms())
    }

    /// What a checkpoint notes about acknowledgements that do not wait for a sync: the machine's boot, if there are any.
    pub(crate) fn relaxed(&self) -> Option<String> {
        (self.options.wal.sync != SyncPolicy::Always).then(|| boot_id(&*self.env.disk))
    }

    // Partitions.

    pub(crate) fn partition(&self, id: PartitionId) -> Option<Arc<Partition>> {
        self.partitions.read().expect(LOCKS).get(&id).cloned()
    }

    pub(crate) fn partitions(&self) -> Vec<Arc<Partition>> {
        let mut all: Vec<_> = self.partitions.read().expect(LOCKS).values().cloned().collect();
        all.sort_unstable_by_key(|partition| partition.id());
        all
    }

    /// Adds a partition unless it is there.
    pub(crate) fn add(&self, partition: Arc<Partition>) {
        self.partitions.write().expect(LOCKS).entry(partition.id()).or_insert(partition);
    }

    /// Takes a topic's partitions out and notes that its files may go. Returns the partitions, marked as deleted.
    pub(crate) fn remove_topic(&self, topic: DeletedTopic) -> Vec<Arc<Partition>> {
        let mut removed = Vec::new();
        self.partitions.write().expect(LOCKS).retain(|id, partition| {
            let keep = id.topic != topic.id;
            if !keep {
                removed.push(partition.clone());
            }
            keep
        });
        for partition in &removed {
            partition.mark_deleted();
        }
        self.quarantine.forget_topic(topic.id);
        let mut deleted = lock(&self.deleted);
        if !deleted.iter().any(|known| known.id == topic.id) {
            deleted.push(topic);
        }
        removed
    }

    // The WAL.

    /// Knows from now on which WAL the checkpoints' positions are of.
    pub(crate) fn set_wal_log(&self, log: u128) {
        *lock(&self.wal_log) = Some(log);
    }

    pub(crate) fn set_wal(&self, wal: Option<Wal<Tag>>) -> Option<Wal<Tag>> {
        std::mem::replace(&mut self.wal.write().expect(LOCKS), wal)
    }

    /// Hands an entry to the WAL. Never blocks on the disk.
    #[allow(clippy::result_large_err, reason = "the entry comes back without an allocation, as from the WAL")]
    pub(crate) fn append_to_wal(&self, entry: Entry<Tag>) -> Result<(), WalRefusal<Entry<Tag>>> {
        match &*self.wal.read().expect(LOCKS) {
            Some(wal) if entry.kind == Kind::Append as u8 => wal.append(entry),
            // Small, and more likely than not what makes room again.
            Some(wal) => wal.append_at_last(entry),
            None => Err(WalRefusal::Closed(entry)),
        }
    }

    /// Hands a change to the WAL. Never blocks on the disk; [`wait_for`](Self::wait_for) the outcome.
    pub(crate) fn order(
        &self,
        kind: Kind,
        payload: Payload,
        tag: impl FnOnce(ChangeDone) -> Tag,
    ) -> Result<Receiver<Result<(), Arc<str>>>, ChangeError> {
        let (answer, outcome) = mpsc::sync_channel(1);
        let done: ChangeDone = Box::new(move |result| {
            // Nobody may be waiting any more.
            let _ = answer.send(result);
        });
        match self.append_to_wal(Entry { kind: kind as u8, payload, tag: tag(done) }) {
            Ok(()) => Ok(outcome),
            Err(WalRefusal::Busy(_) | WalRefusal::StorageFull(_)) => Err(ChangeError::Busy),
            Err(WalRefusal::TooLarge(_)) => unreachable!("names are short"),
            Err(WalRefusal::Poisoned(_) | WalRefusal::Closed(_)) => {
                Err(ChangeError::Closed { reason: self.why_closed() })
            }
        }
    }

    /// Waits until a change is durable, and has taken effect.
    pub(crate) fn wait_for(&self, outcome: &Receiver<Result<(), Arc<str>>>) -> Result<(), ChangeError> {
        match outcome.recv_timeout(CHANGE_DEADLINE) {
            Ok(result) => result.map_err(|reason| ChangeError::OutcomeUnknown { reason }),
            Err(_) => Err(ChangeError::OutcomeUnknown { reason: "the disk did not answer in time".into() }),
        }
    }

    pub(crate) fn with_wal<R>(&self, act: impl FnOnce(&Wal<Tag>) -> R) -> Option<R> {
        self.wal.read().expect(LOCKS).as_ref().map(act)
    }

    /// The WAL's id; none while the log is recovered.
    pub(crate) fn wal_log(&self) -> Option<u128> {
        *lock(&self.wal_log)
    }

    pub(crate) fn applied(&self) -> Option<WalPosition> {
        *lock(&self.applied)
    }

    /// All entries before `position` are part of the partitions' state now; the last ones had so many bytes.
    pub(crate) fn set_applied(&self, position: WalPosition, bytes: u64) {
        *lock(&self.applied) = Some(position);
        let replay_bytes = self.replay_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        // Once: while a checkpoint is taken it need not be asked for.
        if replay_bytes >= self.options.checkpoint_bytes && replay_bytes - bytes < self.options.checkpoint_bytes {
            self.checkpoint_trigger.pull();
        }
    }

    pub(crate) fn checkpointed(&self) -> Option<WalPosition> {
        *lock(&self.checkpointed)
    }

    /// A checkpoint for this position is durable.
    pub(crate) fn set_checkpointed(&self, position: Option<WalPosition>) {
        *lock(&self.checkpointed) = position;
    }

    pub(crate) fn replay_bytes(&self) -> u64 {
        self.replay_bytes.load(Ordering::Relaxed)
    }

    /// A checkpoint has made so many bytes needless.
    pub(crate) fn spare_replay(&self, bytes: u64) {
        let left = self.replay_bytes.fetch_sub(bytes, Ordering::Relaxed) - bytes;
        if left >= self.options.checkpoint_bytes {
            self.checkpoint_trigger.pull();
        }
    }

    /// So many bytes of fragments are not needed any more, once a checkpoint says so.
    pub(crate) fn note_removed(&self, bytes: u64) {
        let waiting = self.removed_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if waiting >= self.options.removed_bytes_max {
            self.removed_bytes.store(0, Ordering::Relaxed);
            self.checkpoint_trigger.pull();
        }
    }

    // The budget between append and fragment.

    /// Takes room for a batch, in memory and on the disk. Busy if the flusher or the checkpoint must catch up first; to the
    /// memory a batch alone always fits.
    pub(crate) fn reserve(&self, bytes: usize) -> Result<(), AppendError> {
        let before = self.unflushed.fetch_add(bytes, Ordering::Relaxed);
        self.reserve_space(bytes).inspect_err(|_| self.give_back(bytes))?;
        let memory = before == 0 || before + bytes <= self.options.unflushed_bytes_max;
        let wal = self.replay_bytes() < self.options.wal_bytes_max;
        if !memory || !wal {
            self.take_back(bytes);
            if !memory {
                self.flush_queue.hurry(self.env.clock.now());
            }
            return Err(AppendError::Busy);
        }
        Ok(())
    }

    /// A batch for which there was room was not taken after all.
    pub(crate) fn take_back(&self, bytes: usize) {
        self.give_back(bytes);
        self.return_space(bytes);
    }

    /// As [`reserve`](Self::reserve), for what cannot be refused.
    pub(crate) fn charge(&self, bytes: usize) {
        self.unflushed.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn give_back(&self, bytes: usize) {
        self.unflushed.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn unflushed(&self) -> usize {
        self.unflushed.load(Ordering::Relaxed)
    }

    // The end of it all.

    /// Stops the engine for good: something failed of which nobody knows what it left behind. No checkpoint is taken
    /// and nothing is recycled from now on; only a new start may read what was stored.
    pub(crate) fn poison(&self, reason: impl Into<Arc<str>>) {
        let reason = reason.into();
        if self.poisoned.set(reason.clone()).is_err() {
            return;
        }
        if let Some(wal) = &*self.wal.read().expect(LOCKS) {
            wal.poison(&reason);
        }
        for partition in self.partitions() {
            partition.fail_waiters(&reason);
        }
        self.checkpoint_trigger.pull();
        self.retention_trigger.pull();
        self.flush_queue.hurry(self.env.clock.now());
        for listener in &*lock(&self.poison_listeners) {
            listener(&reason);
        }
    }

    pub(crate) fn poisoned(&self) -> Option<Arc<str>> {
        self.poisoned.get().cloned()
    }

    /// Why the WAL takes nothing. It may know of its poison a moment before the engine does.
    pub(crate) fn why_closed(&self) -> Arc<str> {
        let poisoned = self.poisoned().or_else(|| self.with_wal(Wal::poisoned).flatten());
        poisoned.unwrap_or_else(|| "it was closed".into())
    }

    pub(crate) fn check_poison(&self) -> Result<(), Poisoned> {
        match self.poisoned.get() {
            Some(reason) => Err(Poisoned { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    pub(crate) fn on_poison(&self, listener: PoisonListener) {
        let mut listeners = lock(&self.poison_listeners);
        match self.poisoned.get() {
            Some(reason) => listener(reason),
            None => listeners.push(listener),
        }
    }

    /// Breaks the circle of a closed log, so that its memory is given back.
    pub(crate) fn forget_partitions(&self) {
        self.partitions.write().expect(LOCKS).clear();
    }
}

const LOCKS: &str = "nobody panics while holding a lock";

/// Names the time since the machine was started: as long as it stays the same, the page cache has lost nothing. Empty
/// where the system does not tell.
pub(crate) fn boot_id(disk: &dyn Disk) -> String {
    let mut bytes = [0; 64];
    let read = disk
        .open(Path::new("/proc/sys/kernel/random/boot_id"), OpenMode::Read)
        .and_then(|file| file.read_at(&mut bytes, 0))
        .unwrap_or(0);
    String::from_utf8_lossy(&bytes[..read]).trim().to_owned()
}
