//! Alarms: a member that lacks space or whose data is damaged, until an operator disarms it.

use std::{
    collections::BTreeSet,
    sync::{PoisonError, RwLock},
};

use goulette_proto::etcd::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, alarm_request::AlarmAction,
};
use prost::Message;

use crate::store::{Batch, Store, StoreError, tables};

/// The alarms that are on.
pub struct Alarms {
    /// Kind, then member.
    active: RwLock<BTreeSet<(i32, u64)>>,
}

impl Alarms {
    /// # Errors
    /// [`StoreError`].
    pub(super) fn load(store: &Store) -> Result<Self, StoreError> {
        let alarms = Self { active: RwLock::default() };
        alarms.reload(store)?;
        Ok(alarms)
    }

    pub(super) fn reload(&self, store: &Store) -> Result<(), StoreError> {
        let mut active = BTreeSet::new();
        store.scan(tables::ALARM, |key, _| {
            let alarm = AlarmMember::decode(key)
                .map_err(|error| StoreError::Damaged(format!("a stored alarm cannot be read: {error}")))?;
            active.insert((alarm.alarm, alarm.member_id));
            Ok(())
        })?;
        *self.active.write().unwrap_or_else(PoisonError::into_inner) = active;
        Ok(())
    }

    /// The alarms of a kind, of all kinds for [`AlarmType::None`].
    pub fn of(&self, kind: AlarmType) -> Vec<AlarmMember> {
        let active = self.active.read().unwrap_or_else(PoisonError::into_inner);
        let wanted = active.iter().filter(|(alarm, _)| kind == AlarmType::None || *alarm == kind as i32);
        wanted.map(|&(alarm, member_id)| AlarmMember { member_id, alarm }).collect()
    }

    /// Whether any member raised an alarm of this kind.
    pub fn is_on(&self, kind: AlarmType) -> bool {
        let active = self.active.read().unwrap_or_else(PoisonError::into_inner);
        active.range((kind as i32, 0)..).next().is_some_and(|(alarm, _)| *alarm == kind as i32)
    }

    pub(super) fn apply(&self, batch: &Batch<'_>, request: &AlarmRequest) -> Result<AlarmResponse, StoreError> {
        let alarm = AlarmMember { member_id: request.member_id, alarm: request.alarm };
        let stored = alarm.encode_to_vec();
        let place = (alarm.alarm, alarm.member_id);
        let alarms = match request.action() {
            AlarmAction::Get => self.of(request.alarm()),
            // None is no alarm.
            AlarmAction::Activate if request.alarm != AlarmType::None as i32 => {
                let is_new = self.active.write().unwrap_or_else(PoisonError::into_inner).insert(place);
                if is_new {
                    batch.bucket(tables::ALARM)?.insert(&stored[..], &b""[..])?;
                }
                vec![alarm]
            }
            AlarmAction::Activate => Vec::new(),
            AlarmAction::Deactivate => {
                let was_on = self.active.write().unwrap_or_else(PoisonError::into_inner).remove(&place);
                if was_on {
                    batch.bucket(tables::ALARM)?.remove(&stored[..])?;
                }
                if was_on { vec![alarm] } else { Vec::new() }
            }
        };
        Ok(AlarmResponse { header: None, alarms })
    }
}
