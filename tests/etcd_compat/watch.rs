//! One watch stream, and what its watchers were told, in a form that must be the same of two servers.
//!
//! How events are spread over responses depends on timing when a watcher catches up; that no revision is torn apart, that
//! none comes twice or out of order, and that the header is never behind the events is judged here, on each side alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinHandle, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming};

use crate::{
    op::brief,
    pb::etcdserverpb::{self as pb, watch_request::RequestUnion},
    side::{Clients, mask},
};

pub(crate) struct WatchStream {
    requests: mpsc::Sender<pb::WatchRequest>,
    seen: Arc<Mutex<Seen>>,
    reader: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    /// By watcher, what it was told.
    told: BTreeMap<i64, Vec<String>>,
    created: Vec<String>,
    ended: Option<String>,
    live: BTreeSet<i64>,
    /// The last revision whose events a watcher got, and whether the rest of it is still to come.
    last: BTreeMap<i64, (i64, bool)>,
    progress: i64,
    /// Cancelled because of a compaction. Clients cancel such a watcher once more; until then etcd lets it hold back the
    /// progress of its stream.
    compacted: Vec<i64>,
}

impl WatchStream {
    pub(crate) async fn open(clients: &Clients, token: Option<&str>) -> Self {
        let (requests, receiver) = mpsc::channel(16);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut request = Request::new(ReceiverStream::new(receiver));
        if let Some(token) = token {
            request.metadata_mut().insert("token", token.parse().expect("tokens are ASCII"));
        }
        let mut client = clients.watch.clone();
        let reader = tokio::spawn({
            let seen = seen.clone();
            async move {
                match client.watch(request).await {
                    Ok(answer) => read(answer.into_inner(), &seen).await,
                    Err(status) => ended(&seen, &status),
                }
            }
        });
        Self { requests, seen, reader }
    }

    /// Returns the answer to the creation.
    pub(crate) async fn create(&self, request: pb::WatchCreateRequest) -> String {
        self.send(RequestUnion::CreateRequest(request)).await;
        let answer = self.wait(Duration::from_secs(10), |seen| seen.created.pop().or_else(|| seen.ended.clone())).await;
        answer.unwrap_or_else(|| "no answer".into())
    }

    pub(crate) async fn cancel(&self, watch_id: i64) {
        let live = self.seen.lock().unwrap().live.contains(&watch_id);
        self.send(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id })).await;
        if live {
            self.wait(Duration::from_secs(5), |seen| (!seen.live.contains(&watch_id)).then_some(())).await;
        }
    }

    /// Waits until every watcher has seen everything up to `revision`; false if that takes too long.
    pub(crate) async fn settle(&self, revision: i64) -> bool {
        let deadline = Instant::now() + Duration::from_secs(10);
        self.seen.lock().unwrap().progress = 0;
        let is_settled = |seen: &mut Seen| (seen.progress >= revision || seen.live.is_empty()).then_some(());
        while Instant::now() < deadline {
            if !self.seen.lock().unwrap().live.is_empty() {
                self.send(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
            }
            let settled = self.wait(Duration::from_millis(100), is_settled).await;
            // Before anybody can take its id again.
            self.cancel_compacted().await;
            if settled.is_some() {
                return true;
            }
        }
        false
    }

    /// Cancels the watchers that a compaction has cancelled, as clients do.
    async fn cancel_compacted(&self) {
        let compacted = std::mem::take(&mut self.seen.lock().unwrap().compacted);
        for watch_id in compacted {
            self.send(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id })).await;
        }
    }

    /// What the watchers were told since the last [`Self::forget`].
    pub(crate) fn told(&self) -> BTreeMap<i64, Vec<String>> {
        self.seen.lock().unwrap().told.clone()
    }

    pub(crate) fn forget(&self) {
        self.seen.lock().unwrap().told.clear();
    }

    async fn send(&self, request: RequestUnion) {
        // A stream that ended has said so in what it told.
        let _ = self.requests.send(pb::WatchRequest { request_union: Some(request) }).await;
    }

    async fn wait<T>(&self, patience: Duration, mut done: impl FnMut(&mut Seen) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(value) = done(&mut self.seen.lock().unwrap()) {
                return Some(value);
            }
            if Instant::now() > deadline {
                return None;
            }
            tokio::time::sleep(Duration::from_micros(300)).await;
        }
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

fn ended(seen: &Mutex<Seen>, status: &tonic::Status) {
    let mut seen = seen.lock().unwrap();
    let line = format!("stream ended: {:?}: {}", status.code(), status.message());
    seen.told.entry(-2).or_default().push(line.clone());
    seen.ended = Some(line);
    seen.live.clear();
}

async fn read(mut stream: Streaming<pb::WatchResponse>, seen: &Mutex<Seen>) {
    loop {
        match stream.message().await {
            Ok(Some(response)) => seen.lock().unwrap().take(response),
            Ok(None) => return ended(seen, &tonic::Status::ok("")),
            Err(status) => return ended(seen, &status),
        }
    }
}

impl Seen {
    fn take(&mut self, mut response: pb::WatchResponse) {
        let id = response.watch_id;
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        if response.created {
            mask(&mut response.header);
            self.created.push(brief(&format!("{response:?}")));
            if !response.canceled {
                self.live.insert(id);
                self.last.remove(&id);
            }
            return;
        }
        if response.canceled {
            mask(&mut response.header);
            if !self.live.remove(&id) {
                return;
            }
            if response.compact_revision != 0 {
                self.compacted.push(id);
            }
            // The revision of a cancelled watcher's header is the moment's.
            if response.compact_revision == 0 && response.cancel_reason.is_empty() {
                response.header = None;
            }
            self.told.entry(id).or_default().push(brief(&format!("{response:?}")));
            return;
        }
        if response.events.is_empty() {
            if id == -1 {
                self.progress = revision;
            }
            return;
        }
        let told = self.told.entry(id).or_default();
        if !self.live.contains(&id) {
            told.push("events before the watcher was created, or after it was cancelled".into());
        }
        let (mut last, fragment) = self.last.get(&id).copied().unwrap_or_default();
        let mut continued = fragment;
        for event in &response.events {
            let at = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
            if at < last || (at == last && !continued) {
                told.push(format!("revision {at} after {last}: torn, repeated or out of order"));
            }
            continued = true;
            last = at;
            if at > revision {
                told.push(format!("the header's revision {revision} is behind its event's {at}"));
            }
            told.push(brief(&format!("{event:?}")));
        }
        self.last.insert(id, (last, response.fragment));
    }
}
