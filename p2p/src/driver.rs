//! The one loop of a node.
//!
//! It waits for inputs (commands of the API, events of connections, store jobs, origin fetches and
//! the scheduler session, timers), gives each to the sans-IO [`Swarm`], then performs the actions
//! the swarm asks for. Nothing else changes the swarm's state, so nothing is locked.
//!
//! Work that takes time runs in tasks the loop owns: one reader and one writer per connection
//! (`link`), one fetch per task (`fetch`), store jobs (`perform`), judgements (`claims`). They answer
//! through one bounded channel; a reader that finds it full stops reading its socket, which is the
//! back-pressure. The loop itself never waits for any of them.

mod adopting;
mod claims;
mod contact;
mod entry;
mod event;
mod fetch;
mod handle;
mod link;
mod outbox;
mod pacing;
mod peers;
mod perform;
mod scheduler;
mod signer;
mod status;
mod stored;
mod traffic;
mod words;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use hawker_model::{HostId, PieceIndex, Role, TaskId};
use hawker_swarm::{Swarm, SwarmConfig};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

pub(crate) use self::{claims::Ask, event::Command, signer::ListSigner, traffic::TrafficBoard};
use self::{
    claims::Desk,
    contact::Contacts,
    entry::Entry,
    event::{Arrived, Event},
    link::Links,
    pacing::Wishes,
    traffic::TrafficMeter,
};
use crate::{
    counters::Counters,
    node::NodeSettings,
    origin::OriginClient,
    session::{SessionEvent, SessionHandle},
    store::Store,
    throttle::OriginPace,
    transport::{Dialer, Listener, Security, TrustChanges},
};

/// Events that may wait for the loop.
const EVENT_QUEUE: usize = 1024;
/// Received pieces, in bytes, that may wait for the disk or be on their way to it: for each of the
/// [`STORE_JOBS`] one of the largest. Readers stop when it is used up.
const RECEIVE_BUDGET: usize = 16 << 20;
/// Pieces checked and written at the same time.
const STORE_JOBS: usize = 4;
/// How often the store's state is made durable and the scheduler gets a summary.
const CHECKPOINT: Duration = Duration::from_secs(2);
/// Inputs taken before the loop looks at the clock again.
const BATCH: usize = 64;

/// The loop's state.
pub(crate) struct Driver {
    host: HostId,
    role: Role,
    swarm: Swarm,
    desk: Desk,
    store: Store,
    origin: OriginClient,
    origin_pace: Arc<OriginPace>,
    wishes: Wishes,
    session: SessionHandle,
    session_events: mpsc::Receiver<SessionEvent>,
    counters: Arc<Counters>,
    traffic: TrafficMeter,
    /// Why the store's state was not written the last time: told once.
    trouble: Arc<Mutex<Option<String>>>,
    entries: BTreeMap<TaskId, Entry>,
    /// The piece of the message being handled.
    arrived: Option<(TaskId, PieceIndex, Arrived)>,
    links: Links,
    contacts: Contacts,
    signer: ListSigner,
    dialer: Arc<Dialer>,
    security: Security,
    trust: TrustChanges,
    /// Hosts that are being dialled.
    dialing: BTreeSet<HostId>,
    /// When seeds were last connected to for what might come.
    expected_at: Option<Instant>,
    advertised: Vec<std::net::SocketAddr>,
    warnings: Vec<String>,
    /// Every task the loop started but those of the links.
    jobs: JoinSet<()>,
    store_jobs: Arc<Semaphore>,
    /// Held by whoever reads a doubted piece again.
    doubts: Arc<Semaphore>,
    events: mpsc::Sender<Event>,
    inbox: mpsc::Receiver<Event>,
    /// The next number of a fetch or an epoch.
    next: u64,
}

impl Driver {
    pub(crate) fn new(
        settings: &NodeSettings,
        store: Store,
        origin: OriginClient,
        (session, session_events): (SessionHandle, mpsc::Receiver<SessionEvent>),
        counters: Arc<Counters>,
        dialer: Dialer,
    ) -> Self {
        let (events, inbox) = mpsc::channel(EVENT_QUEUE);
        let config = SwarmConfig {
            role: settings.role,
            host: settings.host.clone(),
            zone: settings.zone.clone(),
            ..settings.swarm.clone()
        };
        let links = Links::new(
            events.clone(),
            Arc::new(Semaphore::new(RECEIVE_BUDGET)),
            Arc::clone(&counters),
        );
        Self {
            host: settings.host.clone(),
            role: settings.role,
            swarm: Swarm::new(config, rand::random()),
            desk: Desk::new(settings.role),
            store,
            origin,
            origin_pace: Arc::new(OriginPace::new(settings.swarm.limits.back_to_source)),
            wishes: Wishes::default(),
            session,
            session_events,
            links,
            counters,
            traffic: TrafficMeter::new(Instant::now()),
            trouble: Arc::default(),
            entries: BTreeMap::new(),
            arrived: None,
            contacts: Contacts::new(settings.seeds.clone()),
            signer: ListSigner::new(&settings.security),
            dialer: Arc::new(dialer),
            security: settings.security.clone(),
            trust: settings.security.changes(),
            dialing: BTreeSet::new(),
            expected_at: None,
            advertised: settings.advertise.clone(),
            warnings: Vec::new(),
            jobs: JoinSet::new(),
            store_jobs: Arc::new(Semaphore::new(STORE_JOBS)),
            doubts: Arc::new(Semaphore::new(1)),
            events,
            inbox,
            next: 0,
        }
    }

