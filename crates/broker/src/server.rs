//! The gRPC server: which services it offers, how it treats connections, and when its health is good.

use std::{sync::Arc, time::Duration};

use goulette_proto::{
    FILE_DESCRIPTOR_SET,
    pb::{admin_server::AdminServer, broker_server::BrokerServer, replication_server::ReplicationServer},
};
use tokio::net::TcpListener;
use tonic::{
    server::NamedService,
    transport::{Server, server::TcpIncoming},
};
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    lifecycle::{Phase, StopReason},
    node::Node,
    service::{AdminService, BrokerService, ReplicationService},
};

const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
const FRAME_BYTES: u32 = 1 << 20;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Streams and calls of one connection; the options bound those of all.
const STREAMS_PER_CONNECTION: u32 = 1024;
/// What a message may have on top of the largest batch.
const MESSAGE_SLACK_BYTES: usize = 64 << 10;
/// For a unary call, or for the first answer of a stream.
const CALL_DEADLINE: Duration = Duration::from_secs(60);
const CONTROL_MESSAGE_BYTES: usize = 64 << 10;
/// What a follower says at once: 10,000 partitions fit well.
const REPORTS_BYTES: usize = 8 << 20;

/// Serves until the broker stops and all streams have ended.
pub(crate) async fn serve(node: Arc<Node>, listener: TcpListener) {
    let (health, health_server) = tonic_health::server::health_reporter();
    // Told before the first connection is taken: a reporter says "serving" of itself.
    report(&health, &Phase::Starting).await;
    let described = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let reflection = described().build_v1().expect("the compiler made the descriptors");
    // What Python's library and older tools ask for.
    let reflection_alpha = described().build_v1alpha().expect("the compiler made the descriptors");
    let message_bytes_max = node.options().limits.batch_bytes_max as usize + MESSAGE_SLACK_BYTES;
    let broker = BrokerServer::new(BrokerService(Arc::clone(&node))).max_decoding_message_size(message_bytes_max);
    let replication =
        ReplicationServer::new(ReplicationService(Arc::clone(&node))).max_decoding_message_size(REPORTS_BYTES);
    let admin = AdminServer::new(AdminService(Arc::clone(&node))).max_decoding_message_size(CONTROL_MESSAGE_BYTES);

    let mut stop = node.lifecycle.signal();
    let server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .timeout(CALL_DEADLINE)
        .add_service(health_server)
        .add_service(reflection)
        .add_service(reflection_alpha)
        .add_service(broker)
        .add_service(replication)
        .add_service(admin)
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), async move {
            stop.stopping().await;
        });
    tokio::select! {
        ended = server => match ended {
            Ok(()) => {}
            Err(error) => node.fail(StopReason::Server(error.to_string())),
        },
        () = mirror(&node, &health) => unreachable!("the phases of a node do not end before the node"),
    }
}

/// Shows the broker's phase as its health.
async fn mirror(node: &Node, health: &HealthReporter) {
    let mut phase = node.lifecycle.watch();
    loop {
        let now = phase.borrow_and_update().clone();
        report(health, &now).await;
        if phase.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn report(health: &HealthReporter, phase: &Phase) {
    let status = if *phase == Phase::Serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    // The empty name stands for the process.
    for service in ["", BrokerServer::<BrokerService>::NAME] {
        health.set_service_status(service, status).await;
    }
}
