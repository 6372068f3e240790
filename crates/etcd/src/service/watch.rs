//! `etcdserverpb.Watch`: one task for each stream, which owns the stream's watchers.

use std::{
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::Stream;
use goulette_proto::etcd::{
    etcdserverpb::{
        WatchCreateRequest, WatchRequest, WatchResponse, watch_create_request::FilterType, watch_request::RequestUnion,
        watch_server::Watch,
    },
    mvccpb::{Event, event::EventType},
};
use prost::Message;
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};

use super::{admit, wants_leader};
use crate::{
    EtcdError,
    node::Node,
    store::{Failure, KeyRange},
    watch::{Delivery, Interest, Mailbox, Notice},
};

/// Answers that may wait for a slow client; what comes after waits in the mailbox.
const ANSWERS_MAX: usize = 16;
/// The id of no watcher: refusals, and progress of the whole stream.
const NO_WATCHER: i64 = -1;
/// What etcd adds to the largest request for the largest message.
const OVERHEAD_BYTES: usize = 512 << 10;

type Answers = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

pub(crate) struct WatchService {
    pub(crate) node: Arc<Node>,
}

#[tonic::async_trait]
impl Watch for WatchService {
    type WatchStream = Answers;

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Answers>, Status> {
        admit(&self.node, request.metadata())?;
        let (metadata, _, requests) = request.into_parts();
        let (answers, stream) = mpsc::channel(ANSWERS_MAX);
        let session = Session {
            node: Arc::clone(&self.node),
            metadata,
            answers,
            mailbox: Mailbox::new(),
            watchers: BTreeMap::new(),
            catching_up: VecDeque::new(),
            next_id: 0,
        };
        // Ends with the stream.
        tokio::spawn(session.run(requests));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// One watcher of a stream.
struct Watcher {
    interest: Interest,
    /// Events before are not for it.
    start: i64,
    wants_prev_kv: bool,
    wants_fragments: bool,
    wants_progress: bool,
    /// Whether nothing was sent since the last sign of progress was due.
    is_quiet: bool,
    /// From where to read history; `None` when the hub tells it.
    behind_from: Option<i64>,
}

/// The client is gone.
struct Gone;

/// A stream, and all that it watches.
struct Session {
    node: Arc<Node>,
    metadata: MetadataMap,
    answers: mpsc::Sender<Result<WatchResponse, Status>>,
    mailbox: Arc<Mailbox>,
    watchers: BTreeMap<i64, Watcher>,
    /// The watchers that read history, in turn.
    catching_up: VecDeque<i64>,
    next_id: i64,
}

impl Session {
    async fn run(mut self, requests: Streaming<WatchRequest>) {
        // An error means that the client is gone: there is nobody to tell.
        let _ = self.serve(requests).await;
        let ids: Vec<i64> = self.watchers.keys().copied().collect();
        for id in ids {
            self.forget(id);
        }
    }

    async fn serve(&mut self, mut requests: Streaming<WatchRequest>) -> Result<(), Gone> {
        let node = Arc::clone(&self.node);
        let mailbox = Arc::clone(&self.mailbox);
        let answers = self.answers.clone();
        let mut lost = std::pin::pin!(node.leader_lost(wants_leader(&self.metadata)));
        let mut progress_due = Instant::now() + self.progress_interval();
        let mut asks_on = true;
        loop {
            let is_catching_up = !self.catching_up.is_empty();
            tokio::select! {
                biased;
                () = answers.closed() => return Err(Gone),
                () = &mut lost => {
                    let _ = answers.send(Err(EtcdError::NoLeader.into())).await;
                    return Err(Gone);
                }
                () = tokio::time::sleep_until(progress_due) => {
                    progress_due = Instant::now() + self.progress_interval();
                    self.tell_progress();
                }
                request = requests.next(), if asks_on => match request {
                    Some(Ok(request)) => self.take(request).await?,
                    // It has no more wishes, and goes on listening.
                    None => asks_on = false,
                    Some(Err(_)) => return Err(Gone),
                },
                () = mailbox.arrived() => {}
                // Ready at once, but last: whoever reads history does not keep requests and news waiting.
                () = std::future::ready(()), if is_catching_up => {}
            }
            self.deliver().await?;
            self.catch_up().await?;
        }
    }

    /// Etcd's interval and up to a tenth more, so that streams do not all speak at once.
    fn progress_interval(&self) -> Duration {
        let interval = self.node.config.watch_progress_notify_interval;
        let tenth = (interval.as_millis() as u64 / 10).max(1);
        interval + Duration::from_millis(self.node.state.env.random.next_u64() % tenth)
    }

    async fn take(&mut self, request: WatchRequest) -> Result<(), Gone> {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(create).await,
            Some(RequestUnion::CancelRequest(cancel)) => {
                // What was put into the mailbox before comes first.
                self.deliver().await?;
                if !self.forget(cancel.watch_id) {
                    return Ok(());
                }
                self.send(WatchResponse { watch_id: cancel.watch_id, canceled: true, ..self.answer() }).await
            }
            Some(RequestUnion::ProgressRequest(_)) => {
                self.deliver().await?;
                let revision = self.node.state.watches.revision();
                let all_synced = self.watchers.values().all(|watcher| watcher.is_synced_at(revision));
                if !self.watchers.is_empty() && all_synced && !self.mailbox.is_behind() {
                    self.node.state.watches.tell_progress(&self.mailbox, NO_WATCHER);
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    async fn create(&mut self, create: WatchCreateRequest) -> Result<(), Gone> {
        match self.created(create).await {
            Ok(id) => self.send(WatchResponse { watch_id: id, created: true, ..self.answer() }).await,
            Err(cancel_reason) => {
                let refusal = WatchResponse {
                    watch_id: NO_WATCHER,
                    created: true,
                    canceled: true,
                    cancel_reason,
                    ..self.answer()
                };
                self.send(refusal).await
            }
        }
    }

    /// Makes a watcher; answers its id, or why not.
    async fn created(&mut self, create: WatchCreateRequest) -> Result<i64, String> {
        let key = if create.key.is_empty() { Bytes::from_static(&[0]) } else { create.key };
        if create.start_revision < 0 {
            return Err(EtcdError::Compacted.to_string());
        }
        let asker = self.node.asker(&self.metadata).await.map_err(refusal)?;
        self.node.state.auth.state().check_read(&asker, &key, &create.range_end).map_err(refusal)?;
        let keys = KeyRange::new(key, create.range_end);
        if keys.is_empty() {
            return Err("mvcc: watcher range is empty".to_owned());
        }
        let id = if create.watch_id == 0 {
            while self.watchers.contains_key(&self.next_id) {
                self.next_id += 1;
            }
            self.next_id += 1;
            self.next_id - 1
        } else if self.watchers.contains_key(&create.watch_id) {
            return Err("mvcc: duplicate watch ID provided on the WatchStream".to_owned());
        } else {
            create.watch_id
        };
        let filters = |kind: FilterType| create.filters.contains(&(kind as i32));
        let interest = Interest { keys, no_put: filters(FilterType::Noput), no_delete: filters(FilterType::Nodelete) };
        let watches = &self.node.state.watches;
        let mut behind_from = None;
        if create.start_revision > 0 {
            if !watches.join(&self.mailbox, id, &interest, create.start_revision) {
                behind_from = Some(create.start_revision);
                self.catching_up.push_back(id);
            }
        } else {
            // From now on; a revision that is told just now may be missed or not, but none after the answer.
            while !watches.join(&self.mailbox, id, &interest, watches.revision() + 1) {}
        }
        let watcher = Watcher {
            interest,
            start: create.start_revision,
            wants_prev_kv: create.prev_kv,
            wants_fragments: create.fragment,
            wants_progress: create.progress_notify,
            is_quiet: true,
            behind_from,
        };
        self.watchers.insert(id, watcher);
        Ok(id)
    }

    /// Forgets a watcher; false if there is none.
    fn forget(&mut self, id: i64) -> bool {
        let Some(watcher) = self.watchers.remove(&id) else { return false };
        self.node.state.watches.leave(&self.mailbox, id, &watcher.interest.keys);
        self.catching_up.retain(|&other| other != id);
        true
    }

    /// Sends what is in the mailbox, then notes who has fallen behind.
    async fn deliver(&mut self) -> Result<(), Gone> {
        while let Some(notice) = self.mailbox.take() {
            match notice {
                Notice::Delivery(Delivery { id, revision, events }) => {
                    self.send_events(id, revision, events).await?;
                }
                Notice::Progress { id, revision } => {
                    if id == NO_WATCHER || self.watchers.contains_key(&id) {
                        let header = Some(self.node.header_at(revision));
                        self.send(WatchResponse { header, watch_id: id, ..WatchResponse::default() }).await?;
                    }
                }
            }
        }
        for (id, from) in self.mailbox.behind().unwrap_or_default() {
            if let Some(watcher) = self.watchers.get_mut(&id) {
                watcher.behind_from = Some(from);
                self.catching_up.push_back(id);
            }
        }
        Ok(())
    }

    /// Lets the next watcher that is behind read a piece of history.
    async fn catch_up(&mut self) -> Result<(), Gone> {
        let Some(id) = self.catching_up.pop_front() else { return Ok(()) };
        let Some(watcher) = self.watchers.get_mut(&id) else { return Ok(()) };
        let Some(from) = watcher.behind_from else { return Ok(()) };
        let state = &self.node.state;
        match state.store.history(&watcher.interest, from) {
            Ok(history) => {
                if history.next > history.current
                    && state.watches.join(&self.mailbox, id, &watcher.interest, history.next.max(from))
                {
                    watcher.behind_from = None;
                } else {
                    watcher.behind_from = Some(history.next.max(from));
                    self.catching_up.push_back(id);
                }
                if !history.events.is_empty() {
                    self.send_events(id, history.current, history.events).await?;
                }
                Ok(())
            }
            Err(Failure::Refused(_)) => {
                let compact_revision = state.store.compacted();
                self.forget(id);
                let header = Some(self.node.header_at(0));
                let canceled = WatchResponse {
                    header,
                    watch_id: id,
                    canceled: true,
                    compact_revision,
                    ..WatchResponse::default()
                };
                self.send(canceled).await
            }
            Err(Failure::Fatal(_)) => {
                let _ = self.answers.send(Err(EtcdError::Stopped.into())).await;
                Err(Gone)
            }
        }
    }

    async fn send_events(&mut self, id: i64, revision: i64, mut events: Vec<Event>) -> Result<(), Gone> {
        let Some(watcher) = self.watchers.get_mut(&id) else { return Ok(()) };
        watcher.is_quiet = false;
        if watcher.wants_prev_kv {
            for event in &mut events {
                let Some(kv) = &event.kv else { continue };
                let is_create = event.r#type == EventType::Put as i32 && kv.create_revision == kv.mod_revision;
                if !is_create {
                    // Without it, where it is compacted (or this member is lost, which others tell).
                    event.prev_kv = self.node.state.store.previous(&kv.key, kv.mod_revision).ok().flatten();
                }
            }
        }
        let wants_fragments = watcher.wants_fragments;
        let header = Some(self.node.header_at(revision));
        let response = WatchResponse { header, watch_id: id, events, ..WatchResponse::default() };
        let bytes_max = self.node.config.max_request_bytes + OVERHEAD_BYTES;
        if wants_fragments {
            for fragment in fragments(response, bytes_max) {
                self.send(fragment).await?;
            }
            Ok(())
        } else {
            self.send(response).await
        }
    }

    /// Asks the hub for signs of progress of those that want one and have heard nothing since the last.
    fn tell_progress(&mut self) {
        let watches = &self.node.state.watches;
        let revision = watches.revision();
        for (&id, watcher) in &mut self.watchers {
            if watcher.wants_progress && watcher.is_quiet && watcher.is_synced_at(revision) {
                watches.tell_progress(&self.mailbox, id);
            }
            watcher.is_quiet = true;
        }
    }

    fn answer(&self) -> WatchResponse {
        let header = Some(self.node.header_at(self.node.state.watches.revision()));
        WatchResponse { header, ..WatchResponse::default() }
    }

    async fn send(&self, response: WatchResponse) -> Result<(), Gone> {
        self.answers.send(Ok(response)).await.map_err(|_| Gone)
    }
}

impl Watcher {
    fn is_synced_at(&self, revision: i64) -> bool {
        self.behind_from.is_none() && revision >= self.start
    }
}

/// Why a watcher may not watch, in the words of Go's gRPC, which etcd lets through here.
fn refusal(refused: EtcdError) -> String {
    let (told, code) = match refused {
        EtcdError::InvalidAuthToken => (refused, "Unauthenticated"),
        EtcdError::AuthOldRevision | EtcdError::UserEmpty => (refused, "InvalidArgument"),
        _ => (EtcdError::PermissionDenied, "PermissionDenied"),
    };
    format!("rpc error: code = {code} desc = {told}")
}

/// Cuts a response into pieces below `bytes_max`, each of at least one event.
fn fragments(mut response: WatchResponse, bytes_max: usize) -> Vec<WatchResponse> {
    if response.encoded_len() < bytes_max || response.events.len() < 2 {
        return vec![response];
    }
    let mut events = std::mem::take(&mut response.events).into_iter().peekable();
    let head = WatchResponse { fragment: true, ..response };
    let mut pieces = Vec::new();
    while events.peek().is_some() {
        let mut piece = head.clone();
        let mut bytes = piece.encoded_len();
        while let Some(event) = events.peek() {
            // Tag and length of the event come on top.
            let length = event.encoded_len();
            bytes += 1 + prost::length_delimiter_len(length) + length;
            if !piece.events.is_empty() && bytes >= bytes_max {
                break;
            }
            piece.events.extend(events.next());
        }
        pieces.push(piece);
    }
    if let Some(last) = pieces.last_mut() {
        last.fragment = false;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use goulette_proto::etcd::mvccpb::KeyValue;

    use super::*;

    #[test]
    fn a_large_response_is_cut_between_events() {
        let kv = || KeyValue { key: Bytes::from_static(b"k"), value: Bytes::from(vec![7; 100]), ..KeyValue::default() };
        let events = (0..10).map(|_| Event { r#type: 0, kv: Some(kv()), prev_kv: None }).collect();
        let response = WatchResponse { watch_id: 3, events, ..WatchResponse::default() };
        assert_eq!(fragments(response.clone(), 1 << 20).len(), 1);
        let pieces = fragments(response, 300);
        assert!(pieces.len() > 1 && pieces.iter().all(|piece| piece.encoded_len() < 300 && piece.watch_id == 3));
        assert_eq!(pieces.iter().map(|piece| piece.events.len()).sum::<usize>(), 10);
        let marks: Vec<bool> = pieces.iter().map(|piece| piece.fragment).collect();
        assert!(!marks[marks.len() - 1] && marks[..marks.len() - 1].iter().all(|&mark| mark));
    }
}
