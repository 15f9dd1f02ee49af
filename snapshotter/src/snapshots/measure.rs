//! Measures snapshots in one thread, so that nobody who asks for a usage waits for a walk.
//!
//! Of a committed snapshot the figure is saved, and never changes. Of an active one it is the last
//! that was measured; asking for an old one has it measured again.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{core::Core, info::Usage, signal::Watched};

/// Ends when it is dropped.
#[derive(Debug)]
pub(super) struct Measurer {
    work: Arc<Watched<Work>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Work {
    queue: VecDeque<u64>,
    /// Of active snapshots, and of committed ones that could not be saved.
    known: BTreeMap<u64, Known>,
    is_over: bool,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    usage: Usage,
    at: Instant,
}

impl Measurer {
    pub(super) fn start(core: Arc<Core>) -> io::Result<Self> {
        let work = Arc::new(Watched::<Work>::default());
        let thread = thread::Builder::new().name("snapshot-usage".to_owned());
        let thread = thread.spawn({
            let work = work.clone();
            move || run(&core, &work)
        })?;
        Ok(Self {
            work,
            thread: Some(thread),
        })
    }

    /// Measures that snapshot some time. `is_urgent`: somebody waits for it.
    pub(super) fn order(&self, id: u64, is_urgent: bool) {
        self.work.change(|work| work.order(id, is_urgent));
    }

    /// What is known without a walk.
    pub(super) fn knows(&self, id: u64, usage: Usage) {
        self.work.change(|work| work.learn(id, usage));
    }

    pub(super) fn forget(&self, id: u64) {
        self.work.change(|work| {
            work.known.remove(&id);
            work.queue.retain(|queued| *queued != id);
        });
    }

    /// The last figure; one older than `age` is measured again afterwards. Without any, waits for
    /// one, but no longer than `limit`.
    pub(super) fn usage(&self, id: u64, age: Duration, limit: Duration) -> Option<Usage> {
        let known = self.work.lock().known.get(&id).copied();
        if let Some(known) = known {
            if known.at.elapsed() >= age {
                self.order(id, false);
            }
            return Some(known.usage);
        }
        self.order(id, true);
        self.work
            .wait_at_most(limit, |work| Some(work.known.get(&id)?.usage))
    }
}

impl Work {
    fn order(&mut self, id: u64, is_urgent: bool) {
        match (
            self.queue.iter().position(|queued| *queued == id),
            is_urgent,
        ) {
            (Some(_), false) => return,
            (Some(at), true) => drop(self.queue.remove(at)),
            (None, _) => {}
        }
        match is_urgent {
            true => self.queue.push_front(id),
            false => self.queue.push_back(id),
        }
    }

    fn learn(&mut self, id: u64, usage: Usage) {
        let at = Instant::now();
        self.known.insert(id, Known { usage, at });
    }
}

impl Drop for Measurer {
    fn drop(&mut self) {
        self.work.change(|work| work.is_over = true);
        if let Some(thread) = self.thread.take() {
            // A panic was printed where it happened.
            drop(thread.join());
        }
    }
}

fn run(core: &Core, work: &Watched<Work>) {
    let is_over = || work.lock().is_over;
    loop {
        let next = work.wait_for(|work| match work.is_over {
            true => Some(None),
            false => work.queue.pop_front().map(Some),
        });
        let Some(id) = next else { return };
        let (kind, usage) = match core.measure(id, &is_over) {
            Ok(Some(measured)) => measured,
            Ok(None) => continue,
            Err(error) => {
                tracing::warn!(%error, "usage of a snapshot is not known");
                // Nobody shall wait for it.
                let Some(kind) = core.kind_of(id) else {
                    continue;
                };
                (kind, Usage::default())
            }
        };
        work.change(|work| {
            // Committed or removed meanwhile: the figure is of no use any more.
            if core.kind_of(id) == Some(kind) {
                work.learn(id, usage);
            }
        });
    }
}
