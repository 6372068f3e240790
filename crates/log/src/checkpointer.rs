//! Taking a checkpoint, in the order that makes it true: fragments, their names, the checkpoint, and only then whatever
//! it makes needless.

use std::{io, path::Path, sync::Arc, time::Duration};

use goulette_env::{Disk, OpenMode};

use crate::{
    checkpoint::{Checkpoint, DeletedTopic},
    engine::Engine,
    error::Poisoned,
    lock,
};

/// The checkpoint's file in the data directory.
pub(crate) const FILE: &str = "checkpoint";

/// Writes the checkpoint's file.
pub(crate) fn write(engine: &Engine, checkpoint: &Checkpoint) -> Result<(), Poisoned> {
    replace_file(&*engine.env.disk, &engine.dir, FILE, &checkpoint.encode())
        .map_err(|error| Poisoned::io("replace", &engine.dir.join(FILE), &error))
}

/// Takes a checkpoint now; with `last`, the one that a clean close leaves behind. An error means that the engine must be
/// poisoned.
pub(crate) fn take(engine: &Engine, last: bool) -> Result<(), Poisoned> {
    let _one_at_a_time = lock(&engine.checkpointing);
    engine.check_poison()?;
    let disk = &*engine.env.disk;
    // First the position, then the state: what is captured is never older than the position says, and replay skips
    // what it finds in it.
    let position = engine.applied();
    let replay_bytes = engine.replay_bytes();
    // Before the partitions: a topic listed as deleted is in no captured state.
    let deleted = lock(&engine.deleted).clone();
    let partitions = engine.partitions();
    for partition in &partitions {
        partition.flush()?;
    }
    let captured: Vec<_> = partitions.iter().filter_map(|partition| Some((partition, partition.capture()?))).collect();
    for (partition, captured) in &captured {
        for fragment in &captured.fragments {
            fragment.sync().map_err(|error| Poisoned::io("sync", fragment.path(), &error))?;
        }
        if captured.names_unsynced {
            disk.sync_dir(partition.dir()).map_err(|error| Poisoned::io("sync", partition.dir(), &error))?;
        }
    }
    engine.check_poison()?;
    let (states, removed): (_, Vec<_>) =
        captured.into_iter().map(|(partition, captured)| (captured.state, (partition, captured.removed))).unzip();
    let taken = engine.wall();
    let relaxed = if last { None } else { engine.relaxed() };
    write(engine, &Checkpoint { position, taken, relaxed, partitions: states, deleted: deleted.clone() })?;

    engine.spare_replay(replay_bytes);
    if let Some(position) = position {
        engine.with_wal(|wal| wal.recycle_before(position));
    }
    // The checkpoint is durable and does not know them: no recovery will ask for them.
    for (partition, removed) in &removed {
        partition.unlink(removed)?;
    }
    remove_deleted(engine, &deleted)?;
    for partition in &partitions {
        partition.release_idle();
    }
    Ok(())
}

/// Replaces a small file as a whole: after a crash it holds the old bytes or the new ones, and after this call the new.
pub(crate) fn replace_file(disk: &dyn Disk, dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let (path, tmp) = (dir.join(name), dir.join(format!("{name}.tmp")));
    let file = disk.open(&tmp, OpenMode::CreateOrOpen)?;
    file.set_len(0)?;
    file.write_all_at(bytes, 0)?;
    file.sync_data()?;
    disk.rename(&tmp, &path)?;
    disk.sync_dir(dir)
}

/// Removes the files of topics that the checkpoint lists as deleted. Whatever a crash leaves of them the next one
/// removes: they stay on the list until they are gone for good.
fn remove_deleted(engine: &Engine, deleted: &[DeletedTopic]) -> Result<(), Poisoned> {
    let disk = &*engine.env.disk;
    for topic in deleted {
        let dir = engine.topic_dir(topic.id, &topic.name);
        let removed = remove_tree(disk, &dir).and_then(|()| disk.sync_dir(&engine.topics_dir()));
        removed.map_err(|error| Poisoned::io("remove", &dir, &error))?;
    }
    lock(&engine.deleted).retain(|topic| !deleted.contains(topic));
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
            if let Err(Poisoned { reason }) = take(engine, false) {
                engine.poison(reason);
                return;
            }
        }
    }
}
