//! The handle: a directory in, partitions out.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use goulette_env::{DiskLock, Env};
use goulette_types::{ClusterId, Offset, PartitionId, StorageId, TopicId, TopicName};
use goulette_wal::{Payload, Wal};

use crate::{
    applier::{Applier, ChangeDone, Tag},
    checkpoint::DeletedTopic,
    checkpointer::{self, Occasion},
    direct,
    engine::{Engine, PoisonListener},
    entry::{Head, Kind},
    error::{ChangeError, FlushError, OpenError, Poisoned},
    flusher, fragment_pool,
    identity::{self, Identity, OtherCluster},
    lock,
    options::LogOptions,
    partition::Partition,
    quarantine::{QuarantineListener, QuarantinedRange},
    recovery::{self, RecoveryReport},
    retention::{self, RetentionEvent, RetentionListener},
    scrub::{self, ScrubStats},
    space::{self, SpaceListener, SpaceStats},
    tidy,
};

/// The partitions of one data directory. Share it in an `Arc`; all calls may come from any thread.
///
/// Dropping it without [`close`](Self::close) is safe, as any end is: the next opening replays the WAL.
pub struct Log {
    engine: Arc<Engine>,
    identity: Mutex<Option<Identity>>,
    lock: Mutex<Option<Box<dyn DiskLock>>>,
    stopping: Arc<AtomicBool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// They end behind the WAL, which waits for them.
    writers: Mutex<Vec<JoinHandle<()>>>,
}

/// Facts for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Partitions held.
    pub partitions: usize,
    /// Bytes of batches that were accepted and are not in their fragment yet.
    pub unflushed_bytes: usize,
    /// Bytes of batches that are kept in memory though they are in their fragment.
    pub tail_cache_bytes: usize,
    /// Bytes of removed fragments that are kept to be written again.
    pub recycled_bytes: u64,
    /// WAL bytes that a recovery would replay now.
    pub replay_bytes: u64,
    /// Ranges of fragments that are known to be damaged.
    pub quarantined_ranges: usize,
    /// The scrub.
    pub scrub: ScrubStats,
    /// The disk.
    pub space: SpaceStats,
    /// The WAL's own facts.
    pub wal: goulette_wal::WalStats,
}

impl Log {
    /// Opens a data directory, and makes it if it is not there. Afterwards every append that was ever acknowledged can
    /// be read, unless the report says what may be lost; the directory has a new storage id then.
    ///
    /// # Errors
    /// See [`OpenError`]. The directory can be opened again once the cause is gone.
    pub fn open(env: Env, dir: &Path, options: LogOptions) -> Result<(Log, RecoveryReport), OpenError> {
        let mistakes: Vec<_> = options.wal.mistakes().into_iter().chain(options.mistakes()).collect();
        if !mistakes.is_empty() {
            return Err(OpenError::Options { mistakes });
        }
        let lock = identity::lock_dir(&env, dir)?;
        let identity = Identity::read(&env, dir)?;
        let broker = identity.as_ref().map(|identity| identity.broker.clone());
        let mut options = options;
        if let Ok(volume) = env.disk.volume_bytes(dir) {
            space::fit(&mut options, volume);
        }
        let log = Log {
            engine: Arc::new(Engine::new(env, dir, broker, options)),
            identity: Mutex::new(identity),
            lock: Mutex::new(Some(lock)),
            stopping: Arc::default(),
            threads: Mutex::default(),
            writers: Mutex::default(),
        };
        let report = log.start()?;
        Ok((log, report))
    }