    /// Where the traffic is told.
    pub(crate) fn traffic(&self) -> TrafficBoard {
        self.traffic.board()
    }

    /// Runs until [`Command::Stop`], or until every [`crate::Node`] is gone.
    pub(crate) async fn run(
        mut self,
        listener: Option<Listener>,
        mut commands: mpsc::UnboundedReceiver<Command>,
    ) {
        if let Some(listener) = listener {
            self.jobs.spawn(link::accept(listener, self.events.clone()));
        }
        let mut checkpoint = tokio::time::interval(CHECKPOINT);
        checkpoint.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let input = tokio::select! {
                biased;
                command = commands.recv() => match command {
                    None | Some(Command::Stop) => break,
                    Some(command) => Input::Command(command),
                },
                () = sleep_until(self.poll_timeout()) => Input::Timeout,
                _ = checkpoint.tick() => Input::Checkpoint,
                () = self.trust.changed() => Input::Trust,
                Some(event) = self.session_events.recv() => Input::Session(event),
                Some(event) = self.inbox.recv() => Input::Event(event),
            };
            if matches!(input, Input::Timeout) {
                // What was said in time is not overdue, however late we are.
                self.take_events(self.inbox.len());
            }
            self.apply(input);
            self.take_events(BATCH);
            while self.jobs.try_join_next().is_some() {}
            self.links.reap();
        }
        self.stop().await;
    }

    /// Gives what waits to the swarm, at most so much of it.
    fn take_events(&mut self, most: usize) {
        for _ in 0..most {
            let Ok(event) = self.inbox.try_recv() else {
                break;
            };
            self.apply(Input::Event(event));
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let deadlines = [self.swarm.poll_timeout(), self.desk.claims.poll_timeout()];
        deadlines.into_iter().flatten().min()
    }

    /// Gives one input to the swarm and does what it answers.
    fn apply(&mut self, input: Input) {
        let now = Instant::now();
        match input {
            Input::Checkpoint => self.checkpoint(now),
            Input::Command(command) => self.handle_command(command, now),
            Input::Event(event) => self.handle_event(event, now),
            Input::Session(event) => self.handle_session(event, now),
            Input::Timeout => {
                self.swarm.handle_timeout(now);
                self.desk.claims.handle_timeout(now);
            }
            Input::Trust => self.handle_trust(now),
        }
        self.perform_actions(now);
    }

    /// Writes the store's state, withdraws what was evicted, tells the scheduler how tasks stand.
    fn checkpoint(&mut self, now: Instant) {
        for task in self.store.take_evicted() {
            self.handle_evicted(task, now);
        }
        self.measure_traffic(now);
        self.rest_idle();
        crate::transport::rest();
        self.send_progress();
        let (store, trouble) = (self.store.clone(), Arc::clone(&self.trouble));
        self.jobs.spawn_blocking(move || {
            let now = store.checkpoint().err().map(|error| error.to_string());
            let mut before = trouble.lock().unwrap_or_else(PoisonError::into_inner);
            match (&now, &*before) {
                (Some(error), old) if old.as_ref() != Some(error) => {
                    tracing::error!(
                        error,
                        "cannot write the blob store's state, and tries again"
                    );
                }
                (None, Some(_)) => tracing::info!("the blob store's state is written again"),
                _ => {}
            }
            *before = now;
        });
    }

    async fn stop(mut self) {
        // Ends the wait of readers.
        self.entries.clear();
        self.links.close_all("stopping").await;
        self.jobs.abort_all();
        while self.jobs.join_next().await.is_some() {}
        let store = self.store.clone();
        let closed = tokio::task::spawn_blocking(move || store.close()).await;
        if let Ok(Err(error)) = closed {
            tracing::error!(%error, "cannot write the blob store's state");
        }
    }
}

/// Whatever can wake the loop.
enum Input {
    Checkpoint,
    Command(Command),
    Event(Event),
    Session(SessionEvent),
    Timeout,
    /// Certificates may have been revoked.
    Trust,
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
