//! Asking a broker, or another sentinel, whether it lives.

use std::time::Duration;

use goulette_proto::pb::{GetInfoRequest, admin_client::AdminClient};
use goulette_types::Incarnation;
use tokio::time::timeout;
use tonic::transport::Endpoint;

/// The detail of `GetInfo` in which a broker or a sentinel tells its incarnation, as 32 hexadecimal digits.
pub(crate) const INCARNATION: &str = "incarnation";

/// Which start answers at `address` within `deadline`; `None` if none does.
///
/// Over a connection of its own: one that works may be older than the trouble.
pub(crate) async fn probe(address: &str, deadline: Duration) -> Option<Incarnation> {
    let ask = async {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
        let mut admin = AdminClient::new(endpoint.connect().await.ok()?);
        let info = admin.get_info(GetInfoRequest {}).await.ok()?.into_inner();
        info.details.get(INCARNATION)?.parse().ok()
    };
    timeout(deadline, ask).await.ok().flatten()
}
