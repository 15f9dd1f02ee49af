//! Hosts that join, renew, and are revoked, at a scheduler with an issuer.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use hawker_enrol::{EnrolError, Granted, JoinToken, Keeper, RemoteIssuer, join, renew};
use hawker_identity::{
    AuthorityFiles, AuthorityPin, ClusterCa, Existing, Identity, NewKey, Subject, TlsFiles, TlsPem,
    Validity, server_name, write_authority, write_host,
};
use hawker_model::{HostId, Role};
use hawker_scheduler::{IssuerPlaces, Scheduler, Security, Settings};
use hawker_scheduler_api::{
    HostMessage, SchedulerMessage,
    proto::{self, scheduler_client::SchedulerClient},
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use support::{hello, host};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Endpoint};

const PATIENCE: Duration = Duration::from_secs(20);

/// A scheduler that issues certificates of an authority of its own.
struct Cluster {
    dir: TempDir,
    authority: ClusterCa,
    scheduler: Scheduler,
    issuer: String,
}

impl Cluster {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = ClusterCa::create("prod", 365).unwrap();
        let ca = write_authority(&dir.path().join("ca"), &authority, Existing::Keep).unwrap();
        let tls = dir.path().join("scheduler");
        let files = install(&authority, "scheduler", Role::Scheduler, &tls);
        let scheduler = start(dir.path(), &ca, &files).await;
        let issuer = scheduler.issuer().unwrap().to_string();
        Self {
            dir,
            authority,
            scheduler,
            issuer,
        }
    }

    async fn restarted(self) -> Self {
        self.scheduler.stop().await;
        let files = TlsFiles::in_dir(&self.dir.path().join("scheduler"));
        let ca = AuthorityFiles::in_dir(&self.dir.path().join("ca"));
        let scheduler = start(self.dir.path(), &ca, &files).await;
        Self {
            dir: self.dir,
            authority: self.authority,
            issuer: scheduler.issuer().unwrap().to_string(),
            scheduler,
        }
    }

    async fn control(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        control(&self.dir.path().join("control.sock"), method, path, body).await
    }

    async fn token(&self, role: Role, bound: Option<&str>, uses: u32) -> JoinToken {
        let body = json!({"role": role, "host": bound, "uses": uses, "seconds": 60});
        let (status, made) = self.control("POST", "/v1/tokens", body).await;
        assert_eq!(status, 200, "{made}");
        made["token"].as_str().unwrap().parse().unwrap()
    }

    async fn join(&self, token: &JoinToken, name: &str) -> Result<(NewKey, Granted), EnrolError> {
        let key = NewKey::generate(&host(name)).unwrap();
        let granted = join(&self.issuer, token, &host(name), &key.request_pem).await?;
        Ok((key, granted))
    }

    async fn joined(&self, token: &JoinToken, name: &str) -> Arc<Identity> {
        let (key, granted) = self.join(token, name).await.unwrap();
        Arc::new(identity(&key, &granted))
    }

    fn issue(&self, name: &str, role: Role) -> Arc<Identity> {
        let dir = self.dir.path().join(format!("{role}-{name}"));
        Arc::new(Identity::load(&install(&self.authority, name, role, &dir)).unwrap())
    }
}

async fn start(dir: &Path, ca: &AuthorityFiles, files: &TlsFiles) -> Scheduler {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let security = Security::Tls(Arc::new(Identity::load(files).unwrap()));
    let mut settings = Settings::new(host("scheduler"), any, security);
    settings.http = Some(any);
    settings.issuer = Some(IssuerPlaces {
        ca_cert: ca.cert.clone(),
        ca_key: ca.key.clone(),
        listen: any,
        days: 30,
        dir: dir.join("state"),
        control: dir.join("control.sock"),
    });
    Scheduler::start(settings).await.unwrap()
}

fn install(authority: &ClusterCa, name: &str, role: Role, dir: &Path) -> TlsFiles {
    let issued = authority.issue(&subject(name, role), 30).unwrap();
    write_host(dir, authority.cert_pem(), &issued, Existing::Replace).unwrap()
}

fn subject(name: &str, role: Role) -> Subject {
    Subject {
        host: host(name),
        role,
        names: Vec::new(),
    }
}

fn identity(key: &NewKey, granted: &Granted) -> Identity {
    let pem = TlsPem {
        ca: granted.authorities.as_bytes(),
        cert: granted.certificate.as_bytes(),
        key: key.key_pem.as_bytes(),
    };
    Identity::from_pem(pem, &TlsFiles::in_dir("/test".as_ref()), SystemTime::now()).unwrap()
}

