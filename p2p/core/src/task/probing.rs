//! Whether a list is true to its end, before much is taken on its word.
//!
//! Who forges a list can let it end in the digest, but has no bytes for that last value. So a host
//! that is told a whole list while it has hardly anything asks for the last piece first, and takes no
//! more than a few others before that one has come. In a large swarm only some hosts do that, so that
//! the last piece does not cost the first to have it more than all the others together: what those
//! find out they tell the rest by their own list.

use std::time::{Duration, Instant};

use hawker_model::{HostId, PieceIndex, Role, rendezvous_score};

use super::Task;
use crate::{content::Content, shared::Shared};

/// So long the last piece is waited for.
const PATIENCE: Duration = Duration::from_millis(300);
/// Who has more than one of so many pieces looks at the last piece no sooner than at others.
const HARDLY_ANY: u32 = 16;
/// Of so many pieces one more host of a neighbourhood looks.
const PIECES_PER_HOST: u32 = 64;

/// Whether the last piece has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Probe {
    /// There is no reason to ask for it before others.
    #[default]
    Idle,
    /// It is waited for until then.
    Open(Instant),
}

impl Task {
    /// Chain values were told: looks at their end, if that is it.
    pub(super) fn begin_probe(&mut self, cx: &Shared, now: Instant) {
        let must = self.content.as_ref().is_some_and(is_new_and_foreign);
        if !must || self.id.digest().is_none() || self.probe != Probe::Idle {
            return;
        }
        let count = self
            .content
            .as_ref()
            .map_or(0, |c| c.geometry.piece_count());
        if self.before_us(cx) >= (count / PIECES_PER_HOST) as usize {
            return;
        }
        self.probe = Probe::Open(now + PATIENCE + self.patience() * 2);
        for neighbour in self.neighbours.values_mut() {
            neighbour.tried = 0;
        }
    }

    /// The last piece, while it is waited for.
    pub(super) fn probed(&self, now: Instant) -> Option<PieceIndex> {
        let open = matches!(self.probe, Probe::Open(until) if now < until);
        let content = self.content.as_ref().filter(|_| open)?;
        last_piece(content).filter(|last| !content.pieces.contains(*last))
    }

    /// Asks for the last piece first. Says whether the neighbour may be asked for others now: not
    /// before it has said what it has.
    pub(super) fn ask_for_probe(&mut self, host: &HostId, cx: &mut Shared, now: Instant) -> bool {
        let Some(last) = self.probed(now) else {
            return true;
        };
        let (Some(content), Some(neighbour)) = (&self.content, self.neighbours.get(host)) else {
            return true;
        };
        let told = !neighbour.has.is_empty();
        let has = content.picker.is_wanted(last) && neighbour.has.contains(last);
        if has && self.may_ask_for(last, host, neighbour) {
            self.request(host, last, cx, now);
        }
        told
    }

    /// How many other nodes of the neighbourhood are to do something of which one does it first.
    pub(super) fn before_us(&self, cx: &Shared) -> usize {
        let known = self.contacts.nodes();
        let joined = self.neighbours.iter();
        let joined = joined.filter(|(_, n)| n.role == Role::Node).map(|(h, _)| h);
        let others: std::collections::BTreeSet<_> = known.chain(joined).collect();
        self.ranked_before(others.into_iter(), cx)
    }

    /// How many of these hosts come before us in a task.
    pub(super) fn ranked_before<'a>(
        &self,
        others: impl Iterator<Item = &'a HostId>,
        cx: &Shared,
    ) -> usize {
        let rank = |host: &HostId| (rendezvous_score(&self.id, host.as_str()), host.clone());
        let ours = rank(&cx.config.host);
        others.filter(|other| rank(other) > ours).count()
    }
}

fn last_piece(content: &Content) -> Option<PieceIndex> {
    content
        .geometry
        .piece_count()
        .checked_sub(1)
        .map(PieceIndex)
}

/// Whether a whole list is here by others' word, and hardly a piece.
fn is_new_and_foreign(content: &Content) -> bool {
    let few = content.pieces.len() <= content.geometry.piece_count() / HARDLY_ANY;
    let foreign = |last| content.giver(last).is_some() && content.lacks(last);
    few && content.list.is_complete() && last_piece(content).is_some_and(foreign)
}
