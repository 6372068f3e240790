//! Tokens that carry who logged in and are signed: any member with the key believes them, and none remembers them
//! (JSON Web Tokens, RFC 7519, with the claims that etcd puts in: `username`, `revision`, `exp`).

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use goulette_env::{Disk, OpenMode};
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair, UnparsedPublicKey},
};
use serde_json::{Value, json};
use tokio_rustls::rustls::pki_types::{
    CertificateDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer, pem::PemObject,
};

use super::{der, state::Caller};

/// How long a token lives if nothing is said.
const TTL_DEFAULT: Duration = Duration::from_secs(300);
/// Bytes of a file with a key.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Bytes of a token that is looked at.
const TOKEN_BYTES_MAX: usize = 16 << 10;

/// Why tokens cannot be signed; the texts are etcd's.
#[derive(Debug, thiserror::Error)]
pub enum JwtError {
    /// The options make no sense.
    #[error("auth: invalid auth options: {0}")]
    Options(String),
    /// No way to sign by that name.
    #[error("auth: invalid auth signature method {0:?}")]
    Method(String),
    /// No key is given.
    #[error("auth: missing key data")]
    NoKey,
    /// Two keys are given that are no pair.
    #[error("auth: public and private keys don't match")]
    Mismatch,
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file holds no key for that way to sign.
    #[error("{} holds no key that fits the signature method", path.display())]
    Key {
        /// The file.
        path: PathBuf,
    },
}

/// Ways to sign: the names of RFC 7518 and RFC 8037.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

const METHODS: [(&str, Method); 12] = [
    ("HS256", Method::Hs256),
    ("HS384", Method::Hs384),
    ("HS512", Method::Hs512),
    ("RS256", Method::Rs256),
    ("RS384", Method::Rs384),
    ("RS512", Method::Rs512),
    ("PS256", Method::Ps256),
    ("PS384", Method::Ps384),
    ("PS512", Method::Ps512),
    ("ES256", Method::Es256),
    ("ES384", Method::Es384),
    ("EdDSA", Method::EdDsa),
];

impl Method {
    fn name(self) -> &'static str {
        METHODS.iter().find(|(_, method)| *method == self).map_or("", |(name, _)| name)
    }

    fn hmac(self) -> Option<hmac::Algorithm> {
        match self {
            Self::Hs256 => Some(hmac::HMAC_SHA256),
            Self::Hs384 => Some(hmac::HMAC_SHA384),
            Self::Hs512 => Some(hmac::HMAC_SHA512),
            _ => None,
        }
    }

    fn rsa(self) -> Option<&'static dyn signature::RsaEncoding> {
        match self {
            Self::Rs256 => Some(&signature::RSA_PKCS1_SHA256),
            Self::Rs384 => Some(&signature::RSA_PKCS1_SHA384),
            Self::Rs512 => Some(&signature::RSA_PKCS1_SHA512),
            Self::Ps256 => Some(&signature::RSA_PSS_SHA256),
            Self::Ps384 => Some(&signature::RSA_PSS_SHA384),
            Self::Ps512 => Some(&signature::RSA_PSS_SHA512),
            _ => None,
        }
    }

    fn ecdsa(self) -> Option<&'static signature::EcdsaSigningAlgorithm> {
        match self {
            Self::Es256 => Some(&signature::ECDSA_P256_SHA256_FIXED_SIGNING),
            Self::Es384 => Some(&signature::ECDSA_P384_SHA384_FIXED_SIGNING),
            _ => None,
        }
    }

    fn verification(self) -> Option<&'static dyn signature::VerificationAlgorithm> {
        Some(match self {
            Self::Hs256 | Self::Hs384 | Self::Hs512 => return None,
            Self::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Self::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            Self::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            Self::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
            Self::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
            Self::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
            Self::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
            Self::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
            Self::EdDsa => &signature::ED25519,
        })
    }
}

/// What `--auth-token=jwt,...` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtOptions {
    method: Method,
    public_key: PathBuf,
    private_key: PathBuf,
    ttl: Duration,
}

