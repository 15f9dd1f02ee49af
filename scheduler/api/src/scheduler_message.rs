//! What schedulers say, parsed.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use hawker_model::{HostId, Role, TaskId};

use crate::{
    MAX_ADDRESSES, MessageError,
    host_message::{addresses, host, limit, limit_len, parse_all, role, task},
    proto::{self, scheduler_message::Message as Body},
};

/// Most parents of one message.
const MAX_PARENTS: usize = 256;
/// Most seeds of one message.
pub const MAX_SEEDS: usize = 256;
/// Most liars of one message.
const MAX_LIARS: usize = 1024;
/// Longest notice, in bytes; more is cut off.
const MAX_NOTICE: usize = 2048;
/// Most lists of revoked certificates of one message, and all of them together, in bytes.
const MAX_REVOCATION_LISTS: usize = 8;
const MAX_REVOCATION_BYTES: usize = 3 << 20;
/// Bounds for the interval between two `Progress` messages.
const PROGRESS_INTERVAL_MS: std::ops::RangeInclusive<u32> = 50..=60_000;

/// A message from a scheduler.
#[derive(Clone, Debug, PartialEq)]
pub enum SchedulerMessage {
    /// The session stands.
    Welcome(Welcome),
    /// Neighbours for a task.
    Parents(Parents),
    /// All seeds that live and can be reached; at most [`MAX_SEEDS`].
    Seeds(Vec<PeerAddress>),
    /// All hosts that several others have caught lying, for as long as they are isolated.
    Liars(Vec<HostId>),
    /// Something the host's operator should know.
    Notice { level: Level, text: String },
    /// Lists of revoked certificates, each an X.509 v2 CRL in DER, unchecked.
    Revocations(Vec<Vec<u8>>),
}

/// The scheduler's first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// From where the scheduler sees the host.
    pub observed: IpAddr,
    /// The scheduler's name, for people.
    pub scheduler: String,
    /// How often `Progress` is to be sent.
    pub progress_interval: Duration,
    /// The protocol version of this session.
    pub protocol: u32,
    /// The scheduler's software, for people.
    pub version: String,
}

/// Neighbours for a task, in addition to those named before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parents {
    pub task: TaskId,
    /// May be empty: others will connect.
    pub parents: Vec<PeerAddress>,
    pub duty: Duty,
    /// The one host that reads the origin: a seed or an elected node. `None`: complete copies
    /// exist.
    pub fetcher: Option<HostId>,
}

/// A peer and where to reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    pub host: HostId,
    pub role: Role,
    /// To be tried in this order. At least one.
    pub addresses: Vec<SocketAddr>,
}

/// What the receiver of parents is to do about the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Somebody else brings the bytes.
    Wait,
    /// The receiver is the one host that fetches the task from the origin.
    Fetch,
}

/// How urgent a notice is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Info,
    Warning,
}

impl TryFrom<proto::SchedulerMessage> for SchedulerMessage {
    type Error = MessageError;
    fn try_from(message: proto::SchedulerMessage) -> Result<Self, MessageError> {
        Ok(match message.message.ok_or(MessageError::Empty)? {
            Body::Welcome(welcome) => Self::Welcome(welcome.try_into()?),
            Body::Parents(parents) => Self::Parents(parents.try_into()?),
            Body::Seeds(seeds) => {
                limit("seeds.seeds", seeds.seeds.len(), MAX_SEEDS)?;
                Self::Seeds(parse_all(seeds.seeds)?)
            }
            Body::Liars(liars) => {
                limit("liars.hosts", liars.hosts.len(), MAX_LIARS)?;
                let hosts = liars.hosts.iter().map(|name| host("liars.hosts", name));
                Self::Liars(hosts.collect::<Result<_, _>>()?)
            }
            Body::Notice(notice) => Self::Notice {
                level: level(notice.level),
                text: clean(notice.text),
            },
            Body::Revocations(revocations) => Self::Revocations(lists(revocations)?),
        })
    }
}

