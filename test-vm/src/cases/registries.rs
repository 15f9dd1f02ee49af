//! The testbed's registry: counts what passes, misbehaves as told.

use std::time::Duration;

use anyhow::{Result, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::Request;

use super::Case;
use crate::{
    bed::{Bed, Link},
    http as client,
    image::digest_of,
    registry::{Action, Fault, Registry, RegistrySetup},
    token::{Account, Grant},
};

pub(super) const CASES: &[Case] = &[
    Case::new("registry_counts_what_is_sent", 60, counts),
    Case::new("registry_misbehaves_as_told", 60, misbehaves),
    Case::new("registry_lets_in_whom_its_token_service_knows", 60, lets_in),
];

const LIMIT: Duration = Duration::from_secs(20);
const LEN: usize = 300_000;

fn counts() -> Result<()> {
    let bed = Bed::start()?;
    let registry = Registry::start(&bed, &Link::default())?;
    let (digest, url) = push(&registry)?;

    for range in ["bytes=0-99", "bytes=0-"] {
        let request = Request::get(&url)
            .header("range", range)
            .body(Bytes::new())?;
        registry
            .host()
            .enter(|| client::send(request, LIMIT))??
            .success()?;
    }

    let traffic = registry.tally()?.of_digest(&digest);
    ensure!(
        traffic.gets == 2 && traffic.body_bytes == 100 + LEN as u64,
        "{traffic:?}"
    );
    registry.reset()?;
    ensure!(registry.tally()?.total.gets == 0);
    Ok(())
}

fn misbehaves() -> Result<()> {
    let bed = Bed::start()?;
    let registry = Registry::start(&bed, &Link::default())?;
    let (digest, url) = push(&registry)?;
    let get = |action: Action| {
        registry.set_faults(&[Fault::new("/blobs/", action).times(1)])?;
        registry.host().enter(|| client::get(&url, LIMIT))?
    };

    let busy = get(Action::Status {
        status: 429,
        retry_after_seconds: Some(7),
    })?;
    let challenged = get(Action::Bearer {
        user: None,
        password: None,
    })?;
    let redirected = get(Action::Redirect)?;
    let cut = get(Action::Cut { after_len: 1_000 });
    let wrong = get(Action::Corrupt { at: 1_000 })?;
    let right = registry.host().enter(|| client::get(&url, LIMIT))??;

    ensure!(busy.status == 429 && busy.header("retry-after") == "7");
    ensure!(
        challenged
            .header("www-authenticate")
            .contains("repository:blob:pull")
    );
    ensure!(
        redirected
            .header("location")
            .starts_with("http://registry:5003/v2/")
    );
    ensure!(cut.is_err(), "the body was whole");
    ensure!(wrong.body.len() == LEN && digest_of(&wrong.body) != digest);
    ensure!(digest_of(&right.body) == digest);
    Ok(())
}

/// What the real registry makes of tokens that the testbed's service signs.
fn lets_in() -> Result<()> {
    let bed = Bed::start()?;
    let registry = Registry::launch(&bed, RegistrySetup::new("harbor").with_tokens())?;
    let digest = digest_of(b"secret");
    let path = registry.push_bytes("team/a", &digest, Bytes::from_static(b"secret"))?;
    let service = registry.tokens()?;
    service.add("robot$ci", Account::new("p", &["team/*"]))?;
    service.add("robot$old", Account::new("p", &["team/*"]).expired())?;
    let url = format!("http://harbor:5000{path}");
    let shown = |authorization: &str| {
        let request = Request::get(&url).header("authorization", authorization);
        let request = request.body(Bytes::new())?;
        registry.host().enter(|| client::send(request, LIMIT))?
    };

    let stranger = registry.host().enter(|| client::get(&url, LIMIT))??;
    let challenge = stranger.header("www-authenticate").to_owned();
    let [own, other, old] = [("team/a", 60), ("team/b", 60), ("team/a", -5)]
        .map(|(name, life)| service.mint_for("robot$ci", &[Grant::pull(name)], life));
    let own = format!("Bearer {}", own?);
    let let_in = shown(&own)?;
    let refused = [
        shown(&format!("Bearer {}", other?))?,
        shown(&format!("Bearer {}", old?))?,
    ];
    registry.revoke(&["robot$ci"])?;
    let revoked = shown(&own)?;

    ensure!(stranger.status == 401 && challenge.contains("scope=\"repository:team/a:pull\""));
    ensure!(challenge.contains(service.realm()), "{challenge}");
    ensure!(
        let_in.status == 200 && let_in.body == "secret",
        "{let_in:?}"
    );
    ensure!(refused.iter().all(|it| it.status == 401), "{refused:?}");
    ensure!(revoked.status == 401, "{revoked:?}");
    registry.revoke(&[])?;
    issues_to_accounts(&registry, &shown)
}

/// As Docker, containerd and whoever refreshes ask for tokens.
fn issues_to_accounts(
    registry: &Registry,
    shown: &dyn Fn(&str) -> Result<client::Answer>,
) -> Result<()> {
    let realm = registry.tokens()?.realm().to_owned();
    let scope = "service=harbor:5000&scope=repository:team/a:pull";
    let get = |account: &str| {
        let basic = format!("Basic {}", STANDARD.encode(account));
        Request::get(format!("{realm}?{scope}&offline_token=true"))
            .header("authorization", basic)
            .body(Bytes::new())
    };
    let post = |form: String| Request::post(&realm).body(Bytes::from(format!("{form}&{scope}")));
    let send = |request| registry.host().enter(|| client::send(request, LIMIT))?;
    let token = |answer: client::Answer, name: &str| -> Result<String> {
        let answer: serde_json::Value = serde_json::from_slice(&answer.success()?.body)?;
        Ok(answer[name].as_str().unwrap_or_default().to_owned())
    };

    let docker = send(get("robot$ci:p")?)?;
    let refresh = token(docker.clone(), "refresh_token")?;
    let form = "grant_type=password&username=robot%24ci&password=p".to_owned();
    let containerd = send(post(form)?)?;
    let refreshed = send(post(format!(
        "grant_type=refresh_token&refresh_token={refresh}"
    ))?)?;
    for answer in [docker, containerd, refreshed] {
        let answer = shown(&format!("Bearer {}", token(answer, "token")?))?;
        ensure!(answer.status == 200, "{answer:?}");
    }
    registry.tokens()?.revoke("robot$ci")?;
    for account in ["robot$ci:q", "robot$old:p", "nobody:p", "robot$ci:p"] {
        let answer = send(get(account)?)?;
        ensure!(answer.status == 401, "{account}: {answer:?}");
    }
    Ok(())
}

fn push(registry: &Registry) -> Result<(String, String)> {
    let blob: Vec<_> = (0..LEN).map(|at| (at % 251) as u8).collect();
    let digest = digest_of(&blob);
    let path = registry.push_bytes("blob", &digest, blob.into())?;
    Ok((digest, format!("http://registry:5000{path}")))
}
