//! How many connections a listener bears, and who makes room when there are more.
//!
//! A connection waits while no request of it is being answered: it is idle, or sends its request's
//! headers. When all slots are taken, the one that has waited longest is cut for the next: clients
//! that open connections and say nothing, or never end what they say, keep nobody out.

use std::{
    collections::BTreeMap,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::body::{Body, BodyError};

/// The slots of one listener.
#[derive(Debug)]
pub(super) struct Slots {
    free: Arc<Semaphore>,
    waiting: Mutex<Waiting>,
    /// Told when a connection begins to wait.
    idle: Notify,
}

/// The connections that wait, the oldest first.
#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    by_age: BTreeMap<u64, CancellationToken>,
}

impl Slots {
    /// So many.
    pub(super) fn new(connections: usize) -> Arc<Self> {
        Arc::new(Self {
            free: Arc::new(Semaphore::new(connections)),
            waiting: Mutex::default(),
            idle: Notify::new(),
        })
    }

    /// A slot for a new connection, which waits for its first request. `None`: none will be free.
    /// Cancel-safe, but that it may have cut a connection already.
    pub(super) async fn take(self: &Arc<Self>) -> Option<Arc<Slot>> {
        let permit = match Arc::clone(&self.free).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => self.make_room().await?,
        };
        let slot = Slot {
            slots: Arc::clone(self),
            cut: CancellationToken::new(),
            age: Mutex::default(),
            _permit: permit,
        };
        slot.wait();
        Some(Arc::new(slot))
    }

    /// Cuts the connection that has waited longest, now or as soon as one waits, unless one ends
    /// by itself.
    async fn make_room(&self) -> Option<OwnedSemaphorePermit> {
        let mut freed = pin!(Arc::clone(&self.free).acquire_owned());
        while !self.cut_oldest() {
            tokio::select! {
                permit = &mut freed => return permit.ok(),
                () = self.idle.notified() => {}
            }
        }
        freed.await.ok()
    }

    fn cut_oldest(&self) -> bool {
        let oldest = self.waiting().by_age.pop_first();
        let oldest = oldest.map(|(_, oldest)| oldest.cancel());
        oldest.is_some()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        lock(&self.waiting)
    }
}

/// The slot of one connection; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    cut: CancellationToken,
    /// Its place among those that wait.
    age: Mutex<Option<u64>>,
    _permit: OwnedSemaphorePermit,
}

impl Slot {
    /// Ends when the connection is to make room.
    pub(super) fn cut(&self) -> WaitForCancellationFuture<'_> {
        self.cut.cancelled()
    }

    /// The connection waits for a request from now on.
    fn wait(&self) {
        let mut waiting = self.slots.waiting();
        let age = waiting.next;
        waiting.next += 1;
        waiting.by_age.insert(age, self.cut.clone());
        *lock(&self.age) = Some(age);
        self.slots.idle.notify_one();
    }

    /// A request is being answered from now on, until the body of [`Slot::held_by`] is dropped.
    pub(super) fn work(&self) {
        if let Some(age) = lock(&self.age).take() {
            self.slots.waiting().by_age.remove(&age);
        }
    }

    /// The body of the answer, after which the connection waits again.
    pub(super) fn held_by(self: &Arc<Self>, body: Body) -> Body {
        let slot = Arc::clone(self);
        Holding { body, slot }.boxed_unsync()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.work();
    }
}

struct Holding {
    body: Body,
    slot: Arc<Slot>,
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.slot.wait();
    }
}

impl http_body::Body for Holding {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body;

    #[tokio::test]
    async fn the_connection_that_waited_longest_makes_room() {
        let slots = Slots::new(3);
        let busy = slots.take().await.unwrap();
        let (older, newer) = (slots.take().await.unwrap(), slots.take().await.unwrap());
        busy.work();
        let (taken, ()) = tokio::join!(slots.take(), async {
            older.cut().await;
            drop(older);
        });
        assert!(taken.is_some() && !busy.cut.is_cancelled() && !newer.cut.is_cancelled());
    }

    #[tokio::test]
    async fn an_answered_connection_waits_again_as_the_newest() {
        let slots = Slots::new(2);
        let (first, second) = (slots.take().await.unwrap(), slots.take().await.unwrap());
        first.work();
        drop(first.held_by(body::empty()));
        let (taken, ()) = tokio::join!(slots.take(), async {
            second.cut().await;
            drop(second);
        });
        assert!(taken.is_some() && !first.cut.is_cancelled());
        assert_eq!(slots.waiting().by_age.len(), 2);
    }

    #[tokio::test]
    async fn where_all_are_busy_the_first_that_is_answered_makes_room() {
        let slots = Slots::new(2);
        let (first, second) = (slots.take().await.unwrap(), slots.take().await.unwrap());
        first.work();
        second.work();
        let mut taking = Box::pin(slots.take());
        assert!(futures::poll!(&mut taking).is_pending());
        drop(second.held_by(body::empty()));
        let (taken, ()) = tokio::join!(taking, async {
            second.cut().await;
            drop(second);
        });
        assert!(taken.is_some() && !first.cut.is_cancelled());
    }

    #[tokio::test]
    async fn where_all_are_busy_the_next_waits_for_an_end() {
        let slots = Slots::new(1);
        let busy = slots.take().await.unwrap();
        busy.work();
        let (taken, ()) = tokio::join!(slots.take(), async { drop(busy) });
        assert!(taken.is_some());
        drop(taken);
        assert!(slots.waiting().by_age.is_empty());
    }
}
