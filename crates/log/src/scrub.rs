//! The scrub: reads what nobody reads, to find what has rotted while a replica can still give it back.
//!
//! One thread goes through all sealed fragments in the order in which they were last appended to, at a bounded rate, from
//! the disk itself and not from the page cache. It looks at each batch (CRC, offset, epoch), and whether the index files
//! are those of the fragment: damaged ranges are quarantined, index files made anew. How far it has come is kept in a small
//! file, so that a restart goes on there.
//!
//! It drops the pages that it has read. A consumer that reads the same old fragment in the same moment reads them again.

use std::{
    io,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use goulette_env::{Disk, OpenMode};
use goulette_types::{Offset, PartitionId, PartitionIndex, Timestamp, TopicId};

use crate::{
    checkpoint_file::replace_file,
    codec::Reader,
    engine::Engine,
    epochs::Epochs,
    error::{FlushError, Poisoned},
    fragment::read_file,
    index::{Described, Index},
    lock,
    partition::{Kept, Partition},
    source::{Source, in_place},
};

/// The file in the data directory that tells how far the scrub has come.
pub(crate) const FILE: &str = "scrub";
const MAGIC: u32 = u32::from_be_bytes(*b"GLSC");
const VERSION: u32 = 1;
/// Read at once, and then paid for with a pause.
const STEP_BYTES: u64 = 1 << 20;
/// How often the place is stored; more often would cost more than to read a little twice.
const STORE_INTERVAL: Duration = Duration::from_secs(60);
/// A broker that has just started has more urgent things to read.
const START_PAUSE: Duration = Duration::from_secs(10);
/// No pause is longer without a look whether there is an end.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// How old data is looked after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubOptions {
    /// Bytes read in a second, at most; 0: never anything. 16 MiB.
    pub bytes_per_second: u64,
    /// From the beginning of one pass over all fragments to that of the next, at least. 7 days.
    pub interval: Duration,
}

impl Default for ScrubOptions {
    fn default() -> Self {
        Self { bytes_per_second: 16 << 20, interval: Duration::from_secs(7 * 24 * 3600) }
    }
}

/// The scrub in numbers, since the log was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubStats {
    /// Bytes of fragments read.
    pub bytes: u64,
    /// Fragments read to their end.
    pub fragments: u64,
    /// Index files that were not those of their fragment, and were made anew.
    pub indexes_rebuilt: u64,
    /// Passes over all fragments that came to their end.
    pub passes: u64,
}

/// What the scrub's thread shares with whoever asks.
#[derive(Default)]
pub(crate) struct Scrub {
    bytes: AtomicU64,
    fragments: AtomicU64,
    indexes_rebuilt: AtomicU64,
    passes: AtomicU64,
    pub(crate) paused: AtomicBool,
}

impl Scrub {
    pub(crate) fn stats(&self) -> ScrubStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ScrubStats {
            bytes: read(&self.bytes),
            fragments: read(&self.fragments),
            indexes_rebuilt: read(&self.indexes_rebuilt),
            passes: read(&self.passes),
        }
    }
}

/// A fragment's place in the order of a pass.
type Place = (Timestamp, PartitionId, u32);

/// How far a pass has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Progress {
    /// When the pass began.
    begun: Timestamp,
    /// The last fragment that was read; none if none was.
    last: Option<Place>,
    /// It has come to its end.
    done: bool,
}

/// Nothing more is to be done now.
struct Ended;

/// The thread's work: one pass after the other, until `stopped` says so.
pub(crate) fn run(engine: &Engine, stopped: &dyn Fn() -> bool) {
    let options = engine.options.scrub;
    if options.bytes_per_second == 0 {
        return;
    }
    let pause = |length: Duration| pause(engine, length, stopped);
    if pause(START_PAUSE).is_err() {
        return;
    }
    let mut progress = Progress::load(engine).unwrap_or(Progress { begun: engine.wall(), last: None, done: false });
    loop {
        if progress.done {
            let next = progress.begun.0.saturating_add(i64::try_from(options.interval.as_millis()).unwrap_or(i64::MAX));
            if engine.wall().0 < next {
                match pause(PAUSE_MAX) {
                    Ok(()) => continue,
                    Err(Ended) => return,
                }
            }
            progress = Progress { begun: engine.wall(), last: None, done: false };
        }
        if pass(engine, &mut progress, &pause).is_err() {
            return progress.store(engine);
        }
    }
}

/// One pass over everything from where it stopped, without pauses: for whoever cannot wait.
pub(crate) fn run_once(engine: &Engine) {
    let mut progress = Progress { begun: engine.wall(), last: None, done: false };
    let _ = pass(engine, &mut progress, &|_| Ok(()));
}

