//! TLS: whom we believe, and HTTP/2.

use std::{convert::Infallible, path::Path, sync::Arc};

use bytes::Bytes;
use hawker_model::RegistryHost;
use http::{Request, Response, Version};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{RootCertStore, ServerConfig, crypto::aws_lc_rs, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tempfile::TempDir;

use super::{
    super::{
        ClientFiles, OriginClient, OriginConfig, OriginConfigError, OriginError, RegistryEndpoint,
    },
    quick, read_all,
    server::{Reply, Server},
    source,
};

/// An authority that nobody knows, and a server's settings with a certificate of it.
pub(super) struct Authority {
    dir: TempDir,
    pub(super) server: ServerConfig,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(super) fn new() -> Self {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new([]).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let dir = TempDir::new().unwrap();
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        std::fs::write(dir.path().join("ca.pem"), ca_pem).unwrap();

        let key = KeyPair::generate().unwrap();
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let leaf = CertificateParams::new(names).unwrap();
        let issuer = Issuer::new(ca, ca_key);
        let leaf = leaf.signed_by(&key, &issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let server = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)
            .unwrap();
        Self {
            dir,
            server,
            issuer,
        }
    }

    /// The same server, which wants client certificates of `others`.
    pub(super) fn wants_clients_of(&self, others: &Self) -> ServerConfig {
        let ca = CertificateDer::from_pem_file(others.dir.path().join("ca.pem")).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(ca).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let (chain, key) = self.leaf("localhost");
        ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap()
    }

    /// A certificate for `name` and loopback, and its key, in PEM.
    fn leaf(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let names = [name.to_owned(), "127.0.0.1".to_owned()];
        let leaf = CertificateParams::new(names).unwrap();
        let leaf = leaf.signed_by(&key, &self.issuer).unwrap();
        (leaf.pem(), key.serialize_pem())
    }

    /// The files of a client's certificate in `dir`, named as Docker names them.
    pub(super) fn client_in(&self, dir: &Path) -> ClientFiles {
        let (cert, key) = self.leaf("client");
        let files = ClientFiles {
            cert: dir.join("client.cert"),
            key: dir.join("client.key"),
        };
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(&files.cert, cert).unwrap();
        std::fs::write(&files.key, key).unwrap();
        files
    }

    pub(super) fn trusted(&self) -> RegistryEndpoint {
        let ca_file = Some(self.dir.path().join("ca.pem"));
        RegistryEndpoint {
            ca_file,
            ..at_https(0)
        }
    }
}

/// A place whose port is filled in by [`client_of`].
fn at_https(port: u16) -> RegistryEndpoint {
    let endpoint = format!("https://127.0.0.1:{port}").parse().unwrap();
    RegistryEndpoint {
        endpoints: vec![endpoint],
        ..RegistryEndpoint::default()
    }
}

fn client_of(port: u16, mut registry: RegistryEndpoint) -> OriginClient {
    registry.endpoints = at_https(port).endpoints;
    let mut config = quick();
    config
        .registries
        .insert(RegistryHost::parse("r.example").unwrap(), registry);
    OriginClient::new(config).unwrap()
}

#[tokio::test]
async fn a_private_authority_is_believed_where_it_is_configured() {
    let authority = Authority::new();
    let server = Server::start_tls(authority.server.clone(), |asked| {
        Reply::file(asked, b"layer")
    })
    .await;
    let port = server.address.port();
    let source = source(server.url("/f"));

    let client = client_of(port, authority.trusted());
    assert_eq!(read_all(&client, &source).await.unwrap(), b"layer");
    let unseen = RegistryEndpoint {
        skip_verify: true,
        ..at_https(0)
    };
    assert_eq!(
        read_all(&client_of(port, unseen), &source).await.unwrap(),
        b"layer"
    );

    let error = read_all(&client_of(port, at_https(0)), &source)
        .await
        .unwrap_err();
    assert!(matches!(error, OriginError::Certificate { .. }), "{error}");
    let remedy = "set registries.\"r.example\".ca";
    assert!(error.to_string().contains(remedy), "{error}");
    assert!(!error.is_retryable());

    // The trust is for that registry alone.
    let error = read_all(&client_of(port ^ 1, authority.trusted()), &source)
        .await
        .unwrap_err();
    assert!(matches!(error, OriginError::Certificate { .. }), "{error}");
}

#[tokio::test]
async fn https_does_not_redirect_to_http() {
    let plain = Server::of_file(b"forged").await;
    let to = plain.url("/f");
    let authority = Authority::new();
    let server =
        Server::start_tls(authority.server.clone(), move |_| Reply::redirect(302, &to)).await;
    let client = client_of(server.address.port(), authority.trusted());
    let error = read_all(&client, &source(server.url("/f")))
        .await
        .unwrap_err();
    assert!(matches!(error, OriginError::Redirect { .. }), "{error}");
    assert!(plain.asked().is_empty());
}

#[tokio::test]
async fn a_plain_server_behind_https_is_told() {
    let server = Server::of_file(b"").await;
    let client = client_of(server.address.port(), RegistryEndpoint::default());
    let url = server.url("/f").replace("http:", "https:");
    let error = client.head(&source(url)).await.unwrap_err();
    assert!(matches!(error, OriginError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn authorities_that_cannot_be_read_are_told_at_the_start() {
    let dir = TempDir::new().unwrap();
    let with_file = |content: Option<&str>| {
        let path = dir.path().join("ca.pem");
        let _ = std::fs::remove_file(&path);
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let mut config = quick();
        let registry = RegistryEndpoint {
            ca_file: Some(path),
            ..RegistryEndpoint::default()
        };
        config
            .registries
            .insert(RegistryHost::parse("r.io").unwrap(), registry);
        OriginClient::new(config).unwrap_err()
    };
    assert!(matches!(with_file(None), OriginConfigError::ReadCa { .. }));
    assert!(matches!(
        with_file(Some("no pem")),
        OriginConfigError::NoCa { .. }
    ));
    let broken = "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n";
    assert!(matches!(
        with_file(Some(broken)),
        OriginConfigError::ReadCa { .. }
    ));
}

#[tokio::test]
async fn http2_is_spoken_where_it_is_offered() {
    let mut authority = Authority::new();
    authority.server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(authority.server.clone()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let file = super::content(3 << 20);
    let all = Bytes::from(file.clone());
    let answer = service_fn(move |request: Request<Incoming>| {
        let body = match request.version() == Version::HTTP_2 {
            true => all.clone(),
            false => Bytes::new(),
        };
        std::future::ready(Ok::<_, Infallible>(Response::new(Full::new(body))))
    });
    let serving = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, answer) = (acceptor.clone(), answer.clone());
            tokio::spawn(async move {
                let stream = TokioIo::new(acceptor.accept(stream).await.unwrap());
                let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(stream, answer).await;
            });
        }
    });
    let client = client_of(address.port(), authority.trusted());
    let source = source(format!("https://{address}/f"));
    assert_eq!(read_all(&client, &source).await.unwrap(), file);
    serving.abort();
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_the_registry_and_its_lack_is_told() {
    let (authority, clients, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let wants = authority.wants_clients_of(&clients);
    let server = Server::start_tls(wants, |asked| Reply::file(asked, b"layer")).await;
    let port = server.address.port();
    let source = source(server.url("/f"));
    let dir = TempDir::new().unwrap();
    let with = |client: Option<ClientFiles>| RegistryEndpoint {
        client,
        ..authority.trusted()
    };
    let good = clients.client_in(&dir.path().join("good"));
    let read = read_all(&client_of(port, with(Some(good))), &source).await;
    assert_eq!(read.unwrap(), b"layer");

    let error = read_all(&client_of(port, with(None)), &source)
        .await
        .unwrap_err();
    assert!(
        matches!(error, OriginError::ClientCertificate { .. }),
        "{error}"
    );
    let remedy = "set registries.\"r.example\".client_cert and client_key";
    assert!(error.to_string().contains(remedy), "{error}");

    let strange = strangers.client_in(&dir.path().join("strange"));
    let error = read_all(&client_of(port, with(Some(strange))), &source).await;
    let error = error.unwrap_err();
    assert!(
        matches!(error, OriginError::ClientCertificate { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("strange/client.cert"), "{error}");
    assert!(!error.is_retryable() && error.is_outage());
}

/// Servers that want a client certificate, which each of these settings has.
async fn wanting_clients(dir: &TempDir) -> (Server, Vec<RegistryEndpoint>) {
    let (authority, clients) = (Authority::new(), Authority::new());
    let server = Server::start_tls(authority.wants_clients_of(&clients), |asked| {
        Reply::file(asked, b"layer")
    })
    .await;
    let by_authority = RegistryEndpoint {
        client: Some(clients.client_in(dir.path())),
        endpoints: at_https(server.address.port()).endpoints,
        ..RegistryEndpoint::default()
    };
    let ca_file = dir.path().join("ca.pem");
    std::fs::copy(authority.trusted().ca_file.unwrap(), &ca_file).unwrap();
    let unseen = RegistryEndpoint {
        skip_verify: true,
        ..by_authority.clone()
    };
    let by_authority = RegistryEndpoint {
        ca_file: Some(ca_file),
        ..by_authority
    };
    (server, vec![by_authority, unseen])
}

#[tokio::test]
async fn the_host_behind_a_redirect_is_never_shown_our_client_certificate() {
    let dir = TempDir::new().unwrap();
    let (private, settings) = wanting_clients(&dir).await;
    let to = private.url("/v2/secret/blobs/x");
    let away = move |_: &_| Reply::redirect(307, &to);
    let (stranger, known) = (
        Server::start(away.clone()).await,
        Server::start(away.clone()).await,
    );
    let authority = Authority::new();
    let known_by_tls = Server::start_tls(authority.server.clone(), away).await;
    for registry in settings {
        let mut config = quick();
        config.retries = 0;
        let mut insert = |name: &str, endpoint| {
            let name = RegistryHost::parse(name).unwrap();
            config.registries.insert(name, endpoint);
        };
        insert("private.example", registry);
        insert(
            "known.example",
            RegistryEndpoint {
                endpoints: vec![known.url("").parse().unwrap()],
                ..RegistryEndpoint::default()
            },
        );
        // One that has connections of its own.
        insert(
            "by-tls.example",
            RegistryEndpoint {
                endpoints: vec![known_by_tls.url("").parse().unwrap()],
                ..authority.trusted()
            },
        );
        let client = OriginClient::new(config).unwrap();
        let own = source(private.url("/v2/secret/blobs/x"));
        // Also where a connection that is shown it is there already.
        for _ in 0..2 {
            for front in [&stranger, &known, &known_by_tls] {
                let seen = private.asked().len();
                let mere = source(front.url("/v2/mine/blobs/x"));
                assert!(read_all(&client, &mere).await.is_err());
                let _says_nothing_of_it = client.head(&mere).await;
                assert_eq!(private.asked().len(), seen);
            }
            assert_eq!(read_all(&client, &own).await.unwrap(), b"layer");
        }
    }
}

#[tokio::test]
async fn a_client_certificate_is_not_shown_again_after_a_detour() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let back = Arc::new(std::sync::Mutex::new(String::new()));
    let to = Arc::clone(&back);
    let detour = Server::start_tls(authority.server.clone(), move |_| {
        Reply::redirect(307, to.lock().unwrap().as_str())
    })
    .await;
    let away = detour.url("/");
    let wants = authority.wants_clients_of(&clients);
    let server = Server::start_tls(wants, move |asked| match asked.target.as_str() {
        "/v2/mine/blobs/x" => Reply::redirect(307, &away),
        "/v2/moved/blobs/x" => Reply::redirect(307, "/v2/secret/blobs/x"),
        _ => Reply::file(asked, b"layer"),
    })
    .await;
    *back.lock().unwrap() = server.url("/v2/secret/blobs/x");
    let dir = TempDir::new().unwrap();
    let registry = RegistryEndpoint {
        client: Some(clients.client_in(dir.path())),
        ..authority.trusted()
    };
    let client = client_of(server.address.port(), registry);
    let straight = source(server.url("/v2/moved/blobs/x"));
    assert_eq!(read_all(&client, &straight).await.unwrap(), b"layer");
    let seen = server.asked().len();
    let strayed = source(server.url("/v2/mine/blobs/x"));
    assert!(read_all(&client, &strayed).await.is_err());
    let asked = server.asked();
    let asked = asked[seen..].iter().map(|asked| asked.target.as_str());
    assert!(asked.clone().count() > 0);
    assert!(asked.into_iter().all(|path| path == "/v2/mine/blobs/x"));
}

#[tokio::test]
async fn a_mirrors_client_certificate_is_shown_to_that_mirror_alone() {
    let dir = TempDir::new().unwrap();
    let (mirror, _) = wanting_clients(&dir).await;
    let of_registry = dir.path().join("certs.d/r.example");
    std::fs::create_dir_all(&of_registry).unwrap();
    let files = dir.path().display();
    let hosts = format!(
        "[host.\"{0}\"]\nca = \"{files}/ca.pem\"\n\
         client = [[\"{files}/client.cert\", \"{files}/client.key\"]]\n",
        mirror.url("")
    );
    std::fs::write(of_registry.join("hosts.toml"), hosts).unwrap();
    let config = OriginConfig {
        certs_d: vec![dir.path().join("certs.d")],
        retries: 0,
        ..quick()
    };
    let client = OriginClient::new(config).unwrap();
    assert_eq!(client.warnings(), Vec::<String>::new());
    let wanted = source("https://r.example/v2/a/blobs/sha256:0");
    assert_eq!(read_all(&client, &wanted).await.unwrap(), b"layer");
    let seen = mirror.asked().len();
    let to = mirror.url("/v2/secret/blobs/x");
    let stranger = Server::start(move |_| Reply::redirect(307, &to)).await;
    let mere = source(stranger.url("/v2/mine/blobs/x"));
    assert!(read_all(&client, &mere).await.is_err());
    assert_eq!(mirror.asked().len(), seen);
}

#[tokio::test]
async fn the_token_server_beside_a_registry_is_shown_its_client_certificate() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let wants = authority.wants_clients_of(&clients);
    let server = Server::start_tls(wants, |asked| {
        match (asked.target.as_str(), asked.header("authorization")) {
            (path, _) if path.starts_with("/token") => Reply::body(r#"{"token":"t"}"#),
            (_, Some("Bearer t")) => Reply::file(asked, b"layer"),
            _ => Reply::status(401).with("WWW-Authenticate", "Bearer realm=\"/token\""),
        }
    })
    .await;
    let dir = TempDir::new().unwrap();
    let registry = RegistryEndpoint {
        client: Some(clients.client_in(dir.path())),
        ..authority.trusted()
    };
    let client = client_of(server.address.port(), registry);
    let read = read_all(&client, &source(server.url("/v2/a/blobs/x"))).await;
    assert_eq!(read.unwrap(), b"layer");
}

#[tokio::test]
async fn client_files_that_do_not_hold_are_told_at_the_start() {
    let (one, two) = (Authority::new(), Authority::new());
    let dir = TempDir::new().unwrap();
    let (a, b) = (
        one.client_in(&dir.path().join("a")),
        two.client_in(&dir.path().join("b")),
    );
    let absent = dir.path().join("absent");
    for (cert, key, part) in [
        (&a.cert, &b.key, "do not belong together"),
        (&a.cert, &a.cert, "holds no private key"),
        (&a.key, &a.key, "holds no certificate"),
        (&absent, &a.key, "cannot read"),
    ] {
        let mut config = quick();
        let client = Some(ClientFiles {
            cert: cert.clone(),
            key: key.clone(),
        });
        let registry = RegistryEndpoint {
            client,
            ..RegistryEndpoint::default()
        };
        config
            .registries
            .insert(RegistryHost::parse("r.io").unwrap(), registry);
        let error = OriginClient::new(config).unwrap_err();
        assert!(matches!(error, OriginConfigError::Client { .. }), "{error}");
        assert!(error.to_string().contains(part), "{error}");
        assert!(
            error
                .to_string()
                .contains("registries.\"r.io\".client_cert"),
            "{error}"
        );
    }
}

/// A client that knows what containerd or Docker keep in `dir`, and nothing else.
fn written(dir: &TempDir) -> OriginConfig {
    OriginConfig {
        certs_d: vec![dir.path().to_owned()],
        allow_private: Vec::new(),
        ..quick()
    }
}

#[tokio::test]
async fn directories_of_containerd_and_docker_are_read_as_they_are() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let wants = authority.wants_clients_of(&clients);
    let server = Server::start_tls(wants, |asked| Reply::file(asked, b"layer")).await;
    let port = server.address.port();
    let ca = std::fs::read(authority.trusted().ca_file.unwrap()).unwrap();

    let containerd = TempDir::new().unwrap();
    let of_registry = containerd.path().join(format!("localhost_{port}_"));
    let files = clients.client_in(&of_registry);
    std::fs::write(of_registry.join("ca.pem"), &ca).unwrap();
    let hosts = format!(
        "server = \"https://localhost:{port}\"\nca = \"ca.pem\"\nclient = [[{:?}, \"client.key\"]]\n\
         [host.\"http://127.0.0.1:65001\"]\n",
        files.cert
    );
    std::fs::write(of_registry.join("hosts.toml"), hosts).unwrap();

    let docker = TempDir::new().unwrap();
    let of_registry = docker.path().join(format!("localhost:{port}"));
    clients.client_in(&of_registry);
    std::fs::write(of_registry.join("ca.crt"), &ca).unwrap();

    let mut config = written(&containerd);
    config.own_addresses = vec!["127.0.0.1:65001".parse().unwrap()];
    let client = OriginClient::new(config).unwrap();
    assert_eq!(client.warnings(), Vec::<String>::new());
    let registry = RegistryHost::parse(&format!("localhost:{port}")).unwrap();
    let base = client.base_url(&registry).unwrap();
    let wanted = source(format!("{base}v2/a/blobs/x"));
    assert_eq!(read_all(&client, &wanted).await.unwrap(), b"layer");

    let client = OriginClient::new(written(&docker)).unwrap();
    assert_eq!(client.base_url(&registry).unwrap(), base);
    assert_eq!(read_all(&client, &wanted).await.unwrap(), b"layer");
}

#[tokio::test]
async fn files_of_other_programs_that_do_not_hold_are_told_and_keep_nothing_from_starting() {
    let dir = TempDir::new().unwrap();
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("a.lan/ca.crt", "no pem");
    write(
        "b.lan/hosts.toml",
        "ca = \"absent.pem\"\nclient = \"absent.cert\"\n",
    );
    write("c.lan/hosts.toml", "server = \n");
    write("d.lan/x.cert", "no pem");
    write("d.lan/x.key", "no pem");
    write("_default/hosts.toml", "skip_verify = true\n");
    let client = OriginClient::new(written(&dir)).unwrap();
    let warnings = client.warnings();
    for part in [
        "a.lan/ca.crt holds no certificate",
        "cannot read",
        "b.lan/absent.cert",
        "c.lan/hosts.toml, line 1",
        "d.lan/x.cert holds no certificate",
        "_default: skip_verify, client and header for all registries are passed over",
    ] {
        let told = warnings.iter().any(|warning| warning.contains(part));
        assert!(told, "{part}: {warnings:?}");
    }
    assert_eq!(warnings.len(), 6, "{warnings:?}");
}

#[tokio::test]
async fn the_registrys_authority_is_believed_of_its_token_server_too() {
    let (authority, mirror) = (Authority::new(), Authority::new());
    let issuer = Server::start_tls(authority.server.clone(), |_| {
        Reply::body(r#"{"token":"t"}"#)
    })
    .await;
    let realm = issuer.url("/token");
    let registry = Server::start_tls(authority.server.clone(), move |asked| {
        match asked.header("authorization") {
            Some("Bearer t") => Reply::file(asked, b"layer"),
            _ => Reply::status(401).with(
                "WWW-Authenticate",
                format!("Bearer realm=\"{realm}\",service=\"s\""),
            ),
        }
    })
    .await;
    let wanted = source(registry.url("/v2/a/blobs/x"));
    let client = client_of(registry.address.port(), authority.trusted());
    assert_eq!(read_all(&client, &wanted).await.unwrap(), b"layer");
    // Another registry's requests do not profit.
    let other = Server::start_tls(mirror.server.clone(), {
        let realm = issuer.url("/token");
        move |_| {
            let challenge = format!("Bearer realm=\"{realm}\",service=\"s\"");
            Reply::status(401).with("WWW-Authenticate", challenge)
        }
    })
    .await;
    let client = client_of(other.address.port(), mirror.trusted());
    let error = read_all(&client, &source(other.url("/v2/a/blobs/x")))
        .await
        .unwrap_err();
    assert!(matches!(error, OriginError::TokenServer { .. }), "{error}");
    assert!(
        error.to_string().contains("the token server of r.example"),
        "{error}"
    );
}
