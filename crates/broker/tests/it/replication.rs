//! Several brokers, each with a sentinel of its own that says what the test tells it to say.

use std::{path::Path, time::Duration};

use goulette_broker::{Broker, BrokerOptions};
use goulette_env::Env;
use goulette_proto::{
    pb::{self, replication_client::ReplicationClient},
    status::kind_of,
};
use goulette_types::{ErrorKind, PartitionId, PartitionIndex};
use tempfile::TempDir;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    harness::{
        Client, Producer, Reader, batch, channel, connect, ends, kind, numbered, open, options, request, soon,
        start_with, topic_bytes, wire,
    },
    sentinel::{FakeSentinel, topic_id},
};

struct Member {
    sentinel: FakeSentinel,
    dir: TempDir,
    broker: Option<Broker>,
    id: String,
    registered: pb::RegisterBrokerRequest,
    starts: usize,
}

struct Cluster {
    members: Vec<Member>,
    epoch: u32,
    minimum: u32,
}

const TOPIC: &str = "t";

fn partition() -> PartitionId {
    PartitionId { topic: topic_id(TOPIC), index: PartitionIndex(0) }
}

fn member_options(sentinel: &FakeSentinel, dir: &Path, id: &str) -> BrokerOptions {
    let mut options = options(sentinel.address, dir);
    options.id = id.parse().unwrap();
    options.replica_lag_max = Duration::from_millis(400);
    options.log.roll.bytes = 64 << 10;
    options
}

impl Cluster {
    async fn start(count: usize, minimum: u32) -> Self {
        let mut members = Vec::new();
        for number in 1..=count {
            let (sentinel, dir) = (FakeSentinel::start().await, tempfile::tempdir().unwrap());
            let id = format!("broker{number}");
            members.push(Member { sentinel, dir, broker: None, id, registered: Default::default(), starts: 0 });
        }
        let mut cluster = Self { members, epoch: 0, minimum };
        for number in 0..count {
            cluster.start_one(number, |_| {}).await;
        }
        cluster
    }

    async fn start_one(&mut self, number: usize, change: impl FnOnce(&mut BrokerOptions)) {
        let member = &mut self.members[number];
        let mut options = member_options(&member.sentinel, member.dir.path(), &member.id);
        change(&mut options);
        member.broker = Some(start_with(options, Env::real()).await.unwrap());
        member.starts += 1;
        member.registered = member.sentinel.registration(member.starts).await;
    }

    /// Ends a broker as a crash would.
    async fn kill(&mut self, number: usize) {
        let member = &mut self.members[number];
        member.sentinel.forget();
        drop(member.broker.take());
    }

    fn in_sync(&self, number: usize) -> pb::InSync {
        let member = &self.members[number];
        pb::InSync { broker: member.id.clone(), storage_id: member.registered.storage_id.clone() }
    }

    /// Has a broker lead in a new epoch; those that run hear of it, the leader last.
    async fn lead(&mut self, leader: usize, isr: &[usize]) {
        self.epoch += 1;
        let address = |member: &Member| pb::ReplicaAddress {
            broker: member.id.clone(),
            address: member.broker.as_ref().map_or(String::new(), |broker| broker.address().to_string()),
            incarnation: member.registered.incarnation.clone(),
        };
        let others = (0..self.members.len()).filter(|&number| number != leader).chain([leader]);
        for number in others.filter(|&number| self.members[number].broker.is_some()) {
            let role = if number == leader { pb::Role::Leader } else { pb::Role::Follower };
            let assignment = pb::Assignment {
                topic_id: topic_bytes(partition()),
                topic: TOPIC.to_owned(),
                partition: 0,
                leader_epoch: self.epoch,
                partition_epoch: u64::from(self.epoch) * 1_000,
                partitions: 1,
                role: role.into(),
                leader: Some(address(&self.members[leader])),
                replicas: self.members.iter().map(address).collect(),
                isr: isr.iter().map(|&number| self.in_sync(number)).collect(),
                min_insync_replicas: self.minimum,
                ..Default::default()
            };
            self.members[number].sentinel.put(assignment).await;
        }
    }

    async fn client(&self, number: usize) -> Client {
        connect(self.members[number].broker.as_ref().unwrap()).await
    }

    /// All values that a broker, which leads, shows to consumers.
    async fn values(&self, number: usize, count: usize) -> Vec<String> {
        Reader::from(&mut self.client(number).await, partition(), 0).await.values(count).await
    }

