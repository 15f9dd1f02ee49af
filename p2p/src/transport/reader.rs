//! The receiving half of a connection.

use std::{pin::Pin, sync::Arc, time::Duration};

use hawker_swarm::Envelope;
use tokio::{
    io::AsyncReadExt as _,
    time::{Instant, Sleep, sleep, timeout},
};

use super::{
    WireError,
    connection::{Pulse, Timing},
    decoder::Decoder,
    frame::{Frame, FrameError, Hello, Kind},
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
        }
    }

    /// The next message; `None` once the peer has said goodbye. A piece's data has a buffer of
    /// its own. After an error nothing more can be received.
    ///
    /// Cancel-safe: what has arrived of a frame stays here, so that a call that was dropped (in a
    /// `select!`) loses nothing.
    pub async fn next(&mut self) -> Result<Option<Envelope>, WireError> {
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
            self.fill().await?;
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
                    let due = self.heard + self.timing.silence;
                    if Instant::now() >= due {
                        return Err(WireError::Silent(self.timing.silence));
                    }
                    self.silence.as_mut().reset(due);
                }
            }
        }
    }
}
