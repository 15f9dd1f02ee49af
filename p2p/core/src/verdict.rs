//! What a judge says about a claim: whether whoever shows a credential may have a task.

/// The outcome of a judgement, as the origin gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The origin gives the task to this credential.
    Granted {
        /// How long it is, where the origin says so.
        length: Option<u64>,
        /// Whether the judge knows, or has proven, that the origin holds the very bytes that are
        /// in the cluster.
        held: bool,
    },
    /// The origin refuses this credential.
    Denied {
        /// The origin's HTTP status.
        status: u16,
        /// The values of its `WWW-Authenticate` headers.
        challenges: Vec<String>,
    },
    /// The origin does not have it.
    NotFound,
    /// Nothing can be said, since the origin cannot be reached or fails: ask it yourself.
    Failed(String),
}
