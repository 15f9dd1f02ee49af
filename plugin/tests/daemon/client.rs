//! A client of the mirror that looks at everything.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// An answer whose body has come.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: u16,
    pub headers: http::HeaderMap,
    /// `None`: the connection was cut.
    pub body: Option<Bytes>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The code of the first OCI error.
    pub(crate) fn code(&self) -> String {
        let body = self.body.as_ref().expect("the body is whole");
        let value: serde_json::Value = serde_json::from_slice(body).expect("an OCI error");
        value["errors"][0]["code"].as_str().unwrap().to_owned()
    }
}

/// Sends one request on a connection of its own.
pub(crate) async fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Response<Incoming> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path);
    request = request.header("host", address.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    sender.send_request(request).await.unwrap()
}

/// Sends one request and reads the whole answer.
pub(crate) async fn fetch(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Answer {
    let response = send(address, method, path, headers).await;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.ok().map(|body| body.to_bytes());
    Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body,
    }
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> Answer {
    fetch(address, "GET", path, &[]).await
}
