//! What hosts say, parsed.

use std::{net::SocketAddr, num::NonZeroU16, ops::RangeInclusive};

use hawker_model::{HostId, Role, TaskId};

use crate::{
    MAX_ADDRESSES, MAX_ENTRIES, MessageError,
    proto::{self, host_message::Message as Body},
};

/// Longest `zone` and `version`, in bytes.
const MAX_TEXT: usize = 128;

/// A message from a host.
#[derive(Clone, Debug, PartialEq)]
pub enum HostMessage {
    /// Who connects.
    Hello(Hello),
    /// What the host holds.
    Announce(Vec<Holding>),
    /// The host wants a task.
    Lookup { task: TaskId, attempt: u32 },
    /// The host neither wants nor serves the task any more.
    Withdraw { task: TaskId },
    /// How downloads go; a sign of life.
    Progress(Vec<TaskProgress>),
    /// A peer did wrong.
    Report {
        task: TaskId,
        host: HostId,
        reason: ReportReason,
        /// The piece that was wrong, where it was one.
        piece: Option<u32>,
    },
}

/// The first message of a session.
#[derive(Clone, Debug, PartialEq)]
pub struct Hello {
    pub host: HostId,
    /// `Node` or `Seed`.
    pub role: Role,
    /// The host's software, for people.
    pub version: String,
    /// `None` when the peer listener is off: never handed out as parent.
    pub listener: Option<PeerListener>,
    /// Empty when unknown.
    pub zone: String,
    /// The protocol versions the host speaks.
    pub protocol: RangeInclusive<u32>,
}

/// Where a host listens for peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerListener {
    pub port: NonZeroU16,
    /// What it advertises; empty: the address that the scheduler sees.
    pub addresses: Vec<SocketAddr>,
    /// Whether a person set the addresses.
    pub configured: bool,
}

/// What a host holds of one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    pub task: TaskId,
    /// Pieces stored and checked.
    pub pieces: u32,
    /// 0 while unknown.
    pub total: u32,
    pub complete: bool,
}

/// How one download goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskProgress {
    pub task: TaskId,
    pub pieces: u32,
    /// 0 while unknown.
    pub total: u32,
    pub bytes: BytesBySource,
}

/// Bytes received, by where they came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BytesBySource {
    pub seed: u64,
    pub parent: u64,
    pub origin: u64,
}

/// What a peer is reported for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReportReason {
    /// A piece that fails its check while another copy passes.
    CorruptPiece,
    /// A piece list that contradicts the digest or carries a bad signature.
    FalseList,
    /// Requests answered with nothing.
    Stalled,
    /// Messages outside the peer protocol.
    Protocol,
    /// More messages than anybody can use.
    Flood,
}

impl ReportReason {
    /// The word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CorruptPiece => "corrupt_piece",
            Self::FalseList => "false_list",
            Self::Stalled => "stalled",
            Self::Protocol => "protocol",
            Self::Flood => "flood",
        }
    }
}

impl TryFrom<proto::HostMessage> for HostMessage {
    type Error = MessageError;
    fn try_from(message: proto::HostMessage) -> Result<Self, MessageError> {
        Ok(match message.message.ok_or(MessageError::Empty)? {
            Body::Hello(hello) => Self::Hello(hello.try_into()?),
            Body::Announce(announce) => {
                let holdings = announce.holdings;
                limit("announce.holdings", holdings.len(), MAX_ENTRIES)?;
                Self::Announce(parse_all(holdings)?)
            }
            Body::Lookup(lookup) => Self::Lookup {
                task: task("lookup.task", &lookup.task)?,
                attempt: lookup.attempt,
            },
            Body::Withdraw(withdraw) => Self::Withdraw {
                task: task("withdraw.task", &withdraw.task)?,
            },
            Body::Progress(progress) => {
                limit("progress.tasks", progress.tasks.len(), MAX_ENTRIES)?;
                Self::Progress(parse_all(progress.tasks)?)
            }
            Body::Report(report) => Self::Report {
                task: task("report.task", &report.task)?,
                host: host("report.host", &report.host)?,
                reason: reason(report.reason)?,
                piece: report.piece,
            },
        })
    }
}

