//! The store in an etcd, against a real one: `ETCD_BIN` names the program (`make test-etcd-store`).

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};

use goulette_meta::{EtcdOptions, EtcdStore, MetaError, MetaStore, MetaTxn, Outcome};
use goulette_types::Revision;
use tokio::time::timeout;

use crate::contract::{holds_for, put, write};

/// A real etcd of one member, stopped when dropped.
struct Etcd {
    process: Child,
    address: String,
    folder: tempfile::TempDir,
}

impl Etcd {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (client, peer) = (free_address(), free_address());
        Self::start_in(folder, client, &peer)
    }

    fn start_in(folder: tempfile::TempDir, address: String, peer: &str) -> Self {
        let program = std::env::var_os("ETCD_BIN").expect("ETCD_BIN names an etcd");
        let mut process = Command::new(program)
            .args(["--name", "one", "--data-dir"])
            .arg(folder.path().join("data"))
            .args(["--listen-client-urls", &format!("http://{address}")])
            .args(["--advertise-client-urls", &format!("http://{address}")])
            .args(["--listen-peer-urls", &format!("http://{peer}")])
            .args(["--initial-advertise-peer-urls", &format!("http://{peer}")])
            .args(["--initial-cluster", &format!("one=http://{peer}")])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let ready = lines.by_ref().any(|line| line.unwrap().contains("ready to serve client requests"));
        assert!(ready, "etcd ended before it was ready");
        // It must never wait for a reader of its log.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, address, folder }
    }

    fn store(&self) -> EtcdStore {
        EtcdStore::new(&EtcdOptions::new(vec![free_address(), self.address.clone()])).unwrap()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// A port that nobody listens on now.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn new() -> (EtcdStore, Etcd) {
    let etcd = Etcd::start();
    (etcd.store(), etcd)
}

holds_for!(new(), ignore = "needs a real etcd: make test-etcd-store");

#[tokio::test]
#[ignore = "needs a real etcd: make test-etcd-store"]
async fn a_prefix_of_its_own_keeps_clusters_apart() {
    let (store, etcd) = new();
    let blue = EtcdOptions { prefix: "/blue".into(), ..EtcdOptions::new(vec![etcd.address.clone()]) };
    let blue = EtcdStore::new(&blue).unwrap();
    write(&blue, vec![put("k", "blue")]).await;
    assert_eq!(store.get("/goulette/k").await.unwrap(), None);
    assert_eq!(blue.range("/goulette/").await.unwrap().entries[0].key, "/goulette/k");
    assert_eq!(store.get("/blue/k").await.unwrap().unwrap().value, "blue");
}

#[tokio::test]
#[ignore = "needs a real etcd: make test-etcd-store"]
async fn a_watch_outlives_the_member_it_watched() {
    let etcd = Etcd::start();
    let store = etcd.store();
    let first = write(&store, vec![put("k", "1")]).await;
    let mut watch = store.watch("/goulette/k", first);
    assert_eq!(watch.next().await.unwrap().changes.len(), 1);
    let address = etcd.address.clone();
    let mut etcd = etcd;
    etcd.process.kill().unwrap();
    etcd.process.wait().unwrap();
    let down = store.get("/goulette/k").await;
    assert!(matches!(down, Err(MetaError::Unavailable(_))), "{down:?}");
    let folder = std::mem::replace(&mut etcd.folder, tempfile::tempdir().unwrap());
    let _etcd = Etcd::start_in(folder, address, &free_address());
    let outcome = store.txn(MetaTxn { guards: Vec::new(), writes: vec![put("k", "2")], lease: None }).await.unwrap();
    let Outcome::Committed(second) = outcome else { panic!("{outcome:?}") };
    let told = timeout(Duration::from_secs(10), watch.next()).await.unwrap().unwrap();
    assert_eq!((told.revision, told.changes.len(), told.changes[0].revision), (second, 1, second));
}

#[tokio::test]
#[ignore = "needs a real etcd: make test-etcd-store"]
async fn a_compacted_past_is_told() {
    let (store, etcd) = new();
    for n in 0..5 {
        write(&store, vec![put("k", &n.to_string())]).await;
    }
    let mut client =
        goulette_proto::etcd::etcdserverpb::kv_client::KvClient::connect(format!("http://{}", etcd.address))
            .await
            .unwrap();
    let request = goulette_proto::etcd::etcdserverpb::CompactionRequest { revision: 4, ..Default::default() };
    client.compact(request).await.unwrap();
    let mut late = store.watch("/goulette/", Revision(2));
    let told = timeout(Duration::from_secs(10), late.next()).await.unwrap();
    assert!(matches!(told, Err(MetaError::Compacted { from: Revision(2) })), "{told:?}");
}

#[tokio::test]
async fn nobody_there_is_an_error_that_names_them() {
    let gone = free_address();
    let store = EtcdStore::new(&EtcdOptions::new(vec![gone.clone()])).unwrap();
    for error in [
        store.get("/goulette/k").await.unwrap_err(),
        store.txn(MetaTxn { guards: Vec::new(), writes: vec![put("k", "1")], lease: None }).await.unwrap_err(),
    ] {
        let MetaError::Unavailable(cause) = &error else { panic!("{error:?}") };
        assert!(cause.to_string().contains(&gone), "{cause}");
    }
    assert!(matches!(EtcdStore::new(&EtcdOptions::new(Vec::new())), Err(MetaError::Unavailable(_))));
}
