//! The fetch stream: the broker pushes what the client's credit allows.
//!
//! As with produce, one state machine per stream that moves when the last answer has been taken: a slow reader makes
//! the broker read ahead by one frame and no more. At the end of the log it sleeps until the partition's view changes.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, stream};
use goulette_log::ReadError;
use goulette_proto::{convert::partition_id, pb};
use goulette_records::Batch;
use goulette_types::{GroupName, Offset, PartitionId};
use tokio::sync::watch;
use tonic::{Status, Streaming};

use super::{
    StreamPlace,
    parse::{member_name, name, resolve},
};
use crate::{
    error::RequestError,
    groups::Membership,
    lifecycle::StopSignal,
    node::Node,
    partition::{Partition, View},
};

/// How long a client may take to say what it wants to read.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);
/// A frame holds whole batches up to this many bytes, or one larger batch.
const FRAME_BYTES_MAX: u32 = 1 << 20;

/// The answers of one fetch stream.
pub(super) fn fetch(
    node: Arc<Node>,
    inbound: Streaming<pb::FetchRequest>,
    place: StreamPlace,
) -> impl Stream<Item = Result<pb::FetchResponse, Status>> + Send {
    let opening = Box::new(Opening { node, inbound, _place: place });
    stream::unfold(Stage::Opening(opening), |stage| async move {
        match stage {
            Stage::Opening(opening) => match opening.open().await {
                Ok((reading, first)) => Some((Ok(first), Stage::Reading(reading))),
                Err(error) => Some((Ok(failed(error)), Stage::Ended)),
            },
            Stage::Reading(mut reading) => match reading.next_frame().await {
                Ok(Some(frame)) => Some((Ok(frame), Stage::Reading(reading))),
                Ok(None) => None,
                Err(error) => Some((Ok(failed(error)), Stage::Ended)),
            },
            Stage::Ended => None,
        }
    })
}

enum Stage {
    Opening(Box<Opening>),
    Reading(Box<Reading>),
    Ended,
}

/// A stream that has not said yet what it wants.
struct Opening {
    node: Arc<Node>,
    inbound: Streaming<pb::FetchRequest>,
    _place: StreamPlace,
}

/// A stream that reads one partition.
struct Reading {
    node: Arc<Node>,
    stop: StopSignal,
    inbound: Streaming<pb::FetchRequest>,
    /// Whether the client may still grant more.
    granting: bool,
    partition: Arc<Partition>,
    view: watch::Receiver<View>,
    member: Option<Member>,
    /// The next offset to read.
    next: Offset,
    /// Bytes that may still be sent. A batch that exceeds what is left is sent whole, and the rest is owed.
    credit: i64,
    _place: StreamPlace,
}

struct Member {
    name: String,
    membership: Membership,
}

enum Event {
    Request(Result<Option<pb::FetchRequest>, Status>),
    Changed,
    Replaced(String),
    Stopping,
}

impl Opening {
    async fn open(mut self: Box<Self>) -> Result<(Box<Reading>, pb::FetchResponse), RequestError> {
        let first = tokio::time::timeout(OPEN_DEADLINE, self.inbound.message()).await;
        let first = first.map_err(|_| RequestError::Invalid("the stream was not opened within 10 s".to_owned()))?;
        let request = match first {
            Ok(Some(request)) => request,
            Ok(None) => return Err(RequestError::Invalid("the stream ended before it was opened".to_owned())),
            Err(status) => return Err(RequestError::Invalid(status.message().to_owned())),
        };
        let open = request.open.ok_or_else(|| RequestError::Invalid("the first request must open".to_owned()))?;
        let id = partition_id(&open.topic_id, open.partition).map_err(RequestError::Invalid)?;
        let partition = self.node.partition(id)?;
        partition.led()?;
        let member = join(&self.node, &open, id)?;
        let next = resolve(&self.node, &partition, open.start.as_ref()).await?;
        let view = partition.watch();
        let first = pb::FetchResponse { start: Some(next.0), committed: partition.committed().0, ..Default::default() };
        let reading = Reading {
            stop: self.node.lifecycle.signal(),
            node: self.node,
            inbound: self.inbound,
            granting: true,
            partition,
            view,
            member,
            next,
            credit: credit(request.credit_bytes),
            _place: self._place,
        };
        Ok((Box::new(reading), first))
    }
}

