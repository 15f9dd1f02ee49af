//! The testbed's registry: counts what passes, misbehaves as told.

use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::Request;

use super::Case;
use crate::{
    bed::{Bed, Link},
    http as client,
    image::digest_of,
    registry::{Action, Fault, Registry},
};

pub(super) const CASES: &[Case] = &[
    Case::new("registry_counts_what_is_sent", 60, counts),
    Case::new("registry_misbehaves_as_told", 60, misbehaves),
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

fn push(registry: &Registry) -> Result<(String, String)> {
    let blob: Vec<_> = (0..LEN).map(|at| (at % 251) as u8).collect();
    let digest = digest_of(&blob);
    let path = registry.push_bytes("blob", &digest, blob.into())?;
    Ok((digest, format!("http://registry:5000{path}")))
}
