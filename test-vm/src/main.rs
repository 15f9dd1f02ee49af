//! `hawker-test-vm`: demo, end-to-end cases and benchmarks on a cluster on one machine.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{Parser, Subcommand};
use hawker_test_vm::{
    access, bed, bench, cases,
    cluster::{Client, ContainerdVersion, Profile},
    demo, hostile, image, liar, matrix, progress, proxy, registry, token, tools,
};

/// A cluster of namespaces on this machine, with real registries, containerds and Hawkers.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// A cluster pulls an image at once, runs it, and shows where the bytes came from.
    Demo(demo::Demo),
    /// Measurements.
    #[command(subcommand)]
    Bench(Bench),
    /// End-to-end cases.
    Cases {
        /// Only those whose names contain one of these.
        filters: Vec<String>,
        /// Only print their names.
        #[arg(long)]
        list: bool,
        /// Also those that take minutes.
        #[arg(long)]
        long: bool,
    },
    /// Try what every client can do on every containerd, and print the page that says so.
    Matrix {
        /// Only on these.
        #[arg(long, value_enum)]
        containerd: Vec<ContainerdVersion>,
        /// Only with these.
        #[arg(long, value_enum)]
        profile: Vec<Profile>,
        /// Only with these.
        #[arg(long, value_enum)]
        client: Vec<Client>,
        /// What an earlier run printed with --json; it is not tried again.
        #[arg(long, value_name = "FILE")]
        tried: Vec<PathBuf>,
        /// Write the page into the testbed's docs.
        #[arg(long)]
        write: bool,
        /// Print what came of it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Try who gets what, with which credential and wherever it is, and print the page that says so.
    Access {
        /// Write the page into the testbed's docs.
        #[arg(long)]
        write: bool,
        /// Print what came of it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Try every kind of liar against a cluster, and print the page that says what came of it.
    Hostile {
        /// Write the page into the testbed's docs.
        #[arg(long)]
        write: bool,
        /// Print what came of it as JSON.
        #[arg(long)]
        json: bool,
        /// Only those of these names.
        only: Vec<String>,
    },
    /// Build the images of the demo and of the cases into the cache.
    Images,
    /// Build the tools that Debian does not have into the cache.
    Tools,
    /// One case in this process; for the runner's own use.
    #[command(hide = true)]
    Case { name: String },
    /// Registry's counter; for the testbed's own use.
    #[command(hide = true)]
    Counter(registry::counter::Counter),
    /// Registry's token service; for the testbed's own use.
    #[command(hide = true)]
    TokenServer(token::server::TokenServer),
    /// A host that lies; for the testbed's own use.
    #[command(hide = true)]
    Liar(liar::Liar),
    /// A forward proxy; for the testbed's own use.
    #[command(hide = true)]
    Proxy(proxy::ProxyServer),
    /// A BitTorrent tracker; for the testbed's own use.
    #[command(hide = true)]
    Tracker(bench::Tracker),
    /// An empty bed until killed; for a case's own use.
    #[command(hide = true)]
    Hold {
        #[arg(long)]
        print_dir: bool,
    },
    /// Remove what beds left whose testbed was killed.
    Clean {
        /// Also end beds that were kept on purpose.
        #[arg(long)]
        kept: bool,
    },
    /// First process of a bed; for the testbed's own use.
    #[command(hide = true)]
    Init {
        #[arg(long)]
        dir: PathBuf,
        #[arg(long)]
        id: String,
    },
    /// Holder of a host's namespaces; for the testbed's own use.
    #[command(hide = true)]
    Host {
        #[arg(long)]
        dir: PathBuf,
        #[arg(long)]
        name: String,
    },
    /// Link with delay and loss; for the testbed's own use.
    #[command(hide = true)]
    Relay {
        #[arg(long)]
        port: String,
        #[arg(long)]
        switch_pid: i32,
        #[arg(long)]
        delay_us: u64,
        #[arg(long)]
        loss: f64,
    },
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// N hosts pull one blob at once, through Hawker and straight from the registry.
    Swarm(bench::Swarm),
    /// One node pulls and unpacks, with a profile of Hawker and with stock containerd.
    Pull(bench::Pull),
    /// What the content store costs: its answers, a pull, what is written and fetched.
    Content(bench::Content),
    /// What a right to a blob costs, fresh and when many hosts want it at once.
    Access(bench::Access),
    /// What receiving, checking and storing a byte costs a hawkerd, beside the parts alone.
    Receive(bench::Receive),
    /// What sending a byte costs a hawkerd, beside nginx.
    Serve(bench::Serve),
    /// How long a small blob takes: new to the cluster, at a peer, by a fresh hawkerd.
    Small(bench::Small),
    /// Memory of a hawkerd that receives and serves much, with many peers.
    Memory(bench::Memory),
    /// What many blobs cost that nobody asks for.
    Tasks(bench::Tasks),
    /// Memory of a hawkerd that does nothing.
    Idle(bench::Idle),
    /// One node pulls while everything but the registry is dead, silent or slow.
    Hedge(bench::Hedge),
    /// Limits of the network, as set and as measured.
    Limits(bench::Limits),
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Action) -> Result<()> {
    if matches!(
        command,
        Action::Demo(_)
            | Action::Bench(_)
            | Action::Case { .. }
            | Action::Hold { .. }
            | Action::Matrix { .. }
            | Action::Access { .. }
            | Action::Hostile { .. }
    ) {
        bed::clean_up_on_signals()?;
    }
    match command {
        Action::Demo(demo) => {
            demo::check_machine()?;
            demo.run()
        }
        Action::Bench(Bench::Swarm(bench)) => bench.run(),
        Action::Bench(Bench::Pull(bench)) => bench.run(),
        Action::Bench(Bench::Content(bench)) => bench.run(),
        Action::Bench(Bench::Access(bench)) => bench.run(),
        Action::Bench(Bench::Receive(bench)) => bench.run(),
        Action::Bench(Bench::Serve(bench)) => bench.run(),
        Action::Bench(Bench::Small(bench)) => bench.run(),
        Action::Bench(Bench::Memory(bench)) => bench.run(),
        Action::Bench(Bench::Tasks(bench)) => bench.run(),
        Action::Bench(Bench::Idle(bench)) => bench.run(),
        Action::Bench(Bench::Hedge(bench)) => bench.run(),
        Action::Bench(Bench::Limits(bench)) => bench.run(),
        Action::Cases { list: true, .. } => {
            cases::all()
                .iter()
                .for_each(|case| println!("{}", case.name));
            Ok(())
        }
        Action::Cases { filters, long, .. } => cases::run(&filters, long),
        Action::Matrix {
            containerd,
            profile,
            client,
            tried,
            write,
            json,
        } => matrix(
            try_all(&containerd, &profile, &client, &tried)?,
            write,
            json,
        ),
        Action::Access { write, json } => access(write, json),
        Action::Hostile { write, json, only } => hostile(write, json, &only),
        Action::Liar(liar) => liar.run(),
        Action::Images => images(),
        Action::Tools => tools(),
        Action::Case { name } => cases::run_here(&name),
        Action::Counter(counter) => counter.run(),
        Action::TokenServer(server) => server.run(),
        Action::Proxy(proxy) => proxy.run(),
        Action::Tracker(tracker) => tracker.run(),
        Action::Hold { .. } => hold(),
        Action::Clean { kept } => clean(kept),
        Action::Init { dir, id } => bed::init::run(&dir, &id),
        Action::Host { dir, name } => bed::hold(&dir, &name),
        Action::Relay {
            port,
            switch_pid,
            delay_us,
            loss,
        } => bed::relay::run(&port, switch_pid, Duration::from_micros(delay_us), loss),
    }
}

fn clean(kept: bool) -> Result<()> {
    for bed in bed::clean(kept)? {
        match (bed.is_removed, bed.is_running) {
            (true, _) => println!("bed {}: removed", bed.id),
            (false, true) => println!("bed {}: in use or kept, left alone (see --kept)", bed.id),
            (false, false) => println!("bed {}: could not be removed", bed.id),
        }
    }
    Ok(())
}

fn images() -> Result<()> {
    let synthetic = image::Oddity::ALL
        .into_iter()
        .map(|oddity| image::synthetic(oddity, 1));
    for image in [image::python(), image::big_layer(), image::many_layers()]
        .into_iter()
        .chain(synthetic)
    {
        let image = image?;
        let len = image.blobs_len() as f64 / 1e6;
        println!(
            "{}:{} {} {len:.1} MB",
            image.repository, image.tag, image.manifest.digest
        );
    }
    Ok(())
}

fn try_all(
    containerds: &[ContainerdVersion],
    profiles: &[Profile],
    clients: &[Client],
    tried: &[PathBuf],
) -> Result<matrix::Matrix> {
    let mut matrix = matrix::Matrix::default();
    for path in tried {
        let text = std::fs::read(path)?;
        let earlier: matrix::Matrix = serde_json::from_slice(&text)?;
        matrix.outcomes.extend(earlier.outcomes);
    }
    let is_chosen = |version, profile, client| {
        (containerds.is_empty() || containerds.contains(&version))
            && (profiles.is_empty() || profiles.contains(&profile))
            && (clients.is_empty() || clients.contains(&client))
    };
    for profile in Profile::ALL {
        for version in ContainerdVersion::ALL {
            let mut wanted = Client::all_of(version).to_vec();
            wanted.retain(|it| is_chosen(version, profile, *it));
            wanted.retain(|it| !matrix.has(profile, version, *it));
            if wanted.is_empty() {
                continue;
            }
            let (with, on) = (profile.name(), version.name());
            let text = format!("try clients with the profile {with} on containerd {on}");
            let run = || matrix::run(version, profile, &wanted, &matrix::Step::ALL);
            matrix.outcomes.extend(progress::step(&text, run)?);
        }
    }
    Ok(matrix)
}

fn matrix(matrix: matrix::Matrix, write: bool, json: bool) -> Result<()> {
    let page = matrix::document(&matrix);
    if write {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/clients.md");
        std::fs::write(path, &page)?;
    }
    match json {
        true => println!("{}", serde_json::to_string_pretty(&matrix)?),
        false => println!("{page}"),
    }
    matrix::check(&matrix.outcomes)
}

fn access(write: bool, json: bool) -> Result<()> {
    let mut access = access::Access::default();
    let seen = progress::step("ask at the mirror as curl does", access::run_raw)?;
    access.seen.extend(seen);
    for version in ContainerdVersion::ALL {
        let text = format!("pull with the clients of containerd {}", version.name());
        let seen = progress::step(&text, || access::run_daemons(version))?;
        access.seen.extend(seen);
    }
    let page = access::document(&access);
    if write {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/access.md");
        std::fs::write(path, &page)?;
    }
    match json {
        true => println!("{}", serde_json::to_string_pretty(&access)?),
        false => println!("{page}"),
    }
    access::check(&access.seen)
}

fn hostile(write: bool, json: bool, only: &[String]) -> Result<()> {
    let mut villains = hostile::Villain::all();
    villains.retain(|it| only.is_empty() || only.iter().any(|name| name == it.name()));
    let seen = hostile::run(&villains)?;
    let page = hostile::Page { seen };
    let text = hostile::document(&page);
    if write {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/hostile.md");
        std::fs::write(path, &text)?;
    }
    match json {
        true => println!("{}", serde_json::to_string_pretty(&page)?),
        false => println!("{text}"),
    }
    hostile::check(&page.seen)
}

fn tools() -> Result<()> {
    for tool in tools::ALL {
        let dir = progress::step(&format!("build or find {}", tool.name), || tool.dir())?;
        println!("{}", dir.display());
    }
    Ok(())
}

fn hold() -> Result<()> {
    let bed = bed::Bed::start()?;
    bed.add_host("host", &bed::Link::default())?;
    println!("{}", bed.dir().display());
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}
