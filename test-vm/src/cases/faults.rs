//! Registries that misbehave: a clear error or a successful retry, never a wrong blob.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Request;

use super::Case;
use crate::{
    cluster::{Cluster, Topology},
    http as client,
    image::{self, digest_of},
    registry::{AUTHORITY, Action, Fault},
};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "misbehaving_registry_never_gives_a_wrong_blob",
        400,
        never_wrong,
    ),
    Case::new(
        "private_image_is_pulled_with_the_clients_account",
        200,
        private_image,
    ),
    Case::new("credentials_do_not_follow_a_redirect", 200, redirect),
];

const LIMIT: Duration = Duration::from_secs(60);
const LEN: usize = 3_000_000;

/// What a client of the mirror must see.
#[derive(Debug, Clone, Copy)]
enum Expected {
    /// The right bytes, after whatever retries.
    Right,
    /// This status.
    Status(u16),
    /// An error status, or a body that ends before its time.
    Refused,
    /// Any of these: right bytes or a refusal.
    Honest,
}

fn table() -> Vec<(&'static str, Vec<Fault>, Expected)> {
    let blobs = |action| Fault::new("/blobs/", action);
    let status = |status| Fault::status("/blobs/", status);
    let busy = Action::Status {
        status: 429,
        retry_after_seconds: Some(1),
    };
    let basic = Action::Basic {
        user: "u".to_owned(),
        password: "p".to_owned(),
    };
    let bearer = |account: Option<&str>| {
        let account = account.map(str::to_owned);
        Action::Bearer {
            user: account.clone(),
            password: account,
        }
    };
    vec![
        (
            "401 with a Basic challenge",
            vec![blobs(basic)],
            Expected::Status(401),
        ),
        (
            "401, tokens for everybody",
            vec![blobs(bearer(None))],
            Expected::Right,
        ),
        (
            "401, tokens for an account",
            vec![blobs(bearer(Some("u")))],
            Expected::Status(401),
        ),
        ("403", vec![status(403)], Expected::Status(403)),
        ("404", vec![status(404)], Expected::Status(404)),
        ("429 for ever", vec![blobs(busy.clone())], Expected::Refused),
        (
            "429 once with Retry-After",
            vec![blobs(busy).times(1)],
            Expected::Honest,
        ),
        ("500 for ever", vec![status(500)], Expected::Refused),
        ("500 once", vec![status(500).times(1)], Expected::Honest),
        ("redirect", vec![blobs(Action::Redirect)], Expected::Right),
        (
            "body cut once",
            vec![
                blobs(Action::Cut {
                    after_len: 1_000_000,
                })
                .skip(1)
                .times(1),
            ],
            Expected::Right,
        ),
        (
            "body cut three times",
            vec![blobs(Action::Cut { after_len: 700_000 }).skip(1).times(3)],
            Expected::Honest,
        ),
        (
            "range ignored after a cut",
            ignored_range(),
            Expected::Right,
        ),
        (
            "wrong byte for ever",
            vec![blobs(Action::Corrupt { at: 1_500_000 })],
            Expected::Refused,
        ),
        (
            "wrong byte once",
            vec![blobs(Action::Corrupt { at: 1_500_000 }).skip(1).times(1)],
            Expected::Honest,
        ),
        (
            "slow head",
            vec![blobs(Action::Delay { millis: 1_500 })],
            Expected::Right,
        ),
    ]
}

fn ignored_range() -> Vec<Fault> {
    let cut = Fault::new(
        "/blobs/",
        Action::Cut {
            after_len: 1_000_000,
        },
    )
    .skip(1)
    .times(1);
    vec![cut, Fault::new("/blobs/", Action::IgnoreRange)]
}

