//! What the shell tells the swarm when a task begins.

use hawker_model::{HostId, PieceList, PieceSet, Role};

use crate::Source;

/// How a task is opened.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Where its bytes come from, as far as we know.
    pub source: Option<Source>,
    /// What the store has of it.
    pub stored: Option<Stored>,
    /// What is wanted of it.
    pub want: Want,
}

/// What the store has of a task. The geometry is the list's.
#[derive(Clone, Debug)]
pub struct Stored {
    pub pieces: PieceSet,
    pub list: PieceList,
}

/// What a host wants of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Only serve what is stored.
    Serve,
    /// Get all of it, and serve it.
    Fetch,
}

/// A peer that the scheduler (or the configuration) names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    pub host: HostId,
    pub role: Role,
}

/// Who goes to the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Someone else does.
    Wait,
    /// We do, for all who ask.
    Fetch,
}
