//! One partition's stream, kept open: where to start, what to do when it breaks, and how batches become records.

use std::sync::Arc;

use goulette_proto::pb;
use goulette_records::{Batch, Header, Records};
use goulette_types::{ErrorKind, Offset, PartitionIndex};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use crate::{
    ClientError, ConsumeError, Leader, PartitionOffsets, ResetPolicy, Start, TopicRoutes,
    client::call_error,
    connection,
    consumer::{
        api::Chunk,
        credit::{Credit, Held},
        setup::Setup,
    },
};

/// What a fetcher tells its consumer.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) partition: PartitionIndex,
    pub(crate) generation: u64,
    pub(crate) item: Item,
}

#[derive(Debug)]
pub(crate) enum Item {
    /// Reading starts here.
    Started(Offset),
    Chunk(Chunk),
    /// The end that was set is reached.
    Finished,
    Failed(ConsumeError),
}

/// Why a stream ended.
enum End {
    /// The end that was set is reached.
    Reached,
    /// Worth another attempt.
    Broken {
        error: ClientError,
    },
    /// The partition does not hold the offset.
    OutOfRange,
    Fatal(ConsumeError),
}

pub(crate) struct Fetcher {
    setup: Arc<Setup>,
    partition: PartitionIndex,
    /// Where to go on; none until the group's position is known.
    start: Option<Start>,
    /// Whether `start` is what the group has committed, and not the user's word.
    from_group: bool,
    /// Whether the consumer has heard where reading starts.
    started: bool,
    /// Where to end.
    until: Option<Offset>,
    credit: Arc<Credit>,
    generation: u64,
    outbox: mpsc::Sender<Report>,
    failures: u32,
}

impl Fetcher {
    pub(crate) fn new(
        setup: Arc<Setup>,
        partition: PartitionIndex,
        start: Option<Start>,
        generation: u64,
        outbox: mpsc::Sender<Report>,
    ) -> Self {
        Self {
            partition,
            start,
            from_group: false,
            started: false,
            until: None,
            credit: Credit::new(setup.credit_bytes),
            generation,
            outbox,
            failures: 0,
            setup,
        }
    }

    /// Runs until the end that was set, or an error that only the application can answer.
    pub(crate) async fn run(mut self) {
        let item = match self.fetch().await {
            Ok(()) => Item::Finished,
            Err(error) => Item::Failed(error),
        };
        self.report(item).await;
    }

    /// Opens one stream after the other.
    async fn fetch(&mut self) -> Result<(), ConsumeError> {
        loop {
            let routes = self.setup.client.routes(&self.setup.routes.topic, false).await;
            let routes = routes.unwrap_or_else(|_| Arc::clone(&self.setup.routes));
            let leader = routes.leader(self.partition).cloned();
            let end = match &leader {
                Ok(leader) => self.stream(leader).await,
                Err(error) => End::Broken { error: error.clone() },
            };
            match end {
                End::Reached => return Ok(()),
                End::Fatal(error) => return Err(error),
                End::OutOfRange => self.reset().await?,
                End::Broken { error } => self.wait(&routes, leader.ok(), error).await?,
            }
        }
    }