impl From<SchedulerMessage> for proto::SchedulerMessage {
    fn from(message: SchedulerMessage) -> Self {
        let body = match message {
            SchedulerMessage::Welcome(welcome) => Body::Welcome(welcome.into()),
            SchedulerMessage::Parents(parents) => Body::Parents(parents.into()),
            SchedulerMessage::Seeds(seeds) => Body::Seeds(proto::Seeds {
                seeds: seeds.into_iter().map(Into::into).collect(),
            }),
            SchedulerMessage::Liars(hosts) => Body::Liars(proto::Liars {
                hosts: hosts.into_iter().map(String::from).collect(),
            }),
            SchedulerMessage::Notice { level, text } => Body::Notice(proto::Notice {
                level: match level {
                    Level::Info => proto::notice::Level::Info.into(),
                    Level::Warning => proto::notice::Level::Warning.into(),
                },
                text,
            }),
            SchedulerMessage::Revocations(lists) => Body::Revocations(proto::Revocations { lists }),
        };
        Self {
            message: Some(body),
        }
    }
}

impl TryFrom<proto::Welcome> for Welcome {
    type Error = MessageError;
    fn try_from(welcome: proto::Welcome) -> Result<Self, MessageError> {
        let interval = welcome.progress_interval_ms;
        if !PROGRESS_INTERVAL_MS.contains(&interval) {
            return Err(MessageError::Range {
                field: "welcome.progress_interval_ms",
                value: interval.into(),
            });
        }
        let observed = welcome.observed_address;
        Ok(Self {
            observed: observed.parse().map_err(|_| MessageError::Ip {
                field: "welcome.observed_address",
                value: clean(observed.clone()),
            })?,
            scheduler: clean(welcome.scheduler),
            progress_interval: Duration::from_millis(interval.into()),
            protocol: welcome.protocol,
            version: clean(welcome.version),
        })
    }
}

impl From<Welcome> for proto::Welcome {
    fn from(welcome: Welcome) -> Self {
        let interval = welcome.progress_interval.as_millis();
        Self {
            observed_address: welcome.observed.to_string(),
            scheduler: welcome.scheduler,
            progress_interval_ms: u32::try_from(interval).unwrap_or(u32::MAX),
            protocol: welcome.protocol,
            version: welcome.version,
        }
    }
}

impl TryFrom<proto::Parents> for Parents {
    type Error = MessageError;
    fn try_from(parents: proto::Parents) -> Result<Self, MessageError> {
        limit("parents.parents", parents.parents.len(), MAX_PARENTS)?;
        Ok(Self {
            task: task("parents.task", &parents.task)?,
            parents: parse_all(parents.parents)?,
            duty: duty(parents.duty)?,
            fetcher: match parents.fetcher.as_str() {
                "" => None,
                name => Some(host("parents.fetcher", name)?),
            },
        })
    }
}

impl From<Parents> for proto::Parents {
    fn from(parents: Parents) -> Self {
        Self {
            task: parents.task.to_bytes().to_vec(),
            parents: parents.parents.into_iter().map(Into::into).collect(),
            duty: match parents.duty {
                Duty::Wait => proto::parents::Duty::Wait.into(),
                Duty::Fetch => proto::parents::Duty::Fetch.into(),
            },
            fetcher: parents.fetcher.map(String::from).unwrap_or_default(),
        }
    }
}

impl TryFrom<proto::PeerAddress> for PeerAddress {
    type Error = MessageError;
    fn try_from(peer: proto::PeerAddress) -> Result<Self, MessageError> {
        limit("peer.addresses", peer.addresses.len(), MAX_ADDRESSES)?;
        let host = host("peer.host", &peer.host)?;
        let addresses = addresses("peer.addresses", &peer.addresses)?;
        if addresses.is_empty() {
            return Err(MessageError::NoAddress { host: host.into() });
        }
        Ok(Self {
            host,
            role: role("peer.role", peer.role)?,
            addresses,
        })
    }
}

