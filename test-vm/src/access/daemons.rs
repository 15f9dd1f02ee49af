//! Pulls by the clients of containerd and of Docker.

use std::{thread, time::Duration};

use anyhow::{Context, Result};

use super::{
    Asker, Cell, Outcome, Reach, Seen, Shown, State,
    fixture::{self, Fixture, HARBOR, HUB, KEEP},
};
use crate::{
    bed::Output,
    cluster::{Client, Containerd, ContainerdVersion, Docker, Login},
    image::{self, Image},
};

/// Longer than all pulls of the outage take on a slow machine.
const GRACE: Duration = Duration::from_secs(240);
const AT_ONCE: usize = 4;
/// What containerds of the matrix know of the registry: the mirror, and nothing to go on with.
const HOSTS: &str = "\
server = \"http://127.0.0.1:65001\"
[host.\"http://127.0.0.1:65001\"]
capabilities = [\"pull\", \"resolve\"]
";
const CERTS: &str = "/etc/containerd/certs.d";
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// The clients of the node.
struct Daemons {
    containerd: Containerd,
    docker: Option<Docker>,
}

/// A cell with its image.
struct Question {
    cell: Cell,
    repository: String,
    tag: String,
    /// Nothing where there is none.
    image: Option<Image>,
}

pub(super) fn run(version: ContainerdVersion) -> Result<Vec<Seen>> {
    let fixture = Fixture::start(version, GRACE)?;
    let node = fixture.node();
    node.host()
        .write(&format!("{CERTS}/{HARBOR}/hosts.toml"), HOSTS)?;
    fixture.cluster().registry.push(&image::pause()?)?;
    let has_docker = version == ContainerdVersion::Debian;
    let daemons = Daemons {
        containerd: node.start_containerd()?,
        docker: has_docker.then(|| node.start_docker()).transpose()?,
    };
    let clients = [Client::Crictl, Client::Ctr];
    let mut askers = clients.map(|it| Asker::Containerd(version, it)).to_vec();
    askers.extend(has_docker.then_some(Asker::Docker));
    for &asker in &askers {
        warm_up(&fixture, &daemons, asker)?;
    }
    fixture.end_accounts()?;

    let mut seen = try_all(&fixture, &daemons, &askers, Reach::Up)?;
    let grace = prepare_all(&fixture, &askers, Reach::Grace)?;
    fixture.harbor()?.set_open(false)?;
    thread::sleep(2 * KEEP);
    seen.extend(ask_all(&fixture, &daemons, &grace)?);
    Ok(seen)
}

/// The accounts that will end have a right before.
fn warm_up(fixture: &Fixture, daemons: &Daemons, asker: Asker) -> Result<()> {
    for shown in [Shown::Expired, Shown::Revoked] {
        let cell = Cell {
            asker,
            shown,
            state: State::Origin,
            reach: Reach::Down,
        };
        let question = Question::prepare(fixture, cell)?;
        let (outcome, words) = daemons.ask(&question)?;
        let is_warm = outcome == Outcome::Bytes;
        is_warm.then_some(()).with_context(|| {
            let asker = asker.name();
            format!("{asker} has no right with an account that holds: {words}")
        })?;
    }
    Ok(())
}

fn try_all(
    fixture: &Fixture,
    daemons: &Daemons,
    askers: &[Asker],
    reach: Reach,
) -> Result<Vec<Seen>> {
    let questions = prepare_all(fixture, askers, reach)?;
    ask_all(fixture, daemons, &questions)
}

fn prepare_all(fixture: &Fixture, askers: &[Asker], reach: Reach) -> Result<Vec<Question>> {
    let cells = askers.iter().flat_map(|asker| asker.cells());
    let cells: Vec<_> = cells.filter(|cell| cell.reach == reach).collect();
    fixture::each(&cells, AT_ONCE, |cell| Question::prepare(fixture, *cell))
}

/// Docker's pulls one after the other, since it says in its log what it was told.
fn ask_all(fixture: &Fixture, daemons: &Daemons, questions: &[Question]) -> Result<Vec<Seen>> {
    let of = |is_docker| -> Vec<&Question> {
        let fits = |it: &&Question| (it.cell.asker == Asker::Docker) == is_docker;
        questions.iter().filter(fits).collect()
    };
    let see = |question: &&Question| -> Result<Seen> {
        let (outcome, words) = daemons.ask(question)?;
        Ok(Seen {
            cell: question.cell,
            outcome,
            copies: question.copies(fixture)?,
            words,
        })
    };
    let (docker, others) = (of(true), of(false));
    thread::scope(|scope| {
        let docker = scope.spawn(|| fixture::each(&docker, 1, see));
        let mut seen = fixture::each(&others, AT_ONCE, see)?;
        let docker = docker.join();
        seen.extend(docker.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        Ok(seen)
    })
}

impl Question {
    /// Pushes a cell's image and brings its blobs to where they have to be.
    fn prepare(fixture: &Fixture, cell: Cell) -> Result<Self> {
        let owner = match cell.shown {
            Shown::NothingAtPublic => "public",
            _ => "matrix",
        };
        let client = match cell.asker {
            Asker::Containerd(_, client) => client.name(),
            Asker::Docker => "docker",
            Asker::Raw => "curl",
        };
        let repository = format!("{owner}/{client}");
        let tag = format!("{:?}-{:?}-{:?}", cell.shown, cell.state, cell.reach);
        let tag = format!("{client}-{}", tag.to_lowercase());
        let mut this = Self {
            cell,
            repository,
            tag,
            image: None,
        };
        if cell.state != State::Unknown {
            let image = fixture.image(&this.repository, &this.tag)?;
            fixture.harbor()?.push(&image)?;
            this.image = Some(image);
            this.fill(fixture)?;
        }
        if cell.reach == Reach::Grace && cell.shown == Shown::NothingAtPublic {
            this.establish(fixture)?;
        }
        Ok(this)
    }

    fn fill(&self, fixture: &Fixture) -> Result<()> {
        let member = match self.cell.state {
            State::Unknown | State::Origin => return Ok(()),
            State::Peer => fixture.peer(),
            State::Local => fixture.node(),
        };
        let mut blobs = self.image.iter().flat_map(Image::blobs);
        blobs.try_for_each(|blob| fixture.fill(member, &self.repository, &blob.digest))
    }

    /// Asks for what a pull asks for, without the blobs themselves.
    fn establish(&self, fixture: &Fixture) -> Result<()> {
        let (node, registry) = (fixture.node(), self.registry());
        let ask = |method: &str, what: &str| {
            let path = format!("{}/{what}", self.repository);
            fixture.ask(node, method, registry, &path, None).map(drop)
        };
        let Some(image) = &self.image else {
            return Ok(());
        };
        for name in [&self.tag, &image.manifest.digest] {
            ask("HEAD", &format!("manifests/{name}"))?;
            ask("GET", &format!("manifests/{name}"))?;
        }
        let mut blobs = image.blobs().iter();
        blobs.try_for_each(|blob| ask("HEAD", &format!("blobs/{}", blob.digest)))
    }

    /// As the client calls it.
    fn registry(&self) -> &'static str {
        match self.cell.asker {
            Asker::Docker => HUB,
            Asker::Containerd(..) | Asker::Raw => HARBOR,
        }
    }

    fn copies(&self, fixture: &Fixture) -> Result<f64> {
        let largest = self.image.as_ref().and_then(Image::largest);
        largest.map_or(Ok(0.0), |blob| fixture.copies(&blob.digest, blob.size))
    }
}

impl Daemons {
    /// Pulls; what came of it, and the words for it.
    fn ask(&self, question: &Question) -> Result<(Outcome, String)> {
        let Question {
            cell,
            repository,
            tag,
            ..
        } = question;
        let account = fixture::account(cell.shown);
        match (cell.asker, &self.docker) {
            (Asker::Containerd(_, client), _) => {
                let mut session = self.containerd.client(client);
                if let Some(account) = &account {
                    session = session.with_account(account);
                }
                let output = session.try_pull(&format!("{HARBOR}/{repository}:{tag}"))?;
                Ok(judge(&output, &output.stderr))
            }
            (Asker::Docker, Some(docker)) => {
                let login = account.map(|account| Login {
                    registry: DOCKER_HUB.to_owned(),
                    account,
                });
                let before = docker.process().log_text().len();
                let output = docker.try_pull(&format!("{repository}:{tag}"), login.as_ref())?;
                let log = docker.process().log_text();
                Ok(judge(&output, what_the_mirror_said(&log[before..])))
            }
            (Asker::Docker | Asker::Raw, _) => anyhow::bail!("no such client here"),
        }
    }
}

/// Docker goes on to Docker Hub itself, and tells people what came of that.
fn what_the_mirror_said(log: &str) -> &str {
    let mut lines = log.lines();
    let first = lines.find(|line| line.contains("Attempting next endpoint"));
    first.unwrap_or(log)
}

fn judge(output: &Output, words: &str) -> (Outcome, String) {
    let line = words.trim().lines().last().unwrap_or_default();
    if output.status.success() {
        return (Outcome::Bytes, String::new());
    }
    let words: String = line.chars().take(600).collect();
    (outcome(&words), words)
}

/// What clients mean by their words.
fn outcome(words: &str) -> Outcome {
    let words = words.to_lowercase();
    let says = |all: &[&str]| all.iter().any(|it| words.contains(it));
    if says(&["oauth token", "anonymous token", "incorrect username"]) {
        // The service is down with the registry.
        return match says(&["401", "incorrect username"]) {
            true => Outcome::NoToken,
            false => Outcome::Unavailable,
        };
    }
    if says(&[
        "authorization failed",
        "unauthorized",
        "denied",
        "insufficient_scope",
        "403 forbidden",
    ]) {
        return Outcome::Refused;
    }
    if says(&["not found", "manifest unknown", "does not exist"]) {
        return Outcome::NotFound;
    }
    Outcome::Unavailable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_clients_are_understood() {
        let cases = [
            (
                "failed to authorize: failed to fetch oauth token: unexpected status: 401 Unauthorized",
                Outcome::NoToken,
            ),
            (
                "pull access denied, repository does not exist or may require authorization: \
                 authorization failed: no basic auth credentials",
                Outcome::Refused,
            ),
            ("harbor:5000/matrix/a:b: not found", Outcome::NotFound),
            (
                "unexpected status from HEAD request to http://127.0.0.1: 503 Service Unavailable",
                Outcome::Unavailable,
            ),
        ];
        for (words, expected) in cases {
            assert_eq!(outcome(words), expected, "{words}");
        }
    }
}
