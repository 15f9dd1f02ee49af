//! Several credentials for the same private blobs.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use bytes::Bytes;

use super::Case;
use crate::{
    access::fixture::{Fixture, HARBOR, PASSWORD, RIGHT},
    bed::{Link, Rate},
    cluster::{Client, Topology},
    image::{self, digest_of},
    registry::{Action, Fault},
    token::Account,
};

pub(super) const CASES: &[Case] = &[
    Case::new("two_tenants_cost_one_fetch_and_two_checks", 90, two_tenants),
    Case::new("token_that_expires_half_way", 120, expires_half_way),
    Case::new(
        "open_image_is_pulled_while_the_registry_is_down",
        120,
        open_image,
    ),
    Case::new(
        "refusal_of_one_tenant_does_not_fail_another",
        90,
        refused_tenant,
    ),
];

const TEAM: &str = "matrix/team";
const SECOND: &str = "robot$second";

fn noise(len: usize) -> (String, Vec<u8>) {
    let blob: Vec<u8> = (0..len).map(|_| rand::random()).collect();
    (digest_of(&blob), blob)
}

fn topology() -> Topology {
    Topology {
        nodes: 2,
        has_containerd: false,
        ..Topology::default()
    }
}

/// Both members ask at once, each with its own token.
fn ask_both(fixture: &Fixture, digest: &str, tokens: [&str; 2]) -> Result<[u16; 2]> {
    let path = format!("{TEAM}/blobs/{digest}");
    let ask = |member, token| -> Result<u16> {
        let answer = fixture.ask(member, "GET", HARBOR, &path, Some(token))?;
        let is_whole = !answer.status.is_success() || digest_of(&answer.body) == digest;
        ensure!(is_whole, "wrong bytes");
        Ok(answer.status.as_u16())
    };
    thread::scope(|scope| {
        let second = scope.spawn(|| ask(fixture.peer(), tokens[1]));
        let first = ask(fixture.node(), tokens[0])?;
        let second = second.join();
        Ok([
            first,
            second.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?,
        ])
    })
}

fn two_tenants() -> Result<()> {
    let fixture = Fixture::of(topology())?;
    let harbor = fixture.harbor()?;
    fixture
        .tokens()?
        .add(SECOND, Account::new(PASSWORD, &["matrix/*"]))?;
    let (digest, blob) = noise(6_000_000);
    let len = blob.len() as u64;
    harbor.push_bytes(TEAM, &digest, Bytes::from(blob))?;
    let tokens = [fixture.token(RIGHT, TEAM)?, fixture.token(SECOND, TEAM)?];

    let statuses = ask_both(&fixture, &digest, [&tokens[0], &tokens[1]])?;

    let tally = harbor.tally()?;
    let traffic = tally.of_digest(&digest);
    println!("{traffic:?}, {:?}", tally.by_account);
    ensure!(statuses == [200, 200], "{statuses:?}");
    ensure!(traffic.body_bytes == len, "not one fetch: {traffic:?}");
    let checks = [RIGHT, SECOND].map(|account| tally.of_account(account).heads);
    ensure!(checks == [1, 1], "not one check each: {checks:?}");
    Ok(())
}

/// The registry ends connections, and the token's time is over when the seed comes back: it goes on
/// with a fresh one, which the host has for its own login. The client shows nothing.
fn expires_half_way() -> Result<()> {
    let fixture = Fixture::of(Topology {
        nodes: 1,
        registry_link: Link::of_rate(Rate::mbit(24)),
        ..topology()
    })?;
    let (harbor, node) = (fixture.harbor()?, fixture.node());
    fixture.tokens()?.change(|rules| rules.token_seconds = 2)?;
    let (digest, blob) = noise(24_000_000);
    harbor.push_bytes(TEAM, &digest, Bytes::from(blob))?;
    node.host().write("/etc/hawker/harbor.password", PASSWORD)?;
    node.host().restrict("/etc/hawker/harbor.password")?;
    node.restart_with(|settings| {
        let section = format!("[registries.\"{HARBOR}\"]\n");
        let login =
            format!("username = \"{RIGHT}\"\npassword_file = \"/etc/hawker/harbor.password\"\n");
        settings.replace(&section, &format!("{section}{login}"))
    })?;
    let cut = Action::Cut {
        after_len: 8_000_000,
    };
    harbor.set_faults(&[Fault::new(&digest, cut)])?;

    let path = format!("{TEAM}/blobs/{digest}");
    let answer = fixture.ask(node, "GET", HARBOR, &path, None)?;

    let issued = fixture.tokens()?.tally()?.issued;
    let refused = harbor.tally()?.of_digest(&digest).refused;
    println!("{issued:?}, refused {refused}");
    ensure!(
        answer.status == 200 && digest_of(&answer.body) == digest,
        "{}: {}",
        answer.status,
        answer.body.len()
    );
    ensure!(
        issued.get(RIGHT).is_some_and(|times| *times >= 2),
        "{issued:?}"
    );
    let seed = fixture.cluster().seeds()[0].bytes()?;
    ensure!(
        seed.origin >= 24_000_000,
        "the seed has not fetched: {seed:?}"
    );
    Ok(())
}

/// One tenant's token has ended, the other's is good.
fn refused_tenant() -> Result<()> {
    let fixture = Fixture::of(topology())?;
    let harbor = fixture.harbor()?;
    let (digest, blob) = noise(6_000_000);
    harbor.push_bytes(TEAM, &digest, Bytes::from(blob))?;
    fixture
        .tokens()?
        .add(SECOND, Account::new(PASSWORD, &["matrix/*"]))?;
    let tokens = [fixture.token(RIGHT, TEAM)?, fixture.token(SECOND, TEAM)?];
    harbor.revoke(&[RIGHT])?;

    let statuses = ask_both(&fixture, &digest, [&tokens[0], &tokens[1]])?;

    ensure!(statuses == [401, 200], "{statuses:?}");
    Ok(())
}

/// What the registry gave to anybody a moment ago, anybody gets for the time of grace: tag, manifest
/// and layers.
fn open_image() -> Result<()> {
    let fixture = Fixture::of(Topology {
        nodes: 1,
        has_containerd: true,
        mirror: "keep_rights = \"1s\"".to_owned(),
        ..topology()
    })?;
    let registry = &fixture.cluster().registry;
    let image = image::synthetic(image::Oddity::Whiteouts, 90)?;
    let reference = registry.push(&image)?;
    let containerd = fixture.node().containerd()?;
    let client = containerd.client(Client::Crictl);
    client.pull(&reference)?;
    client.remove_image(&reference)?;

    registry.set_open(false)?;
    thread::sleep(Duration::from_secs(2));

    client.pull(&reference)?;
    let other = registry.authority() + "/never/seen:1";
    ensure!(client.pull(&other).is_err(), "{other} came from nowhere");
    Ok(())
}
