//! A BitTorrent tracker that tells everybody of everybody, whoever asks for whatever: it is told who
//! there is before they come.

use std::net::SocketAddrV4;

use anyhow::Result;
use http::{Method, Request, Response, StatusCode};

use crate::server::{self, Port, full, nothing, serve};

pub(super) const ANNOUNCE: &str = "/announce";
/// After so many seconds clients ask again; by then they have long finished.
const INTERVAL: u32 = 600;

/// How the program is told what it is.
#[derive(Debug, Clone, clap::Args)]
pub struct Tracker {
    #[arg(long)]
    port: u16,
    /// `10.77.0.1:6881`
    #[arg(required = true)]
    peers: Vec<SocketAddrV4>,
}

impl Tracker {
    /// Serves until it is killed.
    ///
    /// # Errors
    /// When the port cannot be bound.
    pub fn run(&self) -> Result<()> {
        let answer = answer(&self.peers);
        server::run(async {
            let port = Port::anywhere(self.port, server::always());
            let answer = move |request: Request<_>| {
                let asks = (request.method(), request.uri().path()) == (&Method::GET, ANNOUNCE);
                std::future::ready(match asks {
                    true => Response::new(full(answer.clone())),
                    false => nothing(StatusCode::NOT_FOUND),
                })
            };
            Ok(serve(port, answer).await?.await?)
        })
    }
}

/// The list in its compact form: four bytes of address and two of port each.
fn answer(peers: &[SocketAddrV4]) -> Vec<u8> {
    let list = peers.iter().flat_map(|peer| {
        let (ip, port) = (peer.ip().octets(), peer.port().to_be_bytes());
        ip.into_iter().chain(port)
    });
    let list: Vec<u8> = list.collect();
    let mut answer = format!("d8:intervali{INTERVAL}e5:peers{}:", list.len()).into_bytes();
    answer.extend(list);
    answer.push(b'e');
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_told_of_everybody() -> Result<()> {
        let peers = ["10.77.0.1:6881".parse()?, "10.77.1.2:80".parse()?];
        let expected = b"d8:intervali600e5:peers12:\x0a\x4d\0\x01\x1a\xe1\x0a\x4d\x01\x02\0\x50e";
        assert_eq!(answer(&peers), expected);
        Ok(())
    }
}
