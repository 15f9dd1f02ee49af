//! Tries whether a host can be reached where it says: the trap that costs operators most time is an
//! advertised address that nobody reaches.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

const CONNECT: Duration = Duration::from_secs(2);
/// Waits before an unreachable host is tried again.
const FIRST_WAIT: Duration = Duration::from_secs(10);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What to try.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    /// Where the host says that it is, best first.
    pub(crate) advertised: Vec<SocketAddr>,
    /// Where it seems to be: tried as well, for when it is wrong.
    pub(crate) seen: SocketAddr,
    /// How often it was tried before.
    pub(crate) attempt: u32,
}

/// What came out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Those of the advertised addresses that answer, best first.
    pub(crate) reachable: Vec<SocketAddr>,
    /// Those that do not, with the reason.
    pub(crate) unreachable: Vec<(SocketAddr, String)>,
    /// The address it seems to have, if that answers and is not advertised.
    pub(crate) seen: Option<SocketAddr>,
}

impl Probe {
    /// Connects to all addresses at once. Waits first, if it was tried before.
    pub(crate) async fn run(self) -> Outcome {
        if let Some(again) = self.attempt.checked_sub(1) {
            let wait = FIRST_WAIT.saturating_mul(1 << again.min(8));
            sleep(wait.min(LONGEST_WAIT)).await;
        }
        let mut tries = JoinSet::new();
        let mut addresses = self.advertised.clone();
        if !addresses.contains(&self.seen) {
            addresses.push(self.seen);
        }
        for (order, address) in addresses.into_iter().enumerate() {
            let seen = self.seen.ip();
            tries.spawn(async move { (order, address, reach(address, seen).await) });
        }
        let mut results = tries.join_all().await;
        results.sort_by_key(|(order, ..)| *order);
        let mut outcome = Outcome::default();
        for (_, address, result) in results {
            match (self.advertised.contains(&address), result) {
                (true, Ok(())) => outcome.reachable.push(address),
                (true, Err(error)) => outcome.unreachable.push((address, explain(&error))),
                (false, Ok(())) => outcome.seen = Some(address),
                (false, Err(_)) => {}
            }
        }
        outcome
    }
}

impl Outcome {
    /// Where others are sent: what answers first. What the scheduler does not reach may still be
    /// reached by others (another network), so it stays at the end.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        let mut addresses = self.reachable.clone();
        if addresses.is_empty() {
            addresses.extend(self.seen);
        }
        addresses.extend(self.unreachable.iter().map(|(address, _)| *address));
        addresses
    }

    pub(crate) fn is_reachable(&self) -> bool {
        !self.reachable.is_empty() || self.seen.is_some()
    }

    /// What its operator should do, if none of the advertised addresses answers.
    pub(crate) fn warning(&self) -> Option<String> {
        if !self.reachable.is_empty() || self.unreachable.is_empty() {
            return None;
        }
        let failed = self.unreachable.iter();
        let failed: Vec<String> = failed.map(|(a, why)| format!("{a} ({why})")).collect();
        let failed = failed.join(", ");
        Some(match self.seen {
            Some(seen) => format!(
                "the advertised address {failed} cannot be reached from the scheduler, but {seen} \
                 can, and is used instead: set node.advertise to {} or remove it",
                seen.ip()
            ),
            None => format!(
                "the advertised address {failed} cannot be reached from the scheduler; no other \
                 host is sent here: set node.advertise to an address of this host that others \
                 reach, and open the peer port (p2p.listen) in firewalls"
            ),
        })
    }
}

async fn reach(address: SocketAddr, seen: IpAddr) -> io::Result<()> {
    if address.ip().is_unspecified() {
        return Err(io::Error::other("it is no address of a host"));
    }
    if address.ip().to_canonical().is_loopback() && !seen.is_loopback() {
        // The scheduler would reach itself.
        return Err(io::Error::other(
            "a loopback address means another host to everyone",
        ));
    }
    let connect = timeout(CONNECT, TcpStream::connect(address)).await;
    connect.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    Ok(())
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut => format!("no answer within {} s", CONNECT.as_secs()),
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    async fn run(advertised: Vec<SocketAddr>, seen: SocketAddr) -> Outcome {
        let probe = Probe {
            advertised,
            seen,
            attempt: 0,
        };
        probe.run().await
    }

    #[tokio::test]
    async fn of_several_addresses_the_answering_ones_come_first() {
        let (_open, good) = listener().await;
        let (closed, bad) = listener().await;
        drop(closed);
        let outcome = run(vec![bad, good], good).await;
        assert_eq!(outcome.addresses(), vec![good, bad]);
        assert_eq!(outcome.warning(), None);
    }

    #[tokio::test]
    async fn a_wrong_address_is_said_and_the_seen_one_used() {
        let (_open, good) = listener().await;
        let (closed, bad) = listener().await;
        drop(closed);
        let outcome = run(vec![bad], good).await;
        assert_eq!(outcome.addresses(), vec![good, bad]);
        let warning = outcome.warning().unwrap();
        let said = format!("the advertised address {bad} (connection refused)");
        assert!(warning.starts_with(&said), "{warning}");
        assert!(
            warning.contains("set node.advertise to 127.0.0.1"),
            "{warning}"
        );
    }

    #[tokio::test]
    async fn a_host_that_nobody_reaches_is_told_so() {
        let (closed, bad) = listener().await;
        drop(closed);
        let outcome = run(vec![bad], bad).await;
        assert!(!outcome.is_reachable());
        assert!(
            outcome
                .warning()
                .unwrap()
                .contains("no other host is sent here")
        );
    }

    #[tokio::test]
    async fn loopback_is_no_address_for_a_distant_host() {
        let (_open, loopback) = listener().await;
        let outcome = run(vec![loopback], "192.0.2.1:1".parse().unwrap()).await;
        assert!(outcome.unreachable[0].1.contains("loopback"));
    }
}
