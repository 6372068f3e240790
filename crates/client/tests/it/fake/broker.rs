//! The broker: keeps batches as the design has it, and commits the faults that it is told to.

use std::pin::Pin;

use goulette_proto::{
    pb::{self, broker_server::Broker},
    status::{kind_of, to_status},
};
use goulette_records::{Batch, Limits};
use goulette_types::{ErrorKind, LeaderEpoch, Offset};
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use super::{Cluster, Log, State};

#[derive(Clone)]
pub(super) struct FakeBroker {
    pub(super) id: String,
    pub(super) cluster: Cluster,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Broker for FakeBroker {
    type ProduceStream = Answers<pb::ProduceResponse>;
    type FetchStream = Answers<pb::FetchResponse>;

    async fn produce(
        &self,
        request: Request<Streaming<pb::ProduceRequest>>,
    ) -> Result<Response<Self::ProduceStream>, Status> {
        let (answers, outbox) = mpsc::channel(1024);
        tokio::spawn(self.clone().serve_produce(request.into_inner(), answers));
        Ok(Response::new(Box::pin(ReceiverStream::new(outbox))))
    }

    async fn fetch(
        &self,
        request: Request<Streaming<pb::FetchRequest>>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let (answers, outbox) = mpsc::channel(1);
        let broker = self.clone();
        tokio::spawn(async move {
            if let Err(status) = broker.serve_fetch(request.into_inner(), &answers).await {
                let _ = answers.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outbox))))
    }

    async fn list_offsets(
        &self,
        request: Request<pb::ListOffsetsRequest>,
    ) -> Result<Response<pb::ListOffsetsResponse>, Status> {
        let state = self.cluster.state();
        let log = &state.partitions[request.get_ref().partition as usize];
        self.check_leader(log, 0)?;
        let committed = state.faults.end_told.unwrap_or(log.end());
        let answer = pb::ListOffsetsResponse { start: log.start, committed, ..Default::default() };
        Ok(Response::new(answer))
    }

    async fn commit_position(
        &self,
        request: Request<pb::CommitPositionRequest>,
    ) -> Result<Response<pb::CommitPositionResponse>, Status> {
        let request = request.into_inner();
        self.cluster.state().positions.insert((request.group, request.partition), request.position);
        Ok(Response::new(pb::CommitPositionResponse {}))
    }

    async fn fetch_position(
        &self,
        request: Request<pb::FetchPositionRequest>,
    ) -> Result<Response<pb::FetchPositionResponse>, Status> {
        let request = request.into_inner();
        let position = self.cluster.state().positions.get(&(request.group, request.partition)).copied();
        Ok(Response::new(pb::FetchPositionResponse { position }))
    }

    async fn publish(&self, _: Request<pb::PublishRequest>) -> Result<Response<pb::PublishResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn pull(&self, _: Request<pb::PullRequest>) -> Result<Response<pb::PullResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }
}

impl FakeBroker {
    fn check_leader(&self, log: &Log, believed: u32) -> Result<(), Status> {
        if log.leader != self.id || (believed != 0 && believed != log.epoch) {
            return Err(to_status(ErrorKind::NotLeader, format!("{} does not lead", self.id)));
        }
        Ok(())
    }

    async fn serve_produce(
        self,
        mut requests: Streaming<pb::ProduceRequest>,
        answers: mpsc::Sender<Result<pb::ProduceResponse, Status>>,
    ) {
        let grant = pb::Grant { batches_in_flight: self.cluster.state().grant, ..Default::default() };
        let _ = answers.send(Ok(pb::ProduceResponse { grant: Some(grant), acks: vec![] })).await;
        let mut hold = self.cluster.hold_acks.subscribe();
        let mut held = Vec::new();
        self.cluster.state().seen.in_flight = 0;
        loop {
            let released = async { hold.wait_for(|hold| !hold).await.map(drop) };
            let request = tokio::select! {
                request = requests.next() => request,
                _ = released, if !held.is_empty() => {
                    self.cluster.state().seen.in_flight = 0;
                    let acks = std::mem::take(&mut held);
                    let _ = answers.send(Ok(pb::ProduceResponse { grant: None, acks })).await;
                    continue;
                }
            };
            let Some(Ok(request)) = request else { return };
            let (ack, cut) = self.take_in(request);
            if cut {
                return;
            }
            if let Some(ack) = ack {
                let copies = 1 + usize::from(self.cluster.state().faults.duplicate_acks);
                held.extend(std::iter::repeat_n(ack, copies));
            }
        }
    }

    /// The answer, if there is to be one, and whether to cut the stream.
    fn take_in(&self, request: pb::ProduceRequest) -> (Option<pb::ProduceAck>, bool) {
        let mut state = self.cluster.state();
        state.seen.produced += 1;
        state.seen.in_flight += 1;
        state.seen.in_flight_max = state.seen.in_flight_max.max(state.seen.in_flight);
        let mut ack = pb::ProduceAck { request_id: request.request_id, ..Default::default() };
        if let Some(kind) = state.faults.refuse.pop_front() {
            ack.error = Some(pb::Error::new(kind, "refused on purpose"));
            return (Some(ack), false);
        }
        if request.topic_id[..] != state.topic_id.to_bytes() {
            ack.error = Some(pb::Error::new(ErrorKind::NotFound, "no such topic"));
            return (Some(ack), false);
        }
        match self.store(&mut state, request) {
            Ok((base, duplicate)) => {
                ack.base_offset = base;
                ack.duplicate = duplicate;
            }
            Err(status) => ack.error = Some(pb::Error::new(kind_of(&status), status.message())),
        }
        if let Some(left) = &mut state.faults.cut_produce_after {
            *left -= 1;
            let cut = *left == 0;
            if cut {
                state.faults.cut_produce_after = None;
            }
            return (None, cut);
        }
        (Some(ack), false)
    }

