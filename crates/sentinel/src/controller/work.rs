//! What the controller does for each request: steps that a plan names, one transaction at a time.

use goulette_logging::{info, warn};
use goulette_meta::Entry;
use goulette_replication::{LeaderId, controller::Proposal};
use goulette_types::{BrokerId, Incarnation, PartitionId, ProducerEpoch, ProducerId, Revision, TopicId, TopicName};

use super::{Controller, HandedOver, Judged, request::Request};
use crate::{
    RequestError,
    catalog::Catalog,
    plan::{
        self,
        adopt::Adoption,
        broker::{Registration, Yields},
        partition::{PROPOSALS_MAX, Verdict},
        producer::Init,
        rebalance::Order,
        topic::{Alteration, NewTopic},
    },
};

impl Controller {
    /// Carries a request out. A caller that has gone does not hear the answer; what it asked for is done all the same.
    pub(super) async fn carry_out(&mut self, request: Request) {
        match request {
            Request::CreateTopic { topic, reply } => drop(reply.send(self.create_topic(topic).await)),
            Request::AlterTopic { name, alteration, reply } => {
                drop(reply.send(self.alter_topic(name, alteration).await));
            }
            Request::DeleteTopic { name, reply } => drop(reply.send(self.delete_topic(name).await)),
            Request::Register { registration, reply } => drop(reply.send(self.register(registration).await)),
            Request::Unregister { broker, incarnation, reply } => {
                let plan = |catalog: &Catalog, now| plan::broker::unregister(catalog, now, &broker, incarnation);
                drop(reply.send(self.all(plan).await));
            }
            Request::MarkDown { broker, incarnation, reply } => {
                let plan = |catalog: &Catalog, now| Ok(plan::broker::mark_down(catalog, now, &broker, incarnation));
                drop(reply.send(self.all(plan).await));
            }
            Request::HandOver { broker, incarnation, why, reply } => {
                drop(reply.send(self.hand_over(&broker, incarnation, why).await));
            }
            Request::Recovered { broker, incarnation, reply } => {
                let plan = |catalog: &Catalog, now| plan::broker::recovered(catalog, now, &broker, incarnation);
                drop(reply.send(self.once(plan).await));
            }
            Request::Propose { leader, proposals, reply } => {
                drop(reply.send(Ok(self.propose(&leader, &proposals).await)));
            }
            Request::Elect { partitions, unclean, reply } => {
                drop(reply.send(self.elect(&partitions, unclean.as_ref()).await));
            }
            Request::Import { entries, reply } => drop(reply.send(self.import(entries).await)),
            Request::Adopt { adoptions, reply } => drop(reply.send(self.adopt(&adoptions).await)),
            Request::Reassign { orders, reply } => drop(reply.send(self.reassign(&orders).await)),
            Request::Rebalance { reply } => drop(reply.send(self.rebalance().await)),
            Request::Drain { broker, leaving, reply } => {
                let plan = |catalog: &Catalog, now| plan::broker::drain(catalog, now, &broker, leaving);
                let ordered = self.once(plan).await;
                drop(reply.send(ordered));
                self.tend().await;
            }
            Request::InitProducer { present, reply } => drop(reply.send(self.init_producer(present).await)),
        }
    }

    async fn create_topic(&mut self, topic: NewTopic) -> Result<Revision, RequestError> {
        let id = TopicId(self.env.random.next_id());
        self.once(|catalog, now| plan::topic::create(catalog, now, id, &topic)).await?;
        self.all(|catalog, now| plan::topic::fill(catalog, now, &topic.name)).await?;
        info!("topic {} has {} partitions", topic.name, topic.partitions);
        Ok(self.state.catalog().revision())
    }

    async fn alter_topic(&mut self, name: TopicName, alteration: Alteration) -> Result<Revision, RequestError> {
        self.once(|catalog, now| plan::topic::alter(catalog, now, &name, &alteration)).await?;
        self.all(|catalog, now| plan::topic::fill(catalog, now, &name)).await?;
        self.all(|catalog, now| plan::topic::follow_minimum(catalog, now, &name)).await?;
        info!("topic {name} is altered");
        Ok(self.state.catalog().revision())
    }

    async fn delete_topic(&mut self, name: TopicName) -> Result<TopicId, RequestError> {
        let id = self.state.catalog().topic(&name).map(|topic| topic.id);
        let Some(id) = id else { return Err(RequestError::UnknownTopic { topic: name }) };
        self.once(|catalog, now| plan::topic::delete(catalog, now, &name).map(Some)).await?;
        self.all(|catalog, now| Ok(plan::topic::sweep(catalog, now))).await?;
        info!("topic {name} ({id}) is deleted");
        Ok(id)
    }

