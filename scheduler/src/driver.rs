//! The loop that owns the tracker. It waits for an input, applies it, and performs what the tracker
//! asks for; it never waits for a host.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use hawker_identity::{Crl, Distrust};
use hawker_model::{HostId, Role};
use hawker_scheduler_api::{
    Duty as ApiDuty, Hello, Holding as ApiHolding, HostMessage, Level, PROTOCOL, Parents,
    PeerAddress, ReportReason, SchedulerMessage, TaskProgress, Welcome,
};
use hawker_tracker::{
    Accusation, Action, Duty, Holding, HostStatus, Misbehaviour, NewHost, Peer, Progress,
    Reachability, TaskStatus, Tracker,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::sleep_until,
};
use tonic::Status;

use crate::{
    Settings,
    connection::PeerInfo,
    metrics::Sample,
    probe::{Outcome, Probe},
    sessions::{NewSession, Session, SessionId, Sessions},
    status::{HostReport, StatusReport, TaskReport},
};

/// Inputs that wait for the loop.
pub(crate) const INPUTS: usize = 4096;

/// What wakes the loop.
#[derive(Debug)]
pub(crate) enum Input {
    Hello(Box<NewSession>, oneshot::Sender<Result<SessionId, Status>>),
    Message(SessionId, HostMessage),
    Gone(SessionId),
    Probed(SessionId, u32, Outcome),
    Timeout,
    /// Certificates may have been revoked.
    Trust,
    Snapshot(oneshot::Sender<Snapshot>),
    Status(oneshot::Sender<StatusReport>),
    /// End all sessions; answered when that is done.
    Stop(oneshot::Sender<()>),
}

/// What is measured.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) sample: Sample,
}

/// The loop's state.
pub(crate) struct Driver {
    settings: Settings,
    tracker: Tracker,
    sessions: Sessions,
    probes: JoinSet<(SessionId, u32, Outcome)>,
    slow: u64,
    stopping: bool,
    trust: Option<watch::Receiver<u64>>,
}

impl Driver {
    pub(crate) fn new(settings: Settings) -> Self {
        let tracker = Tracker::new(settings.tracker.clone(), rand::random(), Instant::now());
        let trust = settings.security.identity().map(|own| own.changes());
        Self {
            trust,
            settings,
            tracker,
            sessions: Sessions::default(),
            probes: JoinSet::new(),
            slow: 0,
            stopping: false,
        }
    }

    /// Runs until all senders of inputs are gone.
    pub(crate) async fn run(mut self, mut inputs: mpsc::Receiver<Input>) {
        while let Some(input) = self.wait(&mut inputs).await {
            let now = Instant::now();
            self.apply(input, now);
            self.perform();
        }
    }

    async fn wait(&mut self, inputs: &mut mpsc::Receiver<Input>) -> Option<Input> {
        let timeout = self.tracker.poll_timeout();
        tokio::select! {
            // Time first: hosts that talk without pause must not stop the clock.
            biased;
            () = sleep_until(timeout.into()) => Some(Input::Timeout),
            Some(Ok((id, attempt, outcome))) = self.probes.join_next() => {
                Some(Input::Probed(id, attempt, outcome))
            }
            () = changed(&mut self.trust) => Some(Input::Trust),
            input = inputs.recv() => input,
        }
    }

    fn apply(&mut self, input: Input, now: Instant) {
        match input {
            Input::Hello(new, reply) => {
                let answer = self.hello(*new, now);
                if let Err(Ok(id)) = reply.send(answer) {
                    self.gone(id);
                }
            }
            Input::Message(id, message) => self.message(id, message, now),
            Input::Gone(id) => self.gone(id),
            Input::Probed(id, attempt, outcome) => self.probed(id, attempt, &outcome),
            Input::Timeout => self.tracker.handle_timeout(now),
            Input::Trust => self.trust_changed(),
            Input::Snapshot(reply) => {
                let _ = reply.send(self.snapshot());
            }
            Input::Status(reply) => {
                let _ = reply.send(self.report(now));
            }
            Input::Stop(reply) => {
                self.stopping = true;
                for session in self.sessions.drain() {
                    session.end(Status::unavailable("the scheduler stops"));
                }
                let _ = reply.send(());
            }
        }
    }

