//! Options of the sockets between peers.

use nix::{
    libc, setsockopt_impl, sockopt_impl,
    sys::socket::{setsockopt, sockopt::TcpUserTimeout},
};
use tokio::net::TcpStream;

/// Unsent bytes the kernel holds per connection. What is written is then nearly on the wire, so
/// that a piece counts as sent when it is, and small frames do not wait behind megabytes.
const UNSENT_LEN: u32 = 256 << 10;
/// After this long without acknowledgement the kernel gives a connection up.
const UNACKNOWLEDGED_MS: u32 = 30_000;

sockopt_impl!(
    NotSentLowWater,
    SetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_NOTSENT_LOWAT,
    u32
);

/// Sets what every connection between peers has. A kernel without an option costs speed only, so
/// failures are no errors.
pub(super) fn tune(stream: &TcpStream) {
    let set = [
        stream.set_nodelay(true).is_ok(),
        setsockopt(stream, NotSentLowWater, &UNSENT_LEN).is_ok(),
        setsockopt(stream, TcpUserTimeout, &UNACKNOWLEDGED_MS).is_ok(),
    ];
    if set.contains(&false) {
        tracing::debug!(
            ?set,
            "socket options (nodelay, low water, user timeout) not all set"
        );
    }
}

#[cfg(test)]
mod tests {
    use nix::{getsockopt_impl, sys::socket::getsockopt};
    use tokio::net::TcpListener;

    use super::*;

    sockopt_impl!(
        LowWater,
        GetOnly,
        libc::IPPROTO_TCP,
        libc::TCP_NOTSENT_LOWAT,
        u32
    );

    #[tokio::test]
    async fn connections_hold_little_unsent() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        tune(&stream);
        assert_eq!(getsockopt(&stream, LowWater), Ok(UNSENT_LEN));
        assert_eq!(getsockopt(&stream, TcpUserTimeout), Ok(UNACKNOWLEDGED_MS));
        assert!(stream.nodelay().unwrap());
    }
}
