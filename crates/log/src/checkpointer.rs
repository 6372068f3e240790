//! Taking a checkpoint, in the order that makes it true: fragments, their names, the checkpoint, and only then whatever
//! it makes needless.

use std::{io, path::Path, sync::Arc, time::Duration};

use goulette_env::{Disk, OpenMode};

use crate::{
    checkpoint::{Checkpoint, DeletedTopic},
    engine::Engine,
    error::{FlushError, Poisoned},
    lock,
};

/// The checkpoint's file in the data directory.
pub(crate) const FILE: &str = "checkpoint";

/// Writes the checkpoint's file.
pub(crate) fn write(engine: &Engine, checkpoint: &Checkpoint) -> Result<(), FlushError> {
    replace_file(&*engine.env.disk, &engine.dir, FILE, &checkpoint.encode())
}

/// Takes a checkpoint now; with `last`, the one that a clean close leaves behind.
///
/// Where the disk is too full for what waits in memory, the checkpoint still describes the rest: files that were waiting
/// for it can go, and make room. Recovery then begins where it would have begun before. Only a checkpoint for which there
/// is no space either is an error for now; any other error means that the engine must be poisoned.
pub(crate) fn take(engine: &Engine, last: bool) -> Result<(), FlushError> {
    let _one_at_a_time = lock(&engine.checkpointing);
    engine.check_poison()?;
    let disk = &*engine.env.disk;
    // First the position, then the state: what is captured is never older than the position says, and replay skips
    // what it finds in it.
    let mut position = engine.applied();
    let replay_bytes = engine.replay_bytes();
    // Before the partitions: a topic listed as deleted is in no captured state.
    let deleted = lock(&engine.deleted).clone();
    let partitions = engine.partitions();
    let mut full = None;
    for partition in &partitions {
        match partition.flush() {
            Err(error @ FlushError::StorageFull { .. }) => full = Some(error),
            flushed => flushed?,
        }
    }
    if full.is_some() {
        position = engine.checkpointed();
    }
    let captured: Vec<_> = partitions.iter().filter_map(|partition| Some((partition, partition.capture()?))).collect();
    for (partition, captured) in &captured {
        for fragment in &captured.fragments {
            fragment.sync().map_err(|error| FlushError::sync(fragment.path(), &error))?;
        }
        if captured.names_unsynced {
            disk.sync_dir(partition.dir()).map_err(|error| FlushError::sync(partition.dir(), &error))?;
        }
    }
    engine.check_poison()?;
    let (states, removed): (_, Vec<_>) =
        captured.into_iter().map(|(partition, captured)| (captured.state, (partition, captured.removed))).unzip();
    let taken = engine.wall();
    let relaxed = if last { None } else { engine.relaxed() };
    write(engine, &Checkpoint { position, taken, relaxed, partitions: states, deleted: deleted.clone() })?;

    if full.is_none() {
        engine.set_checkpointed(position);
        engine.spare_replay(replay_bytes);
        if let Some(position) = position {
            engine.with_wal(|wal| wal.recycle_before(position));
        }
    }
    // The checkpoint is durable and does not know them: no recovery will ask for them.
    for (partition, removed) in &removed {
        partition.unlink(removed)?;
    }
    remove_deleted(engine, &deleted)?;
    if full.is_none() {
        // No entry that names them is replayed any more.
        lock(&engine.deleted).retain(|topic| !deleted.contains(topic));
    }
    for partition in &partitions {
        partition.release_idle();
    }
    full.map_or(Ok(()), Err)
}

/// Replaces a small file as a whole: after a crash it holds the old bytes or the new ones, and after this call the new.
pub(crate) fn replace_file(disk: &dyn Disk, dir: &Path, name: &str, bytes: &[u8]) -> Result<(), FlushError> {
    let (path, tmp) = (dir.join(name), dir.join(format!("{name}.tmp")));
    let written = disk.open(&tmp, OpenMode::CreateOrOpen).and_then(|file| {
        file.set_len(0)?;
        file.write_all_at(bytes, 0)?;
        Ok(file)
    });
    let file = match written {
        Ok(file) => file,
        Err(error) => {
            // Half of it is of no use to anybody, and takes space. Fine if it cannot be removed: it is overwritten.
            let _ = disk.remove_file(&tmp);
            return Err(FlushError::io("write", &tmp, &error));
        }
    };
    file.sync_data().map_err(|error| FlushError::sync(&tmp, &error))?;
    disk.rename(&tmp, &path).map_err(|error| FlushError::io("replace", &path, &error))?;
    disk.sync_dir(dir).map_err(|error| FlushError::sync(dir, &error))
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
        if (pulled && engine.replay_bytes() >= engine.options.checkpoint_bytes) || engine.applied() != last {
            last = engine.applied();
            match take(engine, false) {
                Ok(()) => {}
                Err(FlushError::StorageFull { .. }) => last = None,
                Err(FlushError::Poisoned(Poisoned { reason })) => {
                    engine.poison(reason);
                    return;
                }
            }
        }
    }
}
