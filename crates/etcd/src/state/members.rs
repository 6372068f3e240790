//! Who belongs to the cluster, stored as etcd stores it: one JSON object for each member.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{PoisonError, RwLock, RwLockReadGuard},
};

use goulette_proto::etcd::membershippb::ClusterMemberAttrSetRequest;
use serde::{Deserialize, Serialize};

use crate::{
    consensus::{MemberId, MemberRaft},
    store::{Batch, Store, StoreError, tables},
};

/// One member; the field names are etcd's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its id.
    pub id: MemberId,
    /// The URLs of its peer port.
    #[serde(rename = "peerURLs", default)]
    pub peer_urls: Vec<String>,
    /// Whether it has no vote.
    #[serde(rename = "isLearner", default, skip_serializing_if = "std::ops::Not::not")]
    pub is_learner: bool,
    /// Its name; empty until it has started.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The URLs of its client port; none until it has started.
    #[serde(rename = "clientURLs", default, skip_serializing_if = "Vec::is_empty")]
    pub client_urls: Vec<String>,
}

impl Member {
    /// Whether it has told its name: it has started once.
    pub fn is_started(&self) -> bool {
        !self.name.is_empty()
    }
}

#[derive(Debug, Default)]
struct Inner {
    members: BTreeMap<MemberId, Member>,
    removed: BTreeSet<MemberId>,
    /// The version that all members speak; `None` until the leader has set it.
    version: Option<String>,
}

/// The members as of the last applied entry.
pub struct Members {
    inner: RwLock<Inner>,
}

impl Members {
    pub(super) fn load(store: &Store) -> Result<Self, StoreError> {
        let members = Self { inner: RwLock::default() };
        members.reload(store)?;
        Ok(members)
    }

    pub(super) fn reload(&self, store: &Store) -> Result<(), StoreError> {
        let mut fresh = Inner::default();
        store.scan(tables::MEMBERS, |_, value| {
            let member: Member = serde_json::from_slice(value)
                .map_err(|error| StoreError::Damaged(format!("a stored member cannot be read: {error}")))?;
            fresh.members.insert(member.id, member);
            Ok(())
        })?;
        store.scan(tables::MEMBERS_REMOVED, |key, _| {
            fresh.removed.extend(std::str::from_utf8(key).ok().and_then(|id| MemberId::from_str_radix(id, 16).ok()));
            Ok(())
        })?;
        let version = store.get(tables::CLUSTER, tables::cluster::VERSION)?;
        fresh.version = version.and_then(|version| String::from_utf8(version).ok());
        *self.inner.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// All members, by id.
    pub fn list(&self) -> Vec<Member> {
        self.read().members.values().cloned().collect()
    }

    /// One member.
    pub fn get(&self, id: MemberId) -> Option<Member> {
        self.read().members.get(&id).cloned()
    }

    /// Whether a member with this id was removed; its id never comes back.
    pub fn is_removed(&self, id: MemberId) -> bool {
        self.read().removed.contains(&id)
    }

    /// The version that all members speak, such as `3.6.0`.
    pub fn version(&self) -> Option<String> {
        self.read().version.clone()
    }

    pub(super) fn set_version(&self, batch: &Batch<'_>, version: &str) -> Result<(), StoreError> {
        batch.bucket(tables::CLUSTER)?.insert(tables::cluster::VERSION, version.as_bytes())?;
        self.inner.write().unwrap_or_else(PoisonError::into_inner).version = Some(version.to_owned());
        Ok(())
    }

    /// A member tells its name and client URLs.
    pub(super) fn set_attributes(
        &self,
        batch: &Batch<'_>,
        request: &ClusterMemberAttrSetRequest,
    ) -> Result<(), StoreError> {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let attributes = request.member_attributes.clone().unwrap_or_default();
        if let Some(member) = inner.members.get_mut(&request.member_id) {
            (member.name, member.client_urls) = (attributes.name, attributes.client_urls);
            store(batch, member)?;
        }
        Ok(())
    }

    /// The consensus has these members from now on.
    pub(super) fn set_all(&self, batch: &Batch<'_>, now: &[MemberRaft]) -> Result<(), StoreError> {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        for raft in now {
            let member = inner.members.entry(raft.id).or_default();
            let before = member.clone();
            member.id = raft.id;
            member.peer_urls.clone_from(&raft.peer_urls);
            member.is_learner = raft.is_learner;
            if *member != before {
                store(batch, member)?;
            }
        }
        let gone: Vec<_> = inner.members.keys().copied().filter(|id| now.iter().all(|raft| raft.id != *id)).collect();
        for id in gone {
            inner.members.remove(&id);
            inner.removed.insert(id);
            let name = stored_name(id);
            batch.bucket(tables::MEMBERS)?.remove(name.as_bytes())?;
            batch.bucket(tables::MEMBERS_REMOVED)?.insert(name.as_bytes(), &b"removed"[..])?;
        }
        Ok(())
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stored_name(id: MemberId) -> String {
    format!("{id:x}")
}

fn store(batch: &Batch<'_>, member: &Member) -> Result<(), StoreError> {
    let json = serde_json::to_vec(member).expect("a member is plain data");
    batch.bucket(tables::MEMBERS)?.insert(stored_name(member.id).as_bytes(), &json[..])?;
    Ok(())
}
