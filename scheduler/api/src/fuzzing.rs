//! What must hold for any bytes that hosts and schedulers send each other. The fuzz targets of
//! `hawker-p2p` call this.

use std::fmt::Debug;

use prost::Message;

use crate::{HostMessage, MAX_ENTRIES, MessageError, SchedulerMessage, proto};

/// Bytes as a message of a host's.
pub fn host_message(bytes: &[u8]) {
    let said = check::<proto::HostMessage, HostMessage>(bytes);
    let entries = match &said {
        Some(HostMessage::Announce(held)) => held.len(),
        Some(HostMessage::Progress(tasks)) => tasks.len(),
        _ => 0,
    };
    assert!(entries <= MAX_ENTRIES);
}

/// Bytes as a message of a scheduler's.
pub fn scheduler_message(bytes: &[u8]) {
    check::<proto::SchedulerMessage, SchedulerMessage>(bytes);
}

/// A message of a host's as it travels.
pub fn said_by_host(message: HostMessage) -> Vec<u8> {
    proto::HostMessage::from(message).encode_to_vec()
}

/// A message of a scheduler's as it travels.
pub fn said_by_scheduler(message: SchedulerMessage) -> Vec<u8> {
    proto::SchedulerMessage::from(message).encode_to_vec()
}

/// What was understood can be said, and is understood as the same; what was not has a short reason.
fn check<P, T>(bytes: &[u8]) -> Option<T>
where
    P: Message + Default + From<T>,
    T: TryFrom<P, Error = MessageError> + Clone + PartialEq + Debug,
{
    let read = |bytes: &[u8]| Some(T::try_from(P::decode(bytes).ok()?));
    match read(bytes)? {
        Ok(said) => {
            let again = P::from(said.clone()).encode_to_vec();
            assert_eq!(read(&again), Some(Ok(said.clone())));
            Some(said)
        }
        Err(error) => {
            assert!(error.to_string().len() < 1000);
            None
        }
    }
}
