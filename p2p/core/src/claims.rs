//! Claims that this host asks seeds to judge: whether whoever shows a credential may have a task, or
//! what a registry gives for a manifest ([`Question`]).
//!
//! Each claim goes to the seed that rendezvous hashing gives its task, so that of many hosts that
//! ask at the same moment all ask the same one, which asks the origin once. Where a seed is lost or
//! out of reach, or cannot answer such a question, the next in line is asked. A seed that gives no
//! sign of life in time is silent: its claims are not judged, and it is not asked for a while.
//!
//! A seed that gives another manifest than was asked for is a liar ([`Lie`]): once the shell has
//! parted with it, the next one is asked.
//!
//! Whatever comes from a seed is a sign of life: a connection, a frame of any task. What was said in
//! time but not read yet, since our own shell woke late, is waited for a little longer.
//!
//! A state machine as the swarm is: `handle_*` in, [`Claims::poll_action`] out.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use hawker_model::{HostId, Role, TaskId};

use crate::{
    Abilities, Finding, Question, Resolution, Verdict, docket::MOST_PER_HOST, laggards::Laggards,
};

/// A seed must be reached, and say that it has heard, within this time; or give another sign of
/// life, and so on,
const SIGN_OF_LIFE: Duration = Duration::from_millis(250);
/// but no longer than this.
const LONGEST_SILENCE: Duration = Duration::from_secs(1);
/// Whoever wakes us so long after a deadline has not read what came meanwhile:
const LATE: Duration = Duration::from_millis(50);
/// each claim gets this time once.
const LATE_GRACE: Duration = Duration::from_millis(100);
/// A seed that had a claim for less than this is no laggard, whoever was quicker.
const FAIR_TIME: Duration = Duration::from_millis(500);
/// A judgement takes at most this long, whatever the patience of who asks.
const LONGEST: Duration = Duration::from_secs(60);
/// A seed that is silent or out of reach is not asked for so long, unless it is heard of.
const PAUSE: Duration = Duration::from_secs(5);
/// Claims open at one seed; it would refuse more.
const MOST_PER_SEED: usize = MOST_PER_HOST;
/// Seeds tried for one claim.
const MOST_SEEDS: usize = 3;

/// Why no seed judges a claim: the origin has to be asked from here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSeed {
    #[error("seed {0} has too many claims to judge")]
    Busy(HostId),
    #[error("this host is a seed itself")]
    Ourselves,
    #[error("credentials are not sent over a plain network")]
    Plain,
    #[error("what a seed would say of it proves nothing on a plain network")]
    PlainWord,
    #[error("seed {0} does not answer")]
    Silent(HostId),
    #[error("seed {0} was slower a moment ago than the origin itself")]
    Slow(HostId),
    #[error("hawkerd is stopping")]
    Stopping,
    #[error("the source is too long to be sent")]
    TooLong,
    #[error("seed {0} is of a version that answers no such question")]
    Unable(HostId),
    #[error("no seed is known")]
    Unknown,
    #[error("seed {0} cannot be reached")]
    Unreachable(HostId),
}

/// What the shell is to do for a claim.
#[derive(Clone, Debug, PartialEq)]
pub enum ClaimAction {
    /// Connect, or say that the connection stands: [`Claims::handle_connected`] or
    /// [`Claims::handle_unreachable`].
    Dial { host: HostId },
    /// Send it as [`crate::Message::Claim`] or [`crate::Message::Resolve`].
    Send {
        host: HostId,
        number: u64,
        task: TaskId,
        question: Question,
    },
    /// The claim is settled.
    Answer {
        number: u64,
        answer: Result<Finding, NoSeed>,
    },
}

/// A seed's answer is none to what it was asked: an honest one cannot say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lie;

/// The open claims of this host.
#[derive(Debug, Default)]
pub struct Claims {
    open: BTreeMap<u64, Claim>,
    deadlines: BTreeSet<(Instant, u64)>,
    /// Claims that nobody here waits for any more, and that their seeds may still judge: as much their
    /// share as the others.
    left: BTreeMap<u64, Left>,
    /// Seeds that were of no use, until when they are not asked.
    shunned: BTreeMap<HostId, Instant>,
    laggards: Laggards,
    actions: VecDeque<ClaimAction>,
}

