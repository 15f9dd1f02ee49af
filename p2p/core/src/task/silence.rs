//! Neighbours that have fallen silent: their power is gone, or they hang, and their connections stand.
//!
//! Who gives nothing may wait for the origin itself, and is to be left in peace. So a neighbour that we
//! wait for is asked for a sign of life as soon as nothing has been heard of it for a moment. If none
//! comes either, nothing is asked of it any more before it is heard again, what it owes is asked of
//! others, and what it has counts as out of reach. Where no seed is left that can be heard, and nobody
//! else has what we lack, the origin is read: by one host of a neighbourhood first (`hedging`).

use std::time::{Duration, Instant};

use hawker_model::{HostId, PieceIndex, Role};

use super::Task;
use crate::{Action, neighbour::Neighbour, shared::Shared};

/// Nothing was heard for so long: a sign of life is asked for.
const QUIET: Duration = Duration::from_millis(100);
/// Not more often than this.
const PAUSE: Duration = Duration::from_millis(250);
/// Who owes a piece that it has, and gives none for so long (and longer for large pieces), is not counted
/// on any more.
const WITHHELD: Duration = Duration::from_secs(1);
/// Signs of life that are waited for where no seed has been heard yet: a crowd that begins at once has
/// much to do. And where a seed has fallen silent, after that was found out.
const UNHEARD: f64 = 3.0;
const LOST: f64 = 0.25;
/// So long each waits for those before it,
const STEP: Duration = Duration::from_millis(300);
/// and for so many at most.
const MOST_BEFORE_US: usize = 4;

impl Task {
    /// Asks for a sign of life of those that we wait for.
    pub(super) fn listen(&self, cx: &mut Shared, now: Instant) {
        for (host, neighbour) in self.neighbours.iter() {
            if is_awaited(neighbour) && cx.links.begin_ping(host, QUIET, PAUSE, now) {
                cx.act(Action::Ping { host: host.clone() });
            }
        }
    }

    /// A neighbour gives no sign of life.
    pub(crate) fn note_silent(&mut self, host: &HostId, cx: &mut Shared, now: Instant) {
        let Some(neighbour) = self.neighbours.get_mut(host) else {
            return;
        };
        tracing::debug!(task = %self.id, %host, "silent");
        neighbour.silent = true;
        neighbour.end_credit();
        self.ask_others(host);
        self.do_without(cx, now);
    }

    /// Those that owe a piece that they have, and have given none for far too long, while nobody else
    /// has either: links that are slow bring something.
    pub(super) fn mind_withheld(&mut self, cx: &mut Shared, now: Instant) {
        let limit = WITHHELD + self.patience() * 2;
        if now < self.progress_at + limit {
            return;
        }
        let Some(content) = &self.content else {
            return;
        };
        let has_some = |neighbour: &Neighbour| neighbour.has.iter().any(|p| content.lacks(p));
        let withholds = |(host, neighbour): &(&HostId, &Neighbour)| {
            let credit = neighbour.credit_since.filter(|_| neighbour.credit > 0);
            let since = credit.into_iter().chain(neighbour.owes_since()).min();
            // It may have been other tasks' turn.
            let since = since.map(|since| since.max(cx.links.gave_at(host).unwrap_or(since)));
            let long = since.is_some_and(|since| now >= since + limit);
            long && neighbour.is_heard() && has_some(neighbour)
        };
        let withholding = self.neighbours.iter().filter(withholds);
        let withholding: Vec<_> = withholding.map(|(host, _)| host.clone()).collect();
        if withholding.is_empty() {
            return;
        }
        for host in &withholding {
            tracing::debug!(task = %self.id, %host, "withholds what it has");
            if let Some(neighbour) = self.neighbours.get_mut(host) {
                neighbour.withholds = true;
            }
            self.ask_others(host);
        }
        self.do_without(cx, now);
    }

    /// What a host owes is asked of others.
    fn ask_others(&mut self, host: &HostId) {
        let Some(neighbour) = self.neighbours.get_mut(host) else {
            return;
        };
        let mut late: Vec<PieceIndex> = Vec::new();
        for (piece, request) in neighbour.requests.iter_mut() {
            if !std::mem::replace(&mut request.late, true) {
                late.push(*piece);
            }
        }
        for piece in late {
            self.want_again(piece);
        }
    }

    /// One that was counted on gives nothing.
    fn do_without(&mut self, cx: &mut Shared, now: Instant) {
        if !self.is_fetching() {
            return;
        }
        if !self.is_in_company() {
            self.forsaken_at.get_or_insert(now);
        }
        self.seek(cx, now);
        self.steer(cx, now);
        self.fill_all(cx, now);
    }

    /// It is heard again.
    pub(crate) fn note_heard(&mut self, host: &HostId, cx: &mut Shared, now: Instant) {
        let Some(neighbour) = self.neighbours.get_mut(host) else {
            return;
        };
        if std::mem::take(&mut neighbour.silent) && neighbour.joined {
            self.forsaken_at = None;
            self.orphaned_at = None;
            self.fill(host, cx, now);
        }
    }

    /// Notes whether seeds were named and none of them can be heard.
    pub(super) fn look_for_seeds(&mut self, now: Instant) {
        let seeds = || self.neighbours.values().filter(|n| n.role == Role::Seed);
        let is_heard = seeds().any(Neighbour::is_heard);
        match !is_heard && self.contacts.misses_seeds() {
            true => _ = self.orphaned_at.get_or_insert(now),
            false => self.orphaned_at = None,
        }
    }

    /// When we go to the origin as no seed can be heard and the nodes that can have nothing for us:
    /// each after those of its neighbourhood that come before it.
    pub(super) fn orphan_goes_at(&self, cx: &Shared) -> Option<Instant> {
        let since = self.orphaned_at?.max(self.progress_at);
        if cx.config.role == Role::Seed || self.promised() > 0 {
            return None;
        }
        let patience = match self.has_nothing() {
            true => UNHEARD,
            false => LOST,
        };
        let before_us = self.before_us(cx).min(MOST_BEFORE_US) as f64 + self.jitter;
        Some(since + cx.config.sign_of_life.mul_f64(patience) + STEP.mul_f64(before_us))
    }
}

/// Whether we wait for it: for what it owes, or, of a seed, for what it fetches.
fn is_awaited(neighbour: &Neighbour) -> bool {
    let owes = !neighbour.requests.is_empty() || neighbour.credit > 0;
    neighbour.joined && (owes || neighbour.role == Role::Seed)
}
