//! Private addresses: refused however they are named, unless an operator named them.

use hawker_model::{Digest, RegistryHost, Repository};

use super::{
    super::{OriginClient, OriginConfig, OriginError, RegistryEndpoint},
    quick, read_all,
    server::{Asked, Reply, Server},
    source,
};

fn host(text: &str) -> RegistryHost {
    RegistryHost::parse(text).unwrap()
}

/// A client that allows nothing private but what is listed.
fn strict(allowed: &[&str]) -> OriginClient {
    let allow_private = allowed.iter().map(|text| text.parse().unwrap()).collect();
    OriginClient::new(OriginConfig {
        allow_private,
        ..quick()
    })
    .unwrap()
}

fn is_refused<T: std::fmt::Debug>(result: Result<T, OriginError>) -> bool {
    let error = result.unwrap_err();
    assert!(
        matches!(error, OriginError::PrivateAddress { .. }),
        "{error}"
    );
    assert!(!error.is_retryable());
    assert_eq!(error.status(), 403);
    true
}

#[tokio::test]
async fn loopback_is_refused_by_literal_and_by_name() {
    let server = Server::of_file(b"secret").await;
    let port = server.address.port();
    let names = [
        "127.0.0.1",
        "localhost",
        "localhost.",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "127.1",
        "127.0.0.1.",
        "LOCALHOST",
        "a.b.localhost",
        "0",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
    ];
    for name in names {
        let source = source(format!("http://{name}:{port}/"));
        assert!(is_refused(read_all(&strict(&[]), &source).await), "{name}");
        assert!(is_refused(strict(&[]).head(&source).await), "{name}");
    }
    assert!(server.asked().is_empty());
}

#[tokio::test]
async fn allowed_registries_and_networks_are_read() {
    let server = Server::of_file(b"layer").await;
    let port = server.address.port();
    let named = format!("localhost:{port}");
    for (allowed, url) in [
        (
            named.as_str(),
            server.url("/").replace("127.0.0.1", "localhost"),
        ),
        (
            "localhost",
            server.url("/").replace("127.0.0.1", "localhost"),
        ),
        (
            "127.0.0.0/8",
            server.url("/").replace("127.0.0.1", "localhost"),
        ),
        ("127.0.0.1", server.url("/")),
    ] {
        assert_eq!(
            read_all(&strict(&[allowed]), &source(url)).await.unwrap(),
            b"layer",
            "{allowed}"
        );
    }
    let other = format!("localhost:{}", port ^ 1);
    let url = server.url("/").replace("127.0.0.1", "localhost");
    assert!(is_refused(read_all(&strict(&[&other]), &source(url)).await));
}

#[tokio::test]
async fn redirects_and_token_realms_obey_the_rule() {
    let inner = Server::of_file(b"secret").await;
    let (to, realm) = (inner.url("/"), inner.url("/token"));
    let server = Server::start(move |asked| match asked.target.as_str() {
        "/redirect" => Reply::redirect(302, &to),
        _ => Reply::status(401).with("WWW-Authenticate", format!("Bearer realm=\"{realm}\"")),
    })
    .await;
    let client = strict(&[&server.address.to_string().replace("127.0.0.1", "localhost")]);
    for path in ["/redirect", "/token"] {
        let url = server.url(path).replace("127.0.0.1", "localhost");
        assert!(is_refused(read_all(&client, &source(url)).await), "{path}");
    }
    assert!(inner.asked().is_empty());
}

#[tokio::test]
async fn nothing_leads_to_the_clouds_metadata() {
    const FORMS: [&str; 9] = [
        "169.254.169.254",
        "169.254.169.254.",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "[::ffff:169.254.169.254]",
        "[::ffff:a9fe:a9fe]",
        "[64:ff9b::a9fe:a9fe]",
        "[fd00:ec2::254]",
    ];
    for form in FORMS {
        let server = Server::start(move |asked| match asked.target.as_str() {
            "/redirect" => Reply::redirect(307, format!("http://{form}/latest/meta-data/")),
            _ => Reply::status(401).with(
                "WWW-Authenticate",
                format!("Bearer realm=\"http://{form}/token\""),
            ),
        })
        .await;
        let client = strict(&[&server.address.to_string()]);
        assert!(
            is_refused(client.head(&source(format!("http://{form}/"))).await),
            "{form}"
        );
        for path in ["/redirect", "/token"] {
            let read = read_all(&client, &source(server.url(path))).await;
            assert!(is_refused(read), "{form} {path}");
        }
    }
}

#[tokio::test]
async fn zones_and_other_odd_hosts_are_no_urls() {
    for odd in [
        "[fe80::1%25eth0]",
        "[fe80::1%eth0]",
        "[::1",
        "1.2.3.4.5",
        "256.1.1.1",
        "0x1.0x2.3.4.5",
    ] {
        let error = strict(&[]).head(&source(format!("http://{odd}/"))).await;
        let error = error.unwrap_err();
        assert!(
            matches!(error, OriginError::InvalidUrl { .. }),
            "{odd}: {error}"
        );
    }
}

