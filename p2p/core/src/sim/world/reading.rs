//! Hosts that read the origin.

use hawker_model::PieceIndex;

use super::{World, nanos};
use crate::{
    Source, TaskFailure,
    sim::{
        blob::TRUE,
        event::{Event, HostNo},
        origin::{Access, Fetch, OriginFault},
    },
};

impl World {
    pub(super) fn begin_fetch(
        &mut self,
        host: HostNo,
        source: &Source,
        first: PieceIndex,
        end: Option<PieceIndex>,
    ) {
        self.counter += 1;
        let number = self.counter;
        let credential = source.authorization.as_ref();
        let credential = credential.map_or("", |secret| secret.expose()).to_owned();
        let hangs = self.access(&credential) == Access::Hangs;
        let deceived = self.deceives();
        self.hosts[host].fetch = Some(Fetch {
            number,
            credential,
            deceived,
            next: first.0,
            end: end.map(|end| end.0),
            got: 0,
        });
        if hangs {
            return;
        }
        let at = self.now + nanos(self.plan.origin_latency);
        self.queue.add(
            at,
            Event::OriginHead {
                host,
                fetch: number,
            },
        );
    }

    /// Whether the origin lies to this fetch.
    fn deceives(&mut self) -> bool {
        self.origin.lies += 1;
        match self.plan.origin_fault {
            Some(OriginFault::Lies(most)) => self.origin.lies <= most,
            _ => false,
        }
    }

    fn access(&self, credential: &str) -> Access {
        let access = self.plan.access.get(credential);
        access.copied().unwrap_or(Access::Granted)
    }

    pub(super) fn is_current(&self, host: HostNo, fetch: u64) -> bool {
        let current = self.hosts[host].fetch.as_ref();
        self.hosts[host].alive && current.is_some_and(|current| current.number == fetch)
    }

    pub(super) fn origin_head(&mut self, host: HostNo, fetch: u64) {
        if !self.is_current(host, fetch) {
            return;
        }
        if let Some(OriginFault::Refuses(failure)) = self.plan.origin_fault.clone() {
            return self.end_fetch(host, Err(failure));
        }
        let credential = self.hosts[host].fetch.as_ref();
        let credential = credential.map_or("", |fetch| &fetch.credential);
        if self.access(credential) == Access::Denied {
            return self.end_fetch(host, Err(denied()));
        }
        let (task, geometry, now) = (self.blob.task, self.blob.geometry, self.instant());
        self.hosts[host]
            .swarm
            .handle_origin_head(task, geometry, now);
        self.after(host);
        self.next_origin_piece(host, fetch);
    }

    pub(super) fn next_origin_piece(&mut self, host: HostNo, number: u64) {
        let count = self.blob.geometry.piece_count();
        let Some(fetch) = self.hosts[host]
            .fetch
            .as_ref()
            .filter(|f| f.number == number)
        else {
            return;
        };
        let cut = match self.plan.origin_fault {
            Some(OriginFault::CutsAfter(pieces)) => fetch.got >= pieces,
            _ => false,
        };
        if cut {
            let cut = TaskFailure::Origin("the body was cut".to_owned());
            return self.end_fetch(host, Err(cut));
        }
        if fetch.next >= fetch.end.unwrap_or(count) {
            return self.end_fetch(host, Ok(()));
        }
        let (next, credential) = (fetch.next, fetch.credential.clone());
        let access = self.access(&credential);
        if !self.origin.admits(&credential, access) {
            return self.end_fetch(host, Err(denied()));
        }
        let len = self.blob.geometry.len_of(PieceIndex(next));
        let rate = self.rate(self.plan.origin_rate);
        let sent = self.origin.send(len, rate, self.now);
        let at = self.through_downlink(host, len, self.now, sent);
        self.queue.add(
            at,
            Event::OriginPiece {
                host,
                fetch: number,
            },
        );
    }

    pub(super) fn origin_piece(&mut self, host: HostNo, number: u64) {
        if !self.is_current(host, number) {
            return;
        }
        let task = self.blob.task;
        self.note_false_start(host);
        let bytes = self.origin_bytes(host);
        let state = &mut self.hosts[host];
        let Some(fetch) = &mut state.fetch else {
            return;
        };
        let piece = PieceIndex(fetch.next);
        let known = state
            .swarm
            .list(&task)
            .is_some_and(|list| piece.0 < list.len());
        let fits = state
            .swarm
            .list(&task)
            .is_some_and(|l| self.blob.check(l, piece, bytes));
        let false_end = bytes != TRUE && self.blob.geometry.is_last(piece);
        if (known && !fits) || false_end {
            let wrong = TaskFailure::WrongDigest(format!("piece {piece}"));
            return self.end_fetch(host, Err(wrong));
        }
        fetch.next += 1;
        fetch.got += 1;
        self.tell_origin_piece(host, number, piece);
        self.next_origin_piece(host, number);
    }

    /// Tells the swarm a piece that came, behind its chain value.
    fn tell_origin_piece(&mut self, host: HostNo, number: u64, piece: PieceIndex) {
        let (task, now) = (self.blob.task, self.instant());
        let bytes = self.origin_bytes(host);
        let state = &mut self.hosts[host];
        let known = state.swarm.list(&task).map_or(0, |list| list.len());
        if known <= piece.0 || bytes != TRUE {
            let (first, end) = (known.min(piece.0), piece.0 + 1);
            let batch = self.blob.batch(first, end, bytes, &state.id);
            state.swarm.handle_origin_batch(task, batch, now);
            self.after(host);
        }
        if self.is_current(host, number) {
            self.hosts[host].store[piece.as_usize()] = Some(bytes);
            let swarm = &mut self.hosts[host].swarm;
            swarm.handle_origin_stored(task, piece, now);
            self.after(host);
        }
    }

    pub(super) fn end_fetch(&mut self, host: HostNo, result: Result<(), TaskFailure>) {
        if self.hosts[host].fetch.take().is_some() {
            let (task, now) = (self.blob.task, self.instant());
            self.hosts[host].swarm.handle_origin_done(task, result, now);
            self.after(host);
        }
    }
}

fn denied() -> TaskFailure {
    TaskFailure::Denied("401".to_owned())
}
