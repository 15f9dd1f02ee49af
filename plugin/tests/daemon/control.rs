//! The control socket.

use bytes::Bytes;
use hawker_model::Digest;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::{
    client::Answer,
    daemon::Daemon,
    origin::{Origin, Reply, noise},
};

pub(crate) async fn ask(daemon: &Daemon, target: &str) -> Answer {
    ask_as(daemon, target, &[]).await
}

pub(crate) async fn ask_as(daemon: &Daemon, target: &str, headers: &[(&str, &str)]) -> Answer {
    send(daemon, "GET", target, headers).await
}

pub(crate) async fn send(
    daemon: &Daemon,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
) -> Answer {
    let stream = UnixStream::connect(daemon.app.control_path())
        .await
        .unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = body.collect().await.ok().map(|body| body.to_bytes());
    Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body,
    }
}

fn json(answer: &Answer) -> serde_json::Value {
    serde_json::from_slice(answer.body.as_ref().unwrap()).unwrap()
}

#[tokio::test]
async fn status_tells_who_and_where() {
    let origin = Origin::start(|_| Reply::status(404)).await;
    let daemon = Daemon::start(origin.address).await;
    let answer = ask(&daemon, "/v1/status").await;
    let status = json(&answer);
    assert_eq!(answer.status, 200);
    assert_eq!(
        (&status["host"], &status["role"]),
        (&"tested".into(), &"node".into())
    );
    assert_eq!(status["mirror"][0], daemon.mirror().to_string());
    assert!(status["tasks"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn file_comes_through_the_network_with_its_task() {
    let bytes = noise(150_000, 1);
    let content = bytes.clone();
    let origin = Origin::start(move |seen| Reply::file(seen, &content)).await;
    let daemon = Daemon::start(origin.address).await;
    let url = format!("http://{}/f?Signature=a", origin.address);
    let by_url = ask(&daemon, &format!("/v1/blob?url={url}")).await;
    assert_eq!((by_url.status, by_url.body.as_ref()), (200, Some(&bytes)));
    assert!(by_url.header("x-hawker-task").unwrap().starts_with("url:"));
    let digest = Digest::of(&bytes);
    let by_digest = ask(&daemon, &format!("/v1/blob?url={url}&digest={digest}")).await;
    assert_eq!(
        by_digest.header("x-hawker-task"),
        Some(&*digest.to_string())
    );
    assert_eq!(by_digest.body.as_ref(), Some(&bytes));
}

#[tokio::test]
async fn file_of_unknown_length_comes_straight() {
    let origin = Origin::start(|_| Reply::bytes("hello").without_length()).await;
    let daemon = Daemon::start(origin.address).await;
    let answer = ask(
        &daemon,
        &format!("/v1/blob?url=http://{}/f", origin.address),
    )
    .await;
    assert_eq!(
        (answer.status, answer.body.as_deref()),
        (200, Some(&b"hello"[..]))
    );
    assert_eq!(answer.header("x-hawker-task"), None);
}

#[tokio::test]
async fn errors_say_what_is_wrong() {
    let origin = Origin::start(|_| Reply::status(404)).await;
    let daemon = Daemon::start(origin.address).await;
    let missing = format!("/v1/blob?url=http://{}/f", origin.address);
    for (target, status) in [
        (missing.as_str(), 404),
        ("/v1/blob", 400),
        ("/v1/blob?url=ftp://h/f", 400),
        ("/v1/blob?url=http://h/f&digest=x", 400),
        ("/v1/other", 404),
    ] {
        let answer = ask(&daemon, target).await;
        assert_eq!(answer.status, status, "{target}");
        assert!(!json(&answer)["error"].as_str().unwrap().is_empty());
    }
}
