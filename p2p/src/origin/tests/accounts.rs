//! Requests in the name of an account: what it buys, and that nobody else gets to use it.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use hawker_swarm::{Secret, Source};
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

/// Takes ann's password as well as the tokens of `realm`, and offers both or the tokens alone.
async fn registry_of_both(realm: String, also: &'static str) -> Server {
    Server::start(move |asked| match asked.header("authorization") {
        Some(value) if value.starts_with("Bearer t") => Reply::file(asked, b"layer"),
        Some(ANN) => Reply::file(asked, b"layer"),
        _ => Reply::status(401).with(
            "WWW-Authenticate",
            format!(
                r#"Bearer realm="{realm}",service="reg",scope="repository:team/app:pull"{also}"#
            ),
        ),
    })
    .await
}

/// Blobs of one repository.
fn layers(registry: &Server) -> Vec<Source> {
    let url = |number| registry.url(&format!("/v2/team/app/blobs/sha256:{number}"));
    (0..3).map(|number| source_as(url(number), ANN)).collect()
}

#[tokio::test]
async fn a_password_is_exchanged_also_where_the_registry_takes_it() {
    for also in ["", r#", Basic realm="r""#] {
        let issuer = issuer().await;
        let registry = registry_of_both(issuer.url("/token"), also).await;
        let client = client();
        let sources = layers(&registry);
        let asked = sources.iter().map(|source| client.head_blob_own(source));
        for said in futures::future::join_all(asked).await {
            let (head, shown) = said.unwrap();
            assert_eq!(head.length, Some(5));
            assert_eq!(shown.unwrap().expose(), "Bearer t0");
        }
        client.head_blob_own(&sources[0]).await.unwrap();
        // What is wanted is found out once, and is no request more from then on.
        let sent = registry.asked();
        let bearer = Some("Bearer t0");
        assert_eq!(authorization(&sent), [None, bearer, bearer, bearer, bearer]);
        assert_eq!(issuer.asked().len(), 1);
    }
}

#[tokio::test]
async fn a_registry_of_passwords_is_shown_them_at_once_from_then_on() {
    let registry = Server::start(|asked| match asked.header("authorization") {
        Some(ANN) => Reply::file(asked, b"layer"),
        _ => Reply::status(401).with("WWW-Authenticate", "Basic realm=\"r\""),
    })
    .await;
    let client = client();
    let other = source_as(registry.url("/v2/other/blobs/sha256:0"), ANN);
    for source in layers(&registry).iter().chain([&other]) {
        let (_, shown) = client.head_blob_own(source).await.unwrap();
        assert_eq!(shown.unwrap().expose(), ANN);
    }
    let sent = registry.asked();
    let ann = Some(ANN);
    assert_eq!(authorization(&sent), [None, ann, ann, ann, ann]);
}

#[tokio::test]
async fn a_wrong_password_is_refused_by_registries_of_any_kind() {
    let issuer = issuer().await;
    let basic = Server::start(|asked| match asked.header("authorization") {
        Some(ANN) => Reply::file(asked, b"layer"),
        _ => Reply::status(401).with("WWW-Authenticate", "Basic realm=\"r\""),
    })
    .await;
    let realm = issuer.url("/token");
    for registry in [
        registry_of_both(realm.clone(), "").await,
        registry_of_both(realm.clone(), r#", Basic realm="r""#).await,
        registry(realm).await,
        basic,
    ] {
        let wrong = source_as(registry.url(BLOB), "Basic Ym9iOnB3");
        let client = client();
        for _ in 0..2 {
            let error = client.head_blob_own(&wrong).await.unwrap_err();
            assert!(
                matches!(&error, OriginError::Denied { challenges, .. } if !challenges.is_empty())
            );
        }
        client
            .head_blob_own(&source_as(registry.url(BLOB), ANN))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn what_is_given_for_the_password_alone_is_had_for_it() {
    let issuer = Server::start(|_| Reply::status(401)).await;
    let realm = issuer.url("/token");
    // Says to strangers that there is nothing, that they may not, or to buy what is not sold.
    for status in [404, 403, 401] {
        let challenge = format!(r#"Bearer realm="{realm}",service="reg""#);
        let registry = Server::start(move |asked| match asked.header("authorization") {
            Some(ANN) => Reply::file(asked, b"layer"),
            _ => Reply::status(status).with("WWW-Authenticate", &challenge),
        })
        .await;
        let client = client();
        for source in layers(&registry) {
            let (_, shown) = client.head_blob_own(&source).await.unwrap();
            assert_eq!(shown.unwrap().expose(), ANN, "{status}");
        }
        let sent = registry.asked();
        let ann = Some(ANN);
        assert_eq!(authorization(&sent), [None, ann, ann, ann], "{status}");
    }
}

#[tokio::test]
async fn that_one_account_gets_no_token_exposes_no_other_s_password() {
    const BOB: &str = "Basic Ym9iOnB3";
    let issuer = issuer().await;
    let challenge = format!(r#"Bearer realm="{}",service="reg""#, issuer.url("/token"));
    // It takes passwords as well, and bob gets no token.
    let registry = Server::start(move |asked| match asked.header("authorization") {
        Some(shown) if [BOB, ANN].contains(&shown) || shown.starts_with("Bearer t") => {
            Reply::file(asked, b"layer")
        }
        _ => Reply::status(401).with("WWW-Authenticate", &challenge),
    })
    .await;
    let client = client();
    for (credential, expected) in [(BOB, BOB), (BOB, BOB), (ANN, "Bearer t0")] {
        let source = source_as(registry.url(BLOB), credential);
        let (_, shown) = client.head_blob_own(&source).await.unwrap();
        assert_eq!(shown.unwrap().expose(), expected);
    }
}

#[tokio::test]
async fn a_token_server_that_is_down_refuses_nobody() {
    let down = Server::start(|_| Reply::status(503)).await;
    let realm = down.url("/token");
    let tokens_alone = registry(realm.clone()).await;
    let source = source_as(tokens_alone.url(BLOB), ANN);
    let error = client().head_blob_own(&source).await.unwrap_err();
    assert!(error.is_outage(), "{error}");
    let both = registry_of_both(realm, "").await;
    let (_, shown) = client()
        .head_blob_own(&source_as(both.url(BLOB), ANN))
        .await
        .unwrap();
    assert_eq!(shown.unwrap().expose(), ANN);
}

#[tokio::test]
async fn a_password_is_not_shown_for_what_is_anybodys() {
    let registry = Server::of_file(b"layer").await;
    let client = client();
    for source in layers(&registry) {
        let (_, shown) = client.head_blob_own(&source).await.unwrap();
        assert!(shown.is_none());
    }
    assert_eq!(authorization(&registry.asked()), [None; 3]);
}
