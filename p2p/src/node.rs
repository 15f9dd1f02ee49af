//! A host's place in the piece network: what hawkerd runs, as node or as seed.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use hawker_model::{Digest, HostId, Role, TaskId};
use hawker_swarm::{
    Finding, Limits, ManifestWish, NoSeed, Question, Rate, Resolution, Source, SwarmConfig, Verdict,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use crate::{
    blob::{Blob, Reader},
    counters::{BytesBySource, Counters},
    driver::{Ask, Command, Driver, ListSigner, TrafficBoard},
    origin::{OriginClient, OriginConfig, OriginConfigError},
    race::Race,
    request::NodeRequest,
    session::{Session, SessionConfig},
    status::{NodeStatus, RoomStatus, Traffic},
    store::{BlobError, BlobSummary, Need, OpenStoreError, Pin, StateError, Store, StoreConfig},
    transport::{Dialer, Listener, Security, frame},
};

/// Questions that wait for the owner.
const REQUESTS: usize = 1024;
/// How long a stopping node waits for its driver.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Everything a node needs to know.
#[derive(Debug)]
pub struct NodeSettings {
    /// This host's name; with TLS, the one in its certificate.
    pub host: HostId,
    /// Node or seed.
    pub role: Role,
    /// How peers and schedulers are authenticated.
    pub security: Security,
    /// Where peers connect to; `None` for a node without a network.
    pub peer_listen: Option<SocketAddr>,
    /// Addresses others are to use; empty: the local address that reaches the scheduler.
    pub advertise: Vec<SocketAddr>,
    /// Where the host stands, for the choice of parents.
    pub zone: String,
    /// `host:port` of every scheduler.
    pub schedulers: Vec<String>,
    /// Seeds to use when no scheduler answers.
    pub seeds: Vec<SeedAddress>,
    /// The blob store's directory.
    pub store_dir: PathBuf,
    /// Its limits.
    pub store: StoreConfig,
    /// Registries and how to talk to them.
    pub origin: OriginConfig,
    /// Timing and bounds of the swarm.
    pub swarm: SwarmConfig,
}

/// A seed known from the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeedAddress {
    pub host: HostId,
    /// `host:port`, resolved when it is dialled.
    pub address: String,
}

/// A running node. Cheap to clone; [`Node::shutdown`] ends it for all.
#[derive(Clone, Debug)]
pub struct Node {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    signer: ListSigner,
    origin: OriginClient,
    counters: Arc<Counters>,
    traffic: TrafficBoard,
    commands: mpsc::UnboundedSender<Command>,
    driver: tokio::sync::Mutex<Option<JoinHandle<()>>>,
    peer_address: Option<SocketAddr>,
    role: Role,
    plain: bool,
    /// Numbers of claims.
    next_claim: AtomicU64,
    has_owner: AtomicBool,
}

