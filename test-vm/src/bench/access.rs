//! What a right costs: when it is fresh, and when twenty hosts want it at once.

use std::{
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Args;
use http::StatusCode;
use serde::Serialize;

use crate::{
    access::fixture::{Fixture, HARBOR, PASSWORD},
    cluster::Topology,
    http as client,
    image::digest_of,
    table::Table,
    token::Account,
};

/// In which the requests of all kinds take turns.
const ROUNDS: usize = 10;
const TEAM: &str = "matrix/bench";
const BAR: Duration = Duration::from_micros(50);

/// Rights to blobs, measured at the mirror and at the registry.
#[derive(Debug, Args)]
pub struct Access {
    /// Requests for each figure.
    #[arg(long, default_value_t = 10_000)]
    requests: usize,
    /// Hosts that ask at once.
    #[arg(long, default_value_t = 20)]
    hosts: usize,
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
}

/// Microseconds of a request.
#[derive(Debug, Clone, Copy, Serialize)]
struct Times {
    median_us: f64,
    p99_us: f64,
}

/// What the registry was asked for one blob.
#[derive(Debug, Clone, Copy, Serialize)]
struct Asked {
    checks: u64,
    fetches: u64,
    copies: f64,
    /// Of the slowest host.
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct Figures {
    hosts: usize,
    /// An answer of the mirror that needs no right: such a path is of no registry.
    without_right: Times,
    /// The length of a local blob, for which the right has to be fresh.
    with_fresh_right: Times,
    /// A hundred bytes of it: the same, and reading.
    with_bytes: Times,
    same_credential: Asked,
    own_credentials: Asked,
}

impl Access {
    /// # Errors
    /// When the cluster does not come up, or a bar is not kept.
    pub fn run(&self) -> Result<()> {
        let fixture = Fixture::of(Topology {
            nodes: self.hosts,
            has_containerd: false,
            ..Topology::default()
        })?;
        for number in 0..self.hosts {
            let account = Account::new(PASSWORD, &["matrix/*"]);
            fixture.tokens()?.add(&format!("robot${number}"), account)?;
        }
        let [without_right, with_fresh_right, with_bytes] = self.measure(&fixture)?;
        let figures = Figures {
            hosts: self.hosts,
            without_right,
            with_fresh_right,
            with_bytes,
            same_credential: self.ask_at_once(&fixture, |_| 0)?,
            own_credentials: self.ask_at_once(&fixture, |number| number)?,
        };
        match self.json {
            true => println!("{}", serde_json::to_string_pretty(&figures)?),
            false => print!("{}", figures.table()),
        }
        figures.check()
    }

    /// All kinds of requests in turns, so that the machine's moods hit them alike.
    fn measure(&self, fixture: &Fixture) -> Result<[Times; 3]> {
        let (digest, token) = (push(fixture, 1_000_000)?, fixture.token("robot$0", TEAM)?);
        fixture.fill(fixture.node(), TEAM, &digest)?;
        let url = format!("http://127.0.0.1:65001/v2/{TEAM}/blobs/{digest}?ns={HARBOR}");
        // As long, but nothing that a registry has.
        let no_url = url.replace("/blobs/", "/bolbs/");
        let headers = [
            ("authorization", token.as_str()),
            ("range", "bytes=1000-1099"),
        ];
        let kinds = [
            ("HEAD", &no_url, StatusCode::NOT_FOUND),
            ("HEAD", &url, StatusCode::OK),
            ("GET", &url, StatusCode::PARTIAL_CONTENT),
        ];
        let mut times = [const { Vec::new() }; 3];
        for _ in 0..ROUNDS {
            for ((method, url, wanted), times) in kinds.iter().zip(&mut times) {
                let count = self.requests / ROUNDS;
                let node = fixture.node().host();
                let asked = node.enter(|| client::repeat(method, url, &headers, count))??;
                let fits = asked.iter().all(|it| it.status == *wanted);
                ensure!(fits, "{method}: {:?}", asked.first());
                times.extend(asked.iter().map(|it| it.elapsed));
            }
        }
        let [without, with, bytes] = times.map(Times::of);
        Ok([without?, with?, bytes?])
    }

    /// All hosts ask for a new blob at the same moment.
    fn ask_at_once(&self, fixture: &Fixture, account: impl Fn(usize) -> usize) -> Result<Asked> {
        let digest = push(fixture, 4_000_000)?;
        let path = format!("{TEAM}/blobs/{digest}");
        let tokens =
            (0..self.hosts).map(|it| fixture.token(&format!("robot${}", account(it)), TEAM));
        let mut tokens = tokens.collect::<Result<Vec<_>>>()?;
        if account(1) == 0 {
            // One credential, not one account: the same token.
            let first = tokens.first().cloned().context("no hosts")?;
            tokens.fill(first);
        }
        let start = Barrier::new(self.hosts);
        let ask = |number: usize| -> Result<f64> {
            let member = &fixture.cluster().nodes()[number];
            start.wait();
            let began = Instant::now();
            let answer = fixture.ask(member, "GET", HARBOR, &path, Some(&tokens[number]))?;
            let is_whole = digest_of(&answer.body) == digest;
            ensure!(is_whole, "{}: {}", answer.status, answer.text());
            Ok(began.elapsed().as_secs_f64())
        };
        let ask = &ask;
        let seconds = thread::scope(|scope| {
            let asked: Vec<_> = (0..self.hosts)
                .map(|number| scope.spawn(move || ask(number)))
                .collect();
            let asked = asked.into_iter().map(|it| {
                it.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            asked.collect::<Result<Vec<_>>>()
        })?;
        let traffic = fixture.harbor()?.tally()?.of_digest(&digest);
        Ok(Asked {
            checks: traffic.heads,
            fetches: traffic.gets,
            copies: traffic.body_bytes as f64 / 4e6,
            seconds: seconds.into_iter().fold(0.0, f64::max),
        })
    }
}

fn push(fixture: &Fixture, len: usize) -> Result<String> {
    let blob: Vec<u8> = (0..len).map(|_| rand::random()).collect();
    let digest = digest_of(&blob);
    fixture
        .harbor()?
        .push_bytes(TEAM, &digest, Bytes::from(blob))?;
    Ok(digest)
}

impl Times {
    fn of(mut all: Vec<Duration>) -> Result<Self> {
        all.sort();
        let at = |part: f64| all.get((all.len() as f64 * part) as usize);
        let micros = |it: &Duration| it.as_secs_f64() * 1e6;
        Ok(Self {
            median_us: at(0.5).map(micros).context("no requests")?,
            p99_us: at(0.99).map(micros).context("no requests")?,
        })
    }
}

impl Figures {
    fn cost(&self) -> f64 {
        self.with_fresh_right.median_us - self.without_right.median_us
    }

    fn table(&self) -> String {
        let mut table = Table::new(&["a request at the mirror", "median", "p99"]);
        let times = |times: Times| [times.median_us, times.p99_us].map(|it| format!("{it:.1} us"));
        for (name, it) in [
            ("HEAD of what no registry has", self.without_right),
            ("HEAD of a local blob, right fresh", self.with_fresh_right),
            ("GET of 100 bytes of it", self.with_bytes),
        ] {
            table.row([name.to_owned()].into_iter().chain(times(it)));
        }
        let difference = format!("{:.1} us", self.cost());
        table.row(["what the fresh right costs at most".to_owned(), difference]);
        let mut text = table.render();
        let mut table = Table::new(&["at the registry", "checks", "fetches", "copies", "slowest"]);
        for (name, it) in [
            ("the same credential", self.same_credential),
            ("a credential each", self.own_credentials),
        ] {
            table.row([
                format!("{} hosts at once, {name}", self.hosts),
                it.checks.to_string(),
                it.fetches.to_string(),
                format!("{:.2}", it.copies),
                format!("{:.2} s", it.seconds),
            ]);
        }
        text += "\n";
        text + &table.render()
    }

    fn check(&self) -> Result<()> {
        let bar = BAR.as_secs_f64() * 1e6;
        let cost = self.cost();
        ensure!(
            cost <= bar,
            "a fresh right costs {cost:.1} us of at most {bar:.0}"
        );
        let checks = self.same_credential.checks;
        ensure!(checks <= 1, "{checks} checks of the same credential");
        let (hosts, checks) = (self.hosts as u64, self.own_credentials.checks);
        ensure!(checks <= hosts, "{checks} checks of {hosts} credentials");
        Ok(())
    }
}
