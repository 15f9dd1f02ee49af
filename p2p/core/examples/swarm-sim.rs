//! Plays the distribution of one blob, or of several at once, to many hosts and prints how close it came to the bound.
//!
//! `cargo run --release -p hawker-swarm --features sim --example swarm-sim -- --hosts 1000`

use std::process::ExitCode;

use hawker_swarm::sim::{Outcome, Reads, Scenario};

const USAGE: &str = "swarm-sim [--hosts N] [--rate-mbit R] [--size-mib M] [--seeds S] \
                     [--latency-ms L] [--loss P] [--seed-room C] [--degree D] [--spread-ms T] \
                     [--warm 0|1] [--testbed 0|1] [--queue-ms Q] [--unsent-kib U] \
                     [--chunk-kib C] [--seed-mbit R] [--mixed 0|1] [--between-mbit R] [--blobs B] \
                     [--reads-first 0|1] [--seed N]";

struct Arguments {
    hosts: usize,
    rate_mbit: f64,
    size_mib: f64,
    seeds: usize,
    latency_ms: Option<f64>,
    loss: f64,
    seed_room: usize,
    degree: usize,
    spread_ms: f64,
    warm: bool,
    testbed: bool,
    queue_ms: Option<f64>,
    unsent_kib: Option<f64>,
    chunk_kib: Option<f64>,
    /// The seeds' and the origin's rate, where it is another.
    seed_mbit: Option<f64>,
    /// Nodes with a quarter, a half, one and two times the rate.
    mixed: bool,
    /// Two zones, and the rate of the link between them.
    between_mbit: Option<f64>,
    /// Blobs that all want at once, each of the size given.
    blobs: usize,
    /// Only the first of them is read.
    reads_first: bool,
    seed: u64,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut arguments = Self {
            hosts: 20,
            rate_mbit: 100.0,
            size_mib: 64.0,
            seeds: 1,
            latency_ms: None,
            loss: 0.0,
            seed_room: 32,
            degree: 10,
            spread_ms: 0.0,
            warm: false,
            testbed: false,
            queue_ms: None,
            unsent_kib: None,
            chunk_kib: None,
            seed_mbit: None,
            mixed: false,
            between_mbit: None,
            blobs: 1,
            reads_first: false,
            seed: 1,
        };
        while let Some(name) = words.next() {
            let value = words.next().ok_or(USAGE)?;
            let number: f64 = value
                .parse()
                .map_err(|_| format!("{name} {value}: no number"))?;
            match name.as_str() {
                "--hosts" => arguments.hosts = number as usize,
                "--rate-mbit" => arguments.rate_mbit = number,
                "--size-mib" => arguments.size_mib = number,
                "--seeds" => arguments.seeds = number as usize,
                "--latency-ms" => arguments.latency_ms = Some(number),
                "--loss" => arguments.loss = number,
                "--seed-room" => arguments.seed_room = number as usize,
                "--degree" => arguments.degree = number as usize,
                "--spread-ms" => arguments.spread_ms = number,
                "--warm" => arguments.warm = number != 0.0,
                "--testbed" => arguments.testbed = number != 0.0,
                "--queue-ms" => arguments.queue_ms = Some(number),
                "--unsent-kib" => arguments.unsent_kib = Some(number),
                "--chunk-kib" => arguments.chunk_kib = Some(number),
                "--seed-mbit" => arguments.seed_mbit = Some(number),
                "--mixed" => arguments.mixed = number != 0.0,
                "--between-mbit" => arguments.between_mbit = Some(number),
                "--blobs" => arguments.blobs = number as usize,
                "--reads-first" => arguments.reads_first = number != 0.0,
                "--seed" => arguments.seed = number as u64,
                _ => return Err(USAGE.to_owned()),
            }
        }
        Ok(arguments)
    }

    fn scenario(&self) -> Scenario {
        let length = (self.size_mib * f64::from(1 << 20)) as u64;
        let new = match self.testbed {
            true => Scenario::testbed,
            false => Scenario::new,
        };
        let mut scenario = new(self.seed, self.seeds, self.hosts, self.rate_mbit, length);
        let millis = |millis: f64| std::time::Duration::from_secs_f64(millis / 1e3);
        if let Some(latency) = self.latency_ms {
            scenario.latency = millis(latency);
        }
        if let Some(queue) = self.queue_ms {
            scenario.queue = millis(queue);
        }
        if let Some(unsent) = self.unsent_kib {
            scenario.unsent = (unsent * 1024.0) as u32;
        }
        if let Some(chunk) = self.chunk_kib {
            scenario.chunk = (chunk * 1024.0) as u32;
        }
        scenario.beside = vec![length; self.blobs.saturating_sub(1)];
        scenario.loss = self.loss;
        scenario.seed_room = self.seed_room;
        scenario.degree = self.degree;
        let bytes = |mbit: f64| mbit * 1e6 / 8.0;
        if let Some(mbit) = self.seed_mbit {
            scenario.origin_rate = bytes(mbit);
        }
        scenario.between_zones = self.between_mbit.map(bytes);
        for number in 0..self.seeds {
            scenario = scenario.seed(number, |seed| {
                seed.stored = self.warm;
                if let Some(mbit) = self.seed_mbit {
                    (seed.up_rate, seed.down_rate) = (bytes(mbit), bytes(mbit));
                }
            });
        }
        for number in 0..self.hosts {
            let share = number as f64 / self.hosts as f64;
            let arrives = std::time::Duration::from_secs_f64(self.spread_ms * share / 1e3);
            let factor = [0.25, 0.5, 1.0, 2.0][number % 4];
            scenario = scenario.node(number, |node| {
                node.arrives = arrives;
                if self.reads_first {
                    node.reads = Reads::First;
                }
                if self.mixed {
                    node.up_rate *= factor;
                    node.down_rate *= factor;
                }
                if self.between_mbit.is_some() {
                    node.zone = (number % 2) as u8;
                }
            });
        }
        scenario
    }
}

