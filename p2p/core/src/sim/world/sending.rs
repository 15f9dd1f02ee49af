//! Bytes on their way. A host's connections take turns, by chunks, to fill the queue of its uplink;
//! what leaves that goes through the queue of the receiver's downlink.

use std::sync::Arc;

use super::{World, nanos};
use crate::{
    Envelope, Message,
    sim::{
        blob::{BlobNo, Bytes, TRUE},
        event::{Event, HostNo, Time},
        net::{Chunk, Load},
    },
};

/// What a frame costs besides its content: task, lengths, TLS record, headers of a packet.
const FRAME_OVERHEAD: u32 = 120;
/// Bytes of a batch of chain values besides them: signature and origin.
const LIST_OVERHEAD: u32 = 100;
/// The certificate of its signer.
const CERTIFICATE_LEN: u32 = 500;

impl World {
    /// A message: at once if the connection has nothing else to send, behind that otherwise.
    pub(super) fn send_message(&mut self, host: HostNo, to: HostNo, envelope: Envelope) {
        let mut len = message_len(&envelope.message);
        let (now, delay) = (self.now, self.latency());
        let (rate, backlog) = (self.sites[host].up_rate, self.sites[to].downlink_free_at);
        let signer = match &envelope.message {
            Message::List { batch } => Some(Arc::clone(&batch.signer)),
            _ => None,
        };
        let (blob, load) = self.pack(envelope);
        let net = &mut self.hosts[host].net;
        let Some(lane) = net.lanes.get_mut(to) else {
            return;
        };
        if let Some(signer) = signer {
            len += match lane.introduce(&signer) {
                true => CERTIFICATE_LEN,
                false => 0,
            };
            self.list_bytes += u64::from(len - FRAME_OVERHEAD);
        }
        if !lane.is_empty() || lane.departing > 0 {
            return self.line_up(host, to, (blob, load), len);
        }
        let left = net.uplink_free_at.max(now) + (f64::from(len) / rate * 1e9) as Time;
        net.uplink_free_at = left;
        let at = (left + delay).max(backlog).max(lane.last_arrival);
        lane.last_arrival = at;
        let (link, from) = (lane.link, host);
        let event = Event::Deliver {
            from,
            to,
            link,
            blob,
            load,
        };
        self.queue.add(at, event);
    }

    pub(super) fn send_piece(&mut self, host: HostNo, to: HostNo, piece: (BlobNo, Load), len: u32) {
        self.line_up(host, to, piece, len + FRAME_OVERHEAD);
        self.note_written(host, to);
    }

    /// Puts a frame behind what the connection has to send.
    fn line_up(&mut self, host: HostNo, to: HostNo, (blob, load): (BlobNo, Load), len: u32) {
        let net = &mut self.hosts[host].net;
        let Some(lane) = net.lanes.get_mut(to) else {
            return;
        };
        lane.feed(blob, load, len);
        if !std::mem::replace(&mut lane.in_turn, true) {
            net.turns.push_back(to);
        }
        self.serve_uplink(host);
    }

    /// What the socket has taken counts as uploaded. Says whether anything has.
    fn note_written(&mut self, host: HostNo, to: HostNo) -> bool {
        let (unsent, now) = (self.plan.unsent, self.instant());
        let (id, host) = (&self.sites[to].id, &mut self.hosts[host]);
        let mut any = false;
        while let Some((blob, piece)) = host
            .net
            .lanes
            .get_mut(to)
            .and_then(|lane| lane.written(unsent))
        {
            let task = self.blobs[usize::from(blob)].task;
            host.swarm.handle_uploaded(id, task, piece, now);
            any = true;
        }
        any
    }

    /// Fills the uplink's queue.
    pub(super) fn serve_uplink(&mut self, host: HostNo) {
        let queue = nanos(self.plan.queue);
        let mut retry_at = Time::MAX;
        let mut blocked = 0;
        while blocked < self.hosts[host].net.turns.len() {
            let net = &mut self.hosts[host].net;
            if net.uplink_free_at > self.now + queue {
                // The next chunk's departure makes room.
                if net.chunks == 0 {
                    retry_at = net.uplink_free_at - queue;
                }
                break;
            }
            let Some(to) = net.turns.pop_front() else {
                break;
            };
            let backlog = self.sites[to].downlink_free_at;
            let backlog = backlog.max(self.passed_at(host, to));
            let net = &mut self.hosts[host].net;
            match net.lanes.get_mut(to) {
                None => continue,
                Some(lane) if lane.is_empty() => {
                    lane.in_turn = false;
                    continue;
                }
                Some(_) => net.turns.push_back(to),
            }
            if backlog > self.now + queue {
                retry_at = retry_at.min(backlog - queue);
                blocked += 1;
                continue;
            }
            blocked = 0;
            self.send_chunk(host, to);
        }
        let planned = &mut self.hosts[host].net.planned;
        if retry_at < planned.unwrap_or(Time::MAX) {
            *planned = Some(retry_at);
            self.queue.add(retry_at, Event::UplinkFree(host));
        }
    }

