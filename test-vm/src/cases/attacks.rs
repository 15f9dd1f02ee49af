//! Attacks on what belongs to somebody else, against the real daemons.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use serde_json::json;

use super::Case;
use crate::{
    access::fixture::{ANNEX, Fixture, HARBOR, OTHER, RIGHT},
    bed::Link,
    cluster::{Client, Member, Topology},
    http::Answer,
    image::{self, Blob, Image, digest_of},
    pki::PrivateCa,
    proxy::{Proxy, ProxyTally},
    registry::{Action, Fault},
    token::Grant,
};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "foreign_manifest_naming_a_private_digest",
        120,
        foreign_manifest,
    ),
    Case::new("stolen_digest_at_the_mirror", 90, stolen_digest),
    Case::new("peer_without_certificate", 90, peer_without_certificate),
    Case::new("seed_token_replay", 90, seed_token_replay),
    Case::new("ssrf_by_ns_redirect_and_realm", 120, ssrf),
];

const LIMIT: Duration = Duration::from_secs(30);
const TEAM: &str = "matrix/team";
const EVIL: &str = "evil/image";

fn topology() -> Topology {
    Topology {
        nodes: 2,
        has_containerd: false,
        ..Topology::default()
    }
}

/// A private blob that the node and a seed hold, since somebody with a right has pulled it.
fn private_blob(fixture: &Fixture, len: usize) -> Result<(String, Vec<u8>)> {
    let blob: Vec<u8> = (0..len).map(|_| rand::random()).collect();
    let digest = digest_of(&blob);
    let harbor = fixture.harbor()?;
    harbor.push_bytes(TEAM, &digest, Bytes::from(blob.clone()))?;
    fixture.fill(fixture.node(), TEAM, &digest)?;
    Ok((digest, blob))
}

fn blob(fixture: &Fixture, at: &Member, place: &str, shown: Option<&str>) -> Result<Answer> {
    let (registry, rest) = place.split_once('/').context("no place")?;
    fixture.ask(at, "GET", registry, rest, shown)
}

/// The attacker's own registry says that it has the victim's layer, of the right length, and answers
/// with other bytes. Everything is allowed there to the attacker.
fn foreign_manifest() -> Result<()> {
    let fixture = Fixture::of(topology())?;
    let annex = fixture.annex()?;
    let victim = fixture.image(TEAM, "victim")?;
    fixture.harbor()?.push(&victim)?;
    for blob in victim.blobs() {
        fixture.fill(fixture.node(), TEAM, &blob.digest)?;
    }
    annex
        .tokens()?
        .change(|rules| rules.public = vec!["evil/*".to_owned()])?;
    fixture.cluster().registry.push(&image::pause()?)?;
    plant(&fixture, &victim)?;

    for member in [fixture.node(), fixture.peer()] {
        for layer in layers(&victim) {
            let place = format!("annex:5000/{EVIL}/blobs/{}", layer.digest);
            let answer = blob(&fixture, member, &place, None)?;
            ensure!(
                digest_of(&answer.body) != layer.digest,
                "{} gave the bytes: {}",
                member.name(),
                answer.status
            );
        }
        let containerd = member.start_containerd()?;
        for client in [Client::Crictl, Client::Ctr] {
            let pulled = containerd.client(client).pull("annex:5000/evil/image:1");
            ensure!(
                pulled.is_err(),
                "{} of {} pulled it",
                client.name(),
                member.name()
            );
        }
    }
    // The tenant itself is not disturbed.
    for layer in victim.blobs() {
        fixture.fill(fixture.peer(), TEAM, &layer.digest)?;
    }
    Ok(())
}

/// What the attacker does not have; the config is as good as known.
fn layers(image: &Image) -> impl Iterator<Item = &Blob> {
    let blobs = image.blobs().iter();
    blobs.filter(|it| it.digest != image.config().digest)
}

/// A manifest with the victim's layers at the attacker's registry, with bytes of the same length.
fn plant(fixture: &Fixture, victim: &Image) -> Result<()> {
    let annex = fixture.annex()?;
    let config = victim.config();
    let text = std::fs::read(victim.path(&config.digest))?;
    annex.push_bytes(EVIL, &config.digest, Bytes::from(text))?;
    let layers = victim
        .blobs()
        .iter()
        .filter(|it| it.digest != config.digest);
    let mut named = Vec::new();
    for layer in layers {
        let other: Vec<u8> = (0..layer.size).map(|_| rand::random()).collect();
        annex.plant_blob(EVIL, &layer.digest, &other)?;
        named.push(json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": layer.digest,
            "size": layer.size,
        }));
    }
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": named,
    });
    let bytes = serde_json::to_vec(&manifest)?;
    annex.plant_manifest(EVIL, "1", &bytes).map(drop)
}

