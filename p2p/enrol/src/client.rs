//! The host's side of an issuer.

use std::{io, time::Duration};

use bytes::Bytes;
use hawker_identity::{Identity, PeerCertificate, explain_io, server_name};
use hawker_model::{HostId, Role};
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use serde::Serialize;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    message::{Granted, JoinRequest, Refused, RenewRequest},
    token::JoinToken,
};

/// Where issuers listen.
pub const DEFAULT_PORT: u16 = 8003;
/// For TCP and TLS together, and then for the answer.
const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(20);
/// A longer answer is not read: two certificates and lists of what is revoked.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    #[error("cannot connect to the issuer {address}: {source}")]
    Connect { address: String, source: io::Error },
    #[error("TLS with the issuer {address} failed: {reason}")]
    Tls { address: String, reason: String },
    #[error("{address} is no scheduler: its certificate is that of {role} {host}")]
    NotScheduler {
        address: String,
        role: Role,
        host: HostId,
    },
    #[error("the issuer {address} did not answer: {reason}")]
    Broken { address: String, reason: String },
    #[error("the issuer refused: {0}")]
    Refused(String),
    #[error("what the issuer sent is of no use: {0}")]
    Answer(String),
}

/// The issuer's address with its port, where the port may be left out.
pub fn issuer_address(text: &str) -> String {
    let bare = text.trim_start_matches('[');
    let has_port = match text.starts_with('[') {
        true => bare.contains("]:"),
        false => text.matches(':').count() == 1,
    };
    match has_port {
        true => text.to_owned(),
        // A bare IPv6 address.
        false if !text.starts_with('[') && text.contains(':') => {
            format!("[{text}]:{DEFAULT_PORT}")
        }
        false => format!("{text}:{DEFAULT_PORT}"),
    }
}

/// Asks for a host's first certificate. The issuer is believed by the token's authority alone, and
/// gets the token's secret only then.
pub async fn join(
    address: &str,
    token: &JoinToken,
    host: &HostId,
    request_pem: &str,
) -> Result<Granted, EnrolError> {
    let config = token.authority.client_config();
    let config = config.map_err(|error| EnrolError::Answer(error.to_string()))?;
    let stream = connect(address, config).await?;
    let request = JoinRequest {
        token: token.id,
        secret: token.secret.clone(),
        host: host.clone(),
        request: request_pem.to_owned(),
    };
    ask(address, stream, "/v1/join", &request).await
}

/// Asks for the next certificate of a host that has one.
pub async fn renew(
    address: &str,
    identity: &Identity,
    request_pem: &str,
) -> Result<Granted, EnrolError> {
    let stream = connect(address, identity.client_config(&[])).await?;
    let owner = PeerCertificate::from_tls(stream.get_ref().1);
    let owner = owner.map_err(|error| EnrolError::Tls {
        address: address.to_owned(),
        reason: error.to_string(),
    })?;
    if owner.role != Role::Scheduler {
        return Err(EnrolError::NotScheduler {
            address: address.to_owned(),
            role: owner.role,
            host: owner.host,
        });
    }
    let request = request_pem.to_owned();
    ask(address, stream, "/v1/renew", &RenewRequest { request }).await
}

async fn connect(
    address: &str,
    config: std::sync::Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, EnrolError> {
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    let failed = |source| EnrolError::Connect {
        address: address.to_owned(),
        source,
    };
    let tcp = timeout(CONNECT, TcpStream::connect(address)).await;
    let tcp = tcp.unwrap_or_else(|_| Err(late())).map_err(failed)?;
    let tls = TlsConnector::from(config).connect(server_name(), tcp);
    let tls = timeout(CONNECT, tls).await;
    let tls = tls.unwrap_or_else(|_| Err(late()));
    tls.map_err(|error| EnrolError::Tls {
        address: address.to_owned(),
        reason: explain_io(&error),
    })
}

async fn ask(
    address: &str,
    stream: TlsStream<TcpStream>,
    path: &str,
    message: &impl Serialize,
) -> Result<Granted, EnrolError> {
    let answered = timeout(ANSWER, exchange(stream, path, message)).await;
    let answered = answered.unwrap_or_else(|_| Err("it takes too long".to_owned()));
    let (status, body) = answered.map_err(|reason| EnrolError::Broken {
        address: address.to_owned(),
        reason,
    })?;
    if status != StatusCode::OK {
        let refused = serde_json::from_slice(&body).map(|refused: Refused| refused.error);
        return Err(EnrolError::Refused(match refused {
            Ok(reason) => reason.chars().filter(|c| !c.is_control()).collect(),
            Err(_) => format!("with status {status}"),
        }));
    }
    serde_json::from_slice(&body).map_err(|error| EnrolError::Answer(error.to_string()))
}

/// The answer's status and body; an error in words.
async fn exchange(
    stream: TlsStream<TcpStream>,
    path: &str,
    message: &impl Serialize,
) -> Result<(StatusCode, Bytes), String> {
    let text = serde_json::to_vec(message).map_err(|error| error.to_string())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(words)?;
    let request = Request::post(path)
        .header(header::HOST, "issuer")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(text)))
        .map_err(|error| error.to_string())?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(words)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES);
        let body = body.collect().await.map_err(|error| error.to_string())?;
        Ok((status, body.to_bytes()))
    };
    tokio::pin!(answer, connection);
    tokio::select! {
        biased;
        answered = &mut answer => answered,
        ended = &mut connection => match ended {
            // What was read before the end is the answer still.
            Ok(()) => answer.await,
            Err(error) => Err(words(error)),
        },
    }
}

/// A hyper error hides what happened in its sources: TLS says there why it refused us.
fn words(error: hyper::Error) -> String {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(inner) = source {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            return explain_io(io);
        }
        source = inner.source();
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_may_be_left_out() {
        for (text, address) in [
            ("scheduler-1", "scheduler-1:8003"),
            ("10.0.0.1", "10.0.0.1:8003"),
            ("10.0.0.1:9000", "10.0.0.1:9000"),
            ("2001:db8::1", "[2001:db8::1]:8003"),
            ("[2001:db8::1]", "[2001:db8::1]:8003"),
            ("[2001:db8::1]:9000", "[2001:db8::1]:9000"),
        ] {
            assert_eq!(issuer_address(text), address);
        }
    }
}
