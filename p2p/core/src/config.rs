//! What a node's swarm may be told: limits and deadlines.

use std::time::Duration;

use hawker_model::{HostId, Role};

use crate::Limits;

/// Settings of a [`crate::Swarm`]; [`SwarmConfig::new`] gives the defaults.
#[derive(Clone, Debug)]
pub struct SwarmConfig {
    /// Who we are.
    pub host: HostId,
    /// A seed goes to the origin for others; a node only for itself.
    pub role: Role,
    /// Hosts of one zone are near to each other, and links between zones may be thin. Empty: unknown.
    pub zone: String,
    /// How many peers of one task a node connects to by itself.
    pub max_neighbours: usize,
    /// How many peers of one task are accepted, our own choice included.
    pub max_children: usize,
    /// Pieces being sent at once, over all tasks: few, so that each is soon whole at its receiver,
    /// which can pass it on then. Those that take long, to slow receivers, do not count, up to
    /// four times as many in all.
    pub upload_slots: usize,
    /// Of those, to one host that takes what it gets in time; half of them to one that is new, and
    /// one to a slow one.
    pub upload_slots_per_host: usize,
    /// Bytes per second.
    pub limits: Limits,
    /// Requests of one host that may wait for a slot; more are refused as busy.
    pub upload_queue: usize,
    /// Requests in flight to one neighbour, at most.
    pub max_requests_per_neighbour: usize,
    /// Bytes in flight per task, at most (but always two pieces per neighbour).
    pub max_bytes_in_flight: u64,
    /// How long the queue at a neighbour should last: what hides the latency of requests.
    pub queue_time: Duration,
    /// Pieces that a neighbour is told of together, if they come fast enough;
    pub gained_together: u32,
    /// none waits longer than this to be told.
    pub gained_interval: Duration,
    /// Without a sign of life of any peer for so long after the scheduler's answer, or half as long
    /// again, a node goes to the origin; 1.75 to 2 times as long after the start where the scheduler
    /// does not answer; after a quarter of it where a seed has just been waited for in vain.
    pub sign_of_life: Duration,
    /// Without any piece for so long after the start, a node goes to the origin although peers live.
    pub first_piece_deadline: Duration,
    /// Without a new piece for so long, a node goes to the origin; longer likewise.
    pub progress_deadline: Duration,
    /// A seed that is asked for a task looks at most so long whether others have it already: no
    /// longer than until the scheduler sends it to the origin.
    pub seed_grace: Duration,
    /// A request without an answer for so long is made elsewhere as well; longer for large pieces, and
    /// where all neighbours are slow.
    pub request_timeout: Duration,
    /// A neighbour that owes pieces and gives none for so long is dropped; longer likewise.
    pub stall_timeout: Duration,
    /// With neither peers nor origin a task fails after this.
    pub give_up: Duration,
    /// How long a host that sent corrupt pieces is shut out.
    pub quarantine: Duration,
    /// A connection without a common task is given up after this.
    pub idle_connection: Duration,
}

impl SwarmConfig {
    /// The defaults for a host.
    pub fn new(host: HostId, role: Role) -> Self {
        let seed = role == Role::Seed;
        Self {
            host,
            role,
            zone: String::new(),
            max_neighbours: 10,
            max_children: if seed { 64 } else { 24 },
            upload_slots: 4,
            upload_slots_per_host: 4,
            limits: Limits::default(),
            upload_queue: 64,
            max_requests_per_neighbour: 32,
            max_bytes_in_flight: 64 << 20,
            queue_time: Duration::from_millis(25),
            gained_together: if seed { 40 } else { 6 },
            gained_interval: Duration::from_millis(if seed { 200 } else { 60 }),
            sign_of_life: Duration::from_millis(250),
            first_piece_deadline: Duration::from_secs(2),
            progress_deadline: Duration::from_secs(3),
            seed_grace: Duration::from_millis(10),
            request_timeout: Duration::from_secs(2),
            stall_timeout: Duration::from_secs(5),
            give_up: Duration::from_secs(15),
            quarantine: Duration::from_secs(600),
            idle_connection: Duration::from_secs(60),
        }
    }
}
