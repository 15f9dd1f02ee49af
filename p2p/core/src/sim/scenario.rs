//! What is simulated.

use std::{collections::BTreeMap, time::Duration};

use hawker_model::{GeometryError, Role};

use super::{Access, OriginFault, outcome::Outcome, world::World};
use crate::SwarmConfig;

/// A network and what happens in it. [`Scenario::new`] gives one where all goes well.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Feeds everything random.
    pub seed: u64,
    /// Length of the blob in bytes.
    pub length: u64,
    /// Lengths of more blobs that every host wants at the same time: an image's other layers.
    pub beside: Vec<u64>,
    pub hosts: Vec<HostPlan>,
    /// One way, between any two hosts.
    pub latency: Duration,
    /// Bytes per second from any one zone to any other, all together.
    pub between_zones: Option<f64>,
    /// Share of messages that are lost and sent again 200 ms later.
    pub loss: f64,
    /// How many connections break each second, of all together; they can be dialed again.
    pub cuts: f64,
    /// Bytes per second that the origin gives to all together, and the time to its first byte.
    pub origin_rate: f64,
    pub origin_latency: Duration,
    pub origin_fault: Option<OriginFault>,
    /// What the origin thinks of credentials.
    pub access: BTreeMap<&'static str, Access>,
    /// Whether lookups are answered.
    pub scheduler: bool,
    /// Neighbours that the scheduler names to a host, and children that it sends to a seed.
    pub degree: usize,
    pub seed_room: usize,
    /// Connections share an uplink in turns of so many bytes.
    pub chunk: u32,
    /// What a link's queue holds, as the time that it takes to send it.
    pub queue: Duration,
    /// Bytes that a socket takes before they are sent: a piece counts as sent when it has them.
    pub unsent: u32,
    /// The part of a link's bytes that carries a stream; the rest are headers.
    pub payload_share: f64,
    /// What it takes to open a connection beside three ways; and to check and write a piece.
    pub handshake: Duration,
    pub store_time: Duration,
    /// The end of the simulated time.
    pub limit: Duration,
    /// Changes settings of all swarms.
    pub tune: fn(&mut SwarmConfig),
}

/// One host.
#[derive(Clone, Debug)]
pub struct HostPlan {
    pub role: Role,
    /// Bytes per second.
    pub up_rate: f64,
    pub down_rate: f64,
    /// Hosts of one zone are near to each other.
    pub zone: u8,
    /// When it wants the blob.
    pub arrives: Duration,
    pub dies: Option<Duration>,
    /// When its client gives up, and when it asks again.
    pub breaks: Vec<(Duration, Duration)>,
    /// From when until when it neither hears nor says anything, while its connections stand: it is
    /// stopped, or has lost its power.
    pub hangs: Option<(Duration, Duration)>,
    pub lie: Option<Lie>,
    /// A bit of this piece is flipped on its disk, of which it knows nothing.
    pub rotten: Option<u32>,
    /// It has the blob from the start.
    pub stored: bool,
    /// What is read from the first byte to the last while it comes, as a mirror's client does.
    pub reads: Reads,
    /// It knows the origin.
    pub source: bool,
    /// With which credential, and what its owner has in place of one that was refused.
    pub credential: &'static str,
    pub fresh: Option<&'static str>,
}

/// What a host's clients read; the other blobs come as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    Nothing,
    /// The first blob of several.
    First,
    All,
}

/// How a host deceives others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Sends pieces with wrong bytes.
    Corrupt,
    /// Says that it has everything.
    FalseHave,
    /// Takes requests and never answers them.
    Silent,
    /// Takes connections and hears nothing.
    Deaf,
    /// Has a blob of wrong bytes and a list that fits them.
    FalseList,
    /// Says that it has everything, and that it is busy.
    Busy,
    /// Passes lists on in the wrong order.
    Disorder,
    /// Tells every other host a false list, and gives it bytes that fit.
    Equivocate,
    /// Says more than anybody can use.
    Flood(Gush),
    /// Now this, now that.
    Random,
}

/// What a flood is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gush {
    /// It joins where it has joined;
    Joins,
    /// leaves and joins again and again;
    Rejoins,
    /// tells the same geometry,
    Heads,
    /// the same set of pieces,
    Haves,
    /// the same news,
    Gained,
    /// the same list,
    Lists,
    /// or sets of pieces that grow and shrink;
    Tides,
    /// asks for the same piece,
    Requests,
    /// for one that may be missing,
    Missing,
    /// or for any;
    Credits,
    /// takes back what it did not ask for;
    Cancels,
    /// sends a piece that nobody asked for;
    Pieces,
    /// refuses a piece that nobody asked of it,
    Refusals,
    /// or the task;
    Dismissals,
    /// takes leave without having come;
    Leaves,
    /// asks for other credentials;
    Renewals,
    /// speaks of a task that nobody knows,
    Strange,
    /// or of ever other ones.
    Strangers,
}

impl Gush {
    /// Every kind.
    pub const ALL: [Self; 18] = [
        Self::Joins,
        Self::Rejoins,
        Self::Heads,
        Self::Haves,
        Self::Gained,
        Self::Lists,
        Self::Tides,
        Self::Requests,
        Self::Missing,
        Self::Credits,
        Self::Cancels,
        Self::Pieces,
        Self::Refusals,
        Self::Dismissals,
        Self::Leaves,
        Self::Renewals,
        Self::Strange,
        Self::Strangers,
    ];
}

