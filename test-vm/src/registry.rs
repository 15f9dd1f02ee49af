//! A real registry on a host of a bed, behind a counter that can also misbehave.
//!
//! Clients reach the [`counter`] at `registry:5000`; only pushes go past it, from inside the
//! host, so that every counted byte was asked for by somebody who pulls.

pub mod counter;
mod credential;
mod fault;
mod setup;
mod tally;

use std::{collections::BTreeSet, process::Command, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Request, header};

pub use fault::{Action, Fault};
pub use setup::{Gate, RegistrySetup, Tls};
pub use tally::{Tally, Traffic};

use self::setup::Pass;
use crate::{
    bed::{Bed, Host, Link},
    http as client,
    image::Image,
    token::{Grant, TokenService, await_port},
};

/// What clients call the registry.
pub const AUTHORITY: &str = "registry:5000";
const UPSTREAM: &str = "127.0.0.1:5001";
const CONTROL: &str = "127.0.0.1:5002";
const STORAGE_PORT: u16 = 5003;
const STORAGE: &str = "/var/lib/registry/docker/registry/v2";
const LIMIT: Duration = Duration::from_secs(60);

/// A running registry with its counter.
#[derive(Debug)]
pub struct Registry {
    host: Arc<Host>,
    setup: RegistrySetup,
    pass: Pass,
}

impl Registry {
    /// The open registry of a bed.
    ///
    /// # Errors
    /// When the registry or the counter does not come up.
    pub fn start(bed: &Bed, link: &Link) -> Result<Self> {
        let mut setup = RegistrySetup::new("registry");
        setup.link = *link;
        Self::launch(bed, setup)
    }

    /// Any registry, on a host of its own.
    ///
    /// # Errors
    /// When the registry, its counter or its gate does not come up.
    pub fn launch(bed: &Bed, setup: RegistrySetup) -> Result<Self> {
        let host = bed.add_host(&setup.name, &setup.link)?;
        let tls = setup.install_tls(&host)?;
        let (pass, gate) = setup.start_gate(&host)?;
        host.write("/etc/registry.yml", format!("{CONFIG}{gate}"))?;
        let mut command = Command::new("docker-registry");
        let registry = host.spawn("registry", command.args(["serve", "/etc/registry.yml"]))?;
        registry.wait_until(LIMIT, || answers(&host, &format!("http://{UPSTREAM}/")))?;
        let mut command = Command::new(std::env::current_exe()?);
        let (port, storage) = (setup.port.to_string(), STORAGE_PORT.to_string());
        command.args(["counter", "--upstream", UPSTREAM, "--control", CONTROL]);
        command.args(["--port", &port, "--storage-port", &storage]);
        if setup.gate != Gate::Open {
            command.arg("--passes-credentials");
        }
        command.args(tls.into_iter().flat_map(|dir| ["--tls", dir]));
        let counter = host.spawn("counter", &mut command)?;
        counter.wait_until(LIMIT, || answers(&host, &format!("http://{CONTROL}/tally")))?;
        Ok(Self { host, setup, pass })
    }

    /// What clients write before the repository.
    #[must_use]
    pub fn authority(&self) -> String {
        self.setup.authority()
    }

    /// The base of its URLs.
    #[must_use]
    pub fn url(&self) -> String {
        self.setup.url()
    }

    /// The service that issues its tokens.
    ///
    /// # Errors
    /// When it has none.
    pub fn tokens(&self) -> Result<&TokenService> {
        match &self.pass {
            Pass::Token(service) => Ok(service),
            _ => anyhow::bail!("{} has no token service", self.setup.name),
        }
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
        let pusher = self.pusher(&image.repository)?;
        let push = || {
            for blob in image.blobs() {
                let body = Bytes::from(std::fs::read(&blob.path)?);
                pusher.blob(&blob.digest, body).with_context(|| {
                    format!("failed to push {} of {}", blob.digest, image.repository)
                })?;
            }
            let body = Bytes::from(std::fs::read(image.path(&image.manifest.digest))?);
            let digest = pusher.manifest(&image.tag, &image.manifest.media_type, body)?;
            anyhow::ensure!(
                digest == image.manifest.digest,
                "the registry calls it {digest}"
            );
            anyhow::Ok(())
        };
        self.host.enter(push)??;
        let authority = self.authority();
        Ok(format!("{authority}/{}:{}", image.repository, image.tag))
    }

    /// Uploads a blob that no manifest names. Returns its path at the registry.
    ///
    /// # Errors
    /// When the registry refuses it.
    pub fn push_bytes(&self, repository: &str, digest: &str, body: Bytes) -> Result<String> {
        let pusher = self.pusher(repository)?;
        self.host.enter(|| pusher.blob(digest, body))??;
        Ok(format!("/v2/{repository}/blobs/{digest}"))
    }

