//! The batches one by one.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use goulette_records::{Batch, Limits};
use goulette_types::{Offset, PartitionId, PartitionIndex, TopicName};
use goulette_wal::{Wal, WalOptions, segment_name};

use super::{Inspection, parse, walk::walk};
use crate::entry::Kind;

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
            let Ok((Kind::Append, head, batch)) = parse(&entry) else { return Ok(()) };
            let Some(found) = self.partitions.get(&head.partition) else { return Ok(()) };
            if head.offset < found.flushed || !selection.takes(head.partition, &found.topic) {
                return Ok(());
            }
            if segment.0 != entry.position.segment {
                segment = (entry.position.segment, dir.join(segment_name(entry.position.segment)));
            }
            let batch = Batch::from_bytes(batch, &Limits::WIDEST).map_err(|error| error.to_string());
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

impl Selection {
    fn takes(&self, id: PartitionId, topic: &TopicName) -> bool {
        self.topic.as_ref().is_none_or(|wanted| wanted == topic)
            && self.partition.is_none_or(|wanted| wanted == id.index)
    }
}
