//! The consumer as its users see it.

use std::{collections::BTreeMap, sync::Arc, vec};

use bytes::Bytes;
use goulette_proto::pb;
use goulette_records::{Record, RecordHeader};
use goulette_types::{GroupName, Offset, PartitionIndex, Timestamp, TopicName};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    task::{AbortHandle, JoinSet},
};

use crate::{
    Client, ClientError, ConsumeError, TopicRoutes,
    consumer::{
        credit::Held,
        fetcher::{Fetcher, Item, Report},
        setup::Setup,
    },
    routes,
};

/// Which partitions to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Partitions {
    /// All that the topic has; those that are added later too, from their first record on, unless the consumer is to
    /// [end](ConsumerOptions::until_end).
    #[default]
    All,
    /// These.
    Only(Vec<PartitionIndex>),
}

/// Where to start reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The first record kept.
    Beginning,
    /// Behind the last record that is readable now.
    End,
    /// This record.
    Offset(Offset),
    /// The first record of this time or later.
    Time(Timestamp),
}

/// What to do when a partition does not hold the offset to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResetPolicy {
    /// Report it. A group's committed position that has meanwhile been removed by retention is no error all the same:
    /// reading goes on at the first record kept, with a warning in the log.
    #[default]
    Fail,
    /// Start at the first record kept.
    Beginning,
    /// Start at the end.
    End,
}

/// What a consumer reads, and how much it buffers.
#[derive(Clone, Debug)]
pub struct ConsumerOptions {
    /// Where positions are kept, and with whom partitions are not shared. Default: none.
    pub group: Option<GroupName>,
    /// This consumer's name in the group, for people; made up if empty.
    pub member: String,
    /// Which partitions. Default: all.
    pub partitions: Partitions,
    /// Where to start. Default: at the group's position, or else at the beginning.
    pub start: Option<Start>,
    /// Ends each partition at the end that it has when the consumer starts. Default off.
    pub until_end: bool,
    /// Encoded bytes that brokers may push ahead, over all partitions (1 MiB for each at least). Default 16 MiB.
    pub credit_bytes: u32,
    /// Decoded records that are not yet taken, over all partitions. Default 500,000.
    pub buffer_records: usize,
    /// What to do when a partition does not hold the offset to read.
    pub reset: ResetPolicy,
    /// Makes the topic if it is absent and the sentinel allows it. Default on.
    pub create_topic: bool,
}

impl Default for ConsumerOptions {
    fn default() -> Self {
        Self {
            group: None,
            member: String::new(),
            partitions: Partitions::All,
            start: None,
            until_end: false,
            credit_bytes: 16 << 20,
            buffer_records: 500_000,
            reset: ResetPolicy::Fail,
            create_topic: true,
        }
    }
}

/// A record received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerRecord {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: PartitionIndex,
    /// Its place there.
    pub offset: Offset,
    /// When it was made, as its producer says.
    pub timestamp: Timestamp,
    /// The key, if it has one.
    pub key: Option<Bytes>,
    /// The value; null is not the same as empty.
    pub value: Option<Bytes>,
    /// Names and values beside it.
    pub headers: Vec<RecordHeader>,
}

/// Consecutive records of one partition; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordBatch {
    /// The partition.
    pub partition: PartitionIndex,
    /// In offset order.
    pub records: Vec<Record>,
}

/// Records on their way from a fetcher to the application, with what they hold back meanwhile.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) records: Vec<Record>,
    /// Room in the buffer.
    pub(crate) _room: OwnedSemaphorePermit,
    /// The batch's credit, with its last chunk.
    pub(crate) _credit: Option<Held>,
}

/// Reads records of one topic, in order within each partition.
///
/// A record counts as *taken* when [`next`](Self::next) or [`next_batch`](Self::next_batch) has returned it: what the
/// consumer buffers is not. Dropping the consumer ends its tasks.
pub struct Consumer {
    client: Client,
    routes: Arc<TopicRoutes>,
    options: Arc<ConsumerOptions>,
    setup: Arc<Setup>,
    partitions: BTreeMap<PartitionIndex, Assigned>,
    /// Where the topic's partitions are, from time to time; silent unless new ones are to be read.
    news: mpsc::Receiver<Arc<TopicRoutes>>,
    inbox: mpsc::Receiver<Report>,
    outbox: mpsc::Sender<Report>,
    /// What `next` is in the middle of.
    current: Option<Current>,
    tasks: JoinSet<()>,
}

struct Assigned {
    /// Rises with each seek: what an earlier fetcher has left behind is dropped.
    generation: u64,
    task: AbortHandle,
    /// No more will come from it.
    ended: bool,
    /// The next record to take.
    position: Option<Offset>,
    committed: Option<Offset>,
}