impl JwtOptions {
    /// Reads the options behind `jwt,`: `sign-method` is needed, `pub-key`, `priv-key` and `ttl` may be there.
    ///
    /// # Errors
    /// [`JwtError::Options`], [`JwtError::Method`].
    pub fn parse(options: &str, duration: impl Fn(&str) -> Result<Duration, String>) -> Result<Self, JwtError> {
        let (mut method, mut public_key, mut private_key, mut ttl) = (None, None, None, None);
        for option in options.split(',').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').ok_or_else(|| JwtError::Options(option.to_owned()))?;
            let place = match name {
                "sign-method" => &mut method,
                "pub-key" => &mut public_key,
                "priv-key" => &mut private_key,
                "ttl" => &mut ttl,
                _ => return Err(JwtError::Options(format!("unknown option {name:?}"))),
            };
            if place.replace(value).is_some() {
                return Err(JwtError::Options(format!("{name} is given twice")));
            }
        }
        let name = method.unwrap_or_default();
        let method = METHODS.iter().find(|(known, _)| *known == name).map(|(_, method)| *method);
        Ok(Self {
            method: method.ok_or_else(|| JwtError::Method(name.to_owned()))?,
            public_key: public_key.unwrap_or_default().into(),
            private_key: private_key.unwrap_or_default().into(),
            ttl: ttl.map_or(Ok(TTL_DEFAULT), duration).map_err(JwtError::Options)?,
        })
    }
}

enum Signer {
    Hmac(hmac::Key),
    Rsa(RsaKeyPair, &'static dyn signature::RsaEncoding),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

enum Verifier {
    Hmac(hmac::Key),
    Public(UnparsedPublicKey<Vec<u8>>),
}

/// Signs tokens and believes those that were signed with its key.
pub struct Jwt {
    method: Method,
    ttl: Duration,
    /// None with a public key alone: such a member believes tokens and gives none.
    signer: Option<Signer>,
    verifier: Verifier,
}

impl std::fmt::Debug for Jwt {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Keys are nobody's business.
        write!(out, "Jwt({})", self.method.name())
    }
}

impl Jwt {
    /// Reads the keys. Blocks.
    pub(crate) fn load(disk: &dyn Disk, options: &JwtOptions) -> Result<Self, JwtError> {
        let JwtOptions { method, ttl, .. } = *options;
        let read = |path: &Path| read(disk, path);
        let private = read(&options.private_key)?;
        let public = read(&options.public_key)?;
        if let Some(algorithm) = method.hmac() {
            let secret = private.filter(|secret| !secret.is_empty()).ok_or(JwtError::NoKey)?;
            let key = hmac::Key::new(algorithm, &secret);
            return Ok(Self { method, ttl, signer: Some(Signer::Hmac(key.clone())), verifier: Verifier::Hmac(key) });
        }
        let wrong = |path: &Path| JwtError::Key { path: path.to_owned() };
        let signer =
            private.map(|pem| key_pair(method, &pem).ok_or_else(|| wrong(&options.private_key))).transpose()?;
        let public = public.map(|pem| public_key(&pem).ok_or_else(|| wrong(&options.public_key))).transpose()?;
        let of_pair = signer.as_ref().and_then(Signer::public_key);
        let bytes = match (of_pair, public) {
            (Some(own), Some(given)) if own != given => return Err(JwtError::Mismatch),
            (Some(bytes), _) | (None, Some(bytes)) => bytes,
            (None, None) => return Err(JwtError::NoKey),
        };
        let algorithm = method.verification().ok_or(JwtError::NoKey)?;
        let verifier = Verifier::Public(UnparsedPublicKey::new(algorithm, bytes));
        Ok(Self { method, ttl, signer, verifier })
    }

