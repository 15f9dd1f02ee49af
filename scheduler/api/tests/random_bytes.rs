//! Whatever arrives, parsing gives a message or an error.

use hawker_scheduler_api::{HostMessage, SchedulerMessage, proto};
use proptest::prelude::*;
use prost::Message;

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(message) = proto::HostMessage::decode(bytes.as_slice()) {
            let _ = HostMessage::try_from(message);
        }
        if let Ok(message) = proto::SchedulerMessage::decode(bytes.as_slice()) {
            let _ = SchedulerMessage::try_from(message);
        }
    }

    #[test]
    fn random_hellos_never_panic(
        host in ".*", role in any::<i32>(), address in ".*", port in any::<u32>(),
        min in any::<u32>(), max in any::<u32>(), zone in ".*",
    ) {
        let hello = proto::Hello {
            host, role, version: zone.clone(), addresses: vec![address], peer_port: port, zone,
            addresses_configured: true, protocol_min: min, protocol_max: max,
        };
        let message = proto::host_message::Message::Hello(hello);
        let parsed = HostMessage::try_from(proto::HostMessage { message: Some(message) });
        if let Ok(message) = parsed {
            let again = proto::HostMessage::from(message.clone());
            prop_assert_eq!(HostMessage::try_from(again), Ok(message));
        }
    }
}
