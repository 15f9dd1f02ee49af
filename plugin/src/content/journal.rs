//! Saves changes of the records, in one thread: all that wait are saved by one durable transaction.
//!
//! A pull promises dozens of layers at once; each of them waits for one and the same sync. What
//! nobody waits for goes with it, or a moment later by itself.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use tracing::{error, info};

use super::{
    error::ContentError,
    records::Records,
    rows::{Change, Rows},
    step::step,
};

/// Changes in one transaction at most.
const MOST_CHANGES: usize = 1000;
/// A change that nobody waits for is saved so much later, unless another takes it along.
const LINGER: Duration = Duration::from_millis(200);

/// When it is dropped, what is left is saved, and the thread ends.
#[derive(Debug)]
pub(super) struct Journal {
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Order {
    changes: Vec<Change>,
    /// Somebody waits.
    reply: Option<Reply>,
}

type Reply = oneshot::Sender<Result<(), String>>;

impl Journal {
    /// Saves to `rows` what `records` hold.
    pub(super) fn start(rows: Rows, records: Arc<Records>) -> io::Result<Self> {
        let (orders, inbox) = mpsc::channel();
        let thread = thread::Builder::new().name("content-records".to_owned());
        let thread = thread.spawn(move || run(rows, &records, &inbox))?;
        Ok(Self {
            orders: Some(orders),
            thread: Some(thread),
        })
    }

    /// Returns when the change is on the disk.
    pub(super) async fn save(&self, change: Change) -> Result<(), ContentError> {
        self.save_all(vec![change]).await
    }

    /// Returns when all changes are on the disk: all or none.
    pub(super) async fn save_all(&self, changes: Vec<Change>) -> Result<(), ContentError> {
        let (reply, answer) = oneshot::channel();
        self.send(changes, Some(reply))?;
        let saved = answer.await.map_err(|_| ContentError::Stopping)?;
        saved.map_err(ContentError::Records)
    }

    /// The change is saved soon, in its order; a crash before undoes it. Does not block.
    pub(super) fn note(&self, change: Change) {
        if self.send(vec![change], None).is_err() {
            info!("a record of content is not saved: its thread has ended");
        }
    }

    fn send(&self, changes: Vec<Change>, reply: Option<Reply>) -> Result<(), ContentError> {
        let orders = self.orders.as_ref().ok_or(ContentError::Stopping)?;
        let sent = orders.send(Order { changes, reply });
        sent.map_err(|_| ContentError::Stopping)
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            // It has logged what went wrong.
            let _ = thread.join();
        }
    }
}

fn run(mut rows: Rows, records: &Records, inbox: &mpsc::Receiver<Order>) {
    while let Ok(first) = inbox.recv() {
        let orders = gather(first, inbox);
        step();
        let saved = write(&mut rows, records, &orders);
        step();
        if let Err(error) = &saved {
            error!(%error, "records of content cannot be saved");
        }
        for reply in orders.into_iter().filter_map(|order| order.reply) {
            // Whoever asked may have gone.
            let _ = reply.send(saved.clone());
        }
    }
}

/// What is to be saved at once. Waits for more while nobody waits for these.
fn gather(first: Order, inbox: &mpsc::Receiver<Order>) -> Vec<Order> {
    let due = Instant::now() + LINGER;
    let mut is_urgent = first.reply.is_some();
    let mut orders = vec![first];
    while orders.len() < MOST_CHANGES {
        let next = match is_urgent {
            true => inbox.try_recv().ok(),
            false => inbox
                .recv_timeout(due.saturating_duration_since(Instant::now()))
                .ok(),
        };
        match next {
            Some(order) => {
                is_urgent |= order.reply.is_some();
                orders.push(order);
            }
            None => break,
        }
    }
    orders
}

fn write(rows: &mut Rows, records: &Records, orders: &[Order]) -> Result<(), String> {
    if rows.is_broken() {
        rows.mend(&everything(records))
            .map_err(|error| error.to_string())?;
    }
    let changes = orders
        .iter()
        .flat_map(|order| order.changes.iter().cloned());
    let changes: Vec<Change> = changes.collect();
    rows.write(&changes).map_err(|error| error.to_string())
}

/// All rows as memory has them.
fn everything(records: &Records) -> Vec<Change> {
    let digests = records.digests(|_| true).into_iter();
    let rows = digests.filter_map(|digest| {
        let record = records.get(&digest)?;
        let row = record.row.clone();
        let row = match record.is_sure() {
            true => row.told(),
            false => row,
        };
        Some(Change::Put(digest, row))
    });
    rows.collect()
}

/// Where the records are.
pub(super) fn path(dir: &std::path::Path) -> PathBuf {
    dir.join("content.redb")
}
