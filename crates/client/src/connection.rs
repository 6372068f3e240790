//! How peers are dialled: windows, keepalive and limits, the same for every connection.

use std::time::Duration;

use goulette_proto::pb::{
    admin_client::AdminClient, broker_client::BrokerClient, cluster_client::ClusterClient,
    sentinel_client::SentinelClient,
};
use tonic::transport::{Channel, Endpoint};

use crate::{ClientError, ClientOptions};

/// What a stream may send before the peer has read it.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// The same for all the streams of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Bulk data in few frames; the default of 16 KiB would cost a header and a wake-up each.
const FRAME_BYTES_MAX: u32 = 1 << 20;
/// A silently dead peer is noticed after interval + timeout, not after the kernel's quarter of an hour.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// A broker's answer holds batches of up to 8 MiB by default, and metadata answers hold every topic.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Checks that `address` is `host:port`, and how it is to be dialled.
fn endpoint(address: &str, options: &ClientOptions) -> Result<Endpoint, ClientError> {
    let illegal = || ClientError::Address { address: address.to_owned() };
    let (host, port) = address.rsplit_once(':').ok_or_else(illegal)?;
    if host.is_empty() || port.parse::<u16>().is_err() || address.contains(['/', '@', ' ']) {
        return Err(illegal());
    }
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|_| illegal())?;
    Ok(endpoint
        .connect_timeout(options.connect_timeout)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true))
}

/// A connection for unary calls, each with a deadline. Dials when first used, and again whenever it broke.
pub(crate) fn control(address: &str, options: &ClientOptions) -> Result<Channel, ClientError> {
    Ok(endpoint(address, options)?.timeout(options.rpc_timeout).connect_lazy())
}

/// A connection for one user's streams, apart from the control connection so that bulk data never delays a call.
pub(crate) fn data(address: &str, options: &ClientOptions) -> Result<Channel, ClientError> {
    Ok(endpoint(address, options)?.connect_lazy())
}

/// The sentinel's service over `channel`.
pub(crate) fn sentinel(channel: Channel) -> SentinelClient<Channel> {
    SentinelClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// The sentinel's service for people over `channel`.
pub(crate) fn cluster(channel: Channel) -> ClusterClient<Channel> {
    ClusterClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// The broker's service over `channel`.
pub(crate) fn broker(channel: Channel) -> BrokerClient<Channel> {
    BrokerClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// The service that brokers and sentinels share, over `channel`.
pub(crate) fn admin(channel: Channel) -> AdminClient<Channel> {
    AdminClient::new(channel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_is_host_and_port() {
        let options = ClientOptions::default();
        for good in ["127.0.0.1:50051", "localhost:1", "[::1]:50051", "broker-1.example:9"] {
            assert!(control(good, &options).is_ok(), "{good}");
        }
        for bad in ["", "localhost", ":50051", "host:", "host:99999", "http://host:1", "a b:1", "u@h:1"] {
            assert!(matches!(control(bad, &options), Err(ClientError::Address { .. })), "{bad}");
        }
    }
}
