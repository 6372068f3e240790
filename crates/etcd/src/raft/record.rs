//! A record of the raft log as the WAL holds it. Layout: `docs/formats/raft-log.md`.

use bytes::Bytes;
use goulette_proto::raft as pb;
use goulette_wal::Payload;
use openraft::EntryPayload;
use prost::Message;

use super::types::{
    Command, Entry, LogId, Malformed, Vote, log_id, membership_from_pb, membership_to_pb, vote_from_pb, vote_to_pb,
};

/// The kinds of WAL entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Entry = 1,
    Vote = 2,
    Truncate = 3,
    Purge = 4,
}

/// What an entry's payload is.
const BLANK: u8 = 0;
const COMMAND: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// Bytes of a log id: term and index + 1, both little-endian; all zero for none.
const LOG_ID_BYTES: usize = 16;
const VOTE_BYTES: usize = 17;

#[derive(Debug, PartialEq)]
pub(crate) enum Record {
    /// An entry, and how far the log was known to be committed when it was appended.
    Entry {
        entry: Entry,
        committed: Option<LogId>,
    },
    Vote(Vote),
    /// What stands behind `last` is dropped.
    Truncate {
        last: Option<LogId>,
    },
    /// All up to `upto` is dropped. Says the vote again: the segment that held it may be recycled.
    Purge {
        upto: LogId,
        vote: Option<Vote>,
    },
}

impl Record {
    pub(crate) fn encode_entry(entry: &Entry, committed: Option<LogId>) -> (Kind, Payload) {
        let (tag, body) = match &entry.payload {
            EntryPayload::Blank => (BLANK, Bytes::new()),
            EntryPayload::Normal(command) => (COMMAND, command.0.clone()),
            EntryPayload::Membership(membership) => {
                (MEMBERSHIP, Bytes::from(membership_to_pb(membership).encode_to_vec()))
            }
        };
        let mut head = [0; 2 * LOG_ID_BYTES + 1];
        put_log_id(&mut head[..LOG_ID_BYTES], Some(&entry.log_id));
        put_log_id(&mut head[LOG_ID_BYTES..2 * LOG_ID_BYTES], committed.as_ref());
        head[2 * LOG_ID_BYTES] = tag;
        (Kind::Entry, Payload::new(&head).with(body))
    }

    pub(crate) fn encode_vote(vote: &Vote) -> (Kind, Payload) {
        (Kind::Vote, Payload::new(&vote_bytes(vote)))
    }

    pub(crate) fn encode_truncate(last: Option<LogId>) -> (Kind, Payload) {
        let mut head = [0; LOG_ID_BYTES];
        put_log_id(&mut head, last.as_ref());
        (Kind::Truncate, Payload::new(&head))
    }

    pub(crate) fn encode_purge(upto: &LogId, vote: Option<Vote>) -> (Kind, Payload) {
        let mut head = [0; LOG_ID_BYTES + VOTE_BYTES];
        put_log_id(&mut head[..LOG_ID_BYTES], Some(upto));
        let Some(vote) = vote else { return (Kind::Purge, Payload::new(&head[..LOG_ID_BYTES])) };
        head[LOG_ID_BYTES..].copy_from_slice(&vote_bytes(&vote));
        (Kind::Purge, Payload::new(&head))
    }

    pub(crate) fn decode(kind: u8, bytes: &Bytes) -> Result<Record, Malformed> {
        match kind {
            kind if kind == Kind::Entry as u8 => {
                let head = bytes.get(..2 * LOG_ID_BYTES + 1).ok_or(Malformed("a short entry"))?;
                let id = get_log_id(&head[..LOG_ID_BYTES]).ok_or(Malformed("an entry without an id"))?;
                let committed = get_log_id(&head[LOG_ID_BYTES..2 * LOG_ID_BYTES]);
                let body = bytes.slice(head.len()..);
                let payload = match head[2 * LOG_ID_BYTES] {
                    BLANK => EntryPayload::Blank,
                    COMMAND => EntryPayload::Normal(Command(body)),
                    MEMBERSHIP => {
                        let membership = pb::Membership::decode(body).map_err(|_| Malformed("a membership"))?;
                        EntryPayload::Membership(membership_from_pb(membership)?)
                    }
                    _ => return Err(Malformed("an entry of an unknown type")),
                };
                Ok(Record::Entry { entry: Entry { log_id: id, payload }, committed })
            }
            kind if kind == Kind::Vote as u8 => get_vote(bytes).map(Record::Vote),
            kind if kind == Kind::Truncate as u8 => {
                let head = bytes.get(..LOG_ID_BYTES).ok_or(Malformed("a short truncation"))?;
                Ok(Record::Truncate { last: get_log_id(head) })
            }
            kind if kind == Kind::Purge as u8 => {
                let head = bytes.get(..LOG_ID_BYTES).ok_or(Malformed("a short purge"))?;
                let upto = get_log_id(head).ok_or(Malformed("a purge of nothing"))?;
                let vote = &bytes[LOG_ID_BYTES..];
                Ok(Record::Purge { upto, vote: if vote.is_empty() { None } else { Some(get_vote(vote)?) } })
            }
            _ => Err(Malformed("a record of an unknown kind")),
        }
    }
}

