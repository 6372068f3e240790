//! `goulette cluster`, `oplog`, `partition`, `election` and what is asked of a broker's partitions: the cluster as a whole.

mod metadata;
mod moves;
mod oplog;
mod status;

use goulette_proto::pb::AdoptPartitionsRequest;
use goulette_types::TopicId;

pub(crate) use moves::{broker, election, partition};
pub(crate) use oplog::oplog;

use super::{connect, topic::topic_json};
use crate::{
    cli::{AdoptFlags, ClusterCommand},
    exit::Failure,
    output::{Output, print, print_json},
};

pub(crate) async fn run(command: ClusterCommand) -> Result<(), Failure> {
    match command {
        ClusterCommand::Status(flags) => status::status(&flags).await,
        ClusterCommand::Export(flags) => metadata::export(&flags).await,
        ClusterCommand::Import(flags) => metadata::import(&flags).await,
        ClusterCommand::Adopt(flags) => adopt(flags).await,
        ClusterCommand::Rebalance(flags) => moves::rebalance(flags).await,
    }
}

async fn adopt(flags: AdoptFlags) -> Result<(), Failure> {
    let topic_ids = flags.topic_ids.iter().map(|text| {
        let id: TopicId = text.parse().map_err(|error| Failure::usage(format_args!("{text:?}: {error}")))?;
        Ok(id.to_bytes().to_vec().into())
    });
    let request = AdoptPartitionsRequest {
        topic_ids: topic_ids.collect::<Result<_, Failure>>()?,
        names: flags.name.into_iter().map(|pair| (pair.key, pair.value)).collect(),
        missing_may_be_empty: flags.missing_may_be_empty,
    };
    let topics = connect(&flags.cluster.sentinel).await?.cluster().adopt(request).await?;
    if flags.cluster.output == Output::Json {
        return print_json(&topics.iter().map(topic_json).collect::<Vec<_>>());
    }
    if topics.is_empty() {
        return print("there is nothing to adopt\n");
    }
    let line = |topic: &goulette_proto::pb::Topic| {
        format!("adopted topic {} (partitions {})\n", topic.name, topic.partitions.len())
    };
    print(&topics.iter().map(line).collect::<String>())
}
