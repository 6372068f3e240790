use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use goulette_env::{
    Env,
    sim::{SimDisk, Unsynced},
};
use goulette_proto::etcd::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, InternalRaftRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest,
};
use prost::Message;

use super::{State, StateOptions};
use crate::auth::TokenKind;
use crate::consensus::{Committed, LogPosition, MemberRaft, Payload, StateMachine};

const FOLDER: &str = "member/store";

fn open(env: &Env) -> Arc<State> {
    env.disk.create_dir_all(Path::new(FOLDER)).unwrap();
    let options = StateOptions { lease_ttl_min: 2, tokens: TokenKind::Simple(Duration::from_secs(300)) };
    State::open(env.clone(), Path::new(FOLDER), options).unwrap()
}

fn entry(index: u64, request: &InternalRaftRequest) -> Committed {
    let payload = Payload::Request(Bytes::from(request.encode_to_vec()));
    Committed { position: LogPosition { term: 1, index }, payload }
}

fn put(key: &str, value: &str, lease: i64) -> InternalRaftRequest {
    let put = PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), lease, ..PutRequest::default() };
    InternalRaftRequest { put: Some(put), ..InternalRaftRequest::default() }
}

fn delete(key: &str) -> InternalRaftRequest {
    let delete = DeleteRangeRequest { key: key.to_owned().into(), ..DeleteRangeRequest::default() };
    InternalRaftRequest { delete_range: Some(delete), ..InternalRaftRequest::default() }
}

fn grant(id: i64) -> InternalRaftRequest {
    let lease_grant = Some(LeaseGrantRequest { id, ttl: 60 });
    InternalRaftRequest { lease_grant, ..InternalRaftRequest::default() }
}

fn revoke(id: i64) -> InternalRaftRequest {
    InternalRaftRequest { lease_revoke: Some(LeaseRevokeRequest { id }), ..InternalRaftRequest::default() }
}

fn compact(revision: i64) -> InternalRaftRequest {
    let compaction = Some(CompactionRequest { revision, physical: false });
    InternalRaftRequest { compaction, ..InternalRaftRequest::default() }
}

/// A log of a bit of everything, in the same order for the same seed.
fn script(seed: u64) -> Vec<Committed> {
    let mut random = seed;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let members = vec![MemberRaft { id: 7, peer_urls: vec!["http://h:1".to_owned()], is_learner: false }];
    let first = Payload::Members { configuration: Bytes::from_static(b"conf"), members };
    let mut log = vec![Committed { position: LogPosition { term: 1, index: 1 }, payload: first }];
    for index in 2..200 {
        let key = format!("k{}", next(12));
        let request = match next(10) {
            0..5 => put(&key, &format!("v{index}"), next(3) as i64),
            5..7 => delete(&key),
            7 => grant(1 + next(2) as i64),
            8 => revoke(1 + next(2) as i64),
            _ => compact(1 + index as i64 / 3),
        };
        log.push(entry(index, &request));
    }
    log
}

/// All that a client could see, in short.
fn facts(state: &State) -> (i64, i64, u32, Vec<i64>, Option<Vec<Bytes>>, usize) {
    let store = &state.store;
    let (hash, current) = store.hash_kv(0).unwrap();
    let mut leases = state.lessor.list();
    leases.sort_unstable();
    (current, store.compacted(), hash.hash, leases, state.lessor.keys(1), state.members.list().len())
}

fn apply_all(state: &State, log: &[Committed], group: usize, sync_every: usize) {
    for (count, entries) in log.chunks(group).enumerate() {
        state.apply(entries.to_vec()).unwrap();
        if count % sync_every == sync_every - 1 {
            state.sync().unwrap();
        }
    }
}

#[test]
fn a_crash_goes_back_to_a_whole_group_and_the_log_brings_the_rest() {
    for seed in 0..12 {
        let log = script(seed);
        let disk = SimDisk::from_seed(seed);
        let state = open(&disk.env());
        apply_all(&state, &log, 3, 20);
        let expected = facts(&state);
        let durable = state.durable();
        for unsynced in [Unsynced::None, Unsynced::All, Unsynced::Random] {
            let crashed = disk.crash(unsynced);
            let again = open(&crashed.env());
            let applied = again.applied();
            assert!(applied >= durable, "seed {seed}: {applied:?} is before what was durable, {durable:?}");
            let rest: Vec<_> = log.iter().filter(|entry| entry.position > applied).cloned().collect();
            apply_all(&again, &rest, 5, 50);
            assert_eq!(facts(&again), expected, "seed {seed}, {unsynced:?}");
            assert_eq!(again.configuration().unwrap().1, "conf");
        }
    }
}

#[test]
fn members_agree_however_the_log_is_cut_into_groups() {
    let log = script(3);
    let states: Vec<_> = [1, 7, 1000]
        .map(|group| {
            let state = open(&SimDisk::from_seed(1).env());
            apply_all(&state, &log, group, usize::MAX);
            facts(&state)
        })
        .into();
    assert_eq!(states[0], states[1]);
    assert_eq!(states[0], states[2]);
}

#[test]
fn a_state_that_was_sent_is_the_state_that_is_received() {
    let log = script(5);
    let from = open(&SimDisk::from_seed(1).env());
    apply_all(&from, &log, 10, usize::MAX);
    let mut bytes = Vec::new();
    from.snapshot().unwrap().write(&mut bytes).unwrap();

    let disk = SimDisk::from_seed(2);
    let to = open(&disk.env());
    apply_all(&to, &log[..5], 1, usize::MAX);
    assert_eq!(to.install(&mut &bytes[..]).unwrap(), from.applied());
    assert_eq!(facts(&to), facts(&from));
    let crashed = disk.crash(Unsynced::None);
    assert_eq!(facts(&open(&crashed.env())), facts(&from), "it is durable");

    let half = bytes.len() / 2;
    bytes[half] ^= 1;
    let untouched = facts(&to);
    assert!(to.install(&mut &bytes[..]).is_err());
    assert!(to.install(&mut &bytes[..half]).is_err());
    assert_eq!(facts(&to), untouched);
}

#[test]
fn the_revision_never_goes_back_even_if_all_was_deleted_and_compacted() {
    let disk = SimDisk::from_seed(9);
    let state = open(&disk.env());
    let requests = [put("a", "1", 0), put("a", "2", 0), delete("a"), compact(4)];
    let log: Vec<_> = requests.iter().zip(1..).map(|(request, index)| entry(index, request)).collect();
    apply_all(&state, &log, 1, 1);
    assert_eq!(state.store.revision(), 4);
    let again = open(&disk.crash(Unsynced::None).env());
    assert_eq!((again.store.revision(), again.store.compacted()), (4, 4));
}