impl From<HostMessage> for proto::HostMessage {
    fn from(message: HostMessage) -> Self {
        let body = match message {
            HostMessage::Hello(hello) => Body::Hello(hello.into()),
            HostMessage::Announce(holdings) => Body::Announce(proto::Announce {
                holdings: holdings.into_iter().map(Into::into).collect(),
            }),
            HostMessage::Lookup { task, attempt } => Body::Lookup(proto::Lookup {
                task: task.to_bytes().to_vec(),
                attempt,
            }),
            HostMessage::Withdraw { task } => Body::Withdraw(proto::Withdraw {
                task: task.to_bytes().to_vec(),
            }),
            HostMessage::Progress(tasks) => Body::Progress(proto::Progress {
                tasks: tasks.into_iter().map(Into::into).collect(),
            }),
            HostMessage::Report {
                task,
                host,
                reason,
                piece,
            } => Body::Report(proto::Report {
                task: task.to_bytes().to_vec(),
                host: host.into(),
                reason: proto::report::Reason::from(reason).into(),
                piece,
            }),
        };
        Self {
            message: Some(body),
        }
    }
}

impl TryFrom<proto::Hello> for Hello {
    type Error = MessageError;
    fn try_from(hello: proto::Hello) -> Result<Self, MessageError> {
        limit("hello.addresses", hello.addresses.len(), MAX_ADDRESSES)?;
        let protocol = hello.protocol_min..=hello.protocol_max;
        if protocol.is_empty() || hello.protocol_min == 0 {
            return Err(MessageError::Range {
                field: "hello.protocol_min",
                value: hello.protocol_min.into(),
            });
        }
        Ok(Self {
            host: host("hello.host", &hello.host)?,
            role: role("hello.role", hello.role)?,
            listener: listener(&hello)?,
            version: text("hello.version", hello.version)?,
            zone: text("hello.zone", hello.zone)?,
            protocol,
        })
    }
}

fn listener(hello: &proto::Hello) -> Result<Option<PeerListener>, MessageError> {
    let port = u16::try_from(hello.peer_port).map_err(|_| MessageError::Range {
        field: "hello.peer_port",
        value: hello.peer_port.into(),
    })?;
    let Some(port) = NonZeroU16::new(port) else {
        return Ok(None);
    };
    Ok(Some(PeerListener {
        port,
        addresses: addresses("hello.addresses", &hello.addresses)?,
        configured: hello.addresses_configured,
    }))
}

impl From<Hello> for proto::Hello {
    fn from(hello: Hello) -> Self {
        let listener = hello.listener.as_ref();
        Self {
            host: hello.host.into(),
            role: proto::Role::from(hello.role).into(),
            version: hello.version,
            addresses: listener
                .map(|l| l.addresses.iter().map(ToString::to_string).collect())
                .unwrap_or_default(),
            addresses_configured: listener.is_some_and(|l| l.configured),
            peer_port: listener.map_or(0, |l| l.port.get().into()),
            zone: hello.zone,
            protocol_min: *hello.protocol.start(),
            protocol_max: *hello.protocol.end(),
        }
    }
}

impl TryFrom<proto::Holding> for Holding {
    type Error = MessageError;
    fn try_from(holding: proto::Holding) -> Result<Self, MessageError> {
        let proto::Holding {
            pieces,
            total,
            complete,
            ..
        } = holding;
        let task = task("holding.task", &holding.task)?;
        let too_many = total != 0 && pieces > total;
        if too_many || (complete && pieces != total) {
            return Err(MessageError::Holding {
                task,
                pieces,
                total,
                complete,
            });
        }
        Ok(Self {
            task,
            pieces,
            total,
            complete,
        })
    }
}

