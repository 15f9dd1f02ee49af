//! The hostile matrix: every kind of liar against a cluster of real daemons.
//!
//! For each kind a fresh blob is pulled by four nodes while the liar, with a certificate of the
//! cluster, says that it has it. Then it is asked what every host has, whom it shuts out, whom the
//! scheduler has isolated, and what left the registry.

mod prop;
mod report;
mod stage;

use anyhow::{Result, ensure};
use serde::Serialize;

pub use self::report::{Page, document};
use self::stage::Stage;
use crate::liar::Kind;

/// Who misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Villain {
    Peer(Kind),
    /// A registry that gives a wrong byte, always.
    Registry,
    /// An honest node whose disk has flipped a bit.
    Disk,
}

impl Villain {
    /// All of them.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let peers = Kind::ALL.into_iter().map(Self::Peer);
        peers.chain([Self::Registry, Self::Disk]).collect()
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Peer(kind) => kind.name(),
            Self::Registry => "lying-registry",
            Self::Disk => "flipped-bit",
        }
    }

    /// Whether the scheduler must isolate it: what is wrong can be proven, and is no accident.
    fn is_liable(self) -> bool {
        match self {
            Self::Peer(kind) => !matches!(kind, Kind::Stall | Kind::FalseHave),
            Self::Registry | Self::Disk => false,
        }
    }

    /// Copies of the blob that may leave the registry.
    fn most_copies(self) -> f64 {
        match self {
            // One copy and some pieces, but on a busy machine victims may lose patience with each
            // other, and their clients go to the registry.
            Self::Peer(Kind::LyingSeed) => 4.0,
            Self::Peer(_) | Self::Disk => 1.5,
            Self::Registry => 8.0,
        }
    }
}

/// What a victim may be sent before it has shut a liar out: what it asks for before one has matched.
const MOST_PIECES: u64 = 3;

/// What came of one villain.
#[derive(Debug, Clone, Serialize)]
pub struct Seen {
    pub villain: Villain,
    /// Nodes that got the right bytes, and those that got none and were told so.
    pub right: usize,
    pub refused: usize,
    /// Nodes that got bytes that are wrong.
    pub wrong: usize,
    /// Honest hosts that the scheduler has isolated or an honest host has shut out.
    pub wronged: Vec<String>,
    /// Honest hosts that shut the villain out.
    pub shut_out_by: usize,
    pub isolated: bool,
    /// Whether the scheduler sent others there again later; of the one that stayed until then.
    pub paroled: Option<bool>,
    /// The most pieces that the villain gave to one victim.
    pub pieces: u64,
    /// What left the registry, as a multiple of the blob.
    pub copies: f64,
    pub seconds: f64,
}

/// Tries all of them on one cluster.
///
/// # Errors
/// When the cluster does not come up, or a host does not answer.
pub fn run(villains: &[Villain]) -> Result<Vec<Seen>> {
    let mut stage = Stage::new()?;
    let seen = villains.iter().map(|villain| stage.play(*villain));
    let mut seen = seen.collect::<Result<Vec<_>>>()?;
    if let Some((villain, paroled)) = stage.await_parole()? {
        let its = seen.iter_mut().filter(|it| it.villain == villain);
        its.for_each(|it| it.paroled = Some(paroled));
    }
    Ok(seen)
}

/// # Errors
/// When anything was not as it has to be: says all that was not.
pub fn check(seen: &[Seen]) -> Result<()> {
    let wrong: Vec<String> = seen.iter().flat_map(faults).collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn faults(seen: &Seen) -> Vec<String> {
    let name = seen.villain.name();
    let mut faults = Vec::new();
    let mut must = |holds: bool, what: &str| {
        if !holds {
            faults.push(format!("{name}: {what}: {seen:?}"));
        }
    };
    must(seen.wrong == 0, "wrong bytes were accepted");
    must(seen.wronged.is_empty(), "honest hosts were convicted");
    match seen.villain {
        Villain::Registry => must(
            seen.right == 0,
            "somebody has the bytes of a registry that lies",
        ),
        _ => must(seen.refused == 0, "somebody has not got the blob"),
    }
    must(
        seen.copies <= seen.villain.most_copies(),
        "the registry gave too much",
    );
    if seen.villain.is_liable() {
        must(seen.isolated, "the liar is not isolated");
        must(
            seen.shut_out_by >= 3,
            "not every victim has shut the liar out",
        );
    }
    must(
        seen.paroled != Some(false),
        "the liar was not let go when its time was over",
    );
    if matches!(
        seen.villain,
        Villain::Peer(Kind::WrongBytes | Kind::Short | Kind::Endless | Kind::LyingSeed)
    ) {
        must(
            seen.pieces <= MOST_PIECES,
            "a victim took too many pieces before it had enough",
        );
    }
    if seen.villain == Villain::Disk {
        must(!seen.isolated, "a host was isolated for one flipped bit");
    }
    faults
}
