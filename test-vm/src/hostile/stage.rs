//! A cluster on which one villain after the other appears.

use std::{
    collections::BTreeSet,
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{
    Seen, Villain,
    prop::{Got, LEN, Prop},
};
use crate::{
    bed::{Link, Process},
    cluster::{Cluster, Member, Topology},
    http as client,
    liar::Kind,
    registry::{Action, Fault},
};

const LIMIT: Duration = Duration::from_secs(60);
/// How long reports and the like may take to arrive.
const PATIENCE: Duration = Duration::from_secs(5);
const NODES: usize = 4;
/// How long the scheduler isolates a host: longer than it takes to see that it does.
const ISOLATION: Duration = Duration::from_secs(20);

pub(super) struct Stage {
    cluster: Cluster,
    /// The first liar that was isolated, and since when at the latest.
    convict: Option<(Villain, Arc<Process>, Instant)>,
}

impl Stage {
    pub(super) fn new() -> Result<Self> {
        let cluster = Cluster::start(&Topology {
            nodes: NODES,
            has_containerd: false,
            scheduler_settings: format!("[swarm]\nisolation_time = \"{}s\"\n", ISOLATION.as_secs()),
            ..Topology::default()
        })?;
        let convict = None;
        Ok(Self { cluster, convict })
    }

    pub(super) fn play(&mut self, villain: Villain) -> Result<Seen> {
        let prop = Prop::push(&self.cluster)?;
        let began = Instant::now();
        let mut pullers: Vec<&Member> = self.cluster.nodes().iter().collect();
        let liar = self.set(villain, &prop, &mut pullers)?;
        let got = pull_all(&pullers, &prop)?;
        let count = |wanted| got.iter().filter(|it| **it == wanted).count();
        let name = self.name_of(villain);
        let (isolated, shut_out_by) = self.await_ruling(villain, &name, pullers.len())?;
        let seen = Seen {
            villain,
            right: count(Got::Right),
            refused: count(Got::Refused),
            wrong: count(Got::Wrong),
            wronged: self.wronged(&name)?,
            shut_out_by,
            isolated,
            paroled: None,
            pieces: liar.as_ref().map_or(0, |process| most_given(process)),
            copies: self.copies(&prop)?,
            seconds: began.elapsed().as_secs_f64(),
        };
        self.cluster.registry.set_faults(&[])?;
        if let Some(process) = liar {
            println!("{}:\n{}", villain.name(), process.log_tail(12));
            // A seed that lies is asked for what the next ones are about as well.
            let is_kept = isolated && villain != Villain::Peer(Kind::LyingSeed);
            match is_kept && self.convict.is_none() {
                true => self.convict = Some((villain, process, Instant::now())),
                false => process.kill(),
            }
        }
        Ok(seen)
    }

    /// Waits until the time of the one that was isolated is over; whether it was let go then.
    pub(super) fn await_parole(&self) -> Result<Option<(Villain, bool)>> {
        let Some((villain, process, since)) = &self.convict else {
            return Ok(None);
        };
        let name = self.name_of(*villain);
        let deadline = *since + ISOLATION + PATIENCE;
        loop {
            let report = self.host_report(&name)?;
            let is_free = report["isolated"] == false;
            if is_free || Instant::now() > deadline {
                process.kill();
                return Ok(Some((*villain, is_free)));
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Brings the villain on; takes those out of the pullers that have the blob before.
    fn set(
        &self,
        villain: Villain,
        prop: &Prop,
        pullers: &mut Vec<&Member>,
    ) -> Result<Option<Arc<Process>>> {
        let mut warm = || -> Result<()> {
            let got = prop.pull(pullers.remove(0))?;
            ensure!(
                got == Got::Right,
                "{}: the first pull failed",
                villain.name()
            );
            Ok(())
        };
        match villain {
            Villain::Peer(kind @ Kind::LyingSeed) => self.appear(kind, prop).map(Some),
            Villain::Peer(kind) => {
                warm()?;
                self.appear(kind, prop).map(Some)
            }
            Villain::Registry => {
                let wrong = Action::Corrupt { at: 1_500_000 };
                let faults = [Fault::new(&prop.digest, wrong)];
                self.cluster.registry.set_faults(&faults).map(|()| None)
            }
            Villain::Disk => {
                warm()?;
                let host = self.cluster.nodes()[0].host();
                prop.flip_bit(host).map(|()| None)
            }
        }
    }

    fn name_of(&self, villain: Villain) -> String {
        match villain {
            Villain::Peer(kind) => format!("liar-{}", kind.name()),
            Villain::Registry => "registry".to_owned(),
            Villain::Disk => self.cluster.nodes()[0].name().to_owned(),
        }
    }

    /// A liar on a host of its own, known to the scheduler.
    fn appear(&self, kind: Kind, prop: &Prop) -> Result<Arc<Process>> {
        let name = self.name_of(Villain::Peer(kind));
        let host = self.cluster.bed().add_host(&name, &Link::default())?;
        let authority = self.cluster.authority();
        let issued = authority.issue(kind.role().as_str(), &name, &[])?;
        for file in ["ca.pem", "cert.pem", "key.pem"] {
            let text = std::fs::read(issued.join(file))?;
            host.write(&format!("/etc/hawker/tls/{file}"), text)?;
        }
        host.write("/run/blob", &prop.bytes)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["liar", "--kind", kind.name(), "--blob", "/run/blob"]);
        command.args(["--scheduler", "scheduler:8002", "--tls", "/etc/hawker/tls"]);
        let process = host.spawn("liar", &mut command)?;
        let is_known = || {
            let report = self.host_report(&name).unwrap_or_default();
            let tasks = report["tasks"].as_u64().unwrap_or_default();
            let has_told = tasks > 0 || kind == Kind::LyingSeed;
            has_told && report["reachability"] == "reachable"
        };
        process.wait_until(LIMIT, is_known)?;
        Ok(process)
    }

    /// Waits until the villain is where it belongs; says whether it is isolated, and how many honest
    /// hosts shut it out.
    fn await_ruling(&self, villain: Villain, name: &str, victims: usize) -> Result<(bool, usize)> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let isolated = self.isolated()?.contains(name);
            let shut_out = self.shutting_out(name)?;
            let settled = isolated && shut_out >= victims;
            if settled || !villain.is_liable() || Instant::now() > deadline {
                return Ok((isolated, shut_out));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn members(&self) -> impl Iterator<Item = &Member> {
        self.cluster.seeds().iter().chain(self.cluster.nodes())
    }

    fn shutting_out(&self, name: &str) -> Result<usize> {
        let mut count = 0;
        for member in self.members() {
            count += usize::from(quarantined(member)?.contains(name));
        }
        Ok(count)
    }

    /// Honest hosts that somebody honest, or the scheduler, takes for liars.
    fn wronged(&self, villain: &str) -> Result<Vec<String>> {
        let mut blamed = self.isolated()?;
        for member in self.members() {
            blamed.extend(quarantined(member)?);
        }
        blamed.retain(|name| name != villain && !name.starts_with("liar-"));
        Ok(blamed.into_iter().collect())
    }

    fn copies(&self, prop: &Prop) -> Result<f64> {
        let traffic = self.cluster.registry.tally()?.of_digest(&prop.digest);
        Ok(traffic.body_bytes as f64 / LEN as f64)
    }

    fn hosts(&self) -> Result<Vec<Value>> {
        const STATUS: &str = "http://127.0.0.1:8000/v1/status";
        let host = self.cluster.scheduler_host()?;
        let answer = host.enter(|| client::get(STATUS, LIMIT))??.success()?;
        let status: Value = serde_json::from_slice(&answer.body)?;
        let hosts = status["hosts"].as_array().cloned();
        hosts.context("the scheduler tells of no hosts")
    }

    fn host_report(&self, name: &str) -> Result<Value> {
        let found = self.hosts()?.into_iter().find(|host| host["host"] == name);
        found.with_context(|| format!("the scheduler does not know {name}"))
    }

    fn isolated(&self) -> Result<BTreeSet<String>> {
        let hosts = self.hosts()?;
        let isolated = hosts.iter().filter(|host| host["isolated"] == true);
        let names = isolated.filter_map(|host| host["host"].as_str());
        Ok(names.map(str::to_owned).collect())
    }
}

/// All at once.
fn pull_all(pullers: &[&Member], prop: &Prop) -> Result<Vec<Got>> {
    thread::scope(|scope| {
        let pulls = pullers
            .iter()
            .map(|member| scope.spawn(|| prop.pull(member)));
        let pulls: Vec<_> = pulls.collect();
        let ended = pulls.into_iter().map(|pull| pull.join());
        ended
            .map(|end| end.unwrap_or_else(|_| bail!("a pull panicked")))
            .collect()
    })
}

fn quarantined(member: &Member) -> Result<BTreeSet<String>> {
    let status = member.status()?;
    let names = status["quarantined"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let names = names.iter().filter_map(Value::as_str);
    Ok(names.map(str::to_owned).collect())
}

/// The most pieces that a liar says to have given to one host.
fn most_given(process: &Process) -> u64 {
    let log = process.log_text();
    let given = log
        .lines()
        .filter_map(|line| line.split_once(" was given "));
    let counts = given.filter_map(|(_, count)| count.trim().parse().ok());
    counts.max().unwrap_or_default()
}
