//! The sending half of a connection.

use std::{
    io::{self, IoSlice},
    mem,
    os::fd::AsRawFd as _,
    sync::Arc,
    time::Duration,
};

use bytes::{Buf as _, BytesMut};
use hawker_model::{PieceIndex, TaskId};
use hawker_swarm::Envelope;
use nix::{
    libc,
    sys::socket::{MsgFlags, send},
};
use tokio::{
    io::{AsyncWriteExt as _, Interest},
    net::TcpStream,
    time::{Instant, sleep_until, timeout},
};
use zeroize::Zeroize as _;

use super::{
    WireError,
    connection::Timing,
    frame::{
        Credentials, ErrorCode, Hello, PIECE_HEADER_LEN, PREFACE, Signers, encode_error,
        encode_goodbye, encode_hello, encode_message, encode_piece_header, encode_ping,
        encode_pong,
    },
    pulse::Pulse,
    stream::WriteSide,
};
use crate::{extent::Extent, sys};

/// Small frames are gathered up to this many bytes.
const GATHERED_LEN: usize = 32 << 10;
/// Read from a file, encrypted and handed to the socket at once, with the header of its piece: two
/// whole records of TLS. With 64 KiB, which no longer stay in the processor's first caches, a byte
/// costs a fifth more; with 16 KiB, 3 % more.
const CHUNK_LEN: usize = 32 << 10;
/// Handed from a file to the socket at once, as far as the socket takes it.
const SEND_LEN: usize = 1 << 20;
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
    /// What was read of a file, to be encrypted.
    chunk: Vec<u8>,
    credentials: Credentials,
    /// Certificates that were sent, once the peer is known to take their numbers.
    signers: Option<Signers>,
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
            chunk: Vec::new(),
            credentials,
            signers: None,
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
        let data = encode_message(
            envelope,
            self.credentials,
            self.signers.as_mut(),
            &mut self.gathered,
        )?;
        match data.is_empty() && self.gathered.len() < GATHERED_LEN {
            true => Ok(()),
            false => self.write(&data).await,
        }
    }

    /// Sends a piece that lies in a file, behind what was gathered: on a plain transport it does not
    /// pass through here. Not cancel-safe, as [`Self::feed`]; so is an end in
    /// [`WireError::Unreadable`] once some of the piece is out.
    pub(crate) async fn feed_extent(
        &mut self,
        task: &TaskId,
        piece: PieceIndex,
        extent: &Extent,
    ) -> Result<(), WireError> {
        if self.broken {
            return Err(WireError::Broken);
        }
        match self.io.plain_socket() {
            Some(_) => self.send_extent(task, piece, extent).await?,
            None => self.copy_extent(task, piece, extent).await?,
        }
        self.broken = false;
        Ok(())
    }

    /// Puts everything that was fed on its way. Not cancel-safe, as [`Self::feed`].
    pub async fn flush(&mut self) -> Result<(), WireError> {
        self.write(&[]).await?;
        self.broken = true;
        within(self.timing.stall, self.io.flush()).await?;
        self.broken = false;
        self.pulse.note_flushed();
        Ok(())
    }

    /// Waits until a sign of life is due (the peer asked for one, one of the peer's is wanted, or nothing
    /// was sent for ten seconds) and feeds it; [`Self::flush`] must follow. Cancel-safe: what was not fed stays due.
    pub async fn keep_alive(&mut self) {
        let quiet = self.sent + self.timing.quiet;
        tokio::select! {
            () = self.pulse.woken() => {}
            () = sleep_until(quiet) => {}
        }
        if let Some(nonce) = self.pulse.take_owed() {
            encode_pong(nonce, &mut self.gathered);
        }
        if self.pulse.take_wanted() || Instant::now() >= quiet {
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

    /// The peer takes numbers in place of certificates that were sent.
    pub(super) fn number_signers(&mut self) {
        self.signers = Some(Signers::default());
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

    /// From the file to the socket within the kernel.
    async fn send_extent(
        &mut self,
        task: &TaskId,
        piece: PieceIndex,
        extent: &Extent,
    ) -> Result<(), WireError> {
        let (mut at, mut warm) = (0, 0);
        while at < extent.len() {
            if at == warm {
                let len = SEND_LEN.min(extent.len() - at);
                let read = extent.warm(at, len).await;
                read.map_err(WireError::Unreadable)?;
                warm += len;
            }
            if at == 0 {
                self.begin_extent(task, piece, extent)?;
                self.send_gathered().await?;
            }
            at += self.send_part(extent, at, warm - at).await?;
        }
        self.sent = Instant::now();
        Ok(())
    }

    /// Sends what is gathered, of which no packet is made before more follows.
    async fn send_gathered(&mut self) -> Result<(), WireError> {
        while !self.gathered.is_empty() {
            let more = MsgFlags::from_bits_retain(libc::MSG_MORE | libc::MSG_NOSIGNAL);
            let part = |socket: &TcpStream| Ok(send(socket.as_raw_fd(), &self.gathered, more)?);
            let sent = self.push(part).await?;
            // There may have been a credential in it.
            self.gathered[..sent].zeroize();
            self.gathered.advance(sent);
        }
        Ok(())
    }

    /// Sends some of a file; says how much.
    async fn send_part(&self, extent: &Extent, at: usize, len: usize) -> Result<usize, WireError> {
        let (file, offset) = extent.place(at);
        let part = |socket: &TcpStream| sys::send_file(socket, file, offset, len);
        match self.push(part).await {
            Ok(0) => Err(WireError::Unreadable(io::ErrorKind::UnexpectedEof.into())),
            // No socket says this.
            Err(WireError::Io(error)) if error.raw_os_error() == Some(libc::EIO) => {
                Err(WireError::Unreadable(error))
            }
            sent => sent,
        }
    }

    /// Does `part` to the plain socket once it takes something.
    async fn push(
        &self,
        part: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Result<usize, WireError> {
        let socket = self.io.plain_socket().ok_or(WireError::Broken)?;
        // Mostly it does at once, and then no timer is needed.
        match socket.try_io(Interest::WRITABLE, || part(socket)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return Ok(done?),
        }
        let pushed = socket.async_io(Interest::WRITABLE, || part(socket));
        within(self.timing.stall, pushed).await
    }

    /// From the file through a small buffer, to be encrypted.
    async fn copy_extent(
        &mut self,
        task: &TaskId,
        piece: PieceIndex,
        extent: &Extent,
    ) -> Result<(), WireError> {
        let mut at = 0;
        while at < extent.len() {
            let room = match at {
                0 => CHUNK_LEN - PIECE_HEADER_LEN,
                _ => CHUNK_LEN,
            };
            let mut chunk = mem::take(&mut self.chunk);
            chunk.resize(room.min(extent.len() - at), 0);
            let read = extent.read(at, chunk).await;
            let chunk = read.map_err(WireError::Unreadable)?;
            if at == 0 {
                self.begin_extent(task, piece, extent)?;
            }
            self.write_out(&chunk).await?;
            at += chunk.len();
            self.chunk = chunk;
        }
        Ok(())
    }

    /// Gathers the header of a piece, of which the rest must follow.
    fn begin_extent(
        &mut self,
        task: &TaskId,
        piece: PieceIndex,
        extent: &Extent,
    ) -> Result<(), WireError> {
        encode_piece_header(task, piece, extent.len(), &mut self.gathered)?;
        self.broken = true;
        Ok(())
    }

    /// Writes what is gathered and then `data`.
    async fn write(&mut self, data: &[u8]) -> Result<(), WireError> {
        if self.broken {
            return Err(WireError::Broken);
        }
        self.broken = true;
        self.write_out(data).await?;
        self.broken = false;
        Ok(())
    }

    async fn write_out(&mut self, mut data: &[u8]) -> Result<(), WireError> {
        while !self.gathered.is_empty() || !data.is_empty() {
            let both = [IoSlice::new(&self.gathered), IoSlice::new(data)];
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
