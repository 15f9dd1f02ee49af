//! Who of the schedulers that are up is told what.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use hawker_model::{TaskId, rendezvous};
use hawker_scheduler_api::{
    Duty as ApiDuty, Holding, HostMessage, MAX_ENTRIES, Parents, SchedulerMessage, TaskProgress,
};
use hawker_swarm::Duty;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::DropGuard;

use super::{
    SchedulerStatus, SessionConfig, SessionEvent,
    attempts::Attempts,
    handle::Command,
    link::{Link, LinkEvent},
};

/// Events of links that wait.
const LINK_EVENTS: usize = 256;
/// How often signs of life are sent until a scheduler says otherwise.
const PROGRESS: Duration = Duration::from_secs(2);

/// The loop between the driver and the links.
#[derive(Debug)]
pub(super) struct Placer {
    config: SessionConfig,
    events: mpsc::Sender<SessionEvent>,
    status: watch::Sender<Vec<SchedulerStatus>>,
    overflow: Arc<AtomicBool>,
    /// By number, those that are up.
    up: BTreeMap<usize, Up>,
    attempts: Attempts,
    progress: BTreeMap<TaskId, TaskProgress>,
    progress_interval: Duration,
}

/// A scheduler that is up.
#[derive(Debug)]
struct Up {
    outgoing: mpsc::Sender<HostMessage>,
    observed: IpAddr,
    advertised: Vec<SocketAddr>,
    _guard: DropGuard,
}

/// What wakes the loop.
enum Input {
    Command(Command),
    Link(usize, LinkEvent),
    Tick,
    /// The handle was dropped.
    Stop,
}

impl Placer {
    pub(super) fn new(
        config: SessionConfig,
        events: mpsc::Sender<SessionEvent>,
        status: watch::Sender<Vec<SchedulerStatus>>,
        overflow: Arc<AtomicBool>,
    ) -> Self {
        Self {
            config,
            events,
            status,
            overflow,
            up: BTreeMap::new(),
            attempts: Attempts::default(),
            progress: BTreeMap::new(),
            progress_interval: PROGRESS,
        }
    }

    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let (link_events, mut from_links) = mpsc::channel(LINK_EVENTS);
        let mut links = JoinSet::new();
        for number in 0..self.config.schedulers.len() {
            let link = Link {
                number,
                config: self.config.clone(),
                events: link_events.clone(),
            };
            links.spawn(link.run());
        }
        let mut ticks = interval(self.progress_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if ticks.period() != self.progress_interval {
                ticks = interval(self.progress_interval);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            }
            let input = tokio::select! {
                command = commands.recv() => command.map_or(Input::Stop, Input::Command),
                Some((number, event)) = from_links.recv() => Input::Link(number, event),
                _ = ticks.tick() => Input::Tick,
            };
            match input {
                Input::Command(command) => self.command(command),
                Input::Link(number, event) => {
                    for event in self.link_event(number, event) {
                        if self.events.send(event).await.is_err() {
                            return;
                        }
                    }
                }
                Input::Tick => self.send_progress(),
                Input::Stop => return,
            }
            if self.overflow.swap(false, Relaxed) {
                tracing::warn!("fell behind the driver; beginning the schedulers' streams afresh");
                self.up.clear();
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Lookup(task) => {
                let attempt = self.attempts.next(task, Instant::now());
                self.send_for(task, HostMessage::Lookup { task, attempt });
            }
            Command::Announce(holdings) => self.announce(holdings),
            Command::Withdraw(task) => {
                self.attempts.forget(&task);
                self.progress.remove(&task);
                self.send_for(task, HostMessage::Withdraw { task });
            }
            Command::Report(task, host, reason, piece) => {
                let report = HostMessage::Report {
                    task,
                    host,
                    reason,
                    piece: piece.map(|piece| piece.0),
                };
                self.send_for(task, report);
            }
            Command::Progress(progress) => {
                if self.progress.len() < MAX_ENTRIES {
                    self.progress.insert(progress.task, progress);
                }
            }
        }
    }

    fn announce(&mut self, holdings: Vec<Holding>) {
        let mut placed: BTreeMap<usize, Vec<Holding>> = BTreeMap::new();
        for holding in holdings {
            if holding.complete {
                self.attempts.forget(&holding.task);
                self.progress.remove(&holding.task);
            }
            if let Some(number) = self.place(&holding.task) {
                placed.entry(number).or_default().push(holding);
            }
        }
        for (number, holdings) in placed {
            for part in holdings.chunks(MAX_ENTRIES) {
                self.send(number, HostMessage::Announce(part.to_vec()));
            }
        }
    }

