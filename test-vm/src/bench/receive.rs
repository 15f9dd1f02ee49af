//! `bench receive`: what receiving, checking and storing a byte costs a `hawkerd`, beside the parts
//! measured alone.
//!
//! The node gets the blob from a seed and from another node. Its client asks for the blob and takes
//! none of it, so that nothing but the pieces' way into the store is measured. The parts are done by
//! threads of the testbed: SHA-256 of the bytes in memory, the same bytes off a socket under the
//! same cipher, the same bytes into a file of the same file system, which is preallocated as the
//! store's are. They are measured before and after the node, and their mean counts.
//!
//! Memory that a virtual machine has not touched for long costs its first user ten times what other
//! memory does, so whoever writes a file here is given memory that was used just before.

use std::{
    fs::File,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::FileExt,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use hawker_model::{Digest, Geometry};
use nix::{
    fcntl::posix_fallocate,
    sys::resource::{UsageWho, getrusage},
};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{
    channel::Channel,
    serve::{client_of, fill},
    swarm::noise,
};
use crate::{
    bed::Host,
    cluster::{Cluster, Member, Topology, Transport},
    pki::PrivateCa,
    progress::step,
    table::Table,
};

const LIMIT: Duration = Duration::from_secs(300);
/// Looking costs the node time as well.
const LOOK: Duration = Duration::from_millis(250);
/// Of the node's processor time, of the sum of the parts'.
const BAR: f64 = 1.25;

/// Processor time of receiving, checking and storing ÷ that of the parts alone.
#[derive(Debug, Clone, clap::Args)]
pub struct Receive {
    /// The blob.
    #[arg(long, default_value = "1GiB", value_parser = super::parse_len)]
    size: u64,
    /// Hosts speak without TLS. The bar is for TLS.
    #[arg(long)]
    plain: bool,
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    transport: &'static str,
    cipher: Option<String>,
    size: u64,
    piece_len: u32,
    /// All in seconds of processor time for a GB.
    node: f64,
    sha256: f64,
    network: f64,
    write: f64,
    ratio: f64,
    /// Of the node's hawkerd.
    peak_bytes: u64,
}

/// Seconds that each part took alone.
struct Parts {
    sha256: f64,
    network: f64,
    write: f64,
    cipher: Option<String>,
}

impl Receive {
    /// # Errors
    /// When something does not come up, or the ratio is above its bar.
    pub fn run(&self) -> Result<()> {
        let topology = Topology {
            seeds: 1,
            nodes: 2,
            transport: match self.plain {
                true => Transport::Plain,
                false => Transport::Tls,
            },
            has_containerd: false,
            log_level: "warn".to_owned(),
            ..Topology::default()
        };
        let cluster = step("start a scheduler, a seed and 2 nodes", || {
            Cluster::start(&topology)
        })?;
        let measured = self.measure(&cluster);
        if measured.is_err() {
            eprintln!("{}", cluster.bed().log_tails(10));
        }
        let report = measured?;
        match self.json {
            true => println!("{}", serde_json::to_string_pretty(&report)?),
            false => println!("{}", report.render()),
        }
        let ratio = report.ratio;
        ensure!(
            self.plain || ratio <= BAR,
            "{ratio:.2} of the parts, where {BAR} is the bar"
        );
        Ok(())
    }

    fn measure(&self, cluster: &Cluster) -> Result<Report> {
        let blob = noise(self.size)?;
        let digest = step("give one node the blob", || fill(cluster, &blob))?;
        let node = &cluster.nodes()[1];
        let piece_len = Geometry::for_length(self.size)?.piece_len();
        let buffer = &blob[..piece_len as usize];
        let gigabytes = self.size as f64 / 1e9;
        let first = step("do the parts alone", || self.parts(node.host(), buffer))?;
        warm(node.host(), self.size)?;
        let before = node.hawkerd()?.usage()?.cpu_seconds;
        step("the other node gets it", || {
            receive(node, &digest, self.size)
        })?;
        let after = node.hawkerd()?.usage()?;
        let cpu = (after.cpu_seconds - before) / gigabytes;
        let second = step("do the parts again", || self.parts(node.host(), buffer))?;
        let mean = |part: fn(&Parts) -> f64| (part(&first) + part(&second)) / 2.0 / gigabytes;
        let sha256 = mean(|it| it.sha256);
        let network = mean(|it| it.network);
        let write = mean(|it| it.write);
        Ok(Report {
            transport: if self.plain { "plain" } else { "tls" },
            cipher: second.cipher,
            size: self.size,
            piece_len,
            node: cpu,
            sha256,
            network,
            write,
            ratio: cpu / (sha256 + network + write),
            peak_bytes: after.peak_memory_len,
        })
    }

    fn parts(&self, host: &Host, buffer: &[u8]) -> Result<Parts> {
        let sha256 = alone(self.size, buffer, hash);
        let (network, cipher) = self.network(host, buffer)?;
        warm(host, self.size)?;
        let write = write(host, self.size, buffer)?;
        Ok(Parts {
            sha256,
            network,
            write,
            cipher,
        })
    }

    /// Seconds to take the bytes off a socket.
    fn network(&self, host: &Host, buffer: &[u8]) -> Result<(f64, Option<String>)> {
        let ca = PrivateCa::create("bench")?;
        let (server, client) = match self.plain {
            true => (None, None),
            false => (Some(server_of(&ca)?), Some(client_of(&ca)?)),
        };
        let work = || -> Result<_> {
            let listener = TcpListener::bind(("127.0.0.1", 0))?;
            let address = listener.local_addr()?;
            thread::scope(|scope| {
                let sender = scope.spawn(|| send(&listener, server, self.size, buffer));
                let mut channel = Channel::connect(address, client)?;
                // What tells the sender to begin also ends the handshake.
                channel.write_all(&[1])?;
                let began = thread_seconds()?;
                let mut taken = vec![0; buffer.len()];
                for _ in 0..self.size / buffer.len() as u64 {
                    channel.read_exact(&mut taken)?;
                }
                let seconds = thread_seconds()? - began;
                let sent = sender.join();
                sent.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                Ok((seconds, channel.cipher()))
            })
        };
        host.enter(work)?
    }
}

/// Lets the node fetch the blob for a client that takes none of it, until all of it is there.
fn receive(node: &Member, digest: &Digest, size: u64) -> Result<()> {
    let authority = crate::registry::AUTHORITY;
    let request = format!(
        "GET /v2/bench/blobs/{digest}?ns={authority} HTTP/1.1\r\nHost: 127.0.0.1:65001\r\n\r\n"
    );
    let connect = || -> Result<TcpStream> {
        let mut client = TcpStream::connect(("127.0.0.1", 65001))?;
        client.write_all(request.as_bytes())?;
        Ok(client)
    };
    let client = node.host().enter(connect)??;
    let deadline = Instant::now() + LIMIT;
    loop {
        thread::sleep(LOOK);
        let bytes = node.bytes()?;
        if bytes.seed + bytes.parent + bytes.origin >= size {
            break;
        }
        if Instant::now() > deadline {
            bail!("only {bytes:?} after {LIMIT:?}");
        }
    }
    let bytes = node.bytes()?;
    ensure!(bytes.origin == 0, "the node went to the origin: {bytes:?}");
    drop(client);
    Ok(())
}

fn hash(buffer: &[u8]) {
    std::hint::black_box(Sha256::digest(buffer));
}

/// Seconds of doing something with so many bytes, a buffer at a time.
fn alone(size: u64, buffer: &[u8], mut work: impl FnMut(&[u8])) -> f64 {
    let began = thread_seconds().unwrap_or_default();
    for _ in 0..size / buffer.len() as u64 {
        work(buffer);
    }
    thread_seconds().unwrap_or_default() - began
}

/// Seconds of making and writing a preallocated file where the host's store is.
fn write(host: &Host, size: u64, buffer: &[u8]) -> Result<f64> {
    let path = host.path("/var/lib/hawker/bench.write");
    let began = thread_seconds()?;
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    posix_fallocate(&file, 0, size.cast_signed())?;
    let (mut at, mut written) = (0, Ok(()));
    while at < size && written.is_ok() {
        written = file.write_all_at(buffer, at);
        at += buffer.len() as u64;
    }
    let seconds = thread_seconds()? - began;
    std::fs::remove_file(&path)?;
    written?;
    Ok(seconds)
}

/// Touches the memory that a file of this size will take.
fn warm(host: &Host, size: u64) -> Result<()> {
    let room = size / 16 + (64 << 20);
    write(host, size + room, &vec![1; 1 << 20]).map(drop)
}

fn send(
    listener: &TcpListener,
    config: Option<Arc<ServerConfig>>,
    size: u64,
    buffer: &[u8],
) -> Result<()> {
    let (mut tcp, _) = listener.accept()?;
    tcp.set_nodelay(true)?;
    let mut begin = [0];
    let count = size / buffer.len() as u64;
    match config {
        None => {
            tcp.read_exact(&mut begin)?;
            (0..count).try_for_each(|_| tcp.write_all(buffer))?;
        }
        Some(config) => {
            let mut tls = StreamOwned::new(ServerConnection::new(config)?, tcp);
            tls.read_exact(&mut begin)?;
            (0..count).try_for_each(|_| tls.write_all(buffer))?;
            tls.flush()?;
        }
    }
    Ok(())
}

/// Processor time of the calling thread.
fn thread_seconds() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
    let times = [usage.user_time(), usage.system_time()];
    let seconds = times.map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6);
    Ok(seconds.iter().sum())
}

