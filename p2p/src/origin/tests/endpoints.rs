//! Registries with several endpoints, and mirrors of `hosts.toml`.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use hawker_model::{OriginName, RegistryHost};
use hawker_swarm::Secret;
use http::{HeaderMap, HeaderValue, Method, header::AUTHORIZATION};
use http_body_util::BodyExt as _;
use tempfile::TempDir;

use super::{
    super::{
        Challenges, Login, OriginClient, OriginConfig, OriginError, PassRequest, Redirects,
        RegistryEndpoint,
    },
    content, quick, read_all,
    server::{Asked, Reply, Server},
    source, source_as,
};

const BLOB: &str = "/v2/team/app/blobs/sha256:0";

fn host(text: &str) -> RegistryHost {
    RegistryHost::parse(text).unwrap()
}

/// `r.example` at these servers, in this order.
fn at(servers: &[&Server]) -> OriginConfig {
    let mut config = quick();
    let endpoints = servers.iter().map(|server| server.url("").parse().unwrap());
    let endpoint = RegistryEndpoint {
        endpoints: endpoints.collect(),
        ..RegistryEndpoint::default()
    };
    config.registries.insert(host("r.example"), endpoint);
    config.retries = 0;
    config.endpoint_timeout = std::time::Duration::from_millis(300);
    config
}

fn client(config: OriginConfig) -> OriginClient {
    OriginClient::new(config).unwrap()
}

/// A server that is gone: connections to it are refused.
async fn gone() -> Server {
    let server = Server::of_file(b"").await;
    server.stop();
    server
}

#[tokio::test]
async fn the_next_endpoint_is_asked_where_one_is_gone_silent_or_in_trouble() {
    let gone = gone().await;
    let silent = Server::start(|_| Reply::silence()).await;
    let troubled = Server::start(|_| Reply::status(503)).await;
    for bad in [&gone, &silent, &troubled] {
        let good = Server::of_file(b"layer").await;
        let client = client(at(&[bad, &good]));
        let url = client.base_url(&host("r.example")).unwrap();
        assert_eq!(
            url.as_str(),
            bad.url("/"),
            "the first one names the registry"
        );
        // What is named at one endpoint is found at the other, and the bad one is left alone.
        for _ in 0..3 {
            let read = read_all(&client, &source(bad.url(BLOB))).await;
            assert_eq!(read.unwrap(), b"layer");
            client.head(&source(good.url(BLOB))).await.unwrap();
        }
        assert_eq!(good.asked().len(), 6);
        let head = client.head(&source_as(bad.url(BLOB), "Bearer t")).await;
        assert_eq!(head.unwrap().length, Some(5));
        let asked = good.asked();
        assert_eq!(asked[6].header("authorization"), Some("Bearer t"));
    }
    assert_eq!(silent.asked().len(), 1);
    assert_eq!(troubled.asked().len(), 1);
}

#[tokio::test]
async fn a_refusal_is_an_answer_and_asked_of_no_other_endpoint() {
    for status in [400, 401, 403, 404, 429] {
        let first = Server::start(move |_| Reply::status(status)).await;
        let second = Server::of_file(b"layer").await;
        let client = client(at(&[&first, &second]));
        client.head(&source(first.url(BLOB))).await.unwrap_err();
        assert!(second.asked().is_empty(), "{status}");
    }
}

