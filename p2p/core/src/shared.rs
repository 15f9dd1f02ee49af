//! What all tasks of a swarm share: settings, the rng, links, upload slots, and the way out.

use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use hawker_model::{HostId, TaskId};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::{
    Action, Envelope, Message, Misbehaviour, SwarmConfig, download::Downloads, link::Links,
    quarantine::Quarantine, upload::Uploads,
};

/// Whether a reader waits for a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waits {
    Somebody,
    Nobody,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: SwarmConfig,
    pub(crate) rng: SmallRng,
    pub(crate) actions: VecDeque<Action>,
    pub(crate) links: Links,
    pub(crate) uploads: Uploads,
    pub(crate) downloads: Downloads,
    pub(crate) quarantine: Quarantine,
    /// Tasks that a reader waits for.
    awaited: BTreeSet<TaskId>,
}

impl Shared {
    pub(crate) fn new(config: SwarmConfig, seed: u64) -> Self {
        let uploads = Uploads::new(&config);
        let downloads = Downloads::new(config.limits.download);
        Self {
            config,
            rng: SmallRng::seed_from_u64(seed),
            actions: VecDeque::new(),
            links: Links::default(),
            uploads,
            downloads,
            quarantine: Quarantine::default(),
            awaited: BTreeSet::new(),
        }
    }

    /// Notes whether a reader waits for the task.
    pub(crate) fn note_readers(&mut self, task: TaskId, waits: Waits) {
        match waits {
            Waits::Somebody => _ = self.awaited.insert(task),
            Waits::Nobody => _ = self.awaited.remove(&task),
        }
    }

    /// Whether readers wait for other tasks and not for this one.
    pub(crate) fn comes_later(&self, task: &TaskId) -> bool {
        !self.awaited.is_empty() && !self.awaited.contains(task)
    }

    pub(crate) fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    pub(crate) fn send(&mut self, host: &HostId, task: TaskId, message: Message) {
        self.act(Action::Send {
            host: host.clone(),
            envelope: Envelope { task, message },
        });
    }

    /// A time between none and `most`, at random: so that hosts do not act all at once.
    pub(crate) fn jitter(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.rng.random::<f64>())
    }

    /// Tells the scheduler, shuts the host out and hangs up. The tasks forget it at the
    /// disconnection.
    pub(crate) fn convict(
        &mut self,
        host: &HostId,
        task: TaskId,
        reason: Misbehaviour,
        now: Instant,
    ) {
        tracing::warn!(%host, %task, ?reason, "peer shut out");
        self.act(Action::Report {
            task,
            host: host.clone(),
            reason,
        });
        self.quarantine
            .shut_out(host.clone(), now + self.config.quarantine);
        self.act(Action::HangUp {
            host: host.clone(),
            reason: "misbehaved",
        });
    }
}
