//! The same blob through a BitTorrent client of Debian, on the same hosts and links.
//!
//! aria2, with what it sets by itself, but that it meets only the peers of the tracker, writes without
//! making room first (the files are in memory), and encrypts where Hawker does. The seeder has the
//! blob on the registry's host, and a tracker beside it tells all of all.

use std::{
    fs,
    net::SocketAddrV4,
    process::Command,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, ensure};
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::tracker::ANNOUNCE;
use crate::{
    bed::{Host, Process},
    cluster::Transport,
};

const CLIENT: &str = "aria2c";
const PORT: u16 = 6881;
const TRACKER_PORT: u16 = 6969;
const DIR: &str = "/run/torrent";
const METAINFO: &str = "/run/torrent/blob.torrent";
const BLOB: &str = "/run/torrent/blob";
/// When a download is whole, the client runs `touch` with its number, how many files it has, which
/// is one, and their path: this is when that file was made.
const WHOLE: &str = "/run/torrent/1";
/// What is usual for a blob of this size.
const PIECE: usize = 256 << 10;
/// Until the tracker and the seeder listen.
const START_LIMIT: Duration = Duration::from_secs(10);

/// # Errors
/// When there is no client.
pub(super) fn find_client() -> Result<()> {
    let version = Command::new(CLIENT).arg("--version").output();
    let found = version.is_ok_and(|output| output.status.success());
    ensure!(
        found,
        "{CLIENT} is missing: install Debian's aria2, or leave it out with --no-torrent"
    );
    Ok(())
}

/// A swarm that is ready to begin.
pub(super) struct Torrent {
    transport: Transport,
    processes: Vec<Arc<Process>>,
    metainfo: Vec<u8>,
}

impl Torrent {
    /// Lets the seeder and a tracker stand on a host, for these.
    ///
    /// # Errors
    /// When one of them does not come up.
    pub(super) fn start(
        origin: &Host,
        hosts: &[&Arc<Host>],
        blob: &[u8],
        transport: Transport,
    ) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["tracker", "--port", &TRACKER_PORT.to_string()]);
        let all = hosts.iter().map(|host| host.address());
        let all = all.chain([origin.address()]);
        command.args(all.map(|it| SocketAddrV4::new(it, PORT).to_string()));
        let tracker = origin.spawn("tracker", &mut command)?;
        tracker.wait_until(START_LIMIT, || listens(origin, TRACKER_PORT))?;
        let announce = format!("http://{}:{TRACKER_PORT}{ANNOUNCE}", origin.address());
        let mut this = Self {
            transport,
            processes: vec![tracker],
            metainfo: metainfo(&announce, blob),
        };
        origin.write(BLOB, blob)?;
        let seeder = this.spawn(origin, &["--bt-seed-unverified=true"])?;
        seeder.wait_until(START_LIMIT, || listens(origin, PORT))?;
        this.processes.push(seeder);
        Ok(this)
    }

    /// Lets all hosts get the blob, each seeding from then on; returns the seconds each took from the
    /// start of its client.
    ///
    /// # Errors
    /// When a client ends or is not done at the limit.
    pub(super) fn run(&mut self, hosts: &[&Arc<Host>], limit: Duration) -> Result<Vec<f64>> {
        let deadline = Instant::now() + limit;
        let mut clients = Vec::new();
        for host in hosts {
            let began = SystemTime::now();
            let client = self.spawn(host, &["--on-bt-download-complete=/usr/bin/touch"])?;
            self.processes.push(Arc::clone(&client));
            clients.push((*host, client, began));
        }
        let times = clients.iter().map(|(host, client, began)| {
            let left = deadline.saturating_duration_since(Instant::now());
            client.wait_until(left, || host.path(WHOLE).exists())?;
            let whole = fs::metadata(host.path(WHOLE))?.modified()?;
            Ok(whole.duration_since(*began)?.as_secs_f64())
        });
        times.collect()
    }

    /// # Errors
    /// When a host has not got this blob.
    pub(super) fn check(&self, hosts: &[&Arc<Host>], blob: &[u8]) -> Result<()> {
        for host in hosts {
            let is_right = fs::read(host.path(BLOB))? == blob;
            ensure!(is_right, "{CLIENT} has wrong bytes on {}", host.name());
        }
        Ok(())
    }

    fn spawn(&self, host: &Host, more: &[&str]) -> Result<Arc<Process>> {
        host.write(METAINFO, &self.metainfo)?;
        let mut command = Command::new(CLIENT);
        command.current_dir(DIR).args([
            "--no-conf",
            "--quiet",
            "--dir=.",
            "--seed-ratio=0.0",
            "--allow-overwrite",
            "--file-allocation=none",
            "--disable-ipv6",
            "--enable-dht=false",
        ]);
        command.arg(format!("--listen-port={PORT}"));
        if self.transport == Transport::Tls {
            command.args(["--bt-require-crypto", "--bt-min-crypto-level=arc4"]);
        }
        host.spawn("torrent", command.args(more).arg("blob.torrent"))
    }
}

impl Drop for Torrent {
    fn drop(&mut self) {
        for process in &self.processes {
            process.kill();
        }
    }
}

fn listens(host: &Host, port: u16) -> bool {
    let address = SocketAddrV4::new(host.address(), port);
    let connect = || std::net::TcpStream::connect(address).is_ok();
    host.enter(connect).unwrap_or_default()
}

/// The torrent's file: the blob's pieces by their SHA-1.
fn metainfo(announce: &str, blob: &[u8]) -> Vec<u8> {
    let hashes = blob
        .chunks(PIECE)
        .map(|piece| digest(&SHA1_FOR_LEGACY_USE_ONLY, piece));
    let hashes: Vec<u8> = hashes.flat_map(|it| it.as_ref().to_vec()).collect();
    let head = format!(
        "d8:announce{}:{announce}4:infod6:lengthi{}e4:name4:blob12:piece lengthi{PIECE}e6:pieces{}:",
        announce.len(),
        blob.len(),
        hashes.len(),
    );
    [head.as_bytes(), &hashes, b"ee"].concat()
}

/// Bytes that have left a host's link, with all headers.
///
/// # Errors
/// When the host has ended.
pub(super) fn sent_bytes(host: &Host) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{}/net/dev", host.pid()))?;
    let line = text.lines().find_map(|it| it.trim().strip_prefix("eth0:"));
    // Eight figures of what came, then those of what went.
    let sent = line.and_then(|it| it.split_whitespace().nth(8)?.parse().ok());
    sent.with_context(|| format!("{} has no link", host.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torrent_names_its_tracker_and_its_pieces() {
        let text = metainfo("http://t/announce", &vec![0; PIECE + 1]);
        let head = b"d8:announce17:http://t/announce4:infod6:lengthi262145e4:name4:blob\
                     12:piece lengthi262144e6:pieces40:";
        assert!(text.starts_with(head) && text.ends_with(b"ee"));
        assert_eq!(text.len(), head.len() + 40 + 2);
    }
}