impl From<Holding> for proto::Holding {
    fn from(holding: Holding) -> Self {
        Self {
            task: holding.task.to_bytes().to_vec(),
            pieces: holding.pieces,
            total: holding.total,
            complete: holding.complete,
        }
    }
}

impl TryFrom<proto::TaskProgress> for TaskProgress {
    type Error = MessageError;
    fn try_from(progress: proto::TaskProgress) -> Result<Self, MessageError> {
        Ok(Self {
            task: task("progress.task", &progress.task)?,
            pieces: progress.pieces,
            total: progress.total,
            bytes: BytesBySource {
                seed: progress.seed_bytes,
                parent: progress.parent_bytes,
                origin: progress.origin_bytes,
            },
        })
    }
}

impl From<TaskProgress> for proto::TaskProgress {
    fn from(progress: TaskProgress) -> Self {
        Self {
            task: progress.task.to_bytes().to_vec(),
            pieces: progress.pieces,
            total: progress.total,
            seed_bytes: progress.bytes.seed,
            parent_bytes: progress.bytes.parent,
            origin_bytes: progress.bytes.origin,
        }
    }
}

impl From<ReportReason> for proto::report::Reason {
    fn from(reason: ReportReason) -> Self {
        match reason {
            ReportReason::CorruptPiece => Self::CorruptPiece,
            ReportReason::FalseList => Self::FalseList,
            ReportReason::Stalled => Self::Stalled,
            ReportReason::Protocol => Self::Protocol,
            ReportReason::Flood => Self::Flood,
        }
    }
}

impl From<Role> for proto::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Node => Self::Node,
            Role::Seed => Self::Seed,
            // No scheduler speaks as a host; the other end refuses this.
            Role::Scheduler => Self::Unspecified,
        }
    }
}

fn reason(value: i32) -> Result<ReportReason, MessageError> {
    use proto::report::Reason;
    match Reason::try_from(value) {
        Ok(Reason::CorruptPiece) => Ok(ReportReason::CorruptPiece),
        Ok(Reason::FalseList) => Ok(ReportReason::FalseList),
        Ok(Reason::Stalled) => Ok(ReportReason::Stalled),
        Ok(Reason::Protocol) => Ok(ReportReason::Protocol),
        Ok(Reason::Flood) => Ok(ReportReason::Flood),
        Ok(Reason::Unspecified) | Err(_) => Err(MessageError::UnknownValue {
            field: "report.reason",
            value,
        }),
    }
}

pub(crate) fn role(field: &'static str, value: i32) -> Result<Role, MessageError> {
    match proto::Role::try_from(value) {
        Ok(proto::Role::Node) => Ok(Role::Node),
        Ok(proto::Role::Seed) => Ok(Role::Seed),
        Ok(proto::Role::Unspecified) | Err(_) => Err(MessageError::UnknownValue { field, value }),
    }
}

pub(crate) fn task(field: &'static str, bytes: &[u8]) -> Result<TaskId, MessageError> {
    TaskId::from_bytes(bytes).map_err(|error| MessageError::Task { field, error })
}

pub(crate) fn host(field: &'static str, text: &str) -> Result<HostId, MessageError> {
    // A name of any length would end in the error's text.
    limit_len(field, text.len(), MAX_TEXT)?;
    HostId::parse(text).map_err(|error| MessageError::Host { field, error })
}

pub(crate) fn addresses(
    field: &'static str,
    texts: &[String],
) -> Result<Vec<SocketAddr>, MessageError> {
    let parse = |text: &String| {
        limit_len(field, text.len(), MAX_TEXT)?;
        text.parse().map_err(|_| MessageError::Address {
            field,
            value: text.clone(),
        })
    };
    texts.iter().map(parse).collect()
}

pub(crate) fn limit(field: &'static str, count: usize, max: usize) -> Result<(), MessageError> {
    match count <= max {
        true => Ok(()),
        false => Err(MessageError::TooMany { field, count, max }),
    }
}

