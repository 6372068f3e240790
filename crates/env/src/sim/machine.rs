//! What a machine has on its disk, and what it only believes to have: live and durable state, apart.
//!
//! A file is its durable bytes and a list of changes behind them; the live bytes are what the page cache shows. A
//! name is durable once its folder was synced. A crash keeps the durable state and any subset, of the caller's choice,
//! of the changes, down to single sectors.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use crate::{Random, sim::SimRandom};

/// What a crash leaves whole, or leaves out, of a write.
const SECTOR_BYTES: usize = 512;

/// What becomes of changes that were not synced when the power went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsynced {
    /// None of them had reached the disk.
    None,
    /// All of them had.
    All,
    /// The first so many had, in the order in which they were made; see [`SimDisk::unsynced`](super::SimDisk::unsynced).
    Prefix(usize),
    /// All up to a random one had, and of that one the first few sectors.
    Torn,
    /// Of each change any: single sectors of writes, single names.
    Random,
    /// Sector `n` of all those at stake, in the order in which they were written, if bit `n` says so; a name or a length
    /// counts as one, and behind the 64th all are lost. See [`SimDisk::unsynced_sectors`](super::SimDisk::unsynced_sectors).
    Subset(u64),
}

/// What goes wrong, and when. Numbers count from 1, from the disk's start (a crash starts a new disk).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// The machine dies at this operation (counted by [`SimDisk::operations`](super::SimDisk::operations)): it has no
    /// effect any more, and all that comes after it fails.
    pub stop_at: Option<u64>,
    /// This sync, of a file or a folder, fails with EIO. Any part of what it was for is durable. The rest of a file's
    /// bytes never will be: the page cache shows them as clean until it is dropped. (Names stay unsynced: a journal
    /// either keeps them or takes the whole file system down.)
    pub fail_sync_at: Option<u64>,
    /// This write fails with EIO, without effect.
    pub fail_write_at: Option<u64>,
    /// This operation (counted as for `stop_at`) fails with ENOSPC, without effect.
    pub full_at: Option<u64>,
    /// The disk holds so many bytes of files; more fail with ENOSPC.
    pub capacity: Option<u64>,
}

/// One operation that changed something or made it durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What was done: `create`, `mkdir`, `write`, `set_len`, `allocate`, `sync`, `rename`, `remove`, `sync_dir` or `sync_all`.
    pub kind: &'static str,
    /// With which file or folder.
    pub path: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    File(u64),
    Folder,
}

type Names = BTreeMap<PathBuf, Node>;

/// The state behind a [`SimDisk`](super::SimDisk) and its open files.
pub(super) struct Machine {
    pub(super) seed: u64,
    random: SimRandom,
    pub(super) faults: Faults,
    pub(super) stopped: bool,
    pub(super) log: Vec<Operation>,
    pub(super) syncs: u64,
    pub(super) writes: u64,
    pub(super) locks: BTreeSet<PathBuf>,
    files: BTreeMap<u64, File>,
    names: Names,
    durable_names: Names,
    name_changes: Vec<NameChange>,
    /// Numbers changes and files.
    next: u64,
}

#[derive(Clone, Default)]
struct File {
    /// What reads see.
    live: Vec<u8>,
    durable: Vec<u8>,
    /// What a sync would add to the durable bytes, in order.
    changes: Vec<Change>,
}

#[derive(Clone)]
struct Change {
    order: u64,
    what: What,
}

#[derive(Clone)]
enum What {
    Write { position: u64, bytes: Vec<u8> },
    Length(u64),
}

#[derive(Clone)]
struct NameChange {
    order: u64,
    /// Folders that must still be synced for this to be durable.
    folders: BTreeSet<PathBuf>,
    what: NameWhat,
}

#[derive(Clone)]
enum NameWhat {
    Add(PathBuf, Node),
    Remove(PathBuf),
    /// Of this very file or folder, whatever has the old name when a crash left other changes out.
    Rename(PathBuf, PathBuf, Node),
}

impl File {
    /// What the platter would hold if all changes reached it.
    fn settled(&self) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for change in &self.changes {
            change.what.apply(&mut bytes, |_| true);
        }
        bytes
    }
}

impl What {
    /// Changes the bytes as far as `keep`, asked for each sector of a write from 0, says.
    fn apply(&self, to: &mut Vec<u8>, mut keep: impl FnMut(usize) -> bool) {
        match self {
            What::Length(length) => {
                if keep(0) {
                    to.resize(*length as usize, 0);
                }
            }
            What::Write { position, bytes } => {
                let (mut start, mut sector) = (0, 0);
                while start < bytes.len() {
                    let at = *position as usize + start;
                    let end = (start + SECTOR_BYTES - at % SECTOR_BYTES).min(bytes.len());
                    if keep(sector) {
                        put(to, at, &bytes[start..end]);
                    }
                    (start, sector) = (end, sector + 1);
                }
            }
        }
    }

