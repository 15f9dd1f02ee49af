//! What all tasks of a swarm share: settings, the rng, links, upload slots, and the way out.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use hawker_model::{HostId, PieceIndex, TaskId};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::{
    Action, Envelope, Message, Misbehaviour, SwarmConfig,
    beside::{Beside, Tokens},
    download::Downloads,
    link::Links,
    patience::{Patience, Price, Worth},
    quarantine::{Gravity, Quarantine},
    quiet::Quiet,
    signers::Signers,
    upload::Uploads,
};

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: SwarmConfig,
    pub(crate) rng: SmallRng,
    pub(crate) actions: VecDeque<Action>,
    pub(crate) links: Links,
    pub(crate) uploads: Uploads,
    pub(crate) downloads: Downloads,
    pub(crate) quarantine: Quarantine,
    /// Hosts that the scheduler has isolated for lies.
    pub(crate) isolated: BTreeSet<HostId>,
    /// Until when hosts that have no time for us are left in peace: in all tasks, since they queue what
    /// we ask for in all of them together.
    busy: BTreeMap<HostId, Instant>,
    pub(crate) beside: Beside,
    pub(crate) patience: Patience,
    pub(crate) signers: Signers,
    pub(crate) quiet: Quiet,
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
            isolated: BTreeSet::new(),
            busy: BTreeMap::new(),
            beside: Beside::default(),
            patience: Patience::default(),
            signers: Signers::default(),
            quiet: Quiet::default(),
        }
    }

    /// Whether tasks that readers wait for are held up by the rate of all downloads.
    pub(crate) fn tokens(&self, now: Instant) -> Tokens {
        let mut awaited = self.beside.awaited();
        match awaited.any(|task| self.downloads.lacks_total(task, now)) {
            true => Tokens::Short,
            false => Tokens::Free,
        }
    }

    /// Whether a task leaves room to others: it waits for the download's rate, or for its turn beside
    /// what readers wait for. Its peers are not slow then.
    pub(crate) fn holds(&self, task: &TaskId) -> bool {
        self.downloads.holds(task) || self.beside.holds(task)
    }

    /// A host has no time for us until then.
    pub(crate) fn note_busy(&mut self, host: &HostId, until: Instant) {
        self.busy.insert(host.clone(), until);
    }

    /// It gives what we asked for, or is gone.
    pub(crate) fn note_free(&mut self, host: &HostId) {
        self.busy.remove(host);
    }

    pub(crate) fn is_busy(&self, host: &HostId, now: Instant) -> bool {
        self.busy.get(host).is_some_and(|until| now < *until)
    }

    /// Whether a certificate (as in a batch) is ours; where there are none, whatever is signed is.
    pub(crate) fn is_own_signer(&self, certificate: &Arc<[u8]>) -> bool {
        certificate.is_empty() || self.signers.host(certificate) == Some(&self.config.host)
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
        (reason, piece): (Misbehaviour, Option<PieceIndex>),
        now: Instant,
    ) {
        self.act(Action::Report {
            task,
            host: host.clone(),
            reason,
            piece,
        });
        let (gravity, words) = match reason {
            Misbehaviour::CorruptPiece => (Gravity::Slight, "you sent a corrupt piece"),
            Misbehaviour::FalseList => (Gravity::Grave, "you gave a false piece list"),
            Misbehaviour::Stalled => (Gravity::Slight, "you do not give what you have"),
            Misbehaviour::Protocol => (Gravity::Grave, "you broke the protocol"),
            Misbehaviour::Flood => (Gravity::Grave, "you said too much that is of no use"),
        };
        tracing::warn!(%host, %task, ?reason, "peer shut out");
        self.shut_out(host, gravity, words, now);
    }

    /// Takes nothing from a host for a while, without calling it a liar before others.
    pub(crate) fn set_aside(&mut self, host: &HostId, words: &'static str, now: Instant) {
        tracing::info!(%host, words, "peer set aside");
        self.shut_out(host, Gravity::Slight, words, now);
    }

    /// A host's bytes were no message, or something that no host says: nobody need be told.
    pub(crate) fn break_with(&mut self, host: &HostId, words: &'static str, now: Instant) {
        tracing::warn!(%host, words, "peer shut out");
        self.shut_out(host, Gravity::Slight, words, now);
    }

    fn shut_out(&mut self, host: &HostId, gravity: Gravity, reason: &'static str, now: Instant) {
        let most = self.config.quarantine;
        self.quarantine.shut_out(host.clone(), gravity, most, now);
        self.patience.forget(host);
        let host = host.clone();
        self.act(Action::HangUp { host, reason });
    }

    /// Whether nothing is taken from a host at present.
    pub(crate) fn shuns(&self, host: &HostId, now: Instant) -> bool {
        self.quarantine.holds(host, now) || self.isolated.contains(host)
    }

    /// Takes from a host what its message costs.
    pub(crate) fn settle(&mut self, host: &HostId, task: TaskId, worth: Worth, now: Instant) {
        if let Worth::Nothing(price) = worth {
            self.charge(host, task, price, now);
        }
    }

    /// A host said what is of no use to either side; if it does that without end, it is shut out.
    pub(crate) fn charge(&mut self, host: &HostId, task: TaskId, price: Price, now: Instant) {
        let known = self.links.role(host).is_some() && !self.shuns(host, now);
        if known && self.patience.charge(host, price, now) {
            self.convict(host, task, (Misbehaviour::Flood, None), now);
        }
    }
}