/// Whoever knows a digest asks for it wherever it might be had.
fn stolen_digest() -> Result<()> {
    let fixture = Fixture::of(topology())?;
    let (digest, _) = private_blob(&fixture, 200_000)?;
    fixture.harbor()?.push_bytes(
        "elsewhere/own",
        &digest_of(b"own"),
        Bytes::from_static(b"own"),
    )?;
    let own = fixture.token(OTHER, "elsewhere/own")?;
    let at_annex = fixture.annex()?.tokens()?;
    let at_annex = at_annex.mint(ANNEX, &[Grant::pull(TEAM)])?;
    let at_annex = format!("Bearer {at_annex}");
    let tries = [
        (format!("{HARBOR}/{TEAM}/blobs/{digest}"), None, 401),
        (format!("{HARBOR}/{TEAM}/blobs/{digest}"), Some(&own), 401),
        (
            format!("{HARBOR}/{TEAM}/blobs/{digest}"),
            Some(&at_annex),
            401,
        ),
        (
            format!("{HARBOR}/elsewhere/own/blobs/{digest}"),
            Some(&own),
            404,
        ),
        (
            format!("annex:5000/{TEAM}/blobs/{digest}"),
            Some(&at_annex),
            404,
        ),
        (format!("registry:5000/any/blobs/{digest}"), None, 404),
    ];
    for member in [fixture.node(), fixture.peer()] {
        for (place, shown, status) in &tries {
            for method in ["HEAD", "GET"] {
                let (registry, rest) = place.split_once('/').context("no place")?;
                let shown = shown.map(String::as_str);
                let answer = fixture.ask(member, method, registry, rest, shown)?;
                let seen = answer.status.as_u16();
                ensure!(
                    seen == *status && digest_of(&answer.body) != digest,
                    "{method} {place} at {}: {seen}: {}",
                    member.name(),
                    answer.text()
                );
            }
        }
        let url = format!("http://{HARBOR}/v2/{TEAM}/blobs/{digest}");
        let got = member.hawker(&["get", &url, "-o", "/run/stolen"], LIMIT)?;
        ensure!(
            !got.status.success(),
            "hawker get has it at {}",
            member.name()
        );
    }
    Ok(())
}

/// Strangers at a peer's port: without TLS, without a certificate, with one of another authority.
fn peer_without_certificate() -> Result<()> {
    let fixture = Fixture::of(topology())?;
    private_blob(&fixture, 200_000)?;
    let cluster = fixture.cluster();
    let intruder = cluster.registry.host();
    let foreign = PrivateCa::create("stranger")?.client("node2")?;
    intruder.write("/run/cert.pem", foreign.cert_pem)?;
    intruder.write("/run/key.pem", foreign.key_pem)?;
    let own = ["-cert", "/run/cert.pem", "-key", "/run/key.pem"];
    for member in [fixture.node(), &cluster.seeds()[0]] {
        let address = format!("{}:4005", member.name());
        for certificate in [&[][..], &own] {
            let mut command = Command::new("timeout");
            command.args(["20", "openssl", "s_client", "-connect", &address]);
            command
                .args(["-alpn", "hawker/1", "-ign_eof"])
                .args(certificate);
            let output = intruder.run(&mut command, LIMIT)?;
            let words = format!("{}{}", output.stdout, output.stderr).to_lowercase();
            ensure!(
                words.contains("alert") && output.status.code() != Some(124),
                "{} lets in {certificate:?}: {}\n{words}",
                member.name(),
                output.status
            );
        }
        let plain = intruder.enter(|| speak_plainly(&address))??;
        ensure!(
            plain.len() < 64,
            "{} told a stranger {} bytes",
            member.name(),
            plain.len()
        );
    }
    Ok(())
}

/// What a peer answers to one who speaks the protocol without TLS.
fn speak_plainly(address: &str) -> Result<Vec<u8>> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(&[0, 0, 0, 9, 1, b'h', b'a', b'w', b'k', b'e', b'r', 0, 1])?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut told = Vec::new();
    // Whether it hangs up or resets is the same to a stranger.
    stream.read_to_end(&mut told).ok();
    Ok(told)
}

