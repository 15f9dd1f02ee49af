//! Signs of life on a connection: those that are owed, and those that are waited for.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};

/// Who looks so much later than it wanted may find bytes that have come and are not read yet.
const LATE: Duration = Duration::from_millis(50);
/// It waits so long for them to be read.
const GRACE: Duration = Duration::from_millis(100);
/// How often it is looked whether a silent peer is heard again.
const LOOK: Duration = Duration::from_millis(50);

/// What both halves of a connection, and who looks after it, tell each other.
#[derive(Debug)]
pub(crate) struct Pulse {
    /// The last ping, if it is not answered. Earlier ones need no answer.
    owed: Mutex<Option<u64>>,
    /// A ping is to be sent,
    wanted: AtomicBool,
    /// and is gathered, but not written.
    gathered: AtomicBool,
    /// There is something to send.
    wake: Notify,
    began: Instant,
    /// When the last ping that was wanted went out, and when the last byte came: microseconds since the
    /// beginning.
    pinged: AtomicU64,
    heard: AtomicU64,
    /// The reader waits for bytes. While it does not, whatever comes is not heard.
    reading: AtomicBool,
}

/// When a sign of life was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    at: u64,
}

impl Default for Pulse {
    fn default() -> Self {
        Self {
            owed: Mutex::default(),
            wanted: AtomicBool::new(false),
            gathered: AtomicBool::new(false),
            wake: Notify::new(),
            began: Instant::now(),
            pinged: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            reading: AtomicBool::new(false),
        }
    }
}

impl Pulse {
    // --- The reader's ---

    /// A ping came.
    pub(super) fn owe(&self, nonce: u64) {
        *self.owed.lock().unwrap_or_else(PoisonError::into_inner) = Some(nonce);
        self.wake.notify_one();
    }

    /// It waits for bytes.
    pub(super) fn begin_reading(&self) {
        self.reading.store(true, Relaxed);
    }

    /// Some have come.
    pub(super) fn note_bytes(&self) {
        self.heard.store(self.now(), Relaxed);
        self.reading.store(false, Relaxed);
    }

    // --- The writer's ---

    /// Waits until something is owed or wanted.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    pub(super) fn take_owed(&self) -> Option<u64> {
        let mut owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        owed.take()
    }

    /// Whether a ping is to be sent now.
    pub(super) fn take_wanted(&self) -> bool {
        let wanted = self.wanted.swap(false, Relaxed);
        self.gathered.fetch_or(wanted, Relaxed);
        wanted
    }

    /// The socket has taken all that was gathered.
    pub(super) fn note_flushed(&self) {
        if self.gathered.swap(false, Relaxed) {
            self.pinged.store(self.now(), Relaxed);
        }
    }

    // --- Whoever looks after the connection's ---

    /// Asks the peer for a sign of life.
    pub(crate) fn ask(&self) -> Asked {
        let at = self.now();
        self.wanted.store(true, Relaxed);
        self.wake.notify_one();
        Asked { at }
    }

    /// Says whether a sign of life came within so long after the question was on its way; what is ours to
    /// do first, to write it and to read what has come, does not count. Bytes of any kind are one.
    /// Cancel-safe.
    pub(crate) async fn is_answered(&self, asked: Asked, within: Duration) -> bool {
        let mut due = Instant::now() + within;
        loop {
            sleep_until(due).await;
            if due.elapsed() >= LATE {
                sleep(GRACE).await;
            }
            if self.has_heard_since(asked) {
                return true;
            }
            let pinged = self.pinged.load(Relaxed);
            let is_out = !self.wanted.load(Relaxed) && pinged >= asked.at;
            let answer_due = self.began + Duration::from_micros(pinged) + within;
            due = match is_out && self.reading.load(Relaxed) {
                true if answer_due <= Instant::now() => return false,
                true => answer_due,
                false => Instant::now() + within,
            };
        }
    }

    /// Waits until a byte has come since the question. Cancel-safe.
    pub(crate) async fn answer(&self, asked: Asked) {
        while !self.has_heard_since(asked) {
            sleep(LOOK).await;
        }
    }

    fn has_heard_since(&self, asked: Asked) -> bool {
        self.heard.load(Relaxed) > asked.at
    }

    fn now(&self) -> u64 {
        // Half a million years.
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}
