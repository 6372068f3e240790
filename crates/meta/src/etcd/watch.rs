//! Following changes in an etcd, across broken connections and other members, without missing or repeating any.

use std::time::Duration;

use bytes::Bytes;
use goulette_proto::etcd::{
    etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse, watch_client::WatchClient, watch_request},
    mvccpb::{Event, event::EventType},
};
use goulette_types::Revision;
use tokio::{sync::mpsc, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use super::{
    ANSWER_BYTES_MAX, Names, behind,
    endpoints::{Attempt, Endpoints},
};
use crate::store::{Answer, Changes, KeyChange, MetaError, MetaWatch};

/// Between two tries to open a stream that no member wants to carry.
const PAUSE: Duration = Duration::from_millis(250);

pub(super) struct EtcdWatch {
    endpoints: Endpoints,
    names: Names,
    prefix: Bytes,
    /// The first revision that has not been told.
    next: Revision,
    stream: Option<Open>,
}

struct Open {
    answers: Streaming<WatchResponse>,
    /// The stream lasts as long as requests may follow.
    _requests: mpsc::Sender<WatchRequest>,
    /// Events of a revision whose rest is still to come.
    begun: Vec<Event>,
}

impl EtcdWatch {
    pub(super) fn new(endpoints: Endpoints, names: Names, prefix: Bytes, from: Revision) -> Self {
        // 0 would mean "from now on", and miss what happened before the stream stood.
        Self { endpoints, names, prefix, next: Revision(from.0.max(1)), stream: None }
    }

    async fn open(&self) -> Result<Open, MetaError> {
        let create = WatchCreateRequest {
            key: self.prefix.clone(),
            range_end: behind(&self.prefix),
            start_revision: self.next.0 as i64,
            progress_notify: true,
            fragment: true,
            ..Default::default()
        };
        let request = WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(create)) };
        let call = |channel: Channel, attempt: Attempt| {
            let (requests, sent) = mpsc::channel(1);
            requests.try_send(request.clone()).expect("the channel is new and has room for one");
            async move {
                let mut client = WatchClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
                let answers = client.watch(attempt.request(ReceiverStream::new(sent))).await?;
                Ok(answers.map(|answers| Open { answers, _requests: requests, begun: Vec::new() }))
            }
        };
        Ok(self.endpoints.open(call).await?.into_inner())
    }

    fn changes(&self, events: Vec<Event>) -> Result<Vec<KeyChange>, MetaError> {
        let change = |event: Event| {
            let deleted = event.r#type() == EventType::Delete;
            let entry = event.kv?;
            let revision = Revision(entry.mod_revision.unsigned_abs());
            let key = self.names.ours(&entry.key);
            Some(key.map(|key| KeyChange { key, value: (!deleted).then_some(entry.value), revision }))
        };
        events.into_iter().filter_map(change).collect()
    }

    /// Waits for the next answer that tells anything.
    async fn step(&mut self) -> Result<Option<Changes>, MetaError> {
        if self.stream.is_none() {
            match self.open().await {
                Ok(opened) => self.stream = Some(opened),
                Err(MetaError::Unavailable(_)) => {
                    sleep(PAUSE).await;
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        let Some(stream) = &mut self.stream else { return Ok(None) };
        let answer = match stream.answers.message().await {
            Ok(Some(answer)) => answer,
            // The member has gone, or lost its leader; the next stream goes on where this one ended.
            Ok(None) | Err(_) => {
                self.stream = None;
                self.endpoints.prefer_another();
                sleep(PAUSE).await;
                return Ok(None);
            }
        };
        if answer.canceled {
            self.stream = None;
            if answer.compact_revision > 0 {
                return Err(MetaError::Compacted { from: self.next });
            }
            if answer.cancel_reason.contains("permission denied") {
                return Err(MetaError::Denied(answer.cancel_reason.into()));
            }
            sleep(PAUSE).await;
            return Ok(None);
        }
        stream.begun.extend(answer.events);
        if answer.created || answer.fragment {
            return Ok(None);
        }
        let events = std::mem::take(&mut stream.begun);
        // Of history the header tells the present, which is further than the events; without events it tells that there
        // are none up to it.
        let told = match events.last().and_then(|event| event.kv.as_ref()) {
            Some(last) => last.mod_revision,
            None => answer.header.map_or(0, |header| header.revision),
        };
        let revision = Revision(told.unsigned_abs());
        if revision < self.next {
            return Ok(None);
        }
        let changes = self.changes(events)?;
        self.next = Revision(revision.0 + 1);
        Ok(Some(Changes { revision, changes }))
    }
}

impl MetaWatch for EtcdWatch {
    fn next(&mut self) -> Answer<'_, Changes> {
        Box::pin(async move {
            loop {
                if let Some(changes) = self.step().await? {
                    return Ok(changes);
                }
            }
        })
    }
}
