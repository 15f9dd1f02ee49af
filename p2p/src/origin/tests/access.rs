//! Credentials: whom they are sent to, how challenges are answered, where redirects lead.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use hawker_model::RegistryHost;
use hawker_swarm::Secret;

use super::{
    super::{Login, OriginClient, OriginConfig, OriginError, RegistryEndpoint},
    client, quick, read_all,
    server::{Asked, Reply, Server},
    source, source_as,
};

const BLOB: &str = "/v2/team/app/blobs/sha256:0";

/// A client that knows a login at the server.
fn client_with_login(server: &Server, password: &str) -> OriginClient {
    let login = Login {
        username: "ann".to_owned(),
        password: Secret::new(password),
    };
    let endpoint = RegistryEndpoint {
        login: Some(login),
        ..RegistryEndpoint::default()
    };
    let mut config = quick();
    config.registries.insert(name(server), endpoint);
    OriginClient::new(config).unwrap()
}

fn name(server: &Server) -> RegistryHost {
    RegistryHost::parse(&server.address.to_string()).unwrap()
}

/// A token server, and what its registry believes.
#[derive(Default)]
struct Tokens {
    issued: AtomicUsize,
    good: Mutex<BTreeSet<String>>,
}

impl Tokens {
    /// The token server. Anonymous readers get tokens for `team/app`, or nobody but ann does.
    async fn server(self: Arc<Self>, needs_login: bool, life: f64) -> Server {
        Server::start(move |asked| {
            let query = asked.target.split_once('?').unwrap().1;
            let wanted = "service=registry+one&scope=repository%3Ateam%2Fapp%3Apull";
            let ann = asked.header("authorization") == Some("Basic YW5uOnB3");
            if !query.contains(wanted) || (needs_login && !ann) {
                return Reply::status(401);
            }
            let token = format!("t{}", self.issued.fetch_add(1, Ordering::Relaxed));
            self.good.lock().unwrap().insert(token.clone());
            Reply::body(format!(r#"{{"token":"{token}","expires_in":{life}}}"#))
        })
        .await
    }

    /// The registry, which sends everybody else to `realm`.
    async fn registry(self: Arc<Self>, realm: String) -> Server {
        Server::start(move |asked| {
            let token = asked.header("authorization").and_then(|a| a.strip_prefix("Bearer "));
            if token.is_some_and(|token| self.good.lock().unwrap().contains(token)) {
                return Reply::file(asked, b"layer");
            }
            Reply::status(401).with(
                "WWW-Authenticate",
                format!(r#"Bearer realm="{realm}",service="registry one",scope="repository:team/app:pull""#),
            )
        })
        .await
    }

    fn revoke(&self) {
        self.good.lock().unwrap().clear();
    }

    fn issued(&self) -> usize {
        self.issued.load(Ordering::Relaxed)
    }
}

/// A registry whose token server is another.
async fn with_tokens(needs_login: bool, life: f64) -> (Arc<Tokens>, Server, Server) {
    let tokens = Arc::new(Tokens::default());
    let issuer = Arc::clone(&tokens).server(needs_login, life).await;
    let registry = Arc::clone(&tokens).registry(issuer.url("/token")).await;
    (tokens, issuer, registry)
}

fn basic_only(asked: &Asked) -> Reply {
    match asked.header("authorization") {
        Some("Basic YW5uOnB3") => Reply::file(asked, b"layer"),
        _ => Reply::status(401).with("WWW-Authenticate", r#"Basic realm="r""#),
    }
}

#[tokio::test]
async fn a_configured_login_answers_a_basic_challenge() {
    let server = Server::start(basic_only).await;
    let source = source(server.url(BLOB));
    let client = client_with_login(&server, "pw");
    assert_eq!(read_all(&client, &source).await.unwrap(), b"layer");
    assert_eq!(
        server.asked()[0].header("authorization"),
        None,
        "only on demand"
    );
    assert_eq!(read_all(&client, &source).await.unwrap(), b"layer");
    assert_eq!(
        server.asked().len(),
        3,
        "the second read brings what the first learned"
    );
}

#[tokio::test]
async fn a_wrong_login_is_denied_with_the_challenge() {
    let server = Server::start(basic_only).await;
    let client = client_with_login(&server, "wrong");
    let error = read_all(&client, &source(server.url(BLOB)))
        .await
        .unwrap_err();
    let OriginError::Denied {
        status: 401,
        challenges,
        ..
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!(challenges, &[r#"Basic realm="r""#]);
    assert_eq!(server.asked().len(), 2);
    assert_eq!(error.status(), 401);
}

#[tokio::test]
async fn a_login_is_not_used_at_another_server() {
    let other = Server::start(basic_only).await;
    let server = Server::start(basic_only).await;
    let client = client_with_login(&other, "pw");
    assert!(read_all(&client, &source(server.url(BLOB))).await.is_err());
    assert!(
        server
            .asked()
            .iter()
            .all(|asked| asked.header("authorization").is_none())
    );
}

#[tokio::test]
async fn an_anonymous_token_is_had_once_for_a_repository() {
    let (tokens, _issuer, registry) = with_tokens(false, 300.0).await;
    let (client, source) = (client(), source(registry.url(BLOB)));
    for _ in 0..3 {
        assert_eq!(read_all(&client, &source).await.unwrap(), b"layer");
    }
    assert_eq!((tokens.issued(), registry.asked().len()), (1, 4));
}

#[tokio::test]
async fn many_readers_ask_for_one_token() {
    let (tokens, _issuer, registry) = with_tokens(false, 300.0).await;
    let (client, source) = (client(), source(registry.url(BLOB)));
    let reads = (0..8).map(|_| read_all(&client, &source));
    for read in futures::future::join_all(reads).await {
        assert_eq!(read.unwrap(), b"layer");
    }
    assert_eq!(tokens.issued(), 1);
}

#[tokio::test]
async fn expired_and_revoked_tokens_are_replaced() {
    let (tokens, _issuer, registry) = with_tokens(false, 0.05).await;
    let (client, source) = (client(), source(registry.url(BLOB)));
    assert_eq!(read_all(&client, &source).await.unwrap(), b"layer");
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(read_all(&client, &source).await.unwrap(), b"layer");
    assert_eq!(
        (tokens.issued(), registry.asked().len()),
        (2, 3),
        "renewed before it is refused"
    );

    let (tokens, _issuer, registry) = with_tokens(false, 300.0).await;
    let source = super::source(registry.url(BLOB));
    assert_eq!(read_all(&client, &source).await.unwrap(), b"layer");
    tokens.revoke();
    assert_eq!(read_all(&client, &source).await.unwrap(), b"layer");
    assert_eq!(tokens.issued(), 2);
}

#[tokio::test]
async fn a_configured_login_buys_a_token() {
    let (tokens, issuer, registry) = with_tokens(true, 300.0).await;
    let source = source(registry.url(BLOB));
    let client = client_with_login(&registry, "pw");
    assert_eq!(read_all(&client, &source).await.unwrap(), b"layer");
    assert_eq!(tokens.issued(), 1);
    assert!(issuer.asked()[0].target.contains("account=ann"));
    assert!(registry.asked().iter().all(|asked| {
        !asked
            .header("authorization")
            .is_some_and(|value| value.starts_with("Basic"))
    }));
    assert!(matches!(
        read_all(&super::client(), &source).await.unwrap_err(),
        OriginError::Denied { status: 401, .. }
    ));
}

#[tokio::test]
async fn a_clients_credential_is_sent_first_and_as_it_is() {
    let server = Server::start(|asked| Reply::file(asked, b"layer")).await;
    let source = source_as(server.url(BLOB), "Bearer mine");
    assert_eq!(read_all(&client(), &source).await.unwrap(), b"layer");
    assert_eq!(
        server.asked()[0].header("authorization"),
        Some("Bearer mine")
    );
}

#[tokio::test]
async fn a_stale_credential_does_not_hide_what_is_public() {
    let (tokens, _issuer, registry) = with_tokens(false, 300.0).await;
    let source = source_as(registry.url(BLOB), "Bearer stale");
    assert_eq!(read_all(&client(), &source).await.unwrap(), b"layer");
    assert_eq!(tokens.issued(), 1);
}

#[tokio::test]
async fn a_credential_that_opens_nothing_is_denied() {
    let (tokens, _issuer, registry) = with_tokens(true, 300.0).await;
    let error = read_all(&client(), &source_as(registry.url(BLOB), "Bearer bad")).await;
    let error = error.unwrap_err();
    assert!(
        matches!(error, OriginError::Denied { status: 401, .. }),
        "{error}"
    );
    assert!(!error.is_retryable());
    assert_eq!((tokens.issued(), registry.asked().len()), (0, 1));

    let server = Server::start(|_| Reply::status(403)).await;
    let error = read_all(&client(), &source_as(server.url(BLOB), "Bearer bad"))
        .await
        .unwrap_err();
    assert!(
        matches!(error, OriginError::Denied { status: 403, .. }),
        "{error}"
    );
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn a_resumed_body_keeps_its_access() {
    let tokens = Arc::new(Tokens::default());
    let issuer = Arc::clone(&tokens).server(false, 300.0).await;
    let realm = issuer.url("/token");
    let seen = Arc::clone(&tokens);
    let file = super::content(500);
    let all = file.clone();
    let registry = Server::start(move |asked| {
        let token = asked.header("authorization").and_then(|a| a.strip_prefix("Bearer "));
        // Every token is good for one request only.
        match token.is_some_and(|token| seen.good.lock().unwrap().remove(token)) {
            true => Reply::file(asked, &all).cut_after(200),
            false => Reply::status(401).with(
                "WWW-Authenticate",
                format!(r#"Bearer realm="{realm}",service="registry one",scope="repository:team/app:pull""#),
            ),
        }
    })
    .await;
    assert_eq!(
        read_all(&client(), &source(registry.url(BLOB)))
            .await
            .unwrap(),
        file
    );
    assert_eq!(tokens.issued(), 3);
}

#[tokio::test]
async fn nonsense_of_a_token_server_is_told_without_its_text() {
    let long = "x".repeat(300 * 1024);
    for answer in [
        "",
        "hush",
        "[]",
        r#"{"token":""}"#,
        r#"{"token":"a\nb"}"#,
        &long,
    ] {
        let answer = answer.to_owned();
        let issuer = Server::start(move |_| Reply::body(answer.clone())).await;
        let registry = Arc::new(Tokens::default())
            .registry(issuer.url("/token?key=k"))
            .await;
        let error = read_all(&client(), &source(registry.url(BLOB)))
            .await
            .unwrap_err();
        assert!(matches!(error, OriginError::Token { .. }), "{error}");
        assert!(
            !error.to_string().contains("hush") && !error.to_string().contains("key"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn redirects_to_elsewhere_go_without_credentials() {
    for status in [301, 302, 303, 307, 308] {
        let store = Server::of_file(b"layer").await;
        let to = store.url("/signed?s=1");
        let server = Server::start(move |asked| match asked.target.as_str() {
            BLOB => Reply::redirect(status, "/moved"),
            _ => Reply::redirect(status, &to),
        })
        .await;
        let source = source_as(server.url(BLOB), "Bearer mine");
        assert_eq!(read_all(&client(), &source).await.unwrap(), b"layer");
        assert_eq!(
            server.asked()[1].header("authorization"),
            Some("Bearer mine"),
            "same server"
        );
        let asked = &store.asked()[0];
        assert_eq!(
            (asked.target.as_str(), asked.header("authorization")),
            ("/signed?s=1", None)
        );
    }
}

#[tokio::test]
async fn a_credential_is_not_given_back_after_a_detour() {
    let back = Arc::new(Mutex::new(String::new()));
    let to = Arc::clone(&back);
    let detour = Server::start(move |_| Reply::redirect(302, to.lock().unwrap().as_str())).await;
    let away = detour.url("/");
    let server = Server::start(move |asked| match asked.target.as_str() {
        BLOB => Reply::redirect(302, &away),
        _ => Reply::file(asked, b"layer"),
    })
    .await;
    *back.lock().unwrap() = server.url("/other");
    let source = source_as(server.url(BLOB), "Bearer mine");
    assert_eq!(read_all(&client(), &source).await.unwrap(), b"layer");
    assert_eq!(server.asked()[1].header("authorization"), None);
}

#[tokio::test]
async fn the_host_behind_a_redirect_may_ask_for_a_token_of_its_own() {
    let (tokens, _issuer, registry) = with_tokens(false, 300.0).await;
    let to = registry.url(BLOB);
    let front = Server::start(move |_| Reply::redirect(307, &to)).await;
    let source = source_as(front.url(BLOB), "Bearer front");
    assert_eq!(read_all(&client(), &source).await.unwrap(), b"layer");
    assert_eq!(tokens.issued(), 1);
    let sent = registry.asked();
    assert!(
        sent.iter()
            .all(|asked| asked.header("authorization") != Some("Bearer front"))
    );
}

#[tokio::test]
async fn a_login_is_not_given_after_a_detour() {
    let back = Arc::new(Mutex::new(String::new()));
    let to = Arc::clone(&back);
    let detour = Server::start(move |_| Reply::redirect(302, to.lock().unwrap().as_str())).await;
    let away = detour.url("/");
    let server = Server::start(move |asked| match asked.target.as_str() {
        BLOB => Reply::redirect(302, &away),
        _ => basic_only(asked),
    })
    .await;
    *back.lock().unwrap() = server.url("/v2/secret/blobs/sha256:0");
    let client = client_with_login(&server, "pw");
    let own = source(server.url("/v2/secret/blobs/sha256:0"));
    // Also where it is known already what the host wants.
    for _ in 0..2 {
        let error = read_all(&client, &source(server.url(BLOB))).await;
        let error = error.unwrap_err();
        assert!(matches!(error, OriginError::Denied { .. }), "{error}");
        assert!(client.head(&source(server.url(BLOB))).await.is_err());
        assert_eq!(read_all(&client, &own).await.unwrap(), b"layer");
    }
}

#[tokio::test]
async fn headers_of_hosts_toml_never_reach_where_a_redirect_leads() {
    let (tokens, issuer, registry) = with_tokens(false, 300.0).await;
    let to = registry.url(BLOB);
    let front = Server::start(move |_| Reply::redirect(307, &to)).await;
    let certs_d = tempfile::TempDir::new().unwrap();
    let hosts = format!(
        "server = \"https://r.example\"\n[host.\"{0}\".header]\nx-key = \"k\"\n",
        front.url("")
    );
    std::fs::create_dir(certs_d.path().join("r.example")).unwrap();
    std::fs::write(certs_d.path().join("r.example/hosts.toml"), hosts).unwrap();
    let config = OriginConfig {
        certs_d: vec![certs_d.path().to_owned()],
        ..quick()
    };
    let client = OriginClient::new(config).unwrap();
    let wanted = source(format!("https://r.example{BLOB}"));
    for _ in 0..2 {
        assert_eq!(read_all(&client, &wanted).await.unwrap(), b"layer");
    }
    assert!(tokens.issued() > 0, "the target wants a token of its own");
    let has_key = |asked: &Asked| asked.header("x-key") == Some("k");
    assert!(front.asked().iter().all(has_key));
    assert!(!registry.asked().iter().any(has_key));
    assert!(!issuer.asked().iter().any(has_key));
}

#[tokio::test]
async fn the_host_behind_a_redirect_never_gets_the_login_that_is_configured_for_it() {
    let private = Server::start(|asked| match asked.header("authorization") {
        Some("Basic YW5uOnB3") => Reply::file(asked, b"layer"),
        _ => Reply::status(401).with("WWW-Authenticate", "Basic realm=\"r\""),
    })
    .await;
    let client = client_with_login(&private, "pw");
    let to = private.url(BLOB);
    let foreign = Server::start(move |_| Reply::redirect(307, &to)).await;
    let own = source(private.url(BLOB));
    // Also where it is known already what the host wants.
    for _ in 0..2 {
        let mere = source(foreign.url(BLOB));
        assert!(matches!(
            client.head(&mere).await,
            Err(OriginError::Denied { .. })
        ));
        assert!(read_all(&client, &mere).await.is_err());
        assert_eq!(read_all(&client, &own).await.unwrap(), b"layer");
    }
}

#[tokio::test]
async fn own_credential_that_is_refused_is_not_replaced() {
    let server = Server::start(|asked| match asked.header("authorization") {
        Some("Basic YW5uOnB3" | "Bearer good") => Reply::file(asked, b"layer"),
        _ => Reply::status(401).with("WWW-Authenticate", "Basic realm=\"r\""),
    })
    .await;
    let client = client_with_login(&server, "pw");
    for bad in ["Bearer bad", "Basic YW5uOmJhZA=="] {
        let bad = source_as(server.url(BLOB), bad);
        assert!(client.head(&bad).await.is_ok());
        assert!(matches!(
            client.head_own(&bad).await,
            Err(OriginError::Denied { .. })
        ));
    }
    for good in ["Bearer good", "Basic YW5uOnB3"] {
        let (_, shown) = client
            .head_own(&source_as(server.url(BLOB), good))
            .await
            .unwrap();
        assert_eq!(shown.unwrap().expose(), good);
    }
}

#[tokio::test]
async fn redirects_end_and_stay_with_http() {
    for to in [
        "/again",
        "file:///etc/passwd",
        "http://",
        "http://u:p@127.0.0.1/",
        "ftp://x/y",
    ] {
        let server = Server::start(move |_| Reply::redirect(302, to)).await;
        let error = read_all(&client(), &source(server.url("/again")))
            .await
            .unwrap_err();
        assert!(
            matches!(error, OriginError::Redirect { .. }),
            "{to}: {error}"
        );
        assert_eq!(server.asked().len(), if to == "/again" { 11 } else { 1 });
        assert!(!error.to_string().contains("u:p"), "{error}");
    }
}

#[tokio::test]
async fn errors_and_debug_output_hold_no_secret() {
    let server = Server::start(|_| Reply::status(500)).await;
    let client = client_with_login(&server, "hunter2");
    let source = source_as(server.url("/f?signature=hunter2"), "Bearer hunter2");
    let error = read_all(&client, &source).await.unwrap_err();
    for text in [
        error.to_string(),
        format!("{error:?}"),
        format!("{client:?}"),
        format!("{source:?}"),
    ] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[tokio::test]
async fn a_token_server_that_hangs_is_waited_for_once() {
    let issuer = Server::start(|_| Reply::silence()).await;
    let registry = Arc::new(Tokens::default())
        .registry(issuer.url("/token"))
        .await;
    let header_timeout = Duration::from_millis(300);
    let config = OriginConfig {
        header_timeout,
        retries: 0,
        ..quick()
    };
    let (client, source) = (
        OriginClient::new(config).unwrap(),
        source(registry.url(BLOB)),
    );
    let started = Instant::now();
    let reads = (0..8).map(|_| read_all(&client, &source));
    for read in futures::future::join_all(reads).await {
        assert!(matches!(read.unwrap_err(), OriginError::TokenServer { .. }));
    }
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn an_unreachable_token_server_is_retried() {
    let busy = AtomicBool::new(true);
    let issuer = Server::start(move |_| match busy.swap(false, Ordering::Relaxed) {
        true => Reply::status(503),
        false => Reply::body(r#"{"access_token":"x"}"#),
    })
    .await;
    let realm = issuer.url("/token");
    let registry = Server::start(move |asked| match asked.header("authorization") {
        Some("Bearer x") => Reply::file(asked, b"layer"),
        _ => Reply::status(401).with("WWW-Authenticate", format!("Bearer realm=\"{realm}\"")),
    })
    .await;
    let client = OriginClient::new(OriginConfig {
        retries: 2,
        ..quick()
    })
    .unwrap();
    assert_eq!(
        read_all(&client, &source(registry.url(BLOB)))
            .await
            .unwrap(),
        b"layer"
    );
}
