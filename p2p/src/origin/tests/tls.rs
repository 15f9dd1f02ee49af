//! TLS: whom we believe, and HTTP/2.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use hawker_model::RegistryHost;
use http::{Request, Response, Version};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ServerConfig, crypto::aws_lc_rs};
use rustls_pki_types::PrivateKeyDer;
use tempfile::TempDir;

use super::{
    super::{OriginClient, OriginConfigError, OriginError, RegistryEndpoint},
    quick, read_all,
    server::{Reply, Server},
    source,
};

/// An authority that nobody knows, and a server's settings with a certificate of it.
struct Authority {
    dir: TempDir,
    server: ServerConfig,
}

impl Authority {
    fn new() -> Self {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new([]).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let dir = TempDir::new().unwrap();
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        std::fs::write(dir.path().join("ca.pem"), ca_pem).unwrap();

        let key = KeyPair::generate().unwrap();
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let leaf = CertificateParams::new(names).unwrap();
        let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let server = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)
            .unwrap();
        Self { dir, server }
    }

    fn trusted(&self) -> RegistryEndpoint {
        let ca_file = Some(self.dir.path().join("ca.pem"));
        RegistryEndpoint {
            ca_file,
            ..at_https(0)
        }
    }
}

/// A place whose port is filled in by [`client_of`].
fn at_https(port: u16) -> RegistryEndpoint {
    let endpoint = format!("https://127.0.0.1:{port}").parse().ok();
    RegistryEndpoint {
        endpoint,
        ..RegistryEndpoint::default()
    }
}

fn client_of(port: u16, mut registry: RegistryEndpoint) -> OriginClient {
    registry.endpoint = at_https(port).endpoint;
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
