//! Saves changes of the records, in one thread: all that wait are saved by one transaction.
//!
//! A pull promises dozens of layers at once; each of them waits for one and the same sync.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
};

use tokio::sync::oneshot;
use tracing::{error, info};

use super::{
    error::ContentError,
    records::Records,
    rows::{Change, Rows, Save},
    step::step,
};

/// Changes in one transaction at most.
const MOST_CHANGES: usize = 1000;

/// When it is dropped, what is left is saved, and the thread ends.
#[derive(Debug)]
pub(super) struct Journal {
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Order {
    change: Change,
    save: Save,
    reply: Option<oneshot::Sender<Result<(), String>>>,
}

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
        let (reply, answer) = oneshot::channel();
        self.send(change, Save::Durably, Some(reply))?;
        let saved = answer.await.map_err(|_| ContentError::Stopping)?;
        saved.map_err(ContentError::Records)
    }

    /// The change is saved soon; a crash before undoes it.
    pub(super) fn note(&self, change: Change) {
        if self.send(change, Save::Sometime, None).is_err() {
            info!("a record of content is not saved: its thread has ended");
        }
    }

    fn send(
        &self,
        change: Change,
        save: Save,
        reply: Option<oneshot::Sender<Result<(), String>>>,
    ) -> Result<(), ContentError> {
        let order = Order {
            change,
            save,
            reply,
        };
        let orders = self.orders.as_ref().ok_or(ContentError::Stopping)?;
        orders.send(order).map_err(|_| ContentError::Stopping)
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
    let mut is_behind = false;
    while let Ok(first) = inbox.recv() {
        let mut orders = vec![first];
        orders.extend(inbox.try_iter().take(MOST_CHANGES - 1));
        let is_durable = orders.iter().any(|order| order.save == Save::Durably);
        is_behind = !is_durable;
        let save = if is_durable {
            Save::Durably
        } else {
            Save::Sometime
        };
        step();
        let saved = write(&mut rows, records, &orders, save);
        step();
        if let Err(error) = &saved {
            error!(%error, "records of content cannot be saved");
        }
        for reply in orders.into_iter().filter_map(|order| order.reply) {
            // Whoever asked may have gone.
            let _ = reply.send(saved.clone());
        }
    }
    if is_behind && let Err(error) = rows.write(&[], Save::Durably) {
        error!(%error, "records of content cannot be saved");
    }
}

fn write(rows: &mut Rows, records: &Records, orders: &[Order], save: Save) -> Result<(), String> {
    if rows.is_broken() {
        rows.mend(&everything(records))
            .map_err(|error| error.to_string())?;
    }
    let changes: Vec<Change> = orders.iter().map(|order| order.change.clone()).collect();
    rows.write(&changes, save)
        .map_err(|error| error.to_string())
}

/// All rows as memory has them.
fn everything(records: &Records) -> Vec<Change> {
    let digests = records.digests(|_| true).into_iter();
    let rows = digests.filter_map(|digest| {
        let record = records.get(&digest)?;
        Some(Change::Put(digest, record.row.clone()))
    });
    rows.collect()
}

/// Where the records are.
pub(super) fn path(dir: &std::path::Path) -> PathBuf {
    dir.join("content.redb")
}
