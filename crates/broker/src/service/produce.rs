//! The produce stream: batches in, acks out.
//!
//! One state machine per stream, driven by whoever sends the answers. So a client that does not read its acks is not
//! read from either, and a stream that is dropped leaves nothing behind but the batches that are in the WAL already.

use std::{collections::HashMap, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, stream};
use goulette_log::AppendError;
use goulette_proto::{convert::partition_id, pb};
use goulette_records::Batch;
use goulette_types::{Acks, LeaderEpoch};
use tokio::time::Instant;
use tonic::{Status, Streaming};

use super::{
    StreamPlace,
    acks::{AckQueue, Settled, Window},
    parse,
};
use crate::{
    budget::Charge,
    error::RequestError,
    lifecycle::StopSignal,
    metrics::Metrics,
    node::Node,
    partition::{Partition, Stored},
};

/// How long a batch waits for a log that is full before its producer is told so.
const DISK_PATIENCE: Duration = Duration::from_secs(30);
/// The pause before a full log is asked again.
const DISK_PAUSE: Duration = Duration::from_millis(5);

/// Batches smaller than this are copied.
const COPY_BELOW_BYTES: usize = 16 << 10;

/// The answers of one produce stream.
pub(super) fn produce(
    node: Arc<Node>,
    inbound: Streaming<pb::ProduceRequest>,
    place: StreamPlace,
) -> impl Stream<Item = Result<pb::ProduceResponse, Status>> + Send {
    let stream = ProduceStream {
        stop: node.lifecycle.signal(),
        node,
        inbound,
        acks: Arc::default(),
        windows: HashMap::new(),
        unanswered: 0,
        waiting: None,
        granted: false,
        reading: true,
        last_word: None,
        _place: place,
    };
    stream::unfold(stream, |mut stream| async move {
        let answer = stream.next_answer().await?;
        Some((answer, stream))
    })
}

struct ProduceStream {
    node: Arc<Node>,
    stop: StopSignal,
    inbound: Streaming<pb::ProduceRequest>,
    acks: Arc<AckQueue>,
    /// Batches in flight, per window; only windows that have some.
    windows: HashMap<Window, u32>,
    /// Requests taken in and not yet answered.
    unanswered: usize,
    /// The request that waits for memory or for the disk. Nothing behind it is read meanwhile.
    waiting: Option<Waiting>,
    granted: bool,
    reading: bool,
    /// The status that ends the stream, once everything is answered.
    last_word: Option<Status>,
    _place: StreamPlace,
}

struct Waiting {
    append: Append,
    charge: Pin<Box<dyn Future<Output = Charge> + Send>>,
}

/// A request that has passed all checks.
struct Append {
    request_id: u64,
    partition: Arc<Partition>,
    believed: LeaderEpoch,
    acks: Acks,
    batch: Batch,
    arrived: Instant,
    window: Window,
    /// When the log that was too full to take it is given up; none if it was not.
    patience_until: Option<Instant>,
}

enum Event {
    Settled(Vec<Settled>),
    Charged(Charge),
    Request(Result<Option<pb::ProduceRequest>, Status>),
    Stopping,
    AllAnswered,
}

