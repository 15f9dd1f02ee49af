//! What schedulers say.

use std::time::Instant;

use hawker_model::TaskId;
use hawker_swarm::{Duty, Parent};

use super::Driver;
use crate::session::{Level, PeerAddress, SessionEvent};

/// Warnings kept for the status page.
const MAX_WARNINGS: usize = 20;

impl Driver {
    pub(super) fn handle_session(&mut self, event: SessionEvent, now: Instant) {
        match event {
            SessionEvent::Down { scheduler, reason } => {
                self.contacts.lose_scheduler(&scheduler);
                self.swarm.set_isolated(self.contacts.liars(), now);
                tracing::warn!(scheduler, reason, "no scheduler there; going on without it");
            }
            SessionEvent::Notice {
                scheduler,
                level,
                text,
            } => {
                self.handle_notice(&scheduler, level, text);
            }
            SessionEvent::Parents {
                task,
                parents,
                duty,
                fetcher,
            } => {
                if let Some(entry) = self.entries.get_mut(&task) {
                    entry.fetcher = fetcher;
                }
                self.handle_parents(task, parents, duty, now);
            }
            SessionEvent::Seeds { scheduler, seeds } => {
                let names: Vec<_> = seeds.iter().map(|seed| seed.host.to_string()).collect();
                tracing::debug!(scheduler, seeds = ?names, "the seeds that live");
                let first = self.contacts.learn_seeds(scheduler, seeds);
                if first {
                    self.dial_seeds(now);
                }
            }
            SessionEvent::Liars { scheduler, hosts } => {
                self.contacts.learn_liars(scheduler, hosts);
                self.swarm.set_isolated(self.contacts.liars(), now);
            }
            SessionEvent::Up {
                scheduler,
                advertised,
                ..
            } => {
                tracing::info!(scheduler, ?advertised, "connected to the scheduler");
                self.advertised = advertised;
                self.session.announce_all(self.holdings());
                let waiting = self.entries.iter().filter(|(_, entry)| {
                    entry.readers > 0 && !entry.blob.as_ref().is_some_and(|b| b.is_complete())
                });
                waiting.for_each(|(task, _)| self.session.lookup(*task));
            }
        }
    }

    /// What the scheduler has to say, for the log and the status page.
    fn handle_notice(&mut self, scheduler: &str, level: Level, text: String) {
        if level == Level::Info {
            tracing::info!(scheduler, notice = text, "the scheduler says");
            self.warnings.clear();
        } else {
            tracing::warn!(scheduler, notice = text, "the scheduler says");
            if !self.warnings.contains(&text) && self.warnings.len() < MAX_WARNINGS {
                self.warnings.push(text);
            }
        }
    }

    fn handle_parents(
        &mut self,
        task: TaskId,
        parents: Vec<PeerAddress>,
        duty: Duty,
        now: Instant,
    ) {
        let mut known = Vec::with_capacity(parents.len());
        for parent in parents {
            self.contacts.learn(parent.host.clone(), parent.addresses);
            known.push(Parent {
                host: parent.host,
                role: parent.role,
            });
        }
        self.swarm.handle_parents(task, known, duty, now);
    }
}