fn never_wrong() -> Result<()> {
    let topology = Topology {
        nodes: 1,
        has_containerd: false,
        ..Topology::default()
    };
    let cluster = Cluster::start(&topology)?;
    let node = cluster.nodes()[0].host();
    for (number, (name, faults, expected)) in (0..).zip(table()) {
        let blob: Vec<_> = (0..LEN).map(|at| (at % (200 + number)) as u8).collect();
        let digest = digest_of(&blob);
        let path = cluster.registry.push_bytes("blob", &digest, blob.into())?;
        let url = format!("http://127.0.0.1:65001{path}?ns={AUTHORITY}");
        cluster.registry.set_faults(&faults)?;
        let began = std::time::Instant::now();
        let answer = node.enter(|| client::get(&url, LIMIT))?;
        let seconds = began.elapsed().as_secs_f64();
        let seen = answer.as_ref().map_or(0, |answer| answer.status.as_u16());
        let is_right = answer
            .as_ref()
            .is_ok_and(|it| it.status == 200 && digest_of(&it.body) == digest);
        println!("{name}: {seen}, right: {is_right}, {seconds:.1} s");
        let is_refused = !answer
            .as_ref()
            .is_ok_and(|answer| answer.status.is_success());
        let fits = match expected {
            Expected::Right => is_right,
            Expected::Status(status) => seen == status,
            Expected::Refused => is_refused,
            Expected::Honest => is_right || is_refused,
        };
        let log = || cluster.bed().log_tails(20);
        ensure!(fits, "{name}: {answer:?} is not {expected:?}\n{}", log());
        cluster.registry.set_faults(&[])?;
        let again = node
            .enter(|| client::get(&url, LIMIT))?
            .with_context(|| format!("after {name}\n{}", log()))?;
        ensure!(
            digest_of(&again.body) == digest,
            "wrong or no bytes after {name}: {}\n{}",
            again.status,
            log()
        );
    }
    Ok(())
}

fn private_image() -> Result<()> {
    let cluster = Cluster::start(&Topology {
        nodes: 3,
        ..Topology::default()
    })?;
    let (user, password) = ("someone".to_owned(), "secret".to_owned());
    let challenges = [
        Action::Basic {
            user: user.clone(),
            password: password.clone(),
        },
        Action::Bearer {
            user: Some(user),
            password: Some(password),
        },
    ];
    for (seed, challenge) in (40..).zip(challenges) {
        let image = image::synthetic(image::Oddity::Whiteouts, seed)?;
        let reference = cluster.registry.push(&image)?;
        cluster
            .registry
            .set_faults(&[Fault::new("/v2/", challenge)])?;

        let [one, two, stranger] = cluster.nodes() else {
            anyhow::bail!("three nodes")
        };
        let refused = stranger.containerd()?.pull(&reference);
        one.containerd()?.pull_with(&reference, "someone:secret")?;
        two.containerd()?.pull_with(&reference, "someone:secret")?;
        let still_refused = stranger.containerd()?.pull(&reference);

        ensure!(
            refused.is_err() && still_refused.is_err(),
            "a stranger has pulled it"
        );
        for log in cluster
            .bed()
            .hosts()
            .iter()
            .flat_map(|host| host.processes())
        {
            let text = if log.name().starts_with("hawker") {
                log.log_text()
            } else {
                String::new()
            };
            ensure!(
                !text.contains("secret"),
                "a password is in the log of {}",
                log.name()
            );
            ensure!(
                !text.contains("token-of-the-testbed"),
                "a token is in the log of {}",
                log.name()
            );
        }
    }
    Ok(())
}

fn redirect() -> Result<()> {
    let topology = Topology {
        nodes: 1,
        has_containerd: false,
        ..Topology::default()
    };
    let cluster = Cluster::start(&topology)?;
    let blob = vec![5; LEN];
    let digest = digest_of(&blob);
    let path = cluster.registry.push_bytes("blob", &digest, blob.into())?;
    let basic = Action::Basic {
        user: "u".to_owned(),
        password: "p".to_owned(),
    };
    // With the right account the first fault passes on to the registry, which redirects.
    cluster.registry.set_faults(&[Fault::new(
        "/blobs/",
        Action::RedirectWith {
            first: Box::new(basic),
        },
    )])?;

    let request = Request::get(format!("http://127.0.0.1:65001{path}?ns={AUTHORITY}"))
        .header("authorization", "Basic dTpw")
        .body(Bytes::new())?;
    let answer = cluster.nodes()[0]
        .host()
        .enter(|| client::send(request, LIMIT))??;

    ensure!(
        answer.status == 200 && digest_of(&answer.body) == digest,
        "{}",
        answer.status
    );
    let leaked = cluster.registry.tally()?.leaked_credentials;
    ensure!(
        leaked == 0,
        "{leaked} requests carried the account to the storage"
    );
    Ok(())
}