    async fn stop(self) {
        for member in self.members {
            if let Some(broker) = member.broker {
                broker.stop().await.unwrap();
            }
        }
    }
}

fn leader_acks(batch: &goulette_records::Batch) -> pb::ProduceRequest {
    pb::ProduceRequest { acks: pb::Acks::Leader.into(), ..request(partition(), wire(batch)) }
}

#[tokio::test]
async fn an_acknowledged_record_and_position_are_there_whoever_leads_next() {
    let mut cluster = Cluster::start(3, 2).await;
    cluster.lead(0, &[0, 1, 2]).await;
    let mut client = cluster.client(0).await;
    let mut producer = Producer::open(&mut client).await;
    for number in 0..20 {
        let values = [&format!("v{number}")[..], "x"];
        assert_eq!(producer.store(partition(), &numbered(7, number * 2, values)).await, u64::from(number) * 2);
    }
    let group = || ("g".to_owned(), topic_bytes(partition()));
    for position in [4, 5] {
        let (group, topic_id) = group();
        let commit = pb::CommitPositionRequest { group, topic_id, partition: 0, position, member: String::new() };
        soon(client.commit_position(commit)).await.unwrap();
    }
    let expected = cluster.values(0, 40).await;

    for leader in [1, 2, 0] {
        cluster.lead(leader, &[0, 1, 2]).await;
        assert_eq!(cluster.values(leader, 40).await, expected);
        let mut client = cluster.client(leader).await;
        // Its producers are known as well.
        let mut producer = Producer::open(&mut client).await;
        producer.send(partition(), &numbered(7, 38, ["v19", "x"])).await;
        let ack = producer.ack().await;
        assert_eq!((ack.duplicate, ack.base_offset, ack.error), (true, Some(38), None));
        let (group, topic_id) = group();
        let position = pb::FetchPositionRequest { group, topic_id, partition: 0 };
        assert_eq!(soon(client.fetch_position(position)).await.unwrap().into_inner().position, Some(5));
        assert_eq!(ends(&mut client, partition()).await, (0, 40));
    }
    cluster.stop().await;
}

#[tokio::test]
async fn what_was_not_committed_gives_way_to_what_the_next_leader_wrote() {
    let mut cluster = Cluster::start(3, 2).await;
    cluster.lead(0, &[0, 1, 2]).await;
    let mut producer = Producer::open(&mut cluster.client(0).await).await;
    producer.store(partition(), &batch(["both"])).await;
    cluster.kill(1).await;
    cluster.kill(2).await;
    // Alone it stores what it is not to commit.
    let mut reader = Reader::from(&mut cluster.client(0).await, partition(), 0).await;
    assert_eq!(reader.values(1).await, ["both"]);
    for lost in ["lost 1", "lost 2"] {
        producer.request(leader_acks(&batch([lost]))).await;
        let ack = producer.ack().await;
        assert_eq!((ack.acks(), ack.error), (pb::Acks::Leader, None));
    }
    assert!(reader.is_silent().await, "nobody sees what is not committed");
    let waits = producer.send(partition(), &batch(["lost 3"])).await;

    cluster.start_one(1, |_| {}).await;
    cluster.start_one(2, |_| {}).await;
    cluster.lead(1, &[1, 2]).await;
    // Its leadership is over: nobody knows what became of that one.
    let ack = producer.ack().await;
    assert_eq!((ack.request_id, kind(&ack.error.unwrap())), (waits, ErrorKind::OutcomeUnknown));
    let mut producer = Producer::open(&mut cluster.client(1).await).await;
    producer.store(partition(), &batch(["new"])).await;
    cluster.members[1].sentinel.proposed(|isr| isr.len() == 3).await;
    cluster.lead(0, &[0, 1, 2]).await;
    assert_eq!(cluster.values(0, 2).await, ["both", "new"]);
    cluster.stop().await;
}

