//! The stream to one scheduler: begun again and again until it is no longer wanted.

use std::{net::SocketAddr, num::NonZeroU16, ops::ControlFlow, time::Duration};

use hawker_identity::{CertificateId, Distrust, Learned};
use hawker_scheduler_api::{
    Hello, HostMessage, MAX_ADDRESSES, MessageError, PROTOCOL, PeerListener, SchedulerMessage,
    Welcome,
    proto::{self, scheduler_client::SchedulerClient},
};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Code, Status, Streaming};

use super::{
    SessionConfig,
    connect::{ConnectError, Connected, connect, explain_status},
};
use crate::transport::Security;

/// Messages that a scheduler may be behind.
pub(super) const OUTGOING: usize = 2048;
/// For the scheduler's first word.
const WELCOME: Duration = Duration::from_secs(5);
/// Waits between two attempts: hosts are back well within the time that a restarted scheduler gives
/// them (`swarm.settle_time`, 2 s).
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// After a refusal that only a person can mend.
const REFUSED_WAIT: Duration = Duration::from_secs(5);

/// One scheduler's stream.
#[derive(Debug)]
pub(super) struct Link {
    /// Which of the configured schedulers.
    pub(super) number: usize,
    pub(super) config: SessionConfig,
    pub(super) events: mpsc::Sender<(usize, LinkEvent)>,
}

/// What happens on a link.
#[derive(Debug)]
pub(super) enum LinkEvent {
    Up {
        welcome: Welcome,
        advertised: Vec<SocketAddr>,
        /// Full when the scheduler reads too slowly.
        outgoing: mpsc::Sender<HostMessage>,
        /// Dropping it ends the stream.
        guard: DropGuard,
    },
    Message(SchedulerMessage),
    Down {
        reason: String,
    },
}

/// Why a stream ended or never began.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{}", explain_status(.0))]
    Status(#[from] Status),
    #[error("it broke the protocol: {0}")]
    Message(#[from] MessageError),
    #[error("it did not answer our hello")]
    NoWelcome,
    #[error("it ended the stream")]
    Ended,
    #[error("one of us fell behind: beginning afresh")]
    Behind,
    #[error("{0}")]
    Distrust(Distrust),
}

impl LinkError {
    fn is_refusal(&self) -> bool {
        match self {
            Self::Connect(ConnectError::Role { .. } | ConnectError::Certificate(_))
            | Self::Distrust(_) => true,
            Self::Status(status) => matches!(
                status.code(),
                Code::PermissionDenied
                    | Code::InvalidArgument
                    | Code::FailedPrecondition
                    | Code::AlreadyExists
                    | Code::Unimplemented
            ),
            _ => false,
        }
    }
}

impl Link {
    /// Runs until the events are no longer read.
    pub(super) async fn run(self) {
        let mut wait = FIRST_WAIT;
        loop {
            let mut was_up = false;
            let Err(error) = self.stream(&mut was_up).await else {
                return;
            };
            if was_up {
                wait = FIRST_WAIT;
            }
            let reason = error.to_string();
            if self.tell(LinkEvent::Down { reason }).await.is_break() {
                return;
            }
            let longest = match error.is_refusal() {
                true => REFUSED_WAIT,
                false => wait,
            };
            sleep(longest.mul_f64(rand::random_range(0.5..1.0))).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// One stream, from connecting to its end. `Ok` when nobody listens to us any more.
    async fn stream(&self, was_up: &mut bool) -> Result<(), LinkError> {
        let address = &self.config.schedulers[self.number];
        let mut changes = self.config.security.changes();
        let Connected {
            channel,
            local,
            certificate,
        } = connect(address, &self.config.security).await?;
        let hello = self.hello(local);
        let advertised = hello
            .listener
            .as_ref()
            .map(|listener| listener.addresses.clone());
        let (outgoing, queue) = mpsc::channel(OUTGOING);
        let first = tokio_stream::once(HostMessage::Hello(hello));
        let messages = first.chain(ReceiverStream::new(queue));
        let call = SchedulerClient::new(channel);
        let call = timeout(WELCOME, begin(call, messages)).await;
        let (mut incoming, welcome) = call.map_err(|_| LinkError::NoWelcome)??;
        let dropped = CancellationToken::new();
        *was_up = true;
        let up = LinkEvent::Up {
            welcome,
            advertised: advertised.unwrap_or_default(),
            outgoing,
            guard: dropped.clone().drop_guard(),
        };
        if self.tell(up).await.is_break() {
            return Ok(());
        }
        loop {
            let message = tokio::select! {
                message = next(&mut incoming) => message?,
                () = dropped.cancelled() => return Err(LinkError::Behind),
                () = changes.changed() => {
                    self.check(certificate.as_ref())?;
                    continue;
                }
            };
            if let SchedulerMessage::Revocations(lists) = message {
                self.learn(&lists);
                continue;
            }
            if self.tell(LinkEvent::Message(message)).await.is_break() {
                return Ok(());
            }
        }
    }

    /// Whether the scheduler is believed still.
    fn check(&self, certificate: Option<&CertificateId>) -> Result<(), LinkError> {
        let checked = self.config.security.check(certificate);
        checked.map_err(LinkError::Distrust)
    }

    /// Takes up what was revoked. The lists are the authority's word, whoever brings them.
    fn learn(&self, lists: &[Vec<u8>]) {
        let Security::Tls(identity) = &self.config.security else {
            return;
        };
        let scheduler = &self.config.schedulers[self.number];
        for list in lists {
            match identity.learn(list) {
                Ok(Learned::Newer) => {
                    let revoked = identity.revoked_count();
                    tracing::info!(
                        scheduler,
                        revoked,
                        "got a newer list of revoked certificates"
                    );
                }
                Ok(Learned::Known) => {}
                Err(error) => {
                    tracing::warn!(scheduler, %error, "refused a list of revoked certificates");
                }
            }
        }
    }

    fn hello(&self, local: SocketAddr) -> Hello {
        let config = &self.config;
        let port = config.peer_port.and_then(NonZeroU16::new);
        let listener = port.map(|port| {
            let configured = !config.advertise.is_empty();
            let mut addresses = config.advertise.clone();
            addresses.truncate(MAX_ADDRESSES);
            if !configured {
                // The one that reaches the scheduler.
                addresses.push(SocketAddr::new(local.ip().to_canonical(), port.get()));
            }
            PeerListener {
                port,
                addresses,
                configured,
            }
        });
        Hello {
            host: config.host.clone(),
            role: config.role,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            listener,
            zone: config.zone.clone(),
            protocol: PROTOCOL,
        }
    }

    async fn tell(&self, event: LinkEvent) -> ControlFlow<()> {
        match self.events.send((self.number, event)).await {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}

/// Opens the stream and awaits the welcome.
async fn begin(
    mut client: SchedulerClient<tonic::transport::Channel>,
    messages: impl tokio_stream::Stream<Item = HostMessage> + Send + 'static,
) -> Result<(Streaming<proto::SchedulerMessage>, Welcome), LinkError> {
    let messages = messages.map(proto::HostMessage::from);
    let mut incoming = client.session(messages).await?.into_inner();
    match next(&mut incoming).await? {
        SchedulerMessage::Welcome(welcome) => Ok((incoming, welcome)),
        _ => Err(LinkError::NoWelcome),
    }
}

async fn next(
    incoming: &mut Streaming<proto::SchedulerMessage>,
) -> Result<SchedulerMessage, LinkError> {
    let message = incoming.message().await?.ok_or(LinkError::Ended)?;
    Ok(message.try_into()?)
}