    fn hello(&mut self, new: NewSession, now: Instant) -> Result<SessionId, Status> {
        if self.stopping {
            return Err(Status::unavailable("the scheduler stops"));
        }
        let protocol = agree(&new.hello)?;
        // It may have been revoked since the handshake.
        if let Some(reason) = self.distrust(&new.peer) {
            return Err(distrusted(reason));
        }
        let (host, role) = (new.hello.host.clone(), new.hello.role);
        let remote = new.peer.remote;
        let (id, replaced) = self.sessions.add(new, now).inspect_err(|status| {
            let reason = status.message();
            tracing::warn!(%host, %remote, reason, "refused a session");
        })?;
        if let Some(replaced) = replaced {
            tracing::info!(%host, "a newer session replaces the one before");
            replaced.end(Status::aborted(
                "a newer session of this host replaced this one",
            ));
        }
        let Some(session) = self.sessions.find(&host) else {
            return Err(Status::internal("the session is lost"));
        };
        session.send(SchedulerMessage::Welcome(Welcome {
            observed: session.observed(),
            scheduler: self.settings.name.to_string(),
            progress_interval: self.settings.progress_interval,
            protocol,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }));
        session.send_all(self.revocations());
        let addresses = session.addresses();
        let version = &session.hello.version;
        tracing::info!(%host, %role, %remote, ?addresses, version, "host connected");
        self.tracker.handle_hello(
            NewHost {
                host: host.clone(),
                role,
                addresses,
                zone: session.hello.zone.clone(),
            },
            now,
        );
        self.probe(id, 0);
        Ok(id)
    }

    fn distrust(&self, peer: &PeerInfo) -> Option<Distrust> {
        let own = self.settings.security.identity()?;
        own.check(&peer.certificate.as_ref()?.id).err()
    }

    /// What hosts are told of revoked certificates.
    fn revocations(&self) -> Vec<SchedulerMessage> {
        let own = self.settings.security.identity();
        let lists = own.map(|own| own.crls()).unwrap_or_default();
        let message = |list: &Crl| SchedulerMessage::Revocations(vec![list.der().to_vec()]);
        lists.iter().map(message).collect()
    }

    /// Parts with hosts that are no longer believed, and tells the others.
    fn trust_changed(&mut self) {
        let sessions = self.sessions.iter();
        let distrust = sessions.filter_map(|session| {
            let reason = self.distrust(&session.peer)?;
            Some((session.id, session.hello.host.clone(), reason))
        });
        let distrust: Vec<_> = distrust.collect();
        for (id, host, reason) in distrust {
            tracing::warn!(%host, %reason, "ended a session");
            self.end(id, distrusted(reason));
        }
        let news = self.revocations();
        let slow = self.sessions.iter();
        let slow = slow.filter(|session| !session.send_all(news.clone()));
        let slow: Vec<_> = slow.map(|session| session.hello.host.clone()).collect();
        slow.iter().for_each(|host| self.cut(host));
    }

    fn message(&mut self, id: SessionId, message: HostMessage, now: Instant) {
        let Some(session) = self.sessions.find_mut(id) else {
            return;
        };
        session.heard = now;
        let host = session.hello.host.clone();
        match message {
            HostMessage::Hello(_) => {}
            HostMessage::Announce(holdings) if self.has_room(&host, holdings.len()) => {
                let holdings: Vec<Holding> = holdings.iter().map(holding).collect();
                self.tracker.handle_announce(&host, &holdings, now);
            }
            HostMessage::Lookup { task, attempt } if self.has_room(&host, 1) => {
                tracing::debug!(%host, %task, attempt, "lookup");
                self.tracker.handle_lookup(&host, task, attempt, now);
            }
            HostMessage::Announce(_) | HostMessage::Lookup { .. } => {
                let most = self.settings.tasks_per_host;
                tracing::warn!(%host, most, "ended a session: too many tasks");
                let status = format!("you hold or want more than {most} tasks");
                self.end(id, Status::resource_exhausted(status));
            }
            HostMessage::Withdraw { task } => {
                tracing::debug!(%host, %task, "withdraw");
                self.tracker.handle_withdraw(&host, task, now);
            }
            HostMessage::Progress(tasks) => {
                let tasks: Vec<Progress> = tasks.into_iter().map(progress).collect();
                self.tracker.handle_progress(&host, &tasks, now);
            }
            HostMessage::Report {
                task,
                host: about,
                reason,
                piece,
            } => {
                let why = reason.as_str();
                tracing::warn!(reporter = %host, host = %about, %task, reason = why, piece, "report");
                let what = misbehaviour(reason);
                let accusation = (&about, Accusation { what, piece });
                self.tracker.handle_report(&host, task, accusation, now);
            }
        }
    }

