//! The receiving half of a connection.

use std::{pin::Pin, sync::Arc, time::Duration};

use hawker_swarm::Envelope;
use tokio::{
    io::AsyncReadExt as _,
    sync::SemaphorePermit,
    time::{Instant, Sleep, sleep, timeout},
};

use super::{
    WireError,
    connection::{Pulse, Timing},
    decoder::Decoder,
    frame::{Frame, FrameError, Hello, Kind},
    piece_memory::{ROOM, Room},
    stream::ReadSide,
};

/// Receives messages from a peer.
#[derive(Debug)]
pub struct FrameReader {
    io: ReadSide,
    decoder: Decoder,
    timing: Timing,
    pulse: Arc<Pulse>,
    heard: Instant,
    silence: Pin<Box<Sleep>>,
    goodbye: Option<String>,
    pub(super) room: &'static Room,
    /// The share of the piece that is arriving, or of the one that was returned last: until the next
    /// call nobody else bounds it.
    entered: Option<SemaphorePermit<'static>>,
    /// When that was.
    entered_at: Instant,
}

impl FrameReader {
    pub(super) fn new(io: ReadSide, timing: Timing, pulse: Arc<Pulse>) -> Self {
        Self {
            io,
            decoder: Decoder::new(),
            timing,
            pulse,
            heard: Instant::now(),
            silence: Box::pin(sleep(timing.silence)),
            goodbye: None,
            room: &ROOM,
            entered: None,
            entered_at: Instant::now(),
        }
    }

    /// The next message; `None` once the peer has said goodbye. A piece's data has a buffer of
    /// its own, and waits for room where many are arriving. After an error nothing more can be
    /// received.
    ///
    /// Cancel-safe: what has arrived of a frame stays here, so that a call that was dropped (in a
    /// `select!`) loses nothing.
    pub async fn next(&mut self) -> Result<Option<Envelope>, WireError> {
        if !self.decoder.is_within_a_piece() {
            self.entered = None;
        }
        loop {
            if self.goodbye.is_some() {
                return Ok(None);
            }
            match self.next_frame().await? {
                Frame::Message(envelope) => return Ok(Some(envelope)),
                Frame::Ping { nonce } => self.pulse.owe(nonce),
                Frame::Goodbye { reason } => self.goodbye = Some(reason),
                Frame::Error { code, text } => return Err(WireError::Refused { code, text }),
                Frame::Hello(_) => return Err(FrameError::SecondHello.into()),
                Frame::Pong { .. } | Frame::Ignored { .. } => {}
            }
        }
    }

    /// The reason of the peer's goodbye, once it was said.
    pub fn goodbye(&self) -> Option<&str> {
        self.goodbye.as_deref()
    }

    /// The first frame, or why the peer sent another instead.
    pub(super) async fn hello(&mut self) -> Result<Hello, WireError> {
        match self.next_frame().await? {
            Frame::Hello(hello) => Ok(hello),
            Frame::Error { code, text } => Err(WireError::Refused { code, text }),
            // The decoder lets no other frame through before the hello.
            _ => Err(FrameError::BeforeHello(Kind::Optional).into()),
        }
    }

    /// Reads and forgets what still comes, so that the peer's last words are not met with a reset
    /// that would destroy ours.
    pub(super) async fn linger(mut self, time: Duration) {
        let drained = async {
            let mut sink = [0; 4096];
            while self.io.read(&mut sink).await.is_ok_and(|len| len > 0) {}
        };
        // Over time is as good as drained.
        let _ = timeout(time, drained).await;
    }

    async fn next_frame(&mut self) -> Result<Frame, WireError> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(frame);
            }
            match self.decoder.at_the_door() {
                Some(len) => self.let_in(len).await,
                None => self.fill().await?,
            }
        }
    }

    /// Lets a piece in once there is room. Nothing is read meanwhile, so that the time does not count.
    async fn let_in(&mut self, len: usize) {
        self.entered = None;
        self.entered = Some(self.room.enter(len).await);
        self.decoder.let_in();
        self.entered_at = Instant::now();
        self.heard = self.entered_at;
    }

    /// When to look at the peer's silence again, and at what it takes for its piece.
    fn due(&self) -> Instant {
        let silent = self.heard + self.timing.silence;
        let tardy = self.entered_at + self.timing.silence;
        let soon = Instant::now() + self.timing.silence / 30;
        match self.decoder.is_within_a_piece() {
            true => silent.min(tardy.max(soon)),
            false => silent,
        }
    }

    /// Why the peer is given up now, if it is.
    fn is_given_up(&self) -> Result<(), WireError> {
        let (now, patience) = (Instant::now(), self.timing.silence);
        if now >= self.heard + patience {
            return Err(WireError::Silent(patience));
        }
        let is_tardy = self.decoder.is_within_a_piece() && now >= self.entered_at + patience;
        match is_tardy && self.room.is_crowded() {
            true => Err(WireError::Tardy(patience)),
            false => Ok(()),
        }
    }

    /// Reads something. `read_buf` is cancel-safe, and so is this.
    async fn fill(&mut self) -> Result<(), WireError> {
        loop {
            let mut space = self.decoder.space();
            // Reading comes first: bytes that wait prove the peer alive, however late we come.
            tokio::select! {
                biased;
                read = self.io.read_buf(&mut space) => {
                    if read? == 0 {
                        return Err(WireError::Closed);
                    }
                    self.heard = Instant::now();
                    return Ok(());
                }
                () = &mut self.silence => {
                    self.is_given_up()?;
                    let due = self.due();
                    self.silence.as_mut().reset(due);
                }
            }
        }
    }
}