#[tokio::test]
async fn too_few_in_sync_replicas_refuse_what_wants_all_before_it_is_stored() {
    let mut cluster = Cluster::start(2, 2).await;
    cluster.lead(0, &[0]).await;
    // Until the other one has caught up, which is proposed then.
    cluster.members[0].sentinel.proposed(|isr| isr.len() == 2).await;
    let mut producer = Producer::open(&mut cluster.client(0).await).await;
    let stored = loop {
        let id = producer.send(partition(), &batch(["a"])).await;
        let ack = producer.ack().await;
        assert_eq!(ack.request_id, id);
        match ack.error {
            None => break ack.base_offset,
            Some(error) => assert_eq!(kind(&error), ErrorKind::NotEnoughReplicas),
        }
    };
    assert_eq!(stored, Some(0), "what was refused was not stored");

    cluster.kill(1).await;
    cluster.members[0].sentinel.proposed(|isr| isr.len() == 1).await;
    let refused = loop {
        // Before the shrinking is confirmed it is taken, and waits.
        let id = producer.send(partition(), &batch(["b"])).await;
        match tokio::time::timeout(Duration::from_millis(300), producer.ack()).await {
            Ok(ack) => break (ack.request_id == id, kind(&ack.error.unwrap())),
            Err(_) => continue,
        }
    };
    assert_eq!(refused, (true, ErrorKind::NotEnoughReplicas));
    cluster.stop().await;
}

#[tokio::test]
async fn a_follower_far_behind_catches_up_from_fragments_and_counts_again() {
    let mut cluster = Cluster::start(3, 2).await;
    cluster.lead(0, &[0, 1, 2]).await;
    cluster.kill(2).await;
    let mut producer = Producer::open(&mut cluster.client(0).await).await;
    cluster.members[0].sentinel.proposed(|isr| isr.len() == 2).await;
    let value = "x".repeat(20_000);
    for number in 0..60 {
        assert_eq!(producer.store(partition(), &batch([&value[..]])).await, number);
    }
    cluster.start_one(2, |options| options.catch_up_bytes_per_second = 8 << 20).await;
    cluster.lead(0, &[0, 1]).await;
    cluster.members[0].sentinel.proposed(|isr| isr.len() == 3).await;
    producer = Producer::open(&mut cluster.client(0).await).await;
    producer.store(partition(), &batch(["last"])).await;
    cluster.lead(2, &[0, 1, 2]).await;
    let read = cluster.values(2, 61).await;
    assert_eq!((read.len(), &read[60][..]), (61, "last"));
    cluster.stop().await;
}

#[tokio::test]
async fn a_follower_must_be_of_the_cluster_and_mean_this_start_of_this_broker() {
    let cluster = Cluster::start(1, 1).await;
    let broker = cluster.members[0].broker.as_ref().unwrap();
    let mut client = ReplicationClient::new(channel(broker.address()).await);
    let right = pb::Hello {
        protocol_version: 1,
        cluster_id: 0xc1_u128.to_be_bytes().to_vec().into(),
        broker: "broker9".to_owned(),
        incarnation: vec![1; 16].into(),
        storage_id: vec![2; 16].into(),
        stream: 0,
        leader: "broker1".to_owned(),
        leader_incarnation: cluster.members[0].registered.incarnation.clone(),
    };
    let mut hello = async |hello: pb::Hello| {
        let (requests, outbound) = tokio::sync::mpsc::channel(1);
        requests.send(pb::ReplicateRequest { hello: Some(hello), ..Default::default() }).await.unwrap();
        soon(client.replicate(ReceiverStream::new(outbound))).await
    };
    let wrong = [
        (pb::Hello { protocol_version: 2, ..right.clone() }, ErrorKind::Unsupported, "version 2"),
        (pb::Hello { cluster_id: vec![3; 16].into(), ..right.clone() }, ErrorKind::Conflict, "cluster"),
        (pb::Hello { leader: "broker2".to_owned(), ..right.clone() }, ErrorKind::Fenced, "broker2"),
        (pb::Hello { leader_incarnation: vec![3; 16].into(), ..right.clone() }, ErrorKind::Fenced, "another life"),
        (pb::Hello { storage_id: vec![3; 15].into(), ..right.clone() }, ErrorKind::Invalid, "16 bytes"),
    ];
    for (wrong, kind, says) in wrong {
        let refused = hello(wrong).await.unwrap_err();
        assert_eq!(kind_of(&refused), kind);
        assert!(refused.message().contains(says), "{}", refused.message());
    }
    let mut frames = hello(right).await.unwrap().into_inner();
    assert!(soon(frames.message()).await.unwrap().unwrap().welcome.is_some());
    cluster.stop().await;
}

