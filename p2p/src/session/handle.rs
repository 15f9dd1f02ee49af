//! What the driver holds of a session.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use hawker_model::{HostId, PieceIndex, TaskId};
use hawker_scheduler_api::{Holding, ReportReason, TaskProgress};
use hawker_swarm::Misbehaviour;
use tokio::sync::{mpsc, watch};

use super::{SchedulerStatus, SessionConfig, SessionEvent, placer::Placer};

/// What the driver may be ahead of the schedulers.
const COMMANDS: usize = 8192;
/// Events that wait for the driver.
const EVENTS: usize = 1024;

/// The streams to all schedulers. See the module's page.
#[derive(Debug)]
pub struct Session;

impl Session {
    /// Starts. Everything stops when the handle is dropped.
    pub fn spawn(config: SessionConfig) -> (SessionHandle, mpsc::Receiver<SessionEvent>) {
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let (events, outbox) = mpsc::channel(EVENTS);
        let status = config.schedulers.iter().map(|address| SchedulerStatus {
            address: address.clone(),
            connected: false,
            error: None,
        });
        let (status, watched) = watch::channel(status.collect());
        let overflow = Arc::new(AtomicBool::new(false));
        let placer = Placer::new(config, events, status, Arc::clone(&overflow));
        tokio::spawn(placer.run(inbox));
        let handle = SessionHandle {
            commands,
            status: watched,
            overflow,
        };
        (handle, outbox)
    }
}

/// Tells the schedulers. No method waits; while no scheduler is up, what is told is dropped, since
/// [`SessionEvent::Up`] asks for it again.
#[derive(Debug)]
pub struct SessionHandle {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<Vec<SchedulerStatus>>,
    overflow: Arc<AtomicBool>,
}

/// What a handle tells its placer.
#[derive(Debug)]
pub(super) enum Command {
    Lookup(TaskId),
    Announce(Vec<Holding>),
    Withdraw(TaskId),
    Report(TaskId, HostId, ReportReason, Option<PieceIndex>),
    Progress(TaskProgress),
}

impl SessionHandle {
    /// Asks for parents; again, when those named so far proved useless. The answer is
    /// [`SessionEvent::Parents`], maybe several.
    pub fn lookup(&self, task: TaskId) {
        self.tell(Command::Lookup(task));
    }

    /// Says what we hold of a task.
    pub fn announce(&self, holding: Holding) {
        self.tell(Command::Announce(vec![holding]));
    }

    /// Says what we hold of many tasks.
    pub fn announce_all(&self, holdings: Vec<Holding>) {
        self.tell(Command::Announce(holdings));
    }

    /// We neither want nor serve the task any more; if we were to fetch it, we failed.
    pub fn withdraw(&self, task: TaskId) {
        self.tell(Command::Withdraw(task));
    }

    /// A peer did wrong, maybe with one piece.
    pub fn report(
        &self,
        task: TaskId,
        host: HostId,
        reason: Misbehaviour,
        piece: Option<PieceIndex>,
    ) {
        let reason = match reason {
            Misbehaviour::CorruptPiece => ReportReason::CorruptPiece,
            Misbehaviour::FalseList => ReportReason::FalseList,
            Misbehaviour::Stalled => ReportReason::Stalled,
            Misbehaviour::Protocol => ReportReason::Protocol,
            Misbehaviour::Flood => ReportReason::Flood,
        };
        self.tell(Command::Report(task, host, reason, piece));
    }

    /// How a download goes. Sent on with the next summary; only the last of each task counts.
    pub fn progress(&self, progress: TaskProgress) {
        self.tell(Command::Progress(progress));
    }

    /// Whether any scheduler is up.
    pub fn is_up(&self) -> bool {
        self.status.borrow().iter().any(|status| status.connected)
    }

    /// Every configured scheduler.
    pub fn status(&self) -> Vec<SchedulerStatus> {
        self.status.borrow().clone()
    }

    fn tell(&self, command: Command) {
        if self.commands.try_send(command).is_err() {
            // What is lost now is told again after the fresh start that this brings about.
            self.overflow.store(true, Relaxed);
        }
    }
}
