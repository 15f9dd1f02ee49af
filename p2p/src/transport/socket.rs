//! Options of the sockets between peers.

use std::os::fd::AsFd;

use nix::{
    libc, setsockopt_impl, sockopt_impl,
    sys::socket::{setsockopt, sockopt::TcpUserTimeout},
};
use tokio::net::TcpStream;

use super::unsent;

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
        hold_unsent(stream, unsent::LEAST),
        setsockopt(stream, TcpUserTimeout, &UNACKNOWLEDGED_MS).is_ok(),
    ];
    if set.contains(&false) {
        tracing::debug!(
            ?set,
            "socket options (nodelay, low water, user timeout) not all set"
        );
    }
}

/// Lets the socket take no more while it holds so many bytes that it has not sent: what is written
/// is then nearly on the wire. Says whether the kernel can.
pub(super) fn hold_unsent(socket: &impl AsFd, len: u32) -> bool {
    setsockopt(socket, NotSentLowWater, &len).is_ok()
}

#[cfg(test)]
mod tests {
    use nix::{getsockopt_impl, sys::socket::getsockopt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::transport::stream;

    sockopt_impl!(
        LowWater,
        GetOnly,
        libc::IPPROTO_TCP,
        libc::TCP_NOTSENT_LOWAT,
        u32
    );

    #[tokio::test]
    async fn connections_hold_little_unsent_until_they_are_known_as_fast() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        tune(&stream);
        assert_eq!(getsockopt(&stream, LowWater), Ok(unsent::LEAST));
        assert_eq!(getsockopt(&stream, TcpUserTimeout), Ok(UNACKNOWLEDGED_MS));
        assert!(stream.nodelay().unwrap());
        let (_read, write) = stream::plain(stream);
        write.hold_unsent(12_345);
        let socket = write.plain_socket().unwrap();
        assert_eq!(getsockopt(socket, LowWater), Ok(12_345));
    }
}
