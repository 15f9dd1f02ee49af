//! `bench serve`: what sending a byte costs a `hawkerd`, beside nginx on the same host.
//!
//! Clients of the testbed ask both for the pieces of one blob in the page cache, in turns, and throw
//! them away. Only the servers' processor time counts.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hawker_identity::{Identity, TlsFiles};
use hawker_model::{Digest, Geometry, HostId};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::{
        CryptoProvider,
        aws_lc_rs::{self, cipher_suite::TLS13_AES_128_GCM_SHA256},
    },
    pki_types::{CertificateDer, pem::PemObject},
};
use serde::Serialize;

use super::{channel::Channel, nginx, swarm::noise, wire::Peer};
use crate::{
    bed::{Host, Process},
    cluster::{Cluster, Topology, Transport},
    http,
    image::digest_of,
    pki::PrivateCa,
    progress::step,
    table::Table,
};

const REPOSITORY: &str = "bench";
const PORT: u16 = 4005;
/// Requests under way on a connection; a node keeps about as many.
const DEPTH: u32 = 8;
const LIMIT: Duration = Duration::from_secs(300);
/// Bytes per second of the server's processor, of nginx's.
const PLAIN_BAR: f64 = 0.95;
const TLS_BAR: f64 = 0.9;

/// Bytes uploaded per second of processor time, of a hawkerd ÷ nginx.
#[derive(Debug, Clone, clap::Args)]
pub struct Serve {
    /// The blob.
    #[arg(long, default_value = "512MiB", value_parser = super::parse_len)]
    size: u64,
    /// Sent by each server in each round, over all connections.
    #[arg(long, default_value = "4GiB", value_parser = super::parse_len)]
    amount: u64,
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=20))]
    connections: u16,
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// Only one of the two transports.
    #[arg(long, value_enum)]
    only: Option<Kind>,
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    Plain,
    Tls,
}

/// What a server has sent, and what that took.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Sent {
    bytes: u64,
    cpu_seconds: f64,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct Row {
    transport: &'static str,
    cipher: Option<String>,
    piece_len: u32,
    hawkerd: Sent,
    nginx: Sent,
    /// Of bytes per second of processor time.
    ratio: f64,
    bar: f64,
}

impl Serve {
    /// # Errors
    /// When something does not come up, or a ratio is below its bar.
    pub fn run(&self) -> Result<()> {
        let kinds = [Kind::Plain, Kind::Tls].into_iter();
        let kinds = kinds.filter(|kind| self.only.is_none_or(|only| only == *kind));
        let rows = kinds.map(|kind| self.compare(kind));
        let rows = rows.collect::<Result<Vec<_>>>()?;
        match self.json {
            true => println!("{}", serde_json::to_string_pretty(&rows)?),
            false => println!("{}", render(&rows)),
        }
        for row in &rows {
            let Row {
                transport,
                ratio,
                bar,
                ..
            } = row;
            ensure!(
                ratio >= bar,
                "{transport}: {ratio:.2} of nginx, where {bar} is the bar"
            );
        }
        Ok(())
    }

    fn compare(&self, kind: Kind) -> Result<Row> {
        let topology = Topology {
            seeds: 0,
            nodes: 1,
            transport: match kind {
                Kind::Plain => Transport::Plain,
                Kind::Tls => Transport::Tls,
            },
            has_containerd: false,
            log_level: "warn".to_owned(),
            ..Topology::default()
        };
        let name = kind.name();
        let cluster = step(
            &format!("start a registry, a scheduler and a node, {name}"),
            || Cluster::start(&topology),
        )?;
        let measured = self.measure(&cluster, kind);
        if measured.is_err() {
            eprintln!("{}", cluster.bed().log_tails(10));
        }
        measured
    }

    fn measure(&self, cluster: &Cluster, kind: Kind) -> Result<Row> {
        let blob = noise(self.size)?;
        let digest = step("give the node the blob", || fill(cluster, &blob))?;
        let ca = PrivateCa::create("bench")?;
        let node = &cluster.nodes()[0];
        let nginx = nginx::start(node.host(), &ca, &blob)?;
        let geometry = Geometry::for_length(self.size)?;
        let (ours, theirs) = (self.ours(cluster, kind, digest)?, self.theirs(kind, &ca)?);
        let (mut hawkerd_sent, mut nginx_sent) = (Sent::default(), Sent::default());
        let mut ciphers = Vec::new();
        for round in 1..=self.rounds {
            let text = format!("round {round} of {}, {}", self.rounds, kind.name());
            step(&text, || {
                let sent = self.load(node.host(), &*node.hawkerd()?, &ours, &mut ciphers)?;
                hawkerd_sent.add(sent);
                let sent = self.load(node.host(), &nginx, &theirs, &mut ciphers)?;
                nginx_sent.add(sent);
                Ok(())
            })?;
        }
        ciphers.dedup();
        ensure!(ciphers.len() == 1, "the servers chose {ciphers:?}");
        Ok(Row {
            transport: kind.name(),
            cipher: ciphers.pop().flatten(),
            piece_len: geometry.piece_len(),
            hawkerd: hawkerd_sent,
            nginx: nginx_sent,
            ratio: nginx_sent.cost() / hawkerd_sent.cost(),
            bar: kind.bar(),
        })
    }