async fn control(socket: &Path, method: &str, path: &str, body: Value) -> (u16, Value) {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let body = body.to_string();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Type: \
         application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_default())
}

fn refused(result: Result<(NewKey, Granted), EnrolError>) -> String {
    match result {
        Err(EnrolError::Refused(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_host_joins_with_a_token_and_its_key_stays_with_it() {
    let cluster = Cluster::start().await;
    let token = cluster.token(Role::Seed, None, 1).await;
    let seed = cluster.joined(&token, "seed-1").await;
    assert_eq!((seed.host().as_str(), seed.role()), ("seed-1", Role::Seed));
    assert_eq!(seed.cluster(), "prod");
    let (_, issued) = cluster.control("GET", "/v1/certificates", json!({})).await;
    assert_eq!(issued[0]["serial"], seed.serial().to_string());
    assert_eq!(issued[0]["host"], "seed-1");
    // Neither secret nor key is kept anywhere.
    let state = cluster.dir.path().join("state");
    for file in std::fs::read_dir(&state).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&token.secret.reveal()), "{}", path.display());
        assert!(!text.contains("PRIVATE KEY"));
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    }
}

#[tokio::test]
async fn tokens_are_good_for_their_uses_their_host_and_their_time_also_after_a_restart() {
    let cluster = Cluster::start().await;
    let (twice, bound) = (
        cluster.token(Role::Node, None, 2).await,
        cluster.token(Role::Node, Some("node-9"), 1).await,
    );
    cluster.joined(&twice, "node-1").await;
    let cluster = cluster.restarted().await;
    cluster.joined(&twice, "node-2").await;
    let reason = refused(cluster.join(&twice, "node-3").await);
    assert!(reason.contains("used as often"), "{reason}");
    let reason = refused(cluster.join(&bound, "node-4").await);
    assert!(reason.contains("for host node-9"), "{reason}");
    cluster.joined(&bound, "node-9").await;

    let body = json!({"role": "node", "host": null, "uses": 1, "seconds": 1});
    let (_, made) = cluster.control("POST", "/v1/tokens", body).await;
    let short: JoinToken = made["token"].as_str().unwrap().parse().unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let reason = refused(cluster.join(&short, "node-5").await);
    assert!(reason.contains("expired"), "{reason}");

    let gone = cluster.token(Role::Node, None, 1).await;
    let path = format!("/v1/tokens/{}", gone.id);
    assert_eq!(cluster.control("DELETE", &path, json!({})).await.0, 200);
    assert_eq!(cluster.control("DELETE", &path, json!({})).await.0, 404);
    let reason = refused(cluster.join(&gone, "node-6").await);
    assert!(reason.contains("no such token"), "{reason}");
}

#[tokio::test]
async fn wrong_secrets_are_refused_and_guessing_is_stopped() {
    let cluster = Cluster::start().await;
    let good = cluster.token(Role::Node, None, 1).await;
    let mut wrong = good.clone();
    wrong.secret = "00".repeat(32).parse().unwrap();
    let mut unknown = wrong.clone();
    unknown.id = "000000000000".parse().unwrap();
    let first = refused(cluster.join(&wrong, "node-1").await);
    assert_eq!(first, refused(cluster.join(&unknown, "node-1").await));
    for _ in 0..8 {
        refused(cluster.join(&wrong, "node-1").await);
    }
    let reason = refused(cluster.join(&good, "node-1").await);
    assert!(reason.contains("too many attempts"), "{reason}");
}

#[tokio::test]
async fn a_token_for_any_host_is_not_one_for_a_host_that_exists() {
    let cluster = Cluster::start().await;
    let token = cluster.token(Role::Node, None, 9).await;
    let node = cluster.joined(&token, "node-1").await;
    for taken in ["node-1", "scheduler"] {
        let reason = refused(cluster.join(&token, taken).await);
        assert!(reason.contains("is good still"), "{reason}");
    }
    let bound = cluster.token(Role::Node, Some("node-1"), 1).await;
    cluster.joined(&bound, "node-1").await;
    // Once all are revoked, the name is free.
    let body = json!({"target": "node-1"});
    let (status, revoked) = cluster.control("POST", "/v1/revoke", body).await;
    assert_eq!(status, 200, "{revoked}");
    let revoked = revoked["revoked"].as_array().unwrap().clone();
    assert_eq!(revoked.len(), 2);
    assert!(revoked.contains(&json!(node.serial().to_string())));
    cluster.joined(&token, "node-1").await;
}

#[tokio::test]
async fn a_host_shows_its_secret_to_nobody_but_the_tokens_cluster() {
    let (cluster, other) = (Cluster::start().await, Cluster::start().await);
    let token = cluster.token(Role::Node, None, 1).await;
    let key = NewKey::generate(&host("node-1")).unwrap();
    let error = join(&other.issuer, &token, &host("node-1"), &key.request_pem).await;
    let error = error.unwrap_err();
    assert!(matches!(error, EnrolError::Tls { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("does not show the authority that the token names"),
        "{text}"
    );
    cluster.joined(&token, "node-1").await;
    // A host of the same cluster that is no scheduler.
    let seed = cluster.issue("seed-1", Role::Seed);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(seed.issuer_config());
        let _ = acceptor.accept(stream).await;
    });
    let error = join(&address, &token, &host("node-2"), &key.request_pem).await;
    let text = error.unwrap_err().to_string();
    assert!(text.contains("not a scheduler's"), "{text}");
}

#[tokio::test]
async fn certificates_are_renewed_for_the_same_host_with_a_new_key() {
    let cluster = Cluster::start().await;
    let token = cluster.token(Role::Node, None, 1).await;
    let node = cluster.joined(&token, "node-1").await;
    // Whatever name the request says.
    let key = NewKey::generate(&host("seed-1")).unwrap();
    let granted = renew(&cluster.issuer, &node, &key.request_pem)
        .await
        .unwrap();
    let next = identity(&key, &granted);
    assert_eq!((next.host(), next.role()), (node.host(), Role::Node));
    assert_ne!(next.serial(), node.serial());
    // Without a certificate nothing is renewed.
    let pin = AuthorityPin::of_pem(cluster.authority.cert_pem()).unwrap();
    let body = json!({"request": key.request_pem});
    let answer = post(&cluster.issuer, pin, "/v1/renew", &body).await;
    assert!(
        answer.contains("403") && answer.contains("none was shown"),
        "{answer}"
    );
}

/// A raw request without a certificate.
async fn post(issuer: &str, pin: AuthorityPin, path: &str, body: &Value) -> String {
    let tcp = TcpStream::connect(issuer).await.unwrap();
    let connector = TlsConnector::from(pin.client_config().unwrap());
    let mut stream = connector.connect(server_name(), tcp).await.unwrap();
    let body = body.to_string();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: issuer\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn rubbish_is_refused_and_the_issuer_goes_on() {
    let cluster = Cluster::start().await;
    let pin = AuthorityPin::of_pem(cluster.authority.cert_pem()).unwrap();
    let token = cluster.token(Role::Node, None, 1).await;
    for body in [
        json!(null),
        json!({"token": "x"}),
        json!({"token": token.id, "secret": "zz", "host": "node-1", "request": ""}),
        json!({"token": token.id, "secret": token.secret, "host": "a b", "request": ""}),
        json!({"token": token.id, "secret": token.secret, "host": "node-1", "request": "rubbish"}),
        json!({"request": "x".repeat(100_000)}),
    ] {
        let answer = post(&cluster.issuer, pin, "/v1/join", &body).await;
        assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(!answer.contains(&token.secret.reveal()), "{answer}");
    }
    // Not even the token was used up.
    cluster.joined(&token, "node-1").await;
}

/// A host's session at the scheduler.
struct Session {
    incoming: Streaming<proto::SchedulerMessage>,
    _outgoing: mpsc::Sender<proto::HostMessage>,
}

impl Session {
    async fn open(
        cluster: &Cluster,
        own: &Identity,
        name: &str,
        role: Role,
    ) -> Result<Self, String> {
        let tcp = TcpStream::connect(cluster.scheduler.address())
            .await
            .unwrap();
        let connector = TlsConnector::from(own.client_config(&[b"h2"]));
        let stream = connector.connect(server_name(), tcp).await;
        let stream = stream.map_err(|error| hawker_identity::explain_io(&error))?;
        let mut once = Some(TokioIo::new(stream));
        let connector = tower::service_fn(move |_: http::Uri| {
            let stream = once.take().ok_or_else(|| std::io::Error::other("lost"));
            std::future::ready(stream)
        });
        let channel = Endpoint::from_static("http://scheduler")
            .connect_with_connector(connector)
            .await
            .map_err(|error| format!("{error:?}"))?;
        let (outgoing, queue) = mpsc::channel(16);
        let first = HostMessage::Hello(hello(name, role, None)).into();
        outgoing.send(first).await.unwrap();
        let mut client = SchedulerClient::new(channel);
        let call = client.session(ReceiverStream::new(queue));
        let answer = timeout(PATIENCE, call).await.unwrap();
        Ok(Self {
            incoming: answer.map_err(|status| status.to_string())?.into_inner(),
            _outgoing: outgoing,
        })
    }

    async fn next(&mut self) -> Result<SchedulerMessage, Status> {
        let message = timeout(PATIENCE, self.incoming.message()).await.unwrap()?;
        let message = message.ok_or_else(|| Status::cancelled("the stream ended"))?;
        Ok(message.try_into().unwrap())
    }

    async fn revocations(&mut self) -> Vec<Vec<u8>> {
        loop {
            if let SchedulerMessage::Revocations(lists) = self.next().await.unwrap() {
                return lists;
            }
        }
    }

    async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }
}

#[tokio::test]
async fn a_revoked_host_is_cut_off_and_all_others_are_told() {
    let cluster = Cluster::start().await;
    let token = cluster.token(Role::Node, None, 2).await;
    let good = cluster.joined(&token, "node-1").await;
    let bad = cluster.joined(&token, "node-2").await;
    let mut of_good = Session::open(&cluster, &good, "node-1", Role::Node)
        .await
        .unwrap();
    let mut of_bad = Session::open(&cluster, &bad, "node-2", Role::Node)
        .await
        .unwrap();
    let body = json!({"target": "node-2"});
    assert_eq!(cluster.control("POST", "/v1/revoke", body).await.0, 200);
    let status = of_bad.end().await;
    assert_eq!(status.code(), tonic::Code::PermissionDenied);
    assert!(status.message().contains("was revoked"), "{status}");
    let lists = of_good.revocations().await;
    good.learn(&lists[0]).unwrap();
    assert_eq!(good.revoked_count(), 1);
    // It neither comes back nor renews, and whoever comes later is told at once.
    let again = Session::open(&cluster, &bad, "node-2", Role::Node).await;
    let again = again.map(drop).unwrap_err();
    assert!(again.to_lowercase().contains("revoked"), "{again}");
    let key = NewKey::generate(&host("node-2")).unwrap();
    let error = renew(&cluster.issuer, &bad, &key.request_pem)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("it was revoked"), "{error}");
    let seed = cluster.issue("seed-1", Role::Seed);
    let mut late = Session::open(&cluster, &seed, "seed-1", Role::Seed)
        .await
        .unwrap();
    assert_eq!(late.revocations().await, lists);
    // The list is on disk for the next start.
    let files = TlsFiles::in_dir(&cluster.dir.path().join("scheduler"));
    assert_eq!(Identity::load(&files).unwrap().revoked_count(), 1);
    let (_, metrics) = support::get(cluster.scheduler.http().unwrap(), "/metrics").await;
    assert!(
        metrics.contains("hawker_scheduler_revoked_certificates 1"),
        "{metrics}"
    );
    let nobody = cluster
        .control("POST", "/v1/revoke", json!({"target": "node-7"}))
        .await;
    assert_eq!(nobody.0, 400);
}

