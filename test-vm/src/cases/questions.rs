//! What a registry is asked when many hosts want the same image: of each thing once.

use anyhow::{Result, bail, ensure};

use super::Case;
use crate::{
    access::fixture::{Fixture, HARBOR, PASSWORD, RIGHT, each},
    cluster::{Member, Topology},
    image::{Image, digest_of},
    registry::{Registry, Traffic},
    token::Account,
};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "twelve_hosts_with_one_credential_ask_the_registry_once_for_a_tag_its_manifest_and_layers",
        240,
        one_credential,
    ),
    Case::new(
        "twelve_hosts_with_a_token_each_ask_the_registry_once_for_what_is_public",
        240,
        a_token_each,
    ),
];

const HOSTS: usize = 12;
/// Times that a round is begun anew in which a busy machine kept a seed from answering in time.
const ROUNDS: usize = 5;

fn one_credential() -> Result<()> {
    let fixture = fixture()?;
    let repository = "matrix/once";
    let token = fixture.token(RIGHT, repository)?;
    asks_once(&fixture, repository, &vec![token; HOSTS])
}

fn a_token_each() -> Result<()> {
    let fixture = fixture()?;
    let repository = "public/once";
    let token = |number: usize| -> Result<String> {
        let name = format!("robot$host-{number}");
        let account = Account::new(PASSWORD, &["public/*"]);
        fixture.tokens()?.add(&name, account)?;
        fixture.token(&name, repository)
    };
    let tokens = (0..HOSTS).map(token).collect::<Result<Vec<_>>>()?;
    asks_once(&fixture, repository, &tokens)
}

fn fixture() -> Result<Fixture> {
    Fixture::of(Topology {
        nodes: HOSTS,
        has_containerd: false,
        ..Topology::default()
    })
}

/// All hosts pull an image at once, each with its token, until in one round none of them had to go to
/// the registry by itself: then it was asked once for each thing.
fn asks_once(fixture: &Fixture, repository: &str, tokens: &[String]) -> Result<()> {
    let (harbor, nodes) = (fixture.harbor()?, fixture.cluster().nodes());
    for round in 0..ROUNDS {
        let image = fixture.image(repository, &format!("v{round}"))?;
        harbor.push(&image)?;
        harbor.reset()?;
        let before = by_themselves(nodes)?;
        pull_all(fixture, &image, tokens)?;
        let lone = by_themselves(nodes)? - before;
        let asked = asked(harbor, &image)?;
        println!("round {round}: {lone} answers past the seed, {asked:?}");
        if lone == 0 {
            ensure!(asked.iter().all(|(_, times)| *times == 1), "not once");
            return Ok(());
        }
    }
    bail!("no round in which the seed was in time for all")
}

/// What containerd asks for: the tag, its manifest, config and layers.
fn pull_all(fixture: &Fixture, image: &Image, tokens: &[String]) -> Result<()> {
    let hosts: Vec<_> = fixture.cluster().nodes().iter().zip(tokens).collect();
    let ask = |method: &str, path: &str, digest: Option<&str>| -> Result<()> {
        let path = format!("{}/{path}", image.repository);
        each(&hosts, HOSTS, |(node, token)| {
            let answer = fixture.ask(node, method, HARBOR, &path, Some(token))?;
            let answer = answer.success()?;
            let is_right = digest.is_none_or(|digest| digest_of(&answer.body) == digest);
            ensure!(is_right, "{} got other bytes of {path}", node.name());
            Ok(())
        })
        .map(drop)
    };
    let manifest = image.manifest.digest.as_str();
    ask("HEAD", &format!("manifests/{}", image.tag), None)?;
    ask("GET", &format!("manifests/{manifest}"), Some(manifest))?;
    for blob in image.blobs() {
        ask("GET", &format!("blobs/{}", blob.digest), Some(&blob.digest))?;
    }
    Ok(())
}

/// Manifests that hosts had from the registry and not by a seed's word.
fn by_themselves(nodes: &[Member]) -> Result<u64> {
    let labels = [("by", "origin")];
    let count = |node: &Member| node.metric("hawker_mirror_manifests_total", &labels);
    nodes.iter().map(count).sum()
}

/// How often the registry was asked for the tag and the manifest, and gave what was asked; and how
/// often it sent each blob.
fn asked(harbor: &Registry, image: &Image) -> Result<Vec<(String, u64)>> {
    let tally = harbor.tally()?;
    let granted = |traffic: Traffic| traffic.heads + traffic.gets - traffic.refused;
    let manifests = [image.tag.as_str(), &image.manifest.digest].map(|target| {
        let path = format!("/v2/{}/manifests/{target}", image.repository);
        let traffic = tally.by_path.get(&path).copied().unwrap_or_default();
        (path, granted(traffic))
    });
    let blobs = image.blobs().iter().map(|blob| {
        let sent = tally.of_digest(&blob.digest).body_bytes;
        (blob.digest.clone(), sent.div_ceil(blob.size.max(1)))
    });
    Ok(manifests.into_iter().chain(blobs).collect())
}