impl ProduceStream {
    async fn next_answer(&mut self) -> Option<Result<pb::ProduceResponse, Status>> {
        if !std::mem::replace(&mut self.granted, true) {
            return Some(Ok(pb::ProduceResponse { grant: Some(self.grant()), acks: Vec::new() }));
        }
        loop {
            match self.next_event().await {
                Event::Settled(settled) => return Some(Ok(self.answer(settled))),
                Event::Charged(charge) => {
                    let waiting = self.waiting.take().expect("only a waiting request is charged");
                    self.append(waiting.append, charge);
                }
                Event::Request(Ok(Some(request))) => self.take_in(request),
                Event::Request(Ok(None)) => self.reading = false,
                // The connection broke or the client gave up: what is in the WAL stays there.
                Event::Request(Err(status)) => {
                    self.reading = false;
                    self.last_word = Some(status);
                }
                Event::Stopping => {
                    self.reading = false;
                    if let Some(waiting) = self.waiting.take() {
                        let Append { request_id, window, .. } = waiting.append;
                        self.refuse(request_id, Some(window), RequestError::Stopping);
                    }
                    self.last_word = Some(RequestError::Stopping.into());
                }
                Event::AllAnswered => return self.last_word.take().map(Err),
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        let waiting = self.waiting.as_mut();
        let may_read = self.reading && waiting.is_none();
        tokio::select! {
            biased;
            settled = self.acks.take(), if self.unanswered > 0 => Event::Settled(settled),
            Some(charge) = wait(waiting) => Event::Charged(charge),
            () = self.stop.stopping(), if self.reading => Event::Stopping,
            request = self.inbound.message(), if may_read => Event::Request(request),
            else => Event::AllAnswered,
        }
    }

    fn grant(&self) -> pb::Grant {
        let options = self.node.options();
        pb::Grant {
            batches_in_flight: options.batches_in_flight,
            record_bytes_max: options.limits.record_bytes_max,
            batch_bytes_max: options.limits.batch_bytes_max,
        }
    }

    fn answer(&mut self, settled: Vec<Settled>) -> pb::ProduceResponse {
        self.unanswered -= settled.len();
        let mut acks = Vec::with_capacity(settled.len());
        for Settled { ack, window } in settled {
            if let Some(window) = window {
                self.leave(window);
            }
            acks.push(ack);
        }
        pb::ProduceResponse { grant: None, acks }
    }

    fn take_in(&mut self, request: pb::ProduceRequest) {
        self.unanswered += 1;
        let request_id = request.request_id;
        match self.check(request) {
            Ok(append) => {
                // Before the charge: a client that overruns its grant must not hold memory.
                if let Err(error) = self.enter(append.window) {
                    return self.refuse(request_id, None, error);
                }
                let bytes = append.batch.encoded_bytes();
                match self.node.budget.try_charge(bytes) {
                    Some(charge) => self.append(append, charge),
                    None => {
                        let charge = Box::pin(self.node.budget.charge(bytes));
                        self.waiting = Some(Waiting { append, charge });
                    }
                }
            }
            Err(error) => self.refuse(request_id, None, error),
        }
    }

    fn check(&self, request: pb::ProduceRequest) -> Result<Append, RequestError> {
        let acks = parse::acks(request.acks)?;
        let id = partition_id(&request.topic_id, request.partition).map_err(RequestError::Invalid)?;
        let partition = self.node.partition(id)?;
        let believed = LeaderEpoch(request.leader_epoch);
        // Asked again when it is appended; here it spares the checking of a batch that went astray.
        partition.led_in(believed)?;
        let batch = request.batch.ok_or_else(|| RequestError::Invalid("the request has no batch".to_owned()))?;
        let batch = Batch::parse(&batch.header, own(batch.records), &self.node.options().limits)?;
        batch.check_from_client()?;
        let window = (id, batch.producer().map(|producer| producer.id));
        Ok(Append {
            request_id: request.request_id,
            partition,
            believed,
            acks,
            batch,
            arrived: Instant::now(),
            window,
            patience_until: None,
        })
    }

    /// Hands the batch to its partition, which answers through the queue.
    fn append(&mut self, append: Append, charge: Charge) {
        let Append { request_id, acks, window, .. } = append;
        let observe = observe(&append.batch, append.arrived, self.node.metrics.clone());
        let queue = Arc::clone(&self.acks);
        let answer = move |result: Result<Stored, RequestError>| {
            observe(&result);
            let ack = match result {
                Ok(stored) => acknowledged(request_id, stored),
                Err(error) => refused(request_id, error),
            };
            queue.push(Settled { ack, window: Some(window) });
        };
        let (partition, batch) = (&append.partition, append.batch.clone());
        let untaken = partition.append(append.believed, acks, batch, Arc::new(charge), Box::new(answer));
        match untaken {
            Ok(()) => {}
            Err((_, RequestError::Append(AppendError::Busy))) => self.wait_for_the_disk(append),
            Err((answer, error)) => {
                self.node.metrics.observe_refusal(error.kind());
                answer(Err(error));
            }
        }
    }

    /// The log is full of batches that are on their way to the disk. What is behind this batch has to wait too: were it
    /// refused, the sequence of an idempotent producer would have a gap. So the stream is not read until there is room.
    fn wait_for_the_disk(&mut self, mut append: Append) {
        let now = Instant::now();
        let until = *append.patience_until.get_or_insert(now + DISK_PATIENCE);
        if until <= now {
            return self.refuse(append.request_id, Some(append.window), AppendError::Busy.into());
        }
        let charge = self.node.budget.charge(append.batch.encoded_bytes());
        let charge = Box::pin(async move {
            tokio::time::sleep(DISK_PAUSE).await;
            charge.await
        });
        self.waiting = Some(Waiting { append, charge });
    }

    fn refuse(&self, request_id: u64, window: Option<Window>, error: RequestError) {
        self.node.metrics.observe_refusal(error.kind());
        self.acks.push(Settled { ack: refused(request_id, error), window });
    }

    fn enter(&mut self, window: Window) -> Result<(), RequestError> {
        let granted = self.node.options().batches_in_flight;
        let in_flight = self.windows.entry(window).or_insert(0);
        if *in_flight >= granted {
            return Err(RequestError::InFlight { granted });
        }
        *in_flight += 1;
        Ok(())
    }

    fn leave(&mut self, window: Window) {
        if let Some(in_flight) = self.windows.get_mut(&window) {
            *in_flight -= 1;
            if *in_flight == 0 {
                self.windows.remove(&window);
            }
        }
    }
}

/// A small batch in memory of its own: what it came in holds its neighbours too, and would be kept whole for as long as
/// the log keeps any of them.
fn own(records: Bytes) -> Bytes {
    if records.len() < COPY_BELOW_BYTES { Bytes::copy_from_slice(&records) } else { records }
}

async fn wait(waiting: Option<&mut Waiting>) -> Option<Charge> {
    match waiting {
        Some(waiting) => Some(waiting.charge.as_mut().await),
        None => None,
    }
}

/// Counts what was stored of a batch.
pub(super) fn observe(
    batch: &Batch,
    arrived: Instant,
    metrics: Metrics,
) -> impl FnOnce(&Result<Stored, RequestError>) + Send + 'static {
    let (bytes, records) = (batch.encoded_bytes(), batch.record_count());
    move |result| match result {
        Ok(Stored { duplicate: false, .. }) => metrics.observe_append(bytes, records, arrived.elapsed()),
        Ok(Stored { duplicate: true, .. }) => metrics.observe_duplicate(),
        Err(_) => {}
    }
}

fn acknowledged(request_id: u64, stored: Stored) -> pb::ProduceAck {
    let Stored { base_offset, duplicate, acks } = stored;
    pb::ProduceAck {
        request_id,
        // Without an ack nothing is said of what becomes of it.
        base_offset: base_offset.filter(|_| acks != Acks::None).map(|offset| offset.0),
        duplicate: duplicate && acks != Acks::None,
        acks: pb::Acks::from(acks).into(),
        error: None,
    }
}

fn refused(request_id: u64, error: RequestError) -> pb::ProduceAck {
    pb::ProduceAck { request_id, acks: pb::Acks::None.into(), error: Some(error.into()), ..Default::default() }
}
