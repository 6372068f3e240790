//! Opening a data directory: the checkpoint, then the WAL behind it, entry by entry.
//!
//! What counts is what checkpoint and WAL say, never what happens to lie in a fragment.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use goulette_env::{Disk, Env, OpenMode};
use goulette_wal::{RecoverError, Recovery, Wal, WalOptions, WalPosition};

use crate::{
    applier::Tag,
    checkpoint::{Checkpoint, CheckpointError},
    checkpoint_file::{self, CheckpointFile},
    engine::{Engine, boot_id},
    error::{FlushError, OpenError},
    fragment::{self, read_file},
    lock,
    partition::Partition,
    replay::{Replay, carry},
};

/// What opening found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// WAL entries replayed.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
    /// A group at the WAL's end was dropped: it had never been acknowledged.
    pub torn: bool,
    /// Acknowledged records may be gone, and why. The directory has a new storage id then.
    pub lost: Option<String>,
    /// Files that no checkpoint and no WAL entry knows, under their new names. Nothing of them was deleted.
    pub set_aside: Vec<PathBuf>,
}

/// Reads the checkpoint and replays the WAL into the engine, which must be empty. Afterwards everything replayed is in
/// its fragment, though not synced, or in memory; the WAL still holds it.
pub(crate) fn recover(engine: &Arc<Engine>) -> Result<(Recovery, RecoveryReport), OpenError> {
    let mut report = RecoveryReport::default();
    let checkpoint = read_checkpoint(engine, &mut report)?;
    let (position, wal) = (checkpoint.position, checkpoint.wal);
    engine.set_checkpointed(position);
    restore(engine, checkpoint, &mut report)?;
    let mut replay = Replay::new(engine, wal, &mut report);
    let recovery = replay_wal(&mut replay, position)?;
    let touched = replay.finish()?;
    report.torn = recovery.torn.is_some();
    if let Some(corruption) = &recovery.lost {
        let at = format!("{} is corrupt at byte {}", corruption.file.display(), corruption.offset);
        report.lost.get_or_insert(at);
    }
    // Where nothing is to be mended the flusher carries the rest, while the log serves already.
    if report.lost.is_some() || !engine.options.background {
        touched.iter().try_for_each(|partition| carry(engine, partition))?;
    }
    touched.iter().for_each(|partition| partition.announce(engine));
    engine.set_wal_log(recovery.log());
    if recovery.end.segment > 0 {
        engine.set_applied(recovery.end, report.bytes);
    }
    Ok((recovery, report))
}

fn read_checkpoint(engine: &Engine, report: &mut RecoveryReport) -> Result<Checkpoint, OpenError> {
    let path = engine.dir.join(checkpoint_file::FILE);
    let file = match read_trusted(&*engine.env.disk, &path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return first_checkpoint(engine, report),
        Err(source) => return Err(OpenError::Io { doing: "read", path, source }),
    };
    let checkpoint = Checkpoint::decode(&file).map_err(|error| match error {
        CheckpointError::Newer { found } => {
            OpenError::Newer { path, found: found.into(), known: checkpoint_file::VERSION.into() }
        }
        CheckpointError::Damaged { .. } => OpenError::Damaged { path, reason: error.to_string() },
    })?;
    if let Some(boot) = &checkpoint.relaxed
        && (boot.is_empty() || *boot != boot_id(&*engine.env.disk))
    {
        report.lost = Some("the machine went down under a sync policy that acknowledges before it syncs".into());
    }
    Ok(checkpoint)
}

/// Reads a file as the disk has it, whatever the page cache shows.
fn read_trusted(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path, OpenMode::Read)?;
    file.sync_data()?;
    file.drop_cache(0, 0)?;
    read_file(disk, path)
}

/// A new directory gets its checkpoint before its WAL: so a WAL without one has lost it.
fn first_checkpoint(engine: &Engine, report: &mut RecoveryReport) -> Result<Checkpoint, OpenError> {
    let mut checkpoint = Checkpoint { taken: engine.wall(), relaxed: engine.relaxed(), ..Checkpoint::default() };
    let (disk, topics, wal) = (&*engine.env.disk, engine.topics_dir(), engine.wal_dir());
    disk.create_dir_all(&topics).map_err(|source| OpenError::Io { doing: "make", path: topics, source })?;
    let has_wal = disk.exists(&wal).and_then(|exists| Ok(exists && !disk.read_dir(&wal)?.is_empty()));
    if has_wal.map_err(|source| OpenError::Io { doing: "list", path: wal, source })? {
        report.lost = Some("the checkpoint is missing".into());
    } else {
        // So that the WAL gets the id by which the checkpoint knows it, whatever happens between the two.
        checkpoint.wal = Some(engine.env.random.next_id());
        let Env { disk, random, .. } = &engine.env;
        let written = CheckpointFile::default().write(&**disk, &**random, &engine.dir, &checkpoint, true);
        written.map_err(|error| not_writable(engine, &error))?;
    }
    Ok(checkpoint)
}