struct Current {
    partition: PartitionIndex,
    records: vec::IntoIter<Record>,
    _room: OwnedSemaphorePermit,
    _credit: Option<Held>,
}

impl Consumer {
    /// A consumer of `topic`; starts fetching.
    ///
    /// # Errors
    /// Of kind `NotFound` for an unknown topic or partition; [`ClientError::Unreachable`] without a sentinel.
    pub async fn new(client: &Client, topic: &TopicName, mut options: ConsumerOptions) -> Result<Self, ConsumeError> {
        let routes = client.newest_routes(topic, options.create_topic).await?;
        let count = routes.partitions.len() as u32;
        let mut wanted = match &options.partitions {
            Partitions::All => (0..count).map(PartitionIndex).collect(),
            Partitions::Only(partitions) => partitions.clone(),
        };
        wanted.sort_unstable();
        wanted.dedup();
        if let Some(absent) = wanted.iter().find(|partition| partition.0 >= count) {
            let partitions = count as usize;
            return Err(ClientError::NoPartition { topic: topic.to_string(), partition: absent.0, partitions }.into());
        }
        if options.member.is_empty() {
            options.member = format!("consumer-{:016x}", client.random());
        }
        let options = Arc::new(options);
        let setup = Arc::new(Setup::new(client.clone(), &routes, Arc::clone(&options), wanted.len()));
        // Every fetcher may have a report waiting; records are bounded by the buffer, not by this queue.
        let (outbox, inbox) = mpsc::channel(wanted.len().max(16));
        let (tell, news) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        if options.partitions == Partitions::All && !options.until_end {
            tasks.spawn(routes::watch(client.clone(), Arc::clone(&routes), tell));
        }
        let mut consumer = Self {
            client: client.clone(),
            routes,
            options,
            setup,
            partitions: BTreeMap::new(),
            news,
            inbox,
            outbox,
            current: None,
            tasks,
        };
        for partition in wanted {
            consumer.start(partition, 0, consumer.options.start);
        }
        Ok(consumer)
    }

    /// The next record, whichever partition has one first; waits for it. None when no more will come: every partition
    /// has reached its end ([`ConsumerOptions::until_end`]) or failed.
    ///
    /// Dropping this future loses nothing.
    ///
    /// # Errors
    /// Once for each partition that stops; the others go on with the next call.
    pub async fn next(&mut self) -> Result<Option<ConsumerRecord>, ConsumeError> {
        loop {
            if let Some(current) = &mut self.current {
                if let Some(record) = current.records.next() {
                    let partition = current.partition;
                    self.took(partition, record.offset);
                    return Ok(Some(self.record(partition, record)));
                }
                self.current = None;
            }
            let Some((partition, chunk)) = self.receive().await? else {
                return Ok(None);
            };
            let Chunk { records, _room, _credit } = chunk;
            self.current = Some(Current { partition, records: records.into_iter(), _room, _credit });
        }
    }

    /// The next records of one partition, all taken at once: cheaper than [`next`](Self::next) for each.
    ///
    /// # Errors
    /// As `next`.
    pub async fn next_batch(&mut self) -> Result<Option<RecordBatch>, ConsumeError> {
        let begun = self.current.take().map(|current| (current.partition, current.records.collect::<Vec<_>>()));
        let (partition, records) = match begun.filter(|(_, records)| !records.is_empty()) {
            Some(rest) => rest,
            None => match self.receive().await? {
                Some((partition, chunk)) => (partition, chunk.records),
                None => return Ok(None),
            },
        };
        if let Some(last) = records.last() {
            self.took(partition, last.offset);
        }
        Ok(Some(RecordBatch { partition, records }))
    }

    /// The next record to take of each partition, as far as known: where reading starts is known once the broker said so.
    pub fn positions(&self) -> BTreeMap<PartitionIndex, Offset> {
        let known = |(&partition, assigned): (_, &Assigned)| Some((partition, assigned.position?));
        self.partitions.iter().filter_map(known).collect()
    }

    /// The end of each partition, now: the first offset that is not readable yet.
    ///
    /// # Errors
    /// If a partition's leader does not answer in time.
    pub async fn ends(&self) -> Result<BTreeMap<PartitionIndex, Offset>, ConsumeError> {
        let mut ends = BTreeMap::new();
        for &partition in self.partitions.keys() {
            let offsets = self.setup.list_offsets(partition).await?;
            ends.insert(partition, offsets.committed);
        }
        Ok(ends)
    }