    /// Puts bytes into the registry's storage under a digest that need not be theirs: what a registry
    /// says whose owner lies, and the quickest way to many blobs.
    ///
    /// # Errors
    /// When the file system refuses, or the digest is none.
    pub fn plant_blob(&self, repository: &str, digest: &str, bytes: &[u8]) -> Result<()> {
        let hex = plant_data(&self.host, digest, bytes)?;
        let link = format!("{STORAGE}/repositories/{repository}/_layers/sha256/{hex}/link");
        self.host.write(&link, digest)
    }

    /// Takes the bytes of a planted blob away again.
    ///
    /// # Errors
    /// When they are not there.
    pub fn unplant_blob(&self, digest: &str) -> Result<()> {
        let path = self.host.path(&data_path(digest)?);
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }

    /// Puts a manifest into the registry's storage, whatever it names.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn plant_manifest(&self, repository: &str, tag: &str, bytes: &[u8]) -> Result<String> {
        let digest = crate::image::digest_of(bytes);
        let hex = plant_data(&self.host, &digest, bytes)?;
        let base = format!("{STORAGE}/repositories/{repository}/_manifests");
        let links = [
            format!("{base}/revisions/sha256/{hex}/link"),
            format!("{base}/tags/{tag}/current/link"),
            format!("{base}/tags/{tag}/index/sha256/{hex}/link"),
        ];
        for link in links {
            self.host.write(&link, &digest)?;
        }
        Ok(digest)
    }

    fn pusher(&self, repository: &str) -> Result<Pusher> {
        let authorization = match &self.pass {
            Pass::None => None,
            Pass::Basic(user, password) => Some(format!(
                "Basic {}",
                STANDARD.encode(format!("{user}:{password}"))
            )),
            Pass::Token(service) => {
                let access = [Grant::of(repository, &["pull", "push"])];
                Some(format!("Bearer {}", service.mint("testbed", &access)?))
            }
        };
        Ok(Pusher {
            repository: repository.to_owned(),
            authorization: authorization.map(|it| it.parse()).transpose()?,
        })
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

    /// Refuses the credentials of these accounts from now on, also tokens that were issued before.
    ///
    /// # Errors
    /// When the counter has ended.
    pub fn revoke(&self, accounts: &[&str]) -> Result<()> {
        let accounts: BTreeSet<_> = accounts.iter().collect();
        let body = Bytes::from(serde_json::to_vec(&accounts)?);
        self.control("PUT", "/revoked", body).map(drop)
    }

    /// Refuses connections, or takes them again; its token service too.
    ///
    /// # Errors
    /// When the counter or the token service has ended.
    pub fn set_open(&self, is_open: bool) -> Result<()> {
        let body = Bytes::from(serde_json::to_vec(&is_open)?);
        self.control("PUT", "/open", body)?;
        let address = format!("{}:{}", self.host.address(), self.setup.port);
        await_port(&self.host, &address, is_open)?;
        match &self.pass {
            Pass::Token(service) => service.set_open(is_open),
            _ => Ok(()),
        }
    }

    fn control(&self, method: &str, path: &str, body: Bytes) -> Result<client::Answer> {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{CONTROL}{path}"))
            .body(body)?;
        self.host.enter(|| client::send(request, LIMIT))??.success()
    }
}

fn plant_data(host: &Host, digest: &str, bytes: &[u8]) -> Result<String> {
    host.write(&data_path(digest)?, bytes)?;
    let hex = digest.strip_prefix("sha256:").context("no SHA-256")?;
    Ok(hex.to_owned())
}

fn data_path(digest: &str) -> Result<String> {
    let hex = digest.strip_prefix("sha256:").context("no SHA-256")?;
    let short = hex.get(..2).context("no SHA-256")?;
    Ok(format!("{STORAGE}/blobs/sha256/{short}/{hex}/data"))
}

/// Uploads past the counter; for inside the registry's host.
struct Pusher {
    repository: String,
    authorization: Option<HeaderValue>,
}

impl Pusher {
    fn blob(&self, digest: &str, body: Bytes) -> Result<()> {
        let base = format!("http://{UPSTREAM}/v2/{}/blobs", self.repository);
        let known = self.send(Request::head(format!("{base}/{digest}")), Bytes::new())?;
        if known.status.is_success() {
            return Ok(());
        }
        let request = Request::post(format!("{base}/uploads/"));
        let opened = self.send(request, Bytes::new())?.success()?;
        let location = opened.header("location");
        let join = if location.contains('?') { '&' } else { '?' };
        let request = Request::put(format!("{location}{join}digest={digest}"))
            .header(header::CONTENT_TYPE, "application/octet-stream");
        self.send(request, body)?.success().map(drop)
    }

    /// Returns its digest.
    fn manifest(&self, tag: &str, media_type: &str, body: Bytes) -> Result<String> {
        let url = format!("http://{UPSTREAM}/v2/{}/manifests/{tag}", self.repository);
        let request = Request::put(url).header(header::CONTENT_TYPE, media_type);
        let answer = self.send(request, body)?.success()?;
        Ok(answer.header("docker-content-digest").to_owned())
    }

    fn send(&self, mut request: http::request::Builder, body: Bytes) -> Result<client::Answer> {
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        client::send(request.body(body)?, LIMIT)
    }
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
