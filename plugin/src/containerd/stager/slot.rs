//! A layer's place among those that are unpacked at a time.
//!
//! Places are for processor time. A layer that mostly waits for its bytes gives its place away and
//! goes on without one, so that a registry that hangs holds up nobody else's layers.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use hawker_snapshotter::{LayerSource, SourceError};
use tokio::sync::OwnedSemaphorePermit;

/// How often it is looked at how long a layer has waited.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A layer that waited for so much of that time gives its place away.
const STARVED: Duration = Duration::from_millis(900);

/// A place. Given back when the last one who holds it has gone, or when the layer starves.
#[derive(Debug)]
pub(super) struct Slot {
    state: Mutex<State>,
    /// How many layers starve.
    starving: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct State {
    permit: Option<OwnedSemaphorePermit>,
    /// How long bytes were waited for, without the wait that goes on.
    waited: Duration,
    waiting_since: Option<Instant>,
}

impl Slot {
    /// `starving` counts the layers that gave their places away and are not at their end.
    pub(super) fn new(permit: OwnedSemaphorePermit, starving: &Arc<AtomicUsize>) -> Arc<Self> {
        let state = Mutex::new(State {
            permit: Some(permit),
            waited: Duration::ZERO,
            waiting_since: None,
        });
        Arc::new(Self {
            state,
            starving: Arc::clone(starving),
        })
    }

    /// Gives the place away once the layer has waited for nearly a whole second; then never
    /// returns.
    pub(super) async fn watch(&self) -> Infallible {
        let mut before = Duration::ZERO;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let waited = self.waited();
            if waited.saturating_sub(before) >= STARVED {
                if self.lock().permit.take().is_some() {
                    self.starving.fetch_add(1, Ordering::Relaxed);
                }
                return std::future::pending().await;
            }
            before = waited;
        }
    }

    fn waited(&self) -> Duration {
        let state = self.lock();
        let now = state.waiting_since.map(|since| since.elapsed());
        state.waited + now.unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.lock().permit.is_none() {
            self.starving.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A layer whose waits are noted at its place, which it holds.
pub(super) struct Timed {
    pub(super) source: Box<dyn LayerSource>,
    pub(super) slot: Arc<Slot>,
}

impl LayerSource for Timed {
    fn next(&mut self) -> Result<Bytes, SourceError> {
        self.slot.lock().waiting_since = Some(Instant::now());
        let bytes = self.source.next();
        let mut state = self.slot.lock();
        let since = state.waiting_since.take();
        state.waited += since.map(|since| since.elapsed()).unwrap_or_default();
        bytes
    }

    fn prove(&mut self) -> Result<(), SourceError> {
        self.source.prove()
    }
}
