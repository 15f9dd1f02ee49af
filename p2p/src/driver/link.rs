//! Connections: one reader and one writer task each.
//!
//! Two hosts that dial each other at the same moment get two connections. Both stay: each side
//! sends on its first and hears both, so no message is lost to a tie-break.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use hawker_identity::{CertificateId, Distrust};
use hawker_model::{HostId, PieceIndex, TaskId};
use hawker_swarm::{Envelope, Message, Refusal};
use tokio::{
    sync::{Semaphore, mpsc},
    task::{AbortHandle, JoinSet},
};

use super::{
    event::{Event, LinkPeer},
    outbox::{Drawer, Outbox, Parcel, carried},
};
use crate::{
    blob::TaskState,
    brief::{Stopping, brief},
    counters::Counters,
    store::{BlobFile, ReadError},
    transport::{Connection, FrameReader, FrameWriter, Listener, Peer, WireError},
};

/// Frames that may wait for a peer before it counts as too slow to be one.
const MAX_QUEUED: usize = 16 << 10;
/// Frames written before one flush.
const WRITE_BATCH: usize = 64;
/// How long good-byes may take.
const CLOSE_GRACE: Duration = Duration::from_millis(500);

/// All connections.
pub(crate) struct Links {
    outbox: Outbox,
    by_host: BTreeMap<HostId, Vec<Link>>,
    tasks: JoinSet<()>,
    events: mpsc::Sender<Event>,
    budget: Arc<Semaphore>,
    counters: Arc<Counters>,
    next: u64,
}

struct Link {
    id: u64,
    peer: LinkPeer,
    words: mpsc::UnboundedSender<Word>,
    uploads: mpsc::UnboundedSender<Upload>,
    queued: Arc<AtomicUsize>,
    /// Of the room for content that waits to be sent.
    drawer: Drawer,
    /// Of the room for long pieces that arrive, with the host's other links.
    share: Arc<Semaphore>,
    reader: AbortHandle,
    writer: AbortHandle,
}

/// What a writer is to send at once.
enum Word {
    Close(String),
    Frame(Parcel),
}

/// A piece that a writer is to send when no word waits: requests and news that stood behind pieces
/// would come when they are of no use any more.
struct Upload {
    piece: PieceIndex,
    blob: Arc<BlobFile>,
    /// Of the task.
    state: Arc<TaskState>,
}

impl Links {
    pub(crate) fn new(
        events: mpsc::Sender<Event>,
        budget: Arc<Semaphore>,
        counters: Arc<Counters>,
    ) -> Self {
        let (by_host, tasks) = (BTreeMap::new(), JoinSet::new());
        Self {
            outbox: Outbox::default(),
            by_host,
            tasks,
            events,
            budget,
            counters,
            next: 0,
        }
    }

    /// Starts a connection's tasks; says whether it is the first to its host.
    pub(crate) fn add(&mut self, connection: Connection) -> bool {
        let Connection {
            peer,
            mut reader,
            writer,
        } = connection;
        if let Some(link) = self.by_host.get(&peer.host).and_then(|links| links.first()) {
            reader.share_with(&link.share);
        }
        let share = Arc::clone(reader.share());
        let (id, (words, words_queue)) = (self.next, mpsc::unbounded_channel());
        let (uploads, uploads_queue) = mpsc::unbounded_channel();
        self.next += 1;
        let queued = Arc::new(AtomicUsize::new(0));
        let reading = Reading {
            peer: peer.clone(),
            link: id,
            events: self.events.clone(),
            budget: Arc::clone(&self.budget),
        };
        let writing = Writing {
            host: peer.host.clone(),
            link: id,
            events: self.events.clone(),
            queued: Arc::clone(&queued),
            counters: Arc::clone(&self.counters),
        };
        let reader = self.tasks.spawn(reading.run(reader));
        let writing = writing.run(writer, words_queue, uploads_queue);
        let writer = self.tasks.spawn(writing);
        let link_peer = LinkPeer {
            role: peer.role,
            abilities: peer.abilities,
            address: peer.address,
            certificate: peer.certificate,
        };
        let links = self.by_host.entry(peer.host).or_default();
        links.push(Link {
            id,
            peer: link_peer,
            words,
            uploads,
            queued,
            drawer: self.outbox.drawer(),
            share,
            reader,
            writer,
        });
        links.len() == 1
    }

