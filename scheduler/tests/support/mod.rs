//! A scheduler on a port of its own, and hosts that speak to it message by message.

#![allow(dead_code, clippy::unwrap_used, reason = "shared by tests")]

use std::{net::SocketAddr, num::NonZeroU16, time::Duration};

use hawker_model::{Digest, HostId, Role, TaskId};
use hawker_scheduler::{Scheduler, Security, Settings, StatusReport};
use hawker_scheduler_api::{
    Hello, HostMessage, Parents, PeerListener, SchedulerMessage,
    proto::{self, scheduler_client::SchedulerClient},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

pub(crate) fn host(name: &str) -> HostId {
    HostId::parse(name).unwrap()
}

pub(crate) fn task() -> TaskId {
    TaskId::Blob(Digest::of(b"layer"))
}

pub(crate) fn settings() -> Settings {
    let any = "127.0.0.1:0".parse().unwrap();
    let mut settings = Settings::new(host("scheduler"), any, Security::Plain);
    settings.http = Some(any);
    settings.tracker.settle_time = Duration::ZERO;
    settings
}

pub(crate) async fn start(settings: Settings) -> Scheduler {
    Scheduler::start(settings).await.unwrap()
}

pub(crate) fn hello(name: &str, role: Role, listener: Option<SocketAddr>) -> Hello {
    Hello {
        host: host(name),
        role,
        version: "test".into(),
        listener: listener.map(|address| PeerListener {
            port: NonZeroU16::new(address.port()).unwrap(),
            addresses: vec![address],
            configured: true,
        }),
        zone: String::new(),
        protocol: 1..=1,
    }
}

/// One host's stream.
pub(crate) struct Host {
    outgoing: mpsc::Sender<proto::HostMessage>,
    incoming: Streaming<proto::SchedulerMessage>,
    _channel: Channel,
}

impl Host {
    /// Connects and is welcomed.
    pub(crate) async fn connect(scheduler: &Scheduler, hello: Hello) -> Result<Self, Status> {
        Self::connect_to(scheduler.address(), hello).await
    }

    pub(crate) async fn connect_to(scheduler: SocketAddr, hello: Hello) -> Result<Self, Status> {
        let first = HostMessage::Hello(hello).into();
        let mut host = Self::open(scheduler, first).await?;
        match host.next().await? {
            SchedulerMessage::Welcome(welcome) => assert_eq!(welcome.scheduler, "scheduler"),
            other => panic!("no welcome: {other:?}"),
        }
        Ok(host)
    }

    /// Connects with any first message.
    pub(crate) async fn open(
        scheduler: SocketAddr,
        first: proto::HostMessage,
    ) -> Result<Self, Status> {
        let url = format!("http://{scheduler}");
        let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
        let (outgoing, queue) = mpsc::channel(64);
        outgoing.send(first).await.unwrap();
        let mut client = SchedulerClient::new(channel.clone());
        let call = client.session(ReceiverStream::new(queue));
        let incoming = timeout(PATIENCE, call).await.unwrap()?.into_inner();
        Ok(Self {
            outgoing,
            incoming,
            _channel: channel,
        })
    }

    pub(crate) async fn say(&self, message: HostMessage) {
        self.say_raw(message.into()).await;
    }

    pub(crate) async fn say_raw(&self, message: proto::HostMessage) {
        self.outgoing.send(message).await.unwrap();
    }

    /// Says something if the stream still stands.
    pub(crate) async fn try_say(&self, message: HostMessage) -> bool {
        self.outgoing.send(message.into()).await.is_ok()
    }

    pub(crate) async fn lookup(&self) {
        self.say(HostMessage::Lookup {
            task: task(),
            attempt: 0,
        })
        .await;
    }

    pub(crate) async fn next(&mut self) -> Result<SchedulerMessage, Status> {
        let message = timeout(PATIENCE, self.incoming.message()).await;
        let message = message.expect("an answer in time")?;
        let message = message.ok_or_else(|| Status::cancelled("the stream ended"))?;
        Ok(message.try_into().unwrap())
    }

    /// The next message about parents.
    pub(crate) async fn parents(&mut self) -> Parents {
        loop {
            if let SchedulerMessage::Parents(parents) = self.next().await.unwrap() {
                return parents;
            }
        }
    }

    /// The next word about liars.
    pub(crate) async fn liars(&mut self) -> Vec<HostId> {
        loop {
            if let SchedulerMessage::Liars(liars) = self.next().await.unwrap() {
                return liars;
            }
        }
    }

    /// The next notice.
    pub(crate) async fn notice(&mut self) -> String {
        loop {
            if let SchedulerMessage::Notice { text, .. } = self.next().await.unwrap() {
                return text;
            }
        }
    }

    /// Why the stream ends.
    pub(crate) async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(10);

/// The body of an answer, and its status line.
pub(crate) async fn get(address: SocketAddr, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

pub(crate) async fn status(scheduler: &Scheduler) -> StatusReport {
    let (_, body) = get(scheduler.http().unwrap(), "/v1/status").await;
    serde_json::from_str(&body).unwrap()
}
