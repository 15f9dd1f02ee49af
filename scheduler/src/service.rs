//! The gRPC side of a session: takes a stream's hello, then hands what it says to the driver.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use hawker_model::Role;
use hawker_scheduler_api::{
    Hello, HostMessage, MessageError, SchedulerMessage,
    proto::{self, scheduler_server},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    connection::PeerInfo,
    driver::Input,
    ending::Ending,
    sessions::{NewSession, SessionId},
};

/// For a client's first word.
const HELLO: Duration = Duration::from_secs(5);

/// The service. One for all streams.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) inputs: mpsc::Sender<Input>,
    pub(crate) queue: usize,
}

#[tonic::async_trait]
impl scheduler_server::Scheduler for Service {
    type SessionStream = Outgoing;

    async fn session(
        &self,
        request: Request<Streaming<proto::HostMessage>>,
    ) -> Result<Response<Outgoing>, Status> {
        let peer = request.extensions().get::<PeerInfo>().cloned();
        let peer = peer.ok_or_else(|| Status::internal("the connection has no peer"))?;
        let mut incoming = request.into_inner();
        let hello = timeout(HELLO, hello(&mut incoming)).await;
        let hello = hello.unwrap_or_else(|_| Err(Status::deadline_exceeded("no hello came")));
        let hello = hello.and_then(|hello| check(&hello, &peer).map(|()| hello));
        let hello = hello.inspect_err(|status| {
            let (remote, reason) = (peer.remote, status.message());
            tracing::warn!(%remote, reason, "refused a session");
        })?;
        let (outgoing, queue) = mpsc::channel(self.queue);
        let ending = Ending::default();
        let (reply, answer) = oneshot::channel();
        let new = NewSession {
            hello,
            peer,
            outgoing,
            ending: ending.clone(),
        };
        self.send(Input::Hello(Box::new(new), reply)).await?;
        let session = answer.await.map_err(|_| stopping())??;
        let reader = Reader {
            session,
            inputs: self.inputs.clone(),
            ending: ending.clone(),
        };
        // Owned by the stream: it ends with it, or when the driver ends the session.
        tokio::spawn(reader.run(incoming));
        Ok(Response::new(Outgoing::new(queue, ending)))
    }
}

impl Service {
    async fn send(&self, input: Input) -> Result<(), Status> {
        self.inputs.send(input).await.map_err(|_| stopping())
    }
}

fn stopping() -> Status {
    Status::unavailable("the scheduler stops")
}

fn malformed(error: &MessageError) -> Status {
    Status::invalid_argument(error.to_string())
}

async fn hello(incoming: &mut Streaming<proto::HostMessage>) -> Result<Hello, Status> {
    let ended = || Status::invalid_argument("the stream ended before a hello");
    let first = incoming.message().await?.ok_or_else(ended)?;
    match HostMessage::try_from(first) {
        Ok(HostMessage::Hello(hello)) => Ok(hello),
        Ok(_) => Err(Status::invalid_argument("the first message is no hello")),
        Err(error) => Err(malformed(&error)),
    }
}

/// A host is who its certificate says.
fn check(hello: &Hello, peer: &PeerInfo) -> Result<(), Status> {
    let Some(certificate) = &peer.certificate else {
        return Ok(());
    };
    let (said, proven) = (
        (&hello.host, hello.role),
        (&certificate.host, certificate.role),
    );
    if proven.1 == Role::Scheduler {
        return Err(Status::permission_denied(format!(
            "your certificate is that of scheduler {}: only nodes and seeds have business here",
            proven.0
        )));
    }
    if said == proven {
        return Ok(());
    }
    Err(Status::permission_denied(format!(
        "you say that you are {} {}, but your certificate says {} {}: correct node.name and \
         node.role, or issue this host a certificate with `hawker ca`",
        said.1, said.0, proven.1, proven.0
    )))
}

/// Reads one host's messages.
struct Reader {
    session: SessionId,
    inputs: mpsc::Sender<Input>,
    ending: Ending,
}

impl Reader {
    async fn run(self, mut incoming: Streaming<proto::HostMessage>) {
        tokio::select! {
            status = self.read(&mut incoming) => self.ending.end(status),
            _ = self.ending.ended() => {}
        }
        let _ = self.inputs.send(Input::Gone(self.session)).await;
    }

    /// Why no more is read.
    async fn read(&self, incoming: &mut Streaming<proto::HostMessage>) -> Status {
        loop {
            let message = match incoming.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return Status::cancelled("the host ended the stream"),
                Err(status) => return status,
            };
            let message = match HostMessage::try_from(message) {
                Ok(HostMessage::Hello(_)) => {
                    return Status::invalid_argument("a second hello on one stream");
                }
                Ok(message) => message,
                Err(error) => {
                    let session = self.session;
                    tracing::warn!(%session, %error, "ended a session: bad message");
                    return malformed(&error);
                }
            };
            let input = Input::Message(self.session, message);
            if self.inputs.send(input).await.is_err() {
                return stopping();
            }
        }
    }
}

/// What is sent to one host: its queue, then the reason for the end.
pub(crate) struct Outgoing {
    queue: mpsc::Receiver<SchedulerMessage>,
    end: Option<Pin<Box<dyn Future<Output = Status> + Send>>>,
}

impl Outgoing {
    fn new(queue: mpsc::Receiver<SchedulerMessage>, ending: Ending) -> Self {
        Self {
            queue,
            end: Some(Box::pin(async move { ending.ended().await })),
        }
    }
}

impl Stream for Outgoing {
    type Item = Result<proto::SchedulerMessage, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(end) = &mut self.end else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(status) = end.as_mut().poll(cx) {
            self.end = None;
            return Poll::Ready(Some(Err(status)));
        }
        match self.queue.poll_recv(cx) {
            Poll::Ready(Some(message)) => Poll::Ready(Some(Ok(message.into()))),
            // The driver dropped its end: the reason follows.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}
