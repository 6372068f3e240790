//! The admin port over real sockets.
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use goulette_admin_http::{
    AdminPort, AdminServer, BindError, Facts, Subject,
    prometheus_client::{
        collector::Collector, encoding::DescriptorEncoder, metrics::counter::Counter, registry::Registry,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

/// Fails a test that would otherwise hang.
async fn soon<T>(event: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(30), event).await.expect("it happens in time")
}

struct Process {
    trouble: Mutex<Option<String>>,
    registry: Option<Registry>,
}

impl Process {
    fn new(registry: Option<Registry>) -> Arc<Self> {
        Arc::new(Self { trouble: Mutex::default(), registry })
    }
}

impl Subject for Process {
    fn ready(&self) -> Result<(), String> {
        self.trouble.lock().unwrap().clone().map_or(Ok(()), Err)
    }

    fn registry(&self) -> Option<&Registry> {
        self.registry.as_ref()
    }
}

async fn serve(process: Arc<Process>) -> AdminServer {
    AdminPort::open("127.0.0.1:0".parse().unwrap()).await.unwrap().serve(process)
}

/// What comes back for these bytes, until the server closes the connection.
async fn exchange(address: SocketAddr, request: &str) -> String {
    soon(async {
        let mut connection = TcpStream::connect(address).await.unwrap();
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A server that refuses what it has not read to the end resets the connection behind its answer.
        let _ = connection.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    })
    .await
}

async fn get(server: &AdminServer, path: &str) -> String {
    exchange(server.address(), &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await
}

#[tokio::test]
async fn readiness_follows_the_process_and_tells_why_not() {
    let process = Process::new(None);
    let server = serve(Arc::clone(&process)).await;
    assert!(get(&server, "/readyz").await.starts_with("HTTP/1.1 200 "));
    *process.trouble.lock().unwrap() = Some("waits for the moon".to_owned());
    let answer = get(&server, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("\r\n\r\nwaits for the moon\n"), "{answer}");
    assert!(get(&server, "/livez").await.starts_with("HTTP/1.1 200 "), "it lives all the same");
}

#[tokio::test]
async fn metrics_are_open_metrics_also_while_there_are_none() {
    let empty = get(&serve(Process::new(None)).await, "/metrics").await;
    assert!(empty.starts_with("HTTP/1.1 200 ") && empty.ends_with("\r\n\r\n# EOF\n"), "{empty}");
    let mut registry = Registry::with_prefix("p");
    let counter = Counter::<u64>::default();
    counter.inc_by(3);
    registry.register("laps", "Laps", counter);
    let full = get(&serve(Process::new(Some(registry))).await, "/metrics").await;
    assert!(full.contains("content-type: application/openmetrics-text; version=1.0.0"), "{full}");
    assert!(full.ends_with("# TYPE p_laps counter\np_laps_total 3\n# EOF\n"), "{full}");
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let server = serve(Process::new(None)).await;
    for path in ["/", "/metrics/", "/../etc/passwd", "/readyz2"] {
        assert!(get(&server, path).await.starts_with("HTTP/1.1 404 "), "{path}");
    }
    let post = exchange(server.address(), "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").await;
    assert!(post.starts_with("HTTP/1.1 405 ") && post.contains("allow: GET, HEAD"), "{post}");
    let head = exchange(server.address(), "HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
}

#[tokio::test]
async fn rubbish_and_endless_heads_are_answered_and_cut_off() {
    let server = serve(Process::new(None)).await;
    assert!(exchange(server.address(), "\x01\x02 nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
    let endless = format!("GET /livez HTTP/1.1\r\nx: {}", "y".repeat(100_000));
    let answer = exchange(server.address(), &endless).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    assert!(get(&server, "/livez").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn silent_connections_are_cut_off_and_cannot_shut_out_others_for_long() {
    let server = serve(Process::new(None)).await;
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(TcpStream::connect(server.address()).await.unwrap());
    }
    assert!(get(&server, "/livez").await.starts_with("HTTP/1.1 200 "));
    assert_eq!(soon(silent[0].read(&mut [0; 1])).await.unwrap_or(0), 0, "the first was cut off");
}

#[tokio::test]
async fn a_taken_port_is_refused_with_address_and_flag() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let Err(error) = AdminPort::open(address).await else { panic!("it was taken") };
    assert!(matches!(error, BindError::InUse { .. }));
    let text = error.to_string();
    assert!(text.contains(&address.to_string()) && text.contains("-admin-address"), "{text}");
}

/// A metric that takes long, and counts how many look at it at once.
#[derive(Debug, Default)]
struct Slow {
    now: AtomicUsize,
    most: Arc<AtomicUsize>,
}

impl Collector for Slow {
    #[allow(clippy::disallowed_methods, reason = "a disk that takes its time")]
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        self.most.fetch_max(self.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(100));
        self.now.fetch_sub(1, Ordering::SeqCst);
        Facts::new(encoder).gauge("slow", "Slow", 1_u64)
    }
}

#[tokio::test]
async fn one_scrape_runs_at_a_time_and_the_rest_is_answered_meanwhile() {
    let slow = Slow::default();
    let most = Arc::clone(&slow.most);
    let mut registry = Registry::default();
    registry.register_collector(Box::new(slow));
    let server = serve(Process::new(Some(registry))).await;
    let (a, b, live) = tokio::join!(get(&server, "/metrics"), get(&server, "/metrics"), get(&server, "/livez"));
    for answer in [a, b, live] {
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    assert_eq!(most.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn dropped_it_closes_the_port_and_cuts_off_who_is_connected() {
    let server = serve(Process::new(None)).await;
    let address = server.address();
    let mut idle = TcpStream::connect(address).await.unwrap();
    assert!(get(&server, "/livez").await.starts_with("HTTP/1.1 200 "));
    drop(server);
    assert_eq!(soon(idle.read(&mut [0; 1])).await.unwrap_or(0), 0);
    assert!(
        soon(async {
            while TcpStream::connect(address).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            true
        })
        .await
    );
}