    async fn register(&mut self, registration: Registration) -> Result<(), RequestError> {
        self.all(|catalog, now| plan::broker::register(catalog, now, &registration)).await?;
        // It may be the broker that an interrupted creation was waiting for.
        self.tidy().await;
        Ok(())
    }

    async fn hand_over(
        &mut self,
        broker: &BrokerId,
        incarnation: Incarnation,
        why: Yields,
    ) -> Result<HandedOver, RequestError> {
        let led = |controller: &Self| {
            let catalog = controller.state.catalog();
            let leads = |id| catalog.partition(id).is_some_and(|record| catalog.leader(record).ok() == Some(broker));
            catalog.held_by(broker).filter(|&id| leads(id)).count() as u32
        };
        let before = led(self);
        self.all(|catalog, now| plan::broker::hand_over(catalog, now, broker, incarnation, why)).await?;
        let kept = led(self);
        let revision = self.state.catalog().revision();
        Ok(HandedOver { revision, handed_over: before.saturating_sub(kept), kept })
    }

    async fn propose(&mut self, leader: &LeaderId, proposals: &[(PartitionId, Proposal)]) -> Vec<Judged> {
        let mut judged = Vec::with_capacity(proposals.len());
        for some in proposals.chunks(PROPOSALS_MAX) {
            let (step, verdicts) = plan::partition::propose(&self.state.catalog(), self.now(), leader, some);
            let Some(step) = step else {
                judged.extend(verdicts.into_iter().map(Ok));
                continue;
            };
            match self.commit(step).await {
                Ok(()) => judged.extend(verdicts.into_iter().map(Ok)),
                Err(error) => {
                    // Those that were accepted share the outcome; the others are what they are.
                    let error = error.to_string();
                    judged.extend(verdicts.into_iter().map(|verdict| match verdict {
                        Verdict::Accepted(_) => Err(RequestError::Unclear(error.clone())),
                        other => Ok(other),
                    }));
                }
            }
        }
        judged
    }

    async fn elect(&mut self, partitions: &[PartitionId], unclean: Option<&BrokerId>) -> Result<(), RequestError> {
        for &id in partitions {
            if let Some(broker) = unclean {
                warn!("by an operator's order broker {broker} leads {id}, though it may lack committed records");
            }
            self.once(|catalog, now| plan::partition::elect(catalog, now, id, unclean)).await?;
        }
        Ok(())
    }

    async fn reassign(&mut self, orders: &[Order]) -> Result<(), RequestError> {
        for (id, to) in orders {
            self.once(|catalog, now| plan::partition::reassign(catalog, now, *id, to)).await?;
        }
        Ok(())
    }

    async fn rebalance(&mut self) -> Result<Vec<Order>, RequestError> {
        let orders = plan::rebalance::orders(&self.state.catalog());
        let mut rest = &orders[..];
        while !rest.is_empty() {
            let (step, seen) = plan::rebalance::begin(&self.state.catalog(), self.now(), rest);
            if let Some(step) = step {
                self.commit(step).await?;
            }
            rest = &rest[seen..];
        }
        Ok(orders)
    }

    /// Takes metadata over; answers the generation that this began.
    async fn import(&mut self, entries: Vec<Entry>) -> Result<u64, RequestError> {
        plan::import::check(&self.state.catalog(), &entries)?;
        self.once(|catalog, now| Ok(plan::import::begin(catalog, now, &entries))).await?;
        let ordered = plan::import::order(&self.state.catalog(), entries);
        let mut rest = &ordered[..];
        while !rest.is_empty() {
            let (step, written) = plan::import::write(&self.state.catalog(), self.now(), rest);
            self.commit(step).await?;
            rest = &rest[written..];
        }
        let generation = self.state.catalog().generation();
        self.generation = Some(generation);
        info!("took over {} keys of metadata: generation {generation} begins", ordered.len());
        Ok(generation)
    }

    async fn adopt(&mut self, adoptions: &[Adoption]) -> Result<Revision, RequestError> {
        for adoption in adoptions {
            self.all(|catalog, now| plan::adopt::adopt(catalog, now, adoption)).await?;
            info!("topic {} ({}) is adopted", adoption.name, adoption.topic);
        }
        Ok(self.state.catalog().revision())
    }

    async fn init_producer(
        &mut self,
        present: Option<(ProducerId, ProducerEpoch)>,
    ) -> Result<(ProducerId, ProducerEpoch), RequestError> {
        let init = plan::producer::init(&self.state.catalog(), present)?;
        match init {
            Init::Epoch(id, epoch) => Ok((id, epoch)),
            Init::New(id, step) => self.commit(step).await.map(|()| (id, ProducerEpoch(0))),
        }
    }
}