#[derive(Debug)]
struct Claim {
    task: TaskId,
    question: Question,
    seed: HostId,
    /// The seeds after it.
    others: VecDeque<HostId>,
    stage: Stage,
    /// Whether it was sent to this seed, which may have it, though it may be asked again.
    sent: bool,
    /// When this seed's time began.
    begun: Instant,
    due: Instant,
    /// Whether it had its [`LATE_GRACE`].
    spared: bool,
}

#[derive(Debug)]
struct Left {
    seed: HostId,
    /// Whom it is about.
    server: String,
    heard: bool,
    /// When. After [`LONGEST`] it is judged, or given up there too.
    at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Dialing,
    Asked,
    Heard,
}

impl Claim {
    /// Whether a host of these abilities has an answer to it.
    fn suits(&self, abilities: Abilities) -> bool {
        match self.question {
            Question::Right(_) => true,
            Question::Manifest(_) => abilities.resolves(),
        }
    }

    /// Whether its seed, which said other things all the time, did not say that it has heard.
    fn is_passed_over(&self) -> bool {
        let is_over = self.due >= self.begun + LONGEST_SILENCE;
        is_over && self.stage == Stage::Asked && !self.spared
    }

    /// It is asked of a seed now.
    fn start_clock(&mut self, now: Instant) {
        (self.begun, self.due) = (now, now + SIGN_OF_LIFE);
    }

    /// Its seed lives: it has more time to say that it has heard.
    fn note_life(&mut self, now: Instant) {
        let due = (now + SIGN_OF_LIFE).min(self.begun + LONGEST_SILENCE);
        self.due = self.due.max(due);
    }
}

impl Claims {
    /// Asks the first of `seeds` that is worth it. `number` names the claim here and, together with
    /// our name, at the seed: it was never used before.
    pub fn handle_ask(
        &mut self,
        number: u64,
        (task, question): (TaskId, Question),
        seeds: Vec<HostId>,
        now: Instant,
    ) {
        self.shunned.retain(|_, until| now < *until);
        self.left.retain(|_, left| now < left.at + LONGEST);
        let Some(first) = seeds.first().cloned() else {
            return self.answer(number, Err(NoSeed::Unknown));
        };
        let mut worth = seeds;
        worth.retain(|seed| !self.shunned.contains_key(seed));
        let Some(next) = worth.first().cloned() else {
            return self.answer(number, Err(NoSeed::Unreachable(first)));
        };
        let server = question.server();
        worth.retain(|seed| !self.laggards.holds(seed, server, now));
        let mut others: VecDeque<_> = worth.into_iter().take(MOST_SEEDS).collect();
        let Some(seed) = others.pop_front() else {
            return self.answer(number, Err(NoSeed::Slow(next)));
        };
        if self.of(&seed).count() + self.left_at(&seed) >= MOST_PER_SEED {
            return self.answer(number, Err(NoSeed::Busy(seed)));
        }
        let claim = Claim {
            task,
            question,
            seed,
            others,
            stage: Stage::Dialing,
            sent: false,
            begun: now,
            due: now + SIGN_OF_LIFE,
            spared: false,
        };
        self.begin(number, claim);
    }

    fn begin(&mut self, number: u64, claim: Claim) {
        let host = claim.seed.clone();
        self.put(number, claim);
        self.actions.push_back(ClaimAction::Dial { host });
    }

    /// Nobody waits for the claim any more.
    pub fn handle_drop(&mut self, number: u64, now: Instant) {
        if let Some(claim) = self.take(number) {
            self.leave(number, &claim, now);
        }
    }

    /// The origin, asked as well, has answered before the seed, which had its time: nobody waits for
    /// the claim any more. A seed that has heard of it is asked of that origin no more for a while.
    /// Only for an origin that answers as soon as a seed is to be: where that one is slow itself, the
    /// seed is what keeps all hosts from asking it.
    pub fn handle_outrun(&mut self, number: u64, now: Instant) {
        let Some(claim) = self.take(number) else {
            return;
        };
        if claim.stage == Stage::Heard && now - claim.begun >= FAIR_TIME {
            self.note_laggard(&claim, now);
        }
        self.leave(number, &claim, now);
    }