    /// Waits a little after a failure, and asks for the way anew.
    async fn wait(
        &mut self,
        routes: &TopicRoutes,
        leader: Option<Leader>,
        error: ClientError,
    ) -> Result<(), ConsumeError> {
        let client = &self.setup.client;
        let mut unreachable = Vec::new();
        if let (Some(leader), ClientError::Unreachable { reason, .. }) = (&leader, &error) {
            let reason = format!("the broker at {} is not reachable: {reason}", leader.address);
            client.note_broker(&leader.broker, Some(&reason));
            unreachable.push(leader.broker.to_string());
        }
        self.failures += 1;
        tokio::time::sleep(client.pause(self.failures)).await;
        match client.refresh_routes(routes, unreachable).await {
            Ok(routes) if routes.id != self.setup.routes.id => Err(self.refused(
                ErrorKind::NotFound,
                format!("topic {} was deleted; another one has its name now", routes.topic),
            )),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(self.refused(ErrorKind::NotFound, error.to_string()))
            }
            // Without a sentinel the routes known so far may do.
            _ => Ok(()),
        }
    }

    /// The offset to read is not there: starts elsewhere, if that is wanted.
    async fn reset(&mut self) -> Result<(), ConsumeError> {
        let offsets = self.setup.list_offsets(self.partition).await?;
        let wanted = match self.start {
            Some(Start::Offset(offset)) => offset,
            _ => offsets.start,
        };
        let removed = wanted < offsets.start;
        let has_group = self.from_group || self.setup.options.group.is_some() && self.started;
        let start = match self.setup.options.reset {
            ResetPolicy::Beginning => Start::Beginning,
            ResetPolicy::End => Start::End,
            ResetPolicy::Fail if removed && has_group => Start::Beginning,
            ResetPolicy::Fail => {
                let PartitionOffsets { start, committed } = offsets;
                return Err(ConsumeError::OutOfRange { partition: self.partition, wanted, start, committed });
            }
        };
        tracing::warn!(
            "partition {} of {} holds offsets {} to {} and no longer {wanted}: going on at its {}",
            self.partition,
            self.setup.routes.topic,
            offsets.start,
            offsets.committed,
            if start == Start::End { "end" } else { "beginning" },
        );
        self.start = Some(start);
        self.from_group = false;
        self.failures += 1;
        if self.failures > 1 {
            tokio::time::sleep(self.setup.client.pause(self.failures)).await;
        }
        Ok(())
    }

    /// Finds out where to start and where to end, as far as the broker has to be asked.
    async fn prepare(&mut self) -> Result<Start, ClientError> {
        if self.setup.options.until_end && self.until.is_none() {
            self.until = Some(self.setup.list_offsets(self.partition).await?.committed);
        }
        if let Some(start) = self.start {
            return Ok(start);
        }
        let mut start = Start::Beginning;
        if let Some(group) = &self.setup.options.group {
            let request = pb::FetchPositionRequest {
                group: group.to_string(),
                topic_id: self.setup.routes.id.to_bytes().to_vec().into(),
                partition: self.partition.0,
            };
            let call = |mut broker: pb::broker_client::BrokerClient<Channel>| {
                let request = request.clone();
                async move { broker.fetch_position(request).await }
            };
            let answer = self.setup.client.leader_call(&self.setup.routes, self.partition, call).await?;
            if let Some(position) = answer.position {
                start = Start::Offset(Offset(position));
                self.from_group = true;
            }
        }
        self.start = Some(start);
        Ok(start)
    }

    /// Reads one stream until it ends.
    async fn stream(&mut self, leader: &Leader) -> End {
        let start = match self.prepare().await {
            Ok(start) => start,
            Err(error) => return self.end_of(error),
        };
        let (requests, outbox) = mpsc::channel(4);
        let open = self.open(start);
        requests.try_send(open).expect("an empty queue takes one");
        let mut stream = match self.connect(leader, outbox).await {
            Ok(stream) => stream,
            Err(error) => return self.end_of(error),
        };
        let credit = Arc::clone(&self.credit);
        let silence = self.setup.client.options().refresh_interval / 3;
        loop {
            let message = tokio::select! {
                message = stream.message() => message,
                bytes = credit.returned() => {
                    // A stream that is over says so itself.
                    let _ = requests.send(pb::FetchRequest { open: None, credit_bytes: bytes }).await;
                    continue;
                }
                () = tokio::time::sleep(silence) => match self.elsewhere(leader).await {
                    Some(error) => return End::Broken { error },
                    None => continue,
                },
            };
            let answer = match message {
                Ok(Some(answer)) => answer,
                Ok(None) => {
                    let reason = "the broker ended the stream".to_owned();
                    let addresses = leader.address.clone();
                    return End::Broken { error: ClientError::Unreachable { role: "broker", addresses, reason } };
                }
                Err(status) => return self.end_of(call_error("broker", &leader.address, &status)),
            };
            self.failures = 0;
            self.setup.client.note_broker(&leader.broker, None);
            if let Some(end) = self.answer(answer).await {
                return end;
            }
        }
    }

    /// Nothing has come for a while: perhaps this leader is cut off, and another one leads.
    async fn elsewhere(&self, leader: &Leader) -> Option<ClientError> {
        let client = &self.setup.client;
        let known = client.routes(&self.setup.routes.topic, false).await.ok()?;
        let routes = client.refresh_routes(&known, Vec::new()).await.ok()?;
        let moved = routes.leader(self.partition).is_ok_and(|now| now.broker != leader.broker);
        let message = format!("broker {} does not lead the partition any more", leader.broker);
        moved.then_some(ClientError::Refused { kind: ErrorKind::NotLeader, message })
    }

    async fn connect(
        &self,
        leader: &Leader,
        requests: mpsc::Receiver<pb::FetchRequest>,
    ) -> Result<Streaming<pb::FetchResponse>, ClientError> {
        let client = &self.setup.client;
        let mut broker = connection::broker(self.setup.channel(&leader.address)?);
        let deadline = client.options().connect_timeout + client.options().rpc_timeout;
        match timeout(deadline, broker.fetch(ReceiverStream::new(requests))).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(call_error("broker", &leader.address, &status)),
            Err(_) => Err(ClientError::Unreachable {
                role: "broker",
                addresses: leader.address.clone(),
                reason: "it does not answer".to_owned(),
            }),
        }
    }

    fn open(&self, start: Start) -> pb::FetchRequest {
        let at = match start {
            Start::Beginning => pb::start::At::Beginning(true),
            Start::End => pb::start::At::End(true),
            Start::Offset(offset) => pb::start::At::Offset(offset.0),
            Start::Time(time) => pb::start::At::TimestampMs(time.0),
        };
        let group = self.setup.options.group.as_ref();
        let open = pb::FetchOpen {
            topic_id: self.setup.routes.id.to_bytes().to_vec().into(),
            partition: self.partition.0,
            start: Some(pb::Start { at: Some(at) }),
            group: group.map_or_else(String::new, |group| group.to_string()),
            member: group.map_or_else(String::new, |_| self.setup.options.member.clone()),
        };
        pb::FetchRequest { open: Some(open), credit_bytes: self.credit.open() }
    }

    /// Deals with one answer; says how the stream ends, if it does.
    async fn answer(&mut self, answer: pb::FetchResponse) -> Option<End> {
        if let Some(start) = answer.start.filter(|_| !matches!(self.start, Some(Start::Offset(_)))) {
            self.start = Some(Start::Offset(Offset(start)));
        }
        if let Some(Start::Offset(start)) = self.start
            && !self.started
        {
            self.started = true;
            self.report(Item::Started(start)).await;
        }
        // Taken all at once: what is not handed over yet is held, whatever becomes of the stream.
        let bytes = |batch: &pb::Batch| (batch.header.len() + batch.records.len()) as u64;
        let batches: Vec<_> =
            answer.batches.into_iter().map(|batch| (self.credit.hold(bytes(&batch)), batch)).collect();
        for (held, batch) in batches {
            // What came in the same frame behind the end is not looked at: it does not follow what was handed over.
            if self.has_reached_end() {
                break;
            }
            if let Err(end) = self.batch(batch, held).await {
                return Some(end);
            }
        }
        if self.has_reached_end() {
            return Some(End::Reached);
        }
        let error = answer.error?;
        let kind = ErrorKind::from(error.kind());
        if kind == ErrorKind::Corrupt {
            let skip_to = answer.skip_to.map(Offset);
            return Some(End::Fatal(self.corrupt(self.position(), skip_to, error.message)));
        }
        Some(self.end_of(ClientError::Refused { kind, message: error.message }))
    }

    /// Checks a batch and hands its records over.
    async fn batch(&mut self, batch: pb::Batch, held: Held) -> Result<(), End> {
        let batch = Batch::parse(&batch.header, batch.records, &self.setup.limits).map_err(|error| {
            let header = <&[u8; goulette_records::HEADER_BYTES]>::try_from(&batch.header[..]).ok();
            let skip_to = header.and_then(|header| Header::parse(header).ok()).map(|header| header.next_offset());
            self.fatal_corrupt(self.position(), skip_to, &error)
        })?;
        let position = match self.start {
            Some(Start::Offset(offset)) => offset,
            // A broker that does not say where it starts, starts here.
            _ => batch.base_offset(),
        };
        if batch.base_offset() > position {
            let found = batch.base_offset();
            let gap = ConsumeError::Gap { partition: self.partition, expected: position, found };
            return Err(End::Fatal(gap));
        }
        let records = batch.iter(&self.setup.limits);
        let mut records = records.map_err(|error| self.fatal_corrupt(position, Some(batch.next_offset()), &error))?;
        self.start = Some(Start::Offset(position));
        let mut held = Some(held);
        // Not even once for a batch that has come before.
        while self.position() < batch.next_offset() && !self.has_reached_end() {
            self.chunk(&batch, &mut records, &mut held).await?;
        }
        Ok(())
    }

    /// Decodes and hands over as many records as a chunk may have.
    async fn chunk(&mut self, batch: &Batch, records: &mut Records, held: &mut Option<Held>) -> Result<(), End> {
        let position = self.position();
        let until = self.until.unwrap_or(Offset::MAX).min(batch.next_offset());
        let count = until.since(position).min(self.setup.chunk_records.into()) as u32;
        // Room first: no more is decoded than may be buffered.
        let buffer = Arc::clone(&self.setup.buffer);
        let room = buffer.acquire_many_owned(count).await.expect("the buffer is never closed");
        let next = position.plus(count.into());
        let mut chunk = Vec::with_capacity(count as usize);
        while chunk.len() < count as usize {
            match records.next() {
                Some(Ok(record)) if record.offset < position => {}
                Some(Ok(record)) => chunk.push(record),
                Some(Err(error)) => {
                    let at = position.plus(chunk.len() as u64);
                    return Err(self.fatal_corrupt(at, Some(batch.next_offset()), &error));
                }
                None => unreachable!("the iterator yields as many records as the header counts, or an error"),
            }
        }
        let credit = if next == batch.next_offset() { held.take() } else { None };
        self.start = Some(Start::Offset(next));
        self.report(Item::Chunk(Chunk { records: chunk, _room: room, _credit: credit })).await;
        Ok(())
    }

    /// The next record to hand over.
    fn position(&self) -> Offset {
        match self.start {
            Some(Start::Offset(offset)) => offset,
            _ => Offset::ZERO,
        }
    }

    fn has_reached_end(&self) -> bool {
        self.until.is_some_and(|until| self.started && self.position() >= until)
    }

    /// What a failed call means for the stream.
    fn end_of(&self, error: ClientError) -> End {
        match error.kind() {
            ErrorKind::OutOfRange => End::OutOfRange,
            ErrorKind::Conflict => {
                End::Fatal(ConsumeError::Conflict { partition: self.partition, message: error.to_string() })
            }
            // A broker may not have heard of a new topic yet. If it is gone, the sentinel will say so.
            ErrorKind::NotFound => End::Broken { error },
            kind if kind.is_retriable() => End::Broken { error },
            kind => End::Fatal(self.refused(kind, error.to_string())),
        }
    }

    fn refused(&self, kind: ErrorKind, message: String) -> ConsumeError {
        ConsumeError::Refused { partition: self.partition, kind, message }
    }

    fn fatal_corrupt(&self, at: Offset, skip_to: Option<Offset>, error: &goulette_records::BatchError) -> End {
        End::Fatal(self.corrupt(at, skip_to, error.to_string()))
    }

    fn corrupt(&self, at: Offset, skip_to: Option<Offset>, reason: String) -> ConsumeError {
        ConsumeError::Corrupt { partition: self.partition, at, skip_to, reason }
    }

    async fn report(&self, item: Item) {
        let report = Report { partition: self.partition, generation: self.generation, item };
        // A consumer that is gone has aborted this task, or is about to.
        let _ = self.outbox.send(report).await;
    }
}
