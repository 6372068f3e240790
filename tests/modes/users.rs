//! An external etcd that asks who one is: by a password, by a certificate.

use std::{
    ffi::OsString,
    fs,
    process::{Command, Output},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

use crate::{
    cluster::{Store, eventually, text},
    etcd::external,
    mode::{Mode, RealEtcd},
};

/// An etcdctl, with what it needs to reach an etcd.
pub(crate) struct Etcdctl {
    program: OsString,
    flags: Vec<String>,
}

impl Etcdctl {
    pub(crate) fn of(etcd: &RealEtcd, flags: &[&str]) -> Self {
        let program = std::env::var_os("ETCDCTL_BIN").expect("ETCDCTL_BIN names the etcdctl that makes the users");
        let mut all = vec![format!("--endpoints={}", etcd.endpoint())];
        all.extend(flags.iter().map(ToString::to_string));
        Self { program, flags: all }
    }

    pub(crate) fn output(&self, arguments: &[&str]) -> Output {
        // Without it an etcdctl 3.3 and older speaks version 2.
        let mut command = Command::new(&self.program);
        command.env("ETCDCTL_API", "3").args(&self.flags).args(arguments).output().unwrap()
    }

    pub(crate) fn run(&self, arguments: &[&str]) {
        let output = self.output(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    }

    /// Users on: `goulette` may do all below our prefix, and nothing else.
    fn enable_users(&self) {
        self.run(&["role", "add", "queue"]);
        self.run(&["role", "grant-permission", "queue", "--prefix=true", "readwrite", "/goulette/"]);
        self.run(&["user", "add", "root:root-secret"]);
        self.run(&["user", "grant-role", "root", "root"]);
        self.run(&["user", "add", "goulette:right-secret"]);
        self.run(&["user", "grant-role", "goulette", "queue"]);
        self.run(&["auth", "enable"]);
    }
}

pub(crate) fn wrong_password(mode: &Mode) {
    let etcd = external(mode).another();
    Etcdctl::of(&etcd, &[]).enable_users();

    let mut cluster = mode.prepare(&["-etcd-username=goulette", "-etcd-password-file=password"]);
    cluster.store = Store::External { endpoints: etcd.endpoint(), prefix: "/goulette".to_owned() };
    fs::write(cluster.dir.path().join("password"), "wrong-secret\n").unwrap();
    cluster.launch_sentinel();
    let log = cluster.dir.path().join("logs/sentinel_sentinel1.log");
    eventually("the log tells of the credentials", || {
        let log = fs::read_to_string(&log).ok()?;
        log.contains("authentication failed").then_some(())
    });
    assert!(!cluster.run(&["health", &cluster.sentinel_address]).status.success(), "it is not ready");
    cluster.kill_sentinel();

    fs::write(cluster.dir.path().join("password"), "right-secret\n").unwrap();
    cluster.start_sentinel();
    cluster.start_broker();
    cluster.produce("orders", b"a\n");
    assert_eq!(cluster.consume("orders"), b"a\n");
    let shown = cluster.run(&["config", "show", "sentinel", "-etcd-password-file=password"]);
    let said = cluster.said() + &text(&shown);
    assert!(!said.contains("right-secret") && !said.contains("wrong-secret"), "no secret is told: {said}");
}

/// An etcd that asks for a certificate and a password: all of it works, and each part is missed when it is not given.
pub(crate) fn tls_and_users(mode: &Mode) {
    let mut etcd = external(mode).another();
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let authority = Authority::new();
    fs::write(path("ca.pem"), &authority.certificate).unwrap();
    for name in ["server", "client"] {
        let (certificate, key) = authority.sign(name);
        fs::write(path(&format!("{name}.pem")), certificate).unwrap();
        fs::write(path(&format!("{name}.key")), key).unwrap();
    }
    let files = [("--cert-file", "server.pem"), ("--key-file", "server.key"), ("--trusted-ca-file", "ca.pem")];
    let mut flags: Vec<_> = files.iter().map(|(flag, name)| format!("{flag}={}", path(name))).collect();
    flags.push("--client-cert-auth".to_owned());
    etcd.restart_with(&flags);
    let (ca, cert, key) = (path("ca.pem"), path("client.pem"), path("client.key"));
    let identity = [format!("--cacert={ca}"), format!("--cert={cert}"), format!("--key={key}")];
    let identity: Vec<_> = identity.iter().map(String::as_str).collect();
    let etcdctl = Etcdctl::of(&etcd, &identity);
    eventually("the etcd serves", || etcdctl.output(&["get", "x"]).status.success().then_some(()));
    etcdctl.enable_users();

    fs::write(path("password"), "right-secret\n").unwrap();
    let tls = [format!("-etcd-cacert={ca}"), format!("-etcd-cert={cert}"), format!("-etcd-key={key}")];
    let user = ["-etcd-username=goulette".to_owned(), format!("-etcd-password-file={}", path("password"))];
    let all: Vec<_> = tls.iter().chain(&user).map(String::as_str).collect();
    // The certificate of the authority alone: the etcd wants one of the client, too.
    for missing in [&all[1..3], &all[3..]] {
        let given: Vec<_> = all.iter().copied().filter(|flag| !missing.contains(flag)).collect();
        let mut cluster = mode.prepare(&given);
        cluster.store = Store::External { endpoints: etcd.endpoint(), prefix: "/goulette".to_owned() };
        cluster.launch_sentinel();
        eventually("the sentinel says what it waits for, or ends with it", || {
            let ended = cluster.sentinel.as_mut().unwrap().try_wait().unwrap().is_some();
            (ended || cluster.said().contains("waits for etcd")).then_some(())
        });
        assert!(!cluster.run(&["health", &cluster.sentinel_address]).status.success(), "without {missing:?}");
    }

    let mut cluster = mode.prepare(&all);
    cluster.store = Store::External { endpoints: etcd.endpoint(), prefix: "/goulette".to_owned() };
    cluster.start_sentinel();
    cluster.start_broker();
    cluster.produce("orders", b"a\n");
    assert_eq!(cluster.consume("orders"), b"a\n");
    // The login ends with the etcd's process; the sentinel logs in again.
    etcd.kill();
    etcd.launch();
    eventually("it writes again", || {
        let made = cluster.run(&["topic", "create", "later", "--sentinel", &cluster.sentinel_address]);
        (made.status.success() || text(&made).contains("exists")).then_some(())
    });
    assert!(!cluster.said().contains("right-secret"), "no secret is told");
}

/// Signs certificates for 127.0.0.1.
struct Authority {
    certificate: String,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut parameters = rcgen::CertificateParams::default();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "the test's authority");
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = pem("CERTIFICATE", parameters.self_signed(&key).unwrap().der());
        Self { certificate, issuer: rcgen::Issuer::new(parameters, key) }
    }

    /// A certificate and its key, as PEM.
    fn sign(&self, name: &str) -> (String, String) {
        let mut parameters = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        // Without a name: an etcd with users takes a certificate's name for a login.
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(rcgen::DnType::OrganizationName, name);
        parameters.extended_key_usages =
            vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        (pem("CERTIFICATE", certificate.der()), pem("PRIVATE KEY", key.serialized_der()))
    }
}

/// DER as text.
fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}
