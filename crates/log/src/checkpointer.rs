//! Taking a checkpoint, in the order that makes it true: fragments, their names, the checkpoint, and only then whatever
//! it makes needless.

use std::{io, path::Path, sync::Arc, time::Duration};

use goulette_env::Disk;

use crate::{
    checkpoint::{Checkpoint, DeletedTopic},
    engine::Engine,
    error::{FlushError, Poisoned},
    lock,
    partition::{Captured, Partition},
};

/// The longest rest behind a sync.
const REST_MAX: Duration = Duration::from_millis(50);

/// What a checkpoint is taken for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// The background's: nobody waits for it, and others want the disk.
    Background,
    /// Somebody waits.
    Asked,
    /// The one that a clean close leaves behind.
    Last,
}

/// Takes a checkpoint now.
///
/// Where the disk is too full for what waits in memory, the checkpoint still describes the rest: files that were waiting
/// for it can go, and make room. Recovery then begins where it would have begun before. Only a checkpoint for which there
/// is no space either is an error for now; any other error means that the engine must be poisoned.
pub(crate) fn take(engine: &Engine, occasion: Occasion) -> Result<(), FlushError> {
    let mut file = lock(&engine.checkpointing);
    engine.check_poison()?;
    let disk = &*engine.env.disk;
    let full = file.wants_full();
    // First the position, then the state: what is captured is never older than the position says, and replay skips
    // what it finds in it.
    let mut position = engine.applied();
    let replay_bytes = engine.replay_bytes();
    // Before the partitions: a topic listed as deleted is in no captured state.
    let deleted = lock(&engine.deleted).clone();
    let mut partitions = engine.partitions();
    partitions.retain(|partition| full || partition.is_changed());
    let mut lacking = None;
    for partition in &partitions {
        match partition.flush() {
            Err(error @ FlushError::StorageFull { .. }) => lacking = Some(error),
            flushed => flushed?,
        }
    }
    if lacking.is_some() {
        position = engine.checkpointed();
    }
    let captured: Vec<_> =
        partitions.iter().filter_map(|partition| Some((partition.clone(), partition.capture()?))).collect();
    if !cfg!(goulette_bug = "checkpoint_before_fragment_sync") {
        sync(engine, &captured, occasion == Occasion::Background)?;
    }
    engine.check_poison()?;
    let (partitions, removed): (_, Vec<_>) = captured
        .into_iter()
        .map(|(partition, captured)| (captured.state, (partition, captured.removed, captured.cut)))
        .unzip();
    let relaxed = if occasion == Occasion::Last { None } else { engine.relaxed() };
    let wal = engine.wal_log();
    let checkpoint = Checkpoint { position, wal, taken: engine.wall(), relaxed, partitions, deleted: deleted.clone() };
    match file.write(disk, &*engine.env.random, &engine.dir, &checkpoint, full) {
        // Once more, in full: the ballast is there for this.
        Err(FlushError::StorageFull { .. }) if engine.space.release_ballast(disk) => {
            drop(file);
            return take(engine, occasion);
        }
        written => written?,
    }

    if lacking.is_none() {
        engine.set_checkpointed(position);
        engine.spare_replay(replay_bytes);
        if let Some(position) = position {
            engine.with_wal(|wal| wal.recycle_before(position));
        }
    }
    // The checkpoint is durable and does not know them: no recovery will ask for them.
    for (partition, removed, cut) in removed {
        partition.cut_files(cut)?;
        partition.unlink(removed)?;
    }
    remove_deleted(engine, &deleted)?;
    if lacking.is_none() {
        // No entry that names them is replayed any more.
        lock(&engine.deleted).retain(|topic| !deleted.contains(topic));
    }
    lacking.map_or(Ok(()), Err)
}

