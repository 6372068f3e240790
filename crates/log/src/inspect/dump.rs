//! The batches one by one.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use goulette_env::OpenMode;
use goulette_records::{Batch, Limits};
use goulette_types::{Offset, PartitionId, PartitionIndex, TopicName};
use goulette_wal::{Wal, WalOptions, segment_name};

use super::{Found, Inspection, replay::parse, walk::walk};
use crate::{
    entry::{Head, Kind},
    fragment::file_name,
    reference::Reference,
};

/// Which batches to show.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Of this topic only.
    pub topic: Option<TopicName>,
    /// Of this partition only.
    pub partition: Option<PartitionIndex>,
    /// With records at this offset or later ones.
    pub from: Offset,
}

/// One place in a file.
#[derive(Debug)]
pub struct Dumped<'a> {
    /// The partition.
    pub id: PartitionId,
    /// Its topic's name.
    pub topic: &'a TopicName,
    /// A fragment, or a segment of the WAL.
    pub file: &'a Path,
    /// In the fragment the batch's first byte, in the WAL its entry's.
    pub position: u64,
    /// What stands there, or what is wrong with it.
    pub batch: Result<Batch, String>,
}

impl Inspection {
    /// Shows batches, and what is damaged between them, until `visit` breaks: partition by partition those in fragments,
    /// then in the order of their appends those that only the WAL is sure to have.
    pub fn dump(&self, selection: &Selection, visit: &mut dyn FnMut(Dumped<'_>) -> ControlFlow<()>) {
        if self.dump_fragments(selection, visit).is_continue() {
            self.dump_wal(selection, visit);
        }
    }

    fn dump_fragments(
        &self,
        selection: &Selection,
        visit: &mut dyn FnMut(Dumped<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        for (&id, found) in self.partitions.iter().filter(|(id, found)| selection.takes(**id, &found.topic)) {
            let topic = &found.topic;
            for (index, state) in found.fragments.iter().enumerate() {
                let end = found.end_of(index);
                if end <= selection.from {
                    continue;
                }
                let path = found.path(state);
                walk(&*self.env.disk, &path, state, end, &found.epochs, &mut |position, batch| {
                    if batch.as_ref().is_ok_and(|batch| batch.next_offset() <= selection.from) {
                        return ControlFlow::Continue(());
                    }
                    visit(Dumped { id, topic, file: &path, position: position.into(), batch })
                })?;
            }
        }
        ControlFlow::Continue(())
    }

    fn dump_wal(&self, selection: &Selection, visit: &mut dyn FnMut(Dumped<'_>) -> ControlFlow<()>) {
        let dir = self.wal_dir();
        let mut segment = (0, PathBuf::new());
        // The second reading. What is wrong with the WAL as a whole was found by the first one, and verify tells it; an
        // entry that is no sound batch was, too.
        let _ = Wal::<()>::recover(&self.env, &dir, WalOptions::default(), self.wal.from, &mut |entry| {
            let Ok((kind, head, rest)) = parse(&entry) else { return Ok(()) };
            let Some(found) = self.partitions.get(&head.partition) else { return Ok(()) };
            if !selection.takes(head.partition, &found.topic) {
                return Ok(());
            }
            if kind == Kind::Reference {
                return match self.dump_referenced(found, selection, &head, &rest, visit) {
                    ControlFlow::Continue(()) => Ok(()),
                    ControlFlow::Break(()) => Err("enough was shown".into()),
                };
            }
            if kind != Kind::Append || head.offset < found.flushed {
                return Ok(());
            }
            if segment.0 != entry.position.segment {
                segment = (entry.position.segment, dir.join(segment_name(entry.position.segment)));
            }
            let batch = Batch::from_bytes(rest, &Limits::WIDEST).map_err(|error| error.to_string());
            if batch.as_ref().is_ok_and(|batch| batch.next_offset() <= selection.from) {
                return Ok(());
            }
            let (id, topic, position) = (head.partition, &found.topic, entry.position.offset.into());
            match visit(Dumped { id, topic, file: &segment.1, position, batch }) {
                ControlFlow::Continue(()) => Ok(()),
                ControlFlow::Break(()) => Err("enough was shown".into()),
            }
        });
    }
}

impl Inspection {
    /// Batches that stand in a fragment behind what the checkpoint knows of it.
    fn dump_referenced(
        &self,
        found: &Found,
        selection: &Selection,
        head: &Head,
        rest: &Bytes,
        visit: &mut dyn FnMut(Dumped<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let Ok(Reference { fragment_base, headers }) = Reference::decode(head, rest) else {
            return ControlFlow::Continue(());
        };
        let file = found.dir.join(file_name(head.fragment, fragment_base));
        let opened = self.env.disk.open(&file, OpenMode::Read);
        let mut position = head.position;
        for header in headers {
            let bytes = header.encoded_bytes();
            if header.base_offset >= found.flushed && header.next_offset() > selection.from {
                let batch = opened.as_ref().map_err(ToString::to_string).and_then(|file| {
                    let mut buffer = vec![0; bytes];
                    file.read_exact_at(&mut buffer, position).map_err(|error| error.to_string())?;
                    let batch = Batch::from_bytes(buffer.into(), &Limits::WIDEST).map_err(|error| error.to_string())?;
                    if *batch.header() == header { Ok(batch) } else { Err("it is not what the WAL refers to".into()) }
                });
                visit(Dumped { id: head.partition, topic: &found.topic, file: &file, position, batch })?;
            }
            position += bytes as u64;
        }
        ControlFlow::Continue(())
    }
}

impl Selection {
    fn takes(&self, id: PartitionId, topic: &TopicName) -> bool {
        self.topic.as_ref().is_none_or(|wanted| wanted == topic)
            && self.partition.is_none_or(|wanted| wanted == id.index)
    }
}