#[tokio::test]
async fn schedulers_take_sessions_of_hosts_only_and_under_their_own_names() {
    let (cluster, other) = (Cluster::start().await, Cluster::start().await);
    let node = cluster.issue("node-1", Role::Node);
    let scheduler = cluster.issue("scheduler-2", Role::Scheduler);
    let stranger = other.issue("node-1", Role::Node);
    let reason = async |own: &Identity, name: &str, role| {
        Session::open(&cluster, own, name, role)
            .await
            .map(drop)
            .unwrap_err()
    };
    let text = reason(&scheduler, "scheduler-2", Role::Node).await;
    assert!(
        text.contains("only nodes and seeds have business here"),
        "{text}"
    );
    for (name, role) in [("node-2", Role::Node), ("node-1", Role::Seed)] {
        let text = reason(&node, name, role).await;
        assert!(text.contains("your certificate says node node-1"), "{text}");
    }
    let text = reason(&stranger, "node-1", Role::Node).await;
    assert!(text.contains("unknown authority"), "{text}");
    Session::open(&cluster, &node, "node-1", Role::Node)
        .await
        .unwrap();
}

/// Puts a certificate in `dir` that has lived for 80 of its 90 days.
fn install_old(authority: &ClusterCa, name: &str, role: Role, dir: &Path) -> TlsFiles {
    let day = Duration::from_secs(86_400);
    let validity = Validity {
        not_before: SystemTime::now() - 80 * day,
        not_after: SystemTime::now() + 10 * day,
    };
    let issued = authority.issue_for(&subject(name, role), validity).unwrap();
    write_host(dir, authority.cert_pem(), &issued, Existing::Replace).unwrap()
}