/// A seed has fetched with a tenant's token. Nobody else gets anything for it: not without a
/// credential, not of the same repository, not when the task has ended.
fn seed_token_replay() -> Result<()> {
    let fixture = Fixture::of(topology())?;
    let harbor = fixture.harbor()?;
    let [first, second] = [b"first", b"other"].map(|text| text.repeat(20_000));
    for blob in [&first, &second] {
        harbor.push_bytes(TEAM, &digest_of(blob), Bytes::from(blob.clone()))?;
    }
    let token = fixture.token(RIGHT, TEAM)?;
    let place = |blob: &[u8]| format!("{HARBOR}/{TEAM}/blobs/{}", digest_of(blob));
    let own = blob(&fixture, fixture.node(), &place(&first), Some(&token))?;
    ensure!(
        own.body == first,
        "the tenant has not got it: {}",
        own.status
    );
    let seed = fixture.cluster().seeds()[0].bytes()?;
    ensure!(
        seed.origin >= first.len() as u64,
        "the seed has not fetched: {seed:?}"
    );
    let before = harbor.tally()?.of_account(RIGHT);

    let stranger = |what: &[u8], at: &Member, shown: Option<&str>| -> Result<()> {
        let answer = blob(&fixture, at, &place(what), shown)?;
        let is_refused = answer.status == 401 && answer.body != what;
        let name = at.name();
        ensure!(is_refused, "{name} gave it: {}", answer.status);
        Ok(())
    };
    let other = fixture.token(OTHER, "elsewhere/own")?;
    for member in [fixture.peer(), fixture.node()] {
        for shown in [None, Some(other.as_str())] {
            stranger(&first, member, shown)?;
            stranger(&second, member, shown)?;
        }
    }
    let after = harbor.tally()?.of_account(RIGHT);
    ensure!(
        before == after,
        "the tenant's token was shown for others: {before:?}, then {after:?}"
    );
    Ok(())
}

/// Requests, redirects and realms that lead to what only hosts of the network may reach.
fn ssrf() -> Result<()> {
    let fixture = Fixture::of(Topology {
        nodes: 1,
        has_containerd: false,
        allow_private: ["harbor", "registry"].map(str::to_owned).to_vec(),
        ..Topology::default()
    })?;
    // Known to nobody: an inner service that happens to speak HTTP.
    let inner = fixture
        .cluster()
        .bed()
        .add_host("inner", &Link::default())?;
    let service = Proxy::start(&inner, None, None)?;
    let open = &fixture.cluster().registry;
    let node = fixture.node();
    let digest = digest_of(b"anything");
    let path = open.push_bytes("any", &digest, Bytes::from_static(b"anything"))?;
    let path = path.trim_start_matches("/v2/");
    let address = inner.address();
    for registry in [
        "inner:3128",
        &format!("{address}:3128"),
        "127.0.0.1:4002",
        "localhost:4002",
        "[::1]:4002",
        "169.254.169.254",
        "2130706433:4002",
        "0x7f000001:4002",
        "harbor@inner:3128",
    ] {
        let answer = fixture.ask(node, "GET", registry, path, None)?;
        let status = answer.status.as_u16();
        ensure!(
            (400..=504).contains(&status) && !answer.text().contains("hawker_"),
            "{registry}: {status}: {}",
            answer.text()
        );
    }
    let lures = [
        Action::RedirectTo {
            base: "http://inner:3128".to_owned(),
        },
        Action::RedirectTo {
            base: "http://127.0.0.1:4002/metrics?".to_owned(),
        },
        Action::Realm {
            realm: "http://inner:3128/token".to_owned(),
        },
        Action::Realm {
            realm: "http://127.0.0.1:4002/metrics".to_owned(),
        },
    ];
    for lure in lures {
        open.set_faults(&[Fault::new("/v2/", lure.clone())])?;
        let answer = fixture.ask(node, "GET", "registry:5000", path, None)?;
        ensure!(
            !answer.status.is_success() && !answer.text().contains("hawker_"),
            "{lure:?}: {}: {}",
            answer.status,
            answer.text()
        );
    }
    let reached = service.tally()?;
    ensure!(
        reached == ProxyTally::default(),
        "the inner service was asked: {reached:?}"
    );
    Ok(())
}