    /// Whether a host may name so many tasks more. Those it names again count twice.
    fn has_room(&self, host: &HostId, tasks: usize) -> bool {
        self.tracker.task_count(host) + tasks <= self.settings.tasks_per_host
    }

    fn end(&mut self, id: SessionId, status: Status) {
        if let Some(session) = self.sessions.remove(id) {
            self.tracker.handle_gone(&session.hello.host);
            session.end(status);
        }
    }

    fn gone(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.remove(id) {
            let host = &session.hello.host;
            tracing::info!(%host, "host disconnected");
            self.tracker.handle_gone(host);
        }
    }

    fn probe(&mut self, id: SessionId, attempt: u32) {
        let Some(session) = self.sessions.find_mut(id) else {
            return;
        };
        let Some(listener) = &session.hello.listener else {
            return;
        };
        let probe = Probe {
            advertised: session.addresses(),
            seen: SocketAddr::new(session.observed(), listener.port.get()),
            attempt,
        };
        self.probes
            .spawn(async move { (id, attempt, probe.run().await) });
    }

    fn probed(&mut self, id: SessionId, attempt: u32, outcome: &Outcome) {
        let Some(session) = self.sessions.find_mut(id) else {
            return;
        };
        let host = session.hello.host.clone();
        let warning = outcome.warning();
        let notice = match (&warning, &session.warning) {
            (Some(warning), before) if before.as_ref() != Some(warning) => {
                tracing::warn!(%host, warning, "wrong advertised address");
                Some((Level::Warning, warning.clone()))
            }
            (None, Some(_)) => {
                let addresses = &outcome.reachable;
                tracing::info!(%host, ?addresses, "the advertised address can be reached now");
                let text = "the advertised address can be reached from the scheduler now";
                Some((Level::Info, text.to_owned()))
            }
            _ => None,
        };
        let wrong = warning.is_some();
        session.warning = warning;
        let sent = notice.is_none_or(|(level, text)| {
            let notice = SchedulerMessage::Notice { level, text };
            session.send(notice)
        });
        let reachability = match outcome.is_reachable() {
            true => Reachability::Reachable,
            false => Reachability::Unreachable,
        };
        self.tracker
            .handle_reachability(&host, reachability, outcome.addresses());
        if !sent {
            self.cut(&host);
        } else if wrong {
            self.probe(id, attempt + 1);
        }
    }

    fn perform(&mut self) {
        while let Some(action) = self.tracker.poll_action() {
            match action {
                Action::Parents {
                    to,
                    task,
                    parents,
                    duty,
                    fetcher,
                } => {
                    let parents = parents.into_iter().map(address);
                    let message = SchedulerMessage::Parents(Parents {
                        task,
                        parents: parents.collect(),
                        duty: match duty {
                            Duty::Wait => ApiDuty::Wait,
                            Duty::Fetch => ApiDuty::Fetch,
                        },
                        fetcher,
                    });
                    self.send(&to, message);
                }
                Action::Seeds { to, seeds } => {
                    let seeds = seeds.iter().cloned().map(address).collect();
                    self.send(&to, SchedulerMessage::Seeds(seeds));
                }
                Action::Liars { to, liars } => {
                    self.send(&to, SchedulerMessage::Liars(liars.to_vec()));
                }
                Action::Silent { host } => {
                    tracing::warn!(%host, "host fell silent");
                    if let Some(session) = self.sessions.remove_host(&host) {
                        session.end(Status::aborted("nothing was heard of you for too long"));
                    }
                }
                Action::Chosen { task, host, role } => {
                    tracing::info!(%task, %host, %role, "chosen to fetch from the origin");
                }
                Action::Isolated { host, reports } => {
                    tracing::warn!(%host, reports, "isolated: several hosts reported it");
                }
                Action::Paroled { host } => tracing::info!(%host, "no longer isolated"),
            }
        }
    }

    fn send(&mut self, to: &HostId, message: SchedulerMessage) {
        let session = self.sessions.find(to);
        if session.is_some_and(|session| !session.send(message)) {
            self.cut(to);
        }
    }

    /// Ends the session of a host that does not read what it is sent.
    fn cut(&mut self, host: &HostId) {
        self.slow += 1;
        tracing::warn!(%host, queue = self.settings.queue, "ended a session: reads too slowly");
        if let Some(session) = self.sessions.remove_host(host) {
            self.tracker.handle_gone(host);
            session.end(Status::resource_exhausted("you read too slowly"));
        }
    }

