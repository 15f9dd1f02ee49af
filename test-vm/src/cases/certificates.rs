//! Wrong certificates are refused, with a reason in the logs of both sides.

use std::{
    fs, thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, ensure};
use hawker_identity::{AuthorityFiles, Existing, Subject, Validity, write_host};
use hawker_model::Role;

use super::Case;
use crate::cluster::{Cluster, Member, Topology};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "missing_certificate_stops_the_daemon_with_the_remedy",
        60,
        missing,
    ),
    Case::new(
        "certificate_of_another_cluster_is_refused_on_both_sides",
        60,
        other_cluster,
    ),
    Case::new("certificate_of_another_role_is_refused", 60, wrong_role),
    Case::new(
        "certificate_that_expires_is_refused_on_both_sides",
        90,
        expired,
    ),
];

const LIMIT: Duration = Duration::from_secs(20);

fn topology() -> Topology {
    Topology {
        nodes: 2,
        has_containerd: false,
        ..Topology::default()
    }
}

/// Waits for one of these words in a log.
fn await_log(text: impl Fn() -> String, words: &[&str]) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !words
        .iter()
        .any(|word| text().to_lowercase().contains(word))
    {
        ensure!(
            Instant::now() < deadline,
            "none of {words:?} in:\n{}",
            text()
        );
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn log_of(member: &Member) -> String {
    member.hawkerd().map(|it| it.log_text()).unwrap_or_default()
}

fn missing() -> Result<()> {
    let cluster = Cluster::prepare(&topology())?;
    let node = &cluster.nodes()[0];
    fs::remove_file(node.host().path("/etc/hawker/tls/cert.pem"))?;

    let hawkerd = node.start_hawkerd()?;
    let status = hawkerd.wait(LIMIT)?;

    ensure!(!status.success(), "it started without a certificate");
    let text = log_of(node);
    ensure!(
        text.contains("hawker ca") && text.contains("cert.pem"),
        "no remedy in:\n{text}"
    );
    Ok(())
}

fn other_cluster() -> Result<()> {
    let cluster = Cluster::start(&topology())?;
    let node = &cluster.nodes()[0];
    let before = cluster.scheduler()?.log_text().len();
    node.kill_hawkerd()?;
    node.install_certificates(
        &cluster
            .authority()
            .foreign("stranger", "node", node.name())?,
    )?;

    node.start_hawkerd()?;

    let words = [
        "another cluster",
        "unknown issuer",
        "unknown authority",
        "other cluster",
        "authority",
    ];
    await_log(|| log_of(node), &words).context("the node does not say why")?;
    let scheduler = cluster.scheduler()?;
    await_log(|| scheduler.log_text()[before..].to_owned(), &words)
        .context("the scheduler does not say why")
}

fn wrong_role() -> Result<()> {
    let cluster = Cluster::prepare(&topology())?;
    let node = &cluster.nodes()[0];
    node.install_certificates(&cluster.authority().issue("scheduler", node.name(), &[])?)?;

    let hawkerd = node.start_hawkerd()?;

    await_log(|| log_of(node), &["role"])?;
    let ended = hawkerd.wait(LIMIT);
    ensure!(
        ended.is_ok_and(|status| !status.success()),
        "a node runs with a scheduler's certificate"
    );
    Ok(())
}

fn expired() -> Result<()> {
    let mut cluster = Cluster::start(&topology())?;
    let dir = cluster.bed().dir().join("ca");
    let node = &cluster.nodes()[0];
    let ca = AuthorityFiles::in_dir(&dir.join("ca")).load()?;
    let now = SystemTime::now();
    let (not_before, not_after) = (now - Duration::from_secs(60), now + Duration::from_secs(6));
    let subject = Subject {
        host: node.name().parse()?,
        role: Role::Node,
        names: Vec::new(),
    };
    let issued = ca.issue_for(
        &subject,
        Validity {
            not_before,
            not_after,
        },
    )?;
    write_host(&dir.join("short"), ca.cert_pem(), &issued, Existing::Keep)?;
    node.kill_hawkerd()?;
    node.install_certificates(&dir.join("short"))?;
    node.start_hawkerd()?;
    node.wait_until_scheduled(LIMIT)?;
    thread::sleep(
        not_after
            .duration_since(SystemTime::now())
            .unwrap_or_default()
            + Duration::from_secs(1),
    );

    cluster.restart_scheduler()?;

    let (scheduler, node) = (cluster.scheduler()?, &cluster.nodes()[0]);
    await_log(|| scheduler.log_text(), &["expired"]).context("the scheduler does not say why")?;
    await_log(|| log_of(node), &["expired"]).context("the node does not say why")
}
