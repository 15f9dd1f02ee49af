//! Requests in the name of an account: what it buys, and that nobody else gets to use it.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use hawker_swarm::Secret;
use url::Url;

use super::{
    super::{Account, Login, OriginError},
    client, read_all,
    server::{Asked, Reply, Server},
    source, source_as,
};

const BLOB: &str = "/v2/team/app/blobs/sha256:0";
/// ann:pw
const ANN: &str = "Basic YW5uOnB3";

fn login(username: &str, password: &str) -> Account {
    Account::Login(Login {
        username: username.to_owned(),
        password: Secret::new(password),
    })
}

fn authorization(asked: &[Asked]) -> Vec<Option<&str>> {
    asked.iter().map(|a| a.header("authorization")).collect()
}

/// Issues `t0`, `t1` … to ann, and to whoever brings the identity token `id`.
async fn issuer() -> Server {
    let issued = AtomicUsize::new(0);
    Server::start(move |asked| {
        let exchanged = asked.method == "POST"
            && asked.header("content-type") == Some("application/x-www-form-urlencoded")
            && asked.body.contains("grant_type=refresh_token")
            && asked.body.contains("service=reg")
            && asked.body.contains("scope=repository%3Ateam%2Fapp%3Apull")
            && asked.body.contains("refresh_token=id");
        if !exchanged && asked.header("authorization") != Some(ANN) {
            return Reply::status(401);
        }
        let token = issued.fetch_add(1, Ordering::Relaxed);
        Reply::body(format!(r#"{{"access_token":"t{token}","expires_in":300}}"#))
    })
    .await
}

/// A registry that takes the tokens `t…` of `realm`.
async fn registry(realm: String) -> Server {
    Server::start(move |asked| match asked.header("authorization") {
        Some(value) if value.starts_with("Bearer t") => Reply::file(asked, b"layer"),
        _ => Reply::status(401).with(
            "WWW-Authenticate",
            format!(r#"Bearer realm="{realm}",service="reg",scope="repository:team/app:pull""#),
        ),
    })
    .await
}

fn blob(server: &Server) -> Url {
    Url::parse(&server.url(BLOB)).unwrap()
}

#[tokio::test]
async fn an_account_buys_a_token_that_is_handed_out_in_its_place() {
    let issuer = issuer().await;
    let registry = registry(issuer.url("/token")).await;
    for account in [
        login("ann", "pw"),
        Account::IdentityToken(Secret::new("id")),
    ] {
        let client = client();
        for _ in 0..2 {
            let (head, shown) = client.head_as(&blob(&registry), &account).await.unwrap();
            assert_eq!(head.length, Some(5));
            let shown = shown.unwrap();
            assert!(shown.expose().starts_with("Bearer t"));
            let source = source_as(registry.url(BLOB), shown.expose());
            assert_eq!(read_all(&client, &source).await.unwrap(), b"layer");
        }
    }
    assert_eq!(issuer.asked().len(), 2, "a token is bought once");
    let sent = registry.asked();
    assert!(
        authorization(&sent)
            .iter()
            .flatten()
            .all(|a| a.starts_with("Bearer t"))
    );
}

#[tokio::test]
async fn a_registry_without_tokens_gets_the_login_and_never_an_identity_token() {
    let registry = Server::start(|asked| match asked.header("authorization") {
        Some(ANN) => Reply::file(asked, b"layer"),
        _ => Reply::status(401).with("WWW-Authenticate", "Basic realm=\"r\""),
    })
    .await;
    let (client, url) = (client(), blob(&registry));
    let (_, shown) = client.head_as(&url, &login("ann", "pw")).await.unwrap();
    assert_eq!(shown.unwrap().expose(), ANN);
    let identity = Account::IdentityToken(Secret::new("id"));
    for account in [login("ann", "no"), identity] {
        let error = client.head_as(&url, &account).await.unwrap_err();
        assert!(matches!(error, OriginError::Denied { status: 401, .. }));
    }
    let sent = registry.asked();
    assert!(
        authorization(&sent)
            .iter()
            .flatten()
            .all(|a| !a.contains("id"))
    );
}

#[tokio::test]
async fn nothing_is_shown_where_nothing_is_asked_for() {
    let registry = Server::of_file(b"layer").await;
    let shown = client()
        .head_as(&blob(&registry), &login("ann", "pw"))
        .await;
    assert_eq!(shown.unwrap().1, None);
    assert_eq!(authorization(&registry.asked()), [None]);
}

#[tokio::test]
async fn what_an_account_bought_is_used_for_nobody_else() {
    let issuer = issuer().await;
    let registry = registry(issuer.url("/token")).await;
    let (client, url) = (client(), blob(&registry));
    client.head_as(&url, &login("ann", "pw")).await.unwrap();
    let bought = issuer.asked().len();
    for other in [login("ann", "no"), login("bob", "pw")] {
        let error = client.head_as(&url, &other).await.unwrap_err();
        assert!(matches!(error, OriginError::Denied { .. }), "{error}");
    }
    for other in [
        source(registry.url(BLOB)),
        source_as(registry.url(BLOB), "Basic Ym9iOnB3"),
        source_as(registry.url(BLOB), "Bearer x"),
    ] {
        let error = read_all(&client, &other).await.unwrap_err();
        assert!(matches!(error, OriginError::Denied { .. }), "{error}");
    }
    assert!(issuer.asked().len() > bought);
    let sent = registry.asked();
    let with_token = authorization(&sent).into_iter().flatten();
    let with_token = with_token.filter(|a| a.starts_with("Bearer t"));
    assert_eq!(with_token.count(), 1, "ann's request alone");
}

#[tokio::test]
async fn a_basic_source_is_exchanged_where_the_registry_wants_a_token() {
    let issuer = issuer().await;
    let registry = registry(issuer.url("/token")).await;
    let (client, source) = (client(), source_as(registry.url(BLOB), ANN));
    for _ in 0..2 {
        assert_eq!(read_all(&client, &source).await.unwrap(), b"layer");
    }
    assert_eq!(issuer.asked().len(), 1);
    let sent = registry.asked();
    let bearer = Some("Bearer t0");
    assert_eq!(authorization(&sent), [Some(ANN), bearer, bearer]);
}

#[tokio::test]
async fn a_basic_source_that_is_refused_does_not_hide_what_is_public() {
    let issuer = Server::start(|asked| match asked.header("authorization") {
        None => Reply::body(r#"{"token":"t"}"#),
        Some(_) => Reply::status(401),
    })
    .await;
    let registry = registry(issuer.url("/token")).await;
    let source = source_as(registry.url(BLOB), "Basic Ym9iOnB3");
    assert_eq!(read_all(&client(), &source).await.unwrap(), b"layer");
}

#[tokio::test]
async fn an_account_is_nobody_at_another_host() {
    let issuer = issuer().await;
    let elsewhere = registry(issuer.url("/token")).await;
    let to = elsewhere.url(BLOB);
    let front = Server::start(move |_| Reply::redirect(307, &to)).await;
    let client = client();
    let error = client.head_as(&blob(&front), &login("ann", "pw")).await;
    assert!(
        matches!(error, Err(OriginError::Denied { .. })),
        "{error:?}"
    );
    let read = read_all(&client, &source_as(front.url(BLOB), ANN)).await;
    assert!(matches!(read, Err(OriginError::Denied { .. })));
    for asked in [elsewhere.asked(), issuer.asked()] {
        assert_eq!(authorization(&asked).into_iter().flatten().count(), 0);
    }
}

#[tokio::test]
async fn token_servers_do_not_send_accounts_on() {
    let thief = Server::start(|_| Reply::body(r#"{"token":"t"}"#)).await;
    let to = thief.url("/token");
    let issuer = Server::start(move |_| Reply::redirect(307, &to)).await;
    let registry = registry(issuer.url("/token")).await;
    for account in [
        login("ann", "pw"),
        Account::IdentityToken(Secret::new("id")),
    ] {
        let _ = client().head_as(&blob(&registry), &account).await;
    }
    for asked in thief.asked() {
        assert_eq!(asked.header("authorization"), None);
        assert_eq!((asked.method.as_str(), asked.body.as_str()), ("GET", ""));
    }
}

#[tokio::test]
async fn a_revoked_token_of_an_account_is_bought_anew() {
    let issuer = issuer().await;
    let realm = issuer.url("/token");
    let good = Arc::new(Mutex::new("Bearer t0".to_owned()));
    let wanted = Arc::clone(&good);
    let registry = Server::start(move |asked| {
        match asked.header("authorization") == Some(&wanted.lock().unwrap()) {
            true => Reply::file(asked, b"layer"),
            false => Reply::status(401).with(
                "WWW-Authenticate",
                format!(r#"Bearer realm="{realm}",service="reg",scope="repository:team/app:pull""#),
            ),
        }
    })
    .await;
    let client = client();
    for token in ["Bearer t0", "Bearer t1"] {
        *good.lock().unwrap() = token.to_owned();
        let account = login("ann", "pw");
        let (_, shown) = client.head_as(&blob(&registry), &account).await.unwrap();
        assert_eq!(shown.unwrap().expose(), token);
    }
}