    /// Connections to a host.
    pub(crate) fn count(&self, host: &HostId) -> usize {
        self.by_host.get(host).map_or(0, Vec::len)
    }

    pub(crate) fn peer(&self, host: &HostId) -> Option<&LinkPeer> {
        self.by_host.get(host)?.first().map(|link| &link.peer)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&HostId, &LinkPeer)> {
        self.by_host
            .iter()
            .filter_map(|(host, links)| Some((host, &links.first()?.peer)))
    }

    /// Queues a message. A manifest for which there is no room among the content that waits to be
    /// sent is not given: its host is told to ask elsewhere.
    pub(crate) fn send(&mut self, host: &HostId, envelope: Envelope) {
        self.queue(host, |link| {
            let parcel = link.drawer.pack(envelope);
            link.words.send(Word::Frame(parcel)).is_ok()
        });
    }

    /// Says whether there was a connection to send on.
    pub(crate) fn upload(
        &mut self,
        host: &HostId,
        piece: PieceIndex,
        blob: Arc<BlobFile>,
        state: Arc<TaskState>,
    ) -> bool {
        let upload = Upload { piece, blob, state };
        self.queue(host, |link| link.uploads.send(upload).is_ok())
    }

    /// Ends all connections to a host, with a word to it. No event will tell of it.
    pub(crate) fn close(&mut self, host: &HostId, reason: &str) {
        for link in self.by_host.remove(host).unwrap_or_default() {
            link.reader.abort();
            let _ = link.words.send(Word::Close(reason.to_owned()));
        }
    }

    /// As [`Self::close`], for a host that is to get nothing more, whatever waits to be sent.
    pub(crate) fn cut(&mut self, host: &HostId, reason: &str) {
        let links = self.by_host.get(host).into_iter().flatten();
        let writers: Vec<_> = links.map(|link| link.writer.clone()).collect();
        self.close(host, reason);
        self.tasks.spawn(async move {
            tokio::time::sleep(CLOSE_GRACE).await;
            writers.iter().for_each(AbortHandle::abort);
        });
    }

    /// The hosts with a connection that `check` no longer believes, and why.
    pub(crate) fn distrusted(
        &self,
        check: impl Fn(Option<&CertificateId>) -> Result<(), Distrust>,
    ) -> Vec<(HostId, Distrust)> {
        let why = |links: &[Link]| {
            let checked = links
                .iter()
                .map(|link| check(link.peer.certificate.as_ref()));
            checked.filter_map(Result::err).next()
        };
        let hosts = self.by_host.iter();
        hosts
            .filter_map(|(host, links)| Some((host.clone(), why(links)?)))
            .collect()
    }

    pub(crate) async fn close_all(&mut self, reason: &str) {
        let hosts: Vec<_> = self.by_host.keys().cloned().collect();
        hosts.iter().for_each(|host| self.close(host, reason));
        let drained = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(CLOSE_GRACE, drained).await;
        self.tasks.abort_all();
    }

    /// A connection broke. Says what that means for the host.
    pub(crate) fn remove(&mut self, host: &HostId, id: u64) -> Removed {
        let Some(links) = self.by_host.get_mut(host) else {
            return Removed::Unknown;
        };
        let Some(at) = links.iter().position(|link| link.id == id) else {
            return Removed::Unknown;
        };
        // Nothing can be said on it any more, and what waits to be keeps its room.
        let link = links.remove(at);
        link.reader.abort();
        link.writer.abort();
        match (links.is_empty(), at) {
            (true, _) => {
                self.by_host.remove(host);
                Removed::Last
            }
            (false, 0) => Removed::Sending,
            (false, _) => Removed::Spare,
        }
    }

    /// Frees what tasks that ended hold.
    pub(crate) fn reap(&mut self) {
        while self.tasks.try_join_next().is_some() {}
    }