/// What an entry weighs in a message, about.
pub(crate) fn payload_bytes(entry: &Entry) -> usize {
    const OVERHEAD: usize = 32;
    match &entry.payload {
        EntryPayload::Normal(command) => OVERHEAD + command.0.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => OVERHEAD,
    }
}

fn put_log_id(bytes: &mut [u8], id: Option<&LogId>) {
    if let Some(id) = id {
        bytes[..8].copy_from_slice(&id.leader_id.term.to_le_bytes());
        bytes[8..].copy_from_slice(&(id.index + 1).to_le_bytes());
    }
}

fn get_log_id(bytes: &[u8]) -> Option<LogId> {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a slice of 8 bytes"));
    number(8).checked_sub(1).map(|index| log_id(number(0), index))
}

fn vote_bytes(vote: &Vote) -> [u8; VOTE_BYTES] {
    let pb::Vote { term, node, committed } = vote_to_pb(vote);
    let mut bytes = [0; VOTE_BYTES];
    bytes[..8].copy_from_slice(&term.to_le_bytes());
    bytes[8..16].copy_from_slice(&node.to_le_bytes());
    bytes[16] = committed.into();
    bytes
}

fn get_vote(bytes: &[u8]) -> Result<Vote, Malformed> {
    let bytes = bytes.get(..VOTE_BYTES).ok_or(Malformed("a short vote"))?;
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a slice of 8 bytes"));
    vote_from_pb(Some(&pb::Vote { term: number(0), node: number(8), committed: bytes[16] != 0 }))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::raft::types::{Member, Membership};

    fn flat(payload: &Payload) -> Bytes {
        let mut bytes = payload.head().to_vec();
        payload.parts().iter().for_each(|part| bytes.extend_from_slice(part));
        bytes.into()
    }

    fn any_vote() -> impl Strategy<Value = Vote> {
        (any::<u64>(), any::<u64>(), any::<bool>())
            .prop_map(|(term, node, committed)| vote_from_pb(Some(&pb::Vote { term, node, committed })).unwrap())
    }

    fn any_id() -> impl Strategy<Value = LogId> {
        (any::<u64>(), 0..u64::MAX).prop_map(|(term, index)| log_id(term, index))
    }

    fn any_record() -> impl Strategy<Value = Record> {
        let member = Member { peer_urls: vec!["http://h:1".into()], joining: true };
        let membership = Membership::new(vec![BTreeSet::from([7])], BTreeMap::from([(7, member)])).unwrap();
        let payload = prop_oneof![
            Just(EntryPayload::Blank),
            prop::collection::vec(any::<u8>(), 0..64).prop_map(|bytes| EntryPayload::Normal(Command(bytes.into()))),
            Just(EntryPayload::Membership(membership)),
        ];
        prop_oneof![
            (any_id(), payload, prop::option::of(any_id()))
                .prop_map(|(log_id, payload, committed)| Record::Entry { entry: Entry { log_id, payload }, committed }),
            any_vote().prop_map(Record::Vote),
            prop::option::of(any_id()).prop_map(|last| Record::Truncate { last }),
            (any_id(), prop::option::of(any_vote())).prop_map(|(upto, vote)| Record::Purge { upto, vote }),
        ]
    }

    proptest! {
        #[test]
        fn a_record_reads_back(record in any_record()) {
            let (kind, payload) = match &record {
                Record::Entry { entry, committed } => Record::encode_entry(entry, *committed),
                Record::Vote(vote) => Record::encode_vote(vote),
                Record::Truncate { last } => Record::encode_truncate(*last),
                Record::Purge { upto, vote } => Record::encode_purge(upto, *vote),
            };
            prop_assert_eq!(Record::decode(kind as u8, &flat(&payload)).unwrap(), record);
        }

        #[test]
        fn any_bytes_are_a_record_or_an_error(kind: u8, bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Record::decode(kind, &bytes.into());
        }
    }
}