impl From<PeerAddress> for proto::PeerAddress {
    fn from(peer: PeerAddress) -> Self {
        Self {
            host: peer.host.into(),
            role: proto::Role::from(peer.role).into(),
            addresses: peer.addresses.iter().map(ToString::to_string).collect(),
        }
    }
}

fn lists(revocations: proto::Revocations) -> Result<Vec<Vec<u8>>, MessageError> {
    let lists = revocations.lists;
    limit("revocations.lists", lists.len(), MAX_REVOCATION_LISTS)?;
    let len = lists.iter().map(Vec::len).sum();
    limit_len("revocations.lists", len, MAX_REVOCATION_BYTES)?;
    Ok(lists)
}

fn duty(value: i32) -> Result<Duty, MessageError> {
    match proto::parents::Duty::try_from(value) {
        Ok(proto::parents::Duty::Wait) => Ok(Duty::Wait),
        Ok(proto::parents::Duty::Fetch) => Ok(Duty::Fetch),
        Ok(proto::parents::Duty::Unspecified) | Err(_) => Err(MessageError::UnknownValue {
            field: "parents.duty",
            value,
        }),
    }
}

/// A level of a newer protocol is shown rather than lost.
fn level(value: i32) -> Level {
    match proto::notice::Level::try_from(value) {
        Ok(proto::notice::Level::Info) => Level::Info,
        _ => Level::Warning,
    }
}

fn clean(text: String) -> String {
    let mut clean: String = text.chars().filter(|c| !c.is_control()).collect();
    clean.truncate(clean.floor_char_boundary(MAX_NOTICE));
    clean
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawker_model::Digest;

    fn parents() -> Parents {
        Parents {
            task: TaskId::Blob(Digest::of(b"a")),
            parents: vec![PeerAddress {
                host: HostId::parse("seed-1").unwrap(),
                role: Role::Seed,
                addresses: vec!["10.0.0.1:4005".parse().unwrap()],
            }],
            duty: Duty::Fetch,
            fetcher: Some(HostId::parse("node-1").unwrap()),
        }
    }

    #[test]
    fn every_scheduler_message_survives_the_wire() {
        let messages = [
            SchedulerMessage::Welcome(Welcome {
                observed: "2001:db8::1".parse().unwrap(),
                scheduler: "s".into(),
                progress_interval: Duration::from_secs(2),
                protocol: 1,
                version: "0.1.0".into(),
            }),
            SchedulerMessage::Parents(parents()),
            SchedulerMessage::Parents(Parents {
                fetcher: None,
                duty: Duty::Wait,
                ..parents()
            }),
            SchedulerMessage::Seeds(parents().parents),
            SchedulerMessage::Seeds(Vec::new()),
            SchedulerMessage::Liars(vec![HostId::parse("bad").unwrap()]),
            SchedulerMessage::Liars(Vec::new()),
            SchedulerMessage::Notice {
                level: Level::Warning,
                text: "t".into(),
            },
            SchedulerMessage::Revocations(vec![vec![1, 2], vec![3]]),
        ];
        for message in messages {
            let wire = proto::SchedulerMessage::from(message.clone());
            assert_eq!(SchedulerMessage::try_from(wire), Ok(message));
        }
    }

    #[test]
    fn parents_without_an_address_are_an_error() {
        let mut wire = proto::Parents::from(parents());
        wire.parents[0].addresses.clear();
        let error = Parents::try_from(wire).unwrap_err().to_string();
        assert_eq!(error, "parents of seed-1 without an address");
    }

    #[test]
    fn a_progress_interval_of_nothing_is_refused() {
        let wire = proto::Welcome {
            observed_address: "10.0.0.1".into(),
            ..proto::Welcome::default()
        };
        assert!(Welcome::try_from(wire).is_err());
    }

    #[test]
    fn long_notices_are_cut_at_a_character() {
        assert_eq!(clean("ä".repeat(5000)).len(), MAX_NOTICE);
    }
}
