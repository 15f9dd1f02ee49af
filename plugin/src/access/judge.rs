//! What a seed says of other hosts' claims.
//!
//! It asks the origin with the claim's own credential, once for all who show the same, and never
//! with a login, header or client certificate of its own: what those open says nothing of who asks.
//! Where it holds the blob, it sees to it that the claim's origin is shown to hold it too, so that
//! not every host has to.

use std::time::{Duration, Instant};

use hawker_model::TaskId;
use hawker_p2p::{OriginError, Verdict};
use hawker_swarm::Source;

use super::{
    Access, AccessError, Claim, Recourse, Right, possession,
    rights::{Basis, Granted},
};

/// How long one answer of the origin's serves all hosts that ask: those that pull the same at once.
pub(super) const JUST_NOW: Duration = Duration::from_secs(15);

impl Access {
    /// Whether whoever shows the source's credential may have the task.
    pub(crate) async fn judge(&self, task: TaskId, source: &Source) -> Verdict {
        let Some(claim) = Claim::of_source(self.origin(), task, source) else {
            return Verdict::Failed("only blobs of registries are judged".to_owned());
        };
        // What our own readers were granted here is remembered for all who show the same.
        if self.origin().shows_ours(source) {
            let reason = "the seed has a login, header or client certificate of its own there";
            return Verdict::Failed(reason.to_owned());
        }
        let right = match self.judged(&claim).await {
            Ok((_, Basis::Grace)) => {
                return Verdict::Failed("the origin cannot be reached".to_owned());
            }
            Ok((right, _)) => right,
            Err(error) => return refusal(error),
        };
        Verdict::Granted {
            length: right.length,
            held: self.is_held(&claim, &right).await,
        }
    }

    /// The right, asked for anew unless that was just now: whoever asks remembers it as long as we
    /// could, so that what is old here would become too old there.
    async fn judged(&self, claim: &Claim) -> Result<(Right, Basis), AccessError> {
        let rights = &self.0.rights;
        let just_now = Instant::now().checked_sub(JUST_NOW);
        let is_new = just_now.is_some_and(|then| rights.was_granted_since(&claim.key, then));
        if let Some(right) = rights.find(&claim.key).filter(|_| is_new) {
            return Ok((right, Basis::Remembered));
        }
        rights.age(&claim.key);
        self.establish_by(claim, || self.ask_for_another(claim))
            .await
    }

    /// Nothing that was bought is kept: the credential is another host's.
    async fn ask_for_another(&self, claim: &Claim) -> Result<Granted, AccessError> {
        let granted = self.ask_origin(claim).await?;
        let right = Right {
            bought: None,
            ..granted.right
        };
        Ok(Granted { right, ..granted })
    }

    async fn is_held(&self, claim: &Claim, right: &Right) -> bool {
        if right.is_proven {
            return true;
        }
        let Ok(Some(blob)) = self.0.node.find(claim.task).await else {
            return false;
        };
        let Ok(geometry) = blob.geometry().await else {
            return false;
        };
        let length = geometry.length();
        possession::is_known(claim, &blob, 0..length)
            || right.length == Some(length)
                && self
                    .prove(claim, right, &blob, Recourse::Registry)
                    .await
                    .is_ok()
    }
}

fn refusal(error: AccessError) -> Verdict {
    match error {
        AccessError::Refused { status, challenges }
        | AccessError::Origin(OriginError::Denied {
            status, challenges, ..
        }) => Verdict::Denied { status, challenges },
        AccessError::Origin(OriginError::NotFound { .. }) => Verdict::NotFound,
        other => Verdict::Failed(other.to_string()),
    }
}
