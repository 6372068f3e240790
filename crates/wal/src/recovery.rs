//! Reading a log back: what the disk holds, not what the page cache says.
//!
//! Every file of the tail is synced, its pages dropped, and only then read. A process that died behind a failed sync
//! leaves pages that look written and are not; whoever builds on them loses them with the next power cut.
//!
//! A bad entry is a *torn tail* exactly when nothing of a later group is found: then its group was never acknowledged
//! (a group is written only after the sync of the one before), and everything from it on is dropped, sound or not.
//! Otherwise it is a *corruption*: something acknowledged is gone. Nothing behind it is visited.

use std::{
    collections::BTreeSet,
    fmt, io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use goulette_env::{DiskFile, Env, OpenMode};

use crate::{
    entry::stored_bytes,
    error::{Doing, Failure, OpenError, RecoverError, VisitError},
    options::WalOptions,
    pool::retire,
    position::WalPosition,
    segment::{
        FIRST_ENTRY, FORMAT_VERSION, GROUP_ALIGN, HEADER_BYTES, HeaderError, Link, SegmentHeader, SegmentReader,
        lost_name, parse_segment_name, segment_name,
    },
};

/// An entry as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredEntry {
    /// Where it begins.
    pub position: WalPosition,
    /// Where the next one begins.
    pub end: WalPosition,
    /// The caller's kind.
    pub kind: u8,
    /// The payload, in memory of its own.
    pub payload: Bytes,
}

/// Acknowledged bytes that are gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corruption {
    /// The segment in which what is sound ends; what is damaged is here or at the beginning of the next one.
    pub segment: u64,
    /// Where in it that is.
    pub offset: u32,
    /// The segment's file.
    pub file: PathBuf,
}

/// A group that was being written when the machine or the process stopped: dropped from here on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Torn {
    /// Where the first bad entry would be.
    pub position: WalPosition,
}

/// A log that was read, ready to be opened.
pub struct Recovery {
    /// The end of what was read: the next opening goes on behind it, in a new segment.
    pub end: WalPosition,
    /// What was dropped because it was never acknowledged, if anything was.
    pub torn: Option<Torn>,
    /// What was acknowledged and cannot be read. Record that durably before [`accept_loss`](Self::accept_loss): once
    /// the log is opened, the next recovery does not find it again.
    pub lost: Option<Corruption>,
    /// The entries visited.
    pub entries: u64,
    pub(crate) env: Env,
    pub(crate) dir: PathBuf,
    pub(crate) options: WalOptions,
    /// The log's id; of a log that has no segment yet the one that it gets.
    pub(crate) log: u128,
    /// All segments in the folder.
    pub(crate) segments: BTreeSet<u64>,
    /// The last group read, in full or in part.
    pub(crate) group: u64,
    accepted: bool,
}

impl fmt::Debug for Recovery {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { end, torn, lost, entries, .. } = self;
        let mut out = out.debug_struct("Recovery");
        out.field("end", end).field("torn", torn).field("lost", lost).field("entries", entries).finish_non_exhaustive()
    }
}

impl Recovery {
    /// The id of the log that was read, or that a new one gets.
    pub fn log(&self) -> u128 {
        self.log
    }

    /// Lets the log be opened though acknowledged entries are gone: from then on it ends where the sound ones end.
    /// The segments behind the corruption are kept, renamed to `*.lost`.
    pub fn accept_loss(&mut self) {
        self.accepted = true;
    }

