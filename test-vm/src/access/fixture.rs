//! The cluster of the matrix: a private registry with its token service, another one, a seed, a
//! node and its peer; and the accounts that are shown.

use std::{
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, header};

use super::Shown;
use crate::{
    cluster::{Cluster, ContainerdVersion, Member, Topology},
    http::{self as client, Answer},
    image::{Image, ImageBuilder},
    registry::{Registry, RegistrySetup},
    token::{Account, Grant, TokenService},
};

pub(crate) const HARBOR: &str = "harbor:5000";
/// Where Docker believes the same registry to be.
pub(crate) const HUB: &str = "docker.io";
pub(crate) const RIGHT: &str = "robot$right";
const EXPIRED: &str = "robot$expired";
const REVOKED: &str = "robot$revoked";
pub(crate) const OTHER: &str = "robot$other";
pub(crate) const ANNEX: &str = "robot$annex";
/// Brings blobs to where a cell wants them; shown by no cell.
const FILLER: &str = "robot$filler";
pub(crate) const PASSWORD: &str = "horse-battery-staple";
/// How long rights are fresh here.
pub(crate) const KEEP: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(120);

/// A running cluster with accounts.
pub(crate) struct Fixture {
    cluster: Cluster,
}

impl Fixture {
    /// With rights that outlive the registry for `grace`.
    pub(crate) fn start(version: ContainerdVersion, grace: Duration) -> Result<Self> {
        Self::of(Topology {
            nodes: 2,
            has_containerd: false,
            containerd: version,
            docker_hub: Some(format!("http://{HARBOR}")),
            mirror: format!(
                "keep_rights = \"{}s\"\nrights_grace = \"{}s\"",
                KEEP.as_secs(),
                grace.as_secs()
            ),
            ..Topology::default()
        })
    }