    fn start(&self) -> Result<RecoveryReport, OpenError> {
        let engine = &self.engine;
        engine.make_room_to_open();
        let (mut recovery, mut report) = recovery::recover(engine)?;
        let pool = engine.fragment_pool.open(&*engine.env.disk);
        pool.map_err(|source| OpenError::Io { doing: "read", path: engine.dir.join(fragment_pool::FOLDER), source })?;
        let aside = tidy::set_aside_unknown(engine, report.lost.is_some());
        let topics = engine.topics_dir();
        report.set_aside.extend(aside.map_err(|source| OpenError::Io { doing: "tidy", path: topics, source })?);
        let stopped = |error: FlushError| OpenError::Io {
            doing: "write a checkpoint in",
            path: engine.dir.clone(),
            source: std::io::Error::other(error.to_string()),
        };
        if report.lost.is_some() {
            // In this order: once the checkpoint is written the loss is not found again.
            self.renew_storage_id()?;
            for partition in engine.partitions() {
                partition.leave_damage().map_err(stopped)?;
            }
            checkpointer::take(engine, Occasion::Asked).map_err(stopped)?;
            recovery.accept_loss();
        } else if engine.relaxed().is_some() {
            checkpointer::take(engine, Occasion::Asked).map_err(stopped)?;
        }
        let wal = Wal::open(recovery, Box::new(Applier::new(engine.clone())));
        let wal = wal.map_err(|source| OpenError::WalOpen { dir: engine.wal_dir(), source })?;
        engine.set_applied(wal.end(), 0);
        engine.direct.set_waker(wal.waker());
        engine.set_wal(Some(wal));
        engine.look_at_space();
        if engine.options.background {
            let (flush, checkpoint, stopping) = (engine.clone(), engine.clone(), self.stopping.clone());
            self.spawn("log-flush", move || flusher::run(&flush))?;
            self.spawn("log-checkpoint", move || {
                checkpointer::run(&checkpoint, &|| stopping.load(Ordering::Acquire));
            })?;
            for _ in 0..direct::RUNS_MAX {
                let engine = engine.clone();
                self.spawn_in(&self.writers, "log-direct", move || direct::run(&engine))?;
            }
            let (retain, stopping) = (engine.clone(), self.stopping.clone());
            self.spawn("log-retain", move || retention::run(&retain, &|| stopping.load(Ordering::Acquire)))?;
            let (watch, stopping) = (engine.clone(), self.stopping.clone());
            self.spawn("log-space", move || space::run(&watch, &|| stopping.load(Ordering::Acquire)))?;
            let (scrubbed, stopping) = (engine.clone(), self.stopping.clone());
            self.spawn("log-scrub", move || scrub::run(&scrubbed, &|| stopping.load(Ordering::Acquire)))?;
        }
        Ok(report)
    }

    fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), OpenError> {
        self.spawn_in(&self.threads, name, run)
    }

    fn spawn_in(
        &self,
        threads: &Mutex<Vec<JoinHandle<()>>>,
        name: &str,
        run: impl FnOnce() + Send + 'static,
    ) -> Result<(), OpenError> {
        let thread = std::thread::Builder::new().name(name.into()).spawn(run).map_err(|source| OpenError::Io {
            doing: "start a thread for",
            path: self.engine.dir.clone(),
            source,
        })?;
        lock(threads).push(thread);
        Ok(())
    }

    /// Gives the directory a new storage id, durably, as something that was durable in it is lost. Whoever holds what was
    /// stored under the old one elsewhere is not to count on this copy any more.
    ///
    /// # Errors
    /// The identity could not be written.
    pub fn renew_storage_id(&self) -> Result<(), OpenError> {
        let engine = &self.engine;
        if let Some(identity) = &mut *lock(&self.identity) {
            identity.storage = StorageId(engine.env.random.next_id());
            identity.write(&engine.env, &engine.dir)?;
        }
        Ok(())
    }

    /// Whose directory it is; none if [`Identity::open`] never made `broker.json`.
    pub fn identity(&self) -> Option<Identity> {
        lock(&self.identity).clone()
    }

    /// Stores the cluster that the broker belongs to, durably; it never changes.
    ///
    /// # Errors
    /// [`JoinError::OtherCluster`] if another one is stored.
    pub fn join_cluster(&self, given: ClusterId) -> Result<(), JoinError> {
        let mut slot = lock(&self.identity);
        let Some(identity) = &mut *slot else { return Err(JoinError::NoIdentity) };
        match identity.cluster {
            Some(stored) if stored == given => Ok(()),
            Some(stored) => Err(JoinError::OtherCluster(OtherCluster { stored, given })),
            None => {
                let joined = Identity { cluster: Some(given), ..identity.clone() };
                joined.write(&self.engine.env, &self.engine.dir).map_err(JoinError::Write)?;
                *identity = joined;
                Ok(())
            }
        }
    }

    /// Makes a partition, empty and starting at offset 0; returns the one that is there if there is one. Durable on
    /// return. Blocks on the disk.
    ///
    /// # Errors
    /// [`ChangeError::Deleted`] if the topic was deleted here, and the other ones.
    pub fn create_partition(&self, id: PartitionId, topic: &TopicName) -> Result<Arc<Partition>, ChangeError> {
        let engine = &self.engine;
        if let Some(partition) = engine.partition(id) {
            return Ok(partition);
        }
        if lock(&engine.deleted).iter().any(|deleted| deleted.id == id.topic) {
            return Err(ChangeError::Deleted(id.topic));
        }
        let partition = Arc::new(Partition::new(engine.clone(), id, topic.clone()));
        let path = partition.dir().to_owned();
        // The folder first: a folder without an entry is tidied away, an entry finds its folder.
        partition.make_dir().map_err(|source| ChangeError::Io { path, source: source.into() })?;
        let payload = change_payload(Head::of(id, Offset::ZERO, engine.wall()), topic);
        self.change(Kind::CreatePartition, payload, |done| Tag::Create { partition, done })?;
        engine.partition(id).ok_or(ChangeError::Deleted(id.topic))
    }

    /// Deletes a topic's partitions, durably on return; fine if there are none. Their files go after the next
    /// checkpoint. Blocks on the disk.
    ///
    /// # Errors
    /// Any but [`ChangeError::Deleted`].
    pub fn delete_topic(&self, id: TopicId) -> Result<(), ChangeError> {
        let engine = &self.engine;
        let partitions: Vec<_> =
            engine.partitions().into_iter().filter(|partition| partition.id().topic == id).collect();
        let Some(first) = partitions.first() else { return Ok(()) };
        // Nothing may be appended behind the entry: it would be acknowledged and gone.
        for partition in &partitions {
            partition.set_closing(true);
        }
        let name = first.topic_name().clone();
        let payload = change_payload(Head::of(first.id(), Offset::ZERO, engine.wall()), &name);
        let topic = DeletedTopic { id, name };
        let outcome = self.change(Kind::DeleteTopic, payload, |done| Tag::Delete { topic, done });
        if matches!(outcome, Err(ChangeError::Busy | ChangeError::Closed { .. })) {
            for partition in &partitions {
                partition.set_closing(false);
            }
        }
        outcome
    }

    /// Hands a change to the WAL and waits until it is durable.
    fn change(&self, kind: Kind, payload: Payload, tag: impl FnOnce(ChangeDone) -> Tag) -> Result<(), ChangeError> {
        let outcome = self.engine.order(kind, payload, tag)?;
        self.engine.wait_for(&outcome)
    }

    /// A partition by its id.
    pub fn partition(&self, id: PartitionId) -> Option<Arc<Partition>> {
        self.engine.partition(id)
    }

    /// All partitions, by id.
    pub fn partitions(&self) -> Vec<Arc<Partition>> {
        self.engine.partitions()
    }

    /// Writes everything durable to its fragment. The background does this; tests without one call it.
    ///
    /// # Errors
    /// See [`FlushError`].
    pub fn flush(&self) -> Result<(), FlushError> {
        self.poison_on_error(|| self.engine.partitions().iter().try_for_each(Partition::flush))
    }

    /// Takes a checkpoint: the WAL before it is not needed any more.
    ///
    /// # Errors
    /// See [`FlushError`]; under [`FlushError::StorageFull`] files that waited for a checkpoint may be gone all the same.
    pub fn checkpoint(&self) -> Result<(), FlushError> {
        self.poison_on_error(|| checkpointer::take(&self.engine, Occasion::Asked))
    }

    /// Removes the oldest fragments of all partitions as far as their [retention](Partition::set_retention) allows, and
    /// tells what was done. Durable on return; the files go behind the next checkpoint. The background does this; tests
    /// without one call it. Blocks on the disk.
    ///
    /// # Errors
    /// The engine is closed or poisoned, or the disk is slow. What was not removed will be another time.
    pub fn retain(&self) -> Result<Vec<RetentionEvent>, ChangeError> {
        let mut events = Vec::new();
        retention::retain(&self.engine, &mut events).map(|()| events)
    }

    /// Replaces the listener that hears what retention does in the background. It must not block.
    pub fn on_retention(&self, listener: RetentionListener) {
        *lock(&self.engine.retention_listener) = Some(listener);
    }

    /// Looks once whether the disk has room for appends, and for its reserves. The background does this; tests without one
    /// call it.
    pub fn look_at_space(&self) {
        self.engine.look_at_space();
    }

    /// Replaces the listener that hears when appends are refused for want of space, and when they are taken again. It must
    /// not block.
    pub fn on_space(&self, listener: SpaceListener) {
        *lock(&self.engine.space.listener) = Some(listener);
    }

    /// Reads all sealed fragments once, without pauses, and their index files: what is damaged is quarantined, or made anew.
    /// The background does this at a bounded rate; tests without one call it. Blocks on the disk for as long as it takes.
    pub fn scrub(&self) {
        scrub::run_once(&self.engine);
    }

    /// Has the background's scrub wait before its next read, or go on.
    pub fn pause_scrub(&self, paused: bool) {
        self.engine.scrub.paused.store(paused, Ordering::Relaxed);
        self.engine.scrub_trigger.pull();
    }

    /// The ranges of fragments that are known to be damaged.
    pub fn quarantined(&self) -> Vec<QuarantinedRange> {
        self.engine.quarantine.ranges()
    }

    /// Replaces the listener that hears of each damaged range.
    pub fn on_quarantine(&self, listener: QuarantineListener) {
        *lock(&self.engine.quarantine.listener) = Some(listener);
    }

    fn poison_on_error(&self, act: impl FnOnce() -> Result<(), FlushError>) -> Result<(), FlushError> {
        act().inspect_err(|error| {
            if let FlushError::Poisoned(Poisoned { reason }) = error {
                self.engine.poison(reason.clone());
            }
        })
    }

    /// Has `listener` called once, from any thread, when the engine is poisoned; at once if it is already. The process
    /// should then exit: nothing can be appended any more, and only a new start tells what was stored.
    pub fn on_poison(&self, listener: PoisonListener) {
        self.engine.on_poison(listener);
    }

    /// Why the engine stopped, if it did.
    pub fn poisoned(&self) -> Option<Arc<str>> {
        self.engine.poisoned()
    }

    /// For how long the oldest append has been waiting for the disk; none if none waits.
    pub fn oldest_unsynced(&self) -> Option<Duration> {
        self.engine.with_wal(Wal::stats).and_then(|stats| stats.oldest_unsynced)
    }

    /// The facts as they are now.
    pub fn stats(&self) -> LogStats {
        LogStats {
            partitions: self.engine.partitions().len(),
            unflushed_bytes: self.engine.unflushed(),
            tail_cache_bytes: self.engine.tail_cache.bytes(),
            recycled_bytes: self.engine.fragment_pool.bytes(),
            replay_bytes: self.engine.replay_bytes(),
            quarantined_ranges: self.engine.quarantine.count(),
            scrub: self.engine.scrub.stats(),
            space: self.engine.space.stats(),
            wal: self.engine.with_wal(Wal::stats).unwrap_or_default(),
        }
    }

    /// Takes no more appends, makes those on their way durable, writes a last checkpoint and cuts the fragments to their
    /// length: the next opening has nothing to replay. Further calls do nothing.
    ///
    /// # Errors
    /// The engine is poisoned, or the disk too full; the next opening recovers.
    pub fn close(&self) -> Result<(), FlushError> {
        if lock(&self.lock).is_none() {
            return Ok(());
        }
        self.stop_threads();
        let closed = match self.engine.set_wal(None).map(Wal::close) {
            Some(Err(error)) => Err(Poisoned { reason: error.to_string().into() }),
            Some(Ok(_)) | None => Ok(()),
        };
        self.stop_writers();
        let outcome = self.poison_on_error(|| {
            closed?;
            // What there is no space for is not cut either: a checkpoint still spares the next opening most of the WAL.
            let cut = self.engine.partitions().iter().try_for_each(|partition| {
                partition.flush()?;
                partition.cut_last()
            });
            match cut {
                Err(error @ FlushError::Poisoned(_)) => Err(error),
                _ => checkpointer::take(&self.engine, Occasion::Last),
            }
        });
        self.engine.forget_partitions();
        *lock(&self.lock) = None;
        outcome
    }

    fn stop_threads(&self) {
        self.stopping.store(true, Ordering::Release);
        self.engine.flush_queue.stop();
        self.engine.checkpoint_trigger.pull();
        self.engine.retention_trigger.pull();
        self.engine.space_trigger.pull();
        self.engine.scrub_trigger.pull();
        for thread in lock(&self.threads).drain(..) {
            // A thread that panicked has nothing left to say: what it left undone is replayed.
            let _ = thread.join();
        }
    }
}

impl Log {
    /// Behind the WAL: it needs them to come to its end.
    fn stop_writers(&self) {
        self.engine.direct.stop();
        for thread in lock(&self.writers).drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.stop_threads();
        // Waits for the WAL's thread, which holds a share of the engine.
        drop(self.engine.set_wal(None));
        self.stop_writers();
        self.engine.forget_partitions();
    }
}

/// Why the cluster was not stored.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The directory belongs to another cluster.
    #[error(transparent)]
    OtherCluster(OtherCluster),
    /// The directory has no `broker.json`.
    #[error("the data directory has no identity")]
    NoIdentity,
    /// The file could not be written.
    #[error(transparent)]
    Write(OpenError),
}

impl JoinError {
    /// What the caller can do about it.
    pub fn kind(&self) -> goulette_types::ErrorKind {
        match self {
            JoinError::OtherCluster(error) => error.kind(),
            JoinError::NoIdentity => goulette_types::ErrorKind::Internal,
            JoinError::Write(error) => error.kind(),
        }
    }
}

fn change_payload(head: Head, topic: &TopicName) -> Payload {
    Payload::new(&head.to_bytes()).with(bytes::Bytes::copy_from_slice(topic.as_str().as_bytes()))
}