    /// Takes the segments behind the end out of the log, so that the next one follows its predecessor.
    pub(crate) fn clear_behind_end(&mut self) -> Result<(), OpenError> {
        if let (Some(lost), false) = (&self.lost, self.accepted) {
            let position = WalPosition { segment: lost.segment, offset: lost.offset };
            return Err(OpenError::LossNotAccepted { position });
        }
        // From the last one down: what a crash leaves of them has no gap.
        while let Some(segment) = self.segments.pop_last() {
            if segment <= self.end.segment {
                self.segments.insert(segment);
                break;
            }
            if self.lost.is_some() {
                let from = self.dir.join(segment_name(segment));
                let to = self.dir.join(lost_name(segment, self.env.random.next_u64()));
                self.env.disk.rename(&from, &to).doing("rename", &from)?;
                self.env.disk.sync_dir(&self.dir).doing("sync", &self.dir)?;
            } else {
                // Prepared, or with a first group that was never acknowledged.
                retire(&self.env, &self.dir, segment)?;
            }
        }
        Ok(())
    }
}

/// A segment of the tail.
struct Found {
    segment: u64,
    path: PathBuf,
    file: Box<dyn DiskFile>,
    /// None if it is corrupt.
    header: Option<SegmentHeader>,
    /// The group of the link, and the link. None if the segment was only prepared (or if the link is corrupt).
    link: Option<(u64, Link)>,
}

pub(crate) fn recover(
    env: &Env,
    dir: &Path,
    options: WalOptions,
    from: Option<WalPosition>,
    visit: &mut dyn FnMut(RecoveredEntry) -> Result<(), VisitError>,
) -> Result<Recovery, RecoverError> {
    let mistakes = options.mistakes();
    if !mistakes.is_empty() {
        return Err(RecoverError::Options(mistakes));
    }
    let mut recovery = Recovery {
        log: options.log.unwrap_or_else(|| env.random.next_id()),
        end: WalPosition { segment: 0, offset: 0 },
        torn: None,
        lost: None,
        entries: 0,
        env: env.clone(),
        dir: dir.to_owned(),
        options,
        segments: list(env, dir)?,
        group: 0,
        accepted: false,
    };
    // The end of an empty log is before its first segment.
    let from = from.filter(|from| from.segment > 0);
    let Some(&oldest) = recovery.segments.first() else {
        return match from {
            Some(from) => Err(RecoverError::Missing { file: dir.join(segment_name(from.segment)) }),
            None => Ok(recovery),
        };
    };
    let first = from.map_or(oldest, |from| from.segment);
    let tail = open_tail(env, dir, first, &recovery.segments, recovery.options.log)?;
    recovery.log = tail.iter().find_map(|found| found.header).map_or(recovery.log, |header| header.log);
    Walk { recovery: &mut recovery, partial: false, from, visit }.run(&tail)?;
    Ok(recovery)
}

/// The segments in the folder, whose names are then durable.
fn list(env: &Env, dir: &Path) -> Result<BTreeSet<u64>, Failure> {
    if !env.disk.exists(dir).doing("find", dir)? {
        return Ok(BTreeSet::new());
    }
    env.disk.sync_dir(dir).doing("sync", dir)?;
    let entries = env.disk.read_dir(dir).doing("list", dir)?;
    Ok(entries.iter().filter_map(|entry| parse_segment_name(&entry.name)).filter(|&segment| segment > 0).collect())
}

/// Opens the segments from `first` on and checks that each is what its name says.
fn open_tail(
    env: &Env,
    dir: &Path,
    first: u64,
    segments: &BTreeSet<u64>,
    mut log: Option<u128>,
) -> Result<Vec<Found>, RecoverError> {
    let last = segments.last().copied().unwrap_or(0).max(first);
    let mut tail = Vec::new();
    // Not over a range of numbers: a name may claim any.
    for (expected, segment) in (first..=last).zip(segments.range(first..).map(Some).chain(std::iter::once(None))) {
        let path = dir.join(segment_name(expected));
        if segment != Some(&expected) {
            return Err(RecoverError::Missing { file: path });
        }
        let file = env.disk.open(&path, OpenMode::Read).doing("open", &path)?;
        file.sync_data().doing("sync", &path)?;
        if cfg!(not(goulette_bug = "no_page_drop")) {
            file.drop_cache(0, 0).doing("drop the cached pages of", &path)?;
        }
        let header = match read_header(&*file).doing("read", &path)? {
            Ok(header) => Some(header),
            Err(HeaderError::Corrupt) => None,
            Err(HeaderError::Version(found)) => {
                return Err(RecoverError::Version { file: path, found, known: FORMAT_VERSION });
            }
        };
        let mut link = None;
        if let Some(header) = &header {
            if header.segment != expected {
                return Err(RecoverError::Renamed { file: path, found: header.segment });
            }
            let log = *log.get_or_insert(header.log);
            if header.log != log {
                return Err(RecoverError::OtherLog { file: path, found: header.log, expected: log });
            }
            let found = SegmentReader::new(&*file, header).and_then(|mut reader| reader.link()).doing("read", &path)?;
            link = found.map(|(header, link)| (header.group, link));
        }
        tail.push(Found { segment: expected, path, file, header, link });
    }
    Ok(tail)
}

