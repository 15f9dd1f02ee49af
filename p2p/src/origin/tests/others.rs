//! What is fetched for another host, who named the source: nothing of ours is shown for it.

use std::fs;

use hawker_model::RegistryHost;
use hawker_swarm::{ManifestWish, Secret, Source};
use tempfile::TempDir;

use super::{
    super::{ByteRange, Login, OriginClient, OriginConfig, OriginError, RegistryEndpoint},
    client, quick, read_all,
    server::{Asked, Reply, Server},
    source, source_as,
    tls::Authority,
};

const BLOB: &str = "/v2/team/app/blobs/sha256:0";
/// ann:pw
const ANN: &str = "Basic YW5uOnB3";

async fn read_for_others(client: &OriginClient, source: &Source) -> Result<Vec<u8>, OriginError> {
    let mut body = client.fetch_for_others(source, ByteRange::ALL).await?;
    let mut all = Vec::new();
    while let Some(bytes) = body.next().await? {
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

/// Settings with a login at the server.
fn with_login(server: &Server) -> OriginConfig {
    let login = Login {
        username: "ann".to_owned(),
        password: Secret::new("pw"),
    };
    let endpoint = RegistryEndpoint {
        login: Some(login),
        ..RegistryEndpoint::default()
    };
    let name = RegistryHost::parse(&server.address.to_string()).unwrap();
    let mut config = quick();
    config.registries.insert(name, endpoint);
    config
}

fn credentials(asked: &[Asked]) -> Vec<Option<&str>> {
    asked.iter().map(|a| a.header("authorization")).collect()
}

fn is_denied(read: Result<Vec<u8>, OriginError>) -> bool {
    matches!(read, Err(OriginError::Denied { status: 401, .. }))
}

#[tokio::test]
async fn a_configured_login_and_what_it_bought_are_not_shown_for_another_host() {
    let server = Server::start(|asked| match asked.header("authorization") {
        Some(ANN) => Reply::file(asked, b"layer"),
        _ => Reply::status(401).with("WWW-Authenticate", r#"Basic realm="r""#),
    })
    .await;
    let client = OriginClient::new(with_login(&server)).unwrap();
    let ours = source(server.url(BLOB));
    // What a reader of ours gets is remembered, but not for others.
    assert_eq!(read_all(&client, &ours).await.unwrap(), b"layer");
    let seen = server.asked().len();
    assert!(is_denied(read_for_others(&client, &ours).await));
    for wrong in ["Bearer bad", "Basic eDp5"] {
        let wrong = source_as(server.url(BLOB), wrong);
        assert!(is_denied(read_for_others(&client, &wrong).await));
    }
    let asked = server.asked();
    assert!(!credentials(&asked[seen..]).contains(&Some(ANN)));
    // Their own does.
    let theirs = source_as(server.url(BLOB), ANN);
    assert_eq!(read_for_others(&client, &theirs).await.unwrap(), b"layer");
}

#[tokio::test]
async fn a_token_that_a_configured_login_bought_is_not_shown_for_another_host() {
    let issuer = Server::start(|asked| match asked.header("authorization") {
        Some(ANN) => Reply::body(r#"{"token":"t","expires_in":300}"#),
        _ => Reply::status(401),
    })
    .await;
    let realm = issuer.url("/token");
    let registry = Server::start(move |asked| match asked.header("authorization") {
        Some("Bearer t") => Reply::file(asked, b"layer"),
        _ => Reply::status(401).with(
            "WWW-Authenticate",
            format!(r#"Bearer realm="{realm}",service="reg""#),
        ),
    })
    .await;
    let client = OriginClient::new(with_login(&registry)).unwrap();
    let wanted = source(registry.url(BLOB));
    assert_eq!(read_all(&client, &wanted).await.unwrap(), b"layer");
    let seen = (registry.asked().len(), issuer.asked().len());
    assert!(read_for_others(&client, &wanted).await.is_err());
    for (server, seen) in [(&registry, seen.0), (&issuer, seen.1)] {
        let asked = server.asked();
        assert!(credentials(&asked[seen..]).iter().all(Option::is_none));
    }
}

#[tokio::test]
async fn what_is_public_is_had_for_another_host_in_nobodys_name() {
    let issuer = Server::start(|asked| match asked.header("authorization") {
        None => Reply::body(r#"{"token":"anyone","expires_in":300}"#),
        Some(_) => Reply::status(401),
    })
    .await;
    let realm = issuer.url("/token");
    let registry = Server::start(move |asked| match asked.header("authorization") {
        Some("Bearer anyone") => Reply::file(asked, b"layer"),
        _ => Reply::status(401).with(
            "WWW-Authenticate",
            format!(r#"Bearer realm="{realm}",service="reg""#),
        ),
    })
    .await;
    let known = OriginClient::new(with_login(&registry)).unwrap();
    for client in [known, client()] {
        for wanted in [
            source(registry.url(BLOB)),
            source_as(registry.url(BLOB), "Bearer stale"),
        ] {
            let read = read_for_others(&client, &wanted).await;
            assert_eq!(read.unwrap(), b"layer");
        }
    }
}

#[tokio::test]
async fn headers_of_hosts_toml_are_not_sent_for_another_host() {
    let server = Server::start(|asked| match asked.header("x-key") {
        Some("k") => Reply::file(asked, b"layer"),
        _ => Reply::status(401),
    })
    .await;
    let mirror = Server::start(|asked| match asked.header("x-key") {
        Some("m") => Reply::file(asked, b"layer"),
        _ => Reply::status(401),
    })
    .await;
    let certs_d = TempDir::new().unwrap();
    let (own, by_mirror) = (
        certs_d.path().join("own.example"),
        certs_d.path().join("other.example"),
    );
    fs::create_dir(&own).unwrap();
    fs::create_dir(&by_mirror).unwrap();
    let root = server.url("");
    let file = format!("server = \"{root}\"\n[header]\nx-key = \"k\"\n");
    fs::write(own.join("hosts.toml"), file).unwrap();
    let file = format!(
        "server = \"{root}\"\n[host.\"{0}\"]\n[host.\"{0}\".header]\nx-key = \"m\"\n",
        mirror.url("")
    );
    fs::write(by_mirror.join("hosts.toml"), file).unwrap();
    let mut config = quick();
    config.certs_d = vec![certs_d.path().to_owned()];
    let client = OriginClient::new(config).unwrap();
    for name in ["own.example", "other.example"] {
        let base = client.base_url(&RegistryHost::parse(name).unwrap());
        let wanted = source(base.unwrap().join(BLOB).unwrap());
        assert_eq!(read_all(&client, &wanted).await.unwrap(), b"layer");
        let seen = (server.asked().len(), mirror.asked().len());
        read_for_others(&client, &wanted).await.unwrap_err();
        for (server, seen) in [(&server, seen.0), (&mirror, seen.1)] {
            let asked = server.asked();
            assert!(asked[seen..].iter().all(|a| a.header("x-key").is_none()));
        }
    }
}

#[tokio::test]
async fn a_client_certificate_is_not_shown_for_another_host() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let wants = authority.wants_clients_of(&clients);
    let server = Server::start_tls(wants, |asked| Reply::file(asked, b"layer")).await;
    let dir = TempDir::new().unwrap();
    let mut config = quick();
    let registry = RegistryEndpoint {
        client: Some(clients.client_in(dir.path())),
        endpoints: vec![server.url("").parse().unwrap()],
        ..authority.trusted()
    };
    let name = RegistryHost::parse("r.example").unwrap();
    config.registries.insert(name, registry);
    let client = OriginClient::new(config).unwrap();
    for path in [BLOB, "/any/file"] {
        let wanted = source(server.url(path));
        assert_eq!(read_all(&client, &wanted).await.unwrap(), b"layer");
        let seen = server.asked().len();
        let error = read_for_others(&client, &wanted).await.unwrap_err();
        assert!(matches!(error, OriginError::NotForOthers { .. }), "{error}");
        assert_eq!(server.asked().len(), seen);
    }
}

/// certs.d with a `hosts.toml` for `name`.
fn with_hosts(name: &str, hosts: &str) -> (TempDir, OriginConfig) {
    let certs_d = TempDir::new().unwrap();
    let dir = certs_d.path().join(name);
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("hosts.toml"), hosts).unwrap();
    let mut config = quick();
    config.certs_d = vec![certs_d.path().to_owned()];
    (certs_d, config)
}

#[tokio::test]
async fn a_right_is_asked_for_another_host_with_nothing_of_ours() {
    let knows_us = |asked: &Asked| {
        asked.header("authorization") == Some(ANN) || asked.header("x-key") == Some("k")
    };
    let server = Server::start(move |asked| match knows_us(asked) {
        true => Reply::file(asked, b"layer"),
        false => Reply::status(401).with("WWW-Authenticate", r#"Basic realm="r""#),
    })
    .await;
    let root = server.url("");
    let header = format!("server = \"{root}\"\n[header]\nx-key = \"k\"\n");
    let mirror = format!("server = \"{root}\"\n[host.\"{root}\".header]\nx-key = \"k\"\n");
    let (_header_dir, header) = with_hosts("r.example", &header);
    let (_mirror_dir, mirror) = with_hosts("r.example", &mirror);
    let own = server.url(BLOB);
    let by_name = format!("https://r.example{BLOB}");
    for (config, url) in [
        (with_login(&server), own),
        (header, by_name.clone()),
        (mirror, by_name),
    ] {
        let client = OriginClient::new(config).unwrap();
        assert_eq!(
            read_all(&client, &source(&url)).await.unwrap(),
            b"layer",
            "a reader of ours has it"
        );
        let seen = server.asked().len();
        for claim in [
            source(&url),
            source_as(&url, "Bearer bad"),
            source_as(&url, "Basic eDp5"),
        ] {
            let error = client.head_for_others(&claim).await.unwrap_err();
            assert!(matches!(error, OriginError::Denied { .. }), "{error}");
        }
        assert!(!server.asked()[seen..].iter().any(knows_us));
        let theirs = client.head_for_others(&source_as(&url, ANN)).await;
        assert_eq!(theirs.unwrap().length, Some(5));
    }
}

#[tokio::test]
async fn what_of_ours_a_registry_is_shown_is_known_beforehand() {
    let server = Server::of_file(b"layer").await;
    let root = server.url("");
    let shows = |config: OriginConfig, url: &str, credential: Option<&str>| {
        let source = match credential {
            Some(credential) => source_as(url, credential),
            None => source(url),
        };
        OriginClient::new(config).unwrap().shows_ours(&source)
    };
    let url = server.url(BLOB);
    assert!(!shows(quick(), &url, None));
    assert!(shows(with_login(&server), &url, None));
    let shown = shows(with_login(&server), &url, Some("Bearer t"));
    assert!(!shown, "a login does not replace what is shown");

    let by_name = format!("https://r.example{BLOB}");
    let key = "x-key = \"k\"";
    for (hosts, is_shown) in [
        (format!("server = \"{root}\""), false),
        (format!("[header]\n{key}"), true),
        (format!("server = \"{root}\"\n[header]\n{key}"), true),
        // Of a mirror that wants ours nobody else's right is asked.
        (format!("[host.\"{root}\".header]\n{key}"), false),
    ] {
        let (_dir, config) = with_hosts("r.example", &hosts);
        for credential in [None, Some("Bearer t")] {
            let shown = shows(config.clone(), &by_name, credential);
            assert_eq!(shown, is_shown, "{hosts}");
        }
    }

    let (authority, dir) = (Authority::new(), TempDir::new().unwrap());
    let mut config = quick();
    let endpoints = ["https://one.example", "https://two.example"];
    let registry = RegistryEndpoint {
        client: Some(authority.client_in(dir.path())),
        endpoints: endpoints.map(|url| url.parse().unwrap()).into(),
        ..RegistryEndpoint::default()
    };
    let name = RegistryHost::parse("r.example").unwrap();
    config.registries.insert(name, registry);
    for endpoint in endpoints {
        let url = format!("{endpoint}{BLOB}");
        assert!(shows(config.clone(), &url, Some("Bearer t")));
    }
    assert!(!shows(config, "https://three.example/f", None));
}

const MANIFEST: &str = "/v2/team/app/manifests/v1";

fn wish(server: &Server, authorization: Option<&str>, whole: bool) -> ManifestWish {
    ManifestWish {
        source: Source {
            url: server.url(MANIFEST),
            authorization: authorization.map(Secret::new),
        },
        accept: "a/b".to_owned(),
        whole,
    }
}

#[tokio::test]
async fn a_manifest_is_asked_for_with_what_others_show_or_in_nobodys_name_and_never_in_ours() {
    let server = Server::start(|asked| match asked.header("authorization") {
        Some("Bearer theirs") => Reply::body("m").with("Content-Type", "a/b"),
        _ => Reply::status(401).with("WWW-Authenticate", r#"Basic realm="r""#),
    })
    .await;
    let client = OriginClient::new(with_login(&server)).unwrap();
    let theirs = wish(&server, Some("Bearer theirs"), true);
    let given = client.manifest_for_others(&theirs).await.unwrap();
    assert_eq!(given.headers()["content-type"], "a/b");
    let told = wish(&server, Some("Bearer theirs"), false);
    client.manifest_for_others(&told).await.unwrap();
    for refused in [
        client.manifest_for_nobody(&theirs).await,
        client.manifest_for_others(&wish(&server, None, true)).await,
        client
            .manifest_for_others(&wish(&server, Some("Bearer bad"), true))
            .await,
    ] {
        let refused = refused.map(|_| ()).unwrap_err();
        assert!(matches!(refused, OriginError::Denied { status: 401, .. }));
    }
    let asked = server.asked();
    let methods: Vec<_> = asked.iter().map(|asked| asked.method.as_str()).collect();
    assert_eq!(methods, ["GET", "HEAD", "GET", "GET", "GET"]);
    assert!(
        asked
            .iter()
            .all(|asked| asked.header("accept") == Some("a/b"))
    );
    let (theirs, bad) = (Some("Bearer theirs"), Some("Bearer bad"));
    assert_eq!(credentials(&asked), [theirs, theirs, None, None, bad]);
}

#[tokio::test]
async fn a_registry_that_has_had_enough_of_nobody_is_asked_for_those_who_show_something() {
    let server = Server::start(|asked| match asked.header("authorization") {
        Some(_) => Reply::body("m").with("Content-Type", "a/b"),
        None => Reply::status(429).with("Retry-After", "600"),
    })
    .await;
    let wanted = wish(&server, Some("Bearer t"), true);
    let client = client();
    let enough = client
        .manifest_for_nobody(&wanted)
        .await
        .map(|_| ())
        .unwrap_err();
    assert!(matches!(enough, OriginError::TooManyRequests { .. }));
    client.manifest_for_others(&wanted).await.unwrap();
    // What it says to somebody counts for all.
    let nobody = wish(&server, None, true);
    assert!(client.manifest_for_others(&nobody).await.is_err());
    assert!(client.manifest_for_others(&wanted).await.is_err());
    assert_eq!(server.asked().len(), 3);
}

#[tokio::test]
async fn a_manifest_in_a_coding_or_in_part_is_none() {
    for reply in [
        Reply::body("m").with("Content-Encoding", "gzip"),
        Reply::status(206).with("Content-Range", "bytes 0-0/1"),
        Reply::status(404),
    ] {
        let server = Server::start(move |_| reply.clone()).await;
        let wanted = wish(&server, None, true);
        assert!(client().manifest_for_others(&wanted).await.is_err());
    }
}