    fn queue(&mut self, host: &HostId, send: impl FnOnce(&Link) -> bool) -> bool {
        let Some(link) = self.by_host.get(host).and_then(|links| links.first()) else {
            return false;
        };
        if link.queued.fetch_add(1, Relaxed) >= MAX_QUEUED {
            // Its reader ends, reports the disconnection, and all is cleaned up from there.
            tracing::warn!(%host, "peer takes nothing off its connection: dropped");
            link.reader.abort();
            let (host, link) = (host.clone(), link.id);
            let events = self.events.clone();
            self.tasks.spawn(async move {
                let reason = "too slow".to_owned();
                let _ = events
                    .send(Event::Disconnected { host, link, reason })
                    .await;
            });
            return false;
        }
        send(link)
    }
}

/// What the loss of a connection means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removed {
    /// No connection to the host is left.
    Last,
    /// What was being sent is lost, but another connection is there.
    Sending,
    /// We did not send on it.
    Spare,
    /// It was given up before.
    Unknown,
}

struct Reading {
    peer: Peer,
    link: u64,
    events: mpsc::Sender<Event>,
    budget: Arc<Semaphore>,
}

impl Reading {
    async fn run(self, mut reader: FrameReader) {
        let reason = loop {
            match reader.next().await {
                Ok(Some(envelope)) => {
                    if !self.pass_on(envelope).await {
                        return;
                    }
                }
                Ok(None) => break "closed by the peer".to_owned(),
                Err(error) => {
                    let words = match &error {
                        WireError::Frame(_) => Some("what you sent is no message"),
                        WireError::Tardy(_) => Some("you began a piece and sent too little of it"),
                        _ => None,
                    };
                    if let Some(words) = words {
                        self.tell_breach(words, error.to_string()).await;
                    }
                    break error.to_string();
                }
            }
        };
        let (host, link) = (self.peer.host, self.link);
        let _ = self
            .events
            .send(Event::Disconnected { host, link, reason })
            .await;
    }

    async fn tell_breach(&self, words: &'static str, reason: String) {
        let (host, link) = (self.peer.host.clone(), self.link);
        let breach = Event::Breach {
            host,
            link,
            words,
            reason,
        };
        let _ = self.events.send(breach).await;
    }

    /// Waits for room; says whether the loop is still there.
    async fn pass_on(&self, envelope: Envelope) -> bool {
        let permit = match carried(&envelope.message) {
            0 => None,
            carried => {
                // At most 4 MiB (MAX_PIECE_LEN), which is below the budget.
                let len = u32::try_from(carried).unwrap_or(u32::MAX);
                match Arc::clone(&self.budget).acquire_many_owned(len).await {
                    Ok(permit) => Some(permit),
                    Err(_) => return false,
                }
            }
        };
        let (host, role) = (self.peer.host.clone(), self.peer.role);
        self.events
            .send(Event::Frame {
                host,
                role,
                envelope,
                permit,
            })
            .await
            .is_ok()
    }
}

struct Writing {
    host: HostId,
    link: u64,
    events: mpsc::Sender<Event>,
    queued: Arc<AtomicUsize>,
    counters: Arc<Counters>,
}

impl Writing {
    async fn run(
        self,
        mut writer: FrameWriter,
        mut words: mpsc::UnboundedReceiver<Word>,
        mut uploads: mpsc::UnboundedReceiver<Upload>,
    ) {
        let mut batch = Vec::with_capacity(WRITE_BATCH);
        let error = loop {
            let upload = tokio::select! {
                biased;
                _ = words.recv_many(&mut batch, WRITE_BATCH) => None,
                Some(upload) = uploads.recv() => {
                    // What was said before it goes first, as a piece is dropped whose chain value is
                    // not known: the queue of words was empty when it was looked at, but not since.
                    batch.extend(std::iter::from_fn(|| words.try_recv().ok()));
                    Some(upload)
                }
                () = writer.keep_alive() => match writer.flush().await {
                    Ok(()) => continue,
                    Err(error) => break error,
                },
            };
            let is_frame = |word: &&Word| matches!(word, Word::Frame(_));
            let taken = batch.iter().filter(is_frame).count() + usize::from(upload.is_some());
            self.queued.fetch_sub(taken, Relaxed);
            match batch.last() {
                None if upload.is_none() => return,
                // Whoever closes has no use for what stands before it.
                Some(Word::Close(reason)) => {
                    let _ = writer.goodbye(reason).await;
                    return;
                }
                _ => {}
            }
            let said = match batch.is_empty() {
                true => Ok(()),
                false => say(&mut writer, batch.drain(..)).await,
            };
            let written = match (said, upload) {
                (Ok(()), Some(upload)) => self.upload(&mut writer, upload).await,
                (said, _) => said,
            };
            if let Err(error) = written {
                break error;
            }
        };
        let (host, link, reason) = (self.host, self.link, error.to_string());
        let _ = self
            .events
            .send(Event::Disconnected { host, link, reason })
            .await;
    }

