//! Answers what the piece network asks of this daemon: judgements, and credentials in place of those
//! that were refused.

use hawker_p2p::{Node, NodeRequest};
use tokio::task::JoinSet;
use tracing::{debug, info};

use crate::layers::Layers;

/// Questions that are answered at the same time. Others wait for a place among them.
const MOST_AT_ONCE: usize = 256;

/// Answers until the node stops. Dropping the future ends all answers.
pub(crate) async fn answer(node: Node, layers: Layers) {
    let Some(mut requests) = node.requests() else {
        return;
    };
    let mut answers = JoinSet::new();
    while let Some(request) = requests.recv().await {
        while answers.try_join_next().is_some() {}
        if answers.len() >= MOST_AT_ONCE {
            answers.join_next().await;
        }
        answers.spawn(answer_one(layers.clone(), request));
    }
}

async fn answer_one(layers: Layers, request: NodeRequest) {
    match request {
        NodeRequest::Judge {
            host,
            task,
            source,
            mut reply,
        } => {
            let verdict = tokio::select! {
                verdict = layers.access().judge(task, &source) => verdict,
                () = reply.closed() => return,
            };
            debug!(%host, %task, ?verdict, "judged");
            // Whoever asked may have gone.
            let _ = reply.send(verdict);
        }
        NodeRequest::Renew {
            task,
            source,
            mut reply,
        } => {
            let renewed = tokio::select! {
                renewed = layers.renew(task, &source) => renewed,
                () = reply.closed() => return,
            };
            info!(%task, found = renewed.is_some(), "a credential was refused half-way");
            let _ = reply.send(renewed);
        }
    }
}
