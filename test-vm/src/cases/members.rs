//! A host's way into the cluster and out of it.

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;

use super::Case;
use crate::{
    cluster::{Binaries, Cluster, Member, Topology},
    http as client,
    image::digest_of,
    registry::AUTHORITY,
};

pub(super) const CASES: &[Case] = &[Case::new(
    "join_renew_and_revoke",
    150,
    join_renew_and_revoke,
)];

const LIMIT: Duration = Duration::from_secs(40);
/// Files that change are noticed within it, and lists of what is revoked.
const NOTICE: Duration = Duration::from_secs(6);
const NEW: &str = "newcomer";

/// A host without certificate joins with a token, pulls from its peers, goes on with another
/// certificate while the first is revoked, and is cut off when its name is.
fn join_renew_and_revoke() -> Result<()> {
    let mut cluster = Cluster::start(&Topology {
        nodes: 1,
        extra_nodes: vec![NEW.to_owned()],
        has_containerd: false,
        ..Topology::default()
    })?;
    let newcomer = &cluster.nodes()[1];
    newcomer.kill_hawkerd()?;
    for name in ["ca.pem", "cert.pem", "key.pem"] {
        std::fs::remove_file(newcomer.host().path(&format!("/etc/hawker/tls/{name}")))?;
    }
    make_issuer(&mut cluster)?;
    let (newcomer, other) = (&cluster.nodes()[1], &cluster.nodes()[0]);
    // Its name was given away once, by the bed: that certificate is not good any more.
    operate(&cluster, &["ca", "revoke", NEW])?;
    let token = operate(&cluster, &["token", "create", "--host", NEW, "--quiet"])?;

    let joined = join(newcomer, token.trim())?;
    joined.success().context("it does not join")?;
    let again = join_again(newcomer, token.trim())?;
    ensure!(!again.status.success(), "the token was good twice");
    newcomer.start_hawkerd()?;
    newcomer.wait_until_healthy(LIMIT)?;
    newcomer.wait_until_scheduled(LIMIT)?;
    pull(&cluster, newcomer)?;

    let (old, pid) = (serial(newcomer)?, newcomer.hawkerd()?.pid());
    let token = operate(&cluster, &["token", "create", "--host", NEW, "--quiet"])?;
    join_again(newcomer, token.trim())?.success()?;
    ensure!(serial(newcomer)? != old, "it has the certificate it had");
    thread::sleep(NOTICE);
    operate(&cluster, &["ca", "revoke", &old])?;
    thread::sleep(NOTICE);
    let hawkerd = newcomer.hawkerd()?;
    ensure!(
        hawkerd.pid() == pid && hawkerd.is_running(),
        "it did not go on"
    );
    newcomer.wait_until_scheduled(LIMIT)?;
    pull(&cluster, newcomer)?;

    operate(&cluster, &["ca", "revoke", NEW])?;
    await_cut(newcomer)?;
    pull(&cluster, other)
}

/// Gives the scheduler the authority, as an operator would.
fn make_issuer(cluster: &mut Cluster) -> Result<()> {
    let dir = cluster.bed().dir().join("ca/ca");
    let host = cluster.bed().host("scheduler").context("no scheduler")?;
    for name in ["ca.pem", "ca-key.pem"] {
        host.write(
            &format!("/etc/hawker/ca/{name}"),
            std::fs::read(dir.join(name))?,
        )?;
    }
    if let Ok(issued) = std::fs::read(dir.join("issued.tsv")) {
        host.write("/etc/hawker/ca/issued.tsv", issued)?;
    }
    host.restrict("/etc/hawker/ca/ca-key.pem")?;
    let path = "/etc/hawker/scheduler.toml";
    let text = std::fs::read_to_string(host.path(path))?;
    let issuer =
        "[issuer]\nca_cert = \"/etc/hawker/ca/ca.pem\"\nca_key = \"/etc/hawker/ca/ca-key.pem\"\n";
    host.write(path, format!("{text}{issuer}"))?;
    cluster.restart_scheduler()
}

/// A command of `hawker` on the scheduler's machine.
fn operate(cluster: &Cluster, words: &[&str]) -> Result<String> {
    let host = cluster.bed().host("scheduler").context("no scheduler")?;
    let mut command = Command::new(Binaries::find()?.hawker());
    Ok(host.run(command.args(words), LIMIT)?.success()?.stdout)
}

fn join(member: &Member, token: &str) -> Result<crate::bed::Output> {
    member.host().write("/run/token", token)?;
    let words = [
        "join",
        "--scheduler",
        "scheduler",
        "--token-file",
        "/run/token",
    ];
    member.hawker(&words, LIMIT)
}

fn join_again(member: &Member, token: &str) -> Result<crate::bed::Output> {
    member.host().write("/run/token", token)?;
    let words = [
        "join",
        "--scheduler",
        "scheduler",
        "--token-file",
        "/run/token",
        "--force",
    ];
    member.hawker(&words, LIMIT)
}

/// The number of the member's certificate.
fn serial(member: &Member) -> Result<String> {
    let mut command = Command::new("openssl");
    command.args([
        "x509",
        "-serial",
        "-noout",
        "-in",
        "/etc/hawker/tls/cert.pem",
    ]);
    let output = member.host().run(&mut command, LIMIT)?.success()?;
    let number = output.stdout.trim().rsplit('=').next();
    Ok(number.unwrap_or_default().to_lowercase())
}

/// A new blob, through the network.
fn pull(cluster: &Cluster, member: &Member) -> Result<()> {
    let blob: Vec<u8> = (0..300_000).map(|_| rand::random()).collect();
    let digest = digest_of(&blob);
    let path = cluster
        .registry
        .push_bytes("blob", &digest, Bytes::from(blob))?;
    let url = format!("http://127.0.0.1:65001{path}?ns={AUTHORITY}");
    let before = member.bytes()?;
    let answer = member.host().enter(|| client::get(&url, LIMIT))??;
    ensure!(
        digest_of(&answer.body) == digest,
        "{}: {}",
        answer.status,
        answer.text()
    );
    let after = member.bytes()?;
    let by_peers = after.seed + after.parent - before.seed - before.parent;
    ensure!(
        by_peers >= 300_000,
        "not from its peers: {before:?}, then {after:?}"
    );
    Ok(())
}

/// Waits until the member has no scheduler any more and says why.
fn await_cut(member: &Member) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let log = member.hawkerd()?.log_text().to_lowercase();
        let status = member.status().unwrap_or_default();
        let all = status["schedulers"].as_array().cloned().unwrap_or_default();
        let is_cut = !all.iter().any(|it| it["connected"] == true);
        if is_cut && log.contains("revoked") {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "it is not cut off, or does not say why: {status}\n{log}"
        );
        thread::sleep(Duration::from_millis(100));
    }
}
