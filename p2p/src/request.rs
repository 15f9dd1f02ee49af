//! What a node asks of its owner: decisions that need the clients' credentials or the rules of
//! access, which the piece network knows nothing of.

use hawker_model::{HostId, TaskId};
use hawker_swarm::{ManifestWish, Resolution, Source, Verdict};
use tokio::sync::oneshot;

/// A question of a [`crate::Node`]; [`crate::Node::requests`] brings them. One that is dropped, or
/// asked while nobody listens, counts as answered with no.
#[derive(Debug)]
pub enum NodeRequest {
    /// The origin refused this source's credential, here or at a seed: another for the same place,
    /// if there is one. Whoever waits does so for about two seconds.
    Renew {
        task: TaskId,
        source: Source,
        reply: oneshot::Sender<Option<Source>>,
    },
    /// To a seed: may whoever shows this source's credential have the task? `host` is the member of
    /// the cluster that asks. The reply is closed when it no longer waits.
    Judge {
        host: HostId,
        task: TaskId,
        source: Source,
        reply: oneshot::Sender<Verdict>,
    },
    /// To a seed: what does the registry give for this manifest to whoever shows this source's
    /// credential? As for [`NodeRequest::Judge`] otherwise.
    Resolve {
        host: HostId,
        wish: ManifestWish,
        reply: oneshot::Sender<Resolution>,
    },
}
