//! The unix socket of the operator: tokens, certificates, revocation. Whoever may open it is root
//! on the scheduler's machine, or the daemon's own user.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Path as UrlPath, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use hawker_identity::date;
use hawker_model::{HostId, Role};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::{net::UnixListener, task::spawn_blocking};
use tokio_util::sync::CancellationToken;

use super::{Issuer, RevokeError, TokenOrder};

/// A token cannot be good for longer.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// The socket, which is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    path: PathBuf,
    listener: Option<UnixListener>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewToken {
    role: Role,
    host: Option<HostId>,
    uses: u32,
    seconds: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Revoke {
    /// A host's name or a certificate's number.
    target: String,
}

#[derive(Debug, Serialize)]
struct Certificate {
    serial: String,
    host: HostId,
    role: Role,
    not_after: String,
    how: String,
    revoked: bool,
}

impl ControlSocket {
    /// Listens at `path`; a socket that a dead scheduler left there is replaced.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let stale = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
            && std::os::unix::net::UnixStream::connect(path).is_err();
        if stale {
            fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(Self {
            path: path.to_owned(),
            listener: Some(listener),
        })
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // That it is gone already is as well.
        let _ = fs::remove_file(&self.path);
    }
}

/// Serves until `stop`.
pub(crate) async fn serve(mut socket: ControlSocket, issuer: Arc<Issuer>, stop: CancellationToken) {
    let Some(listener) = socket.listener.take() else {
        return;
    };
    let routes = Router::new()
        .route("/v1/tokens", get(tokens).post(create))
        .route("/v1/tokens/{id}", delete(revoke_token))
        .route("/v1/certificates", get(certificates))
        .route("/v1/revoke", post(revoke))
        .with_state(issuer);
    let server = axum::serve(listener, routes);
    if let Err(error) = server.with_graceful_shutdown(stop.cancelled_owned()).await {
        tracing::error!(%error, "the control socket failed");
    }
}

type Answer = Result<serde_json::Value, (StatusCode, String)>;

async fn answer<F>(work: F) -> Response
where
    F: FnOnce() -> Answer + Send + 'static,
{
    let failed = |_| Err((StatusCode::INTERNAL_SERVER_ERROR, "it failed".to_owned()));
    match spawn_blocking(work).await.unwrap_or_else(failed) {
        Ok(value) => Json(value).into_response(),
        Err((status, error)) => (status, Json(json!({ "error": error }))).into_response(),
    }
}

fn wrong(error: impl ToString) -> (StatusCode, String) {
    (StatusCode::BAD_REQUEST, error.to_string())
}

fn failed(error: impl ToString) -> (StatusCode, String) {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

async fn create(State(issuer): State<Arc<Issuer>>, Json(new): Json<NewToken>) -> Response {
    answer(move || {
        let lifetime = Duration::from_secs(new.seconds);
        if new.uses == 0 || lifetime.is_zero() || lifetime > LONGEST {
            return Err(wrong(
                "a token is good for at least one use, and for at most a year",
            ));
        }
        let order = TokenOrder {
            role: new.role,
            host: new.host,
            uses: new.uses,
            lifetime,
        };
        let token = issuer.create_token(&order).map_err(failed)?;
        Ok(json!({ "id": token.id, "token": token.reveal() }))
    })
    .await
}

async fn tokens(State(issuer): State<Arc<Issuer>>) -> Response {
    answer(move || {
        let tokens = issuer.tokens();
        let tokens = tokens.iter().map(|token| {
            json!({
                "id": token.id,
                "role": token.role,
                "host": token.host,
                "uses": token.uses,
                "expires": date(std::time::UNIX_EPOCH + Duration::from_secs(token.expires)),
            })
        });
        Ok(tokens.collect())
    })
    .await
}

async fn revoke_token(State(issuer): State<Arc<Issuer>>, UrlPath(id): UrlPath<String>) -> Response {
    answer(move || {
        let id = id.parse().map_err(wrong)?;
        match issuer.revoke_token(id).map_err(failed)? {
            true => Ok(json!({ "id": id })),
            false => Err((StatusCode::NOT_FOUND, format!("there is no token {id}"))),
        }
    })
    .await
}

async fn certificates(State(issuer): State<Arc<Issuer>>) -> Response {
    answer(move || {
        let records = issuer.certificates().map_err(failed)?;
        let revoked = issuer.revoked();
        let records = records.into_iter().map(|record| Certificate {
            revoked: revoked.contains(&record.serial),
            serial: record.serial.to_string(),
            host: record.host,
            role: record.role,
            not_after: date(record.not_after),
            how: record.how,
        });
        serde_json::to_value(records.collect::<Vec<_>>()).map_err(failed)
    })
    .await
}

async fn revoke(State(issuer): State<Arc<Issuer>>, Json(revoke): Json<Revoke>) -> Response {
    answer(move || {
        let serials = issuer.revoke(&revoke.target);
        let serials = serials.map_err(|error| match &error {
            RevokeError::Unknown(_) => wrong(error),
            _ => failed(error),
        })?;
        let serials: Vec<_> = serials.iter().map(ToString::to_string).collect();
        Ok(json!({ "revoked": serials }))
    })
    .await
}