    /// Sends a piece; frees its slot whatever comes of it.
    async fn upload(&self, writer: &mut FrameWriter, upload: Upload) -> Result<(), WireError> {
        let Upload { piece, blob, state } = upload;
        let (task, len) = (state.task, blob.geometry().len_of(piece).into());
        match send_piece(writer, &task, piece, blob).await {
            Ok(()) => {
                self.counters.add_sent(len);
                state.counters.add_sent(len);
            }
            Err(UploadError::Wire(error)) => return Err(error),
            Err(UploadError::Read(error)) => {
                tracing::warn!(%task, %piece, %error, "cannot read a piece to send it");
                let _ = self.events.send(Event::Lost { task }).await;
                let (piece, reason) = (Some(piece), Refusal::Missing);
                let message = Message::Refuse { piece, reason };
                feed(writer, &Envelope { task, message }).await?;
            }
            Err(UploadError::Stopping) => return Ok(()),
        }
        writer.flush().await?;
        let host = self.host.clone();
        let _ = self
            .events
            .send(Event::Uploaded { host, task, piece })
            .await;
        Ok(())
    }
}

/// Why a piece is not sent.
enum UploadError {
    Read(ReadError),
    Wire(WireError),
    /// The runtime is going down.
    Stopping,
}

/// Sends a piece straight from its file; one that another program may change is read and looked at
/// before.
async fn send_piece(
    writer: &mut FrameWriter,
    task: &TaskId,
    piece: PieceIndex,
    blob: Arc<BlobFile>,
) -> Result<(), UploadError> {
    if let Some(extent) = blob.extent(piece).map_err(UploadError::Read)? {
        return match writer.feed_extent(task, piece, &extent).await {
            Ok(()) => Ok(()),
            Err(WireError::Unreadable(cause)) => Err(UploadError::Read(blob.lose(piece, cause))),
            Err(error) => Err(UploadError::Wire(error)),
        };
    }
    let len = blob.geometry().len_of(piece) as usize;
    let read = brief(len, move || blob.read_piece(piece)).await;
    let read = read.map_err(|Stopping| UploadError::Stopping)?;
    let data = read.map_err(UploadError::Read)?;
    let message = Message::Piece { piece, data };
    let task = *task;
    let fed = feed(writer, &Envelope { task, message }).await;
    fed.map_err(UploadError::Wire)
}

/// Sends words together.
async fn say(writer: &mut FrameWriter, batch: impl Iterator<Item = Word>) -> Result<(), WireError> {
    for word in batch {
        // A close is always the last of its queue, and was looked for before.
        if let Word::Frame(parcel) = word {
            feed(writer, parcel.envelope()).await?;
        }
    }
    writer.flush().await
}

/// Feeds a message; one that does not fit the protocol is dropped, since the connection is sound.
async fn feed(writer: &mut FrameWriter, envelope: &Envelope) -> Result<(), WireError> {
    match writer.feed(envelope).await {
        Err(WireError::Unsendable(error)) => {
            tracing::error!(task = %envelope.task, %error, "a message cannot be sent");
            Ok(())
        }
        other => other,
    }
}

