//! Health, metrics and status over HTTP, for people and other software.

use std::time::Duration;

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::driver::{Input, Snapshot};

/// A driver that takes longer is not healthy.
const PATIENCE: Duration = Duration::from_secs(2);

/// Serves until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    inputs: mpsc::Sender<Input>,
    stop: CancellationToken,
) {
    let routes = Router::new()
        .route("/healthy", get(healthy))
        .route("/metrics", get(metrics))
        .route("/v1/status", get(status))
        .with_state(inputs);
    let server = axum::serve(listener, routes);
    if let Err(error) = server.with_graceful_shutdown(stop.cancelled_owned()).await {
        tracing::error!(%error, "the HTTP server failed");
    }
}

async fn healthy(State(inputs): State<mpsc::Sender<Input>>) -> Response {
    match snapshot(&inputs).await {
        Some(_) => Json("OK").into_response(),
        None => busy(),
    }
}

async fn metrics(State(inputs): State<mpsc::Sender<Input>>) -> Response {
    const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match snapshot(&inputs).await {
        Some(snapshot) => {
            ([(header::CONTENT_TYPE, TEXT)], snapshot.sample.to_text()).into_response()
        }
        None => busy(),
    }
}

async fn status(State(inputs): State<mpsc::Sender<Input>>) -> Response {
    let (reply, answer) = oneshot::channel();
    if inputs.send(Input::Status(reply)).await.is_err() {
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