#[tokio::test]
async fn an_address_that_is_written_for_a_host_is_for_its_registry_alone() {
    let server = Server::of_file(b"layer").await;
    let port = server.address.port();
    let mut config = OriginConfig {
        allow_private: Vec::new(),
        retries: 0,
        ..quick()
    };
    let written = [("r.example".to_owned(), vec!["127.0.0.1".parse().unwrap()])];
    let registry = RegistryEndpoint {
        endpoints: vec![format!("http://r.example:{port}").parse().unwrap()],
        resolve: written.into(),
        ..RegistryEndpoint::default()
    };
    config.registries.insert(host("r.example"), registry);
    let stranger = Server::start_at("127.0.0.2", move |_| {
        Reply::redirect(307, format!("http://r.example:{port}/f"))
    })
    .await;
    config.allow_private = vec!["127.0.0.2".parse().unwrap()];
    let client = OriginClient::new(config).unwrap();
    let own = format!("http://r.example:{port}/v2/a/blobs/x");
    assert_eq!(read_all(&client, &source(own)).await.unwrap(), b"layer");
    read_all(&client, &source(stranger.url("/")))
        .await
        .unwrap_err();
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn a_name_without_an_address_is_told_with_what_mends_it() {
    let mut config = quick();
    config.retries = 0;
    let client = OriginClient::new(config).unwrap();
    let error = client.head(&source("http://no-such-host.invalid/")).await;
    let error = error.unwrap_err();
    assert!(matches!(error, OriginError::Name { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("registries.\"no-such-host.invalid\".resolve"),
        "{text}"
    );
    assert!(error.is_outage() && error.is_retryable());
}

#[tokio::test]
async fn a_stranger_cannot_lead_to_a_configured_registry() {
    let inner = Server::of_file(b"secret").await;
    let to = inner.url("/f");
    let lead = move |asked: &Asked| match asked.target.as_str() {
        "/redirect" => Reply::redirect(302, &to),
        _ => Reply::status(401).with("WWW-Authenticate", format!("Bearer realm=\"{to}\"")),
    };
    let stranger = Server::start_at("127.0.0.2", lead.clone()).await;
    let friend = Server::start_at("127.0.0.3", lead).await;
    let mut config = quick();
    config.allow_private = vec!["127.0.0.2".parse().unwrap()];
    for server in [&inner, &friend] {
        let name = host(&server.address.to_string());
        config.registries.insert(name, RegistryEndpoint::default());
    }
    let client = OriginClient::new(config).unwrap();
    let direct = read_all(&client, &source(inner.url("/f"))).await;
    assert_eq!(
        direct.unwrap(),
        b"secret",
        "which also leaves a connection in the pool"
    );
    for path in ["/redirect", "/token"] {
        assert!(
            is_refused(read_all(&client, &source(stranger.url(path))).await),
            "{path}"
        );
        assert!(
            is_refused(client.head(&source(stranger.url(path))).await),
            "{path}"
        );
    }
    assert_eq!(inner.asked().len(), 1);
    let led = read_all(&client, &source(friend.url("/redirect"))).await;
    assert_eq!(led.unwrap(), b"secret");
}

#[tokio::test]
async fn registries_are_where_they_are_configured_or_usual() {
    let mut config = OriginConfig::default();
    let endpoint = "http://10.0.0.9:8080/cache/".parse().unwrap();
    let registry = RegistryEndpoint {
        endpoints: vec![endpoint],
        ..RegistryEndpoint::default()
    };
    config
        .registries
        .insert(host("harbor.example:8443"), registry);
    config
        .registries
        .insert(host("10.0.0.5:5000"), RegistryEndpoint::default());
    config
        .registries
        .insert(host("localhost:5000"), RegistryEndpoint::default());
    config.allow_private = vec!["127.0.0.1:5001".parse().unwrap()];
    let client = OriginClient::new(config).unwrap();
    for (registry, base) in [
        ("docker.io", "https://registry-1.docker.io/"),
        ("index.docker.io", "https://registry-1.docker.io/"),
        ("quay.io", "https://quay.io/"),
        ("r.io:5000", "https://r.io:5000/"),
        ("harbor.example:8443", "http://10.0.0.9:8080/cache/"),
        ("10.0.0.5:5000", "https://10.0.0.5:5000/"),
        ("localhost:5000", "http://localhost:5000/"),
        ("127.0.0.1:5001", "http://127.0.0.1:5001/"),
    ] {
        assert_eq!(
            client.base_url(&host(registry)).unwrap().as_str(),
            base,
            "{registry}"
        );
    }
    for registry in [
        "10.0.0.5",
        "10.0.0.9",
        "localhost",
        "169.254.169.254",
        "[::1]:5000",
    ] {
        assert!(is_refused(client.base_url(&host(registry))), "{registry}");
    }
    let repository = Repository::parse("a/b").unwrap();
    let digest = Digest::of(b"");
    let url = client
        .blob_url(&host("harbor.example:8443"), &repository, &digest)
        .unwrap();
    assert_eq!(
        url.as_str(),
        format!("http://10.0.0.9:8080/cache/v2/a/b/blobs/{digest}")
    );
}

#[tokio::test]
async fn urls_that_cannot_be_asked_are_told() {
    for url in [
        "",
        "ftp://x/y",
        "file:///etc/passwd",
        "http://",
        "http://a b/",
        "http://u:p@r.io/",
    ] {
        let error = strict(&[]).head(&source(url)).await.unwrap_err();
        assert!(
            matches!(error, OriginError::InvalidUrl { .. }),
            "{url}: {error}"
        );
        assert!(!error.to_string().contains("u:p"), "{error}");
    }
}
