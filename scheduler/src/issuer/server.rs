//! The port where hosts ask for certificates: HTTP/1.1 over TLS 1.3, one request a connection.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    body::Bytes,
    extract::DefaultBodyLimit,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use hawker_enrol::{JoinRequest, MAX_BODY_BYTES, Refused, RenewRequest};
use hawker_identity::{Identity, PeerCertificate, explain_io};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use serde::de::DeserializeOwned;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{JoinSet, spawn_blocking},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{Issuer, refusal::Refusal};

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 64;
/// For a connection from its first byte to its last.
const CONVERSATION: Duration = Duration::from_secs(15);
const HEADERS: Duration = Duration::from_secs(5);
/// After a failed accept (out of descriptors): not to spin.
const PAUSE: Duration = Duration::from_millis(100);

/// Who asks.
#[derive(Clone, Debug)]
struct Asker {
    remote: SocketAddr,
    /// Its certificate, in DER too, if it showed one.
    certificate: Option<Arc<(PeerCertificate, Vec<u8>)>>,
}

/// Serves until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    identity: Arc<Identity>,
    issuer: Arc<Issuer>,
    stop: CancellationToken,
) {
    let routes = Router::new()
        .route("/v1/join", post(join))
        .route("/v1/renew", post(renew))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(Extension(issuer));
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, remote)) => {
                let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
                let talk = talk(stream, remote, identity.clone(), routes.clone());
                connections.spawn(async move {
                    if timeout(CONVERSATION, talk).await.is_err() {
                        tracing::debug!(%remote, "cut a host that asks too slowly");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn talk(stream: TcpStream, remote: SocketAddr, identity: Arc<Identity>, routes: Router) {
    let acceptor = TlsAcceptor::from(identity.issuer_config());
    let stream = match acceptor.accept(stream).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            tracing::debug!(%remote, "closed before the TLS handshake was done");
            return;
        }
        Err(error) => {
            let reason = explain_io(&error);
            tracing::warn!(%remote, reason, "refused a host at the issuer: TLS failed");
            return;
        }
    };
    let session = stream.get_ref().1;
    let shown = session.peer_certificates().and_then(|chain| chain.first());
    // TLS has refused what is no certificate of the cluster.
    let certificate = shown.and_then(|der| Some((PeerCertificate::parse(der).ok()?, der.to_vec())));
    let asker = Asker {
        remote,
        certificate: certificate.map(Arc::new),
    };
    let service = TowerToHyperService::new(routes.layer(Extension(asker)));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%remote, %error, "a conversation at the issuer broke off");
    }
}

async fn join(
    Extension(issuer): Extension<Arc<Issuer>>,
    Extension(asker): Extension<Asker>,
    body: Bytes,
) -> Response {
    answer(move || {
        let request: JoinRequest = parse(&body)?;
        issuer.join(&request, &asker.remote.ip().to_string())
    })
    .await
}

async fn renew(
    Extension(issuer): Extension<Arc<Issuer>>,
    Extension(asker): Extension<Asker>,
    body: Bytes,
) -> Response {
    answer(move || {
        let shown = asker.certificate.as_deref();
        let (owner, der) = shown.ok_or(Refusal::NoCertificate)?;
        let request: RenewRequest = parse(&body)?;
        issuer.renew(owner, der, &request.request)
    })
    .await
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    // serde_json names position and field, not the value of a secret.
    serde_json::from_slice(body).map_err(|error| Refusal::Malformed(error.to_string()))
}

/// Signing and the disk are slow: not on the runtime's threads.
async fn answer<F>(work: F) -> Response
where
    F: FnOnce() -> Result<hawker_enrol::Granted, Refusal> + Send + 'static,
{
    let error = |status, error| (status, Json(Refused { error })).into_response();
    match spawn_blocking(work).await {
        Ok(Ok(granted)) => Json(granted).into_response(),
        Ok(Err(refusal)) => error(refusal.status(), refusal.to_string()),
        Err(_) => error(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the issuer failed".to_owned(),
        ),
    }
}