#[tokio::test]
async fn a_follower_that_claims_what_the_leader_does_not_hold_is_dismissed() {
    let mut cluster = Cluster::start(2, 1).await;
    cluster.lead(0, &[0]).await;
    cluster.kill(1).await;
    let mut client = ReplicationClient::new(channel(cluster.members[0].broker.as_ref().unwrap().address()).await);
    let (requests, outbound) = tokio::sync::mpsc::channel(8);
    let hello = pb::Hello {
        protocol_version: 1,
        cluster_id: 0xc1_u128.to_be_bytes().to_vec().into(),
        broker: "broker2".to_owned(),
        incarnation: vec![1; 16].into(),
        storage_id: vec![2; 16].into(),
        stream: 0,
        leader: "broker1".to_owned(),
        leader_incarnation: cluster.members[0].registered.incarnation.clone(),
    };
    let follow = |handle, leader_epoch| pb::Follow {
        handle,
        topic_id: topic_bytes(partition()),
        partition: 0,
        leader_epoch,
        last: Some(pb::EpochEnd { epoch: 0, end: 0 }),
        start: 0,
    };
    let first = pb::ReplicateRequest {
        hello: Some(hello),
        follow: vec![follow(1, cluster.epoch), follow(2, cluster.epoch + 1)],
        credit_bytes: 1 << 20,
        ..Default::default()
    };
    requests.send(first).await.unwrap();
    requests.send(pb::ReplicateRequest { follow: vec![follow(3, cluster.epoch)], ..Default::default() }).await.unwrap();
    let mut frames = soon(client.replicate(ReceiverStream::new(outbound))).await.unwrap().into_inner();
    let (mut dismissed, mut cut) = (Vec::new(), false);
    while dismissed.len() < 2 {
        let frame = soon(frames.message()).await.unwrap().unwrap();
        for one in frame.dismissed {
            dismissed.push((one.handle, one.reason()));
            let follow = vec![follow(3, cluster.epoch)];
            requests.send(pb::ReplicateRequest { follow, ..Default::default() }).await.unwrap();
        }
        if frame.cuts.iter().any(|one| one.handle == 3) && !std::mem::replace(&mut cut, true) {
            let joined = pb::Joined { handle: 3, end: 77 };
            requests.send(pb::ReplicateRequest { joined: vec![joined], ..Default::default() }).await.unwrap();
        }
    }
    use pb::dismissed::Reason;
    assert_eq!(dismissed, [(2, Reason::OtherEpoch), (3, Reason::Impossible)]);
    cluster.stop().await;
}

#[tokio::test]
async fn a_follower_answers_nobody_but_its_leader() {
    let mut cluster = Cluster::start(2, 1).await;
    cluster.lead(0, &[0, 1]).await;
    let mut client = cluster.client(1).await;
    let error = Reader::open(&mut client, open(partition(), 0), 0).await.error().await;
    assert_eq!(kind(&error), ErrorKind::NotLeader);
    let refused = Producer::open(&mut client).await.refused(request(partition(), wire(&batch(["x"])))).await;
    assert_eq!(kind(&refused), ErrorKind::NotLeader);
    cluster.stop().await;
}

#[tokio::test]
async fn what_a_disk_has_damaged_comes_back_from_another_replica() {
    let mut cluster = Cluster::start(2, 1).await;
    cluster.lead(0, &[0, 1]).await;
    let mut producer = Producer::open(&mut cluster.client(0).await).await;
    for number in 0..20 {
        producer.store(partition(), &batch([&format!("v{number}")[..]])).await;
    }
    let expected = cluster.values(0, 20).await;
    cluster.members[1].sentinel.forget();
    cluster.members[1].broker.take().unwrap().stop().await.unwrap();
    let folder = cluster.members[1].dir.path().join("topics");
    let files: Vec<_> =
        files_below(&folder).into_iter().filter(|path| path.extension().is_some_and(|e| e == "log")).collect();
    let mut bytes = std::fs::read(&files[0]).unwrap();
    bytes[200] ^= 1;
    std::fs::write(&files[0], bytes).unwrap();

    cluster.start_one(1, |_| {}).await;
    cluster.lead(1, &[0, 1]).await;
    let read = async {
        loop {
            let mut reader = Reader::from(&mut cluster.client(1).await, partition(), 0).await;
            let (mut read, mut damaged) = (Vec::new(), false);
            while read.len() < 20 && !damaged {
                let frame = reader.frame().await;
                damaged = frame.error.is_some();
                read.extend(crate::harness::values(&frame.batches));
            }
            if !damaged {
                return read;
            }
        }
    };
    assert_eq!(soon(read).await, expected);
    cluster.stop().await;
}

fn files_below(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}
