//! The mirror under attack: by its clients, by web pages, and by hostile registries.

use std::{fs, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use hawker_model::Digest;
use tokio::sync::Semaphore;

use crate::{
    client::{fetch, get, send},
    daemon::Daemon,
    origin::{Origin, Part, Reply, noise},
    raw::{RawAnswer, RawClient, RawOrigin, say},
};

const MIB: usize = 1 << 20;
/// What must never reach an origin.
const SMUGGLED: &str = "GET /v2/smuggled/manifests/t HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer stolen\r\n\r\n";

/// A registry that has everything, for everybody.
async fn with_everything() -> Origin {
    Origin::start(|_| Reply::bytes("{}")).await
}

/// A daemon before a registry that always answers the same.
async fn before(first: impl Into<Vec<u8>>, again: &'static [u8]) -> (RawOrigin, Daemon) {
    let origin = RawOrigin::start(first, again).await;
    let quick = |text: String| text.replace("[origin]", "[origin]\nread_timeout = \"1s\"");
    let daemon = Daemon::start_with(origin.address, quick).await;
    (origin, daemon)
}

fn answers(said: &str) -> usize {
    said.matches("HTTP/1.").count()
}

#[tokio::test]
async fn request_whose_end_can_be_seen_in_two_places_is_the_last_of_its_connection() {
    let origin = with_everything().await;
    let daemon = Daemon::start(origin.address).await;
    for headers in [
        // Two lengths.
        "content-length: 4\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 4",
        "content-length: 4\r\ncontent-length: 5",
        "content-length: 4\r\ncontent-length: 4",
        "content-length: 0\r\ncontent-length: 4",
        "content-length: 4, 4",
        // Lengths that are numbers to some.
        "content-length: +4",
        "content-length: -1",
        "content-length: 0x4",
        "content-length: 4 4",
        "content-length: 99999999999999999999999",
        "content-length:",
        // Chunks to some.
        "transfer-encoding: xchunked",
        "transfer-encoding: chunked, identity",
        "transfer-encoding: identity, chunked",
        "transfer-encoding: identity",
        "transfer-encoding:\r\n chunked",
        "transfer-encoding: \x0bchunked",
        "transfer-encoding : chunked",
        "content-length : 4",
        // Lines to some.
        "x: a\r\n content-length: 4",
        "x: a\rcontent-length: 4",
        "x: a\ncontent-length: 4",
        "x: a\0b",
        "x\0y: a",
        "x y: a",
        ": a",
        "content-length\u{a0}: 4",
        // And plain bodies.
        "content-length: 4",
        "transfer-encoding: chunked",
        "expect: 100-continue\r\ncontent-length: 4",
    ] {
        for method in ["GET", "HEAD"] {
            let request = format!(
                "{method} /v2/a/manifests/t HTTP/1.1\r\nhost: 127.0.0.1\r\n{headers}\r\n\r\n"
            );
            for body in ["", "0\r\n\r\n", "5;\n\r\nhello\r\n0\r\n\r\n"] {
                let said = say(daemon.mirror(), format!("{request}{body}{SMUGGLED}")).await;
                assert!(said.starts_with("HTTP/1.1 400"), "{headers:?}: {said}");
                assert_eq!(answers(&said), 1, "{headers:?}: {said}");
            }
        }
    }
    assert!(origin.seen().is_empty(), "{:?}", origin.seen());
}

#[tokio::test]
async fn request_lines_of_other_protocols_are_refused() {
    let origin = with_everything().await;
    let daemon = Daemon::start(origin.address).await;
    for line in [
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET /v2/\r\n\r\n",
        "GET /v2/ HTTP/2.0\r\n\r\n",
        "GET /v2/ HTTP/1.1 HTTP/1.0\r\n\r\n",
        "GET  /v2/ HTTP/1.1\r\n\r\n",
        "GET\t/v2/\tHTTP/1.1\r\n\r\n",
        "GET /v2/\0 HTTP/1.1\r\n\r\n",
        "GET v2/ HTTP/1.1\r\n\r\n",
        "G\u{e4}T /v2/ HTTP/1.1\r\n\r\n",
        "\x16\x03\x01\x02\0\x01\0\x01\r\n\r\n",
    ] {
        let said = say(daemon.mirror(), format!("{line}{SMUGGLED}")).await;
        let status = said.split(' ').nth(1).unwrap_or_default();
        assert!(
            said.is_empty() || status.starts_with('4'),
            "{line:?}: {said}"
        );
        assert!(answers(&said) <= 1, "{line:?}: {said}");
    }
    assert!(origin.seen().is_empty(), "{:?}", origin.seen());
}

#[tokio::test]
async fn methods_that_tunnel_echo_or_write_do_nothing() {
    let origin = with_everything().await;
    let daemon = Daemon::start(origin.address).await;
    let registry = origin.address;
    for (method, target) in [
        ("CONNECT", registry.to_string()),
        ("CONNECT", "169.254.169.254:80".to_owned()),
        ("TRACE", "/v2/".to_owned()),
        ("OPTIONS", "*".to_owned()),
        ("OPTIONS", "/v2/".to_owned()),
        ("POST", "/v2/a/blobs/uploads/".to_owned()),
        ("PUT", "/v2/a/manifests/t".to_owned()),
        ("PATCH", "/v2/a/manifests/t".to_owned()),
        ("DELETE", "/v2/a/manifests/t".to_owned()),
        ("get", "/v2/".to_owned()),
        ("PROPFIND", "/v2/".to_owned()),
    ] {
        let request = format!(
            "{method} {target} HTTP/1.1\r\nhost: 127.0.0.1\r\nx-mine: hush\r\n\r\n{SMUGGLED}"
        );
        let said = say(daemon.mirror(), request).await;
        assert!(said.starts_with("HTTP/1.1 405"), "{method}: {said}");
        assert_eq!(answers(&said), 1, "{method}: {said}");
        assert!(!said.contains("hush") && !said.contains("access-control"));
    }
    assert!(origin.seen().is_empty());
}

#[tokio::test]
async fn upgrades_are_not_made_and_not_passed_on() {
    let origin = with_everything().await;
    let daemon = Daemon::start(origin.address).await;
    for upgrade in ["h2c", "websocket", "TLS/1.0"] {
        let mut client = RawClient::connect(daemon.mirror()).await;
        let request = format!(
            "GET /v2/a/manifests/t HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: upgrade, http2-settings\r\n\
             upgrade: {upgrade}\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"
        );
        client.say(request).await;
        assert_eq!(client.answer().await.unwrap().status, 200, "{upgrade}");
    }
    for seen in origin.seen() {
        assert_eq!(
            (seen.header("upgrade"), seen.header("http2-settings")),
            (None, None)
        );
    }
}

#[tokio::test]
async fn target_and_host_of_others_are_refused() {
    let origin = with_everything().await;
    let other = with_everything().await;
    let daemon = Daemon::start(origin.address).await;
    let (mirror, other_address) = (daemon.mirror(), other.address);
    let get = |target: &str, host: &str| format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n");
    for (request, status) in [
        (get("/v2/", &mirror.to_string()), 200),
        (get("/v2/", "localhost"), 200),
        (get("/v2/", "tested:65001"), 200),
        (
            get(&format!("http://{mirror}/v2/"), &mirror.to_string()),
            200,
        ),
        // Asked as a proxy: it is none, and the target's host never becomes the registry.
        (get("http://registry.example/v2/", "registry.example"), 421),
        (get("http://evil.example/v2/", &mirror.to_string()), 400),
        (get(&format!("http://{mirror}/v2/"), "evil.example"), 400),
        (
            get(&format!("http://{other_address}/v2/"), &mirror.to_string()),
            400,
        ),
        (
            get(&format!("http://u:p@{mirror}/v2/"), &mirror.to_string()),
            400,
        ),
        (get("/v2/", "u:p@127.0.0.1"), 400),
        (get("/v2/", "127.0.0.1\r\nhost: evil.example"), 400),
        (get("/v2/", ""), 400),
        ("GET /v2/ HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET /v2/ HTTP/1.0\r\n\r\n".to_owned(), 400),
    ] {
        let mut client = RawClient::connect(mirror).await;
        client.say(&request).await;
        let answer = client.answer().await.unwrap();
        assert_eq!(answer.status, status, "{request:?}");
    }
    assert!(other.seen().is_empty());
}

#[tokio::test]
async fn web_page_whose_name_leads_here_reads_nothing_with_the_configured_login() {
    let origin = Origin::start(|seen| match seen.header("authorization") {
        Some("Basic YW5uOnNlY3JldA==") => Reply::bytes("{\"private\":1}"),
        _ => Reply::status(401).with("www-authenticate", "Basic realm=\"r\""),
    })
    .await;
    let password = tempfile::NamedTempFile::new().unwrap();
    fs::write(password.path(), "secret\n").unwrap();
    let login = format!(
        "[registries.\"{0}\"]\nendpoint = \"http://{0}\"\nusername = \"ann\"\npassword_file = {1:?}\n",
        origin.address,
        password.path()
    );
    let daemon = Daemon::start_with(origin.address, |text| text + &login).await;
    let path = "/v2/a/manifests/t";
    // Containers' pulls have it.
    assert_eq!(get(daemon.mirror(), path).await.status, 200);
    let before = origin.seen().len();
    let port = daemon.mirror().port();
    for (headers, status) in [
        (format!("host: evil.example:{port}"), 421),
        (
            format!("host: rebind.network:{port}\r\nsec-fetch-site: same-origin"),
            421,
        ),
        (
            format!("host: 127.0.0.1:{port}\r\norigin: http://evil.example"),
            403,
        ),
        (
            format!("host: 127.0.0.1:{port}\r\nsec-fetch-site: cross-site"),
            403,
        ),
        (
            format!("host: localhost:{port}\r\nsec-fetch-site: same-site"),
            403,
        ),
    ] {
        let said = say(
            daemon.mirror(),
            format!("GET {path} HTTP/1.1\r\n{headers}\r\n\r\n"),
        )
        .await;
        assert!(
            said.starts_with(&format!("HTTP/1.1 {status}")),
            "{headers}: {said}"
        );
        assert!(!said.contains("private") && !said.to_lowercase().contains("access-control"));
    }
    assert_eq!(origin.seen().len(), before);
}

/// A registry with one blob for whoever shows "Bearer good".
async fn private(bytes: &Bytes) -> (Origin, String) {
    let path = format!("/v2/a/blobs/{}", Digest::of(bytes));
    let (wanted, content) = (path.clone(), bytes.clone());
    let origin = Origin::start(move |seen| match seen.header("authorization") {
        Some("Bearer good") if seen.path == wanted => Reply::file(seen, &content),
        Some("Bearer good") => Reply::bytes("{}"),
        Some(_) => Reply::status(403),
        None => Reply::challenge(),
    })
    .await;
    (origin, path)
}

fn asking(path: &str, credential: Option<&str>) -> String {
    let shown = credential.map_or_else(String::new, |credential| {
        format!("authorization: {credential}\r\n")
    });
    format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{shown}\r\n")
}

#[tokio::test]
async fn requests_of_one_connection_have_each_their_own_credential() {
    let bytes = noise(100_000, 41);
    let (origin, path) = private(&bytes).await;
    let daemon = Daemon::start(origin.address).await;
    let shown = [
        (Some("Bearer good"), 200),
        (None, 401),
        (Some("Bearer bad"), 403),
        (Some("Bearer good"), 200),
        (None, 401),
    ];
    for target in ["/v2/a/manifests/t", &path] {
        let requests: Vec<_> = shown
            .iter()
            .map(|(with, _)| asking(target, *with))
            .collect();
        // All at once, then one after the other.
        let mut client = RawClient::connect(daemon.mirror()).await;
        client.say(requests.concat()).await;
        for (credential, status) in shown {
            let RawAnswer { status: got, .. } = client.answer().await.unwrap();
            assert_eq!(got, status, "pipelined {target} {credential:?}");
        }
        for (request, (credential, status)) in requests.iter().zip(shown) {
            client.say(request).await;
            let RawAnswer { status: got, .. } = client.answer().await.unwrap();
            assert_eq!(got, status, "{target} {credential:?}");
        }
    }
}

#[tokio::test]
async fn two_credentials_in_one_request_are_refused() {
    let (origin, path) = private(&Bytes::new()).await;
    let daemon = Daemon::start(origin.address).await;
    for second in ["Bearer good", "Bearer bad"] {
        let both = [("authorization", "Bearer good"), ("authorization", second)];
        let answer = fetch(daemon.mirror(), "GET", &path, &both).await;
        assert_eq!((answer.status, &*answer.code()), (400, "UNAUTHORIZED"));
    }
    assert!(origin.seen().is_empty());
}

#[tokio::test]
async fn what_is_between_client_and_mirror_stays_there() {
    let origin = with_everything().await;
    let daemon = Daemon::start(origin.address).await;
    let private = [
        ("cookie", "session=1"),
        ("proxy-authorization", "Basic eDp5"),
        ("x-forwarded-for", "10.0.0.1"),
        ("forwarded", "for=10.0.0.1"),
        ("te", "trailers"),
        ("connection", "x-hop"),
        ("x-hop", "1"),
        ("referer", "http://inner.example/"),
        ("x-dragonfly-registry", "http://127.0.0.1:1"),
    ];
    let registry = origin.address.to_string();
    let mut headers = private.to_vec();
    headers[8].1 = &registry;
    let answer = fetch(daemon.mirror(), "GET", "/v2/a/manifests/t", &headers).await;
    assert_eq!(answer.status, 200);
    let seen = origin.seen();
    for (name, _) in private {
        assert_eq!(seen[0].header(name), None, "{name}");
    }
    assert_eq!(seen[0].header("host"), Some(&*registry));
}

#[tokio::test]
async fn registry_named_in_two_ways_or_none_is_not_asked() {
    let origin = with_everything().await;
    let other = with_everything().await;
    let daemon = Daemon::start(origin.address).await;
    let (one, two) = (origin.address, other.address);
    let code = "NAME_INVALID";
    for query in [
        format!("ns={one}&ns={two}"),
        format!("ns={one}&n%73={two}"),
        format!("%6e%73={one}&ns={one}"),
        format!("ns={one}%2fv2"),
        format!("ns=u:p@{one}"),
        format!("ns=http://{one}"),
        format!("ns={one}%00"),
        format!("ns={one}%0d%0ahost:%20x"),
        format!("ns={one}%23"),
        "ns=".to_owned(),
        "ns".to_owned(),
    ] {
        let answer = get(daemon.mirror(), &format!("/v2/?{query}")).await;
        assert_eq!((answer.status, &*answer.code()), (400, code), "{query}");
    }
    let (one, two) = (one.to_string(), two.to_string());
    let url = |rest: &str| format!("http://{one}{rest}");
    for headers in [
        vec![one.clone(), two.clone()],
        vec![url("/v2/")],
        vec![url("?x=1")],
        vec![url("#x")],
        vec![url("/../")],
        vec![format!("http://u:p@{one}")],
        vec![format!("ftp://{one}")],
        vec![format!("{one}, {two}")],
        vec![String::new()],
    ] {
        let named: Vec<_> = headers
            .iter()
            .map(|value| ("x-dragonfly-registry", value.as_str()))
            .collect();
        let answer = fetch(daemon.mirror(), "GET", "/v2/", &named).await;
        assert_eq!((answer.status, &*answer.code()), (400, code), "{headers:?}");
    }
    assert!(origin.seen().is_empty() && other.seen().is_empty());
    // An operator's header goes before what containerd adds.
    let named = [("x-dragonfly-registry", one.as_str())];
    let answer = fetch(daemon.mirror(), "GET", &format!("/v2/?ns={two}"), &named).await;
    assert_eq!((answer.status, other.seen().len()), (200, 0));
}

#[tokio::test]
async fn inner_addresses_are_refused_however_they_are_written() {
    let origin = with_everything().await;
    let inner = with_everything().await;
    let daemon = Daemon::start(origin.address).await;
    let port = inner.address.port();
    for host in [
        "127.0.0.1",
        "127.1",
        "127.0.0.2",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "017700000001",
        "0.0.0.0",
        "0",
        "localhost",
        "LOCALHOST",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "169.254.169.254",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "100.100.100.200",
        "192.168.0.1",
        "10.0.0.1",
        "172.16.0.1",
        "224.0.0.1",
        "255.255.255.255",
    ] {
        for path in [
            "/v2/",
            "/v2/a/manifests/t",
            &format!("/v2/a/blobs/{}", Digest::of(b"x")),
        ] {
            let answer = get(daemon.mirror(), &format!("{path}?ns={host}:{port}")).await;
            assert_eq!(
                (answer.status, &*answer.code()),
                (403, "DENIED"),
                "{host} {path}"
            );
        }
    }
    assert!(inner.seen().is_empty());
}

#[tokio::test]
async fn registries_that_the_setting_does_not_name_are_refused() {
    let origin = with_everything().await;
    let allow =
        |text: String| text.replace("[mirror]", "[mirror]\nregistries = [\"*.example.com\"]");
    let daemon = Daemon::start_with(origin.address, allow).await;
    for query in [
        "",
        "?ns=docker.io",
        "?ns=example.com",
        "?ns=evilexample.com",
    ] {
        let answer = get(daemon.mirror(), &format!("/v2/{query}")).await;
        assert_eq!((answer.status, &*answer.code()), (403, "DENIED"), "{query}");
        let text = String::from_utf8_lossy(answer.body.as_ref().unwrap()).into_owned();
        assert!(text.contains("mirror.registries"), "{text}");
    }
    assert!(origin.seen().is_empty());
}

#[tokio::test]
async fn heads_without_end_are_refused() {
    let origin = with_everything().await;
    let daemon = Daemon::start(origin.address).await;
    let start = "GET /v2/ HTTP/1.1\r\nhost: 127.0.0.1\r\n";
    let many: String = (0..10_000).map(|n| format!("x-{n}: a\r\n")).collect();
    let long_path = format!("GET /v2/{} HTTP/1.1\r\n", "a/".repeat(MIB / 2));
    for (request, status) in [
        (format!("{start}x-long: {}\r\n\r\n", "x".repeat(MIB)), "431"),
        (format!("{start}{}: a\r\n\r\n", "x".repeat(MIB)), "431"),
        (format!("{start}{many}\r\n"), "431"),
        (
            format!("{start}authorization: Basic {}\r\n\r\n", "A".repeat(MIB)),
            "431",
        ),
        (format!("{long_path}\r\n"), "4"),
    ] {
        let said = say(daemon.mirror(), &request).await;
        // What was not read may cost the answer: the kernel resets the connection then.
        let refused = said.is_empty() || said.starts_with(&format!("HTTP/1.1 {status}"));
        assert!(refused, "{said}");
    }
    assert!(origin.seen().is_empty());
}

#[tokio::test]
async fn clients_that_never_read_or_never_end_keep_nobody_waiting() {
    let bytes = noise(8 * MIB, 42);
    let content = bytes.clone();
    let origin = Origin::start(move |seen| Reply::file(seen, &content)).await;
    let daemon = Daemon::start(origin.address).await;
    let path = format!("/v2/a/blobs/{}", Digest::of(&bytes));
    let mut held = Vec::new();
    for number in 0..200 {
        let mut client = RawClient::connect(daemon.mirror()).await;
        match number % 2 {
            0 => client.say(asking(&path, None)).await,
            _ => {
                client
                    .say("GET /v2/ HTTP/1.1\r\nhost: 127.0.0.1\r\nx: ")
                    .await
            }
        }
        held.push(client);
    }
    let answer = tokio::time::timeout(Duration::from_secs(20), get(daemon.mirror(), &path)).await;
    assert!(answer.unwrap().body.unwrap() == bytes);
}

#[tokio::test]
async fn abused_ranges_cost_no_more_than_one() {
    let bytes = noise(100_000, 43);
    let content = bytes.clone();
    let origin = Origin::start(move |seen| Reply::file(seen, &content)).await;
    let daemon = Daemon::start(origin.address).await;
    let by_other_digest = format!("/v2/a/blobs/sha512:{}", "ab".repeat(64));
    let by_digest = format!("/v2/a/blobs/{}", Digest::of(&bytes));
    for path in [by_other_digest, by_digest] {
        for range in [
            format!("bytes={}", vec!["0-0"; 1000].join(",")),
            "bytes=0-,0-,0-,0-".to_owned(),
            format!("bytes=0-{}", "9".repeat(3000)),
            "bytes=-1-5".to_owned(),
            "bytes=18446744073709551615-18446744073709551616".to_owned(),
        ] {
            let answer = fetch(daemon.mirror(), "GET", &path, &[("range", &range)]).await;
            assert!([200, 206, 416].contains(&answer.status), "{range}");
            assert!(answer.body.unwrap().len() <= bytes.len(), "{range}");
        }
    }
    for seen in origin.seen() {
        assert!(
            seen.header("range")
                .is_none_or(|range| !range.contains(','))
        );
    }
}

#[tokio::test]
async fn hostile_registry_sets_no_header_that_is_none_of_its_business() {
    let origin = Origin::start(|_| {
        [
            ("set-cookie", "a=b"),
            ("access-control-allow-origin", "*"),
            ("location", "http://169.254.169.254/"),
            ("refresh", "0; url=http://evil.example/"),
            ("alt-svc", "h2=\"evil.example:443\""),
            ("strict-transport-security", "max-age=1"),
            ("clear-site-data", "*"),
            ("server", "evil"),
            ("x-hawker-task", "sha256:0"),
            ("proxy-authenticate", "Basic realm=\"x\""),
            ("keep-alive", "timeout=1"),
            ("oci-subject", "shown"),
        ]
        .iter()
        .fold(Reply::bytes("{}"), |reply, (name, value)| {
            reply.with(name, value)
        })
    })
    .await;
    let daemon = Daemon::start(origin.address).await;
    let blob = format!("/v2/a/blobs/{}", Digest::of(b"{}"));
    for path in ["/v2/", "/v2/a/manifests/t", "/v2/a/tags/list", &blob] {
        let answer = get(daemon.mirror(), path).await;
        assert_eq!(answer.status, 200, "{path}");
        for name in answer.headers.keys() {
            let sound = name.as_str().starts_with("oci-")
                || name.as_str().starts_with("docker-")
                || [
                    "content-length",
                    "content-type",
                    "date",
                    "etag",
                    "accept-ranges",
                ]
                .contains(&name.as_str());
            assert!(sound, "{path}: {name}");
        }
    }
}

#[tokio::test]
async fn hostile_answers_of_a_registry_end_as_its_failures() {
    let huge = format!(
        "HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n",
        "x".repeat(4 * MIB)
    );
    let many: String = (0..10_000).map(|n| format!("x-{n}: a\r\n")).collect();
    let many = format!("HTTP/1.1 200 OK\r\n{many}\r\n");
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let ok = |headers: &str| format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\n{{}}");
    let upgraded = "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n";
    let no_length = ok("content-length: -2");
    let nul = ok("x: a\0b\r\ncontent-length: 2");
    let two_lengths = ok("content-length: 2\r\ncontent-length: 3");
    let cases: [(&str, &str, &'static str); 11] = [
        (
            "endless 1xx",
            "",
            "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n",
        ),
        ("upgrade", upgraded, ""),
        ("two lengths", &two_lengths, ""),
        ("no length", &no_length, ""),
        ("NUL", &nul, ""),
        ("no HTTP", "SSH-2.0-OpenSSH_9.9\r\n", ""),
        ("no status", "HTTP/1.1 0 OK\r\n\r\n", ""),
        ("long head", &huge, ""),
        ("many headers", &many, ""),
        ("endless head", "HTTP/1.1 200 OK\r\n", "x: y\r\n"),
        ("endless chunk size", chunked, "0"),
    ];
    for (name, first, again) in cases {
        let (_origin, daemon) = before(first, again.as_bytes()).await;
        let answer = get(daemon.mirror(), "/v2/a/manifests/t").await;
        assert!([502, 504].contains(&answer.status), "{name}: {answer:?}");
        assert_eq!(answer.code(), "UNAVAILABLE", "{name}");
    }
}

#[tokio::test]
async fn manifest_without_end_or_in_another_coding_is_given_up() {
    let chunk = b"1000\r\n0123456789abcdef";
    let mut chunk = chunk.to_vec();
    chunk.resize(6 + 0x1000, b'x');
    chunk.extend_from_slice(b"\r\n");
    let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let (_origin, daemon) = before(*head, chunk.leak()).await;
    let answer = get(daemon.mirror(), "/v2/a/manifests/t").await;
    assert_eq!((answer.status, &*answer.code()), (502, "UNAVAILABLE"));

    let packed = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}";
    let (origin, daemon) = before(*packed, b"").await;
    let answer = get(daemon.mirror(), "/v2/a/manifests/t").await;
    assert_eq!((answer.status, &*answer.code()), (502, "UNAVAILABLE"));
    assert!(
        origin.asked()[0]
            .to_lowercase()
            .contains("accept-encoding: identity")
    );
}

#[tokio::test]
async fn body_longer_than_told_never_becomes_the_next_answer() {
    let injected = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\n\
                    docker-content-digest: sha256:evil\r\ncontent-length: 4\r\n\r\nevil";
    let (_origin, daemon) = before(injected, b"").await;
    for _ in 0..5 {
        let answer = get(daemon.mirror(), "/v2/a/manifests/t").await;
        // What follows unasked is nobody's answer: the connection is given up.
        let is_first = answer.body.as_deref() == Some(&b"{}"[..]);
        assert!(is_first || answer.status == 502, "{answer:?}");
    }
}

#[tokio::test]
async fn blob_of_a_lying_registry_is_never_whole() {
    let right = noise(100_000, 44);
    let path = format!("/v2/a/blobs/{}", Digest::of(&right));
    let content = right.clone();
    // Every range is answered with the start, and told to be what was asked for.
    let origin = Origin::start(move |seen| {
        let wrong = content.slice(..50_000);
        match seen.header("range") {
            Some(_) => Reply::bytes(wrong).with("content-range", "bytes 0-49999/50000"),
            None => Reply::parts(
                100_000,
                vec![Part::Bytes(wrong.clone()), Part::Bytes(wrong)],
            ),
        }
    })
    .await;
    let daemon = Daemon::start(origin.address).await;
    let answer = get(daemon.mirror(), &path).await;
    match answer.status {
        200 => assert_eq!(answer.body, None, "it must be cut"),
        status => assert_eq!(status, 502),
    }
}

#[tokio::test]
async fn redirects_of_a_hostile_registry_lead_nowhere() {
    let secret = Origin::start(|_| Reply::bytes("inner")).await;
    let inner = secret.address;
    for target in [
        "file:///etc/passwd".to_owned(),
        "gopher://127.0.0.1/".to_owned(),
        "/v2/a/manifests/t".to_owned(),
        "http://".to_owned(),
        format!("http://user:pass@{inner}/"),
        "http://169.254.169.254/latest/".to_owned(),
    ] {
        let location = target.clone();
        let origin = Origin::start(move |_| Reply::status(307).with("location", &location)).await;
        let daemon = Daemon::start(origin.address).await;
        let answer = get(daemon.mirror(), "/v2/a/manifests/t").await;
        assert!(
            [403, 502, 504].contains(&answer.status),
            "{target}: {answer:?}"
        );
        assert_eq!(answer.header("location"), None);
    }
    let seen = secret.seen();
    assert!(
        seen.iter()
            .all(|seen| seen.header("authorization").is_none()),
        "{seen:?}"
    );
}

#[tokio::test]
async fn many_registries_named_by_one_client_are_told_in_no_metric() {
    let origin = with_everything().await;
    let daemon = Daemon::start(origin.address).await;
    let lines = |metrics: &str| metrics.lines().count();
    get(daemon.mirror(), "/v2/?ns=10.0.0.1").await;
    let before = lines(&daemon.metrics().await);
    for number in 0..500 {
        let path = format!(
            "/v2/r{number}/manifests/t?ns=10.1.{}.{}",
            number / 250,
            number % 250
        );
        assert_eq!(get(daemon.mirror(), &path).await.status, 403);
    }
    // A few lines for what was asked for the first time, and none for each.
    assert!(lines(&daemon.metrics().await) < before + 50);
}

#[tokio::test]
async fn client_that_leaves_frees_what_it_asked_for() {
    let never = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&never);
    let origin = Origin::start(move |seen| match seen.path.contains("manifests") {
        true => Reply::parts(100, vec![Part::Wait(Arc::clone(&held))]),
        false => Reply::bytes("{}"),
    })
    .await;
    let daemon = Daemon::start(origin.address).await;
    let ask = async |address: SocketAddr| {
        let waiting = send(address, "GET", "/v2/a/manifests/t", &[]);
        tokio::time::timeout(Duration::from_millis(20), waiting).await
    };
    for _ in 0..50 {
        assert!(ask(daemon.mirror()).await.is_err());
    }
    assert_eq!(get(daemon.mirror(), "/v2/").await.status, 200);
}
