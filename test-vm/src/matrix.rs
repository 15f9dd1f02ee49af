//! What each client can do on each containerd with each profile of Hawker, tried and written down.
//!
//! Who calls it: the end-to-end cases (`cases/clients.rs`), for each containerd, and
//! `hawker-test-vm matrix`, which prints the table of `docs/clients.md`.

mod report;
mod steps;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

pub use report::{Matrix, document};
pub use steps::Stall;

use crate::{
    bed::{Link, Rate},
    cluster::{Client, Cluster, ContainerdVersion, Profile, Topology},
    image,
};

/// So slow that a pull of noise takes some seconds, in which something can happen.
const RATE: u64 = 60;

/// One thing that people do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Step {
    Pull,
    Run,
    Commit,
    Remove,
    PullAgain,
    Prune,
    TwoAtOnce,
    Cancel,
    Kill,
    Terminate,
    Collect,
    Namespaces,
}

impl Step {
    /// In the order in which they are done.
    pub const ALL: [Self; 12] = [
        Self::Pull,
        Self::Run,
        Self::Commit,
        Self::Remove,
        Self::PullAgain,
        Self::Prune,
        Self::TwoAtOnce,
        Self::Cancel,
        Self::Kill,
        Self::Terminate,
        Self::Collect,
        Self::Namespaces,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Run => "run",
            Self::Commit => "commit",
            Self::Remove => "rmi",
            Self::PullAgain => "pull again",
            Self::Prune => "prune",
            Self::TwoAtOnce => "two clients at once",
            Self::Cancel => "client killed in the middle, pulled again",
            Self::Kill => "hawkerd killed in the middle",
            Self::Terminate => "hawkerd restarted in the middle",
            Self::Collect => "garbage collection in the middle",
            Self::Namespaces => "two namespaces",
        }
    }

    /// Whether the client has such a command at all.
    #[must_use]
    pub fn is_offered_by(self, client: Client) -> bool {
        self != Self::Commit || matches!(client, Client::Nerdctl | Client::Docker)
    }

    /// Whether containerd itself fetches a layer in it: nothing where it depends.
    fn fetches(self, of: &Outcome) -> Option<bool> {
        let fetches = match of.profile {
            Profile::Snapshotter => of.client.is_mute_on(of.version),
            Profile::Mirror => true,
            Profile::Full | Profile::FullOverlayfs => false,
        };
        match self {
            Self::Pull | Self::PullAgain | Self::TwoAtOnce | Self::Namespaces => Some(fetches),
            // The first pod brings the image of all pods.
            Self::Run if of.profile == Profile::Mirror => None,
            Self::Run | Self::Remove | Self::Prune => Some(false),
            // Whoever waits for a layer gets an ordinary snapshot when something goes wrong, and a
            // commit names layers that containerd has to have: it has them where they are Hawker's.
            Self::Commit | Self::Cancel | Self::Collect => {
                of.profile.has_content().then_some(false)
            }
            // There is a time without Hawker in it.
            Self::Kill | Self::Terminate => None,
        }
    }
}

/// How one step went.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    pub profile: Profile,
    pub version: ContainerdVersion,
    pub client: Client,
    pub step: Step,
    /// Why it failed.
    pub failure: Option<String>,
    /// Whether containerd itself fetched a layer, through the mirror or from the registry.
    pub has_fetched: bool,
    /// Whether Hawker left a layer to containerd because garbage had to be collected meanwhile.
    pub has_released: bool,
    pub seconds: f64,
    /// What starts of other containers cost meanwhile.
    pub stall: Option<Stall>,
}

/// Does some steps with some clients on one containerd.
///
/// # Errors
/// When the cluster does not come up; what a client cannot do is in the outcomes.
pub fn run(
    version: ContainerdVersion,
    profile: Profile,
    clients: &[Client],
    steps: &[Step],
) -> Result<Vec<Outcome>> {
    let rate = Link::of_rate(Rate::mbit(RATE));
    let cluster = Cluster::start(&Topology {
        nodes: 1,
        registry_link: rate,
        containerd: version,
        profile,
        ..Topology::default()
    })?;
    cluster.registry.push(&image::pause()?)?;
    let mut outcomes = Vec::new();
    for &client in clients {
        let bench = steps::Workbench::new(&cluster, client)?;
        for step in steps {
            if step.is_offered_by(client) {
                let outcome = bench.do_step(*step, profile)?;
                eprintln!("{}", report::line(&outcome));
                outcomes.push(outcome);
            }
        }
    }
    if outcomes.iter().any(|it| fault(it).is_some()) {
        eprintln!("{}", cluster.nodes()[0].hawkerd()?.log_text());
        eprintln!("{}", cluster.bed().log_tails(60));
    }
    Ok(outcomes)
}

/// # Errors
/// When an outcome is not as it must be: names all that are not.
pub fn check(outcomes: &[Outcome]) -> Result<()> {
    let wrong: Vec<_> = outcomes.iter().filter_map(fault).collect();
    let is_right = wrong.is_empty().then_some(());
    is_right.with_context(|| wrong.join("\n"))
}

fn fault(outcome: &Outcome) -> Option<String> {
    let line = report::line(outcome);
    if outcome.failure.is_some() {
        return Some(line);
    }
    if outcome
        .stall
        .as_ref()
        .is_some_and(|stall| stall.is_too_long())
    {
        return Some(format!("{line}: other containers had to wait"));
    }
    let expected = outcome.step.fetches(outcome)?;
    if expected == outcome.has_fetched || outcome.has_released {
        return None;
    }
    let who = if expected { "Hawker" } else { "containerd" };
    Some(format!("{line}: the layers came by way of {who}"))
}