/// Waits, for as long as the scrub is paused too.
fn pause(engine: &Engine, length: Duration, stopped: &dyn Fn() -> bool) -> Result<(), Ended> {
    let mut length = length;
    loop {
        engine.scrub_trigger.wait(length.min(PAUSE_MAX));
        if stopped() || engine.poisoned().is_some() {
            return Err(Ended);
        }
        if !engine.scrub.paused.load(Ordering::Relaxed) {
            return Ok(());
        }
        length = PAUSE_MAX;
    }
}

fn pass(engine: &Engine, progress: &mut Progress, pause: &dyn Fn(Duration) -> Result<(), Ended>) -> Result<(), Ended> {
    let mut stored = engine.env.clock.now();
    for (place, id) in fragments_behind(engine, progress.last) {
        // Gone meanwhile, perhaps.
        if let Some(partition) = engine.partition(id)
            && let Some((kept, epochs, end)) = partition.sealed(place.2)
        {
            scrub(engine, &partition, &kept, &epochs, end, pause)?;
            engine.scrub.fragments.fetch_add(1, Ordering::Relaxed);
        }
        progress.last = Some(place);
        let now = engine.env.clock.now();
        if now.saturating_sub(stored) >= STORE_INTERVAL {
            stored = now;
            progress.store(engine);
        }
    }
    progress.done = true;
    engine.scrub.passes.fetch_add(1, Ordering::Relaxed);
    progress.store(engine);
    Ok(())
}

/// The sealed fragments that are yet to be read, in order.
fn fragments_behind(engine: &Engine, last: Option<Place>) -> Vec<(Place, PartitionId)> {
    let mut found = Vec::new();
    for partition in engine.partitions() {
        let id = partition.id();
        let state = lock(partition.state());
        let sealed = state.fragments.iter().filter(|kept| kept.state.sealed);
        found.extend(sealed.map(|kept| ((kept.state.last_append, id, kept.state.number), id)));
    }
    found.retain(|(place, _)| last.is_none_or(|last| *place > last));
    found.sort_unstable();
    found
}

/// Reads one fragment, then its index files.
fn scrub(
    engine: &Engine,
    partition: &Partition,
    kept: &Kept,
    epochs: &Epochs,
    end: Offset,
    pause: &dyn Fn(Duration) -> Result<(), Ended>,
) -> Result<(), Ended> {
    let disk = &*engine.env.disk;
    // A descriptor of its own: a consumer's place in the cache of open files is not taken.
    let opened = disk.open(kept.fragment.path(), OpenMode::Read).and_then(|file| file.drop_cache(0, 0).map(|()| file));
    let Ok(file) = opened else {
        // Readers tell what is wrong with it, if it has not just gone.
        let _ = partition.read(kept.state.base, end, 0);
        return Ok(());
    };
    let length = kept.state.length;
    let mut source = Source::new(length, |buffer, position| file.read_exact_at(buffer, position));
    let mut index = Index::new(kept.state.number, kept.state.base);
    let (mut position, mut offset, mut whole, mut paid) = (0, kept.state.base, true, 0);
    while position < length {
        match source.batch(position).and_then(|batch| in_place(batch, offset, epochs)) {
            Ok(batch) => {
                index.note(batch.header(), &batch.header_bytes());
                position += batch.encoded_bytes() as u32;
                offset = batch.next_offset();
            }
            Err(reason) => {
                whole = false;
                let damage = partition.quarantine(kept, position, offset, reason);
                // Always further on.
                (position, offset) = ((damage.bytes.end as u32).max(position + 1), damage.offsets.end);
            }
        }
        let unpaid = u64::from(position) - paid;
        if unpaid >= STEP_BYTES || position >= length {
            engine.scrub.bytes.fetch_add(unpaid, Ordering::Relaxed);
            paid += unpaid;
            // Clean pages all: whoever else wants them reads them again.
            let _ = file.drop_cache(0, 0);
            pause(Duration::from_secs_f64(unpaid as f64 / engine.options.scrub.bytes_per_second.max(1) as f64))?;
        }
    }
    if whole && offset != end {
        partition.quarantine(kept, length, offset, format!("the fragment ends at offset {offset} instead of {end}"));
    } else if whole {
        check_index(engine, partition, kept, &index);
    }
    Ok(())
}