#[tokio::test]
async fn where_all_endpoints_fail_the_last_one_tells_why() {
    let troubled = Server::start(|_| Reply::status(500)).await;
    let busy = Server::start(|_| Reply::status(503)).await;
    let client = client(at(&[&troubled, &busy]));
    for _ in 0..2 {
        let error = client.head(&source(troubled.url(BLOB))).await.unwrap_err();
        assert!(matches!(error, OriginError::Server { .. }), "{error}");
        assert!(error.is_outage());
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_goes_on_at_the_other_endpoint() {
    let file = content(300_000);
    let (one, two) = (file.clone(), file.clone());
    let dying = Server::start(move |asked| {
        Reply::file(asked, &one)
            .with("ETag", "\"one\"")
            .cut_after(100_000)
    })
    .await;
    let good = Server::start(move |asked| Reply::file(asked, &two).with("ETag", "\"two\"")).await;
    let mut config = at(&[&dying, &good]);
    config.retries = 3;
    let read = read_all(&client(config), &source(dying.url(BLOB))).await;
    assert!(read.unwrap() == file);
    assert_eq!(dying.asked().len(), 1);
    let asked = good.asked();
    assert!(asked[0].header("range").is_some() && asked[0].header("if-range").is_none());
}

#[tokio::test]
async fn passed_requests_go_to_the_next_endpoint_too() {
    let gone = gone().await;
    let good = Server::start(|_| Reply::body("{}")).await;
    let client = client(at(&[&gone, &good]));
    let registry = host("r.example");
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer c"));
    let answer = pass(
        &client,
        &registry,
        "/v2/team/app/manifests/latest",
        &headers,
    )
    .await;
    assert_eq!(answer.unwrap(), (200, "{}".to_owned()));
    assert_eq!(good.asked()[0].header("authorization"), Some("Bearer c"));
}

async fn pass(
    client: &OriginClient,
    registry: &RegistryHost,
    path: &str,
    headers: &HeaderMap,
) -> Result<(u16, String), OriginError> {
    let answer = client
        .pass(PassRequest {
            method: Method::GET,
            registry,
            path,
            headers,
            redirects: Redirects::Follow,
            challenges: Challenges::AnswerIfConfigured,
        })
        .await?;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    Ok((status, String::from_utf8(body.to_vec()).unwrap()))
}

#[tokio::test]
async fn endpoints_of_one_registry_are_one_group_and_share_its_login() {
    let (one, two) = (Server::of_file(b"").await, Server::of_file(b"").await);
    let mut config = at(&[&one, &two]);
    for endpoint in config.registries.values_mut() {
        endpoint.login = Some(Login {
            username: "ann".to_owned(),
            password: Secret::new("pw"),
        });
    }
    let client = client(config);
    let group = client.same_group(&host("r.example"));
    for server in [&one, &two] {
        let url = server.url("/").parse().unwrap();
        assert!(group.contains(&OriginName::of_url(&server.url("/")).unwrap()));
        assert_eq!(client.group_of_url(&url), group);
        assert!(client.account_of(&url).is_some());
    }
    assert_eq!(client.same_group(&host("quay.io")).origins().count(), 1);
    assert_eq!(client.same_group(&host("10.0.0.1")).origins().count(), 0);
}

/// certs.d with these files.
fn certs_d(files: &[(&str, String)]) -> (TempDir, OriginConfig) {
    let dir = TempDir::new().unwrap();
    for (path, text) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let mut config = quick();
    config.certs_d = vec![dir.path().to_owned()];
    config.retries = 0;
    (dir, config)
}

fn bearer(asked: &Asked) -> Option<&str> {
    asked.header("authorization")
}

#[tokio::test]
async fn a_mirror_is_asked_first_and_the_registry_for_what_it_does_not_give() {
    let mirror = Server::start(|asked| match asked.target.as_str() {
        "/v2/team/app/blobs/sha256:0?ns=r.example" => Reply::file(asked, b"mirrored"),
        _ => Reply::status(404),
    })
    .await;
    let registry = Server::of_file(b"own").await;
    let (_dir, config) = certs_d(&[(
        "r.example/hosts.toml",
        format!(
            "server = \"{}\"\n[host.\"{}\"]\n[host.\"{}\".header]\nx-key = \"k\"\n",
            registry.url(""),
            mirror.url(""),
            mirror.url("")
        ),
    )]);
    let client = client(config);
    assert_eq!(
        client.base_url(&host("r.example")).unwrap().as_str(),
        "https://r.example/",
        "its content is named by its name"
    );
    let wanted = |path: &str| source_as(format!("https://r.example{path}"), "Bearer t");
    assert_eq!(read_all(&client, &wanted(BLOB)).await.unwrap(), b"mirrored");
    let other = "/v2/team/app/blobs/sha256:1";
    assert_eq!(read_all(&client, &wanted(other)).await.unwrap(), b"own");
    for asked in mirror.asked() {
        assert_eq!(bearer(&asked), None, "a mirror sees no credential");
        assert_eq!(asked.header("x-key"), Some("k"));
    }
    let asked = registry.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(bearer(&asked[0]), Some("Bearer t"));
    assert_eq!(asked[0].header("x-key"), None);
    assert_eq!(asked[0].target, format!("{other}?ns=r.example"));

    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer c"));
    for path in ["/v2/", "/v2/team/app/manifests/latest"] {
        let answer = pass(&client, &host("r.example"), path, &headers).await;
        assert_eq!(answer.unwrap(), (200, "own".to_owned()));
    }
    assert_eq!(mirror.asked().len(), 3, "/v2/ is the registry's alone");
    assert!(mirror.asked().iter().all(|asked| bearer(asked).is_none()));
    assert!(
        registry.asked()[1..]
            .iter()
            .all(|asked| bearer(asked) == Some("Bearer c"))
    );
}

#[tokio::test]
async fn the_default_directory_is_for_registries_that_have_none() {
    let mirror = Server::start(|asked| match asked.target.ends_with("ns=quay.io") {
        true => Reply::file(asked, b"quay"),
        false => Reply::status(404),
    })
    .await;
    let own = Server::of_file(b"own").await;
    let (_dir, mut config) = certs_d(&[
        (
            "_default/hosts.toml",
            format!("[host.\"{}\"]\n", mirror.url("")),
        ),
        (
            "r.example/hosts.toml",
            format!("server = \"{}\"\n", own.url("")),
        ),
    ]);
    config.allow_private = Vec::new();
    let client = client(config);
    let read = |url: &str| {
        let (client, source) = (client.clone(), source(format!("{url}{BLOB}")));
        async move { read_all(&client, &source).await }
    };
    assert_eq!(read("https://quay.io").await.unwrap(), b"quay");
    assert_eq!(read("https://r.example").await.unwrap(), b"own");
    // What may not be asked, may not be asked behind the mirror either.
    let error = read("https://10.0.0.1").await.unwrap_err();
    assert!(
        matches!(error, OriginError::PrivateAddress { .. }),
        "{error}"
    );
    let groups = ["quay.io", "ghcr.io"].map(|name| client.same_group(&host(name)));
    assert_ne!(
        groups[0], groups[1],
        "a mirror that both have makes them not one"
    );
}

#[tokio::test]
async fn the_default_directory_is_for_registries_of_which_only_a_login_is_known() {
    let mirror = Server::start(|asked| match asked.target.as_str() {
        "/v2/team/app/blobs/sha256:0?ns=r.example" => Reply::file(asked, b"mirrored"),
        _ => Reply::status(404),
    })
    .await;
    let own = Server::of_file(b"own").await;
    let (_dir, mut config) = certs_d(&[(
        "_default/hosts.toml",
        format!(
            "[host.\"{0}\"]\n[host.\"{0}\".header]\nx-key = \"k\"\n",
            mirror.url("")
        ),
    )]);
    let login = || RegistryEndpoint {
        login: Some(Login {
            username: "ann".to_owned(),
            password: Secret::new("pw"),
        }),
        ..RegistryEndpoint::default()
    };
    let itself = host(&mirror.address.to_string());
    for name in [host("r.example"), itself.clone()] {
        config.registries.insert(name, login());
    }
    let elsewhere = RegistryEndpoint {
        endpoints: vec![own.url("").parse().unwrap()],
        ..login()
    };
    config.registries.insert(host("s.example"), elsewhere);
    let client = client(config);
    let read = read_all(&client, &source(format!("https://r.example{BLOB}"))).await;
    assert_eq!(read.unwrap(), b"mirrored");
    assert!(mirror.asked().iter().all(|asked| bearer(asked).is_none()));
    // One whose places are written is asked there.
    let read = read_all(&client, &source(own.url(BLOB))).await;
    assert_eq!(read.unwrap(), b"own");
    // The mirror itself is asked as any registry is, with what its client shows.
    let seen = mirror.asked().len();
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer c"));
    let answer = pass(&client, &itself, "/v2/team/app/manifests/latest", &headers).await;
    assert_eq!(answer.unwrap().0, 404);
    let asked = mirror.asked();
    assert_eq!(asked.len(), seen + 1);
    assert_eq!(bearer(&asked[seen]), Some("Bearer c"));
    assert_eq!(asked[seen].header("x-key"), None);
}

#[tokio::test]
async fn the_default_server_stands_in_for_registries_that_have_no_directory() {
    let mirror = Server::start(|_| Reply::status(404)).await;
    let server = Server::start(|asked| match asked.header("x-key") {
        Some("k") => Reply::file(asked, b"stood in"),
        _ => Reply::status(403),
    })
    .await;
    let own = Server::of_file(b"own").await;
    let hosts = format!(
        "server = \"{}\"\ncapabilities = [\"pull\"]\n[header]\nx-key = \"k\"\n[host.\"{}\"]\n",
        server.url(""),
        mirror.url("")
    );
    let (_dir, mut config) = certs_d(&[
        ("_default/hosts.toml", hosts),
        (
            "own.example/hosts.toml",
            format!("server = \"{}\"\n", own.url("")),
        ),
    ]);
    config.allow_private = Vec::new();
    let login = RegistryEndpoint {
        login: Some(Login {
            username: "ann".to_owned(),
            password: Secret::new("pw"),
        }),
        ..RegistryEndpoint::default()
    };
    config.registries.insert(host("r.example"), login);
    let client = client(config);
    for name in ["quay.io", "r.example"] {
        let url = format!("https://{name}{BLOB}");
        let wanted = source_as(&url, "Bearer t");
        let seen = server.asked().len();
        assert_eq!(read_all(&client, &wanted).await.unwrap(), b"stood in");
        assert_eq!(client.head(&source(&url)).await.unwrap().length, Some(8));
        let asked = server.asked();
        assert_eq!(asked.len(), seen + 2);
        assert_eq!(asked[seen].target, format!("{BLOB}?ns={name}"));
        assert_eq!(bearer(&asked[seen]), Some("Bearer t"));
        assert_eq!(bearer(&asked[seen + 1]), None, "no registry's login");
        assert!(client.shows_ours(&wanted), "the header is ours");
    }
    assert_eq!(mirror.asked().len(), 4);
    let read = read_all(&client, &source(format!("https://own.example{BLOB}"))).await;
    assert_eq!(read.unwrap(), b"own");
    // It is not asked for what a tag names.
    let tag = "/v2/team/app/manifests/latest";
    let answer = pass(&client, &host("r.example"), tag, &HeaderMap::new()).await;
    assert_eq!(answer.unwrap().0, 404, "the mirror's word");
    let is_tag = |asked: &Asked| asked.target.starts_with(tag);
    assert!(!server.asked().iter().any(is_tag));
}

#[tokio::test]
async fn a_mirror_that_shows_our_credential_decides_no_foreign_right() {
    let mirror = Server::of_file(b"ours").await;
    let registry = Server::start(|_| Reply::status(403)).await;
    let (_dir, config) = certs_d(&[(
        "r.example/hosts.toml",
        format!(
            "server = \"{}\"\n[host.\"{}\".header]\nAuthorization = \"Basic x\"\n",
            registry.url(""),
            mirror.url("")
        ),
    )]);
    let client = client(config);
    let claim = source_as(format!("https://r.example{BLOB}"), "Bearer stolen");
    let error = client.head_own(&claim).await.unwrap_err();
    assert!(
        matches!(error, OriginError::Denied { status: 403, .. }),
        "{error}"
    );
    assert!(mirror.asked().is_empty());
}

#[tokio::test]
async fn what_hawkerds_settings_say_of_a_registry_wins() {
    let (theirs, ours) = (
        Server::of_file(b"theirs").await,
        Server::of_file(b"ours").await,
    );
    let (_dir, mut config) = certs_d(&[(
        "r.example/hosts.toml",
        format!("server = \"{0}\"\n[host.\"{0}\"]\n", theirs.url("")),
    )]);
    let endpoint = RegistryEndpoint {
        endpoints: vec![ours.url("").parse().unwrap()],
        ..RegistryEndpoint::default()
    };
    config.registries.insert(host("r.example"), endpoint);
    let client = client(config);
    let read = read_all(&client, &source(ours.url(BLOB))).await;
    assert_eq!(read.unwrap(), b"ours");
    assert!(theirs.asked().is_empty());
}

#[tokio::test]
async fn capabilities_and_paths_of_hosts_are_kept_to() {
    let resolves = Server::start(|_| Reply::body("resolved")).await;
    let pulls = Server::start(|asked| match asked.target.starts_with("/api/team/") {
        true => Reply::file(asked, b"pulled"),
        false => Reply::status(500),
    })
    .await;
    let own = Server::start(|_| Reply::status(404)).await;
    let (_dir, config) = certs_d(&[(
        "r.example/hosts.toml",
        format!(
            "server = \"{}\"\n[host.\"{}\"]\ncapabilities = [\"resolve\"]\n[host.\"{}/api\"]\n\
             capabilities = [\"pull\"]\noverride_path = true\n",
            own.url(""),
            resolves.url(""),
            pulls.url("")
        ),
    )]);
    let client = client(config);
    let read = read_all(&client, &source(format!("https://r.example{BLOB}"))).await;
    assert_eq!(read.unwrap(), b"pulled");
    let none = HeaderMap::new();
    let tag = pass(
        &client,
        &host("r.example"),
        "/v2/team/app/manifests/latest",
        &none,
    )
    .await;
    assert_eq!(tag.unwrap(), (200, "resolved".to_owned()));
    assert_eq!((resolves.asked().len(), pulls.asked().len()), (1, 1));
}

#[tokio::test]
async fn a_realm_that_hangs_is_told_at_once_to_all_but_the_first() {
    let realm = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&realm);
    let issuer = Server::start(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        Reply::silence()
    })
    .await;
    let to = issuer.url("/token");
    let registry = Server::start(move |_| {
        let challenge = format!("Bearer realm=\"{to}\",service=\"s\"");
        Reply::status(401).with("WWW-Authenticate", challenge)
    })
    .await;
    let mut config = at(&[&registry]);
    config.token_timeout = std::time::Duration::from_millis(200);
    for endpoint in config.registries.values_mut() {
        endpoint.login = Some(Login {
            username: "ann".to_owned(),
            password: Secret::new("hunter2"),
        });
    }
    let client = client(config);
    let none = HeaderMap::new();
    for _ in 0..5 {
        let passed = pass(&client, &host("r.example"), "/v2/a/manifests/latest", &none).await;
        let error = passed.unwrap_err();
        assert!(matches!(error, OriginError::TokenServer { .. }), "{error}");
        assert!(error.is_outage());
        let text = error.to_string();
        assert!(
            text.contains("/token, the token server of r.example"),
            "{text}"
        );
        assert!(
            text.contains("no token within 200 ms") && !text.contains("hunter2"),
            "{text}"
        );
    }
    assert!(
        realm.load(Ordering::Relaxed) < 5,
        "it is not waited for by each"
    );
}

