//! Bytes on their way. A host's connections take turns, by chunks, to fill the queue of its uplink;
//! what leaves that goes through the queue of the receiver's downlink.

use super::{World, nanos};
use crate::{
    Envelope, Message,
    sim::{
        blob::{Bytes, TRUE},
        event::{Event, HostNo, Time},
        net::{Chunk, Load},
    },
};

/// What a frame costs besides its content: task, lengths, TLS record, headers of a packet.
const FRAME_OVERHEAD: u32 = 120;

impl World {
    /// A message: at once if the connection has nothing else to send, behind that otherwise.
    pub(super) fn send_message(&mut self, host: HostNo, to: HostNo, envelope: Envelope) {
        let len = message_len(&envelope.message);
        let (now, delay) = (self.now, self.latency());
        let rate = self.rate(self.hosts[host].plan.up_rate);
        let backlog = self.hosts[to].net.downlink_free_at;
        let net = &mut self.hosts[host].net;
        let Some(lane) = net.lanes.get_mut(&to) else {
            return;
        };
        if !lane.is_empty() || lane.departing > 0 {
            return self.line_up(host, to, Load::Message(envelope), len);
        }
        let left = net.uplink_free_at.max(now) + (f64::from(len) / rate * 1e9) as Time;
        net.uplink_free_at = left;
        let at = (left + delay).max(backlog).max(lane.last_arrival);
        lane.last_arrival = at;
        let (link, from, bytes) = (lane.link, host, TRUE);
        let event = Event::Deliver {
            from,
            to,
            link,
            envelope,
            bytes,
        };
        self.queue.add(at, event);
    }

    pub(super) fn send_piece(&mut self, host: HostNo, to: HostNo, load: Load, len: u32) {
        self.line_up(host, to, load, len + FRAME_OVERHEAD);
        self.note_written(host, to);
    }

    /// Puts a frame behind what the connection has to send.
    fn line_up(&mut self, host: HostNo, to: HostNo, load: Load, len: u32) {
        let net = &mut self.hosts[host].net;
        let Some(lane) = net.lanes.get_mut(&to) else {
            return;
        };
        lane.feed(load, len);
        if !std::mem::replace(&mut lane.in_turn, true) {
            net.turns.push_back(to);
        }
        self.serve_uplink(host);
    }

    /// What the socket has taken counts as uploaded.
    fn note_written(&mut self, host: HostNo, to: HostNo) {
        let (unsent, task, now) = (self.plan.unsent, self.blob.task, self.instant());
        let id = self.hosts[to].id.clone();
        let host = &mut self.hosts[host];
        while let Some(piece) = host
            .net
            .lanes
            .get_mut(&to)
            .and_then(|lane| lane.written(unsent))
        {
            host.swarm.handle_uploaded(&id, task, piece, now);
        }
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
            let backlog = self.hosts[to].net.downlink_free_at;
            let backlog = backlog.max(self.passed_at(host, to));
            let net = &mut self.hosts[host].net;
            match net.lanes.get_mut(&to) {
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
        let rate = self.rate(self.hosts[host].plan.up_rate);
        let net = &mut self.hosts[host].net;
        let Some(lane) = net.lanes.get_mut(&to) else {
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
        self.queue.add(left, Event::Departed(Box::new(chunk)));
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
        let duration = (f64::from(len) / self.rate(self.hosts[from].plan.up_rate) * 1e9) as Time;
        let passed = self.pass(from, to, len);
        let arrived = self.through_downlink(to, len, passed.saturating_sub(duration), passed);
        let delay = self.latency();
        let task = self.blob.task;
        if let Some(lane) = self.hosts[from].net.lanes.get_mut(&to) {
            lane.departing = lane
                .departing
                .saturating_sub(usize::from(lane.link == link));
            let at = (arrived + delay).max(lane.last_arrival);
            if !ended.is_empty() {
                lane.last_arrival = at;
            }
            for load in ended {
                let (envelope, bytes) = unpack(load, task);
                let event = Event::Deliver {
                    from,
                    to,
                    link,
                    envelope,
                    bytes,
                };
                self.queue.add(at, event);
            }
        }
        let net = &mut self.hosts[from].net;
        net.chunks = net.chunks.saturating_sub(1);
        if self.hosts[from].alive {
            self.note_written(from, to);
            self.after(from);
            self.serve_uplink(from);
        }
    }

    /// When what was sent from one host's zone to another's has passed between them.
    fn passed_at(&self, from: HostNo, to: HostNo) -> Time {
        let zones = (self.hosts[from].plan.zone, self.hosts[to].plan.zone);
        self.passed_at.get(&zones).copied().unwrap_or_default()
    }

    /// When bytes that leave now are where the receiver is.
    fn pass(&mut self, from: HostNo, to: HostNo, len: u32) -> Time {
        let zones = (self.hosts[from].plan.zone, self.hosts[to].plan.zone);
        if zones.0 == zones.1 {
            return self.now;
        }
        self.crossed_bytes += u64::from(len);
        let Some(rate) = self.plan.between_zones.map(|rate| self.rate(rate)) else {
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
        let rate = self.rate(self.hosts[to].plan.down_rate);
        let duration = (f64::from(len) / rate * 1e9) as Time;
        let free_at = &mut self.hosts[to].net.downlink_free_at;
        *free_at = (*free_at).max(start) + duration;
        sent.max(*free_at)
    }

    /// Bytes of frames per second on a link of so many bytes per second.
    pub(super) fn rate(&self, link: f64) -> f64 {
        link * self.plan.payload_share
    }
}

fn unpack(load: Load, task: hawker_model::TaskId) -> (Envelope, Bytes) {
    match load {
        Load::Message(envelope) => (envelope, TRUE),
        Load::Piece(piece, bytes) => {
            let data = bytes::Bytes::new();
            let message = Message::Piece { piece, data };
            (Envelope { task, message }, bytes)
        }
    }
}

/// About what a message takes on the wire.
fn message_len(message: &Message) -> u32 {
    let content = match message {
        Message::Have { pieces } => pieces.capacity() / 8,
        Message::Gained { pieces } => 4 * pieces.len() as u32,
        Message::Piece { .. } => hawker_model::MIN_PIECE_LEN,
        Message::List { batch } => super::LIST_OVERHEAD as u32 + 32 * batch.states.len() as u32,
        _ => 0,
    };
    FRAME_OVERHEAD + content
}