    fn sectors(&self) -> usize {
        match self {
            What::Length(_) => 1,
            What::Write { position, bytes } => {
                (*position as usize % SECTOR_BYTES + bytes.len()).div_ceil(SECTOR_BYTES).max(1)
            }
        }
    }
}

impl NameWhat {
    fn apply(&self, names: &mut Names) {
        match self {
            NameWhat::Add(path, node) => {
                names.insert(path.clone(), *node);
            }
            NameWhat::Remove(path) => {
                names.remove(path);
            }
            NameWhat::Rename(from, to, node) => {
                if names.get(from) == Some(node) {
                    let moved: Vec<_> = names.keys().filter(|path| path.starts_with(from)).cloned().collect();
                    for path in moved {
                        if let Some(node) = names.remove(&path) {
                            names.insert(below(&path, from, to), node);
                        }
                    }
                }
                names.insert(to.clone(), *node);
            }
        }
    }

    fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        let (first, second) = match self {
            NameWhat::Add(path, _) | NameWhat::Remove(path) => (path, None),
            NameWhat::Rename(from, to, _) => (from, Some(to)),
        };
        std::iter::once(first).chain(second)
    }
}

impl Machine {
    pub(super) fn new(seed: u64) -> Self {
        let roots = Names::from([(PathBuf::new(), Node::Folder), (PathBuf::from("/"), Node::Folder)]);
        Self {
            seed,
            random: SimRandom::from_seed(seed),
            faults: Faults::default(),
            stopped: false,
            log: Vec::new(),
            syncs: 0,
            writes: 0,
            locks: BTreeSet::new(),
            files: BTreeMap::new(),
            names: roots.clone(),
            durable_names: roots,
            name_changes: Vec::new(),
            next: 1,
        }
    }

    /// The machine after its power came back; this one is dead.
    pub(super) fn crash(&mut self, unsynced: Unsynced) -> Machine {
        self.stopped = true;
        let mut orders: Vec<u64> = self.name_changes.iter().map(|change| change.order).collect();
        orders.extend(self.files.values().flat_map(|file| &file.changes).map(|change| change.order));
        orders.sort_unstable();
        // Changes before `cut` survive; of the one at it, the first sectors.
        let count = match unsynced {
            Unsynced::None => 0,
            Unsynced::All | Unsynced::Random | Unsynced::Subset(_) => orders.len(),
            Unsynced::Prefix(count) => count,
            Unsynced::Torn => self.below(orders.len() + 1),
        };
        let cut = orders.get(count).copied().unwrap_or(u64::MAX);
        let (torn, random) = (unsynced == Unsynced::Torn, unsynced == Unsynced::Random);
        let at_stake = self.at_stake();
        let chosen = |order: u64, sector: usize| match unsynced {
            Unsynced::Subset(bits) => bits.checked_shr((at_stake[&order] + sector) as u32).unwrap_or(0) & 1 == 1,
            _ => true,
        };

        let mut after = Machine::new(self.random.next_u64());
        after.next = self.next;
        after.names = self.durable_names.clone();
        for change in self.name_changes.clone() {
            if change.order < cut && chosen(change.order, 0) && !(random && self.coin()) {
                change.what.apply(&mut after.names);
            }
        }
        // What lies in a folder that is not there is not there.
        let reachable =
            |path: &Path| path.ancestors().skip(1).all(|above| after.names.get(above) == Some(&Node::Folder));
        after.durable_names =
            after.names.iter().filter(|(path, _)| reachable(path)).map(|(path, node)| (path.clone(), *node)).collect();
        after.names = after.durable_names.clone();
        for node in after.names.values() {
            let Node::File(id) = *node else { continue };
            let File { mut durable, changes, .. } = self.files[&id].clone();
            for change in &changes {
                let torn_at = if torn && change.order == cut { self.below(change.what.sectors()) } else { 0 };
                change.what.apply(&mut durable, |sector| match random {
                    true => self.random.next_u64() & 1 == 0,
                    false => (change.order < cut || sector < torn_at) && chosen(change.order, sector),
                });
            }
            after.files.insert(id, File { live: durable.clone(), durable, changes: Vec::new() });
        }
        after
    }

    /// The machine for the next process, after the one before was killed: page cache and all. This one is dead.
    pub(super) fn restart(&mut self) -> Machine {
        self.stopped = true;
        Machine {
            random: SimRandom::from_seed(self.random.next_u64()),
            files: self.files.clone(),
            names: self.names.clone(),
            durable_names: self.durable_names.clone(),
            name_changes: self.name_changes.clone(),
            next: self.next,
            ..Machine::new(self.random.next_u64())
        }
    }