    /// Each connection's way to get its share from the node.
    fn ours(&self, cluster: &Cluster, kind: Kind, digest: Digest) -> Result<Vec<Way>> {
        let wanted = HostId::parse(cluster.nodes()[0].name())?;
        let way = |number: u16| -> Result<Way> {
            let name = HostId::parse(&format!("peer{number}"))?;
            let tls = match kind {
                Kind::Plain => None,
                Kind::Tls => {
                    let dir = cluster.authority().issue("node", name.as_str(), &[])?;
                    let identity = Identity::load(&TlsFiles::in_dir(&dir))?;
                    Some(identity.client_config(&[b"hawker/1"]))
                }
            };
            let (wanted, share) = (wanted.clone(), self.share());
            Ok(Box::new(move || {
                let channel = Channel::connect(local(PORT), tls.clone())?;
                let mut peer = Peer::join(channel, &name, &wanted, digest)?;
                Ok((peer.drain(share, DEPTH)?, peer.cipher()))
            }))
        };
        (1..=self.connections).map(way).collect()
    }

    /// The same from nginx.
    fn theirs(&self, kind: Kind, ca: &PrivateCa) -> Result<Vec<Way>> {
        let (address, tls) = match kind {
            Kind::Plain => (local(nginx::PLAIN_PORT), None),
            Kind::Tls => (local(nginx::TLS_PORT), Some(client_of(ca)?)),
        };
        let geometry = Geometry::for_length(self.size)?;
        let (size, share) = (self.size, self.share());
        let way = |_| -> Way {
            let tls = tls.clone();
            Box::new(move || {
                let mut channel = Channel::connect(address, tls.clone())?;
                let step = u64::from(geometry.piece_len());
                let got = nginx::drain(&mut channel, size, step, share)?;
                Ok((got, channel.cipher()))
            })
        };
        Ok((1..=self.connections).map(way).collect())
    }

    fn share(&self) -> u64 {
        self.amount / u64::from(self.connections)
    }

    /// Goes all ways at once, and looks at the server's time before and after.
    fn load(
        &self,
        host: &Host,
        server: &Process,
        ways: &[Way],
        ciphers: &mut Vec<Option<String>>,
    ) -> Result<Sent> {
        let met = Mutex::new(Vec::new());
        let (before, began) = (server.usage()?, Instant::now());
        let go = |way: &Way| -> Result<u64> {
            let (got, cipher) = way()?;
            met.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(cipher);
            Ok(got)
        };
        let go = &go;
        let all = || {
            thread::scope(|scope| {
                let going: Vec<_> = ways
                    .iter()
                    .map(|way| scope.spawn(move || go(way)))
                    .collect();
                let gone = going.into_iter().map(|it| {
                    it.join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                });
                gone.sum::<Result<u64>>()
            })
        };
        let bytes = host.enter(all)??;
        let seconds = began.elapsed().as_secs_f64();
        let cpu_seconds = server.usage()?.cpu_seconds - before.cpu_seconds;
        ciphers.extend(met.into_inner().unwrap_or_else(PoisonError::into_inner));
        Ok(Sent {
            bytes,
            cpu_seconds,
            seconds,
        })
    }
}

/// Gets a share from a server; says how much came under which cipher.
type Way = Box<dyn Fn() -> Result<(u64, Option<String>)> + Send + Sync>;

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Tls => "tls",
        }
    }

    fn bar(self) -> f64 {
        match self {
            Self::Plain => PLAIN_BAR,
            Self::Tls => TLS_BAR,
        }
    }
}

impl Sent {
    fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.cpu_seconds += other.cpu_seconds;
        self.seconds += other.seconds;
    }

    /// Seconds of processor time for a GB.
    fn cost(&self) -> f64 {
        self.cpu_seconds / (self.bytes as f64 / 1e9)
    }
}

fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// Pushes the blob to the registry and lets the first node have it.
pub(super) fn fill(cluster: &Cluster, blob: &Bytes) -> Result<Digest> {
    let digest = digest_of(blob);
    let path = cluster
        .registry
        .push_bytes(REPOSITORY, &digest, blob.clone())?;
    let authority = crate::registry::AUTHORITY;
    let url = format!("http://127.0.0.1:65001{path}?ns={authority}");
    let read = || http::stream(&url, LIMIT, |_| {});
    let answer = cluster.nodes()[0].host().enter(read)??;
    ensure!(
        answer.status.is_success(),
        "the mirror answered {}",
        answer.status
    );
    digest.parse().context("no digest")
}

/// A client that believes this authority, with the cipher that hosts of Hawker agree on.
pub(super) fn client_of(ca: &PrivateCa) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.cert_pem().as_bytes())?)?;
    let provider = CryptoProvider {
        cipher_suites: vec![TLS13_AES_128_GCM_SHA256],
        ..aws_lc_rs::default_provider()
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(provider));
    let config = builder
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn render(rows: &[Row]) -> String {
    let heads = ["", "cpu s/GB", "GB/s", "GB", "of nginx", "bar"];
    let mut table = Table::new(&heads);
    let mut ciphers = String::new();
    for row in rows {
        for (name, sent) in [("hawkerd", &row.hawkerd), ("nginx", &row.nginx)] {
            let gigabytes = sent.bytes as f64 / 1e9;
            let is_ours = name == "hawkerd";
            let only_ours = |text: String| if is_ours { text } else { String::new() };
            table.row([
                format!("{name}, {}", row.transport),
                format!("{:.3}", sent.cost()),
                format!("{:.2}", gigabytes / sent.seconds),
                format!("{gigabytes:.1}"),
                only_ours(format!("{:.2}", row.ratio)),
                only_ours(format!("{:.2}", row.bar)),
            ]);
        }
        let (transport, len) = (row.transport, row.piece_len >> 10);
        let cipher = row.cipher.as_deref().unwrap_or("no cipher");
        ciphers += &format!("{transport}: pieces of {len} KiB, {cipher}\n");
    }
    format!("\n{}\n{ciphers}", table.render())
}
