//! Both ends of HTTP without a library between: what no sound client or registry would send.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// An answer, as far as a status line, headers and a `Content-Length` tell it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RawAnswer {
    pub status: u16,
    /// In lower case.
    pub head: String,
    pub body: Vec<u8>,
}

/// A connection on which anything can be said.
pub(crate) struct RawClient {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl RawClient {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let unread = Vec::new();
        Self { stream, unread }
    }

    /// Writes as much as is taken: the other end may have had enough before.
    pub(crate) async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// The next answer; `None` if the connection ends before.
    pub(crate) async fn answer(&mut self) -> Option<RawAnswer> {
        let head = loop {
            if let Some(end) = find(&self.unread, b"\r\n\r\n") {
                let rest = self.unread.split_off(end + 4);
                break std::mem::replace(&mut self.unread, rest);
            }
            self.more().await?;
        };
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let status = head.split(' ').nth(1)?.parse().unwrap();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        while self.unread.len() < length.unwrap_or(0) {
            self.more().await?;
        }
        let rest = self.unread.split_off(length.unwrap_or(0));
        let body = std::mem::replace(&mut self.unread, rest);
        Some(RawAnswer { status, head, body })
    }

    /// All that comes until the other end closes; it must.
    pub(crate) async fn rest(mut self) -> Vec<u8> {
        while self.more().await.is_some() {}
        self.unread
    }

    async fn more(&mut self) -> Option<()> {
        let reading = self.stream.read_buf(&mut self.unread);
        let read = tokio::time::timeout(PATIENCE, reading).await;
        let read = read.expect("the other end neither answers nor closes");
        (read.ok()? > 0).then_some(())
    }
}

/// Says all of `bytes` on a new connection and takes what comes until it is closed.
pub(crate) async fn say(address: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
    let mut client = RawClient::connect(address).await;
    client.say(bytes).await;
    String::from_utf8_lossy(&client.rest().await).into_owned()
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|part| part == wanted)
}

/// A registry that answers every request with the same bytes and then says no more. Listens until
/// dropped.
pub(crate) struct RawOrigin {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    _server: JoinSet<()>,
}

impl RawOrigin {
    /// Writes `first` once, then `again` for ever if that is something, and keeps the connection.
    pub(crate) async fn start(first: impl Into<Vec<u8>>, again: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, first) = (Arc::clone(&asked), Arc::new(first.into()));
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (log, first) = (Arc::clone(&log), Arc::clone(&first));
                connections.spawn(async move {
                    // Whoever has had enough of it leaves.
                    let _ = converse(stream, &log, &first, again).await;
                });
            }
        });
        Self {
            address,
            asked,
            _server: server,
        }
    }

    /// The heads of all requests.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn converse(
    mut stream: TcpStream,
    log: &Mutex<Vec<String>>,
    first: &[u8],
    again: &[u8],
) -> std::io::Result<()> {
    let mut head = Vec::new();
    loop {
        while find(&head, b"\r\n\r\n").is_none() {
            if stream.read_buf(&mut head).await? == 0 {
                return Ok(());
            }
        }
        let text = String::from_utf8_lossy(&head).into_owned();
        log.lock().unwrap().push(text);
        head.clear();
        stream.write_all(first).await?;
        while !again.is_empty() {
            stream.write_all(again).await?;
        }
    }
}
