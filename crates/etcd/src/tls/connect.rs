//! Connections to other members, encrypted where their URLs say so.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};
use tonic::{
    codegen::Service,
    transport::{Channel, Endpoint, Uri},
};

use super::HANDSHAKE_TIMEOUT;

/// How a URL is connected to; none if it is none. tonic must not see that it is encrypted, which is our connector's work:
/// it would refuse, unless it is built without any TLS of its own.
pub(crate) fn endpoint(url: &str) -> Option<Endpoint> {
    let origin: Uri = url.parse().ok()?;
    let plain = url.strip_prefix("https://").map_or_else(|| url.to_owned(), |rest| format!("http://{rest}"));
    Some(Endpoint::from_shared(plain).ok()?.origin(origin))
}

/// A channel that connects when it is first used. `url` is the endpoint's.
pub(crate) fn connect_lazy(endpoint: &Endpoint, url: &str, tls: Option<&TlsConnector>) -> Channel {
    match tls {
        Some(tls) if url.starts_with("https://") => endpoint.connect_with_connector_lazy(Encrypted(tls.clone())),
        _ => endpoint.connect_lazy(),
    }
}

/// Anything that bytes go through.
trait Bytestream: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Bytestream for T {}

#[derive(Clone)]
struct Encrypted(TlsConnector);

type Connecting = Pin<Box<dyn Future<Output = io::Result<TokioIo<Pin<Box<dyn Bytestream>>>>> + Send>>;

impl Service<Uri> for Encrypted {
    type Response = TokioIo<Pin<Box<dyn Bytestream>>>;
    type Error = io::Error;
    type Future = Connecting;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Connecting {
        let tls = self.0.clone();
        Box::pin(async move {
            let no_host = || io::Error::new(io::ErrorKind::InvalidInput, "a member's URL has no host");
            let host = uri.host().ok_or_else(no_host)?.trim_matches(['[', ']']).to_owned();
            let connecting = async {
                let stream = TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or(443))).await?;
                stream.set_nodelay(true)?;
                let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
                tls.connect(name, stream).await
            };
            let stream = timeout(HANDSHAKE_TIMEOUT, connecting).await.map_err(|_| io::ErrorKind::TimedOut)??;
            Ok(TokioIo::new(Box::pin(stream) as Pin<Box<dyn Bytestream>>))
        })
    }
}
