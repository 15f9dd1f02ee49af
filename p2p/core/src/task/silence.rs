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
/// Who owes a piece that it has, and gives none for so long (longer for large pieces, and where all
/// are slow), is not counted on any more.
const WITHHELD: Duration = Duration::from_secs(1);
/// Signs of life that are waited for where no seed has been heard yet: a crowd that begins at once has
/// much to do. And where a seed has fallen silent, after that was found out.
const UNHEARD: f64 = 3.0;
const LOST: f64 = 0.25;
/// So long each waits for those before it, and longer for large pieces,
const STEP: Duration = Duration::from_millis(300);
/// and for so many at most.
const MOST_BEFORE_US: usize = 4;

impl Task {
    /// Asks for a sign of life of those that we wait for.
    pub(super) fn listen(&self, cx: &mut Shared, now: Instant) {
        // Where links are slow, questions and answers wait behind pieces.
        let slow = self.patience() + self.usual_turnaround() * 2;
        for (host, neighbour) in self.neighbours.iter() {
            if is_awaited(neighbour) && cx.links.begin_ping(host, QUIET, PAUSE, now) {
                let piece_time = neighbour.pace.piece_time().unwrap_or_default();
                let (host, within) = (host.clone(), cx.config.sign_of_life + slow + piece_time);
                cx.act(Action::Ping { host, within });
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
        neighbour.set_credit_aside();
        self.ask_others(host);
        self.do_without(cx, now);
    }

    /// Those that owe a piece that they have, and have given none for far too long, while nobody else
    /// has either: links that are slow bring something.
    pub(super) fn mind_withheld(&mut self, cx: &mut Shared, now: Instant) {
        let limit = WITHHELD + (self.patience() + self.usual_turnaround()) * 4;
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
            self.note_life(host, cx);
            self.fill_all(cx, now);
        }
    }

    /// Notes whether seeds were named and none of them can be heard, and the nodes that can have nothing
    /// for us.
    pub(super) fn look_for_seeds(&mut self, now: Instant) {
        let seeds = || self.neighbours.values().filter(|n| n.role == Role::Seed);
        let misses_all = self.contacts.misses_seeds() && !seeds().any(Neighbour::is_heard);
        match misses_all && self.promised() == 0 {
            true => _ = self.orphaned_at.get_or_insert(now),
            false => self.orphaned_at = None,
        }
    }

    /// When we go to the origin because of that: each after those of its neighbourhood that come before
    /// it.
    pub(super) fn orphan_goes_at(&self, cx: &Shared) -> Option<Instant> {
        let since = self.orphaned_at?.max(self.progress_at);
        if cx.config.role == Role::Seed {
            return None;
        }
        let patience = match self.has_nothing() {
            true => UNHEARD,
            false => LOST,
        };
        let before_us = self.before_us(cx);
        Some(since + cx.config.sign_of_life.mul_f64(patience) + self.turn_after(before_us))
    }

    /// How long we wait for so many others: for what each would bring first.
    fn turn_after(&self, before_us: usize) -> Duration {
        let turns = before_us.min(MOST_BEFORE_US) as f64 + self.jitter;
        (STEP + self.patience()).mul_f64(turns)
    }

    /// Whether those that cannot be heard have not gone, but fallen silent; how long the nodes among them
    /// that come before us are waited for, since they may hear each other as little.
    pub(super) fn is_left_in_silence(&self, cx: &Shared) -> Option<Duration> {
        let mut joined = self.neighbours.iter().filter(|(_, n)| n.joined).peekable();
        joined.peek()?;
        let nodes = joined.filter(|(_, n)| n.role == Role::Node);
        match self.ranked_before(nodes.map(|(host, _)| host), cx) {
            0 => Some(Duration::ZERO),
            before_us => Some(self.turn_after(before_us)),
        }
    }
}

/// Whether we wait for it: for what it owes, or, of a seed, for what it fetches.
fn is_awaited(neighbour: &Neighbour) -> bool {
    let owes = !neighbour.requests.is_empty() || neighbour.credit > 0;
    neighbour.joined && (owes || neighbour.role == Role::Seed)
}