    /// A token for a user whose password was found right at this revision of users and roles; `now_ms` is the wall clock.
    /// None from a member that has no private key.
    pub(crate) fn sign(&self, now_ms: i64, user: &str, revision: u64) -> Option<String> {
        let signer = self.signer.as_ref()?;
        let expires = now_ms.saturating_add(i64::try_from(self.ttl.as_millis()).unwrap_or(i64::MAX)) / 1000;
        let header = json!({ "alg": self.method.name(), "typ": "JWT" }).to_string();
        let claims = json!({ "exp": expires, "revision": revision, "username": user }).to_string();
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = signer.sign(signed.as_bytes())?;
        Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// Who a token says is asking, if it is signed with our key and not over.
    pub(crate) fn verify(&self, now_ms: i64, token: &str) -> Option<Caller> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let json = |text: &str| -> Option<Value> { serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok() };
        // Whoever may choose the method may choose one for which the public key is the secret.
        if json(header)?.get("alg")?.as_str()? != self.method.name() {
            return None;
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        match &self.verifier {
            Verifier::Hmac(key) => hmac::verify(key, signed.as_bytes(), &signature).ok()?,
            Verifier::Public(key) => key.verify(signed.as_bytes(), &signature).ok()?,
        }
        let claims = json(claims)?;
        let seconds = now_ms as f64 / 1000.0;
        let is_over = claims.get("exp").is_some_and(|exp| exp.as_f64().is_none_or(|exp| seconds >= exp));
        let is_early = claims.get("nbf").is_some_and(|nbf| nbf.as_f64().is_none_or(|nbf| seconds < nbf));
        if is_over || is_early {
            return None;
        }
        let user = claims.get("username")?.as_str()?.to_owned();
        // Numbers of JSON are floats to etcd.
        let revision = claims.get("revision")?.as_f64()? as u64;
        Some(Caller { user, revision })
    }
}

impl Signer {
    fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match self {
            Self::Hmac(key) => Some(hmac::sign(key, message).as_ref().to_vec()),
            Self::Rsa(pair, padding) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(*padding, &random, message, &mut signature).ok()?;
                Some(signature)
            }
            Self::Ecdsa(pair) => Some(pair.sign(&random, message).ok()?.as_ref().to_vec()),
            Self::Ed25519(pair) => Some(pair.sign(message).as_ref().to_vec()),
        }
    }

    fn public_key(&self) -> Option<Vec<u8>> {
        match self {
            Self::Hmac(_) => None,
            Self::Rsa(pair, _) => Some(pair.public_key().as_ref().to_vec()),
            Self::Ecdsa(pair) => Some(pair.public_key().as_ref().to_vec()),
            Self::Ed25519(pair) => Some(pair.public_key().as_ref().to_vec()),
        }
    }
}

fn read(disk: &dyn Disk, path: &Path) -> Result<Option<Vec<u8>>, JwtError> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let contents = || -> io::Result<Vec<u8>> {
        let file = disk.open(path, OpenMode::Read)?;
        let mut contents = vec![0; file.len()?.min(FILE_BYTES_MAX) as usize];
        file.read_exact_at(&mut contents, 0)?;
        Ok(contents)
    };
    contents().map(Some).map_err(|source| JwtError::Read { path: path.to_owned(), source })
}

/// A private key in PEM form: PKCS #8, or PKCS #1 of RSA.
fn key_pair(method: Method, pem: &[u8]) -> Option<Signer> {
    let pkcs8 = PrivatePkcs8KeyDer::from_pem_slice(pem).ok();
    let pkcs8 = pkcs8.as_ref().map(PrivatePkcs8KeyDer::secret_pkcs8_der);
    if let Some(padding) = method.rsa() {
        let pair = match pkcs8 {
            Some(der) => RsaKeyPair::from_pkcs8(der),
            None => RsaKeyPair::from_der(PrivatePkcs1KeyDer::from_pem_slice(pem).ok()?.secret_pkcs1_der()),
        };
        return Some(Signer::Rsa(pair.ok()?, padding));
    }
    if let Some(algorithm) = method.ecdsa() {
        return EcdsaKeyPair::from_pkcs8(algorithm, pkcs8?, &SystemRandom::new()).ok().map(Signer::Ecdsa);
    }
    Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8?).ok().map(Signer::Ed25519)
}

/// The bits of a public key in PEM form, alone or in a certificate.
fn public_key(pem: &[u8]) -> Option<Vec<u8>> {
    match SubjectPublicKeyInfoDer::from_pem_slice(pem) {
        Ok(info) => der::public_key(&info),
        Err(_) => der::certificate_key(&CertificateDer::from_pem_slice(pem).ok()?),
    }
}

#[cfg(test)]
mod tests {
    use goulette_env::RealDisk;

    use super::*;

    const NOW: i64 = 1_700_000_000_000;

    fn parse(options: &str) -> Result<JwtOptions, JwtError> {
        JwtOptions::parse(options, |_| Ok(Duration::from_secs(2)))
    }

