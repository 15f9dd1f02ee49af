//! Options of the sockets between peers.

use std::os::fd::AsFd;

use nix::{
    getsockopt_impl, libc, setsockopt_impl, sockopt_impl,
    sys::socket::{setsockopt, sockopt::TcpUserTimeout},
};
use tokio::net::TcpStream;

use super::unsent;

/// After this long without acknowledgement the kernel gives a connection up.
const UNACKNOWLEDGED_MS: u32 = 30_000;

sockopt_impl!(
    NotSentLowWater,
    Both,
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

/// How much the socket may hold unsent.
#[cfg(test)]
pub(super) fn held_unsent(socket: &impl AsFd) -> u32 {
    nix::sys::socket::getsockopt(socket, NotSentLowWater).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::getsockopt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn connections_hold_little_unsent_until_they_are_known_as_fast() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        tune(&stream);
        assert_eq!(held_unsent(&stream), unsent::LEAST);
        assert_eq!(getsockopt(&stream, TcpUserTimeout), Ok(UNACKNOWLEDGED_MS));
        assert!(stream.nodelay().unwrap());
    }
}
