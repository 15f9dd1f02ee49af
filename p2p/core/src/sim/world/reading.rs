//! Hosts that read the origin.

use hawker_model::PieceIndex;

use super::{World, nanos};
use crate::{
    Source, TaskFailure,
    sim::{
        blob::{BlobNo, TRUE},
        event::{Event, HostNo},
        origin::{Access, Fetch, OriginFault},
    },
};

impl World {
    pub(super) fn begin_fetch(
        &mut self,
        host: HostNo,
        blob: BlobNo,
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
        self.hosts[host].part_mut(blob).fetch = Some(Fetch {
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
                blob,
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

    pub(super) fn is_current(&self, host: HostNo, blob: BlobNo, fetch: u64) -> bool {
        let current = self.hosts[host].part(blob).fetch.as_ref();
        self.hosts[host].alive && current.is_some_and(|current| current.number == fetch)
    }

    pub(super) fn origin_head(&mut self, host: HostNo, blob: BlobNo, fetch: u64) {
        if !self.is_current(host, blob, fetch) {
            return;
        }
        if let Some(OriginFault::Refuses(failure)) = self.plan.origin_fault.clone() {
            return self.end_fetch(host, blob, Err(failure));
        }
        let credential = self.hosts[host].part(blob).fetch.as_ref();
        let credential = credential.map_or("", |fetch| &fetch.credential);
        if self.access(credential) == Access::Denied {
            return self.end_fetch(host, blob, Err(denied()));
        }
        let (task, geometry, now) = (
            self.blob(blob).task,
            self.blob(blob).geometry,
            self.instant(),
        );
        self.hosts[host]
            .swarm
            .handle_origin_head(task, geometry, now);
        self.after(host);
        self.next_origin_piece(host, blob, fetch);
    }

    pub(super) fn next_origin_piece(&mut self, host: HostNo, blob: BlobNo, number: u64) {
        let count = self.blob(blob).geometry.piece_count();
        let fetch = self.hosts[host].part(blob).fetch.as_ref();
        let Some(fetch) = fetch.filter(|fetch| fetch.number == number) else {
            return;
        };
        let cut = match self.plan.origin_fault {
            Some(OriginFault::CutsAfter(pieces)) => fetch.got >= pieces,
            _ => false,
        };
        if cut {
            let cut = TaskFailure::Origin("the body was cut".to_owned());
            return self.end_fetch(host, blob, Err(cut));
        }
        if fetch.next >= fetch.end.unwrap_or(count) {
            return self.end_fetch(host, blob, Ok(()));
        }
        let (next, credential) = (fetch.next, fetch.credential.clone());
        let access = self.access(&credential);
        if !self.origin.admits(&credential, access) {
            return self.end_fetch(host, blob, Err(denied()));
        }
        let len = self.blob(blob).geometry.len_of(PieceIndex(next));
        let rate = self.plan.origin_rate * self.plan.payload_share;
        let sent = self.origin.send(len, rate, self.now);
        let at = self.through_downlink(host, len, self.now, sent);
        self.queue.add(
            at,
            Event::OriginPiece {
                host,
                blob,
                fetch: number,
            },
        );
    }

    pub(super) fn origin_piece(&mut self, host: HostNo, blob: BlobNo, number: u64) {
        if !self.is_current(host, blob, number) {
            return;
        }
        self.note_false_start(host, blob);
        let bytes = self.origin_bytes(host, blob);
        let (content, state) = (&self.blobs[usize::from(blob)], &mut self.hosts[host]);
        let part = &mut state.parts[usize::from(blob)];
        let Some(fetch) = &mut part.fetch else {
            return;
        };
        let piece = PieceIndex(fetch.next);
        let list = state.swarm.list(&content.task);
        let known = list.is_some_and(|list| piece.0 < list.len());
        let fits = list.is_some_and(|list| content.check(list, piece, bytes));
        let false_end = bytes != TRUE && content.geometry.is_last(piece);
        if (known && !fits) || false_end {
            let wrong = TaskFailure::WrongDigest(format!("piece {piece}"));
            return self.end_fetch(host, blob, Err(wrong));
        }
        fetch.next += 1;
        fetch.got += 1;
        self.tell_origin_piece(host, (blob, piece), number);
        self.next_origin_piece(host, blob, number);
    }

    /// Tells the swarm a piece that came, behind its chain value.
    fn tell_origin_piece(
        &mut self,
        host: HostNo,
        (blob, piece): (BlobNo, PieceIndex),
        number: u64,
    ) {
        let (task, now) = (self.blob(blob).task, self.instant());
        let bytes = self.origin_bytes(host, blob);
        let state = &mut self.hosts[host];
        let known = state.swarm.list(&task).map_or(0, |list| list.len());
        if known <= piece.0 || bytes != TRUE {
            let (first, end) = (known.min(piece.0), piece.0 + 1);
            let content = &self.blobs[usize::from(blob)];
            let batch = content.batch(first, end, bytes, &state.certificate);
            state.swarm.handle_origin_batch(task, batch, now);
            self.after(host);
        }
        if self.is_current(host, blob, number) {
            self.hosts[host].part_mut(blob).store[piece.as_usize()] = Some(bytes);
            self.hosts[host].end_wait(self.now);
            let swarm = &mut self.hosts[host].swarm;
            swarm.handle_origin_stored(task, piece, now);
            self.after(host);
        }
    }

    pub(super) fn end_fetch(
        &mut self,
        host: HostNo,
        blob: BlobNo,
        result: Result<(), TaskFailure>,
    ) {
        if self.hosts[host].part_mut(blob).fetch.take().is_some() {
            let (task, now) = (self.blob(blob).task, self.instant());
            self.hosts[host].swarm.handle_origin_done(task, result, now);
            self.after(host);
        }
    }
}

fn denied() -> TaskFailure {
    TaskFailure::Denied("401".to_owned())
}