    #[expect(clippy::disallowed_methods, reason = "keys are files that somebody else wrote")]
    fn with_files(method: &str, private: Option<&str>, public: Option<&str>) -> Result<Jwt, JwtError> {
        let dir = tempfile::tempdir().unwrap();
        let mut options = format!("sign-method={method},ttl=2s");
        for (name, contents) in [("priv-key", private), ("pub-key", public)] {
            if let Some(contents) = contents {
                let path = dir.path().join(name);
                std::fs::write(&path, contents).unwrap();
                options += &format!(",{name}={}", path.display());
            }
        }
        Jwt::load(&RealDisk, &parse(&options)?)
    }

    fn pem(label: &str, der: &[u8]) -> String {
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
    }

    fn public_pem(pair: &rcgen::KeyPair) -> String {
        pem("PUBLIC KEY", &rcgen::PublicKeyData::subject_public_key_info(pair))
    }

    fn check_round_trip(jwt: &Jwt, other: &Jwt) {
        let token = jwt.sign(NOW, "ann", 7).unwrap();
        let ann = Caller { user: "ann".to_owned(), revision: 7 };
        assert_eq!(jwt.verify(NOW + 1999, &token), Some(ann));
        assert_eq!(jwt.verify(NOW + 2000, &token), None, "it is over");
        assert_eq!(other.verify(NOW, &token), None, "another key");
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            // The last letter of base64 may carry bits that say nothing.
            assert!(jwt.verify(NOW, &changed).is_none_or(|caller| caller.user == "ann" && caller.revision == 7));
        }
    }

    #[test]
    fn a_token_is_believed_by_who_has_the_key_until_it_is_over() {
        for (method, algorithm) in [
            ("ES256", &rcgen::PKCS_ECDSA_P256_SHA256),
            ("ES384", &rcgen::PKCS_ECDSA_P384_SHA384),
            ("EdDSA", &rcgen::PKCS_ED25519),
        ] {
            let pair = rcgen::KeyPair::generate_for(algorithm).unwrap();
            let stranger = rcgen::KeyPair::generate_for(algorithm).unwrap();
            let (private, public) = (pem("PRIVATE KEY", &pair.serialize_der()), public_pem(&pair));
            let jwt = with_files(method, Some(&private), Some(&public)).unwrap();
            let other = with_files(method, Some(&pem("PRIVATE KEY", &stranger.serialize_der())), None).unwrap();
            check_round_trip(&jwt, &other);
            let reader = with_files(method, None, Some(&public)).unwrap();
            assert_eq!(reader.sign(NOW, "ann", 7), None, "a public key signs nothing");
            assert!(reader.verify(NOW, &jwt.sign(NOW, "ann", 7).unwrap()).is_some());
            let mismatch = with_files(method, Some(&private), Some(&public_pem(&stranger)));
            assert!(matches!(mismatch, Err(JwtError::Mismatch)));
        }
        let (jwt, other) = (with_files("HS256", Some("s1"), None), with_files("HS256", Some("s2"), None));
        check_round_trip(&jwt.unwrap(), &other.unwrap());
    }

    #[test]
    fn the_method_is_ours_to_choose() {
        let jwt = with_files("HS256", Some("secret"), None).unwrap();
        let other = with_files("HS512", Some("secret"), None).unwrap();
        assert_eq!(jwt.verify(NOW, &other.sign(NOW, "root", 1).unwrap()), None);
        let none = format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), URL_SAFE_NO_PAD.encode("{}"));
        for wrong in ["", ".", "..", "a.b.c", none.as_str()] {
            assert_eq!(jwt.verify(NOW, wrong), None);
        }
    }

    #[test]
    fn options_that_make_no_sense_are_refused() {
        assert!(matches!(parse("pub-key=x"), Err(JwtError::Method(_))));
        assert!(matches!(parse("sign-method=none"), Err(JwtError::Method(_))));
        assert!(matches!(parse("sign-method=HS256,sign-method=HS512"), Err(JwtError::Options(_))));
        assert!(matches!(parse("sign-method=HS256,frob=1"), Err(JwtError::Options(_))));
        assert!(matches!(with_files("RS256", None, None), Err(JwtError::NoKey)));
        assert!(matches!(with_files("HS256", None, None), Err(JwtError::NoKey)));
        assert!(matches!(with_files("RS256", Some("no key"), None), Err(JwtError::Key { .. })));
        let missing = Jwt::load(&RealDisk, &parse("sign-method=RS256,priv-key=/nonexistent").unwrap());
        assert!(matches!(missing, Err(JwtError::Read { .. })));
    }
}