/// Makes durable what the captured states speak of: bytes, then names. Few files one by one; many by one sync of the whole
/// file system, which writes them in the disk's order and commits once.
fn sync(engine: &Engine, captured: &[(Arc<Partition>, Captured)], mut paced: bool) -> Result<(), FlushError> {
    let fragments = captured.iter().flat_map(|(_, captured)| &captured.fragments);
    let unsynced: Vec<_> = fragments.filter_map(|fragment| Some((fragment, fragment.unsynced()?))).collect();
    let named = captured.iter().filter(|(_, captured)| captured.names_unsynced);
    let dirs: Vec<_> = named.map(|(partition, _)| partition.dir()).collect();
    let files: usize = unsynced.iter().map(|(_, noted)| noted.files()).sum();
    if files + dirs.len() > engine.options.syncs_max
        && let Some(file_system) = &engine.file_system
    {
        file_system.sync_all().map_err(|error| FlushError::sync(&engine.dir, &error))?;
        unsynced.iter().for_each(|(fragment, noted)| fragment.note_synced(noted));
        return Ok(());
    }
    for (fragment, _) in &unsynced {
        let since = engine.env.clock.now();
        fragment.sync().map_err(|error| FlushError::sync(fragment.path(), &error))?;
        paced = paced && rest(engine, since);
    }
    for dir in dirs {
        let since = engine.env.clock.now();
        engine.env.disk.sync_dir(dir).map_err(|error| FlushError::sync(dir, &error))?;
        paced = paced && rest(engine, since);
    }
    Ok(())
}

/// Leaves the disk to others for as long as a sync has kept it busy since then. Returns false when there is no time for
/// that: the WAL's budget runs out, or somebody pulls the trigger, to stop or for the next checkpoint.
fn rest(engine: &Engine, since: Duration) -> bool {
    if engine.replay_bytes() >= engine.options.wal_bytes_max / 2 {
        return false;
    }
    let took = engine.env.clock.now().saturating_sub(since);
    let pulled = engine.checkpoint_trigger.wait(took.min(REST_MAX));
    if pulled {
        // Whoever pulled it is still to be heard.
        engine.checkpoint_trigger.pull();
    }
    !pulled
}

/// Removes the files of topics that the checkpoint lists as deleted. Whatever a crash leaves of them the next one
/// removes: they stay on the list until then.
fn remove_deleted(engine: &Engine, deleted: &[DeletedTopic]) -> Result<(), FlushError> {
    let disk = &*engine.env.disk;
    for topic in deleted {
        let dir = engine.topic_dir(topic.id, &topic.name);
        let removed = remove_tree(disk, &dir).and_then(|()| disk.sync_dir(&engine.topics_dir()));
        removed.map_err(|error| FlushError::io("remove", &dir, &error))?;
    }
    Ok(())
}

/// Removes a folder with all that is in it; fine if it is not there.
pub(crate) fn remove_tree(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    if !disk.exists(dir)? {
        return Ok(());
    }
    for entry in disk.read_dir(dir)? {
        let path = dir.join(entry.name);
        if entry.is_dir {
            remove_tree(disk, &path)?;
        } else {
            disk.remove_file(&path)?;
        }
    }
    disk.remove_dir(dir)
}

/// The checkpointer's thread: takes one when the trigger is pulled or the interval has passed, until `stopped` says so.
pub(crate) fn run(engine: &Arc<Engine>, stopped: &dyn Fn() -> bool) {
    let interval = engine.options.checkpoint_interval.max(Duration::from_millis(1));
    let mut last = None;
    loop {
        let pulled = engine.checkpoint_trigger.wait(interval);
        if stopped() || engine.poisoned().is_some() {
            return;
        }
        // Without the trigger only if something has changed.
        if pulled || engine.applied() != last {
            last = engine.applied();
            match take(engine, Occasion::Background) {
                Ok(()) => {}
                Err(FlushError::StorageFull { .. }) => {
                    engine.refuse_appends();
                    last = None;
                }
                Err(FlushError::Poisoned(Poisoned { reason })) => {
                    engine.poison(reason);
                    return;
                }
            }
        }
    }
}
