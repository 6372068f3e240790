//! Keys that end with their writer: etcd's leases.

use std::time::Duration;

use goulette_proto::etcd::etcdserverpb::{
    AlarmRequest, AlarmType, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, MemberListRequest,
    StatusRequest, alarm_request::AlarmAction, cluster_client::ClusterClient, lease_client::LeaseClient,
    maintenance_client::MaintenanceClient,
};
use tonic::{Code, Status, transport::Channel};

use super::{EtcdStore, endpoints::Attempt};
use crate::store::{Answer, Condition, LeaseId, MetaLeases};

impl MetaLeases for EtcdStore {
    fn grant(&self, ttl: Duration) -> Answer<'_, LeaseId> {
        Box::pin(async move {
            let request = LeaseGrantRequest { ttl: ttl.as_secs().max(1) as i64, id: 0 };
            // A lease granted twice by an unknown outcome ends by itself, so this may go to the next member.
            let call = |channel: Channel, attempt: Attempt| async move {
                LeaseClient::new(channel).lease_grant(attempt.request(request)).await
            };
            Ok(LeaseId(self.endpoints.read(call).await?.into_inner().id))
        })
    }

    fn keep_alive(&self, lease: LeaseId) -> Answer<'_, bool> {
        Box::pin(async move {
            let call = |channel: Channel, attempt: Attempt| async move {
                let once = tokio_stream::once(LeaseKeepAliveRequest { id: lease.0 });
                let mut answers = LeaseClient::new(channel).lease_keep_alive(attempt.request(once)).await?.into_inner();
                match answers.message().await? {
                    Some(answer) => Ok(tonic::Response::new(answer.ttl > 0)),
                    None => Err(Status::unavailable("the stream ended without an answer")),
                }
            };
            Ok(self.endpoints.read(call).await?.into_inner())
        })
    }

    fn revoke(&self, lease: LeaseId) -> Answer<'_, ()> {
        Box::pin(async move {
            let request = LeaseRevokeRequest { id: lease.0 };
            let call = |channel: Channel, attempt: Attempt| async move {
                match LeaseClient::new(channel).lease_revoke(attempt.request(request)).await {
                    // It has ended already.
                    Err(status) if status.code() == Code::NotFound => Ok(tonic::Response::new(())),
                    answer => answer.map(|answer| answer.map(|_| ())),
                }
            };
            self.endpoints.read(call).await.map(|_| ())
        })
    }

    fn condition(&self) -> Answer<'_, Condition> {
        Box::pin(async move {
            let call = |channel: Channel, attempt: Attempt| async move {
                let mut maintenance = MaintenanceClient::new(channel.clone());
                let status = maintenance.status(attempt.request(StatusRequest::default())).await?.into_inner();
                let alarms = AlarmRequest { action: AlarmAction::Get.into(), ..Default::default() };
                let alarms = maintenance.alarm(attempt.request(alarms)).await?.into_inner();
                let members =
                    ClusterClient::new(channel).member_list(attempt.request(MemberListRequest::default())).await?;
                let alarms = alarms.alarms.iter().filter_map(|alarm| match alarm.alarm() {
                    AlarmType::None => None,
                    AlarmType::Nospace => Some("NOSPACE".to_owned()),
                    AlarmType::Corrupt => Some("CORRUPT".to_owned()),
                });
                Ok(tonic::Response::new(Condition {
                    release: status.version,
                    size_bytes: status.db_size.unsigned_abs(),
                    alarms: alarms.collect(),
                    members: members.into_inner().members.len(),
                }))
            };
            Ok(self.endpoints.read(call).await?.into_inner())
        })
    }
}
