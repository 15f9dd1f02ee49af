//! What crosses from one zone to another. The links between zones may be thin, and what crosses them
//! twice is once too often.
//!
//! * A piece that a neighbour of our zone has is asked of our zone alone, unless nothing comes from
//!   there.
//! * Of those that the zone lacks each is fetched by the one of us and our neighbours here whom a
//!   hash of both puts first (so that of two neighbours never both think that it is they); by the
//!   next one when that has not happened for some time, and so on.
//! * A source of another zone is left to the nodes there, if we know any: it has enough to do to give
//!   each piece once.

use std::time::{Duration, Instant};

use hawker_model::{HostId, PieceIndex, PieceSet, Role};

use super::Task;
use crate::{neighbour::Neighbour, shared::Shared};

/// Without a new piece for so long, longer for large ones, zones count no more.
const STUCK: Duration = Duration::from_millis(500);
/// So long each waits for those before it, or for three times as long as a piece takes to come.
const STEP: Duration = Duration::from_millis(10);
/// Who has brought nothing into the zone for so long is not waited for.
const BRINGS: Duration = Duration::from_secs(1);
/// So many are waited for at most.
const MOST_BEFORE: u32 = 4;
/// Neighbours of other zones that are asked at the same time.
const MOST_FAR: usize = 4;

/// Which pieces are where.
#[derive(Debug, Default)]
pub(super) struct Abroad {
    /// Since when some neighbour of another zone has each.
    seen: Vec<Option<Instant>>,
    /// What neighbours of our zone have; `None`: to be looked up.
    home: Option<PieceSet>,
}

impl Abroad {
    /// Somebody is gone, and with it what it had.
    pub(super) fn forget_home(&mut self) {
        self.home = None;
    }
}

/// Which pieces a neighbour of another zone may be asked for now.
pub(super) struct Import {
    own: u64,
    /// The neighbours of our zone that bring pieces into it, as numbers.
    near: Vec<u64>,
    step: Duration,
    now: Instant,
}

impl Task {
    /// A neighbour told what it has.
    pub(super) fn note_whereabouts(&mut self, host: &HostId, now: Instant) {
        let count = self
            .content
            .as_ref()
            .map_or(0, |c| c.geometry.piece_count());
        let Some(neighbour) = self.neighbours.get_mut(host) else {
            return;
        };
        if neighbour.far {
            self.abroad.seen.resize(count as usize, None);
            for piece in neighbour.has.iter() {
                if let Some(seen) = self.abroad.seen.get_mut(piece.as_usize()) {
                    seen.get_or_insert(now);
                }
            }
        } else if let Some(home) = &mut self.abroad.home
            && home.insert_all(&neighbour.has) > 0
        {
            neighbour.brought_at = Some(now);
        }
    }

    /// What a neighbour of another zone may be asked for; `None`: it may be asked for all.
    pub(super) fn import(
        &self,
        neighbour: &Neighbour,
        cx: &Shared,
        now: Instant,
    ) -> Option<Import> {
        if !neighbour.far || self.is_stuck(now) {
            return None;
        }
        let near = self.neighbours.iter().filter(|(_, near)| {
            let brings = near.brought_at.is_some_and(|at| now < at + BRINGS);
            !near.far && near.role == Role::Node && brings
        });
        Some(Import {
            own: number(&cx.config.host),
            near: near.map(|(host, _)| number(host)).collect(),
            step: STEP.max(neighbour.pace.turnaround() * 3),
            now,
        })
    }

    /// Whether a piece that we lack may cross now.
    pub(super) fn may_import(&self, piece: PieceIndex, import: &Import) -> bool {
        let before = import.rank(piece).min(MOST_BEFORE);
        let seen = self.abroad.seen.get(piece.as_usize()).copied().flatten();
        let turn = seen.is_some_and(|at| import.now >= at + import.step * before);
        !self.is_at_home(piece) && (before == 0 || turn)
    }

    /// Whether it is for us to bring a piece into our zone.
    pub(super) fn is_ours(&self, piece: PieceIndex, import: &Import) -> bool {
        !self.is_at_home(piece) && import.rank(piece) == 0
    }

    fn is_at_home(&self, piece: PieceIndex) -> bool {
        let home = self.abroad.home.as_ref();
        home.is_some_and(|home| home.contains(piece))
    }

    /// Looks up what our zone has, if that is of use for the neighbour at this place.
    pub(super) fn look_around(&mut self, place: usize) {
        let far = self.neighbours.at(place).is_some_and(|(_, n)| n.far);
        let Some(content) = self
            .content
            .as_ref()
            .filter(|_| far && self.abroad.home.is_none())
        else {
            return;
        };
        let mut home = PieceSet::empty(content.geometry.piece_count());
        let near = self.neighbours.values();
        for near in near.filter(|near| !near.far && near.is_counted_on()) {
            home.insert_all(&near.has);
        }
        self.abroad.home = Some(home);
    }

    /// Whether a neighbour of another zone is left alone: a source, or one of too many.
    pub(super) fn is_left_to_others(&self, neighbour: &Neighbour, now: Instant) -> bool {
        if !neighbour.far || self.is_stuck(now) {
            return false;
        }
        let far = self
            .neighbours
            .values()
            .filter(|other| other.far && other.joined);
        match neighbour.source {
            true => far.filter(|other| !other.source).count() > 0,
            false => {
                let asked = far.filter(|other| !other.requests.is_empty()).count();
                neighbour.requests.is_empty() && asked >= MOST_FAR
            }
        }
    }

    fn is_stuck(&self, now: Instant) -> bool {
        now >= self.progress_at + STUCK + self.patience()
    }
}

impl Import {
    /// How many neighbours of our zone come before us.
    fn rank(&self, piece: PieceIndex) -> u32 {
        let own = mix(self.own, piece);
        self.near
            .iter()
            .filter(|near| mix(**near, piece) > own)
            .count() as u32
    }
}

/// A number for a name (FNV-1a).
fn number(host: &HostId) -> u64 {
    let bytes = host.as_str().bytes();
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Another number for each piece (the end of splitmix64).
fn mix(number: u64, piece: PieceIndex) -> u64 {
    let mut hash = number ^ u64::from(piece.0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}