pub(crate) fn not_writable(engine: &Engine, error: &FlushError) -> OpenError {
    OpenError::NotWritable { dir: engine.dir.clone(), source: io::Error::other(error.to_string()) }
}

/// Adds the checkpoint's partitions, and looks whether each one's last fragment still has its bytes. Older fragments
/// were whole when they were sealed; reading checks them.
fn restore(engine: &Arc<Engine>, checkpoint: Checkpoint, report: &mut RecoveryReport) -> Result<(), OpenError> {
    let topics = engine.topics_dir();
    let exists = engine.env.disk.exists(&topics);
    if !exists.map_err(|source| OpenError::Io { doing: "find", path: topics.clone(), source })? {
        let count = checkpoint.partitions.len();
        if count > 0 {
            let reason = format!("it is gone, and {count} partitions with it: put it back, or give an empty -data");
            return Err(OpenError::Damaged { path: topics, reason });
        }
        engine.env.disk.create_dir_all(&topics).map_err(|source| OpenError::Io {
            doing: "make",
            path: topics,
            source,
        })?;
    }
    *lock(&engine.deleted) = checkpoint.deleted;
    for state in checkpoint.partitions {
        let id = state.id;
        let last = state.fragments.last().copied();
        let Some(partition) = Partition::restore(engine.clone(), state) else {
            let reason = format!("the epochs of partition {id} are not in order");
            return Err(OpenError::Damaged { path: engine.dir.join(checkpoint_file::FILE), reason });
        };
        if let Some(last) = last {
            let path = partition.dir().join(fragment::file_name(last.number, last.base));
            let length = match engine.env.disk.open(&path, OpenMode::Read).and_then(|file| file.len()) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
                Err(source) => return Err(OpenError::Io { doing: "open", path, source }),
            };
            if length == 0 {
                // Perhaps its folder is gone too: whatever comes next is written there.
                let made = partition.make_dir();
                made.map_err(|source| OpenError::Io { doing: "make", path: partition.dir().into(), source })?;
            }
            if length < u64::from(last.length) {
                let lost = format!("{} has {length} bytes instead of {}", path.display(), last.length);
                report.lost.get_or_insert(lost);
            }
        }
        engine.add(Arc::new(partition));
    }
    Ok(())
}

/// Replays the WAL from the checkpoint's position. A WAL that ends before it has lost what was acknowledged: it is set
/// aside as a whole, and the partitions stay as the checkpoint has them.
fn replay_wal(replay: &mut Replay<'_>, position: Option<WalPosition>) -> Result<Recovery, OpenError> {
    let engine = replay.engine;
    let wal_dir = engine.wal_dir();
    let recover = |replay: &mut Replay<'_>, position| {
        let options = WalOptions { log: replay.wal, ..engine.options.wal.clone() };
        Wal::<Tag>::recover(&engine.env, &wal_dir, options, position, &mut |entry| replay.visit(entry))
    };
    // The name says which checkpoint's WAL it was: whoever dies before the next checkpoint finds it so, and goes on.
    let lost = |at: WalPosition| {
        engine.dir.join(format!("wal.lost.{:032x}.{}.{}", replay.wal.unwrap_or_default(), at.segment, at.offset))
    };
    let lost = position.map(lost);
    let recovered = match (recover(replay, position), &lost) {
        (Err(RecoverError::Position { .. }), Some(aside)) => {
            let renamed = engine.env.disk.rename(&wal_dir, aside).and_then(|()| engine.env.disk.sync_dir(&engine.dir));
            renamed.map_err(|source| OpenError::Io { doing: "set aside", path: wal_dir.clone(), source })?;
            replay.begin_anew(aside);
            recover(replay, None)
        }
        (Err(RecoverError::Missing { .. }), Some(aside)) if is_set_aside(engine, aside)? => {
            replay.begin_anew(aside);
            recover(replay, None)
        }
        (recovered, _) => recovered,
    };
    match (recovered, replay.refused.take()) {
        (_, Some(error)) => Err(error),
        (recovered, None) => recovered.map_err(OpenError::Wal),
    }
}

/// Whether an earlier opening has set the WAL aside under this name, and begun no other one.
fn is_set_aside(engine: &Engine, aside: &Path) -> Result<bool, OpenError> {
    let (disk, wal_dir) = (&*engine.env.disk, engine.wal_dir());
    let found = disk
        .exists(aside)
        .and_then(|exists| Ok(exists && (!disk.exists(&wal_dir)? || disk.read_dir(&wal_dir)?.is_empty())));
    found.map_err(|source| OpenError::Io { doing: "find", path: aside.into(), source })
}
