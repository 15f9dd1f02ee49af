//! Fresh credentials for refused ones.
//!
//! Whoever fetches and finds every credential refused calls back those who brought them, and waits a
//! moment. A host that is called back asks its owner. A refusal reaches only the hosts whose own
//! credential it was.

use std::{collections::BTreeSet, time::Instant};

use hawker_model::{HostId, Role};

use super::Task;
use crate::{
    Action, Message, Source, SourceMark, TaskFailure,
    back_to_source::{refusal, refusal_of_others},
    patience::{Price, Worth},
    shared::Shared,
    sources::Giver,
};

impl Task {
    // --- Asking for ---

    /// Asks the neighbours that brought refused credentials for others. Says whether there is
    /// anybody to wait for.
    pub(super) fn call_back(&mut self, cx: &mut Shared, now: Instant) -> bool {
        let mut called = BTreeSet::new();
        for refused in self.origin.sources.refused_mut() {
            let denied = matches!(refused.failure, TaskFailure::Denied(_));
            if !denied || std::mem::replace(&mut refused.called_back, true) {
                continue;
            }
            let hosts = refused.givers.iter().filter_map(|giver| match giver {
                Giver::Host(host) => Some(host),
                Giver::Reader => None,
            });
            for host in hosts.filter(|host| self.neighbours.contains_key(*host)) {
                let refused = refused.mark;
                cx.send(host, self.id, Message::Renew { refused });
                called.insert(host.clone());
            }
        }
        self.origin.renewal.begin(called, now)
    }

    /// Looks whether all have answered, or the time is up.
    pub(super) fn mind_renewal(&mut self, cx: &mut Shared, now: Instant) {
        if self.origin.renewal.is_over(now) {
            self.end_renewal();
            if self.origin.sources.first().is_none() && self.origin.run.is_none() {
                self.give_up_origin(cx, now);
            }
        }
    }

    pub(super) fn end_renewal(&mut self) {
        self.origin.renewal.end();
    }

    /// No source is left: those who fetch through us are told.
    pub(super) fn give_up_origin(&mut self, cx: &mut Shared, now: Instant) {
        if cx.config.role == Role::Seed || self.origin.duty {
            let unfinished = self.neighbours.iter().filter(|(_, n)| !n.is_complete());
            let hosts: Vec<_> = unfinished.map(|(host, _)| host.clone()).collect();
            for host in hosts {
                let sources = &self.origin.sources;
                let own = sources.failure_for(&host).map(refusal);
                let reason = own.or_else(|| sources.failure().map(refusal_of_others));
                if let Some(reason) = reason {
                    self.refuse_all(&host, reason, cx, now);
                }
            }
        }
        self.origin.duty = false;
        self.fail_if_hopeless(cx, now);
    }

    // --- Being asked ---

    /// A seed found a source of ours refused. Nobody else is told of any.
    pub(crate) fn on_renew(
        &mut self,
        host: &HostId,
        refused: SourceMark,
        cx: &mut Shared,
    ) -> Worth {
        if !self.is_seed(host) {
            tracing::debug!(task = %self.id, %host, "no seed, and asks for a credential");
            return Worth::Nothing(Price::Work);
        }
        let own = self.origin.sources.of_reader(&refused).cloned();
        let new = match own.filter(|_| self.is_fetching()) {
            Some(source) => self.ask_owner(source, Some(host), cx),
            None if self.origin.renewal.is_asked(&refused) => {
                self.origin.renewal.ask_owner(refused, Some(host))
            }
            None => {
                self.answer_call(host, &refused, cx);
                false
            }
        };
        match new {
            true => Worth::Something,
            false => Worth::Nothing(Price::Answer),
        }
    }

    /// Says whether the owner was not being asked already.
    pub(super) fn ask_owner(
        &mut self,
        source: Source,
        host: Option<&HostId>,
        cx: &mut Shared,
    ) -> bool {
        let new = self.origin.renewal.ask_owner(source.mark(), host);
        if new {
            let task = self.id;
            cx.act(Action::Renew { task, source });
        }
        new
    }

    /// Whether a neighbour is a seed, by its certificate.
    fn is_seed(&self, host: &HostId) -> bool {
        let neighbour = self.neighbours.get(host);
        neighbour.is_some_and(|neighbour| neighbour.role == Role::Seed)
    }

    /// There is no fresh one: another source of our own readers, or none.
    fn answer_call(&self, host: &HostId, refused: &SourceMark, cx: &mut Shared) {
        if !self.is_seed(host) {
            return;
        }
        let mut others = self.origin.sources.of_readers();
        let other = others.find(|source| source.mark() != *refused);
        let source = other.filter(|_| self.is_fetching()).cloned();
        self.send(host, Message::Join { source }, cx);
    }

    /// Our owner has answered.
    pub(crate) fn on_renewed(
        &mut self,
        refused: SourceMark,
        fresh: Option<Source>,
        cx: &mut Shared,
        now: Instant,
    ) {
        let Some(waiting) = self.origin.renewal.owner_answered(&refused) else {
            return;
        };
        let fresh = fresh.filter(|fresh| fresh.mark() != refused && self.is_fetching());
        let Some(fresh) = fresh else {
            let waiting = waiting.iter();
            waiting.for_each(|host| self.answer_call(host, &refused, cx));
            return self.mind_renewal(cx, now);
        };
        self.origin.sources.remove(&refused);
        self.origin.sources.add(fresh.clone(), Giver::Reader);
        self.end_renewal();
        self.tell_seeds(&fresh, cx);
        self.steer(cx, now);
    }
}
