//! The content store as containerd itself judges it.

use std::{process::Command, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::{
    bed::{Bed, Host, Link, Run},
    cluster::{Cluster, Containerd, ContainerdSetup, ContainerdVersion, Profile, Topology},
    tools::CONTENT_SUITE,
};

pub(super) const CASES: &[Case] = &[
    Case::new("containerds_own_content_suite_passes", 120, passes_alone),
    Case::new(
        "containerds_own_content_suite_passes_through_containerd_1_6",
        120,
        || passes_through(ContainerdVersion::Debian),
    ),
    Case::new(
        "containerds_own_content_suite_passes_through_containerd_1_7",
        120,
        || passes_through(ContainerdVersion::V1_7),
    ),
    Case::new(
        "containerds_own_content_suite_passes_through_containerd_2",
        120,
        || passes_through(ContainerdVersion::V2),
    ),
    Case::new(
        "containerds_own_content_suite_passes_with_its_own_store",
        120,
        passes_with_its_own,
    ),
];

const SOCKET: &str = "/run/containerd/containerd.sock";
const LIMIT: Duration = Duration::from_secs(100);

/// What sees the other namespaces' content, and how many cases containerd 2.3 has for that.
#[derive(Debug, Clone, Copy)]
enum Policy {
    /// A store alone: there are no namespaces.
    None,
    Shared,
    Isolated,
}

impl Policy {
    fn name(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Shared => "shared",
            Self::Isolated => "isolated",
        }
    }

    /// How many cases there are for it, and which of them a version does not pass with any store.
    fn cases(self, version: ContainerdVersion) -> (usize, Option<&'static str>) {
        match (self, version) {
            (Self::None, _) => (12, None),
            // Debian's 1.6 shares nothing under this policy, with its own store neither.
            (Self::Isolated, ContainerdVersion::Debian) => (13, Some("SharedNamespaceIsolate")),
            // Two more each: CrossNamespaceAppend and -Share; CrossNamespaceIsolate and
            // SharedNamespaceIsolate.
            (Self::Shared | Self::Isolated, _) => (14, None),
        }
    }
}

fn passes_alone() -> Result<()> {
    let cluster = Cluster::start(&Topology {
        nodes: 1,
        has_containerd: false,
        profile: Profile::Full,
        ..Topology::default()
    })?;
    let host = cluster.nodes()[0].host();
    let socket = "/run/hawker/containerd.sock";
    run_suite(host, socket, Policy::None, ContainerdVersion::default())
}

fn passes_through(version: ContainerdVersion) -> Result<()> {
    let cluster = Cluster::start(&Topology {
        nodes: 1,
        containerd: version,
        profile: Profile::Full,
        ..Topology::default()
    })?;
    let containerd = cluster.nodes()[0].containerd()?;
    pass_both(containerd, &Run::cgroup(cluster.bed().id()))
}

/// The suite itself is right: containerd's own store passes it the same way.
fn passes_with_its_own() -> Result<()> {
    let bed = Bed::start()?;
    let cgroup = Run::cgroup(bed.id());
    let host = bed.add_host("node1", &Link::default())?;
    let setup = ContainerdSetup {
        version: ContainerdVersion::V2,
        ..ContainerdSetup::default()
    };
    pass_both(Containerd::launch(&host, &cgroup, setup)?, &cgroup)
}

/// With the policy that containerd has as a rule, then with the other.
fn pass_both(containerd: Containerd, cgroup: &str) -> Result<()> {
    let host = Arc::clone(containerd.host());
    let version = containerd.setup().version;
    run_suite(&host, SOCKET, Policy::Shared, version)?;
    containerd.process().terminate(LIMIT)?;
    let setup = ContainerdSetup {
        is_isolated: true,
        ..containerd.setup()
    };
    Containerd::launch(&host, cgroup, setup)?;
    run_suite(&host, SOCKET, Policy::Isolated, version)
}

fn run_suite(host: &Host, socket: &str, policy: Policy, version: ContainerdVersion) -> Result<()> {
    let (cases, without) = policy.cases(version);
    let mut command = Command::new(CONTENT_SUITE.path()?);
    command.args(without.map(|it| format!("-test.skip=/{it}")));
    command.args(["-test.parallel=1", "-test.v", "-test.timeout=90s"]);
    std::fs::create_dir_all(host.path("/run/suite"))?;
    command
        .env("CONTENT_ADDRESS", socket)
        .env("CONTENT_POLICY", policy.name())
        .env("TMPDIR", "/run/suite");
    let output = host.run(&mut command, LIMIT)?;
    let count = |mark: &str| output.stdout.lines().filter(|it| it.contains(mark)).count();
    let (passed, failed, skipped) = (
        count("    --- PASS: TestContent/"),
        count("    --- FAIL: TestContent/"),
        count("    --- SKIP: TestContent/"),
    );
    let is_result = |line: &&str| !line.starts_with("=== RUN");
    let shown: Vec<_> = output.stdout.lines().filter(is_result).collect();
    println!("{}", shown.join("\n"));
    println!("ContentSuite {policy:?}: {passed} passed, {failed} failed, {skipped} skipped");
    output.success().context("the suite failed")?;
    ensure!(
        (passed, failed, skipped) == (cases, 0, 0),
        "not all cases passed"
    );
    Ok(())
}
