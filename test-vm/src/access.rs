//! Who gets the bytes of an image: every client with every credential, wherever the blobs are,
//! while the registry is there and while it is not.
//!
//! What has to come of each cell is written down in [`expected`], from the design alone; here every
//! cell is tried with the real programs. Who calls it: the end-to-end cases (`cases/access.rs`) and
//! `hawker-test-vm access`, which prints `docs/access.md`.

mod daemons;
mod expected;
pub(crate) mod fixture;
mod raw;
mod report;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::cluster::{Client, ContainerdVersion};

pub use expected::expected;
pub use report::{Access, document};

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Asker {
    /// A client of a containerd.
    Containerd(ContainerdVersion, Client),
    Docker,
    /// Requests at the mirror as curl would make them.
    Raw,
}

/// What is shown for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Shown {
    /// Nothing, where anybody may pull.
    NothingAtPublic,
    Nothing,
    Wrong,
    Right,
    /// It was right until its time was over.
    Expired,
    /// It was right until it was taken back.
    Revoked,
    /// Right for another repository of the registry.
    OtherRepository,
    /// Right at another registry.
    OtherRegistry,
}

/// Where the blobs are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum State {
    /// Nowhere.
    Unknown,
    /// At the registry alone.
    Origin,
    /// Also on another node.
    Peer,
    /// Also on the node itself.
    Local,
}

/// Whether the registry and its token service can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Reach {
    Up,
    /// No; and no right was established before.
    Down,
    /// Not for a while, which the rights that stood before outlive.
    Grace,
    /// Not for longer than rights outlive.
    Over,
}

/// What comes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Outcome {
    Bytes,
    /// By the registry.
    Refused,
    /// By the token service.
    NoToken,
    NotFound,
    /// Nobody could say, or give it.
    Unavailable,
}

/// One cell of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Cell {
    pub asker: Asker,
    pub shown: Shown,
    pub state: State,
    pub reach: Reach,
}

/// What was seen of a cell.
#[derive(Debug, Clone, Serialize)]
pub struct Seen {
    pub cell: Cell,
    pub outcome: Outcome,
    /// How often the whole of its largest blob has left the registry.
    pub copies: f64,
    /// What the client said.
    pub words: String,
}

impl Asker {
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Containerd(version, client) => {
                format!("{} of containerd {}", client.name(), version.name())
            }
            Self::Docker => "docker".to_owned(),
            Self::Raw => "curl at the mirror".to_owned(),
        }
    }

    /// The clients of the matrix.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let clients = [Client::Crictl, Client::Ctr];
        let of = |version| clients.map(|client| Self::Containerd(version, client));
        let containerds = ContainerdVersion::ALL.into_iter().flat_map(of);
        containerds.chain([Self::Docker, Self::Raw]).collect()
    }

    /// In which states of the registry it is tried: daemons ask for a manifest first, of which no
    /// right to a blob tells, so that their rights always stand from before.
    #[must_use]
    pub fn reaches(self) -> &'static [Reach] {
        match self {
            Self::Raw => &[Reach::Up, Reach::Down, Reach::Grace, Reach::Over],
            Self::Containerd(..) | Self::Docker => &[Reach::Up, Reach::Grace],
        }
    }

    /// All its cells.
    #[must_use]
    pub fn cells(self) -> Vec<Cell> {
        let mut cells = Vec::new();
        for &reach in self.reaches() {
            for shown in Shown::ALL {
                cells.extend(State::ALL.map(|state| Cell {
                    asker: self,
                    shown,
                    state,
                    reach,
                }));
            }
        }
        cells
    }
}

impl Shown {
    pub const ALL: [Self; 8] = [
        Self::NothingAtPublic,
        Self::Nothing,
        Self::Wrong,
        Self::Right,
        Self::Expired,
        Self::Revoked,
        Self::OtherRepository,
        Self::OtherRegistry,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NothingAtPublic => "none, public image",
            Self::Nothing => "none",
            Self::Wrong => "wrong",
            Self::Right => "right",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::OtherRepository => "of another repository",
            Self::OtherRegistry => "of another registry",
        }
    }
}

impl State {
    pub const ALL: [Self; 4] = [Self::Unknown, Self::Origin, Self::Peer, Self::Local];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Origin => "at the registry",
            Self::Peer => "in a peer",
            Self::Local => "local",
        }
    }
}

impl Reach {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down, no right stood before",
            Self::Grace => "down, within the grace",
            Self::Over => "down, after the grace",
        }
    }
}

impl Outcome {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bytes => "**bytes**",
            Self::Refused => "refused",
            Self::NoToken => "no token",
            Self::NotFound => "not found",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Tries all cells of the clients of one containerd; with Docker's beside those of Debian's.
///
/// # Errors
/// When the cluster does not come up; what a client got is in the list.
pub fn run_daemons(version: ContainerdVersion) -> Result<Vec<Seen>> {
    daemons::run(version)
}

/// Tries all cells of requests at the mirror.
///
/// # Errors
/// When the cluster does not come up; what was answered is in the list.
pub fn run_raw() -> Result<Vec<Seen>> {
    raw::run()
}

/// # Errors
/// When a cell is not as it has to be, or a blob left the registry twice: names all such cells.
pub fn check(seen: &[Seen]) -> Result<()> {
    let wrong: Vec<_> = seen.iter().filter_map(fault).collect();
    println!(
        "{} of {} cells are as they have to be",
        seen.len() - wrong.len(),
        seen.len()
    );
    let is_right = wrong.is_empty().then_some(());
    is_right.with_context(|| wrong.join("\n"))
}

fn fault(seen: &Seen) -> Option<String> {
    let (cell, wanted) = (seen.cell, expected(seen.cell));
    let at = format!(
        "{}, credential {}, blob {}, registry {}",
        cell.asker.name(),
        cell.shown.name(),
        cell.state.name(),
        cell.reach.name()
    );
    if seen.outcome != wanted {
        let (outcome, words) = (seen.outcome, &seen.words);
        return Some(format!("{at}: {outcome:?} instead of {wanted:?}: {words}"));
    }
    (seen.copies > 1.5).then(|| format!("{at}: the registry sent it {:.1} times", seen.copies))
}