    /// Any cluster, with the registries and accounts of the matrix.
    pub(crate) fn of(topology: Topology) -> Result<Self> {
        let link = topology.registry_link;
        let registries = ["harbor", "annex"].map(|name| RegistrySetup {
            link,
            ..RegistrySetup::new(name).with_tokens()
        });
        let cluster = Cluster::start(&Topology {
            registries: [&registries[..], &topology.registries].concat(),
            ..topology
        })?;
        let this = Self { cluster };
        let service = this.tokens()?;
        service.change(|rules| rules.public = vec!["public/*".to_owned()])?;
        for name in [RIGHT, EXPIRED, REVOKED, FILLER] {
            service.add(name, Account::new(PASSWORD, &["matrix/*"]))?;
        }
        service.add(OTHER, Account::new(PASSWORD, &["elsewhere/*"]))?;
        let annex = this.annex()?.tokens()?;
        annex.add(ANNEX, Account::new(PASSWORD, &["matrix/*"]))?;
        Ok(this)
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub(crate) fn harbor(&self) -> Result<&Registry> {
        self.cluster.registry_named("harbor")
    }

    pub(crate) fn tokens(&self) -> Result<&TokenService> {
        self.harbor()?.tokens()
    }

    pub(crate) fn annex(&self) -> Result<&Registry> {
        self.cluster.registry_named("annex")
    }

    pub(crate) fn node(&self) -> &Member {
        &self.cluster.nodes()[0]
    }

    pub(crate) fn peer(&self) -> &Member {
        &self.cluster.nodes()[1]
    }

    /// Ends what was right so far, at the token service and, for what it has issued, at the
    /// registry.
    pub(crate) fn end_accounts(&self) -> Result<()> {
        self.tokens()?
            .add(EXPIRED, Account::new(PASSWORD, &["matrix/*"]).expired())?;
        self.tokens()?.revoke(REVOKED)?;
        self.harbor()?.revoke(&[REVOKED])
    }

    /// A tiny image that nobody else has.
    pub(crate) fn image(&self, repository: &str, tag: &str) -> Result<Image> {
        let dir = self.cluster.bed().dir().join("images").join(tag);
        let mut image = ImageBuilder::create(&dir)?;
        image.layer(|layer| {
            let noise: Vec<u8> = (0..5000).map(|_| rand::random()).collect();
            layer
                .file("noise", crate::image::Mode::root(0o644), &noise)
                .map(drop)
        })?;
        image.finish(repository, tag)?;
        Image::open(&dir, repository, tag)
    }

    /// Brings a blob to a member's store, by way of the network.
    pub(crate) fn fill(&self, member: &Member, repository: &str, digest: &str) -> Result<()> {
        let token = self.token(FILLER, repository)?;
        let path = format!("{repository}/blobs/{digest}");
        let answer = self.ask(member, "GET", HARBOR, &path, Some(&token))?;
        answer.success().map(drop)
    }

    /// `Bearer …` for an account, as it holds now.
    pub(crate) fn token(&self, account: &str, repository: &str) -> Result<String> {
        let token = self.tokens()?.mint(account, &[Grant::pull(repository)])?;
        Ok(format!("Bearer {token}"))
    }

    /// A request at a member's mirror.
    pub(crate) fn ask(
        &self,
        member: &Member,
        method: &str,
        registry: &str,
        path: &str,
        authorization: Option<&str>,
    ) -> Result<Answer> {
        let url = format!("http://127.0.0.1:65001/v2/{path}?ns={registry}");
        let mut request = Request::builder().method(method).uri(url);
        request = request.header(header::ACCEPT, ACCEPT);
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let request = request.body(Bytes::new())?;
        member.host().enter(|| client::send(request, LIMIT))?
    }

    /// How often the whole of a blob has left the registry.
    pub(crate) fn copies(&self, digest: &str, len: u64) -> Result<f64> {
        let sent = self.harbor()?.tally()?.of_digest(digest).body_bytes;
        Ok(sent as f64 / len.max(1) as f64)
    }
}

const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, */*";

/// Name and password that a daemon shows.
pub(crate) fn account(shown: Shown) -> Option<String> {
    let (name, password) = match shown {
        Shown::NothingAtPublic | Shown::Nothing => return None,
        Shown::Wrong => (RIGHT, "wrong-horse"),
        Shown::Right => (RIGHT, PASSWORD),
        Shown::Expired => (EXPIRED, PASSWORD),
        Shown::Revoked => (REVOKED, PASSWORD),
        Shown::OtherRepository => (OTHER, PASSWORD),
        Shown::OtherRegistry => (ANNEX, PASSWORD),
    };
    Some(format!("{name}:{password}"))
}

/// What a request at the mirror shows; `life` is for how long the token holds that expires.
pub(crate) fn authorization(
    fixture: &Fixture,
    shown: Shown,
    repository: &str,
    life: Duration,
) -> Result<Option<String>> {
    let token = match shown {
        Shown::NothingAtPublic | Shown::Nothing => return Ok(None),
        Shown::Wrong => spoiled(&fixture.token(RIGHT, repository)?),
        Shown::Right => fixture.token(RIGHT, repository)?,
        Shown::Revoked => fixture.token(REVOKED, repository)?,
        Shown::OtherRepository => fixture.token(OTHER, "elsewhere/image")?,
        Shown::Expired => {
            let life = i64::try_from(life.as_secs())?;
            let access = [Grant::pull(repository)];
            let token = fixture.tokens()?.mint_for(EXPIRED, &access, life)?;
            format!("Bearer {token}")
        }
        Shown::OtherRegistry => {
            let annex = fixture.annex()?.tokens()?;
            format!("Bearer {}", annex.mint(ANNEX, &[Grant::pull(repository)])?)
        }
    };
    Ok(Some(token))
}

/// The same words under a signature that is not theirs.
fn spoiled(token: &str) -> String {
    let (signed, signature) = token.rsplit_once('.').unwrap_or((token, ""));
    let signature: String = signature.chars().rev().collect();
    format!("{signed}.{signature}")
}

/// Does the work of all items, so many at a time; keeps their order.
pub(crate) fn each<T: Sync, R: Send>(
    items: &[T],
    at_once: usize,
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some(item) = items.get(number) else { break };
                    let result = work(item);
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    done.push((number, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(number, _)| *number);
    let done: Result<Vec<_>> = done.into_iter().map(|(_, result)| result).collect();
    done.context("a step of the matrix failed")
}
