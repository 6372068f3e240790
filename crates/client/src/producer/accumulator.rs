//! Where records wait for their batch to be sent. Lives under the producer's one lock; nothing here waits.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use goulette_records::{BatchBuilder, Compression, HEADER_BYTES, Limits, PushError};
use goulette_types::{PartitionIndex, Timestamp};

use crate::{
    Delivery, ProducerOptions, ProducerRecord, SendError,
    producer::{delivery::Completer, partitioner::Partitioner, window::Window},
};

/// A batch of this producer, numbered in the order of opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BatchId(pub(crate) u64);

/// A batch that no record is added to any more.
#[derive(Debug)]
pub(crate) struct ClosedBatch {
    pub(crate) id: BatchId,
    pub(crate) partition: PartitionIndex,
    pub(crate) builder: BatchBuilder,
    pub(crate) completer: Completer,
    /// When its first record came.
    pub(crate) opened: Instant,
}

impl ClosedBatch {
    /// What its records take of the window.
    pub(crate) fn window_bytes(&self) -> usize {
        self.builder.bytes_so_far() - HEADER_BYTES
    }
}

/// Counters of a producer, from its start on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProducerStats {
    /// Records whose delivery succeeded.
    pub records_acked: u64,
    /// Records whose delivery failed, or is unknown.
    pub records_failed: u64,
    /// Records taken and not yet settled.
    pub records_unacked: u64,
    /// Batches settled.
    pub batches: u64,
}

/// What an append wants of its caller.
#[derive(Debug)]
pub(crate) struct Appended {
    pub(crate) delivery: Delivery,
    /// A batch was opened or closed: the sender has something to look at.
    pub(crate) wake: bool,
}

#[derive(Debug)]
pub(crate) struct Accumulator {
    compression: Compression,
    limits: Limits,
    batch_bytes: usize,
    linger: Duration,
    window: Window,
    partitioner: Partitioner,
    partitions: Vec<Slot>,
    /// The partitions with an open batch, oldest batch first.
    open: BTreeMap<BatchId, PartitionIndex>,
    /// Closed and not yet taken by the sender, in order.
    closed: VecDeque<ClosedBatch>,
    next_batch: BatchId,
    /// Somebody waits for room, or for a flush: whatever is open is due.
    hurry: bool,
    shut: bool,
    stats: ProducerStats,
}

#[derive(Debug, Default)]
struct Slot {
    open: Option<ClosedBatch>,
    /// Batches of this partition that are closed and not settled.
    unsettled: u32,
    /// Bytes of the last batch: about as much room as the next one will need.
    last_bytes: usize,
}

impl Accumulator {
    pub(crate) fn new(options: &ProducerOptions, led: Vec<bool>, random: u64) -> Self {
        Self {
            compression: options.compression,
            limits: Limits { record_bytes_max: options.record_bytes_max, ..Limits::default() },
            batch_bytes: options.batch_bytes,
            linger: options.linger,
            window: Window::new(options.window_records, options.window_bytes),
            partitions: led.iter().map(|_| Slot::default()).collect(),
            partitioner: Partitioner::new(led, random),
            open: BTreeMap::new(),
            closed: VecDeque::new(),
            next_batch: BatchId(0),
            hurry: false,
            shut: false,
            stats: ProducerStats::default(),
        }
    }

    /// Appends to the open batch of the record's partition. `now` is only asked when a batch is opened.
    ///
    /// # Errors
    /// [`SendError::WindowFull`], [`SendError::TooLarge`], [`SendError::NoPartition`], [`SendError::Closed`].
    pub(crate) fn append(
        &mut self,
        record: &ProducerRecord,
        timestamp: Timestamp,
        now: impl Fn() -> Instant,
    ) -> Result<Appended, SendError> {
        if self.shut {
            return Err(SendError::Closed);
        }
        if !self.window.has_room() {
            self.hurry = true;
            return Err(SendError::WindowFull { records: self.window.records() });
        }
        let partition = match record.partition {
            Some(partition) => partition,
            None => self.partitioner.choose(record.key.as_deref()),
        };
        if partition.0 as usize >= self.partitions.len() {
            return Err(SendError::NoPartition { partition: partition.0, partitions: self.partitions.len() });
        }
        let mut wake = false;
        let (delivery, bytes) = loop {
            let batch = match &mut self.partitions[partition.0 as usize].open {
                Some(batch) => batch,
                None => {
                    wake = true;
                    self.open_batch(partition, now())
                }
            };
            let before = batch.builder.bytes_so_far();
            match batch.builder.push(record.key.as_deref(), record.value.as_deref(), &record.headers, timestamp) {
                Ok(()) => {
                    let delivery = batch.completer.delivery(batch.builder.count() - 1);
                    let bytes = batch.builder.bytes_so_far();
                    if bytes >= self.batch_bytes {
                        self.close(partition);
                        wake = true;
                    }
                    break (delivery, bytes - before);
                }
                Err(PushError::Full) => self.close(partition),
                Err(PushError::TooLarge { bytes, bytes_max }) => {
                    self.forget_if_empty(partition);
                    return Err(SendError::TooLarge { bytes, bytes_max });
                }
            }
        };
        self.window.take(bytes);
        Ok(Appended { delivery, wake })
    }

