//! A containerd that says of itself what a file tells it to, and has nothing.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    thread,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixListener;

const PLUGINS: &str = "/containerd.services.introspection.v1.Introspection/Plugins";

/// Listens on `socket` until the process ends. It keeps its content in hawkerd as long as the file
/// `ours` is there, else in `own`.
pub(crate) fn start(socket: &Path, ours: PathBuf, own: PathBuf) {
    let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
    listener.set_nonblocking(true).unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let listener = UnixListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let (ours, own) = (ours.clone(), own.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let plugin = match ours.exists() {
                        true => plugin("hawker-content", None),
                        false => plugin("content", Some(&own)),
                    };
                    async move { Ok::<_, Infallible>(answer(request.uri().path(), &plugin)) }
                });
                let served = http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(served);
            }
        });
    });
}

/// One message: what it has of plugins, or nothing at all.
fn answer(
    path: &str,
    plugin: &[u8],
) -> Response<impl http_body::Body<Data = Bytes, Error = Infallible> + use<>> {
    let message = match path {
        PLUGINS => field(1, plugin),
        _ => Vec::new(),
    };
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let framed = [&[0][..], &length, &message].concat();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::from(framed).with_trailers(async { Some(Ok(trailers)) });
    let mut response = Response::new(body);
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", grpc);
    response
}

/// `containerd.services.introspection.v1.Plugin`
fn plugin(id: &str, root: Option<&Path>) -> Vec<u8> {
    let mut message = field(1, b"io.containerd.content.v1");
    message.extend(field(2, id.as_bytes()));
    if let Some(root) = root {
        let mut export = field(1, b"root");
        export.extend(field(2, root.to_str().unwrap().as_bytes()));
        message.extend(field(5, &export));
    }
    message
}

/// A field of bytes, as protobuf writes it.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut text = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length > 0x7f {
        text.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    text.push(length as u8);
    text.extend(bytes);
    text
}