fn read_header(file: &dyn DiskFile) -> io::Result<Result<SegmentHeader, HeaderError>> {
    let mut bytes = [0; HEADER_BYTES];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => Ok(SegmentHeader::decode(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Err(HeaderError::Corrupt)),
        Err(error) => Err(error),
    }
}

/// The walk through the tail.
struct Walk<'a> {
    recovery: &'a mut Recovery,
    /// Whether the last entry was not the last one of its group.
    partial: bool,
    from: Option<WalPosition>,
    visit: &'a mut dyn FnMut(RecoveredEntry) -> Result<(), VisitError>,
}

impl Walk<'_> {
    fn run(&mut self, tail: &[Found]) -> Result<(), RecoverError> {
        let first = &tail[0];
        let (group, link) = first.link.unwrap_or((1, Link { segment: first.segment - 1, end: 0 }));
        self.recovery.end = WalPosition { segment: first.segment - 1, offset: link.end };
        self.recovery.group = group.saturating_sub(1);
        // Segments behind the last link were prepared, not begun.
        let begun = tail.iter().rposition(|found| found.link.is_some()).map_or(0, |index| index + 1);
        for (index, found) in tail[..begun].iter().enumerate() {
            let next_link = tail[index + 1..begun].first().and_then(|next| next.link);
            let stated_end = next_link.map(|(_, link)| link.end);
            let at = |offset| WalPosition { segment: found.segment, offset };
            if let Some((group, link)) = next_link
                && self.from == Some(at(link.end))
            {
                // Nothing of this segment is asked for. It may even be unreadable, and its loss accepted long ago.
                self.recovery.end = at(link.end);
                self.recovery.group = group.saturating_sub(1);
                continue;
            }
            let (Some(header), true) = (found.header, self.follows(found)) else {
                self.lose(found, if found.header.is_some() { FIRST_ENTRY } else { 0 });
                return Ok(());
            };
            self.walk_segment(found, &header, stated_end)?;
            if self.recovery.lost.is_some() {
                return Ok(());
            }
            // A begun successor proves that all of this segment had been synced. (One whose link cannot be read comes
            // next, and is the loss.)
            if stated_end.is_some_and(|end| end != self.recovery.end.offset) {
                self.lose(found, self.recovery.end.offset);
                return Ok(());
            }
        }
        self.judge_end(tail, begun)
    }

    /// Whether the segment's link says that it follows what was read so far.
    fn follows(&self, found: &Found) -> bool {
        found.link.is_some_and(|(group, link)| {
            link.segment == found.segment - 1 && Some(group) == self.recovery.group.checked_add(1)
        })
    }

    /// The group of the entry that would come next.
    fn next_group(&self) -> u64 {
        self.recovery.group.saturating_add(u64::from(!self.partial))
    }

    /// Visits the segment's entries up to the stated end, else up to the first bad one; `recovery.end` says where.
    fn walk_segment(
        &mut self,
        found: &Found,
        header: &SegmentHeader,
        stated_end: Option<u32>,
    ) -> Result<(), RecoverError> {
        let mut reader = SegmentReader::new(&*found.file, header).doing("read", &found.path)?;
        let limit = stated_end.unwrap_or(u32::MAX);
        let from = self.from.filter(|from| from.segment == found.segment);
        let visit_from = from.map_or(FIRST_ENTRY, |from| from.offset.max(FIRST_ENTRY));
        let at = |offset| WalPosition { segment: found.segment, offset };
        let misplaced = || RecoverError::Position { file: found.path.clone(), from: at(visit_from) };
        self.partial = false;
        let mut offset = FIRST_ENTRY;
        // Where a header in the part that is not asked for is bad. No harm, if the part that is asked for is there.
        let mut skipped = None;
        loop {
            self.recovery.end = at(offset);
            if stated_end == Some(offset) {
                return if offset < visit_from { Err(misplaced()) } else { Ok(()) };
            }
            let expected = self.next_group();
            let entry = reader.header_at(offset, limit);
            let entry = entry.doing("read", &found.path)?.filter(|entry| {
                (entry.group == expected || skipped.is_some() && entry.group > expected)
                    && entry.is_link() == (offset == FIRST_ENTRY)
            });
            let Some(entry) = entry else {
                if offset < visit_from {
                    skipped = Some(offset);
                    offset = visit_from;
                    continue;
                }
                if let Some(skipped) = skipped {
                    self.lose(found, skipped);
                }
                return Ok(());
            };
            skipped = None;
            let mut next = offset + stored_bytes(entry.payload_bytes.into()) as u32;
            if entry.is_last() {
                next = next.next_multiple_of(GROUP_ALIGN);
            }
            if next > limit {
                return Ok(());
            }
            if offset < visit_from && next > visit_from {
                return Err(misplaced());
            }
            if offset >= visit_from {
                let payload = reader.payload_at(offset, &entry).doing("read", &found.path)?;
                let Some(payload) = payload else { return Ok(()) };
                if !entry.is_link() {
                    let (position, end) = (at(offset), at(next));
                    (self.visit)(RecoveredEntry { position, end, kind: entry.kind, payload })
                        .map_err(|source| RecoverError::Visit { position, source })?;
                    self.recovery.entries += 1;
                }
            }
            self.recovery.group = entry.group;
            self.partial = !entry.is_last();
            offset = next;
        }
    }

    /// Tells a torn tail from a corruption, once all begun segments were walked.
    fn judge_end(&mut self, tail: &[Found], begun: usize) -> Result<(), RecoverError> {
        let end = self.recovery.end;
        let torn_group = self.next_group();
        let (mut highest, mut latest) = (0, torn_group);
        for found in &tail[begun.saturating_sub(1)..] {
            let Some(header) = &found.header else {
                // Perhaps never begun; but nobody can tell any more.
                self.lose(found, 0);
                return Ok(());
            };
            let offset = if found.segment == end.segment { end.offset } else { FIRST_ENTRY };
            let group = SegmentReader::new(&*found.file, header)
                .and_then(|mut reader| reader.highest_group_from(offset, torn_group, latest))
                .doing("read", &found.path)?;
            highest = highest.max(group);
            latest = latest.saturating_add(u64::from(header.segment_bytes.saturating_sub(offset) / GROUP_ALIGN));
        }
        // The folder's first segment is always a begun one, but in a log that crashed while it was made.
        let headless = begun == 0 && (tail[0].segment > 1 || self.from.is_some());
        if headless || highest > torn_group {
            let found = &tail[begun.saturating_sub(1)];
            self.lose(found, if begun == 0 { FIRST_ENTRY } else { end.offset });
        } else if self.partial || highest > 0 {
            self.recovery.torn = Some(Torn { position: end });
        }
        Ok(())
    }

    fn lose(&mut self, found: &Found, offset: u32) {
        // The log never ends before the position from which it is read, and a next recovery will read from it again.
        self.recovery.end = self.from.map_or(self.recovery.end, |from| from.max(self.recovery.end));
        self.recovery.lost = Some(Corruption { segment: found.segment, offset, file: found.path.clone() });
    }
}
