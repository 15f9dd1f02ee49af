//! The two halves of a connection's socket, plain or TLS.

use std::{
    io::{self, IoSlice},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf, split},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};
use tokio_rustls::TlsStream;

use super::socket;

/// Plain halves share nothing; TLS halves share the session, behind a lock held for one read or write.
#[derive(Debug)]
pub(super) enum ReadSide {
    Plain(OwnedReadHalf),
    Tls(ReadHalf<TlsStream<TcpStream>>),
}

#[derive(Debug)]
pub(super) enum WriteSide {
    Plain(OwnedWriteHalf),
    /// And the socket under it, for its options: the half does not show it. `None` where no
    /// descriptor was left for that.
    Tls(WriteHalf<TlsStream<TcpStream>>, Option<OwnedFd>),
}

pub(super) fn plain(stream: TcpStream) -> (ReadSide, WriteSide) {
    let (read, write) = stream.into_split();
    (ReadSide::Plain(read), WriteSide::Plain(write))
}

pub(super) fn tls(stream: TlsStream<TcpStream>) -> (ReadSide, WriteSide) {
    let socket = stream.get_ref().0.as_fd().try_clone_to_owned().ok();
    let (read, write) = split(stream);
    (ReadSide::Tls(read), WriteSide::Tls(write, socket))
}

impl AsyncRead for ReadSide {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(half) => Pin::new(half).poll_read(cx, buf),
            Self::Tls(half) => Pin::new(half).poll_read(cx, buf),
        }
    }
}

impl WriteSide {
    /// The socket, where bytes go out as they are.
    pub(super) fn plain_socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(half) => Some(half.as_ref()),
            Self::Tls(..) => None,
        }
    }

    /// Lets the socket hold so much that it has not sent. A kernel that cannot costs speed only.
    pub(super) fn hold_unsent(&self, len: u32) {
        let socket: Option<BorrowedFd<'_>> = match self {
            Self::Plain(half) => Some(half.as_ref().as_fd()),
            Self::Tls(_, socket) => socket.as_ref().map(|socket| socket.as_fd()),
        };
        if let Some(socket) = socket {
            socket::hold_unsent(&socket, len);
        }
    }
}

impl AsyncWrite for WriteSide {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(half) => Pin::new(half).poll_write(cx, buf),
            Self::Tls(half, _) => Pin::new(half).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(half) => Pin::new(half).poll_write_vectored(cx, bufs),
            Self::Tls(half, _) => Pin::new(half).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(half) => Pin::new(half).poll_flush(cx),
            Self::Tls(half, _) => Pin::new(half).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(half) => Pin::new(half).poll_shutdown(cx),
            Self::Tls(half, _) => Pin::new(half).poll_shutdown(cx),
        }
    }
}