    fn snapshot(&self) -> Snapshot {
        let of = |role: Role| self.tracker.hosts().filter(move |h| h.role == role).count();
        let unreachable = self
            .tracker
            .hosts()
            .filter(|host| host.reachability == Reachability::Unreachable);
        let sample = Sample {
            nodes: of(Role::Node),
            seeds: of(Role::Seed),
            unreachable: unreachable.count(),
            isolated: self.tracker.isolated_count(),
            swarms: self.tracker.swarm_count(),
            streams: self.sessions.len(),
            slow: self.slow,
            counters: self.tracker.counters(),
        };
        Snapshot { sample }
    }

    fn report(&self, now: Instant) -> StatusReport {
        let hosts = self.tracker.hosts();
        let hosts = hosts.filter_map(|host| {
            let session = self.sessions.find(&host.host)?;
            Some(host_report(host, session, now))
        });
        StatusReport {
            scheduler: self.settings.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            hosts: hosts.collect(),
            tasks: self.tracker.tasks().map(task_report).collect(),
        }
    }
}

async fn changed(trust: &mut Option<watch::Receiver<u64>>) {
    if let Some(trust) = trust
        && trust.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

fn distrusted(reason: Distrust) -> Status {
    let what = match reason {
        Distrust::Revoked => "your certificate was revoked",
        Distrust::Authority => "your certificate's authority is no longer one of this cluster's",
    };
    Status::permission_denied(format!(
        "{what}: get a new one with `hawker join` or `hawker ca`"
    ))
}

/// The newest protocol version that both speak.
fn agree(hello: &Hello) -> Result<u32, Status> {
    let protocol = (*hello.protocol.end()).min(*PROTOCOL.end());
    if hello.protocol.contains(&protocol) && PROTOCOL.contains(&protocol) {
        return Ok(protocol);
    }
    Err(Status::failed_precondition(format!(
        "you speak versions {} to {} of the protocol, and this scheduler {} to {}: update the older",
        hello.protocol.start(),
        hello.protocol.end(),
        PROTOCOL.start(),
        PROTOCOL.end()
    )))
}

fn address(peer: Peer) -> PeerAddress {
    PeerAddress {
        host: peer.host,
        role: peer.role,
        addresses: peer.addresses,
    }
}

fn holding(holding: &ApiHolding) -> Holding {
    Holding {
        task: holding.task,
        pieces: holding.pieces,
        total: holding.total,
        complete: holding.complete,
    }
}

fn progress(progress: TaskProgress) -> Progress {
    Progress {
        task: progress.task,
        pieces: progress.pieces,
        total: progress.total,
        seed_bytes: progress.bytes.seed,
        parent_bytes: progress.bytes.parent,
        origin_bytes: progress.bytes.origin,
    }
}

fn misbehaviour(reason: ReportReason) -> Misbehaviour {
    match reason {
        ReportReason::CorruptPiece => Misbehaviour::CorruptPiece,
        ReportReason::FalseList => Misbehaviour::FalseList,
        ReportReason::Stalled => Misbehaviour::Stalled,
        ReportReason::Protocol => Misbehaviour::Protocol,
        ReportReason::Flood => Misbehaviour::Flood,
    }
}

fn host_report(host: HostStatus, session: &Session, now: Instant) -> HostReport {
    let reachability = match (host.addresses.is_empty(), host.reachability) {
        (true, _) => "none",
        (false, Reachability::Unchecked) => "unchecked",
        (false, Reachability::Reachable) => "reachable",
        (false, Reachability::Unreachable) => "unreachable",
    };
    let connected: Duration = now.saturating_duration_since(session.since);
    HostReport {
        host: host.host,
        role: host.role,
        version: session.hello.version.clone(),
        zone: host.zone,
        addresses: host.addresses,
        observed: session.observed(),
        reachability: reachability.to_owned(),
        isolated: host.isolated,
        reporters: host.reporters,
        warning: session.warning.clone(),
        connected_seconds: connected.as_secs(),
        tasks: host.tasks,
    }
}

fn task_report(task: TaskStatus) -> TaskReport {
    TaskReport {
        task: task.task.to_string(),
        fetcher: task.fetcher,
        complete: task.complete,
        seeking: task.seeking,
        members: task.members,
        total_pieces: task.total,
        pieces: task.pieces,
        origin_bytes: task.origin_bytes,
        seed_bytes: task.seed_bytes,
        parent_bytes: task.parent_bytes,
    }
}
