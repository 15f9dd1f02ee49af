//! Telling neighbours what we got: soon, but not more often than they can use, and nothing that
//! they know.

use std::time::Instant;

use hawker_model::{HostId, PieceIndex};

use super::Task;
use crate::{Message, content::Content, neighbour::Neighbour, shared::Shared};

impl Task {
    /// A piece was stored: tells it now, or together with others shortly.
    pub(super) fn gossip_soon(&mut self, cx: &mut Shared, now: Instant) {
        let next = self.flushed_at.map(|at| at + cx.config.gained_interval);
        match next.filter(|at| *at > now) {
            None => self.gossip(cx, now),
            Some(at) => _ = self.flush_at.get_or_insert(at),
        }
    }

    pub(super) fn gossip(&mut self, cx: &mut Shared, now: Instant) {
        self.flush_at = None;
        self.flushed_at = Some(now);
        for host in self.hosts() {
            self.tell_gained(&host, cx);
        }
    }

    /// We have everything: neighbours that are complete too know now that they need us no more.
    pub(super) fn tell_completion(&mut self, cx: &mut Shared) {
        self.flush_at = None;
        for host in self.hosts() {
            let (Some(content), Some(neighbour)) = (&self.content, self.neighbours.get_mut(&host))
            else {
                return;
            };
            if !neighbour.told_head {
                continue;
            }
            neighbour.told = content.log.len();
            let pieces = content.pieces.clone();
            if !neighbour.is_complete() {
                self.send_list(&host, cx);
            }
            self.send(&host, Message::Have { pieces }, cx);
        }
    }

    fn tell_gained(&mut self, host: &HostId, cx: &mut Shared) {
        let (Some(content), Some(neighbour)) = (&self.content, self.neighbours.get_mut(host))
        else {
            return;
        };
        if !neighbour.told_head {
            return;
        }
        let pieces = news_for(host, neighbour, content);
        neighbour.told = content.log.len();
        let Some(last) = pieces.iter().max() else {
            return;
        };
        // They can ask for a piece only once they can check it.
        if neighbour.listed <= last.0 && !neighbour.is_complete() {
            self.send_list(host, cx);
        }
        self.send(host, Message::Gained { pieces }, cx);
    }
}

/// What was stored since the neighbour was told, without what it has. Sources are told that too:
/// they look for what we lack.
fn news_for(host: &HostId, neighbour: &Neighbour, content: &Content) -> Vec<PieceIndex> {
    let log = content.log.get(neighbour.told..).unwrap_or_default();
    let news = log.iter().filter(|(piece, from)| {
        from.as_ref() != Some(host) && (neighbour.source || !neighbour.has.contains(*piece))
    });
    news.map(|(piece, _)| *piece).collect()
}
