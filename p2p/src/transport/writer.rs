//! The sending half of a connection.

use std::{
    io::{self, IoSlice},
    sync::Arc,
    time::Duration,
};

use bytes::{Buf as _, Bytes, BytesMut};
use hawker_swarm::Envelope;
use tokio::{
    io::AsyncWriteExt as _,
    time::{Instant, sleep_until, timeout},
};
use zeroize::Zeroize as _;

use super::{
    WireError,
    connection::{Pulse, Timing},
    frame::{
        Credentials, ErrorCode, Hello, PREFACE, encode_error, encode_goodbye, encode_hello,
        encode_message, encode_ping, encode_pong,
    },
    stream::WriteSide,
};

/// Small frames are gathered up to this many bytes.
const GATHERED_LEN: usize = 32 << 10;
/// How long a last word may take.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Sends messages to a peer.
///
/// The task that owns it selects between its queue and [`Self::keep_alive`], and calls
/// [`Self::flush`] whenever the queue is empty: what was fed is not on its way before that.
#[derive(Debug)]
pub struct FrameWriter {
    io: WriteSide,
    gathered: BytesMut,
    credentials: Credentials,
    timing: Timing,
    pulse: Arc<Pulse>,
    sent: Instant,
    pings: u64,
    /// Set while bytes are being written: if that future is dropped, half a frame may be out.
    broken: bool,
}

impl FrameWriter {
    pub(super) fn new(
        io: WriteSide,
        credentials: Credentials,
        timing: Timing,
        pulse: Arc<Pulse>,
    ) -> Self {
        Self {
            io,
            gathered: BytesMut::from(&PREFACE[..]),
            credentials,
            timing,
            pulse,
            sent: Instant::now(),
            pings: 0,
            broken: false,
        }
    }

    /// Takes a message. Small ones are gathered; a piece is written out, behind what was gathered,
    /// without being copied. On a plain transport a source's `Authorization` is left out.
    ///
    /// Not cancel-safe: dropped while it writes, it leaves the connection [`WireError::Broken`].
    /// [`WireError::Unsendable`] alone leaves it as it was.
    pub async fn feed(&mut self, envelope: &Envelope) -> Result<(), WireError> {
        let data = encode_message(envelope, self.credentials, &mut self.gathered)?;
        match data.is_empty() && self.gathered.len() < GATHERED_LEN {
            true => Ok(()),
            false => self.write(data).await,
        }
    }

    /// Puts everything that was fed on its way. Not cancel-safe, as [`Self::feed`].
    pub async fn flush(&mut self) -> Result<(), WireError> {
        self.write(Bytes::new()).await?;
        self.broken = true;
        within(self.timing.stall, self.io.flush()).await?;
        self.broken = false;
        Ok(())
    }

    /// Waits until a sign of life is due (the peer asked for one, or nothing was sent for ten
    /// seconds) and feeds it; [`Self::flush`] must follow. Cancel-safe: what was not fed stays due.
    pub async fn keep_alive(&mut self) {
        let quiet = self.sent + self.timing.quiet;
        tokio::select! {
            () = self.pulse.woken() => {}
            () = sleep_until(quiet) => {}
        }
        if let Some(nonce) = self.pulse.take_owed() {
            encode_pong(nonce, &mut self.gathered);
        }
        if Instant::now() >= quiet {
            self.pings += 1;
            encode_ping(self.pings, &mut self.gathered);
        }
    }

    /// Ends the connection in peace, in at most a second. The peer's reader returns `None`.
    pub async fn goodbye(mut self, reason: &str) -> Result<(), WireError> {
        encode_goodbye(reason, &mut self.gathered);
        self.last_word().await
    }

    /// Ends the connection and tells the peer why, in at most a second. The peer's reader returns
    /// [`WireError::Refused`].
    pub async fn refuse(mut self, code: ErrorCode, text: &str) -> Result<(), WireError> {
        encode_error(code, text, &mut self.gathered);
        self.last_word().await
    }

    /// What was fed and is not on its way.
    #[cfg(test)]
    pub(super) fn fed(&self) -> &[u8] {
        &self.gathered
    }

    pub(super) async fn hello(&mut self, hello: &Hello) -> Result<(), WireError> {
        encode_hello(hello, &mut self.gathered);
        self.flush().await
    }

    async fn last_word(&mut self) -> Result<(), WireError> {
        let said = async {
            self.flush().await?;
            Ok(self.io.shutdown().await?)
        };
        let stalled = |_| Err(WireError::Stalled(LAST_WORD));
        timeout(LAST_WORD, said).await.unwrap_or_else(stalled)
    }

    /// Writes what is gathered and then `data`.
    async fn write(&mut self, mut data: Bytes) -> Result<(), WireError> {
        if self.broken {
            return Err(WireError::Broken);
        }
        self.broken = true;
        while !self.gathered.is_empty() || !data.is_empty() {
            let both = [IoSlice::new(&self.gathered), IoSlice::new(&data)];
            let written = within(self.timing.stall, self.io.write_vectored(&both)).await?;
            if written == 0 {
                return Err(WireError::Closed);
            }
            let head = written.min(self.gathered.len());
            // There may have been a credential in it.
            self.gathered[..head].zeroize();
            self.gathered.advance(head);
            data.advance(written - head);
            self.sent = Instant::now();
        }
        self.gathered.clear();
        self.broken = false;
        Ok(())
    }
}

async fn within<T>(
    stall: Duration,
    io: impl Future<Output = io::Result<T>>,
) -> Result<T, WireError> {
    match timeout(stall, io).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(WireError::Stalled(stall)),
    }
}