    fn note_laggard(&mut self, claim: &Claim, now: Instant) {
        let of = (&claim.seed, claim.question.server());
        self.laggards.note(of, claim.begun, now);
    }

    /// A claim is given up here. The seed that has it does not know that.
    fn leave(&mut self, number: u64, claim: &Claim, now: Instant) {
        if claim.sent {
            let left = Left {
                seed: claim.seed.clone(),
                server: claim.question.server().to_owned(),
                heard: claim.stage == Stage::Heard,
                at: now,
            };
            self.left.insert(number, left);
        }
    }

    /// A connection stands, or stood already.
    pub fn handle_connected(
        &mut self,
        host: &HostId,
        (role, abilities): (Role, Abilities),
        now: Instant,
    ) {
        if role != Role::Seed {
            return self.handle_unreachable(host, now);
        }
        self.shunned.remove(host);
        for number in self.of(host).collect::<Vec<_>>() {
            let Some(mut claim) = self.take(number) else {
                continue;
            };
            if claim.stage == Stage::Dialing {
                if !claim.suits(abilities) {
                    let unable = NoSeed::Unable(host.clone());
                    self.go_on(number, claim, unable);
                    continue;
                }
                (claim.stage, claim.sent) = (Stage::Asked, true);
                claim.note_life(now);
                self.actions.push_back(ClaimAction::Send {
                    host: host.clone(),
                    number,
                    task: claim.task,
                    question: claim.question.clone(),
                });
            }
            self.put(number, claim);
        }
    }

    /// A frame came from a host, whatever it is about.
    pub fn handle_word(&mut self, host: &HostId, role: Role, now: Instant) {
        if role != Role::Seed {
            return;
        }
        self.shunned.remove(host);
        let soon = self.deadlines.range(..=(now + LONGEST_SILENCE, u64::MAX));
        for number in soon.map(|(_, number)| *number).collect::<Vec<_>>() {
            let waits = |claim: &Claim| claim.seed == *host && claim.stage != Stage::Heard;
            if self.open.get(&number).is_some_and(waits)
                && let Some(mut claim) = self.take(number)
            {
                claim.note_life(now);
                self.put(number, claim);
            }
        }
    }

    /// What was sent to the host, or sent by it, may be lost, but there is another connection: it is
    /// asked again, under the same numbers.
    pub fn handle_lost_words(&mut self, host: &HostId, now: Instant) {
        for number in self.of(host).collect::<Vec<_>>() {
            let Some(mut claim) = self.take(number) else {
                continue;
            };
            claim.stage = Stage::Dialing;
            claim.start_clock(now);
            self.begin(number, claim);
        }
    }

    /// `Dial` failed, the connection is lost, or the host is no seed: the next seed is asked.
    pub fn handle_unreachable(&mut self, host: &HostId, now: Instant) {
        // It drops what we left there when it misses us.
        self.left.retain(|_, left| left.seed != *host);
        let numbers: Vec<_> = self.of(host).collect();
        if !numbers.is_empty() {
            self.shunned.insert(host.clone(), now + PAUSE);
        }
        for number in numbers {
            let Some(mut claim) = self.take(number) else {
                continue;
            };
            if claim.stage == Stage::Heard {
                // It was alive: its successor has its own time for a sign of life.
                claim.start_clock(now);
            }
            let lost = NoSeed::Unreachable(claim.seed.clone());
            self.go_on(number, claim, lost);
        }
    }

    /// The next seed is asked; `why` is the answer where there is none.
    fn go_on(&mut self, number: u64, mut claim: Claim, why: NoSeed) {
        match claim.others.pop_front() {
            Some(next) => {
                (claim.seed, claim.stage, claim.sent) = (next, Stage::Dialing, false);
                self.begin(number, claim);
            }
            None => self.answer(number, Err(why)),
        }
    }

    /// A seed has heard the claim, in time or not. Says whether that was to be said.
    pub fn handle_heard(&mut self, host: &HostId, number: u64, now: Instant) -> bool {
        self.shunned.remove(host);
        if let Some(left) = self.left.get_mut(&number) {
            let is_news = left.seed == *host && !std::mem::replace(&mut left.heard, true);
            if is_news {
                self.laggards.forgive(host, &left.server, left.at);
            }
            return is_news;
        }
        let Some(claim) = self.open.get_mut(&number) else {
            return false;
        };
        if claim.seed != *host || claim.stage != Stage::Asked {
            return false;
        }
        self.deadlines.remove(&(claim.due, number));
        (claim.stage, claim.due) = (Stage::Heard, now + LONGEST);
        self.deadlines.insert((claim.due, number));
        true
    }