    /// The summaries since the last time, and a sign of life to those who get none.
    fn send_progress(&mut self) {
        let mut placed: BTreeMap<usize, Vec<TaskProgress>> = BTreeMap::new();
        for (task, progress) in std::mem::take(&mut self.progress) {
            if let Some(number) = self.place(&task) {
                placed.entry(number).or_default().push(progress);
            }
        }
        let up: Vec<usize> = self.up.keys().copied().collect();
        for number in up {
            let tasks = placed.remove(&number).unwrap_or_default();
            self.send(number, HostMessage::Progress(tasks));
        }
    }

    /// The scheduler that has the task while those are up that are.
    fn place(&self, task: &TaskId) -> Option<usize> {
        let names = self.up.keys().map(|number| {
            let name = self.config.schedulers[*number].as_str();
            (*number, name)
        });
        rendezvous(task, names, |(_, name)| name).map(|(number, _)| number)
    }

    fn send_for(&mut self, task: TaskId, message: HostMessage) {
        if let Some(number) = self.place(&task) {
            self.send(number, message);
        }
    }

    fn send(&mut self, number: usize, message: HostMessage) {
        let Some(up) = self.up.get(&number) else {
            return;
        };
        let sent = up.outgoing.try_send(message);
        if let Err(mpsc::error::TrySendError::Full(_)) = sent {
            let scheduler = &self.config.schedulers[number];
            tracing::warn!(
                scheduler,
                "the scheduler reads too slowly; connecting afresh"
            );
            self.up.remove(&number);
        }
    }

    fn link_event(&mut self, number: usize, event: LinkEvent) -> Vec<SessionEvent> {
        match event {
            LinkEvent::Up {
                welcome,
                advertised,
                outgoing,
                guard,
            } => {
                self.progress_interval = welcome.progress_interval;
                self.set_status(number, None);
                let up = Up {
                    outgoing,
                    observed: welcome.observed,
                    advertised,
                    _guard: guard,
                };
                self.up.insert(number, up);
                self.up_event(number).into_iter().collect()
            }
            LinkEvent::Message(message) => self.message(number, message).into_iter().collect(),
            LinkEvent::Down { reason } => self.down(number, reason),
        }
    }

    /// Asks the driver to tell everything again.
    fn up_event(&mut self, number: usize) -> Option<SessionEvent> {
        self.attempts.clear();
        let up = self.up.get(&number)?;
        Some(SessionEvent::Up {
            scheduler: self.config.schedulers[number].clone(),
            observed: up.observed,
            advertised: up.advertised.clone(),
        })
    }

    fn down(&mut self, number: usize, reason: String) -> Vec<SessionEvent> {
        self.up.remove(&number);
        let (was_up, news) = self.set_status(number, Some(reason.clone()));
        let mut events = Vec::new();
        if was_up || news {
            let scheduler = self.config.schedulers[number].clone();
            events.push(SessionEvent::Down { scheduler, reason });
        }
        let other = self.up.keys().next().copied();
        if let (true, Some(other)) = (was_up, other) {
            // The others take over its tasks.
            events.extend(self.up_event(other));
        }
        events
    }

    /// Notes how a scheduler stands; says whether it was up and whether the error is a new one.
    fn set_status(&self, number: usize, error: Option<String>) -> (bool, bool) {
        let mut before = (false, false);
        self.status.send_modify(|all| {
            let Some(status) = all.get_mut(number) else {
                return;
            };
            before = (status.connected, status.error != error);
            status.connected = error.is_none();
            status.error = error;
        });
        before
    }

    fn message(&mut self, number: usize, message: SchedulerMessage) -> Option<SessionEvent> {
        match message {
            // Of welcomes only the first counts, and the link took that, as it takes revocations.
            SchedulerMessage::Welcome(_) | SchedulerMessage::Revocations(_) => None,
            SchedulerMessage::Notice { level, text } => Some(SessionEvent::Notice {
                scheduler: self.config.schedulers[number].clone(),
                level,
                text,
            }),
            SchedulerMessage::Parents(parents) => Some(parents_event(parents)),
            SchedulerMessage::Seeds(seeds) => Some(SessionEvent::Seeds {
                scheduler: self.config.schedulers[number].clone(),
                seeds,
            }),
            SchedulerMessage::Liars(hosts) => Some(SessionEvent::Liars {
                scheduler: self.config.schedulers[number].clone(),
                hosts,
            }),
        }
    }
}

fn parents_event(parents: Parents) -> SessionEvent {
    let Parents {
        task,
        mut parents,
        duty,
        fetcher,
    } = parents;
    parents.sort_by_key(|parent| Some(&parent.host) != fetcher.as_ref());
    SessionEvent::Parents {
        task,
        parents,
        duty: match duty {
            ApiDuty::Wait => Duty::Wait,
            ApiDuty::Fetch => Duty::Fetch,
        },
        fetcher,
    }
}
