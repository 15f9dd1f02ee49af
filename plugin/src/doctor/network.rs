//! Schedulers, seeds, and whether the clocks agree.

use std::time::{Duration, SystemTime};

use hawker_config::{Endpoint, NodeConfig};
use tokio::net::TcpStream;
use url::Url;

use super::Findings;
use crate::{control::StatusReport, setup::http};

/// How long a connection may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Where schedulers serve their health by default.
const HEALTH_PORT: u16 = 8000;
/// Clocks that differ by more make certificates and tokens doubtful.
const NOTABLE: Duration = Duration::from_secs(60);
const TOO_MUCH: Duration = Duration::from_secs(300);

pub(super) async fn examine(
    config: &NodeConfig,
    status: Option<&StatusReport>,
    findings: &mut Findings,
) {
    if config.is_standalone() {
        findings.info(
            "cluster",
            "none: without schedulers and seeds this node is a mirror with a cache",
        );
        return;
    }
    match status {
        Some(status) => schedulers_of(status, findings),
        None => schedulers(config, findings).await,
    }
    for seed in &config.p2p.seeds {
        let what = format!("seed {} at {}", seed.name, seed.address);
        match reach(&seed.address).await {
            Ok(()) => findings.ok("seeds", format!("{what} takes connections")),
            Err(why) => findings.warn(
                "seeds",
                format!("{what}: {why}"),
                "is hawkerd --role seed running there, and its p2p.listen open to this host?",
            ),
        }
    }
    clock(config, findings).await;
}

const REMEDY: &str = "is hawker-scheduler running there, and its port open? Pulls go to the seeds and the registry \
     meanwhile";

/// What hawkerd says of its schedulers.
fn schedulers_of(status: &StatusReport, findings: &mut Findings) {
    let schedulers = &status.node.schedulers;
    let none = !schedulers.iter().any(|scheduler| scheduler.connected);
    for scheduler in schedulers {
        let address = &scheduler.address;
        let why = scheduler.error.as_deref().unwrap_or("no answer yet");
        match scheduler.connected {
            true => findings.ok("schedulers", format!("{address} is connected")),
            false if none => findings.fail("schedulers", format!("{address}: {why}"), REMEDY),
            false => findings.warn("schedulers", format!("{address}: {why}"), REMEDY),
        }
    }
}

async fn schedulers(config: &NodeConfig, findings: &mut Findings) {
    for scheduler in &config.p2p.schedulers {
        match reach(scheduler).await {
            Ok(()) => findings.ok("schedulers", format!("{scheduler} takes connections")),
            Err(why) => findings.fail("schedulers", format!("{scheduler}: {why}"), REMEDY),
        }
    }
}

async fn reach(endpoint: &Endpoint) -> Result<(), String> {
    match tokio::time::timeout(PATIENCE, TcpStream::connect(endpoint.as_str())).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer within 3 s".to_owned()),
    }
}

/// This clock against a scheduler's.
async fn clock(config: &NodeConfig, findings: &mut Findings) {
    const CHECK: &str = "clock";
    for scheduler in &config.p2p.schedulers {
        let Some((host, _)) = scheduler.as_str().rsplit_once(':') else {
            continue;
        };
        let Some(theirs) = date(host).await else {
            continue;
        };
        let ours = SystemTime::now();
        let apart = ours
            .duration_since(theirs)
            .unwrap_or_else(|error| error.duration());
        let what = format!("{} s apart from {host}'s", apart.as_secs());
        let remedy = "let both keep time (chrony, systemd-timesyncd)";
        return match apart {
            apart if apart > TOO_MUCH => findings.fail(CHECK, what, remedy),
            apart if apart > NOTABLE => findings.warn(CHECK, what, remedy),
            _ => findings.ok(CHECK, what),
        };
    }
    findings.info(
        CHECK,
        "no scheduler's health port (8000) could be asked for its time",
    );
}

async fn date(host: &str) -> Option<SystemTime> {
    let url: Url = format!("http://{host}:{HEALTH_PORT}/healthy")
        .parse()
        .ok()?;
    let answer = tokio::time::timeout(PATIENCE, http::get(&url)).await;
    let date = answer.ok()?.ok()?.date?;
    httpdate::parse_http_date(&date).ok()
}
