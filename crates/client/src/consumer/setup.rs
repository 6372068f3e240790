//! What the fetchers of a consumer share.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use goulette_records::Limits;
use goulette_types::PartitionIndex;
use tokio::sync::Semaphore;
use tonic::transport::Channel;

use crate::{Client, ClientError, ConsumerOptions, PartitionOffsets, TopicRoutes, client::lock, connection};

/// Less credit than this for a partition would make the broker wait for each batch.
const CREDIT_BYTES_MIN: u64 = 1 << 20;

/// What all fetchers of a consumer share.
pub(crate) struct Setup {
    pub(super) client: Client,
    /// As the consumer started; the client's cache has newer ones.
    pub(super) routes: Arc<TopicRoutes>,
    pub(super) options: Arc<ConsumerOptions>,
    pub(super) limits: Limits,
    /// Each fetcher's part.
    pub(super) credit_bytes: u64,
    /// Room for decoded records.
    pub(super) buffer: Arc<Semaphore>,
    /// Records that are handed over at a time: half of the buffer, so that the other half fills meanwhile.
    pub(super) chunk_records: u32,
    /// Connections for streams, by address.
    channels: Mutex<HashMap<String, Channel>>,
}

impl Setup {
    pub(crate) fn new(
        client: Client,
        routes: &Arc<TopicRoutes>,
        options: Arc<ConsumerOptions>,
        partitions: usize,
    ) -> Self {
        let buffer_records = options.buffer_records.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Self {
            client,
            routes: Arc::clone(routes),
            // Brokers check limits when batches come in; what they keep is read under whatever limits it came.
            limits: Limits { decompressed_bytes_max: Limits::default().decompressed_bytes_max, ..Limits::WIDEST },
            credit_bytes: (u64::from(options.credit_bytes) / partitions.max(1) as u64).max(CREDIT_BYTES_MIN),
            buffer: Arc::new(Semaphore::new(buffer_records)),
            chunk_records: (buffer_records / 2).max(1) as u32,
            channels: Mutex::default(),
            options,
        }
    }

    /// What the partition holds, as its leader says.
    pub(super) async fn list_offsets(&self, partition: PartitionIndex) -> Result<PartitionOffsets, ClientError> {
        self.client.list_offsets(&self.routes, partition).await
    }

    /// The connection for streams to the broker at `address`.
    pub(super) fn channel(&self, address: &str) -> Result<Channel, ClientError> {
        let mut channels = lock(&self.channels);
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let channel = connection::data(address, self.client.options())?;
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }
}
