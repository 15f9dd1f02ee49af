//! Health, metrics and status over HTTP, for people and other software.

use std::time::Duration;

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hawker_enrol::KeeperHandle;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::driver::{Input, Snapshot};

/// A driver that takes longer is not healthy.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whom the answers come from.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    pub(crate) inputs: mpsc::Sender<Input>,
    /// Of the scheduler's certificate.
    pub(crate) keeper: Option<KeeperHandle>,
}

/// Serves until `stop`.
pub(crate) async fn serve(listener: TcpListener, sources: Sources, stop: CancellationToken) {
    let routes = Router::new()
        .route("/healthy", get(healthy))
        .route("/metrics", get(metrics))
        .route("/v1/status", get(status))
        .with_state(sources);
    let server = axum::serve(listener, routes);
    if let Err(error) = server.with_graceful_shutdown(stop.cancelled_owned()).await {
        tracing::error!(%error, "the HTTP server failed");
    }
}

async fn healthy(State(sources): State<Sources>) -> Response {
    match snapshot(&sources.inputs).await {
        Some(_) => Json("OK").into_response(),
        None => busy(),
    }
}

async fn metrics(State(sources): State<Sources>) -> Response {
    const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match snapshot(&sources.inputs).await {
        Some(snapshot) => {
            let keeper = sources.keeper.as_ref().map(KeeperHandle::status);
            let text = snapshot.sample.to_text(keeper);
            ([(header::CONTENT_TYPE, TEXT)], text).into_response()
        }
        None => busy(),
    }
}

async fn status(State(sources): State<Sources>) -> Response {
    let (reply, answer) = oneshot::channel();
    if sources.inputs.send(Input::Status(reply)).await.is_err() {
        return busy();
    }
    match timeout(PATIENCE, answer).await {
        Ok(Ok(report)) => Json(report).into_response(),
        _ => busy(),
    }
}

async fn snapshot(inputs: &mpsc::Sender<Input>) -> Option<Snapshot> {
    let ask = async {
        let (reply, answer) = oneshot::channel();
        inputs.send(Input::Snapshot(reply)).await.ok()?;
        answer.await.ok()
    };
    timeout(PATIENCE, ask).await.ok().flatten()
}

fn busy() -> Response {
    let text = "the scheduler does not answer";
    (StatusCode::SERVICE_UNAVAILABLE, Json(text)).into_response()
}