fn server_of(ca: &PrivateCa) -> Result<Arc<ServerConfig>> {
    let pair = ca.server(&["127.0.0.1"])?;
    let chain = vec![CertificateDer::from_pem_slice(pair.cert_pem.as_bytes())?];
    let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes())?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(Arc::new(config))
}

impl Report {
    fn render(&self) -> String {
        let mut table = Table::new(&["", "cpu s/GB"]);
        let network = match self.transport {
            "tls" => "TLS off a socket",
            _ => "off a socket",
        };
        for (name, cost) in [
            ("hawkerd: receive, check, store", self.node),
            ("sha256", self.sha256),
            (network, self.network),
            ("write", self.write),
        ] {
            table.row([name.to_owned(), format!("{cost:.3}")]);
        }
        let sum = self.sha256 + self.network + self.write;
        table.row(["sum of the parts".to_owned(), format!("{sum:.3}")]);
        let (len, peak) = (
            self.piece_len >> 10,
            self.peak_bytes as f64 / f64::from(1 << 20),
        );
        let cipher = self.cipher.as_deref().unwrap_or("no cipher");
        format!(
            "\n{}\n{:.2} of the parts; pieces of {len} KiB, {cipher}; peak {peak:.1} MiB\n",
            table.render(),
            self.ratio,
        )
    }
}
