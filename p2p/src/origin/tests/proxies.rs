//! Origins behind proxies.

use hawker_model::RegistryHost;

use super::{
    super::{
        OriginClient, OriginConfig, OriginError, Proxy, ProxyChoice, RegistryEndpoint, UsualProxies,
    },
    proxy::{Rules, TestProxy},
    quick, read_all,
    server::{Reply, Server},
    source,
    tls::Authority,
};

fn by(proxy: Proxy) -> OriginConfig {
    OriginConfig {
        proxies: UsualProxies::one(proxy, |_| None),
        ..quick()
    }
}

fn client(config: OriginConfig) -> OriginClient {
    OriginClient::new(config).unwrap()
}

/// A registry with a name that only a proxy knows, and an authority of its own.
fn known(config: &mut OriginConfig, authority: &Authority, proxy: ProxyChoice) {
    let endpoint = RegistryEndpoint {
        endpoints: vec!["https://localhost".parse().unwrap()],
        proxy,
        ..authority.trusted()
    };
    let name = RegistryHost::parse("r.example").unwrap();
    config.registries.insert(name, endpoint);
}

const ANN: &str = "Basic YW5uOnB3";

#[tokio::test]
async fn a_plain_origin_is_asked_whole_by_the_proxy_with_its_login() {
    let server = Server::of_file(b"layer").await;
    let proxy = TestProxy::start(Rules {
        wants: Some(ANN),
        ..Rules::to(server.address)
    })
    .await;
    let client = client(by(proxy.setting(Some(("ann", "pw")))));
    let source = source("http://r.example:5000/v2/a/blobs/x?q=1");
    assert_eq!(read_all(&client, &source).await.unwrap(), b"layer");
    assert_eq!(
        proxy.asked()[0],
        "GET http://r.example:5000/v2/a/blobs/x?q=1 HTTP/1.1"
    );
    let asked = server.asked();
    assert_eq!(asked[0].header("host"), Some("r.example:5000"));
}

#[tokio::test]
async fn an_https_origin_is_asked_through_a_tunnel_that_sees_nothing() {
    let authority = Authority::new();
    let server = Server::start_tls(authority.server.clone(), |asked| {
        Reply::file(asked, b"layer")
    })
    .await;
    let proxy = TestProxy::start(Rules {
        wants: Some(ANN),
        ..Rules::to(server.address)
    })
    .await;
    let mut config = quick();
    let via = ProxyChoice::Via(proxy.setting(Some(("ann", "pw"))));
    known(&mut config, &authority, via);
    let client = client(config);
    let read = read_all(&client, &source("https://localhost/v2/a/blobs/x")).await;
    assert_eq!(read.unwrap(), b"layer");
    assert_eq!(proxy.asked(), ["CONNECT localhost:443 HTTP/1.1"]);
    let asked = server.asked();
    assert_eq!(asked[0].header("proxy-authorization"), None);
}

#[tokio::test]
async fn a_proxy_may_speak_tls_itself() {
    let (authority, of_proxy) = (Authority::new(), Authority::new());
    let server = Server::start_tls(authority.server.clone(), |asked| {
        Reply::file(asked, b"layer")
    })
    .await;
    let plain = Server::of_file(b"plain").await;
    for (url, to, content) in [
        ("https://localhost/f", server.address, &b"layer"[..]),
        ("http://r.example/f", plain.address, &b"plain"[..]),
    ] {
        let proxy = TestProxy::start_tls(Rules::to(to), of_proxy.server.clone()).await;
        let mut config = by(proxy.setting(None));
        config.proxies.ca_file = of_proxy.trusted().ca_file;
        known(
            &mut config,
            &authority,
            ProxyChoice::Via(proxy.setting(None)),
        );
        let read = read_all(&client(config.clone()), &source(url)).await;
        assert_eq!(read.unwrap(), content, "{url}");
        assert_eq!(proxy.asked().len(), 1);

        config.proxies.ca_file = None;
        let error = read_all(&client(config), &source(url)).await.unwrap_err();
        assert!(matches!(error, OriginError::Proxy { .. }), "{error}");
        assert!(error.to_string().contains("set origin.proxy_ca"), "{error}");
    }
}

