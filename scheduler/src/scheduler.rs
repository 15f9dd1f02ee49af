//! A running scheduler: everything is bound and spawned here, and stopped in the right order.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use hawker_enrol::{Keeper, KeeperHandle, RemoteIssuer};
use hawker_scheduler_api::proto::scheduler_server::SchedulerServer;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::{
    Security, Settings,
    driver::{Driver, INPUTS, Input},
    http,
    issuer::{self, ControlSocket, Issuer, IssuerError, OwnIssuer},
    listener::{accept, bind},
    service::Service,
};

/// A host is dead when it does not answer a ping of this interval in this time.
const PING: Duration = Duration::from_secs(2);
const PONG: Duration = Duration::from_secs(3);
/// For hosts to take their leave.
const GRACE: Duration = Duration::from_secs(3);
/// Connections with hands shaken that wait for the server.
const CONNECTIONS: usize = 64;
/// A host needs one; the others are for what comes later.
const STREAMS_PER_CONNECTION: u32 = 16;

/// A scheduler. Dropping it stops it without a word to the hosts; see [`Self::stop`].
#[derive(Debug)]
pub struct Scheduler {
    address: SocketAddr,
    http: Option<SocketAddr>,
    issuer: Option<SocketAddr>,
    keeper: Option<KeeperHandle>,
    inputs: mpsc::Sender<Input>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

/// Why a scheduler does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen for hosts on {address} (scheduler.listen): {source}")]
    Listen {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("cannot listen for hosts that join on {address} (issuer.listen): {source}")]
    IssuerListen {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("cannot listen at {path} (control.socket): {source}")]
    Control { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    #[error("an issuer needs scheduler.transport = \"tls\"")]
    IssuerWithoutTls,
    #[error("cannot serve HTTP on {address} (http.listen): {source}")]
    Http {
        address: SocketAddr,
        source: io::Error,
    },
    #[error(
        "the certificate is for {role} {host}, not for scheduler {name} (scheduler.name): \
         set scheduler.name to the certificate's host, or issue one with \
         `hawker ca issue --role scheduler --host {name}`"
    )]
    Certificate {
        role: &'static str,
        host: String,
        name: String,
    },
}

impl Scheduler {
    /// Binds all ports and begins.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        check_certificate(&settings)?;
        let listener = bind(settings.listen).await;
        let listener = listener.map_err(|source| StartError::Listen {
            address: settings.listen,
            source,
        })?;
        let local =
            |listener: &tokio::net::TcpListener, wanted| listener.local_addr().unwrap_or(wanted);
        let address = local(&listener, settings.listen);
        let (inputs, inbox) = mpsc::channel(INPUTS);
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let mut http_address = None;
        let authority = Authority::start(&settings, &mut tasks, &stop).await?;
        let Authority { issuer, keeper } = authority;
        if let Some(wanted) = settings.http {
            let failed = |source| StartError::Http {
                address: wanted,
                source,
            };
            let listener = bind(wanted).await.map_err(failed)?;
            http_address = Some(local(&listener, wanted));
            let state = http::Sources {
                inputs: inputs.clone(),
                keeper: keeper.clone(),
            };
            tasks.spawn(http::serve(listener, state, stop.clone()));
        }
        let secured = matches!(settings.security, Security::Tls(_));
        tracing::info!(%address, tls = secured, "listening for hosts");
        if let Some(address) = http_address {
            tracing::info!(%address, "serving /healthy, /metrics and /v1/status");
        }
        let (sender, connections) = mpsc::channel(CONNECTIONS);
        tasks.spawn(accept(listener, settings.security.clone(), sender));
        let service = Service {
            inputs: inputs.clone(),
            queue: settings.queue,
        };
        tasks.spawn(serve(
            service,
            ReceiverStream::new(connections),
            stop.clone(),
        ));
        tasks.spawn(Driver::new(settings).run(inbox));
        Ok(Self {
            address,
            http: http_address,
            issuer,
            keeper,
            inputs,
            stop,
            tasks,
        })
    }

    /// Where hosts connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where health and metrics are.
    pub fn http(&self) -> Option<SocketAddr> {
        self.http
    }

    /// Where hosts ask for certificates.
    pub fn issuer(&self) -> Option<SocketAddr> {
        self.issuer
    }

    /// Reads the certificate files again, as SIGHUP asks.
    pub fn reload(&self) {
        if let Some(keeper) = &self.keeper {
            keeper.reload();
        }
    }

    /// Waits until a part ends by itself, which none should.
    pub async fn failed(&mut self) {
        let _ = self.tasks.join_next().await;
    }

    /// Tells all hosts that it stops, and stops. Returns within seconds.
    pub async fn stop(mut self) {
        let (reply, done) = oneshot::channel();
        if self.inputs.send(Input::Stop(reply)).await.is_ok() {
            let _ = timeout(GRACE, done).await;
        }
        self.stop.cancel();
        // The driver ends when nobody can give it inputs any more.
        let (unused, _) = mpsc::channel(1);
        self.inputs = unused;
        let drained = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(GRACE, drained).await.is_err() {
            tracing::warn!("some hosts did not take their leave in time");
        }
    }
}

