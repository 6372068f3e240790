//! The port and those who connect to it.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use goulette_logging::{debug, info, warn};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

use crate::{BindError, Subject, answer::answer};

/// Connections at the same time; those behind wait for one of them to end.
const CONNECTIONS_MAX: usize = 32;
/// How long a client may take to send a request.
const HEAD_DEADLINE: Duration = Duration::from_secs(5);
/// The longest head of a request, and the least that the library allows.
const HEAD_BYTES_MAX: usize = 8 << 10;
/// How long a connection may last, which serves one request.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(15);
/// The pause after the system could not give us a connection, as when there are too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A port that is open and does not answer yet. So it can be opened before anything that takes long or is hard to undo.
pub struct AdminPort {
    listener: TcpListener,
    address: SocketAddr,
}

/// A port that answers, until this is dropped: then it is closed, and whoever is connected is cut off.
pub struct AdminServer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl AdminPort {
    /// Opens the port; port 0 takes a free one.
    ///
    /// # Errors
    /// [`BindError`] names address and flag.
    pub async fn open(address: SocketAddr) -> Result<Self, BindError> {
        let refused = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse { address },
            _ => BindError::Listen { address, source },
        };
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        Ok(Self { listener, address })
    }

    /// Answers from now on, in a task of its own.
    pub fn serve(self, subject: Arc<dyn Subject>) -> AdminServer {
        let Self { listener, address } = self;
        info!("admin port: http://{address}/metrics");
        AdminServer { address, task: tokio::spawn(accept(listener, subject)) }
    }
}

impl AdminServer {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        // The connections belong to the task, and end with it.
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, subject: Arc<dyn Subject>) {
    let scrapes = Arc::new(Semaphore::new(1));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(converse(stream, Arc::clone(&subject), Arc::clone(&scrapes)));
                }
                Err(error) => {
                    warn!("the admin port cannot take a connection: {error}");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

/// One connection, one request.
async fn converse(stream: TcpStream, subject: Arc<dyn Subject>, scrapes: Arc<Semaphore>) {
    let service = service_fn(|request| {
        let (subject, scrapes) = (Arc::clone(&subject), Arc::clone(&scrapes));
        async move { Ok::<_, Infallible>(answer(&request, subject, scrapes).await) }
    });
    let conversation = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_DEADLINE, conversation).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!("a connection to the admin port broke: {error}"),
        Err(_) => debug!("a connection to the admin port took too long"),
    }
}
