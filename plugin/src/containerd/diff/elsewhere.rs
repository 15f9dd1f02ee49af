//! Layers that are for another differ.
//!
//! Behind containerd's diff service stands a list of differs: whoever answers `Unimplemented` is
//! followed by the next. But its transfer service asks one differ alone. So what cannot be done here
//! is asked of containerd's diff service, in the caller's own name: it asks us again, is told that
//! this one is not for us, and has the next one do it.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use containerd_client::services::v1::{ApplyRequest, ApplyResponse};
use tonic::{Code, Request, Status, metadata::MetadataMap};
use tracing::debug;

use super::applier::Left;
use crate::containerd::client::ContainerdClient;

/// What of the caller's own words goes with the question.
const PASSED_ON: [&str; 2] = ["containerd-namespace", "containerd-lease"];

/// So often one layer is asked for at a time: the end, should containerd ever ask back in other
/// words than it was asked in.
const MOST_OF_LAYER: usize = 8;

/// The way to the other differs. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Elsewhere {
    client: ContainerdClient,
    asked: Arc<Mutex<BTreeSet<Asked>>>,
}

/// A layer and its place: the same is never asked for twice at a time.
type Asked = (String, Vec<String>);

/// Ends when it is answered, or nobody waits for it.
struct Asking<'a> {
    elsewhere: &'a Elsewhere,
    what: Asked,
}

impl Elsewhere {
    pub(super) fn new(client: ContainerdClient) -> Self {
        Self {
            client,
            asked: Arc::default(),
        }
    }

    /// Whether this is what containerd was asked for just now, on its way to the next differ.
    pub(super) fn is_asked_for(&self, request: &ApplyRequest) -> bool {
        self.lock().contains(&asked(request))
    }

    /// Has the next differ do it. `Unimplemented` where there is none.
    pub(super) async fn apply(
        &self,
        request: Request<ApplyRequest>,
        left: &Left,
    ) -> Result<ApplyResponse, Status> {
        let unimplemented = || Status::unimplemented(left.to_string());
        let what = asked(request.get_ref());
        if !self.begin(&what) {
            return Err(unimplemented());
        }
        let _asking = Asking {
            elsewhere: self,
            what,
        };
        let (metadata, _, message) = request.into_parts();
        let mut request = Request::new(message);
        *request.metadata_mut() = passed_on(&metadata);
        match self.client.apply(request).await {
            Err(status) if is_no_answer(&status) => {
                debug!(error = status.message(), "no other differ can be asked");
                Err(unimplemented())
            }
            answered => answered,
        }
    }

    /// Whether it may be asked for now.
    fn begin(&self, what: &Asked) -> bool {
        let mut asked = self.lock();
        let of_layer = asked.iter().filter(|other| other.0 == what.0).count();
        of_layer < MOST_OF_LAYER && asked.insert(what.clone())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.elsewhere.lock().remove(&self.what);
    }
}

fn asked(request: &ApplyRequest) -> Asked {
    let layer = request.diff.as_ref();
    let layer = layer.map_or_else(String::new, |layer| layer.digest.clone());
    let mounts = request.mounts.iter();
    let mounts =
        mounts.flat_map(|mount| [std::slice::from_ref(&mount.source), &mount.options[..]].concat());
    (layer, mounts.collect())
}

fn passed_on(metadata: &MetadataMap) -> MetadataMap {
    let mut passed = MetadataMap::new();
    for key in PASSED_ON {
        if let Some(value) = metadata.get(key) {
            passed.insert(key, value.clone());
        }
    }
    passed
}

/// No other differ, or no containerd where it was looked for.
fn is_no_answer(status: &Status) -> bool {
    status.code() == Code::Unimplemented || std::error::Error::source(status).is_some()
}
