//! A blob that is pulled, and what is done to it.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::{
    bed::Host,
    cluster::{Cluster, Member},
    http as client,
    image::digest_of,
    registry::AUTHORITY,
};

pub(super) const LEN: usize = 16 << 20;
const LIMIT: std::time::Duration = std::time::Duration::from_secs(60);

/// A blob at the registry.
pub(super) struct Prop {
    pub(super) bytes: Vec<u8>,
    pub(super) digest: String,
    url: String,
}

/// What a client got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Got {
    Right,
    Wrong,
    Refused,
}

impl Prop {
    /// Bytes that nobody has.
    pub(super) fn push(cluster: &Cluster) -> Result<Self> {
        let bytes: Vec<u8> = (0..LEN).map(|_| rand::random()).collect();
        let digest = digest_of(&bytes);
        let body = bytes.clone().into();
        let path = cluster.registry.push_bytes("stage", &digest, body)?;
        let url = format!("http://127.0.0.1:65001{path}?ns={AUTHORITY}");
        Ok(Self { bytes, digest, url })
    }

    pub(super) fn pull(&self, member: &Member) -> Result<Got> {
        let answer = member.host().enter(|| client::get(&self.url, LIMIT))?;
        let Ok(answer) = answer else {
            return Ok(Got::Refused);
        };
        let is_right = digest_of(&answer.body) == self.digest;
        Ok(match (answer.status.as_u16(), is_right) {
            (200, true) => Got::Right,
            (200, false) => Got::Wrong,
            _ => Got::Refused,
        })
    }

    /// Changes a byte of it on a node's disk.
    pub(super) fn flip_bit(&self, host: &Host) -> Result<()> {
        let hex = self.digest.trim_start_matches("sha256:");
        let file = find(host.path("/var/lib/hawker"), hex)?;
        let Some(file) = file else {
            bail!("{} does not hold the blob", host.name());
        };
        let mut bytes = std::fs::read(&file)?;
        bytes[LEN / 2] ^= 1;
        std::fs::write(&file, bytes).with_context(|| format!("cannot change {}", file.display()))
    }
}

fn find(dir: PathBuf, name: &str) -> Result<Option<PathBuf>> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let inner = if path.is_dir() {
            find(path.clone(), name)?
        } else {
            None
        };
        if inner.is_some() {
            return Ok(inner);
        }
        if path.is_file() && path.file_name().is_some_and(|it| it == name) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}
