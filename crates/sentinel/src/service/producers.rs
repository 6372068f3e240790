//! `InitProducer`: ids and epochs of idempotent producers.

use goulette_proto::pb;
use goulette_types::{ProducerEpoch, ProducerId};

use super::Context;
use crate::RequestError;

pub(super) async fn init(
    context: &Context,
    request: pb::InitProducerRequest,
) -> Result<pb::InitProducerResponse, RequestError> {
    let present = match request.producer_id {
        None => None,
        Some(id) => {
            let epoch = u16::try_from(request.producer_epoch).ok().filter(|&epoch| epoch <= i16::MAX as u16);
            let epoch = epoch.ok_or_else(|| {
                RequestError::Invalid(format!("producer epoch {} is above {}", request.producer_epoch, i16::MAX))
            })?;
            Some((ProducerId(id), ProducerEpoch(epoch)))
        }
    };
    let (id, epoch) = context.controller.init_producer(present).await?;
    Ok(pb::InitProducerResponse { producer_id: id.0, producer_epoch: epoch.0.into() })
}