    /// Reads the partition from `start` on; what was buffered of it is dropped.
    ///
    /// # Errors
    /// [`ConsumeError::NotAssigned`].
    pub fn seek(&mut self, partition: PartitionIndex, start: Start) -> Result<(), ConsumeError> {
        let assigned = self.partitions.get(&partition).ok_or(ConsumeError::NotAssigned { partition })?;
        assigned.task.abort();
        let generation = assigned.generation + 1;
        self.current.take_if(|current| current.partition == partition);
        self.start(partition, generation, Some(start));
        Ok(())
    }

    /// Keeps positions for the group: the offsets that a later consumer is to read next. Durable on return.
    ///
    /// # Errors
    /// [`ConsumeError::NoGroup`]; or if a leader does not answer in time: then some may be kept, others not.
    pub async fn commit(&mut self, positions: &BTreeMap<PartitionIndex, Offset>) -> Result<(), ConsumeError> {
        let group = self.options.group.clone().ok_or(ConsumeError::NoGroup)?;
        for (&partition, &position) in positions {
            let request = pb::CommitPositionRequest {
                group: group.to_string(),
                topic_id: self.routes.id.to_bytes().to_vec().into(),
                partition: partition.0,
                position: position.0,
                member: self.options.member.clone(),
            };
            self.client
                .leader_call(&self.routes, partition, |mut broker| {
                    let request = request.clone();
                    async move { broker.commit_position(request).await }
                })
                .await?;
            if let Some(assigned) = self.partitions.get_mut(&partition) {
                assigned.committed = Some(position);
            }
        }
        Ok(())
    }

    /// [Commits](Self::commit) behind every record taken so far: call it when they have been dealt with.
    ///
    /// # Errors
    /// As `commit`.
    pub async fn commit_taken(&mut self) -> Result<(), ConsumeError> {
        let mut positions = self.positions();
        positions.retain(|partition, position| self.partitions[partition].committed != Some(*position));
        self.commit(&positions).await
    }

    /// Ends fetching, and waits until every task has ended.
    pub async fn close(mut self) {
        self.tasks.shutdown().await;
    }

    fn start(&mut self, partition: PartitionIndex, generation: u64, start: Option<Start>) {
        let fetcher = Fetcher::new(Arc::clone(&self.setup), partition, start, generation, self.outbox.clone());
        let task = self.tasks.spawn(fetcher.run());
        let assigned = Assigned { generation, task, ended: false, position: None, committed: None };
        self.partitions.insert(partition, assigned);
    }

    /// The next chunk of any partition; keeps account of the rest that fetchers report.
    async fn receive(&mut self) -> Result<Option<(PartitionIndex, Chunk)>, ConsumeError> {
        while self.partitions.values().any(|assigned| !assigned.ended) {
            let report = tokio::select! {
                report = self.inbox.recv() => report.expect("this consumer keeps a sender itself"),
                Some(routes) = self.news.recv() => {
                    self.extend(&routes);
                    continue;
                }
            };
            while self.tasks.try_join_next().is_some() {}
            let assigned = self.partitions.get_mut(&report.partition).expect("fetchers exist for assigned partitions");
            if assigned.generation != report.generation {
                continue;
            }
            match report.item {
                Item::Started(offset) => assigned.position = Some(offset),
                Item::Chunk(chunk) => return Ok(Some((report.partition, chunk))),
                Item::Finished => assigned.ended = true,
                Item::Failed(error) => {
                    assigned.ended = true;
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    /// Starts reading the partitions that were added since.
    fn extend(&mut self, routes: &TopicRoutes) {
        // Another topic of this name: the fetchers find out that theirs is gone.
        if routes.id != self.routes.id {
            return;
        }
        let start = match self.options.start {
            // Whatever is there was stored after this consumer began, and offsets were meant for older partitions.
            Some(Start::End | Start::Offset(_)) => Some(Start::Beginning),
            start => start,
        };
        for index in 0..routes.partitions.len() as u32 {
            let partition = PartitionIndex(index);
            if !self.partitions.contains_key(&partition) {
                tracing::info!("topic {} has a new partition {partition}", self.routes.topic);
                self.start(partition, 0, start);
            }
        }
    }

    fn took(&mut self, partition: PartitionIndex, last: Offset) {
        if let Some(assigned) = self.partitions.get_mut(&partition) {
            assigned.position = Some(last.plus(1));
        }
    }

    fn record(&self, partition: PartitionIndex, record: Record) -> ConsumerRecord {
        let Record { offset, timestamp, key, value, headers } = record;
        ConsumerRecord { topic: self.routes.topic.clone(), partition, offset, timestamp, key, value, headers }
    }
}
