//! Requests for blobs at the mirror, as curl would make them.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use bytes::Bytes;

use super::{
    Asker, Cell, Outcome, Reach, Seen, Shown, State,
    fixture::{self, Fixture, HARBOR, KEEP},
};
use crate::{cluster::ContainerdVersion, http::Answer, image::digest_of};

const GRACE: Duration = Duration::from_secs(20);
/// For how long the token holds that expires.
const LIFE: Duration = Duration::from_secs(8);
const AT_ONCE: usize = 8;
const LEN: usize = 5000;

/// A cell with its blob.
struct Question {
    cell: Cell,
    repository: &'static str,
    digest: String,
    authorization: Option<String>,
}

pub(super) fn run() -> Result<Vec<Seen>> {
    let fixture = Fixture::start(ContainerdVersion::default(), GRACE)?;
    let questions = fixture::each(&Asker::Raw.cells(), AT_ONCE, |cell| {
        prepare(&fixture, *cell)
    })?;
    let at = |reach| -> Vec<&Question> {
        questions
            .iter()
            .filter(|it| it.cell.reach == reach)
            .collect()
    };
    let ask = |reach| fixture::each(&at(reach), AT_ONCE, |question| see(&fixture, question));
    let began = Instant::now();
    let mut questions_up = at(Reach::Up);
    questions_up.extend(at(Reach::Grace));
    establish(&fixture, &questions_up)?;
    fixture.end_accounts()?;
    thread::sleep((LIFE + KEEP).saturating_sub(began.elapsed()));

    let mut seen = ask(Reach::Up)?;
    // What was revoked has been refused above; whatever else stood is established anew.
    let stands = |question: &&Question| question.cell.shown != Shown::Expired;
    let again: Vec<_> = at(Reach::Grace).into_iter().filter(stands).collect();
    establish(&fixture, &again)?;
    fixture.harbor()?.set_open(false)?;
    let down = Instant::now();
    seen.extend(ask(Reach::Down)?);
    thread::sleep(KEEP);
    seen.extend(ask(Reach::Grace)?);
    thread::sleep((GRACE + KEEP + KEEP).saturating_sub(down.elapsed()));
    seen.extend(ask(Reach::Over)?);
    Ok(seen)
}

/// Puts a cell's blob where it has to be.
fn prepare(fixture: &Fixture, cell: Cell) -> Result<Question> {
    let repository = match cell.shown {
        Shown::NothingAtPublic => "public/curl",
        _ => "matrix/curl",
    };
    let blob: Vec<u8> = (0..LEN).map(|_| rand::random()).collect();
    let digest = digest_of(&blob);
    if cell.state != State::Unknown {
        let harbor = fixture.harbor()?;
        harbor.push_bytes(repository, &digest, Bytes::from(blob))?;
    }
    match cell.state {
        State::Unknown | State::Origin => {}
        State::Peer => fixture.fill(fixture.peer(), repository, &digest)?,
        State::Local => fixture.fill(fixture.node(), repository, &digest)?,
    }
    Ok(Question {
        cell,
        repository,
        digest,
        authorization: fixture::authorization(fixture, cell.shown, repository, LIFE)?,
    })
}

/// Lets everybody ask once who may: what is granted is remembered.
fn establish(fixture: &Fixture, questions: &[&Question]) -> Result<()> {
    fixture::each(questions, AT_ONCE, |question| {
        question.ask(fixture, "HEAD").map(drop)
    })
    .map(drop)
}

fn see(fixture: &Fixture, question: &Question) -> Result<Seen> {
    let answer = question.ask(fixture, "GET")?;
    let outcome = match answer.status.as_u16() {
        200 if digest_of(&answer.body) == question.digest => Outcome::Bytes,
        401 | 403 => Outcome::Refused,
        404 => Outcome::NotFound,
        500..=599 => Outcome::Unavailable,
        status => anyhow::bail!("an answer {status}: {}", answer.text()),
    };
    let words = match outcome {
        Outcome::Bytes => String::new(),
        _ => format!("{}: {}", answer.status, answer.text().trim()),
    };
    Ok(Seen {
        cell: question.cell,
        outcome,
        copies: fixture.copies(&question.digest, LEN as u64)?,
        words,
    })
}

impl Question {
    fn ask(&self, fixture: &Fixture, method: &str) -> Result<Answer> {
        let path = format!("{}/blobs/{}", self.repository, self.digest);
        let authorization = self.authorization.as_deref();
        fixture
            .ask(fixture.node(), method, HARBOR, &path, authorization)
            .with_context(|| format!("{:?}", self.cell))
    }
}