impl Reading {
    /// The next frame of batches, as soon as there is one; none when the client has ended the stream.
    async fn next_frame(&mut self) -> Result<Option<pb::FetchResponse>, RequestError> {
        loop {
            if self.stop.is_stopping() {
                return Err(RequestError::Stopping);
            }
            if let Some(member) = &mut self.member
                && member.membership.is_replaced()
            {
                return Err(RequestError::Replaced { member: member.name.clone() });
            }
            // Marked as seen before it is looked at, so that no change between here and the wait is missed.
            let view = *self.view.borrow_and_update();
            view.led(&self.partition)?;
            if self.credit > 0 && self.next < view.committed {
                return self.read(view.committed).await.map(Some);
            }
            if self.credit <= 0 && !self.granting {
                return Ok(None);
            }
            match self.next_event().await {
                Event::Request(Ok(Some(request))) => {
                    self.credit = self.credit.saturating_add(credit(request.credit_bytes));
                }
                // It wants what it has granted, and no more than that.
                Event::Request(Ok(None)) => self.granting = false,
                Event::Request(Err(_)) => return Ok(None),
                Event::Changed => {}
                Event::Replaced(member) => return Err(RequestError::Replaced { member }),
                Event::Stopping => return Err(RequestError::Stopping),
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        tokio::select! {
            () = self.stop.stopping() => Event::Stopping,
            Some(member) = replaced(self.member.as_mut()) => Event::Replaced(member),
            request = self.inbound.message(), if self.granting => Event::Request(request),
            () = changed(&mut self.view) => Event::Changed,
        }
    }

    async fn read(&mut self, committed: Offset) -> Result<pb::FetchResponse, RequestError> {
        let bytes_max = u32::try_from(self.credit).unwrap_or(u32::MAX).min(FRAME_BYTES_MAX);
        let log = self.partition.log();
        let batches = match log.read_cached(self.next, committed, bytes_max) {
            Some(batches) => Ok(batches),
            None => {
                let (log, next) = (Arc::clone(log), self.next);
                self.node.disk_reads.run(move || log.read(next, committed, bytes_max)).await?
            }
        };
        let batches = match batches {
            Ok(batches) => batches,
            Err(error) => return self.skip(error, committed),
        };
        let Some(last) = batches.last() else {
            return Err(RequestError::Internal(format!("nothing to read at {}, below {committed}", self.next)));
        };
        self.next = last.next_offset();
        let bytes = batches.iter().map(Batch::encoded_bytes).sum::<usize>();
        self.credit -= bytes as i64;
        self.node.metrics.observe_fetch(batches.len(), bytes);
        let batches = batches.iter().map(to_wire).collect();
        Ok(pb::FetchResponse { batches, committed: committed.0, ..Default::default() })
    }

    /// Goes on behind a damaged range, if there is anything. The client hears of the damage before it gets what is
    /// behind it; if it does not want that, it leaves.
    fn skip(&mut self, error: ReadError, committed: Offset) -> Result<pb::FetchResponse, RequestError> {
        match error {
            ReadError::Corrupt { next: Some(next), .. } if next > self.next => {
                self.next = next;
                Ok(pb::FetchResponse {
                    committed: committed.0,
                    error: Some(RequestError::from(error).into()),
                    skip_to: Some(next.0),
                    ..Default::default()
                })
            }
            error => Err(error.into()),
        }
    }
}

fn join(node: &Node, open: &pb::FetchOpen, partition: PartitionId) -> Result<Option<Member>, RequestError> {
    if open.group.is_empty() {
        return Ok(None);
    }
    let group: GroupName = name(&open.group)?;
    let member = member_name(&open.member)?.to_owned();
    match node.groups.join(group, partition, &member) {
        Ok(membership) => Ok(Some(Member { name: member, membership })),
        Err(member) => Err(RequestError::Taken { group: open.group.clone(), member }),
    }
}

async fn replaced(member: Option<&mut Member>) -> Option<String> {
    let member = member?;
    member.membership.replaced().await;
    Some(member.name.clone())
}

async fn changed(view: &mut watch::Receiver<View>) {
    if view.changed().await.is_err() {
        // The partition is gone, and this stream holds the last reference to it: nothing will ever change.
        std::future::pending::<()>().await;
    }
}

fn credit(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn to_wire(batch: &Batch) -> pb::Batch {
    pb::Batch { header: Bytes::copy_from_slice(&batch.header_bytes()), records: batch.records().clone() }
}

fn failed(error: RequestError) -> pb::FetchResponse {
    pb::FetchResponse { error: Some(error.into()), ..Default::default() }
}
