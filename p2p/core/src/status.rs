//! How the tasks of a node stand, for `hawker status` and the metrics.

use hawker_model::{Geometry, TaskId};

use crate::Want;

/// How one task stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskStatus {
    pub task: TaskId,
    /// `None` until someone told it.
    pub geometry: Option<Geometry>,
    /// How many pieces are stored.
    pub pieces: u32,
    pub want: Want,
    pub complete: bool,
    /// Peers of this task that we are in contact with.
    pub neighbours: usize,
    /// Whether a fetch from the origin runs.
    pub at_origin: bool,
    pub received: Received,
}

/// Bytes of checked and stored pieces by where they came from, since the task was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    pub origin_bytes: u64,
    pub seed_bytes: u64,
    pub parent_bytes: u64,
}
