//! Keeps the embedded etcd small without anybody's help: it gives freed space back, and ends an alarm that is over.
//!
//! History is compacted by the etcd itself, every hour. What that frees stays in the store's file until it is
//! defragmented, and a full store refuses writes until somebody disarms its alarm: both are done here.

use std::{collections::hash_map::DefaultHasher, hash::Hasher, time::Duration};

use goulette_logging::{info, warn};
use goulette_proto::etcd::etcdserverpb::{
    AlarmRequest, AlarmType, CompactionRequest, DefragmentRequest, StatusRequest, alarm_request::AlarmAction,
    kv_client::KvClient, maintenance_client::MaintenanceClient,
};
use tokio::{sync::watch, time::sleep};
use tonic::{Request, Status, transport::Channel};

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(60);
/// Members defragment at different seconds of the interval, so that a majority always answers.
const SPREAD_MS: u64 = 50_000;
/// A call may wait for a defragmentation.
const CALL_DEADLINE: Duration = Duration::from_secs(120);
/// Freed bytes below which a defragmentation is not worth the pause.
const FREED_BYTES_MIN: i64 = 64 << 20;
/// Revisions of history that a full store keeps, for watchers that are a little behind.
const REVISIONS_KEPT: i64 = 1_000;

/// What one look found.
#[derive(Clone, Copy, Debug)]
struct Found {
    member: u64,
    revision: i64,
    /// Bytes of the file.
    size: i64,
    /// Bytes of them that hold something.
    in_use: i64,
    quota: i64,
    /// Whether this member has raised the alarm of a full store.
    is_full: bool,
}

/// What is to be done about it, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chore {
    Compact { to: i64 },
    Defragment,
    Disarm,
}

/// Decides; `Disarm` is looked at again after the space was freed.
fn chores(found: Found) -> Vec<Chore> {
    let freed = found.size.saturating_sub(found.in_use);
    let has_room = found.in_use < found.quota / 5 * 4;
    let mut chores = Vec::new();
    if found.is_full && !has_room && found.revision > REVISIONS_KEPT {
        chores.push(Chore::Compact { to: found.revision - REVISIONS_KEPT });
    }
    let wastes_much = freed >= FREED_BYTES_MIN && freed > found.in_use;
    if wastes_much || found.is_full && freed > found.quota / 10 {
        chores.push(Chore::Defragment);
    }
    if found.is_full && has_room {
        chores.push(Chore::Disarm);
    }
    chores
}

/// Looks after the etcd behind `channel` until it is told to stop.
pub(super) async fn run(channel: Channel, mut stopping: watch::Receiver<bool>) {
    let mut problem = String::new();
    let work = async {
        let mut pause = INTERVAL;
        loop {
            sleep(pause).await;
            match look_after(&channel).await {
                Ok(member) => {
                    problem.clear();
                    let mut hasher = DefaultHasher::new();
                    hasher.write_u64(member);
                    pause = INTERVAL + Duration::from_millis(hasher.finish() % SPREAD_MS);
                }
                Err(status) => {
                    let said = status.message().to_owned();
                    if said != problem {
                        warn!("the embedded etcd could not be looked after, and will be again: {said}");
                        problem = said;
                    }
                }
            }
        }
    };
    tokio::select! {
        () = work => {}
        _ = stopping.wait_for(|&stop| stop) => {}
    }
}

async fn look_after(channel: &Channel) -> Result<u64, Status> {
    let found = look(channel).await?;
    let mut maintenance = MaintenanceClient::new(channel.clone());
    for chore in chores(found) {
        match chore {
            Chore::Compact { to } => {
                warn!("the embedded etcd is full: history below revision {to} is dropped");
                let request = CompactionRequest { revision: to, physical: true };
                match KvClient::new(channel.clone()).compact(timed(request)).await {
                    Ok(_) => {}
                    // Somebody has compacted beyond it.
                    Err(status) if status.code() == tonic::Code::OutOfRange => {}
                    Err(status) => return Err(status),
                }
            }
            Chore::Defragment => {
                info!("the embedded etcd holds {} bytes in a file of {}: it is defragmented", found.in_use, found.size);
                maintenance.defragment(timed(DefragmentRequest {})).await?;
            }
            Chore::Disarm => {
                let alarm = AlarmType::Nospace.into();
                let request = AlarmRequest { action: AlarmAction::Deactivate.into(), member_id: found.member, alarm };
                maintenance.alarm(timed(request)).await?;
                info!("the embedded etcd has room again ({} of {} bytes): it takes writes", found.in_use, found.quota);
            }
        }
    }
    Ok(found.member)
}

async fn look(channel: &Channel) -> Result<Found, Status> {
    let mut maintenance = MaintenanceClient::new(channel.clone());
    let status = maintenance.status(timed(StatusRequest {})).await?.into_inner();
    let header = status.header.unwrap_or_default();
    let request = AlarmRequest { action: AlarmAction::Get.into(), member_id: 0, alarm: AlarmType::None.into() };
    let alarms = maintenance.alarm(timed(request)).await?.into_inner().alarms;
    let is_full = alarms.iter().any(|alarm| alarm.member_id == header.member_id && alarm.alarm() == AlarmType::Nospace);
    Ok(Found {
        member: header.member_id,
        revision: header.revision,
        size: status.db_size,
        in_use: status.db_size_in_use,
        quota: status.db_size_quota,
        is_full,
    })
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_DEADLINE);
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: i64 = 1 << 20;

    fn found(size: i64, in_use: i64, is_full: bool) -> Found {
        Found { member: 1, revision: 5_000, size, in_use, quota: 1_000 * MIB, is_full }
    }

    #[test]
    fn space_is_given_back_when_most_of_much_is_free() {
        assert_eq!(chores(found(200 * MIB, 50 * MIB, false)), [Chore::Defragment]);
        assert_eq!(chores(found(200 * MIB, 150 * MIB, false)), []);
        assert_eq!(chores(found(60 * MIB, MIB, false)), [], "little is not worth the pause");
    }

    #[test]
    fn a_full_store_is_compacted_first_and_takes_writes_when_it_has_room() {
        assert_eq!(chores(found(990 * MIB, 980 * MIB, true)), [Chore::Compact { to: 4_000 }]);
        assert_eq!(chores(found(990 * MIB, 100 * MIB, true)), [Chore::Defragment, Chore::Disarm]);
        assert_eq!(chores(found(110 * MIB, 100 * MIB, true)), [Chore::Disarm]);
    }
}