pub(crate) fn limit_len(field: &'static str, len: usize, max: usize) -> Result<(), MessageError> {
    match len <= max {
        true => Ok(()),
        false => Err(MessageError::TooLong { field, len, max }),
    }
}

fn text(field: &'static str, text: String) -> Result<String, MessageError> {
    limit_len(field, text.len(), MAX_TEXT)?;
    // It goes into logs and status pages.
    match text.chars().any(char::is_control) {
        true => Ok(text.chars().filter(|c| !c.is_control()).collect()),
        false => Ok(text),
    }
}

pub(crate) fn parse_all<P, T>(parts: Vec<P>) -> Result<Vec<T>, MessageError>
where
    T: TryFrom<P, Error = MessageError>,
{
    parts.into_iter().map(T::try_from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawker_model::Digest;

    fn id() -> TaskId {
        TaskId::Blob(Digest::of(b"a"))
    }

    fn hello() -> Hello {
        Hello {
            host: HostId::parse("node-1").unwrap(),
            role: Role::Node,
            version: "0.1.0".into(),
            listener: Some(PeerListener {
                port: NonZeroU16::new(4005).unwrap(),
                addresses: vec!["[2001:db8::1]:4005".parse().unwrap()],
                configured: true,
            }),
            zone: "a".into(),
            protocol: 1..=1,
        }
    }

    #[test]
    fn every_host_message_survives_the_wire() {
        let holding = Holding {
            task: id(),
            pieces: 2,
            total: 2,
            complete: true,
        };
        let progress = TaskProgress {
            task: id(),
            pieces: 1,
            total: 0,
            bytes: BytesBySource {
                seed: 1,
                parent: 2,
                origin: 3,
            },
        };
        let messages = [
            HostMessage::Hello(hello()),
            HostMessage::Hello(Hello {
                listener: None,
                ..hello()
            }),
            HostMessage::Announce(vec![holding]),
            HostMessage::Lookup {
                task: id(),
                attempt: 7,
            },
            HostMessage::Withdraw { task: id() },
            HostMessage::Progress(vec![progress]),
            HostMessage::Report {
                task: id(),
                host: HostId::parse("bad").unwrap(),
                reason: ReportReason::FalseList,
                piece: None,
            },
            HostMessage::Report {
                task: id(),
                host: HostId::parse("bad").unwrap(),
                reason: ReportReason::Flood,
                piece: Some(0),
            },
        ];
        for message in messages {
            let wire = proto::HostMessage::from(message.clone());
            assert_eq!(HostMessage::try_from(wire), Ok(message));
        }
    }

    #[test]
    fn errors_name_the_field() {
        let lookup = proto::HostMessage {
            message: Some(Body::Lookup(proto::Lookup {
                task: vec![0; 32],
                attempt: 0,
            })),
        };
        let error = HostMessage::try_from(lookup).unwrap_err().to_string();
        assert_eq!(error, "lookup.task: a task id has 33 bytes, not 32");
        let bad = proto::Hello {
            addresses: vec!["node-1:4005".into()],
            ..hello().into()
        };
        let error = Hello::try_from(bad).unwrap_err().to_string();
        assert!(error.starts_with("hello.addresses: \"node-1:4005\""));
        let scheduler = proto::Hello::from(Hello {
            role: Role::Scheduler,
            ..hello()
        });
        assert!(Hello::try_from(scheduler).is_err());
    }

    #[test]
    fn a_holding_cannot_have_more_pieces_than_there_are() {
        for (pieces, total, complete) in [(3, 2, false), (1, 2, true), (3, 2, true)] {
            let holding = proto::Holding {
                task: id().to_bytes().to_vec(),
                pieces,
                total,
                complete,
            };
            assert!(Holding::try_from(holding).is_err(), "{pieces}/{total}");
        }
    }

    #[test]
    fn control_characters_never_reach_a_log() {
        let bad = proto::Hello {
            zone: "a\nb\u{1b}[31m".into(),
            ..hello().into()
        };
        assert_eq!(Hello::try_from(bad).unwrap().zone, "ab[31m");
    }
}
