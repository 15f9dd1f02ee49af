//! Requests to the scheduler on this machine, over its control socket.

use std::{
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use clap::Args;
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use super::CliError;

/// How to reach the scheduler.
#[derive(Clone, Debug, Args)]
pub(super) struct SchedulerArgs {
    /// The socket of hawker-scheduler on this machine (`control.socket` in its settings)
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/run/hawker-scheduler/control.sock"
    )]
    pub(super) socket: PathBuf,
}

impl SchedulerArgs {
    /// Asks for a path, with a body where there is one; answers other than success are errors.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, CliError> {
        let stream = UnixStream::connect(&self.socket).await;
        let stream = stream.map_err(|error| unreachable(&self.socket, &error))?;
        let broken = |error: &dyn std::fmt::Display| {
            CliError::Failed(format!("the scheduler did not answer: {error}"))
        };
        let connected = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = connected.map_err(|error| broken(&error))?;
        // Ends with the answer, or with this command.
        tokio::spawn(connection);
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "scheduler")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| broken(&error))?;
        let sent = sender.send_request(request).await;
        let answer = sent.map_err(|error| broken(&error))?;
        let status = answer.status();
        let body = answer.into_body().collect().await;
        let body = body.map_err(|error| broken(&error))?.to_bytes();
        let value: Value = serde_json::from_slice(&body).unwrap_or_default();
        if status.is_success() {
            return Ok(value);
        }
        let said = value["error"].as_str().map(str::to_owned);
        let said = said.unwrap_or_else(|| String::from_utf8_lossy(&body).into_owned());
        Err(CliError::Failed(format!("the scheduler says: {said}")))
    }
}

fn unreachable(socket: &Path, error: &io::Error) -> CliError {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ": run this on a scheduler's machine whose settings name [issuer] ca_cert and ca_key, \
             while hawker-scheduler runs"
        }
        io::ErrorKind::PermissionDenied => ": only root may use it",
        _ => "",
    };
    let place = socket.display();
    CliError::Unreachable(format!(
        "the scheduler is not reachable at {place} ({error}){remedy}"
    ))
}
