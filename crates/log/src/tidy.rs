//! What an opening does with files that neither the checkpoint nor the WAL knows.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io,
    path::{Path, PathBuf},
};

use goulette_types::Offset;

use crate::{checkpointer, engine::Engine, fragment, lock, partition::State};

/// Sets aside what lies in the folders of topics and belongs to no partition: an operator may know better than we do.
/// Folders without any file are removed, and what a crash left of fragments whose removal a checkpoint has seen: those
/// that it has not seen are still on their partition's list. So are, unless something was `lost`, fragments that a partition
/// had only begun, or that were truncated: nothing refers to them, or ever did.
pub(crate) fn set_aside_unknown(engine: &Engine, lost: bool) -> io::Result<Vec<PathBuf>> {
    let disk = &*engine.env.disk;
    let mut known_dirs = BTreeSet::from([engine.topics_dir()]);
    let mut known_files = HashSet::new();
    let mut live = HashMap::new();
    for partition in engine.partitions() {
        known_dirs.extend(partition.dir().ancestors().take(2).map(Path::to_owned));
        let state = lock(partition.state());
        for fragment in state.fragments.iter().map(|kept| &kept.fragment).chain(&state.begun).chain(&state.removed) {
            known_files.insert(fragment.path().with_extension(""));
        }
        live.insert(partition.dir().to_owned(), partition.clone());
    }
    let deleted: BTreeSet<_> =
        lock(&engine.deleted).iter().map(|topic| engine.topic_dir(topic.id, &topic.name)).collect();
    let mut aside = Vec::new();
    for dir in &known_dirs {
        for entry in disk.read_dir(dir)? {
            let path = dir.join(&entry.name);
            let known = known_dirs.contains(&path)
                || deleted.contains(&path)
                || (!entry.is_dir && known_files.contains(&path.with_extension("")));
            if known {
                continue;
            }
            let is_needless = |(number, base)| {
                live.get(dir).is_some_and(|partition| lock(partition.state()).is_needless(number, base, lost))
            };
            if !entry.is_dir && fragment::parse_name(&entry.name).is_some_and(is_needless) {
                disk.remove_file(&path)?;
                continue;
            }
            if entry.is_dir && !has_files(engine, &path)? {
                checkpointer::remove_tree(disk, &path)?;
                continue;
            }
            aside.push(set_aside(engine, dir, &path)?);
        }
    }
    Ok(aside)
}

impl State {
    /// Whether a fragment of which the state knows nothing is the remains of one that went in order, or was never needed.
    fn is_needless(&self, number: u32, base: Offset, lost: bool) -> bool {
        let behind = self.fragments.partition_point(|kept| kept.state.number < number);
        if self.fragments.get(behind).is_some_and(|kept| kept.state.number == number) {
            // Numbers are unique: somebody else made it.
            return false;
        }
        match self.fragments.get(behind).map(|kept| kept.state.base) {
            // Retention takes the oldest.
            Some(next) if behind == 0 && base < next => true,
            // Its offsets were given to another one: it was truncated.
            Some(next) => base >= next && !lost,
            // Truncated, or begun and never referred to.
            None => !lost,
        }
    }
}

fn has_files(engine: &Engine, dir: &Path) -> io::Result<bool> {
    for entry in engine.env.disk.read_dir(dir)? {
        if !entry.is_dir || has_files(engine, &dir.join(entry.name))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Moves a file or folder to `set-aside/`, under its path with dots for slashes and a random end.
fn set_aside(engine: &Engine, dir: &Path, path: &Path) -> io::Result<PathBuf> {
    let disk = &*engine.env.disk;
    let to_dir = engine.dir.join("set-aside");
    let inside = path.strip_prefix(engine.topics_dir()).unwrap_or(path);
    let flat: Vec<_> = inside.iter().map(|part| part.to_string_lossy()).collect();
    let to = to_dir.join(format!("{}.{:016x}", flat.join("."), engine.env.random.next_u64()));
    disk.create_dir_all(&to_dir)?;
    disk.sync_dir(&engine.dir)?;
    disk.rename(path, &to)?;
    disk.sync_dir(&to_dir)?;
    disk.sync_dir(dir)?;
    Ok(to)
}
