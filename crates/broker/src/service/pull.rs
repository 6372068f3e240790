//! `Pull`: the simple way out, for programs that do not take batches apart. Here the broker does it for them.

use std::{sync::Arc, time::Duration};

use goulette_log::ReadError;
use goulette_proto::pb;
use goulette_records::{Limits, Record};
use goulette_types::{Offset, PartitionIndex};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::parse::{find, led, name, resolve};
use crate::{
    error::RequestError,
    lifecycle::StopSignal,
    node::Node,
    partition::{Partition, View},
};

const RECORDS_DEFAULT: u32 = 1_000;
const RECORDS_MAX: u32 = 100_000;
const BYTES_DEFAULT: u32 = 1 << 20;
const BYTES_MAX: u32 = 8 << 20;
const WAIT_MS_MAX: u32 = 30_000;
/// What a record costs in the answer besides its key, value and headers.
const RECORD_OVERHEAD: usize = 16;

pub(super) async fn pull(node: &Node, request: pb::PullRequest) -> Result<pb::PullResponse, RequestError> {
    let led = led(node, &name(&request.topic)?)?;
    let partition = &led[find(&led, &request.topic, PartitionIndex(request.partition))?];
    let start = resolve(node, partition, request.start.as_ref()).await?;
    let deadline = Instant::now() + Duration::from_millis(request.wait_ms.min(WAIT_MS_MAX).into());
    let committed = readable(node, partition, start, deadline).await?;
    let mut taken = Taken {
        records: Vec::new(),
        next: start,
        records_left: default(request.records_max, RECORDS_DEFAULT).min(RECORDS_MAX) as usize,
        bytes_left: default(request.bytes_max, BYTES_DEFAULT).min(BYTES_MAX) as usize,
    };
    if start < committed {
        let (log, limits) = (Arc::clone(partition.log()), node.options().limits);
        // Decoding belongs there too: decompressed, a batch is many times as large.
        taken = node.disk_reads.run(move || taken.fill(&log, committed, &limits)).await??;
    }
    Ok(pb::PullResponse { records: taken.records, next: taken.next.0, committed: committed.0 })
}

/// Waits for a record at `start`; returns what is committed then, or at the deadline.
async fn readable(
    node: &Node,
    partition: &Partition,
    start: Offset,
    deadline: Instant,
) -> Result<Offset, RequestError> {
    let mut view: watch::Receiver<View> = partition.watch();
    let mut stop: StopSignal = node.lifecycle.signal();
    loop {
        let seen = *view.borrow_and_update();
        seen.led(partition)?;
        if start < seen.committed {
            return Ok(seen.committed);
        }
        tokio::select! {
            changed = timeout_at(deadline, view.changed()) => if changed.is_err() {
                return Ok(seen.committed);
            },
            () = stop.stopping() => return Err(RequestError::Stopping),
        }
    }
}

/// The records of an answer.
struct Taken {
    records: Vec<pb::Record>,
    next: Offset,
    records_left: usize,
    bytes_left: usize,
}

impl Taken {
    /// Takes records while they fit, and at least one. What cannot be read ends the answer, unless it is the first.
    fn fill(mut self, log: &goulette_log::Partition, committed: Offset, limits: &Limits) -> Result<Self, RequestError> {
        while self.next < committed {
            let before = self.next;
            match self.take_some(log, committed, limits) {
                Ok(full) if full || self.next == before => break,
                Ok(_) => {}
                Err(_) if !self.records.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(self)
    }

    /// Takes from the next batches; says whether no more fits.
    fn take_some(
        &mut self,
        log: &goulette_log::Partition,
        committed: Offset,
        limits: &Limits,
    ) -> Result<bool, RequestError> {
        for batch in log.read(self.next, committed, self.bytes_left as u32)? {
            let decode = |source| ReadError::Decode { offset: batch.base_offset(), source };
            for record in batch.iter(limits).map_err(decode)? {
                let record = record.map_err(decode)?;
                if record.offset < self.next {
                    continue;
                }
                let bytes = bytes(&record);
                if self.records_left == 0 || (bytes > self.bytes_left && !self.records.is_empty()) {
                    return Ok(true);
                }
                self.records_left -= 1;
                self.bytes_left = self.bytes_left.saturating_sub(bytes);
                self.next = record.offset.plus(1);
                self.records.push(to_wire(record));
            }
        }
        Ok(self.records_left == 0 || self.bytes_left == 0)
    }
}

fn default(given: u32, default: u32) -> u32 {
    if given == 0 { default } else { given }
}

fn bytes(record: &Record) -> usize {
    let headers: usize = record
        .headers
        .iter()
        .map(|header| RECORD_OVERHEAD + header.key.len() + header.value.as_ref().map_or(0, bytes::Bytes::len))
        .sum();
    let fields = [&record.key, &record.value].into_iter().flatten().map(bytes::Bytes::len).sum::<usize>();
    RECORD_OVERHEAD + fields + headers
}

fn to_wire(record: Record) -> pb::Record {
    pb::Record {
        headers: record
            .headers
            .into_iter()
            .map(|header| pb::Header { key: header.name().into_owned(), value: header.value })
            .collect(),
        timestamp_ms: Some(record.timestamp.0),
        offset: record.offset.0,
        key: record.key,
        value: record.value,
    }
}