/// Waits until the certificate is another one.
async fn renewed(own: &Identity, before: &hawker_identity::Serial) {
    let mut changes = own.changes();
    let other = async {
        while own.serial() == *before {
            changes.changed().await.unwrap();
        }
    };
    timeout(PATIENCE, other).await.unwrap();
}

#[tokio::test]
async fn a_keeper_renews_in_time_and_takes_up_new_files_and_keeps_what_is_revoked() {
    let cluster = Cluster::start().await;
    let dir = cluster.dir.path().join("node-1");
    let files = install_old(&cluster.authority, "node-1", Role::Node, &dir);
    let node = Arc::new(Identity::load(&files).unwrap());
    let old = node.serial();
    let issuer = RemoteIssuer::new(cluster.issuer.clone());
    let (keeper, handle) = Keeper::new(node.clone(), Some(Box::new(issuer)));
    let keeper = tokio::spawn(keeper.run());
    renewed(&node, &old).await;
    assert_eq!(Identity::load(&files).unwrap().serial(), node.serial());
    // Another one is put there by hand.
    let before = node.serial();
    let issued = cluster
        .authority
        .issue(&subject("node-1", Role::Node), 20)
        .unwrap();
    let authority = cluster.authority.cert_pem();
    write_host(&dir, authority, &issued, Existing::Replace).unwrap();
    handle.reload();
    renewed(&node, &before).await;
    assert_eq!(node.serial(), issued.serial);
    assert_eq!(handle.status().renewals, 1);
    // What a scheduler tells is on disk soon.
    let list = cluster.authority.revoke(&[old], None).unwrap();
    let lists = cluster.authority.own_lists(list.as_bytes()).unwrap();
    node.learn(lists[0].der()).unwrap();
    let written = async {
        while !files.crl.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, written).await.unwrap();
    assert_eq!(Identity::load(&files).unwrap().revoked_count(), 1);
    keeper.abort();
}

