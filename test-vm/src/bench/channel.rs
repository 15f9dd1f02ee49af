//! A client's end of a connection that throws away what it gets, as cheaply as it can: what is
//! measured is the server.

use std::{
    io::{self, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::AsRawFd,
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{MsgFlags, recv};
use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};

/// Read from a socket at once.
const READ_LEN: usize = 256 << 10;
/// The longest head of an answer.
const HEAD_LEN: usize = 1024;

/// Plain or TLS.
#[derive(Debug)]
pub(super) enum Channel {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, Ahead>>),
}

impl Channel {
    pub(super) fn connect(address: SocketAddr, tls: Option<Arc<ClientConfig>>) -> Result<Self> {
        let tcp = TcpStream::connect(address).with_context(|| format!("nobody at {address}"))?;
        tcp.set_nodelay(true)?;
        let Some(config) = tls else {
            return Ok(Self::Plain(tcp));
        };
        let name = ServerName::IpAddress(address.ip().into());
        let session = ClientConnection::new(config, name)?;
        let stream = StreamOwned::new(session, Ahead::new(tcp));
        Ok(Self::Tls(Box::new(stream)))
    }

    /// The cipher agreed upon, once bytes have gone to and fro.
    pub(super) fn cipher(&self) -> Option<String> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => {
                let suite = stream.conn.negotiated_cipher_suite()?;
                Some(format!("{:?}", suite.suite()))
            }
        }
    }

    pub(super) fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.write_all(bytes),
            Self::Tls(stream) => {
                stream.write_all(bytes)?;
                stream.flush()
            }
        }
    }

    pub(super) fn read_exact(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.read_exact(bytes),
            Self::Tls(stream) => stream.read_exact(bytes),
        }
    }

    /// Takes so many bytes and forgets them. Plain ones are not even copied out of the kernel.
    pub(super) fn discard(&mut self, mut len: usize, scratch: &mut [u8]) -> Result<()> {
        while len > 0 {
            let most = len.min(scratch.len());
            let got = match self {
                Self::Plain(tcp) => {
                    recv(tcp.as_raw_fd(), &mut scratch[..most], MsgFlags::MSG_TRUNC)?
                }
                Self::Tls(stream) => stream.read(&mut scratch[..most])?,
            };
            ensure!(got > 0, "the server closed in the middle");
            len -= got;
        }
        Ok(())
    }

    /// The head of an HTTP answer.
    pub(super) fn read_head(&mut self) -> Result<String> {
        let mut head = Vec::with_capacity(HEAD_LEN);
        while !head.ends_with(b"\r\n\r\n") {
            ensure!(head.len() < HEAD_LEN, "an endless head");
            let more = match self {
                Self::Plain(tcp) => peek_to_end_of_head(tcp, &head)?,
                Self::Tls(_) => 1,
            };
            let start = head.len();
            head.resize(start + more, 0);
            self.read_exact(&mut head[start..])?;
        }
        Ok(String::from_utf8_lossy(&head).into_owned())
    }
}

/// How many of the bytes that wait belong to the head.
fn peek_to_end_of_head(tcp: &TcpStream, seen: &[u8]) -> Result<usize> {
    let mut waiting = [0; HEAD_LEN];
    let len = tcp.peek(&mut waiting)?;
    ensure!(len > 0, "the server closed in the middle");
    let both = [seen, &waiting[..len]].concat();
    let end = both.windows(4).position(|it| it == b"\r\n\r\n");
    Ok(end.map_or(len, |end| end + 4 - seen.len()))
}

/// A socket that is read in large steps, whatever TLS asks for.
#[derive(Debug)]
pub(super) struct Ahead(BufReader<TcpStream>);

impl Ahead {
    pub(super) fn new(tcp: TcpStream) -> Self {
        Self(BufReader::with_capacity(READ_LEN, tcp))
    }
}

impl Read for Ahead {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Ahead {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.get_mut().write(buf)
    }

    fn write_vectored(&mut self, bufs: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.get_mut().write_vectored(bufs)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
