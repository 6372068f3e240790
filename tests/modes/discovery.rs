//! What clients may claim.

use goulette_proto::pb::{GetBrokersRequest, sentinel_client::SentinelClient};

use crate::mode::{Mode, ask_json, broker_state, operations};

pub(crate) fn false_alarm(mode: &Mode) {
    let cluster = mode.start();
    cluster.produce("orders", b"a\n");
    let (before, log) = (ask_json(&cluster, &["topic", "describe", "orders"]), operations(&cluster));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let url = format!("http://{}", cluster.sentinel_address);
    for claimed in [vec!["broker1".to_owned()], vec!["nobody".to_owned(), "broker1".to_owned()]] {
        let url = url.clone();
        let answer = runtime.block_on(async move {
            let mut sentinel = SentinelClient::connect(url).await.unwrap();
            let request = GetBrokersRequest {
                topic: "orders".to_owned(),
                unreachable_brokers: claimed,
                ..GetBrokersRequest::default()
            };
            sentinel.get_brokers(request).await.unwrap().into_inner()
        });
        let topic = answer.topic.unwrap();
        assert_eq!(topic.partitions[0].leader, "broker1");
    }
    assert_eq!(broker_state(&cluster, "broker1"), "healthy");
    assert_eq!(ask_json(&cluster, &["topic", "describe", "orders"]), before, "nothing has changed");
    assert_eq!(operations(&cluster), log, "nothing is recorded");
}