/// What sees to certificates: our own, and those of others.
struct Authority {
    issuer: Option<SocketAddr>,
    keeper: Option<KeeperHandle>,
}

impl Authority {
    async fn start(
        settings: &Settings,
        tasks: &mut JoinSet<()>,
        stop: &CancellationToken,
    ) -> Result<Self, StartError> {
        let Security::Tls(identity) = &settings.security else {
            return match settings.issuer {
                Some(_) => Err(StartError::IssuerWithoutTls),
                None => Ok(Self {
                    issuer: None,
                    keeper: None,
                }),
            };
        };
        let (mut address, mut renewer) = (None, None);
        if let Some(address) = settings.renew_at.clone() {
            renewer = Some(Box::new(RemoteIssuer::new(address)) as Box<dyn hawker_enrol::Issuer>);
        }
        if let Some(places) = &settings.issuer {
            let issuer = Arc::new(Issuer::open(places, identity.clone())?);
            let failed = |source| StartError::IssuerListen {
                address: places.listen,
                source,
            };
            let listener = bind(places.listen).await.map_err(failed)?;
            address = listener.local_addr().ok();
            let socket = ControlSocket::bind(&places.control).map_err(|source| {
                let path = places.control.clone();
                StartError::Control { path, source }
            })?;
            let control = places.control.display();
            tracing::info!(?address, %control, "issuing certificates");
            let serve = issuer::serve(listener, identity.clone(), issuer.clone(), stop.clone());
            tasks.spawn(serve);
            tasks.spawn(issuer::serve_control(socket, issuer.clone(), stop.clone()));
            renewer = Some(Box::new(OwnIssuer(issuer)));
        }
        let (keeper, handle) = Keeper::new(identity.clone(), renewer);
        let stop = stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = keeper.run() => {}
                () = stop.cancelled() => {}
            }
        });
        Ok(Self {
            issuer: address,
            keeper: Some(handle),
        })
    }
}

fn check_certificate(settings: &Settings) -> Result<(), StartError> {
    let Security::Tls(identity) = &settings.security else {
        return Ok(());
    };
    let scheduler = identity.role() == hawker_model::Role::Scheduler;
    if scheduler && *identity.host() == settings.name {
        return Ok(());
    }
    Err(StartError::Certificate {
        role: identity.role().as_str(),
        host: identity.host().to_string(),
        name: settings.name.to_string(),
    })
}

async fn serve(
    service: Service,
    connections: ReceiverStream<io::Result<crate::connection::Connection>>,
    stop: CancellationToken,
) {
    let served = Server::builder()
        .http2_keepalive_interval(Some(PING))
        .http2_keepalive_timeout(Some(PONG))
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .add_service(SchedulerServer::new(service))
        .serve_with_incoming_shutdown(connections, stop.cancelled_owned())
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the gRPC server failed");
    }
}
