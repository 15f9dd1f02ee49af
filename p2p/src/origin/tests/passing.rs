//! Requests of the mirror's clients.

use std::time::{Duration, Instant};

use hawker_model::RegistryHost;
use hawker_swarm::Secret;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use http_body_util::BodyExt;

use super::{
    super::{
        Challenges, Login, OriginClient, OriginConfig, OriginError, PassRequest, Redirects,
        RegistryEndpoint,
    },
    client, quick,
    server::{Reply, Server},
};

const PATH: &str = "/v2/a/b/manifests/latest";

fn name(server: &Server) -> RegistryHost {
    RegistryHost::parse(&server.address.to_string()).unwrap()
}

fn headers(all: &[(&'static str, &'static str)]) -> HeaderMap {
    let pair = |&(name, value)| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    };
    all.iter().map(pair).collect()
}

fn get<'a>(registry: &'a RegistryHost, path: &'a str, headers: &'a HeaderMap) -> PassRequest<'a> {
    PassRequest {
        method: Method::GET,
        registry,
        path,
        headers,
        redirects: Redirects::Follow,
        challenges: Challenges::Return,
    }
}

async fn text(body: super::super::PassBody) -> Result<Vec<u8>, OriginError> {
    Ok(body.collect().await?.to_bytes().to_vec())
}

#[tokio::test]
async fn a_request_arrives_as_it_was_made_but_for_its_connection() {
    let server = Server::start(|_| {
        Reply::body("{}")
            .with("Docker-Content-Digest", "sha256:0")
            .with("Keep-Alive", "timeout=5")
            .with("X-Two", "1")
            .with("X-Two", "2")
    })
    .await;
    let sent = headers(&[
        ("accept", "application/a"),
        ("accept", "application/b;q=0.5"),
        ("authorization", "Bearer mine"),
        ("connection", "keep-alive, x-private"),
        ("x-private", "1"),
        ("te", "trailers"),
        ("proxy-authorization", "Basic x"),
        ("host", "127.0.0.1:65001"),
        ("x-dragonfly-registry", "r.io"),
        ("accept-encoding", "gzip"),
        ("user-agent", "containerd/2.1"),
        ("range", "bytes=0-1"),
    ]);
    let path = format!("{PATH}?ns=docker.io&n=1");
    let registry = name(&server);
    let answer = client().pass(get(&registry, &path, &sent)).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["docker-content-digest"], "sha256:0");
    assert_eq!(answer.headers().get_all("x-two").iter().count(), 2);
    assert_eq!(answer.headers().get("keep-alive"), None);
    assert_eq!(text(answer.into_body()).await.unwrap(), b"{}");

    let asked = &server.asked()[0];
    let host = server.address.to_string();
    assert_eq!(asked.target, format!("{PATH}?n=1"));
    for (name, value) in [
        ("accept", Some("application/a, application/b;q=0.5")),
        ("authorization", Some("Bearer mine")),
        ("host", Some(host.as_str())),
        ("user-agent", Some("containerd/2.1")),
        ("range", Some("bytes=0-1")),
        ("accept-encoding", Some("identity")),
        ("x-private", None),
        ("te", None),
        ("proxy-authorization", None),
        ("x-dragonfly-registry", None),
        ("connection", None),
    ] {
        assert_eq!(asked.header(name), value, "{name}");
    }
}

#[tokio::test]
async fn challenges_and_errors_come_back_as_they_are() {
    for status in [401, 403, 404, 429, 500, 503] {
        let server = Server::start(move |_| {
            let challenge = r#"Bearer realm="https://auth.example/token",service="s""#;
            Reply::body("{\"errors\":[]}")
                .status_is(status)
                .with("WWW-Authenticate", challenge)
        })
        .await;
        let (registry, none) = (name(&server), HeaderMap::new());
        let answer = client().pass(get(&registry, PATH, &none)).await.unwrap();
        assert_eq!(answer.status(), status);
        assert!(
            answer.headers()["www-authenticate"]
                .to_str()
                .unwrap()
                .starts_with("Bearer")
        );
        assert_eq!(text(answer.into_body()).await.unwrap(), b"{\"errors\":[]}");
        assert_eq!(server.asked().len(), 1);
    }
}