#[tokio::test]
async fn what_is_excepted_goes_straight_and_so_does_a_registry_that_says_so() {
    let server = Server::of_file(b"layer").await;
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let proxy = TestProxy::start(Rules::to(nowhere)).await;
    let port = server.address.port();
    let loopback = client(by(proxy.setting(None)));
    let read = read_all(&loopback, &source(server.url("/f"))).await;
    assert_eq!(read.unwrap(), b"layer", "loopback");

    let resolve = [("r.example".to_owned(), vec!["127.0.0.1".parse().unwrap()])];
    let url = format!("http://r.example:{port}/v2/a/blobs/x");
    for choice in [ProxyChoice::Direct, ProxyChoice::Usual] {
        let mut config = by(proxy.setting(None));
        if matches!(choice, ProxyChoice::Usual) {
            config.proxies.except.add("r.example");
        }
        let endpoint = RegistryEndpoint {
            endpoints: vec![format!("http://r.example:{port}").parse().unwrap()],
            proxy: choice,
            resolve: resolve.clone().into(),
            ..RegistryEndpoint::default()
        };
        let name = RegistryHost::parse("r.example").unwrap();
        config.registries.insert(name, endpoint);
        let read = read_all(&client(config), &source(url.clone())).await;
        assert_eq!(read.unwrap(), b"layer");
    }
    assert_eq!(proxy.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn a_written_address_is_what_the_proxy_is_asked_for() {
    let authority = Authority::new();
    let server = Server::start_tls(authority.server.clone(), |asked| {
        Reply::file(asked, b"layer")
    })
    .await;
    let proxy = TestProxy::start(Rules::to(server.address)).await;
    let mut config = quick();
    known(
        &mut config,
        &authority,
        ProxyChoice::Via(proxy.setting(None)),
    );
    for endpoint in config.registries.values_mut() {
        let written = [("localhost".to_owned(), vec!["10.9.9.9".parse().unwrap()])];
        endpoint.resolve = written.into();
    }
    let read = read_all(&client(config), &source("https://localhost/f")).await;
    assert_eq!(read.unwrap(), b"layer");
    assert_eq!(proxy.asked(), ["CONNECT 10.9.9.9:443 HTTP/1.1"]);
}

#[tokio::test]
async fn every_failure_of_a_proxy_says_which_setting_mends_it() {
    let authority = Authority::new();
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let closed = TestProxy::start(Rules::to(nowhere)).await;
    let gone = closed.setting(None);
    drop(closed);
    let wants = Rules {
        wants: Some(ANN),
        ..Rules::to(nowhere)
    };
    let answers = |answer| Rules {
        answer,
        ..Rules::to(nowhere)
    };
    let asking = TestProxy::start(wants).await;
    let forbidding = TestProxy::start(answers("HTTP/1.1 403 Forbidden")).await;
    let babbling = TestProxy::start(answers("220 smtp.example ESMTP")).await;
    for (proxy, part) in [
        (gone, "cannot be reached"),
        (
            asking.setting(None),
            "wants a login: set origin.proxy_username and origin.proxy_password_file",
        ),
        (
            asking.setting(Some(("ann", "hunter2"))),
            "refuses the login: correct origin.proxy_username",
        ),
        (
            forbidding.setting(None),
            "(status 403): let the proxy permit it, or list the host in origin.no_proxy",
        ),
        (
            babbling.setting(None),
            "no HTTP: is origin.proxy the address of an HTTP proxy?",
        ),
    ] {
        let mut config = quick();
        config.retries = 0;
        known(&mut config, &authority, ProxyChoice::Via(proxy.clone()));
        let error = read_all(&client(config), &source("https://localhost/f")).await;
        let error = error.unwrap_err();
        assert!(matches!(error, OriginError::Proxy { .. }), "{error}");
        assert!(error.to_string().contains(part), "{error}");
        assert!(error.to_string().contains("(origin.proxy)"), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
        assert!(error.is_outage());
    }
    // The same for whole requests.
    let mut config = by(asking.setting(None));
    config.retries = 0;
    let error = read_all(&client(config), &source("http://r.example/f")).await;
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("wants a login: set origin.proxy_username"),
        "{error}"
    );
}

#[tokio::test]
async fn a_proxy_is_no_way_to_addresses_that_are_refused_by_name() {
    let server = Server::of_file(b"secret").await;
    let proxy = TestProxy::start(Rules::to(server.address)).await;
    let client = client(OriginConfig {
        allow_private: Vec::new(),
        proxies: UsualProxies {
            http: Some(proxy.setting(None)),
            https: Some(proxy.setting(None)),
            ..UsualProxies::default()
        },
        ..quick()
    });
    for host in [
        "10.0.0.1",
        "169.254.169.254",
        "0xa9fea9fe",
        "[fd00::1]",
        "[::ffff:10.0.0.1]",
        "localhost",
        "a.localhost.",
    ] {
        for scheme in ["http", "https"] {
            let error = read_all(&client, &source(format!("{scheme}://{host}/")))
                .await
                .unwrap_err();
            assert!(
                matches!(error, OriginError::PrivateAddress { .. }),
                "{host}: {error}"
            );
        }
    }
    assert_eq!(proxy.asked(), Vec::<String>::new());
}