/// Hands on whoever connects, until the loop is gone.
pub(crate) async fn accept(mut listener: Listener, events: mpsc::Sender<Event>) {
    loop {
        match listener.accept().await {
            Ok(connection) => {
                if events
                    .send(Event::Connected(Box::new(connection)))
                    .await
                    .is_err()
                {
                    return;
                }
            }
            Err(error) if error.is_probe() => tracing::debug!(%error, "nobody's connection"),
            Err(error) => tracing::warn!(%error, "refused a peer"),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hawker_model::{Digest, Role};
    use hawker_swarm::{GivenManifest, Resolution};

    use super::*;
    use crate::transport::{Dialer, Security};

    const LEN: usize = 256 << 10;

    /// Connections to hosts that do not read yet.
    struct Bench {
        links: Links,
        far: Vec<Connection>,
        hosts: Vec<HostId>,
        events: mpsc::Receiver<Event>,
    }

    impl Bench {
        async fn with_hosts(count: usize) -> Self {
            let (sender, events) = mpsc::channel(1000);
            let budget = Arc::new(Semaphore::new(64 << 20));
            let mut links = Links::new(sender, budget, Arc::default());
            let (mut far, mut hosts) = (Vec::new(), Vec::new());
            let seed = HostId::parse("seed").unwrap();
            let listen = ([127, 0, 0, 1], 0).into();
            let mut listener = Listener::bind(listen, plain(&seed, Role::Seed)).unwrap();
            for number in 0..count {
                let host = HostId::parse(&format!("node-{number}")).unwrap();
                let dialer = Dialer::new(plain(&host, Role::Node));
                let dialing = dialer.dial(&seed, listener.local_addr().unwrap());
                let (dialed, accepted) = tokio::join!(dialing, listener.accept());
                links.add(accepted.unwrap());
                far.push(dialed.unwrap());
                hosts.push(host);
            }
            Self {
                links,
                far,
                hosts,
                events,
            }
        }

        /// Answers a question of each host, each with bytes of its own; none of it is on its way before
        /// somebody waits.
        fn answer_all(&mut self, number: u64) {
            for host in &self.hosts {
                let bytes = Bytes::from(vec![b' '; LEN]);
                let manifest = GivenManifest {
                    digest: Digest::of(&bytes),
                    media_type: "a/b".to_owned(),
                    length: LEN as u64,
                    bytes: Some(bytes.clone()),
                };
                let resolution = Some(Resolution::Given(manifest));
                let message = Message::Resolved { number, resolution };
                let task = TaskId::Blob(Digest::of(b"layer"));
                self.links.send(host, Envelope { task, message });
            }
        }

        /// Until nothing waits to be sent.
        async fn all_is_free(&self) {
            while self.links.outbox.free() < 16 << 20 {
                tokio::task::yield_now().await;
            }
        }

        /// How many of `count` answers to each host bring the manifest.
        async fn read_all(&mut self, count: usize) -> usize {
            let mut given = 0;
            for connection in &mut self.far {
                for _ in 0..count {
                    let got = connection.reader.next().await.unwrap().unwrap();
                    given += usize::from(carried(&got.message) > 0);
                }
            }
            given
        }
    }

    fn plain(host: &HostId, role: Role) -> Security {
        Security::Plain {
            host: host.clone(),
            role,
        }
    }

    #[tokio::test]
    async fn every_question_is_answered_and_room_is_free_again_once_answers_are_sent() {
        let mut bench = Bench::with_hosts(20).await;
        for round in 0..2 {
            for number in 0..5 {
                bench.answer_all(number);
            }
            assert_eq!(bench.links.outbox.free(), 0, "round {round}");
            assert_eq!(bench.read_all(5).await, 64, "round {round}");
            bench.all_is_free().await;
        }
        assert!(bench.events.try_recv().is_err(), "nobody is hung up on");
    }

    #[tokio::test]
    async fn room_of_what_was_not_sent_is_free_again_when_its_connection_ends() {
        let mut bench = Bench::with_hosts(2).await;
        for number in 0..5 {
            bench.answer_all(number);
        }
        assert_eq!(bench.links.outbox.free(), 14 << 20);
        bench.links.close(&bench.hosts[0], "done");
        drop(bench.far.remove(1));
        bench.links.remove(&bench.hosts[1], 1);
        bench.all_is_free().await;
    }

    #[tokio::test]
    async fn room_is_free_again_when_a_connection_that_takes_nothing_is_given_up() {
        let mut bench = Bench::with_hosts(1).await;
        // Its buffers take what they can.
        for number in 0.. {
            bench.answer_all(number);
            let taken = tokio::time::timeout(Duration::from_millis(200), bench.all_is_free()).await;
            if taken.is_err() {
                break;
            }
        }
        bench.links.remove(&bench.hosts[0], 0);
        // Its writer would give up by itself, but not soon.
        let freed = tokio::time::timeout(Duration::from_secs(10), bench.all_is_free()).await;
        assert!(freed.is_ok());
    }
}
