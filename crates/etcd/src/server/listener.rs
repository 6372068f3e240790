//! Connections that come in, encrypted or not.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use goulette_logging::debug;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use super::authority::Authority;
use crate::tls::HANDSHAKE_TIMEOUT;

/// Handshakes under way at a time: strangers who say nothing must not keep members out for long.
const HANDSHAKES_MAX: usize = 256;
/// After the system refused a connection (no more files, say).
const REFUSED_PAUSE: Duration = Duration::from_millis(100);

/// Bytes read at once while a connection's first frames are looked at.
const LOOK_BYTES: usize = 4 << 10;

/// One connection, as the HTTP library is to see it.
pub(super) struct Connection {
    stream: Stream,
    authority: Authority,
    /// What was looked at and not read yet, from `looked_at` on.
    looked: Vec<u8>,
    looked_at: usize,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection {
    fn new(stream: Stream) -> Self {
        Self { stream, authority: Authority::new(), looked: Vec::new(), looked_at: 0 }
    }
}

/// The connections of one port.
pub(super) type Incoming = ReceiverStream<io::Result<Connection>>;

/// Accepts for as long as the stream is read.
pub(super) fn incoming(listener: TcpListener, tls: Option<TlsAcceptor>) -> Incoming {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let accepting = accept(listener, tls, sender.clone());
        tokio::select! {
            () = accepting => {}
            () = sender.closed() => {}
        }
    });
    ReceiverStream::new(receiver)
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, to: mpsc::Sender<io::Result<Connection>>) {
    let mut handshakes = JoinSet::new();
    loop {
        while handshakes.len() >= HANDSHAKES_MAX {
            handshakes.join_next().await;
        }
        while handshakes.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!("a connection was refused: {error}");
                sleep(REFUSED_PAUSE).await;
                continue;
            }
        };
        // Only a loss of speed.
        let _ = stream.set_nodelay(true);
        let Some(tls) = tls.clone() else {
            if to.send(Ok(Connection::new(Stream::Plain(stream)))).await.is_err() {
                return;
            }
            continue;
        };
        let to = to.clone();
        handshakes.spawn(async move {
            match timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
                Ok(Ok(stream)) => drop(to.send(Ok(Connection::new(Stream::Tls(Box::new(stream))))).await),
                Ok(Err(error)) => debug!("a TLS handshake failed: {error}"),
                Err(_) => debug!("a TLS handshake took too long"),
            }
        });
    }
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl Stream {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.looked_at < this.looked.len() {
                let rest = &this.looked[this.looked_at..];
                let now = rest.len().min(buffer.remaining());
                buffer.put_slice(&rest[..now]);
                this.looked_at += now;
                return Poll::Ready(Ok(()));
            }
            this.looked_at = 0;
            if this.authority.is_passing() {
                this.looked = Vec::new();
                return this.stream.poll_read(cx, buffer);
            }
            this.looked.clear();
            let mut bytes = [0; LOOK_BYTES];
            let mut read = ReadBuf::new(&mut bytes);
            ready!(this.stream.poll_read(cx, &mut read))?;
            match read.filled() {
                [] => this.authority.finish(&mut this.looked),
                bytes => this.authority.feed(bytes, &mut this.looked),
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
