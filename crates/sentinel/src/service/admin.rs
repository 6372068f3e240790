//! The service `goulette.v1.Admin`: what an operator asks of a running sentinel.

use std::sync::Arc;

use goulette_logging::{self as logging, Level, info};
use goulette_meta::keys::BrokerState;
use goulette_proto::pb::{self, admin_server};
use tonic::{Request, Response, Status};

use super::Context;
use crate::{RequestError, probe::INCARNATION};

/// See the module.
pub(crate) struct AdminService(pub(crate) Arc<Context>);

#[tonic::async_trait]
impl admin_server::Admin for AdminService {
    async fn set_log_level(
        &self,
        request: Request<pb::SetLogLevelRequest>,
    ) -> Result<Response<pb::SetLogLevelResponse>, Status> {
        let level: Level = request
            .into_inner()
            .level
            .parse()
            .map_err(|error: logging::ParseLevelError| RequestError::Invalid(error.to_string()))?;
        let previous = logging::set_level(level).map(|previous| previous.to_string()).unwrap_or_default();
        info!("log level is now {level}");
        Ok(Response::new(pb::SetLogLevelResponse { previous }))
    }

    async fn get_info(&self, _request: Request<pb::GetInfoRequest>) -> Result<Response<pb::GetInfoResponse>, Status> {
        let context = &self.0;
        let catalog = context.state.catalog();
        let live = catalog.brokers().filter(|(_, broker)| broker.state == BrokerState::Live).count();
        let details = [
            ("address", context.address()),
            (INCARNATION, context.incarnation.to_string()),
            ("leads", context.state.leads().to_string()),
            ("store", context.options.store.mode().to_owned()),
            ("brokers_known", catalog.brokers().count().to_string()),
            ("brokers_live", live.to_string()),
            ("topics", catalog.topics().count().to_string()),
            ("revision", catalog.revision().to_string()),
        ];
        Ok(Response::new(pb::GetInfoResponse {
            role: "sentinel".to_owned(),
            id: context.options.id.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster_id: catalog.cluster().map(|cluster| cluster.cluster_id.to_string()).unwrap_or_default(),
            state: if *context.stopping.borrow() { "stopping" } else { "serving" }.to_owned(),
            log_level: logging::level().map(|level| level.to_string()).unwrap_or_default(),
            started_at_ms: u64::try_from(context.started_at_ms).unwrap_or(0),
            details: details.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        }))
    }
}
