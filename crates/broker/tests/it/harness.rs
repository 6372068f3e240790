//! A broker to test, and clients of the bare wire.

use std::{net::SocketAddr, path::Path, time::Duration};

use bytes::Bytes;
use goulette_broker::{Broker, BrokerOptions, StartError};
use goulette_env::Env;
use goulette_proto::pb::{self, broker_client::BrokerClient};
use goulette_records::{Batch, BatchBuilder, Compression, Limits};
use goulette_types::{ErrorKind, PartitionId, ProducerEpoch, ProducerId, Timestamp};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use crate::sentinel::FakeSentinel;

pub(crate) type Client = BrokerClient<Channel>;

/// Fails a test that would otherwise hang.
pub(crate) async fn soon<T>(event: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), event).await.expect("it happens in time")
}

pub(crate) fn options(sentinel: SocketAddr, dir: &Path) -> BrokerOptions {
    let listen = "127.0.0.1:0".parse().unwrap();
    let mut options =
        BrokerOptions::new("broker1".parse().unwrap(), listen, dir.to_owned(), vec![sentinel.to_string()]);
    options.log.wal.segment_bytes = 16 << 20;
    options
}

pub(crate) async fn start(sentinel: &FakeSentinel, dir: &Path) -> Broker {
    start_with(options(sentinel.address, dir), Env::real()).await.unwrap()
}

pub(crate) async fn start_with(options: BrokerOptions, env: Env) -> Result<Broker, StartError> {
    soon(Broker::start(options, env)).await
}

pub(crate) async fn connect(broker: &Broker) -> Client {
    let channel = channel(broker.address()).await;
    BrokerClient::new(channel).max_decoding_message_size(64 << 20).max_encoding_message_size(64 << 20)
}

pub(crate) async fn channel(address: SocketAddr) -> Channel {
    soon(Channel::from_shared(format!("http://{address}")).unwrap().connect()).await.unwrap()
}

/// A batch of records with these values.
pub(crate) fn batch<const N: usize>(values: [&str; N]) -> Batch {
    builder(&values).build()
}

/// The same, numbered by an idempotent producer.
pub(crate) fn numbered<const N: usize>(producer: u64, sequence: u32, values: [&str; N]) -> Batch {
    let mut builder = builder(&values);
    builder.set_producer(ProducerId(producer), ProducerEpoch(0), sequence);
    builder.build()
}

fn builder(values: &[&str]) -> BatchBuilder {
    let mut builder = BatchBuilder::new(Compression::None, Limits::WIDEST);
    for (place, value) in values.iter().enumerate() {
        builder.push(None, Some(value.as_bytes()), &[], Timestamp(1_000 + place as i64)).unwrap();
    }
    builder
}

pub(crate) fn wire(batch: &Batch) -> pb::Batch {
    pb::Batch { header: Bytes::copy_from_slice(&batch.header_bytes()), records: batch.records().clone() }
}

pub(crate) fn values(batches: &[pb::Batch]) -> Vec<String> {
    let decode = |batch: &pb::Batch| {
        let batch = Batch::parse(&batch.header, batch.records.clone(), &Limits::WIDEST).unwrap();
        batch.decode(&Limits::WIDEST).unwrap()
    };
    let records = batches.iter().flat_map(decode);
    records.map(|record| String::from_utf8(record.value.unwrap().to_vec()).unwrap()).collect()
}

pub(crate) fn kind(error: &pb::Error) -> ErrorKind {
    error.kind().into()
}

/// One produce stream.
pub(crate) struct Producer {
    requests: mpsc::Sender<pb::ProduceRequest>,
    answers: Streaming<pb::ProduceResponse>,
    acks: std::collections::VecDeque<pb::ProduceAck>,
    pub(crate) grant: pb::Grant,
    next_id: u64,
}

impl Producer {
    pub(crate) async fn open(client: &mut Client) -> Self {
        let (requests, outbound) = mpsc::channel(1024);
        let mut answers = soon(client.produce(ReceiverStream::new(outbound))).await.unwrap().into_inner();
        let grant = soon(answers.message()).await.unwrap().unwrap().grant.expect("the first answer is the grant");
        Self { requests, answers, acks: Default::default(), grant, next_id: 1 }
    }

    pub(crate) async fn send(&mut self, partition: PartitionId, batch: &Batch) -> u64 {
        self.request(request(partition, wire(batch))).await
    }

    pub(crate) async fn request(&mut self, mut request: pb::ProduceRequest) -> u64 {
        request.request_id = self.next_id;
        self.next_id += 1;
        soon(self.requests.send(request)).await.unwrap();
        self.next_id - 1
    }