#[tokio::test]
async fn a_scheduler_with_an_issuer_renews_its_own_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let authority = ClusterCa::create("prod", 365).unwrap();
    let ca = write_authority(&dir.path().join("ca"), &authority, Existing::Keep).unwrap();
    let files = install_old(
        &authority,
        "scheduler",
        Role::Scheduler,
        &dir.path().join("tls"),
    );
    let old = Identity::load(&files).unwrap().serial();
    let scheduler = start(dir.path(), &ca, &files).await;
    let renewed = async {
        loop {
            // Between its two files it is neither.
            match Identity::load(&files) {
                Ok(own) if own.serial() != old => break own,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let own = timeout(PATIENCE, renewed).await.unwrap();
    assert_eq!(
        (own.host(), own.role()),
        (&host("scheduler"), Role::Scheduler)
    );
    scheduler.stop().await;
}

#[tokio::test]
async fn an_issuer_of_another_authority_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let [ours, other] = [(); 2].map(|()| ClusterCa::create("prod", 365).unwrap());
    let ca = write_authority(&dir.path().join("ca"), &other, Existing::Keep).unwrap();
    let files = install(&ours, "scheduler", Role::Scheduler, &dir.path().join("tls"));
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let security = Security::Tls(Arc::new(Identity::load(&files).unwrap()));
    let mut settings = Settings::new(HostId::parse("scheduler").unwrap(), any, security);
    settings.issuer = Some(IssuerPlaces {
        ca_cert: ca.cert,
        ca_key: ca.key,
        listen: any,
        days: 30,
        dir: dir.path().join("state"),
        control: dir.path().join("control.sock"),
    });
    let error = Scheduler::start(settings).await.unwrap_err().to_string();
    assert!(error.contains("is not in tls.ca"), "{error}");
}
