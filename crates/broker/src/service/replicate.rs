//! What other brokers ask: to follow what is led here, and batches that they have lost.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use goulette_proto::{convert::partition_id, pb};
use goulette_types::{ClusterId, Offset};
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::{Answers, ReplicationService};
use crate::{error::RequestError, node::Node, partition::Partition, replication::push};

/// A frame holds batches up to this many bytes, or one larger batch.
const FRAME_BYTES: u32 = 1 << 20;

#[async_trait]
impl pb::replication_server::Replication for ReplicationService {
    type ReplicateStream = Answers<pb::ReplicateResponse>;
    type ReadRangeStream = Answers<pb::ReadRangeResponse>;

    async fn replicate(
        &self,
        request: Request<Streaming<pb::ReplicateRequest>>,
    ) -> Result<Response<Self::ReplicateStream>, Status> {
        let frames = push(Arc::clone(&self.0), request.into_inner()).await?;
        Ok(Response::new(Box::pin(frames)))
    }

    async fn read_range(
        &self,
        request: Request<pb::ReadRangeRequest>,
    ) -> Result<Response<Self::ReadRangeStream>, Status> {
        let range = Range::parse(&self.0, request.get_ref())?;
        let frames = stream::unfold(Some(range), |range| async move {
            let mut range = range?;
            match range.next_frame().await {
                Ok(Some(frame)) => Some((Ok(frame), Some(range))),
                Ok(None) => None,
                Err(error) => Some((Err(error.into()), None)),
            }
        });
        Ok(Response::new(Box::pin(frames)))
    }
}

/// Committed batches that are left to be sent.
struct Range {
    node: Arc<Node>,
    partition: Arc<Partition>,
    next: Offset,
    end: Offset,
}

impl Range {
    fn parse(node: &Arc<Node>, request: &pb::ReadRangeRequest) -> Result<Self, RequestError> {
        let given = ClusterId::try_from(request.cluster_id.as_ref())
            .map_err(|error| RequestError::Invalid(error.to_string()))?;
        let own = node.identity().cluster;
        if own != Some(given) {
            let own = own.map_or("none".to_owned(), |own| own.to_string());
            return Err(RequestError::OtherCluster { given: given.to_string(), own });
        }
        let id = partition_id(&request.topic_id, request.partition).map_err(RequestError::Invalid)?;
        let held = node.registry.get(id);
        let partition = held.ok_or_else(|| RequestError::NotLeader { partition: id.to_string() })?;
        let end = Offset(request.end).min(partition.committed());
        Ok(Self { node: Arc::clone(node), partition, next: Offset(request.start), end })
    }

    async fn next_frame(&mut self) -> Result<Option<pb::ReadRangeResponse>, RequestError> {
        if self.next >= self.end {
            return Ok(None);
        }
        let (log, next, end) = (Arc::clone(self.partition.log()), self.next, self.end);
        let batches = self.node.disk_reads.run(move || log.read(next, end, FRAME_BYTES)).await??;
        let Some(last) = batches.last() else { return Ok(None) };
        self.next = last.next_offset();
        let to_wire = |batch: &goulette_records::Batch| pb::Batch {
            header: Bytes::copy_from_slice(&batch.header_bytes()),
            records: batch.records().clone(),
        };
        Ok(Some(pb::ReadRangeResponse { batches: batches.iter().map(to_wire).collect() }))
    }
}