    fn send_chunk(&mut self, host: HostNo, to: HostNo) {
        let (chunk, now) = (self.plan.chunk, self.now);
        let rate = self.sites[host].up_rate;
        let net = &mut self.hosts[host].net;
        let Some(lane) = net.lanes.get_mut(to) else {
            return;
        };
        let link = lane.link;
        let (len, ended) = lane.take(chunk);
        let start = net.uplink_free_at.max(now);
        net.chunks += 1;
        net.uplink_free_at = start + (f64::from(len) / rate * 1e9) as Time;
        let left = net.uplink_free_at;
        self.hosts[host].sent_bytes += u64::from(len);
        self.meter.note(left, len);
        let from = host;
        let chunk = Chunk {
            from,
            to,
            link,
            len,
            ended,
        };
        self.queue.add(left, Event::Departed(chunk));
    }

    /// A chunk is on the wire: it goes through the receiver's downlink.
    pub(super) fn departed(&mut self, chunk: Chunk) {
        let Chunk {
            from,
            to,
            link,
            len,
            ended,
        } = chunk;
        let duration = (f64::from(len) / self.sites[from].up_rate * 1e9) as Time;
        let passed = self.pass(from, to, len);
        let arrived = self.through_downlink(to, len, passed.saturating_sub(duration), passed);
        let delay = self.latency();
        if let Some(lane) = self.hosts[from].net.lanes.get_mut(to) {
            lane.departing = lane
                .departing
                .saturating_sub(usize::from(lane.link == link));
            let at = (arrived + delay).max(lane.last_arrival);
            if !ended.is_empty() {
                lane.last_arrival = at;
            }
            for (blob, load) in ended {
                let event = Event::Deliver {
                    from,
                    to,
                    link,
                    blob,
                    load,
                };
                self.queue.add(at, event);
            }
        }
        let net = &mut self.hosts[from].net;
        net.chunks = net.chunks.saturating_sub(1);
        if self.hosts[from].alive {
            if self.note_written(from, to) {
                self.after(from);
            }
            self.serve_uplink(from);
        }
    }

    /// When what was sent from one host's zone to another's has passed between them.
    fn passed_at(&self, from: HostNo, to: HostNo) -> Time {
        if self.passed_at.is_empty() {
            return 0;
        }
        let zones = (self.sites[from].zone, self.sites[to].zone);
        self.passed_at.get(&zones).copied().unwrap_or_default()
    }

    /// When bytes that leave now are where the receiver is.
    fn pass(&mut self, from: HostNo, to: HostNo, len: u32) -> Time {
        let zones = (self.sites[from].zone, self.sites[to].zone);
        if zones.0 == zones.1 {
            return self.now;
        }
        self.crossed_bytes += u64::from(len);
        let Some(rate) = self
            .plan
            .between_zones
            .map(|rate| rate * self.plan.payload_share)
        else {
            return self.now;
        };
        let passed = self.passed_at.entry(zones).or_default();
        *passed = (*passed).max(self.now) + (f64::from(len) / rate * 1e9) as Time;
        *passed
    }

    /// When bytes that leave from `start` to `sent` are through the receiver's downlink, which they
    /// keep busy no longer than it takes for them, however slowly they leave.
    pub(super) fn through_downlink(
        &mut self,
        to: HostNo,
        len: u32,
        start: Time,
        sent: Time,
    ) -> Time {
        let site = &mut self.sites[to];
        let duration = (f64::from(len) / site.down_rate * 1e9) as Time;
        let free_at = &mut site.downlink_free_at;
        *free_at = (*free_at).max(start) + duration;
        sent.max(*free_at)
    }

    /// A message as it lies in queues.
    fn pack(&self, envelope: Envelope) -> (BlobNo, Load) {
        let Some(blob) = self.number_of(&envelope.task) else {
            return (0, Load::Other(Box::new(envelope)));
        };
        let load = match envelope.message {
            Message::Request { piece } => Load::Request(piece),
            Message::Gained { pieces } => Load::Gained(pieces),
            message => Load::Other(Box::new(Envelope {
                task: envelope.task,
                message,
            })),
        };
        (blob, load)
    }

    /// What comes of it at the receiver, and the bytes of a piece.
    pub(super) fn unpack(&self, blob: BlobNo, load: Load) -> (Envelope, Bytes) {
        let (message, bytes) = match load {
            Load::Request(piece) => (Message::Request { piece }, TRUE),
            Load::Gained(pieces) => (Message::Gained { pieces }, TRUE),
            Load::Piece(piece, bytes) => {
                let data = bytes::Bytes::new();
                (Message::Piece { piece, data }, bytes)
            }
            Load::Other(envelope) => return (*envelope, TRUE),
        };
        let task = self.blob(blob).task;
        (Envelope { task, message }, bytes)
    }
}

/// About what a message takes on the wire.
fn message_len(message: &Message) -> u32 {
    let content = match message {
        Message::Have { pieces } => pieces.capacity() / 8,
        Message::Gained { pieces } => 4 * pieces.len() as u32,
        Message::Piece { .. } => hawker_model::MIN_PIECE_LEN,
        Message::List { batch } => LIST_OVERHEAD + 32 * batch.states.len() as u32,
        _ => 0,
    };
    FRAME_OVERHEAD + content
}