impl Node {
    /// Opens the store, binds the peer port and starts the driver.
    pub async fn start(settings: NodeSettings) -> Result<Self, StartError> {
        let (dir, store_config) = (settings.store_dir.clone(), settings.store.clone());
        let store = tokio::task::spawn_blocking(move || Store::open(&dir, store_config))
            .await
            .map_err(|_| StartError::Stopping)??;
        let origin = OriginClient::new(settings.origin.clone())?;
        let listener = match settings.peer_listen {
            Some(address) => Some(listen(address, &settings)?),
            None => None,
        };
        let peer_address = listener.as_ref().map(|(_, address)| *address);
        let session = Session::spawn(session_config(&settings, peer_address));
        let counters = Arc::new(Counters::default());
        let (commands, inbox) = mpsc::unbounded_channel();
        let driver = Driver::new(
            &settings,
            store.clone(),
            origin.clone(),
            session,
            Arc::clone(&counters),
            Dialer::new(settings.security.clone()).in_zone(&settings.zone),
        );
        let traffic = driver.traffic();
        let driver = tokio::spawn(driver.run(listener.map(|(listener, _)| listener), inbox));
        let driver = tokio::sync::Mutex::new(Some(driver));
        let inner = Inner {
            store,
            signer: ListSigner::new(&settings.security),
            origin,
            counters,
            traffic,
            commands,
            driver,
            peer_address,
            role: settings.role,
            plain: matches!(settings.security, Security::Plain { .. }),
            next_claim: AtomicU64::new(0),
            has_owner: AtomicBool::new(false),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Opens a task for reading. `source` says where its bytes may be had when no peer has them.
    /// What is complete in the store is answered without the network. Cancel safe.
    pub async fn open(&self, task: TaskId, source: Option<Source>) -> Result<Blob, OpenError> {
        if let Some(blob) = self.find_or_heal(task, source.clone()).await? {
            return Ok(blob);
        }
        let (reply, answer) = oneshot::channel();
        let open = Command::Open {
            task,
            source,
            reader: Reader::new(task, self.inner.commands.clone()),
            reply,
        };
        self.inner
            .commands
            .send(open)
            .map_err(|_| OpenError::Stopping)?;
        let (state, reader) = answer.await.map_err(|_| OpenError::Stopping)?;
        let pin = self.pin(task).await?;
        Ok(Blob::downloading(state, reader, pin))
    }

    /// Says that tasks will be opened soon: seeds are connected to meanwhile.
    pub fn expect_tasks(&self) {
        let _ = self.inner.commands.send(Command::Expect);
    }

    /// The task, if all of it is in the store. Cancel safe.
    pub async fn find(&self, task: TaskId) -> Result<Option<Blob>, OpenError> {
        self.find_or_heal(task, None).await
    }

    /// The task, if all of it is in the store; should some turn out lost, `source` has it again.
    async fn find_or_heal(
        &self,
        task: TaskId,
        source: Option<Source>,
    ) -> Result<Option<Blob>, OpenError> {
        let (store, driver) = (self.inner.store.clone(), self.inner.commands.clone());
        if store.look_up(&task).is_none() {
            return Ok(None);
        }
        let find = move || {
            let pin = store.pin(&task);
            let blob = store.find(&task).filter(|blob| blob.is_complete())?;
            blob.touch();
            Some(Blob::complete_in_store(blob, pin, source, driver))
        };
        tokio::task::spawn_blocking(find)
            .await
            .map_err(|_| OpenError::Stopping)
    }

    /// What the store does not have is not pinned, and not looked for on the disk.
    async fn pin(&self, task: TaskId) -> Result<Option<Pin>, OpenError> {
        let store = self.inner.store.clone();
        if store.look_up(&task).is_none() {
            return Ok(None);
        }
        let pin = tokio::task::spawn_blocking(move || store.pin(&task)).await;
        pin.map_err(|_| OpenError::Stopping)
    }

    /// Deletes a blob and withdraws it from the network; says whether it went. One that is pinned,
    /// or that somebody waits for while it is fetched, stays. Who reads it goes on.
    pub async fn remove(&self, digest: Digest) -> Result<bool, BlobError> {
        let (reply, answer) = oneshot::channel();
        let task = TaskId::Blob(digest);
        let sent = self.inner.commands.send(Command::Remove { task, reply });
        sent.map_err(|_| StateError::Closed)?;
        answer.await.unwrap_or(Err(StateError::Closed.into()))
    }

    /// How the store has the task. Does not block.
    pub fn look_up(&self, task: &TaskId) -> Option<BlobSummary> {
        self.inner.store.look_up(task)
    }

    /// All blobs of the store, ordered by task. Does not block.
    pub fn blobs(&self) -> Vec<BlobSummary> {
        self.inner.store.blobs()
    }

    /// The store's limits and the room on its disk. Does not block.
    pub fn room(&self) -> RoomStatus {
        self.inner.store.room()
    }

    /// While what is returned lives, the quota does not keep the blob from being fetched: for what
    /// somebody relies on, who can have it nowhere else. Does not block.
    pub fn need(&self, digest: Digest) -> Need {
        self.inner.store.need(TaskId::Blob(digest))
    }

    /// Bytes of the blobs that [`Self::set_pinned`] keeps, but for those of other programs. Does not
    /// block.
    pub fn pinned_bytes(&self) -> u64 {
        self.inner.store.pinned_bytes()
    }

    /// Keeps a blob from being evicted, also by later processes, until it is unpinned: durable when
    /// it returns. `false`: the store does not have it.
    pub async fn set_pinned(&self, digest: Digest, pinned: bool) -> Result<bool, BlobError> {
        let store = self.inner.store.clone();
        let set = move || store.set_pinned(&TaskId::Blob(digest), pinned);
        let set = tokio::task::spawn_blocking(set).await;
        match set.unwrap_or(Err(StateError::Closed.into())) {
            Ok(()) => Ok(true),
            Err(BlobError::Unknown(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Changes the limits of what is sent and received; what is under way keeps to them as well.
    pub fn set_limits(&self, limits: Limits) {
        // A driver that is gone moves nothing.
        let _ = self.inner.commands.send(Command::SetLimits(limits));
    }

    /// Lets a task come to this host no faster than this, from hosts or its origin, until what is
    /// returned is dropped; only as long as nobody here waits for it who has not asked for a rate.
    pub fn hold_to(&self, task: TaskId, rate: Rate) -> HeldRate {
        let commands = self.inner.commands.clone();
        let _ = commands.send(Command::Wish { task, rate });
        HeldRate {
            task,
            rate,
            commands,
        }
    }

    /// Unpins many blobs by one durable change. Those that are not here are none.
    pub async fn unpin(&self, digests: Vec<Digest>) -> Result<(), BlobError> {
        let store = self.inner.store.clone();
        let tasks: Vec<TaskId> = digests.into_iter().map(TaskId::Blob).collect();
        let unpin = move || store.unpin(&tasks);
        let unpinned = tokio::task::spawn_blocking(unpin).await;
        Ok(unpinned.unwrap_or(Err(StateError::Closed))?)
    }

    /// What the node asks of its owner from now on. `None` when that was called before.
    pub fn requests(&self) -> Option<mpsc::Receiver<NodeRequest>> {
        if self.inner.has_owner.swap(true, Relaxed) {
            return None;
        }
        let (owner, requests) = mpsc::channel(REQUESTS);
        // A driver that is gone asks nothing.
        let _ = self.inner.commands.send(Command::Requests(owner));
        Some(requests)
    }

    /// Asks the task's seed whether whoever shows the source's credential may have it; of all hosts
    /// that ask, all ask the same seed. Fails within 250 ms when no seed gives a sign of life; after
    /// that the judgement takes as long as it takes, at most a minute. Dropping the future ends the
    /// wait. `race` is one of this question's own.
    pub async fn ask_seed(
        &self,
        task: TaskId,
        source: &Source,
        race: &Race,
    ) -> Result<Verdict, NoSeed> {
        if !frame::fits(source) {
            return Err(NoSeed::TooLong);
        }
        let finding = self
            .ask(task, Question::Right(source.clone()), race)
            .await?;
        // No other answer is taken for it.
        finding.into_verdict().ok_or(NoSeed::Stopping)
    }

    /// Asks the seed of a repository what the registry gives for one of its manifests. Bytes in the
    /// answer have its digest; where the URL names one, that is it. All else is the seed's word. On a
    /// plain network, where nobody proves who it is, no word is asked for: only the bytes of a
    /// digest. Otherwise as [`Node::ask_seed`].
    pub async fn ask_manifest(
        &self,
        wish: &ManifestWish,
        race: &Race,
    ) -> Result<Resolution, NoSeed> {
        if self.inner.plain && !wish.is_provable() {
            return Err(NoSeed::PlainWord);
        }
        if !frame::wish_fits(wish) {
            return Err(NoSeed::TooLong);
        }
        let question = Question::Manifest(wish.clone());
        let finding = self.ask(wish.place(), question, race).await?;
        finding.into_resolution().ok_or(NoSeed::Stopping)
    }

    async fn ask(&self, task: TaskId, question: Question, race: &Race) -> Result<Finding, NoSeed> {
        if self.inner.role == Role::Seed {
            return Err(NoSeed::Ourselves);
        }
        if self.inner.plain && question.source().authorization.is_some() {
            return Err(NoSeed::Plain);
        }
        let (reply, answer) = oneshot::channel();
        let number = self.inner.next_claim.fetch_add(1, Relaxed);
        let ask = Ask {
            number,
            task,
            question,
            reply,
        };
        let commands = &self.inner.commands;
        let sent = commands.send(Command::Ask(Box::new(ask)));
        sent.map_err(|_| NoSeed::Stopping)?;
        let _open = OpenClaim {
            number,
            race,
            commands,
        };
        answer.await.unwrap_or(Err(NoSeed::Stopping))
    }

    pub(crate) fn store(&self) -> &Store {
        &self.inner.store
    }

    pub(crate) fn signer(&self) -> &ListSigner {
        &self.inner.signer
    }

    pub(crate) fn commands(&self) -> &mpsc::UnboundedSender<Command> {
        &self.inner.commands
    }

    /// The client for origins, for what does not go through the swarm.
    pub fn origin(&self) -> &OriginClient {
        &self.inner.origin
    }

    /// The address peers connect to.
    pub fn peer_address(&self) -> Option<SocketAddr> {
        self.inner.peer_address
    }

    /// Bytes moved since the start.
    pub fn bytes(&self) -> BytesBySource {
        self.inner.counters.snapshot()
    }

    /// What moves now: measured every few seconds. Does not block.
    pub fn traffic(&self) -> Traffic {
        self.inner.traffic.now()
    }

    /// Tasks, peers and schedulers as they stand.
    pub async fn status(&self) -> Result<NodeStatus, OpenError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Status { reply };
        self.inner
            .commands
            .send(command)
            .map_err(|_| OpenError::Stopping)?;
        answer.await.map_err(|_| OpenError::Stopping)
    }

    /// Says good-bye to peers and schedulers, writes the store's state and stops. Readers that wait
    /// get an error. A second call does nothing.
    pub async fn shutdown(&self) {
        let _ = self.inner.commands.send(Command::Stop);
        let Some(mut driver) = self.inner.driver.lock().await.take() else {
            return;
        };
        if tokio::time::timeout(STOP_GRACE, &mut driver).await.is_err() {
            tracing::warn!("the driver did not stop in time");
            driver.abort();
        }
    }
}

/// A reader's wish that a task comes no faster than this: see [`Node::hold_to`].
#[derive(Debug)]
pub struct HeldRate {
    task: TaskId,
    rate: Rate,
    commands: mpsc::UnboundedSender<Command>,
}

impl Drop for HeldRate {
    fn drop(&mut self) {
        let (task, rate) = (self.task, self.rate);
        // A driver that is gone moves nothing.
        let _ = self.commands.send(Command::WishEnded { task, rate });
    }
}

/// Tells the driver that nobody waits for the claim any more.
struct OpenClaim<'a> {
    number: u64,
    race: &'a Race,
    commands: &'a mpsc::UnboundedSender<Command>,
}

impl Drop for OpenClaim<'_> {
    fn drop(&mut self) {
        let number = self.number;
        let _ = self.commands.send(match self.race.is_lost() {
            true => Command::Outrun { number },
            false => Command::Unask { number },
        });
    }
}

fn listen(
    address: SocketAddr,
    settings: &NodeSettings,
) -> Result<(Listener, SocketAddr), StartError> {
    let bind = || {
        let listener = Listener::bind(address, settings.security.clone())?;
        let listener = listener.in_zone(&settings.zone);
        let bound = listener.local_addr()?;
        Ok((listener, bound))
    };
    bind().map_err(|source| StartError::Listen { address, source })
}

fn session_config(settings: &NodeSettings, peer_address: Option<SocketAddr>) -> SessionConfig {
    SessionConfig {
        schedulers: settings.schedulers.clone(),
        security: settings.security.clone(),
        host: settings.host.clone(),
        role: settings.role,
        advertise: settings.advertise.clone(),
        peer_port: peer_address.map(|address| address.port()),
        zone: settings.zone.clone(),
    }
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen for peers on {address} (p2p.listen): {source}")]
    Listen {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error(transparent)]
    Origin(#[from] OriginConfigError),
    #[error("stopped while starting")]
    Stopping,
    #[error(transparent)]
    Store(#[from] OpenStoreError),
}

/// Why a task cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error("hawkerd is stopping")]
    Stopping,
}