    fn open_batch(&mut self, partition: PartitionIndex, now: Instant) -> &mut ClosedBatch {
        let id = self.next_batch;
        self.next_batch = BatchId(id.0 + 1);
        self.open.insert(id, partition);
        let slot = &mut self.partitions[partition.0 as usize];
        slot.open.insert(ClosedBatch {
            id,
            partition,
            builder: BatchBuilder::with_capacity(self.compression, self.limits, slot.last_bytes),
            completer: Completer::new(partition),
            opened: now,
        })
    }

    /// A batch that was opened for a record that fits no batch.
    fn forget_if_empty(&mut self, partition: PartitionIndex) {
        let slot = &mut self.partitions[partition.0 as usize];
        if let Some(batch) = slot.open.take_if(|batch| batch.builder.is_empty()) {
            self.open.remove(&batch.id);
        }
    }

    fn close(&mut self, partition: PartitionIndex) {
        let slot = &mut self.partitions[partition.0 as usize];
        let batch = slot.open.take().expect("only an open batch is closed");
        slot.unsettled += 1;
        slot.last_bytes = batch.builder.bytes_so_far();
        self.open.remove(&batch.id);
        self.partitioner.batch_closed(partition);
        self.closed.push_back(batch);
    }

    /// Takes the batches to send: closed ones, and open ones that are due, in order.
    ///
    /// An open batch is due when nothing of its partition is under way (so a lone record leaves at once, and under load
    /// a batch gathers while the one before it is written), when it has lingered, or in a hurry.
    pub(crate) fn take_due(&mut self, now: Instant) -> VecDeque<ClosedBatch> {
        let hurry = std::mem::take(&mut self.hurry);
        let due = |(id, partition): (&BatchId, &PartitionIndex)| {
            let slot = &self.partitions[partition.0 as usize];
            let batch = slot.open.as_ref().filter(|batch| batch.id == *id)?;
            (hurry || slot.unsettled == 0 || now >= batch.opened + self.linger).then_some(*partition)
        };
        let due: Vec<_> = self.open.iter().filter_map(due).collect();
        due.into_iter().for_each(|partition| self.close(partition));
        std::mem::take(&mut self.closed)
    }

    /// When the oldest open batch will have lingered.
    pub(crate) fn due_at(&self) -> Option<Instant> {
        let (_, partition) = self.open.first_key_value()?;
        let batch = self.partitions[partition.0 as usize].open.as_ref()?;
        Some(batch.opened + self.linger)
    }

    /// Makes all that is open due, and says which batches exist: those before the one returned.
    pub(crate) fn flush(&mut self) -> BatchId {
        self.hurry = true;
        self.next_batch
    }

    /// A batch taken from here has its outcome: makes room.
    pub(crate) fn settled(&mut self, partition: PartitionIndex, records: u32, bytes: usize, acked: bool) {
        self.partitions[partition.0 as usize].unsettled -= 1;
        self.window.give_back(records as usize, bytes);
        self.stats.batches += 1;
        *(if acked { &mut self.stats.records_acked } else { &mut self.stats.records_failed }) += u64::from(records);
    }

    /// The routes have changed.
    pub(crate) fn set_led(&mut self, led: Vec<bool>) {
        self.partitions.resize_with(led.len().max(self.partitions.len()), Slot::default);
        if led.len() >= self.partitioner.partitions() {
            self.partitioner.set_led(led);
        }
    }

    /// Takes no more records.
    pub(crate) fn shut(&mut self) {
        self.shut = true;
    }

    pub(crate) fn stats(&self) -> ProducerStats {
        ProducerStats { records_unacked: self.window.records() as u64, ..self.stats }
    }
}