impl HostPlan {
    /// A node that wants the blob from the start.
    pub fn node(mbit: f64) -> Self {
        let rate = mbit * 1e6 / 8.0;
        Self {
            role: Role::Node,
            up_rate: rate,
            down_rate: rate,
            zone: 0,
            arrives: Duration::ZERO,
            dies: None,
            breaks: Vec::new(),
            hangs: None,
            lie: None,
            rotten: None,
            stored: false,
            reads: Reads::All,
            source: true,
            credential: "",
            fresh: None,
        }
    }

    /// A seed that waits for children.
    pub fn seed(mbit: f64) -> Self {
        Self {
            role: Role::Seed,
            source: false,
            reads: Reads::Nothing,
            ..Self::node(mbit)
        }
    }
}

impl Scenario {
    /// `seeds` seeds and then `nodes` nodes on links of `mbit` Mbit/s both ways, 1 ms apart, and an
    /// origin ten times as fast.
    pub fn new(seed: u64, seeds: usize, nodes: usize, mbit: f64, length: u64) -> Self {
        let seeds = std::iter::repeat_n(HostPlan::seed(mbit), seeds);
        let nodes = std::iter::repeat_n(HostPlan::node(mbit), nodes);
        Self {
            seed,
            length,
            beside: Vec::new(),
            hosts: seeds.chain(nodes).collect(),
            latency: Duration::from_millis(1),
            between_zones: None,
            loss: 0.0,
            cuts: 0.0,
            origin_rate: mbit * 1e6 / 8.0 * 10.0,
            origin_latency: Duration::from_millis(10),
            origin_fault: None,
            access: BTreeMap::new(),
            scheduler: true,
            degree: 10,
            seed_room: 32,
            chunk: 16 << 10,
            queue: Duration::from_millis(5),
            unsent: 64 << 10,
            payload_share: 1.0,
            handshake: Duration::from_millis(2),
            store_time: Duration::from_micros(300),
            limit: Duration::from_secs(600),
            tune: |_| {},
        }
    }

    /// The testbed: links shaped by tbf, frames of Ethernet, sockets of Linux, a registry and a seed
    /// on links like the others'.
    pub fn testbed(seed: u64, seeds: usize, nodes: usize, mbit: f64, length: u64) -> Self {
        let burst = f64::from(128 << 10) / (mbit * 1e6 / 8.0);
        Self {
            latency: Duration::from_micros(200),
            origin_rate: mbit * 1e6 / 8.0,
            queue: Duration::from_secs_f64(0.05 + burst),
            unsent: 256 << 10,
            // Of 1514 bytes of a frame: Ethernet 14, IPv6 40, TCP with timestamps 32.
            payload_share: 1428.0 / 1514.0,
            handshake: Duration::from_millis(20),
            store_time: Duration::from_millis(2),
            ..Self::new(seed, seeds, nodes, mbit, length)
        }
    }

    /// Changes the plan of one node, counted from 0 behind the seeds.
    pub fn node(mut self, number: usize, change: impl FnOnce(&mut HostPlan)) -> Self {
        let mut nodes = self.hosts.iter_mut().filter(|host| host.role == Role::Node);
        if let Some(host) = nodes.nth(number) {
            change(host);
        }
        self
    }

    /// Changes the plan of one seed, counted from 0.
    pub fn seed(mut self, number: usize, change: impl FnOnce(&mut HostPlan)) -> Self {
        let mut seeds = self.hosts.iter_mut().filter(|host| host.role == Role::Seed);
        if let Some(host) = seeds.nth(number) {
            change(host);
        }
        self
    }

    /// Bytes of all blobs.
    pub fn total_length(&self) -> u64 {
        self.length + self.beside.iter().sum::<u64>()
    }

    /// Plays until all is quiet or the limit is reached.
    pub fn run(self) -> Result<Outcome, GeometryError> {
        Ok(World::new(self)?.run())
    }

    /// The least time in which anyone could bring the blobs to all nodes through one seed, and to each
    /// other zone once.
    pub fn bound(&self) -> Duration {
        let length = self.total_length() as f64;
        let seed_up = self
            .hosts
            .iter()
            .filter(|h| h.role == Role::Seed)
            .map(|h| h.up_rate);
        let first = seed_up
            .reduce(f64::max)
            .unwrap_or(self.origin_rate)
            .min(self.origin_rate);
        let nodes = || self.hosts.iter().filter(|host| host.role == Role::Node);
        let slowest = nodes()
            .map(|host| host.down_rate)
            .fold(f64::INFINITY, f64::min);
        let all_up: f64 = first + nodes().map(|host| host.up_rate).sum::<f64>();
        let needed = nodes().count() as f64 * length;
        let seconds = (length / first).max(length / slowest).max(needed / all_up);
        let apart = self
            .hosts
            .iter()
            .any(|host| host.zone != self.hosts[0].zone);
        let between = self.between_zones.filter(|_| apart);
        let seconds = seconds.max(between.map_or(0.0, |rate| length / rate));
        Duration::from_secs_f64(seconds)
    }
}