#[tokio::test]
async fn a_look_at_a_registry_tells_of_each_endpoint() {
    let good = Server::start(|asked| match asked.header("authorization") {
        Some("Basic YW5uOnB3") => Reply::body("{}"),
        _ => Reply::status(401).with("WWW-Authenticate", "Basic realm=\"r\""),
    })
    .await;
    let gone = gone().await;
    for (login, words) in [
        (None, "answers, and wants a credential (basic)"),
        (Some("pw"), "answers, and takes the login"),
        (
            Some("no"),
            "correct username and password_file of registries.\"r.example\"",
        ),
    ] {
        let mut config = at(&[&good, &gone]);
        for endpoint in config.registries.values_mut() {
            endpoint.login = login.map(|password| Login {
                username: "ann".to_owned(),
                password: Secret::new(password),
            });
        }
        let client = client(config);
        assert_eq!(client.configured(), [host("r.example")]);
        let reports = client.inspect(&host("r.example")).await;
        let said = match &reports[0].outcome {
            Ok(words) => words.clone(),
            Err(error) => error.to_string(),
        };
        assert!(said.contains(words), "{said}");
        assert_eq!(reports[0].url, good.url("/v2/"));
        assert!(
            reports[1]
                .outcome
                .as_ref()
                .is_err_and(OriginError::is_outage)
        );
    }
}