    /// For each unsynced change, how many sectors are at stake before it.
    fn at_stake(&self) -> BTreeMap<u64, usize> {
        let mut sectors: BTreeMap<u64, usize> = self.name_changes.iter().map(|change| (change.order, 1)).collect();
        let changes = self.files.values().flat_map(|file| &file.changes);
        sectors.extend(changes.map(|change| (change.order, change.what.sectors())));
        let mut before = 0;
        for sectors in sectors.values_mut() {
            before += std::mem::replace(sectors, before);
        }
        sectors
    }

    pub(super) fn unsynced_sectors(&self) -> usize {
        let bytes =
            self.files.values().flat_map(|file| &file.changes).map(|change| change.what.sectors()).sum::<usize>();
        bytes + self.name_changes.len()
    }

    pub(super) fn unsynced(&self) -> usize {
        self.name_changes.len() + self.files.values().map(|file| file.changes.len()).sum::<usize>()
    }

    pub(super) fn running(&self) -> io::Result<()> {
        if self.stopped { Err(io::Error::other("the simulated machine is off")) } else { Ok(()) }
    }

    /// Counts an operation, and stops the machine if this is the one.
    pub(super) fn operate(&mut self, kind: &'static str, path: &Path) -> io::Result<()> {
        self.running()?;
        if self.faults.stop_at.is_some_and(|stop_at| self.log.len() as u64 + 1 >= stop_at) {
            self.stopped = true;
            return self.running();
        }
        self.log.push(Operation { kind, path: path.to_owned() });
        if self.faults.full_at == Some(self.log.len() as u64) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    // Names.

    pub(super) fn node(&self, path: &Path) -> Option<Node> {
        self.names.get(path).copied()
    }

    pub(super) fn children(&self, path: &Path) -> impl Iterator<Item = (&PathBuf, &Node)> {
        self.names.iter().filter(move |(child, _)| !child.as_os_str().is_empty() && child.parent() == Some(path))
    }

    pub(super) fn folder(&self, path: &Path) -> io::Result<()> {
        match self.node(path) {
            Some(Node::Folder) => Ok(()),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<u64> {
        self.folder(parent(path))?;
        self.operate("create", path)?;
        let id = self.number();
        self.files.insert(id, File::default());
        self.change_names(NameWhat::Add(path.to_owned(), Node::File(id)));
        Ok(id)
    }

    pub(super) fn create_folder(&mut self, path: &Path) -> io::Result<()> {
        self.operate("mkdir", path)?;
        self.change_names(NameWhat::Add(path.to_owned(), Node::Folder));
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.operate("remove", path)?;
        self.change_names(NameWhat::Remove(path.to_owned()));
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path, node: Node) -> io::Result<()> {
        self.operate("rename", from)?;
        if from == to {
            return Ok(());
        }
        // Unsynced names below a folder go with it: should the rename be lost, they are too.
        for change in &mut self.name_changes {
            change.folders = change.folders.iter().map(|folder| below(folder, from, to)).collect();
            match &mut change.what {
                NameWhat::Add(path, _) | NameWhat::Remove(path) | NameWhat::Rename(_, path, _) => {
                    if path != from {
                        *path = below(path, from, to);
                    }
                }
            }
        }
        self.change_names(NameWhat::Rename(from.to_owned(), to.to_owned(), node));
        Ok(())
    }

    fn change_names(&mut self, what: NameWhat) {
        what.apply(&mut self.names);
        let folders = what.paths().map(|path| parent(path).to_owned()).collect();
        let order = self.number();
        self.name_changes.push(NameChange { order, folders, what });
    }

    pub(super) fn sync_folder(&mut self, path: &Path) -> io::Result<()> {
        self.operate("sync_dir", path)?;
        let failed = self.fail_sync();
        for change in &mut self.name_changes {
            change.folders.remove(path);
        }
        // A change takes with it those before it that concern the same name.
        let mut taken = BTreeSet::new();
        let mut settled = vec![false; self.name_changes.len()];
        for (settled, change) in settled.iter_mut().zip(&self.name_changes).rev() {
            *settled = change.folders.is_empty() || change.what.paths().any(|path| taken.contains(path));
            if *settled {
                taken.extend(change.what.paths().cloned());
            }
        }
        for (settled, change) in settled.into_iter().zip(std::mem::take(&mut self.name_changes)) {
            if settled && (failed.is_ok() || self.coin()) {
                change.what.apply(&mut self.durable_names);
            } else {
                self.name_changes.push(change);
            }
        }
        failed
    }

    // Bytes.

    pub(super) fn bytes(&self, id: u64) -> &[u8] {
        &self.files[&id].live
    }

    pub(super) fn write(&mut self, id: u64, path: &Path, position: u64, bytes: Vec<u8>) -> io::Result<()> {
        self.operate("write", path)?;
        self.writes += 1;
        if self.faults.fail_write_at == Some(self.writes) {
            return Err(rustix::io::Errno::IO.into());
        }
        self.reserve(id, position + bytes.len() as u64)?;
        put(&mut self.file(id).live, position as usize, &bytes);
        self.change(id, What::Write { position, bytes });
        Ok(())
    }

    pub(super) fn set_length(&mut self, id: u64, kind: &'static str, path: &Path, length: u64) -> io::Result<()> {
        self.operate(kind, path)?;
        self.reserve(id, length)?;
        self.file(id).live.resize(length as usize, 0);
        self.change(id, What::Length(length));
        Ok(())
    }

    pub(super) fn sync(&mut self, id: u64, path: &Path) -> io::Result<()> {
        self.operate("sync", path)?;
        let failed = self.fail_sync();
        let mut durable = std::mem::take(&mut self.file(id).durable);
        for change in std::mem::take(&mut self.file(id).changes) {
            change.what.apply(&mut durable, |_| failed.is_ok() || self.coin());
        }
        self.file(id).durable = durable;
        failed
    }

    /// Makes every byte and every name durable.
    pub(super) fn sync_all(&mut self) -> io::Result<()> {
        self.operate("sync_all", Path::new("/"))?;
        let failed = self.fail_sync();
        let mut files = std::mem::take(&mut self.files);
        for file in files.values_mut() {
            for change in std::mem::take(&mut file.changes) {
                change.what.apply(&mut file.durable, |_| failed.is_ok() || self.coin());
            }
        }
        self.files = files;
        for change in std::mem::take(&mut self.name_changes) {
            if failed.is_ok() {
                change.what.apply(&mut self.durable_names);
            } else {
                self.name_changes.push(change);
            }
        }
        failed
    }

    /// Shows again what the disk holds, where nothing waits to be written.
    pub(super) fn drop_cache(&mut self, id: u64, position: u64, length: u64) {
        let file = self.file(id);
        let mut settled = file.settled();
        settled.resize(file.live.len(), 0);
        let end = if length == 0 { u64::MAX } else { position.saturating_add(length) };
        let range = (position as usize).min(settled.len())..(end.min(settled.len() as u64) as usize);
        file.live[range.clone()].copy_from_slice(&settled[range]);
    }

    /// The live bytes of the files that have a name.
    pub(super) fn live_files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let file = |(path, node): (&PathBuf, &Node)| match node {
            Node::File(id) => Some((path.clone(), self.files[id].live.clone())),
            Node::Folder => None,
        };
        self.names.iter().filter_map(file).collect()
    }

    /// Bytes that files with a name take.
    pub(super) fn used(&self) -> u64 {
        let ids: BTreeSet<u64> =
            self.names.values().filter_map(|node| if let Node::File(id) = node { Some(*id) } else { None }).collect();
        ids.iter().map(|id| self.files[id].live.len() as u64).sum()
    }

    fn reserve(&self, id: u64, length: u64) -> io::Result<()> {
        let more = length.saturating_sub(self.files[&id].live.len() as u64);
        match self.faults.capacity {
            Some(capacity) if more > 0 && self.used() + more > capacity => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn file(&mut self, id: u64) -> &mut File {
        self.files.get_mut(&id).expect("an open file is one of the machine's")
    }

    fn change(&mut self, id: u64, what: What) {
        let order = self.number();
        self.file(id).changes.push(Change { order, what });
    }

    fn fail_sync(&mut self) -> io::Result<()> {
        self.syncs += 1;
        if self.faults.fail_sync_at == Some(self.syncs) { Err(rustix::io::Errno::IO.into()) } else { Ok(()) }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn coin(&self) -> bool {
        self.random.next_u64() & 1 == 0
    }

    fn below(&self, bound: usize) -> usize {
        (self.random.next_u64() % bound as u64) as usize
    }
}

fn put(to: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if to.len() < at + bytes.len() {
        to.resize(at + bytes.len(), 0);
    }
    to[at..at + bytes.len()].copy_from_slice(bytes);
}

pub(super) fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

/// The path once `from` is called `to`.
fn below(path: &Path, from: &Path, to: &Path) -> PathBuf {
    match path.strip_prefix(from) {
        Ok(rest) if rest.as_os_str().is_empty() => to.to_owned(),
        Ok(rest) => to.join(rest),
        Err(_) => path.to_owned(),
    }
}
