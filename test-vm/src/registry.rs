//! A real registry on a host of a bed, behind a counter that can also misbehave.
//!
//! Clients reach the [`counter`] at `registry:5000`; only pushes go past it, from inside the
//! host, so that every counted byte was asked for by somebody who pulls.

pub mod counter;
mod fault;
mod tally;

use std::{process::Command, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, header};

pub use fault::{Action, Fault};
pub use tally::{Tally, Traffic};

use crate::{
    bed::{Bed, Host, Link},
    http as client,
    image::{Blob, Image},
};

/// What clients call the registry.
pub const AUTHORITY: &str = "registry:5000";
const UPSTREAM: &str = "127.0.0.1:5001";
const CONTROL: &str = "127.0.0.1:5002";
const LIMIT: Duration = Duration::from_secs(60);

/// A running registry with its counter.
#[derive(Debug)]
pub struct Registry {
    host: Arc<Host>,
}

impl Registry {
    /// # Errors
    /// When the registry or the counter does not come up.
    pub fn start(bed: &Bed, link: &Link) -> Result<Self> {
        let host = bed.add_host("registry", link)?;
        host.write("/etc/registry.yml", CONFIG)?;
        let mut command = Command::new("docker-registry");
        let registry = host.spawn("registry", command.args(["serve", "/etc/registry.yml"]))?;
        registry.wait_until(LIMIT, || answers(&host, &format!("http://{UPSTREAM}/v2/")))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["counter", "--upstream", UPSTREAM, "--control", CONTROL]);
        let counter = host.spawn("counter", &mut command)?;
        counter.wait_until(LIMIT, || answers(&host, &format!("http://{CONTROL}/tally")))?;
        Ok(Self { host })
    }

    #[must_use]
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Uploads an image under its own name; every blob is checked by the registry against its
    /// digest. Returns how clients call it.
    ///
    /// # Errors
    /// When the registry refuses something.
    pub fn push(&self, image: &Image) -> Result<String> {
        let push = || {
            for blob in image.blobs() {
                self.push_blob(&image.repository, blob).with_context(|| {
                    format!("failed to push {} of {}", blob.digest, image.repository)
                })?;
            }
            let url = format!(
                "http://{UPSTREAM}/v2/{}/manifests/{}",
                image.repository, image.tag
            );
            let request =
                Request::put(url).header(header::CONTENT_TYPE, &image.manifest.media_type);
            let body = Bytes::from(std::fs::read(image.path(&image.manifest.digest))?);
            let answer = client::send(request.body(body)?, LIMIT)?.success()?;
            let digest = answer.header("docker-content-digest");
            anyhow::ensure!(
                digest == image.manifest.digest,
                "the registry calls it {digest}"
            );
            anyhow::Ok(())
        };
        self.host.enter(push)??;
        Ok(format!("{AUTHORITY}/{}:{}", image.repository, image.tag))
    }

    /// Uploads a blob that no manifest names. Returns its path at the registry.
    ///
    /// # Errors
    /// When the registry refuses it.
    pub fn push_bytes(&self, repository: &str, digest: &str, body: Bytes) -> Result<String> {
        self.host.enter(|| upload(repository, digest, body))??;
        Ok(format!("/v2/{repository}/blobs/{digest}"))
    }

    fn push_blob(&self, repository: &str, blob: &Blob) -> Result<()> {
        upload(
            repository,
            &blob.digest,
            Bytes::from(std::fs::read(&blob.path)?),
        )
    }

    /// What was asked for and sent since the last [`Self::reset`].
    ///
    /// # Errors
    /// When the counter has ended.
    pub fn tally(&self) -> Result<Tally> {
        let answer = self.control("GET", "/tally", Bytes::new())?;
        Ok(serde_json::from_slice(&answer.body)?)
    }

    /// # Errors
    /// When the counter has ended.
    pub fn reset(&self) -> Result<()> {
        self.control("DELETE", "/tally", Bytes::new()).map(drop)
    }

    /// Makes the registry misbehave from now on, in place of earlier faults.
    ///
    /// # Errors
    /// When the counter has ended.
    pub fn set_faults(&self, faults: &[Fault]) -> Result<()> {
        let body = Bytes::from(serde_json::to_vec(faults)?);
        self.control("PUT", "/faults", body).map(drop)
    }

    fn control(&self, method: &str, path: &str, body: Bytes) -> Result<client::Answer> {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{CONTROL}{path}"))
            .body(body)?;
        self.host.enter(|| client::send(request, LIMIT))??.success()
    }
}

fn upload(repository: &str, digest: &str, body: Bytes) -> Result<()> {
    let base = format!("http://{UPSTREAM}/v2/{repository}/blobs");
    let known = client::send(
        Request::head(format!("{base}/{digest}")).body(Bytes::new())?,
        LIMIT,
    )?;
    if known.status.is_success() {
        return Ok(());
    }
    let request = Request::post(format!("{base}/uploads/")).body(Bytes::new())?;
    let opened = client::send(request, LIMIT)?.success()?;
    let location = opened.header("location");
    let join = if location.contains('?') { '&' } else { '?' };
    let request = Request::put(format!("{location}{join}digest={digest}"))
        .header(header::CONTENT_TYPE, "application/octet-stream");
    client::send(request.body(body)?, LIMIT)?
        .success()
        .map(drop)
}

fn answers(host: &Host, url: &str) -> bool {
    matches!(host.enter(|| client::get(url, LIMIT)), Ok(Ok(answer)) if answer.status.is_success())
}

const CONFIG: &str = "\
version: 0.1
log: {level: warn}
storage:
  filesystem: {rootdirectory: /var/lib/registry}
  cache: {blobdescriptor: inmemory}
http:
  addr: 127.0.0.1:5001
  relativeurls: false
";
