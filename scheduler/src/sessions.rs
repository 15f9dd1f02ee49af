//! The live sessions: who is connected, and what is wrong with its addresses.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use hawker_model::HostId;
use hawker_scheduler_api::{Hello, SchedulerMessage};
use tokio::{sync::mpsc, time::sleep};
use tonic::Status;

use crate::{connection::PeerInfo, ending::Ending};

/// A session that was heard of within this time is alive: its host's name cannot be taken from
/// another address.
const ALIVE: Duration = Duration::from_secs(5);
/// What a host that was cut off gets to read why.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Names one session, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SessionId(u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A session that asks to be taken up.
#[derive(Debug)]
pub(crate) struct NewSession {
    pub(crate) hello: Hello,
    pub(crate) peer: PeerInfo,
    pub(crate) outgoing: mpsc::Sender<SchedulerMessage>,
    pub(crate) ending: Ending,
}

/// A session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) hello: Hello,
    pub(crate) peer: PeerInfo,
    outgoing: mpsc::Sender<SchedulerMessage>,
    ending: Ending,
    pub(crate) since: Instant,
    pub(crate) heard: Instant,
    /// What its operator should mend.
    pub(crate) warning: Option<String>,
}

impl Session {
    pub(crate) fn observed(&self) -> IpAddr {
        self.peer.remote.ip()
    }

    /// What it advertises, or the address that is seen.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        match &self.hello.listener {
            None => Vec::new(),
            Some(listener) if listener.addresses.is_empty() => {
                vec![SocketAddr::new(self.observed(), listener.port.get())]
            }
            Some(listener) => listener.addresses.clone(),
        }
    }

    /// Queues a message; false if the host reads too slowly.
    pub(crate) fn send(&self, message: SchedulerMessage) -> bool {
        self.outgoing.try_send(message).is_ok()
    }

    /// Queues messages; false if the host reads too slowly.
    pub(crate) fn send_all(&self, messages: Vec<SchedulerMessage>) -> bool {
        messages.into_iter().all(|message| self.send(message))
    }

    /// Ends the session with a reason, and the connection of a host that does not even read that.
    pub(crate) fn end(self, status: Status) {
        self.ending.end(status);
        let cut = self.peer.cut;
        tokio::spawn(async move {
            sleep(LAST_WORDS).await;
            cut.cancel();
        });
    }
}

/// All sessions, one per host.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    by_host: BTreeMap<HostId, Session>,
    hosts: BTreeMap<SessionId, HostId>,
    last: u64,
}

impl Sessions {
    /// Takes up a session. It replaces an older one of the same host; but if that is alive and came
    /// from another address, two hosts go by one name, and the later is refused.
    pub(crate) fn add(
        &mut self,
        new: NewSession,
        now: Instant,
    ) -> Result<(SessionId, Option<Session>), Status> {
        let host = new.hello.host.clone();
        if let Some(held) = self.by_host.get(&host) {
            let alive = now.saturating_duration_since(held.heard) < ALIVE;
            if alive && held.observed() != new.peer.remote.ip() {
                return Err(Status::already_exists(format!(
                    "the name {host} is in use by {}: give each host its own node.name and \
                     certificate",
                    held.peer.remote
                )));
            }
        }
        let replaced = self.remove_host(&host);
        self.last += 1;
        let id = SessionId(self.last);
        let session = Session {
            id,
            hello: new.hello,
            peer: new.peer,
            outgoing: new.outgoing,
            ending: new.ending,
            since: now,
            heard: now,
            warning: None,
        };
        self.hosts.insert(id, host.clone());
        self.by_host.insert(host, session);
        Ok((id, replaced))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Session> {
        self.by_host.values()
    }

    pub(crate) fn find(&self, host: &HostId) -> Option<&Session> {
        self.by_host.get(host)
    }

    pub(crate) fn find_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.by_host.get_mut(self.hosts.get(&id)?)
    }

    pub(crate) fn remove(&mut self, id: SessionId) -> Option<Session> {
        let host = self.hosts.remove(&id)?;
        self.by_host.remove(&host)
    }

    pub(crate) fn remove_host(&mut self, host: &HostId) -> Option<Session> {
        let session = self.by_host.remove(host)?;
        self.hosts.remove(&session.id);
        Some(session)
    }

    pub(crate) fn drain(&mut self) -> Vec<Session> {
        self.hosts.clear();
        std::mem::take(&mut self.by_host).into_values().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_host.len()
    }
}
