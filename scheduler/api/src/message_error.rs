//! Why a message from the other end does not parse.

use hawker_model::{HostIdError, TaskId, TaskIdError};

/// A message that breaks the protocol; the session ends with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    #[error("a message without content (of a newer protocol?)")]
    Empty,
    #[error("{field}: {error}")]
    Task {
        field: &'static str,
        error: TaskIdError,
    },
    #[error("{field}: {error}")]
    Host {
        field: &'static str,
        error: HostIdError,
    },
    #[error("{field} has the unknown value {value}")]
    UnknownValue { field: &'static str, value: i32 },
    #[error("{field}: {value:?} is not of the form ip:port")]
    Address { field: &'static str, value: String },
    #[error("{field}: {value:?} is no ip address")]
    Ip { field: &'static str, value: String },
    #[error("{field} is {value}, which is out of range")]
    Range { field: &'static str, value: u64 },
    #[error("{field} has {count} entries, at most {max} are allowed")]
    TooMany {
        field: &'static str,
        count: usize,
        max: usize,
    },
    #[error("{field} has {len} bytes, at most {max} are allowed")]
    TooLong {
        field: &'static str,
        len: usize,
        max: usize,
    },
    #[error("holding of {task}: {pieces} of {total} pieces, complete: {complete}")]
    Holding {
        task: TaskId,
        pieces: u32,
        total: u32,
        complete: bool,
    },
    #[error("parents of {host} without an address")]
    NoAddress { host: String },
}
