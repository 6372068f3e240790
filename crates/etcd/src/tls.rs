//! Encryption of the two ports, by rustls.
//!
//! As in etcd: with `trusted-ca-file` the other side must show a certificate that it signed; `auto-tls` makes a
//! certificate for this process alone, which keeps listeners out and authenticates nobody.

pub(crate) mod connect;

use std::{io, path::Path, sync::Arc, time::Duration};

use goulette_env::{Disk, OpenMode};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        self, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
        pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime, pem::PemObject},
        server::WebPkiClientVerifier,
    },
};

use crate::config::{Tls, Url};

/// A handshake takes this long at most.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a file with certificates or a key.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why a port cannot be encrypted.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{path} holds no {what} in PEM form")]
    Pem {
        /// The file.
        path: String,
        /// What was looked for.
        what: &'static str,
    },
    /// An https URL without certificates, or flags that need another one.
    #[error("{0}")]
    Flags(&'static str),
    /// Certificates and key do not fit together.
    #[error("the certificates cannot be used: {0}")]
    Unusable(String),
}

/// Certificate chain and key of one side.
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

/// What the ports of one kind need; made once at the start.
pub(crate) struct Certificates {
    identity: Option<Identity>,
    authority: Option<RootCertStore>,
    is_auto: bool,
}

impl Certificates {
    /// Reads what the flags name, or makes a certificate for the hosts of `urls`. Blocks.
    pub(crate) fn load(disk: &dyn Disk, tls: &Tls, urls: &[Url]) -> Result<Self, TlsError> {
        let has_files = !tls.cert_file.as_os_str().is_empty() || !tls.key_file.as_os_str().is_empty();
        let authority = if tls.trusted_ca_file.as_os_str().is_empty() {
            if tls.client_cert_auth {
                return Err(TlsError::Flags("client-cert-auth needs trusted-ca-file: who may sign the certificates"));
            }
            None
        } else {
            Some(read_authority(disk, &tls.trusted_ca_file)?)
        };
        let identity = match (has_files, tls.auto) {
            (true, _) => Some(read_identity(disk, tls)?),
            (false, true) => Some(make_identity(urls)?),
            (false, false) => None,
        };
        Ok(Self { identity, authority, is_auto: tls.auto && !has_files })
    }

    /// For a port that is to be encrypted.
    pub(crate) fn acceptor(&self) -> Result<TlsAcceptor, TlsError> {
        let Some(identity) = self.identity.clone() else {
            return Err(TlsError::Flags("an https URL needs cert-file and key-file, or auto-tls"));
        };
        let unusable = |error: rustls::Error| TlsError::Unusable(error.to_string());
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let builder = builder.map_err(unusable)?;
        let builder = match &self.authority {
            Some(authority) => {
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(authority.clone()), provider()).build();
                builder.with_client_cert_verifier(verifier.map_err(|error| TlsError::Unusable(error.to_string()))?)
            }
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(identity.chain, identity.key).map_err(unusable)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// For connections to other members' ports.
    pub(crate) fn connector(&self) -> Result<TlsConnector, TlsError> {
        let unusable = |error: rustls::Error| TlsError::Unusable(error.to_string());
        let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let builder = builder.map_err(unusable)?;
        let builder = match &self.authority {
            Some(authority) => builder.with_root_certificates(authority.clone()),
            None if self.is_auto => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider()))),
            None => builder.with_root_certificates(RootCertStore::empty()),
        };
        let mut config = match self.identity.clone() {
            Some(identity) => builder.with_client_auth_cert(identity.chain, identity.key).map_err(unusable)?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn read(disk: &dyn Disk, path: &Path) -> Result<Vec<u8>, TlsError> {
    let contents = || -> io::Result<Vec<u8>> {
        let file = disk.open(path, OpenMode::Read)?;
        let mut contents = vec![0; file.len()?.min(FILE_BYTES_MAX) as usize];
        file.read_exact_at(&mut contents, 0)?;
        Ok(contents)
    };
    contents().map_err(|source| TlsError::Read { path: path.display().to_string(), source })
}

fn read_chain(disk: &dyn Disk, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let contents = read(disk, path)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&contents).filter_map(Result::ok).collect();
    if chain.is_empty() {
        return Err(TlsError::Pem { path: path.display().to_string(), what: "certificate" });
    }
    Ok(chain)
}

fn read_authority(disk: &dyn Disk, path: &Path) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in read_chain(disk, path)? {
        store.add(certificate).map_err(|error| TlsError::Unusable(error.to_string()))?;
    }
    Ok(store)
}

fn read_identity(disk: &dyn Disk, tls: &Tls) -> Result<Identity, TlsError> {
    let chain = read_chain(disk, &tls.cert_file)?;
    let contents = read(disk, &tls.key_file)?;
    let key = PrivateKeyDer::from_pem_slice(&contents)
        .map_err(|_| TlsError::Pem { path: tls.key_file.display().to_string(), what: "private key" })?;
    Ok(Identity { chain, key })
}

/// A key and a certificate that it signs itself.
fn make_identity(urls: &[Url]) -> Result<Identity, TlsError> {
    let unusable = |error: rcgen::Error| TlsError::Unusable(error.to_string());
    let hosts: Vec<String> = urls.iter().map(|url| url.host.clone()).collect();
    let made = rcgen::generate_simple_self_signed(hosts).map_err(unusable)?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    Ok(Identity { chain: vec![made.cert.der().clone()], key: key.into() })
}

/// Believes any certificate: among members with `peer-auto-tls` each has one of its own, and nobody signs them.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use goulette_env::RealDisk;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    fn certificates(auto: bool) -> Result<Certificates, TlsError> {
        let url = Url { is_tls: true, host: "localhost".into(), port: 1, text: "https://localhost:1".into() };
        Certificates::load(&RealDisk, &Tls { auto, ..Tls::default() }, &[url])
    }

    #[tokio::test]
    async fn members_with_automatic_certificates_talk() {
        let (acceptor, connector) = (certificates(true).unwrap().acceptor().unwrap(), certificates(true).unwrap());
        let (near, far) = duplex(1 << 16);
        let server = tokio::spawn(async move {
            let mut stream = acceptor.accept(far).await.unwrap();
            let mut word = [0; 2];
            stream.read_exact(&mut word).await.unwrap();
            word
        });
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = connector.connector().unwrap().connect(name, near).await.unwrap();
        stream.write_all(b"hi").await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(&server.await.unwrap(), b"hi");
    }

    #[tokio::test]
    async fn who_names_no_authority_believes_no_certificate() {
        let acceptor = certificates(true).unwrap().acceptor().unwrap();
        let connector = certificates(false).unwrap().connector().unwrap();
        let (near, far) = duplex(1 << 16);
        let server = tokio::spawn(async move { acceptor.accept(far).await.is_ok() });
        let name = ServerName::try_from("localhost").unwrap();
        assert!(connector.connect(name, near).await.is_err());
        assert!(!server.await.unwrap());
    }

    #[test]
    fn what_is_missing_is_named() {
        assert!(matches!(certificates(false).unwrap().acceptor(), Err(TlsError::Flags(_))));
        let tls = Tls { cert_file: PathBuf::from("/nonexistent"), ..Tls::default() };
        assert!(matches!(Certificates::load(&RealDisk, &tls, &[]), Err(TlsError::Read { .. })));
        let tls = Tls { client_cert_auth: true, ..Tls::default() };
        assert!(matches!(Certificates::load(&RealDisk, &tls, &[]), Err(TlsError::Flags(_))));
    }
}
