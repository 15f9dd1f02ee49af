//! Bytes on their way: a sender's uplink in turns of chunks, the receiver's downlink in order.

use super::World;
use crate::{
    Envelope, Message,
    sim::{
        event::{Event, HostNo, Time},
        net::Sending,
    },
};

/// A sender stops while the receiver's downlink is behind by so much.
const MOST_BACKLOG: Time = 30_000_000;

impl World {
    /// Sends the next chunk of the connection whose turn it is.
    pub(super) fn serve_uplink(&mut self, host: HostNo) {
        if self.hosts[host].net.uplink_busy {
            return;
        }
        let mut free_at = Time::MAX;
        for _ in 0..self.hosts[host].net.turns.len() {
            let Some(to) = self.hosts[host].net.turns.pop_front() else {
                return;
            };
            let backlog = self.hosts[to].net.downlink_free_at;
            let Some(lane) = self.hosts[host].net.lanes.get_mut(&to) else {
                continue;
            };
            if !lane.has_bytes() {
                lane.in_turn = false;
                continue;
            }
            self.hosts[host].net.turns.push_back(to);
            if backlog <= self.now + MOST_BACKLOG {
                return self.send_chunk(host, to);
            }
            free_at = free_at.min(backlog - MOST_BACKLOG);
        }
        if free_at < Time::MAX {
            self.queue.add(free_at, Event::UplinkFree(host));
        }
    }

    pub(super) fn send_chunk(&mut self, host: HostNo, to: HostNo) {
        let (rate, chunk, geometry) = (
            self.hosts[host].plan.up_rate,
            self.plan.chunk,
            self.blob.geometry,
        );
        let Some(lane) = self.hosts[host].net.lanes.get_mut(&to) else {
            return;
        };
        if lane.current.is_none() {
            let next = lane.pieces.pop_front();
            lane.current = next.map(|(piece, bytes)| Sending {
                piece,
                bytes,
                left: geometry.len_of(piece),
                arrives: 0,
            });
        }
        let Some(current) = &lane.current else { return };
        let (len, link) = (current.left.min(chunk), lane.link);
        let sent = self.now + (f64::from(len) / rate * 1e9) as Time;
        let arrives = self.through_downlink(to, len, self.now, sent);
        let net = &mut self.hosts[host].net;
        net.uplink_busy = true;
        if let Some(current) = net
            .lanes
            .get_mut(&to)
            .and_then(|lane| lane.current.as_mut())
        {
            current.arrives = arrives;
        }
        self.hosts[host].sent_bytes += u64::from(len);
        self.queue.add(
            sent,
            Event::ChunkSent {
                host,
                to,
                link,
                len,
            },
        );
    }

    /// When bytes that leave from `start` to `sent` are through the receiver's downlink.
    pub(super) fn through_downlink(
        &mut self,
        to: HostNo,
        len: u32,
        start: Time,
        sent: Time,
    ) -> Time {
        let duration = (f64::from(len) / self.hosts[to].plan.down_rate * 1e9) as Time;
        let free_at = &mut self.hosts[to].net.downlink_free_at;
        *free_at = sent.max((*free_at).max(start) + duration);
        *free_at
    }

    pub(super) fn chunk_sent(&mut self, host: HostNo, to: HostNo, link: u64, len: u32) {
        self.hosts[host].net.uplink_busy = false;
        let lane = self.hosts[host]
            .net
            .lanes
            .get_mut(&to)
            .filter(|lane| lane.link == link);
        let done = lane.and_then(|lane| {
            let current = lane.current.as_mut()?;
            current.left -= len;
            if current.left > 0 {
                return None;
            }
            lane.current.take()
        });
        if let Some(sending) = done {
            self.piece_sent(host, to, link, sending);
        }
        self.serve_uplink(host);
    }

    pub(super) fn piece_sent(&mut self, host: HostNo, to: HostNo, link: u64, sending: Sending) {
        let Sending {
            piece,
            bytes,
            arrives,
            ..
        } = sending;
        let (task, data) = (self.blob.task, bytes::Bytes::new());
        let message = Message::Piece { piece, data };
        let envelope = Envelope { task, message };
        let delay = self.latency();
        let Some(lane) = self.hosts[host].net.lanes.get_mut(&to) else {
            return;
        };
        let at = (arrives + delay).max(lane.last_arrival);
        lane.last_arrival = at;
        let messages = std::mem::take(&mut lane.messages);
        let from = host;
        self.queue.add(
            at,
            Event::Deliver {
                from,
                to,
                link,
                envelope,
                bytes,
            },
        );
        for envelope in messages {
            self.send_message(host, to, envelope);
        }
        let (id, now) = (self.hosts[to].id.clone(), self.instant());
        self.hosts[host]
            .swarm
            .handle_uploaded(&id, task, piece, now);
        self.after(host);
    }
}