    pub(crate) async fn ack(&mut self) -> pb::ProduceAck {
        self.try_ack().await.expect("the stream goes on")
    }

    /// The next ack; an error when the stream has ended.
    pub(crate) async fn try_ack(&mut self) -> Result<pb::ProduceAck, tonic::Status> {
        loop {
            if let Some(ack) = self.acks.pop_front() {
                return Ok(ack);
            }
            match soon(self.answers.message()).await? {
                Some(response) => self.acks.extend(response.acks),
                None => return Err(tonic::Status::cancelled("the stream ended")),
            }
        }
    }

    /// Sends a batch and returns its offset.
    pub(crate) async fn store(&mut self, partition: PartitionId, batch: &Batch) -> u64 {
        let id = self.send(partition, batch).await;
        let ack = self.ack().await;
        assert_eq!((ack.request_id, &ack.error), (id, &None));
        ack.base_offset.unwrap()
    }

    /// Sends a batch that is refused.
    pub(crate) async fn refused(&mut self, request: pb::ProduceRequest) -> pb::Error {
        let id = self.request(request).await;
        let ack = self.ack().await;
        assert_eq!(ack.request_id, id);
        ack.error.expect("it is refused")
    }
}

pub(crate) fn request(partition: PartitionId, batch: pb::Batch) -> pb::ProduceRequest {
    pb::ProduceRequest {
        request_id: 0,
        topic_id: topic_bytes(partition),
        partition: partition.index.0,
        leader_epoch: 0,
        acks: pb::Acks::All.into(),
        batch: Some(batch),
    }
}

pub(crate) fn topic_bytes(partition: PartitionId) -> Bytes {
    partition.topic.to_bytes().to_vec().into()
}

pub(crate) fn at(at: pb::start::At) -> Option<pb::Start> {
    Some(pb::Start { at: Some(at) })
}

/// One fetch stream.
pub(crate) struct Reader {
    requests: mpsc::Sender<pb::FetchRequest>,
    answers: Streaming<pb::FetchResponse>,
}

impl Reader {
    /// Opens a stream; the first answer is still to be read.
    pub(crate) async fn open(client: &mut Client, open: pb::FetchOpen, credit_bytes: u64) -> Self {
        let (requests, outbound) = mpsc::channel(1024);
        requests.send(pb::FetchRequest { open: Some(open), credit_bytes }).await.unwrap();
        let answers = soon(client.fetch(ReceiverStream::new(outbound))).await.unwrap().into_inner();
        Self { requests, answers }
    }

    /// Reads a partition from an offset, with much credit.
    pub(crate) async fn from(client: &mut Client, partition: PartitionId, offset: u64) -> Self {
        let mut reader = Self::open(client, open(partition, offset), 1 << 40).await;
        assert_eq!(reader.frame().await.start, Some(offset));
        reader
    }

    pub(crate) async fn credit(&mut self, credit_bytes: u64) {
        self.requests.send(pb::FetchRequest { open: None, credit_bytes }).await.unwrap();
    }

    pub(crate) async fn frame(&mut self) -> pb::FetchResponse {
        soon(self.answers.message()).await.unwrap().expect("the stream goes on")
    }

    /// Whether nothing comes for a while: for what must not come, there is no event to wait for.
    pub(crate) async fn is_silent(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(100), self.answers.message()).await.is_err()
    }

    /// The error that ends the stream.
    pub(crate) async fn error(&mut self) -> pb::Error {
        let error = self.frame().await.error.expect("an error");
        assert!(soon(self.answers.message()).await.unwrap().is_none(), "it ends the stream");
        error
    }

    /// The values of the next `count` records.
    pub(crate) async fn values(&mut self, count: usize) -> Vec<String> {
        let mut read = Vec::new();
        while read.len() < count {
            let frame = self.frame().await;
            assert_eq!(frame.error, None);
            read.extend(values(&frame.batches));
        }
        read
    }
}

pub(crate) fn open(partition: PartitionId, offset: u64) -> pb::FetchOpen {
    pb::FetchOpen {
        topic_id: topic_bytes(partition),
        partition: partition.index.0,
        start: at(pb::start::At::Offset(offset)),
        group: String::new(),
        member: String::new(),
    }
}

/// The first offset and the end, as the broker tells them.
pub(crate) async fn ends(client: &mut Client, partition: PartitionId) -> (u64, u64) {
    let request =
        pb::ListOffsetsRequest { topic_id: topic_bytes(partition), partition: partition.index.0, timestamp_ms: None };
    let response = soon(client.list_offsets(request)).await.unwrap().into_inner();
    (response.start, response.committed)
}