fn main() -> ExitCode {
    let outcome = Arguments::parse(std::env::args().skip(1)).and_then(|arguments| {
        arguments
            .scenario()
            .run()
            .map_err(|error| error.to_string())
    });
    match outcome {
        Ok(outcome) => {
            print(&outcome);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn print(outcome: &Outcome) {
    let bound = outcome.bound.as_secs_f64();
    let median = outcome
        .median()
        .map_or(f64::NAN, |median| median.as_secs_f64());
    println!("seed              {}", outcome.seed);
    println!("bound             {bound:.2} s");
    println!("last / bound      {:.3}", outcome.ratio());
    println!("median / bound    {:.3}", median / bound);
    let seconds = |share| {
        let took = outcome.quantile(share);
        took.map_or(f64::NAN, |took| took.as_secs_f64())
    };
    println!(
        "p50, p99, last    {:.2} s, {:.2} s, {:.2} s",
        seconds(0.5),
        seconds(0.99),
        seconds(1.0)
    );
    for (number, (first, last)) in outcome.spans().into_iter().enumerate() {
        println!("blob {number:<2}           {first:.2} s to {last:.2} s");
    }
    println!("not finished      {}", outcome.left_behind().len());
    println!("copies by seeds   {:.3}", outcome.seed_copies());
    println!("copies by origin  {:.3}", outcome.origin_copies());
    println!("sent / needed     {:.3}", outcome.overhead());
    println!(
        "chain values      {:.2} % of the bytes needed",
        outcome.list_share() * 100.0
    );
    let uplinks: Vec<_> = outcome
        .uplinks
        .iter()
        .map(|busy| format!("{busy:.2}"))
        .collect();
    println!("uplinks busy      {}", uplinks.join(" "));
    let first = outcome
        .last_first()
        .map_or(f64::NAN, |first| first.as_secs_f64());
    println!("first piece       {first:.3} s at the last node");
    println!("zones crossed     {:.2} times", outcome.crossings());
    println!("reports           {}", outcome.reports.len());
    println!("events            {}", outcome.events);
}
