//! The receiving half of a connection.

use std::{pin::Pin, sync::Arc, time::Duration};

use hawker_swarm::Envelope;
use tokio::{
    io::AsyncReadExt as _,
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit},
    time::{Instant, Sleep, sleep, timeout},
};

use super::{
    WireError,
    connection::Timing,
    decoder::Decoder,
    frame::{Frame, FrameError, Hello, Kind},
    piece_memory::{ROOM, Room, SHORT_LEN, TRIAL},
    pulse::Pulse,
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
    /// One long piece at a time of all connections of a host.
    share: Arc<Semaphore>,
    /// That, and the room, of the long piece that is arriving, or of the one that was returned last:
    /// until the next call nobody else bounds it.
    entered: Option<(OwnedSemaphorePermit, SemaphorePermit<'static>)>,
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
            share: Arc::new(Semaphore::new(1)),
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
        if self.decoder.arrived().is_none() {
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

    /// The reader's host has another connection: of both together one long piece arrives at a time.
    pub(crate) fn share_with(&mut self, share: &Arc<Semaphore>) {
        self.share = Arc::clone(share);
    }

    /// For [`Self::share_with`].
    pub(crate) fn share(&self) -> &Arc<Semaphore> {
        &self.share
    }

    /// Signs of life on the connection.
    pub(crate) fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
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

    /// Lets a piece in, a long one once there is room. Nothing is read meanwhile, so that the time does
    /// not count.
    async fn let_in(&mut self, len: usize) {
        self.entered = None;
        if len > SHORT_LEN
            && let Ok(share) = Arc::clone(&self.share).acquire_owned().await
            && let Some(room) = self.room.enter(len).await
        {
            self.entered = Some((share, room));
        }
        self.decoder.let_in();
        self.entered_at = Instant::now();
        self.heard = self.entered_at;
        if self.entered.is_some() {
            let trial = TRIAL.min(self.timing.silence);
            self.silence.as_mut().reset(self.entered_at + trial);
        }
    }

    /// When to look at the peer's silence again, or at how its piece comes.
    fn due(&self) -> Instant {
        let silent = self.heard + self.timing.silence;
        match self.entered {
            Some(_) => silent.min(Instant::now() + TRIAL / 2),
            None => silent,
        }
    }

    /// Why the peer is given up now, if it is.
    fn is_given_up(&self) -> Result<(), WireError> {
        if self.heard.elapsed() >= self.timing.silence {
            return Err(WireError::Silent(self.timing.silence));
        }
        let time = self.entered_at.elapsed();
        match self.decoder.arrived() {
            Some(len) if self.room.is_needed_from(len, time) => Err(WireError::Tardy(time)),
            _ => Ok(()),
        }
    }

    /// Reads something. `read_buf` is cancel-safe, and so is this.
    async fn fill(&mut self) -> Result<(), WireError> {
        self.pulse.begin_reading();
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
                    self.pulse.note_bytes();
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