#[tokio::test]
async fn redirects_are_followed_or_handed_back() {
    let store = Server::of_file(b"layer").await;
    let to = store.url("/signed");
    let server = Server::start(move |asked| match asked.target.as_str() {
        PATH => Reply::redirect(307, &to),
        _ => Reply::redirect(307, "relative"),
    })
    .await;
    let sent = headers(&[("authorization", "Bearer mine"), ("cookie", "a=b")]);
    let registry = name(&server);
    let request = get(&registry, PATH, &sent);
    let answer = client().pass(request.clone()).await.unwrap();
    assert_eq!(text(answer.into_body()).await.unwrap(), b"layer");
    let asked = &store.asked()[0];
    assert_eq!(
        (asked.header("authorization"), asked.header("cookie")),
        (None, None)
    );

    let request = PassRequest {
        redirects: Redirects::Return,
        path: "/v2/x",
        ..request
    };
    let answer = client().pass(request).await.unwrap();
    assert_eq!(answer.status(), 307);
    assert_eq!(answer.headers()["location"], server.url("/v2/relative"));
}

#[tokio::test]
async fn a_configured_login_answers_for_clients_without_one() {
    let server = Server::start(|asked| match asked.header("authorization") {
        Some("Basic YW5uOnB3") => Reply::file(asked, b"{}"),
        _ => Reply::status(401).with("WWW-Authenticate", "Basic realm=r"),
    })
    .await;
    let login = Some(Login {
        username: "ann".to_owned(),
        password: Secret::new("pw"),
    });
    let mut config = quick();
    let endpoint = RegistryEndpoint {
        login,
        ..RegistryEndpoint::default()
    };
    config.registries.insert(name(&server), endpoint);
    let client = OriginClient::new(config).unwrap();
    let (registry, none) = (name(&server), HeaderMap::new());
    let status = async |challenges, headers: &HeaderMap| {
        let request = PassRequest {
            challenges,
            ..get(&registry, PATH, headers)
        };
        client.pass(request).await.unwrap().status()
    };
    assert_eq!(status(Challenges::Return, &none).await, 401);
    assert_eq!(status(Challenges::AnswerIfConfigured, &none).await, 200);
    let own = headers(&[("authorization", "Basic other")]);
    assert_eq!(
        status(Challenges::AnswerIfConfigured, &own).await,
        401,
        "never for another's"
    );
}

#[tokio::test]
async fn a_registry_that_hangs_is_given_up_soon() {
    let server = Server::start(|asked| match asked.target.as_str() {
        PATH => Reply::silence(),
        _ => Reply::body([1; 10]).stalled_after(5),
    })
    .await;
    let limit = Duration::from_millis(200);
    let config = OriginConfig {
        header_timeout: limit,
        read_timeout: limit,
        ..quick()
    };
    let client = OriginClient::new(config).unwrap();
    let (registry, none) = (name(&server), HeaderMap::new());
    let started = Instant::now();
    let error = client.pass(get(&registry, PATH, &none)).await.unwrap_err();
    assert_eq!(error.status(), 504, "{error}");
    let answer = client
        .pass(get(&registry, "/v2/stalls", &none))
        .await
        .unwrap();
    let error = text(answer.into_body()).await.unwrap_err();
    assert!(matches!(error, OriginError::Timeout { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_connection_that_the_server_closed_is_replaced() {
    // Every connection ends after one answer without saying so.
    let server = Server::start(|_| Reply::body("{}").cut_after(2)).await;
    let (registry, none, client) = (name(&server), HeaderMap::new(), client());
    for _ in 0..20 {
        let answer = client.pass(get(&registry, PATH, &none)).await.unwrap();
        assert_eq!(text(answer.into_body()).await.unwrap(), b"{}");
    }
}

#[tokio::test]
async fn paths_that_climb_out_are_refused() {
    let mut config = quick();
    let endpoint = "http://127.0.0.1:1/prefix".parse().unwrap();
    let registry = RegistryHost::parse("r.io").unwrap();
    let place = RegistryEndpoint {
        endpoints: vec![endpoint],
        ..RegistryEndpoint::default()
    };
    config.registries.insert(registry.clone(), place);
    let client = OriginClient::new(config).unwrap();
    let none = HeaderMap::new();
    for path in [
        "/v2/../../x",
        "/v2/%2e%2E/x",
        "v2/",
        "",
        "/\\..\\x",
        "/v2/.\t./x",
        "/v2/a/./b",
    ] {
        let error = client.pass(get(&registry, path, &none)).await.unwrap_err();
        assert!(
            matches!(error, OriginError::InvalidUrl { .. }),
            "{path}: {error}"
        );
        assert_eq!(error.status(), 400);
    }
}