    /// As the design has it: duplicates are recognised, gaps and overlaps refused.
    fn store(&self, state: &mut State, request: pb::ProduceRequest) -> Result<(Option<u64>, bool), Status> {
        let batch = request.batch.unwrap();
        let mut batch = Batch::parse(&batch.header, batch.records, &Limits::default())
            .map_err(|error| to_status(error.kind(), error.to_string()))?;
        let log = &mut state.partitions[request.partition as usize];
        self.check_leader(log, request.leader_epoch)?;
        if let Some(producer) = batch.producer() {
            let (epoch, next) = log.producers.get(&producer.id.0).copied().unwrap_or((producer.epoch.0, 0));
            let next = if producer.epoch.0 > epoch { 0 } else { next };
            if producer.epoch.0 < epoch {
                return Err(to_status(ErrorKind::Fenced, "old producer epoch"));
            }
            if producer.last_sequence < next {
                state.seen.duplicates += 1;
                return Ok((None, true));
            }
            if producer.base_sequence != next {
                let text = format!("sequence {} after {next}", producer.base_sequence);
                return Err(to_status(ErrorKind::OutOfOrder, text));
            }
            log.producers.insert(producer.id.0, (producer.epoch.0, producer.next_sequence()));
        }
        let base = log.end();
        batch.assign(Offset(base), LeaderEpoch(log.epoch));
        log.batches.push(batch);
        self.cluster.stored.send_modify(|count| *count += 1);
        Ok((Some(base), false))
    }

    async fn serve_fetch(
        &self,
        mut requests: Streaming<pb::FetchRequest>,
        answers: &mpsc::Sender<Result<pb::FetchResponse, Status>>,
    ) -> Result<(), Status> {
        let first = requests.next().await.ok_or_else(|| Status::cancelled("no request"))??;
        let open = first.open.unwrap();
        let seat = (open.group.clone(), open.partition);
        let mut next = {
            let mut state = self.cluster.state();
            state.seen.fetch_streams += 1;
            let log = &state.partitions[open.partition as usize];
            self.check_leader(log, 0)?;
            let next = match open.start.unwrap().at.unwrap() {
                pb::start::At::Offset(offset) => offset,
                pb::start::At::Beginning(_) => log.start,
                pb::start::At::End(_) => log.end(),
                pb::start::At::TimestampMs(time) => {
                    let late = |batch: &&Batch| batch.max_timestamp().0 >= time;
                    log.batches.iter().find(late).map_or(log.end(), |batch| batch.base_offset().0)
                }
            };
            if !(log.start..=log.end()).contains(&next) {
                return Err(to_status(ErrorKind::OutOfRange, "out of range"));
            }
            if !open.group.is_empty() {
                let member = state.members.entry(seat).or_insert_with(|| open.member.clone());
                if *member != open.member {
                    return Err(to_status(ErrorKind::Conflict, format!("member {member} reads this partition")));
                }
            }
            next
        };
        let _ = answers.send(Ok(pb::FetchResponse { start: Some(next), ..Default::default() })).await;
        let mut credit = first.credit_bytes as i64;
        let mut stored = self.cluster.stored.subscribe();
        let mut sent = 0;
        loop {
            stored.borrow_and_update();
            let mut batches = Vec::new();
            let count = 1 + self.cluster.state().faults.more_per_frame;
            for _ in 0..count {
                batches.extend(self.read(open.partition as usize, &mut next, &mut credit)?);
            }
            if !batches.is_empty() {
                let _ = answers.send(Ok(pb::FetchResponse { batches, ..Default::default() })).await;
                sent += 1;
                if self.cluster.state().faults.cut_fetch_after == Some(sent) {
                    return Err(Status::unavailable("cut on purpose"));
                }
                continue;
            }
            tokio::select! {
                request = requests.next() => match request {
                    Some(Ok(request)) => credit += request.credit_bytes as i64,
                    _ => return Ok(()),
                },
                _ = stored.changed() => {}
            }
        }
    }

    /// One batch, if there is one and credit for it.
    fn read(&self, partition: usize, next: &mut u64, credit: &mut i64) -> Result<Vec<pb::Batch>, Status> {
        let mut state = self.cluster.state();
        let log = &state.partitions[partition];
        self.check_leader(log, 0)?;
        let Some(batch) = log.batches.iter().find(|batch| batch.next_offset().0 > *next) else {
            return Ok(vec![]);
        };
        if *credit <= 0 {
            return Ok(vec![]);
        }
        let batch = batch.clone();
        *credit -= batch.encoded_bytes() as i64;
        *next = batch.next_offset().0;
        state.seen.overdrawn = state.seen.overdrawn.max(-*credit);
        let mut records = batch.records().to_vec();
        if state.faults.corrupt == Some(batch.base_offset().0) {
            records[5] ^= 1;
        }
        let wire = pb::Batch { header: batch.header_bytes().to_vec().into(), records: records.into() };
        let copies = 1 + usize::from(state.faults.duplicate_batches);
        Ok(vec![wire; copies])
    }
}