/// Compares the index files with what the fragment says, and makes them anew if they differ. Files that are not there are
/// left so: they are made when they are needed.
fn check_index(engine: &Engine, partition: &Partition, kept: &Kept, index: &Index) {
    let disk = &*engine.env.disk;
    let stored = |extension| read_from_disk(disk, &kept.fragment.path().with_extension(extension));
    let (offsets, times) = match (stored("index"), stored("timeindex")) {
        (Ok(offsets), Ok(times)) => (offsets, times),
        (offsets, times) => {
            let missing =
                |read: &io::Result<Vec<u8>>| read.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
            if missing(&offsets) && missing(&times) {
                return;
            }
            (offsets.unwrap_or_default(), times.unwrap_or_default())
        }
    };
    let describes = Described { number: kept.state.number, base: kept.state.base, length: kept.state.length };
    // The headers' checksum is in it: so a field that nothing else vouches for is the same as when it was sealed.
    if Index::decode(&offsets, &times, describes).as_ref() == Some(index) {
        return;
    }
    // Not under the hands of a removal: files that come back would be taken for lost ones.
    let _no_removal = lock(&engine.checkpointing);
    if partition.sealed(kept.state.number).is_none() {
        return;
    }
    for (extension, bytes) in [("index", index.encode_offsets()), ("timeindex", index.encode_times())] {
        let path = kept.fragment.path().with_extension(extension);
        let written = disk.open(&path, OpenMode::CreateOrOpen).and_then(|file| {
            file.set_len(0)?;
            file.write_all_at(&bytes, 0)?;
            Ok(file)
        });
        // Nothing depends on it: readers do without, and the next pass tries again.
        let Ok(file) = written else { return };
        if let Err(error) = file.sync_data() {
            return engine.poison(format!("cannot sync {}: {error}", path.display()));
        }
    }
    engine.scrub.indexes_rebuilt.fetch_add(1, Ordering::Relaxed);
}

/// Reads a small file past the page cache.
fn read_from_disk(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    disk.open(path, OpenMode::Read)?.drop_cache(0, 0)?;
    read_file(disk, path)
}

impl Partition {
    /// A sealed fragment by its number, with the epochs, and the offset where it ends; none if it is not there.
    fn sealed(&self, number: u32) -> Option<(Kept, Epochs, Offset)> {
        let state = lock(self.state());
        let index = state.fragments.partition_point(|kept| kept.state.number < number);
        let kept = state.fragments.get(index).filter(|kept| kept.state.number == number && kept.state.sealed)?;
        let end = state.fragments.get(index + 1).map_or(state.flushed, |next| next.state.base);
        Some((kept.clone(), state.epochs.clone(), end))
    }
}

impl Progress {
    /// None if there is none, or none that can be read: then the pass begins anew.
    fn load(engine: &Engine) -> Option<Self> {
        let bytes = read_file(&*engine.env.disk, &engine.dir.join(FILE)).ok()?;
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        if crc32c::crc32c(body) != u32::from_be_bytes(*crc) {
            return None;
        }
        Self::decode(body)
    }

    fn decode(body: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(body);
        if (reader.u32().ok()?, reader.u32().ok()?) != (MAGIC, VERSION) {
            return None;
        }
        let (begun, done, has_last) = (Timestamp(reader.i64().ok()?), reader.u8().ok()?, reader.u8().ok()?);
        let appended = Timestamp(reader.i64().ok()?);
        let id = PartitionId { topic: TopicId(reader.u128().ok()?), index: PartitionIndex(reader.u32().ok()?) };
        let number = reader.u32().ok()?;
        Some(Self { begun, last: (has_last != 0).then_some((appended, id, number)), done: done != 0 })
    }

    fn encode(&self) -> Vec<u8> {
        let (appended, id, number) =
            self.last.unwrap_or((Timestamp(0), PartitionId { topic: TopicId(0), index: PartitionIndex(0) }, 0));
        let mut out = Vec::new();
        out.extend_from_slice(&MAGIC.to_be_bytes());
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&self.begun.0.to_be_bytes());
        out.extend_from_slice(&[u8::from(self.done), u8::from(self.last.is_some())]);
        out.extend_from_slice(&appended.0.to_be_bytes());
        out.extend_from_slice(&id.topic.to_bytes());
        out.extend_from_slice(&id.index.0.to_be_bytes());
        out.extend_from_slice(&number.to_be_bytes());
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_be_bytes());
        out
    }

    /// Where there is no space for it, a little is read again.
    fn store(&self, engine: &Engine) {
        if engine.poisoned().is_some() {
            return;
        }
        match replace_file(&*engine.env.disk, &engine.dir, FILE, &self.encode()) {
            Ok(_) | Err(FlushError::StorageFull { .. }) => {}
            Err(FlushError::Poisoned(Poisoned { reason })) => engine.poison(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_reads_back() {
        let id = PartitionId { topic: TopicId(u128::MAX - 1), index: PartitionIndex(3) };
        for (last, done) in [(None, true), (Some((Timestamp(-4), id, 9)), false)] {
            let progress = Progress { begun: Timestamp(77), last, done };
            let bytes = progress.encode();
            assert_eq!(Progress::decode(&bytes[..bytes.len() - 4]), Some(progress));
            assert_eq!(Progress::decode(&bytes[..bytes.len() - 5]), None);
        }
    }
}
