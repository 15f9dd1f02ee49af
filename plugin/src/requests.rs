//! Answers what the piece network asks of this daemon: judgements, manifests, and credentials in place
//! of those that were refused.

use std::sync::Arc;

use hawker_model::{HostId, TaskId};
use hawker_p2p::{ManifestWish, Node, NodeRequest, Resolution, Verdict};
use hawker_swarm::Source;
use tokio::{
    sync::{Semaphore, oneshot},
    task::JoinSet,
};
use tracing::{debug, info};

use crate::layers::Layers;

/// Claims and wishes that are answered at the same time. Others wait for a place among them; of each host's the
/// network brings an eighth of this at once (`hawker_swarm::Docket`).
const MOST_JUDGED: usize = 256;
/// Those that are answered or wait; beyond that, whoever asks goes to the registry itself.
const MOST_CLAIMS: usize = 4096;
/// Credentials that are looked for at the same time; beyond that there is none.
const MOST_RENEWED: usize = 256;

/// Answers until the node stops. Dropping the future ends all answers.
pub(crate) async fn answer(node: Node, layers: Layers) {
    let Some(mut requests) = node.requests() else {
        return;
    };
    let judges = Arc::new(Semaphore::new(MOST_JUDGED));
    // Apart, so that an origin that dawdles over claims holds up no download of ours.
    let (mut judging, mut renewing) = (JoinSet::new(), JoinSet::new());
    while let Some(request) = requests.recv().await {
        while judging.try_join_next().is_some() {}
        while renewing.try_join_next().is_some() {}
        match request {
            NodeRequest::Judge {
                host,
                task,
                source,
                reply,
            } if judging.len() < MOST_CLAIMS => {
                let (layers, judges) = (layers.clone(), Arc::clone(&judges));
                judging.spawn(async move {
                    let Ok(_place) = judges.acquire().await else {
                        return;
                    };
                    judge(&layers, host, task, source, reply).await;
                });
            }
            NodeRequest::Resolve { host, wish, reply } if judging.len() < MOST_CLAIMS => {
                let (layers, judges) = (layers.clone(), Arc::clone(&judges));
                judging.spawn(async move {
                    let Ok(_place) = judges.acquire().await else {
                        return;
                    };
                    resolve(&layers, host, wish, reply).await;
                });
            }
            NodeRequest::Renew {
                task,
                source,
                reply,
            } if renewing.len() < MOST_RENEWED => {
                renewing.spawn(renew(layers.clone(), task, source, reply));
            }
            // Dropped, it is answered with no.
            NodeRequest::Judge { task, .. } | NodeRequest::Renew { task, .. } => {
                debug!(%task, "too many questions of the network");
            }
            NodeRequest::Resolve { host, .. } => {
                debug!(%host, "too many questions of the network");
            }
        }
    }
}

async fn judge(
    layers: &Layers,
    host: HostId,
    task: TaskId,
    source: Source,
    mut reply: oneshot::Sender<Verdict>,
) {
    let verdict = tokio::select! {
        // Whoever asked may have gone while this waited.
        biased;
        () = reply.closed() => return,
        verdict = layers.access().judge(task, &source) => verdict,
    };
    debug!(%host, %task, ?verdict, "judged");
    let _ = reply.send(verdict);
}

async fn resolve(
    layers: &Layers,
    host: HostId,
    wish: ManifestWish,
    mut reply: oneshot::Sender<Resolution>,
) {
    let resolution = tokio::select! {
        biased;
        () = reply.closed() => return,
        resolution = layers.access().resolve(&wish) => resolution,
    };
    debug!(%host, place = %wish.place(), is_given = matches!(resolution, Resolution::Given(_)), "resolved");
    let _ = reply.send(resolution);
}

async fn renew(
    layers: Layers,
    task: TaskId,
    source: Source,
    mut reply: oneshot::Sender<Option<Source>>,
) {
    let renewed = tokio::select! {
        renewed = layers.renew(task, &source) => renewed,
        () = reply.closed() => return,
    };
    info!(%task, found = renewed.is_some(), "a credential was refused half-way");
    let _ = reply.send(renewed);
}
