//! A peer that asks for pieces and throws them away: `p2p/docs/wire.md`, as far as that needs it.

use anyhow::{Result, bail, ensure};
use hawker_model::{Digest, Geometry, HostId, TaskId};

use super::channel::Channel;

const PREFACE: &[u8; 8] = b"HAWKER\r\n";
const VERSION: u16 = 3;
/// The longest frame that is kept rather than thrown away.
const MAX_KEPT: usize = 1 << 20;

const HELLO: u8 = 0x01;
const ERROR: u8 = 0x02;
const PING: u8 = 0x04;
const PONG: u8 = 0x05;
const JOIN: u8 = 0x10;
const HEAD: u8 = 0x11;
const HAVE: u8 = 0x12;
const REQUEST: u8 = 0x15;
const PIECE: u8 = 0x18;
const REFUSE: u8 = 0x19;
const LEAVE: u8 = 0x1a;

/// What precedes a piece's data in the body: task and index.
const PIECE_BODY_LEN: usize = TaskId::ENCODED_LEN + 4;

/// A connection on which a task was joined.
#[derive(Debug)]
pub(super) struct Peer {
    channel: Channel,
    task: TaskId,
    geometry: Geometry,
    scratch: Vec<u8>,
    /// Whether it was given pieces: to ask for them again is no peer's way, unless it came anew.
    is_fed: bool,
}

impl Peer {
    /// Says hello as a node of that name, and joins the task of a whole blob.
    pub(super) fn join(
        mut channel: Channel,
        name: &HostId,
        wanted: &HostId,
        digest: Digest,
    ) -> Result<Self> {
        let task = TaskId::Blob(digest);
        let mut words = PREFACE.to_vec();
        words.extend(frame(HELLO, &hello(name, wanted)));
        words.extend(frame(JOIN, &[&task.to_bytes()[..], &[0]].concat()));
        channel.write_all(&words)?;
        let mut preface = [0; PREFACE.len()];
        channel.read_exact(&mut preface)?;
        ensure!(preface == *PREFACE, "the server speaks something else");
        let mut peer = Self {
            channel,
            task,
            geometry: Geometry::for_length(0)?,
            scratch: vec![0; MAX_KEPT],
            is_fed: false,
        };
        peer.learn()?;
        Ok(peer)
    }

    pub(super) fn cipher(&self) -> Option<String> {
        self.channel.cipher()
    }

    /// Asks for pieces in order and over again until so many bytes have come, with so many requests
    /// under way. Returns how many bytes came.
    pub(super) fn drain(&mut self, len: u64, depth: u32) -> Result<u64> {
        let count = self.geometry.piece_count();
        let mut wanted = len.div_ceil(u64::from(self.geometry.piece_len())) as u32;
        let mut bytes = 0;
        while wanted > 0 {
            if std::mem::replace(&mut self.is_fed, true) {
                self.rejoin()?;
            }
            let some = wanted.min(count);
            bytes += self.pass(some, depth)?;
            wanted -= some;
        }
        Ok(bytes)
    }

    fn rejoin(&mut self) -> Result<()> {
        let task = self.task.to_bytes();
        let mut words = frame(LEAVE, &task);
        words.extend(frame(JOIN, &[&task[..], &[0]].concat()));
        self.channel.write_all(&words)?;
        self.learn()
    }

    /// The first `wanted` pieces, each once.
    fn pass(&mut self, wanted: u32, depth: u32) -> Result<u64> {
        let count = self.geometry.piece_count();
        let first = depth.min(count).min(wanted);
        self.request(0..first)?;
        let (mut asked, mut got, mut bytes) = (first, 0, 0);
        while got < wanted {
            let (kind, len) = self.next_header()?;
            match kind {
                PIECE => {
                    self.channel.discard(len, &mut self.scratch)?;
                    bytes += (len - PIECE_BODY_LEN) as u64;
                    got += 1;
                    if asked < wanted {
                        self.request(asked..asked + 1)?;
                        asked += 1;
                    }
                }
                _ => self.handle_other(kind, len).map(drop)?,
            }
        }
        Ok(bytes)
    }

    /// Waits until the other side has told that it has all.
    fn learn(&mut self) -> Result<()> {
        loop {
            let (kind, len) = self.next_header()?;
            let body = self.handle_other(kind, len)?;
            let rest = body.get(TaskId::ENCODED_LEN..).unwrap_or_default();
            match kind {
                HEAD => {
                    let (length, piece_len) = rest.split_at(8);
                    let length = u64::from_le_bytes(length.try_into()?);
                    let piece_len = u32::from_le_bytes(piece_len.try_into()?);
                    self.geometry = Geometry::new(length, piece_len)?;
                }
                HAVE => return Ok(()),
                _ => {}
            }
        }
    }

    fn request(&mut self, numbers: std::ops::Range<u32>) -> Result<()> {
        let count = self.geometry.piece_count();
        let frames = numbers.flat_map(|number| {
            let piece = (number % count).to_le_bytes();
            frame(REQUEST, &[&self.task.to_bytes()[..], &piece].concat())
        });
        let frames: Vec<u8> = frames.collect();
        Ok(self.channel.write_all(&frames)?)
    }

    fn next_header(&mut self) -> Result<(u8, usize)> {
        let mut header = [0; 5];
        self.channel.read_exact(&mut header)?;
        let [a, b, c, d, kind] = header;
        let len = u32::from_le_bytes([a, b, c, d]) as usize;
        ensure!(len > 0, "a frame without a kind");
        Ok((kind, len - 1))
    }

    /// Reads any frame but a piece, and answers pings.
    fn handle_other(&mut self, kind: u8, len: usize) -> Result<Vec<u8>> {
        ensure!(len <= MAX_KEPT, "a frame of {len} bytes");
        let mut body = vec![0; len];
        self.channel.read_exact(&mut body)?;
        match kind {
            PING => self.channel.write_all(&frame(PONG, &body))?,
            ERROR | REFUSE => bail!("refused: {}", String::from_utf8_lossy(&body)),
            _ => {}
        }
        Ok(body)
    }
}

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = (body.len() as u32 + 1).to_le_bytes();
    [&len[..], &[kind], body].concat()
}

fn hello(name: &HostId, wanted: &HostId) -> Vec<u8> {
    let mut body = [VERSION.to_le_bytes(), VERSION.to_le_bytes()].concat();
    // No capabilities, a node.
    body.extend([0; 9]);
    for name in [name, wanted] {
        body.push(name.as_str().len() as u8);
        body.extend(name.as_str().as_bytes());
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_those_of_the_protocol_s_examples() -> Result<()> {
        let hello = hello(&HostId::parse("node-1")?, &HostId::parse("seed-1")?);
        let hex: String = frame(HELLO, &hello)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let wanted = "1c0000000103000300000000000000000000066e6f64652d3106736565642d31";
        assert_eq!(hex, wanted);
        Ok(())
    }
}