    /// A seed has judged, or (`None`) will not. What nobody asked this seed is ignored; says whether
    /// somebody did.
    pub fn handle_verdict(&mut self, host: &HostId, number: u64, verdict: Option<Verdict>) -> bool {
        self.shunned.remove(host);
        match self.asked(host, number) {
            Some(Question::Right(_)) => {
                self.conclude(host, number, verdict.map(Finding::Right));
                true
            }
            Some(Question::Manifest(_)) => false,
            None => self.end_left(host, number),
        }
    }

    /// As [`Self::handle_verdict`], of a manifest. After a lie the question is still open: the host is
    /// to be parted with, as [`Self::handle_unreachable`] says.
    pub fn handle_resolved(
        &mut self,
        host: &HostId,
        number: u64,
        resolution: Option<Resolution>,
    ) -> Result<bool, Lie> {
        self.shunned.remove(host);
        let wish = match self.asked(host, number) {
            Some(Question::Manifest(wish)) => wish,
            Some(Question::Right(_)) => return Ok(false),
            None => return Ok(self.end_left(host, number)),
        };
        if resolution.as_ref().is_some_and(|said| !wish.fits(said)) {
            return Err(Lie);
        }
        self.conclude(host, number, resolution.map(Finding::Manifest));
        Ok(true)
    }

    /// A seed has judged what nobody waits for, if it had to.
    fn end_left(&mut self, host: &HostId, number: u64) -> bool {
        if self.left.get(&number).is_none_or(|left| left.seed != *host) {
            return false;
        }
        if let Some(left) = self.left.remove(&number) {
            self.laggards.forgive(host, &left.server, left.at);
        }
        true
    }

    /// What this seed was asked under the number.
    fn asked(&self, host: &HostId, number: u64) -> Option<&Question> {
        let claim = self.open.get(&number)?;
        let is_asked = claim.seed == *host && claim.stage != Stage::Dialing;
        is_asked.then_some(&claim.question)
    }

    fn conclude(&mut self, host: &HostId, number: u64, finding: Option<Finding>) {
        self.take(number);
        let busy = || NoSeed::Busy(host.clone());
        self.answer(number, finding.ok_or_else(busy));
    }

    /// Time has passed; see [`Self::poll_timeout`]. What came before is to be told first.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((due, number)) = self.deadlines.first().copied()
            && due <= now
        {
            let Some(mut claim) = self.take(number) else {
                continue;
            };
            if now - due > LATE && !claim.spared {
                (claim.spared, claim.due) = (true, now + LATE_GRACE);
                self.put(number, claim);
                continue;
            }
            if claim.is_passed_over() {
                self.note_laggard(&claim, now);
            }
            self.leave(number, &claim, now);
            self.shunned.insert(claim.seed.clone(), now + PAUSE);
            self.answer(number, Err(NoSeed::Silent(claim.seed.clone())));
        }
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<ClaimAction> {
        self.actions.pop_front()
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(due, _)| *due)
    }

    fn of(&self, seed: &HostId) -> impl Iterator<Item = u64> {
        let of_seed = self
            .open
            .iter()
            .filter(move |(_, claim)| claim.seed == *seed);
        of_seed.map(|(number, _)| *number)
    }

    fn left_at(&self, seed: &HostId) -> usize {
        let left = self.left.values();
        left.filter(|left| left.seed == *seed).count()
    }

    fn put(&mut self, number: u64, claim: Claim) {
        self.deadlines.insert((claim.due, number));
        self.open.insert(number, claim);
    }

    fn take(&mut self, number: u64) -> Option<Claim> {
        let claim = self.open.remove(&number)?;
        self.deadlines.remove(&(claim.due, number));
        Some(claim)
    }

    fn answer(&mut self, number: u64, answer: Result<Finding, NoSeed>) {
        self.actions
            .push_back(ClaimAction::Answer { number, answer });
    }
}
