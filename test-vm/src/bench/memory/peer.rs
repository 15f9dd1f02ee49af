//! Peers that take pieces and keep nothing.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use anyhow::{Context, Result, bail};
use hawker_identity::Identity;
use hawker_model::{Digest, Geometry, HostId, TaskId};
use hawker_p2p::{Connection, Dialer, Security};
use hawker_swarm::{Envelope, Message, Source};
use tokio::{runtime::Runtime, sync::watch, task::JoinSet};

/// Pieces of the seed's choice that a peer has on order.
const CREDIT: u16 = 16;

/// A blob that each peer takes its share of.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    task: TaskId,
    url: String,
    /// Pieces of one peer.
    share: u64,
}

impl Wanted {
    pub(super) fn new(digest: &str, url: String, length: u64, peers: u16) -> Result<Self> {
        let pieces = Geometry::for_length(length)?.piece_count();
        Ok(Self {
            task: TaskId::Blob(Digest::parse(digest)?),
            url,
            share: u64::from(pieces) / u64::from(peers),
        })
    }

    fn say(&self, message: Message) -> Envelope {
        let task = self.task;
        Envelope { task, message }
    }

    fn join(&self) -> Envelope {
        let source = Source {
            url: self.url.clone(),
            authorization: None,
        };
        let source = Some(source);
        self.say(Message::Join { source })
    }
}

/// All of them, on threads of their own.
#[derive(Debug, Default)]
pub(super) struct Peers {
    runtime: Option<Runtime>,
    tasks: JoinSet<Result<()>>,
    wanted: watch::Sender<Option<Wanted>>,
    /// How many have their share of what is wanted.
    served: Arc<AtomicU64>,
    count: u64,
}

impl Peers {
    /// Connects one peer for each identity, from inside the host that calls this.
    pub(super) fn connect(
        &mut self,
        seed: &str,
        address: SocketAddr,
        identities: Vec<Identity>,
    ) -> Result<()> {
        // Its threads are in the network of the one that makes it.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let seed = HostId::parse(seed)?;
        self.count = identities.len() as u64;
        for identity in identities {
            let dialer = Dialer::new(Security::Tls(Arc::new(identity)));
            let connection = runtime.block_on(dialer.dial(&seed, address))?;
            let (wanted, served) = (self.wanted.subscribe(), Arc::clone(&self.served));
            let peer = run(connection, wanted, served);
            self.tasks.spawn_on(peer, runtime.handle());
        }
        self.runtime = Some(runtime);
        Ok(())
    }

    pub(super) fn want(&self, wanted: &Wanted) {
        self.served.store(0, SeqCst);
        self.wanted.send_replace(Some(wanted.clone()));
    }

    /// Whether all have their share.
    pub(super) fn have_all(&mut self) -> Result<bool> {
        if let Some(ended) = self.tasks.try_join_next() {
            ended??;
            bail!("a peer ended");
        }
        Ok(self.served.load(SeqCst) == self.count)
    }
}

/// One peer: takes its share of each blob, then waits for the next.
async fn run(
    mut connection: Connection,
    mut wanted: watch::Receiver<Option<Wanted>>,
    served: Arc<AtomicU64>,
) -> Result<()> {
    let mut last: Option<Wanted> = None;
    loop {
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() {
                return Ok(());
            },
            // Pings are answered, and what comes late is dropped.
            message = connection.reader.next() => {
                message?.context("the seed said good-bye")?;
                continue;
            }
            () = connection.writer.keep_alive() => {
                connection.writer.flush().await?;
                continue;
            }
        }
        let now = wanted.borrow_and_update().clone();
        if let Some(wanted) = now {
            if let Some(last) = last.replace(wanted.clone()) {
                // Not before: a connection that serves no task is given up.
                connection.writer.feed(&last.say(Message::Leave)).await?;
            }
            take(&mut connection, &wanted).await?;
            served.fetch_add(1, SeqCst);
        }
    }
}

async fn take(connection: &mut Connection, wanted: &Wanted) -> Result<()> {
    let Connection { reader, writer, .. } = connection;
    let more = || wanted.say(Message::RequestAny { credit: CREDIT });
    writer.feed(&wanted.join()).await?;
    writer.feed(&more()).await?;
    writer.flush().await?;
    let (mut got, mut credit) = (0, CREDIT);
    while got < wanted.share {
        let envelope = tokio::select! {
            envelope = reader.next() => envelope?.context("the seed said good-bye")?,
            () = writer.keep_alive() => {
                writer.flush().await?;
                continue;
            }
        };
        match envelope.message {
            Message::Piece { .. } if envelope.task == wanted.task => {
                (got, credit) = (got + 1, credit - 1)
            }
            Message::Refuse { reason, .. } => bail!("the seed refuses: {reason:?}"),
            _ => {}
        }
        if credit <= CREDIT / 2 {
            credit = CREDIT;
            writer.feed(&more()).await?;
            writer.flush().await?;
        }
    }
    let nothing = wanted.say(Message::RequestAny { credit: 0 });
    writer.feed(&nothing).await?;
    Ok(writer.flush().await?)
}
