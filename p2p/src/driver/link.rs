//! Connections: one reader and one writer task each.
//!
//! Two hosts that dial each other at the same moment get two connections. Both stay: each side
//! sends on its first and hears both, so no message is lost to a tie-break.

mod listening;
mod queue;
mod reading;
mod writing;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hawker_identity::{CertificateId, Distrust};
use hawker_model::{HostId, PieceIndex};
use hawker_swarm::Envelope;
use tokio::{
    sync::{Semaphore, mpsc},
    task::{AbortHandle, JoinSet},
};

use self::{
    listening::Listening,
    queue::queue,
    reading::Reading,
    writing::{Upload, Word, Writing},
};
use super::{
    event::{Event, LinkPeer},
    outbox::{Drawer, Outbox},
};
use crate::{
    blob::TaskState,
    counters::Counters,
    store::BlobFile,
    transport::{Connection, Listener, Pulse},
};

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
    queue: queue::Sender<Word, Upload>,
    /// Of the room for content that waits to be sent.
    drawer: Drawer,
    /// Of the room for long pieces that arrive, with the host's other links.
    share: Arc<Semaphore>,
    reader: AbortHandle,
    writer: AbortHandle,
    pulse: Arc<Pulse>,
    /// A sign of life was asked for; whether it comes is looked at.
    listening: Option<AbortHandle>,
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(listening) = &self.listening {
            listening.abort();
        }
    }
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
        let (share, pulse) = (Arc::clone(reader.share()), Arc::clone(reader.pulse()));
        let (id, (queue, waiting)) = (self.next, queue());
        self.next += 1;
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
            counters: Arc::clone(&self.counters),
        };
        let reader = self.tasks.spawn(reading.run(reader));
        let writer = self.tasks.spawn(writing.run(writer, waiting));
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
            queue,
            drawer: self.outbox.drawer(),
            share,
            reader,
            writer,
            pulse,
            listening: None,
        });
        links.len() == 1
    }

    /// Asks a host for a sign of life, unless that is under way: events tell when it gives none within so
    /// long, and when it is heard again.
    pub(crate) fn ping(&mut self, host: &HostId, within: Duration) {
        let links = self.by_host.get_mut(host);
        let Some(link) = links.and_then(|links| links.first_mut()) else {
            return;
        };
        if link.listening.as_ref().is_some_and(|l| !l.is_finished()) {
            return;
        }
        let listening = Listening {
            host: host.clone(),
            link: link.id,
            pulse: Arc::clone(&link.pulse),
            events: self.events.clone(),
        };
        link.listening = Some(self.tasks.spawn(listening.run(within)));
    }

    /// Whether a connection to a host stands.
    pub(crate) fn has(&self, host: &HostId, id: u64) -> bool {
        let links = self.by_host.get(host).into_iter().flatten();
        links.map(|link| link.id).any(|link| link == id)
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
            link.queue.say(Word::Frame(parcel))
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
        self.queue(host, |link| link.queue.give(upload))
    }

    /// Ends all connections to a host, with a word to it. No event will tell of it.
    pub(crate) fn close(&mut self, host: &HostId, reason: &str) {
        for link in self.by_host.remove(host).unwrap_or_default() {
            link.reader.abort();
            link.queue.say(Word::Close(reason.to_owned()));
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
        if link.queue.is_full() {
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
    use hawker_model::{Digest, Role, TaskId};
    use hawker_swarm::{GivenManifest, Message, Resolution};

    use super::*;
    use crate::{
        driver::outbox::carried,
        transport::{Dialer, Security},
    };

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
