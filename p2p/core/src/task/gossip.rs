//! Telling neighbours what we got: soon, but not more often than they can use, and nothing that
//! they know.

use std::time::{Duration, Instant};

use hawker_model::{HostId, PieceIndex};

use super::Task;
use crate::{Message, content::Content, neighbour::Neighbour, shared::Shared};

/// However fast pieces come, neighbours are told no more often.
const LEAST_PAUSE: Duration = Duration::from_millis(5);

/// When neighbours were told last, and how long they hear nothing then.
#[derive(Debug)]
pub(super) struct Told {
    at: Instant,
    /// How many pieces were stored by then.
    stored: usize,
    pause: Duration,
}

impl Told {
    /// As long as the next `together` pieces will take, if they come like the last ones.
    fn pause(&self, stored: usize, together: u32, now: Instant) -> Duration {
        let came = stored.saturating_sub(self.stored).max(1) as f64;
        (now - self.at).mul_f64(f64::from(together) / came)
    }
}

impl Task {
    /// A piece was stored: tells it now, or together with others shortly. Each word to each of a
    /// dozen neighbours costs both of them processor time, so that one a piece would cost more than
    /// the pieces.
    pub(super) fn gossip_soon(&mut self, cx: &mut Shared, now: Instant) {
        let next = self.told.as_ref().map(|told| told.at + told.pause);
        match next.filter(|at| *at > now) {
            None => self.gossip(cx, now),
            Some(at) => _ = self.flush_at.get_or_insert(at),
        }
    }

    pub(super) fn gossip(&mut self, cx: &mut Shared, now: Instant) {
        self.flush_at = None;
        let stored = self.content.as_ref().map_or(0, |content| content.log.len());
        let (together, most) = (cx.config.gained_together, cx.config.gained_interval);
        let pause = self
            .told
            .as_ref()
            .map(|told| told.pause(stored, together, now));
        let pause = pause.unwrap_or_default().max(LEAST_PAUSE).min(most);
        self.told = Some(Told {
            at: now,
            stored,
            pause,
        });
        for place in 0..self.neighbours.len() {
            self.tell_gained(place, cx);
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

    /// Tells the neighbour at this place.
    fn tell_gained(&mut self, place: usize, cx: &mut Shared) {
        let (Some(content), Some((host, neighbour))) =
            (&self.content, self.neighbours.at_mut(place))
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
        let host = host.clone();
        // They can ask for a piece only once they can check it.
        if neighbour.listed <= last.0 && !neighbour.is_complete() {
            self.send_list(&host, cx);
        }
        self.send(&host, Message::Gained { pieces }, cx);
    }
}

/// What was stored since the neighbour was told, without what it has. Sources are told that too:
/// they look for what we lack.
fn news_for(host: &HostId, neighbour: &Neighbour, content: &Content) -> Vec<PieceIndex> {
    let log = content.log.get(neighbour.told..).unwrap_or_default();
    let mut news = Vec::with_capacity(log.len());
    let new = log.iter().filter(|(piece, from)| {
        (neighbour.source || !neighbour.has.contains(*piece)) && from.as_ref() != Some(host)
    });
    news.extend(new.map(|(piece, _)| *piece));
    news
}
