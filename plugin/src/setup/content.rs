//! Moving what containerd has of images: from its own content store into hawkerd's, and back.
//!
//! hawkerd does it; this asks it to, over its control socket, and tells how far it is. Both ways are
//! repeatable, and take up only what is new.

mod pending;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::Deserialize;

pub(crate) use self::pending::{Debt, Pending};
use super::{
    containerd::{CONTENT, STORES},
    machine::Plugin,
    settings::Settings,
    verify::{CONTENT_KIND, content_stores},
};
use crate::cli::client::{Client, ClientError};

/// containerd's directory where nothing else is said.
const ROOT: &str = "/var/lib/containerd";
/// Its content store's, below that.
const DIR: &str = "io.containerd.content.v1.content";
/// The longest line of hawkerd's answer.
const MOST_LINE_LEN: usize = 64 << 10;

/// Why nothing was moved, or not all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MoveError {
    #[error("{error}; without it {what}")]
    Client {
        what: &'static str,
        error: ClientError,
    },
    #[error("hawkerd cannot {action} {}: {why}", dir.display())]
    Refused {
        action: &'static str,
        dir: PathBuf,
        why: String,
    },
    #[error(
        "hawkerd could not give content back to {} ({why}): let it write there (ReadWritePaths= of \
         hawkerd.service). Nothing was changed", dir.display()
    )]
    NoWayBack { dir: PathBuf, why: String },
    #[error("hawkerd broke off while it was to {action} {}: {why}", dir.display())]
    Broken {
        action: &'static str,
        dir: PathBuf,
        why: String,
    },
}

/// What was moved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Moved {
    /// Those that were not there yet.
    pub(crate) blobs: u64,
    pub(crate) bytes: u64,
    /// Of these, without a copy.
    pub(crate) shared_bytes: u64,
    /// Those that were there.
    pub(crate) known: u64,
    /// What was left out, and why: it is not what its name says.
    pub(crate) skipped: Vec<String>,
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Progress {
    pub(crate) bytes: u64,
    pub(crate) bytes_total: u64,
}

/// A line of hawkerd's answer.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Line {
    Done { done: Moved },
    Failed { error: String },
    Progress(Progress),
}

#[derive(Debug, Deserialize)]
struct Released {
    released: u64,
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From containerd's directory into hawkerd's store.
    In,
    /// From hawkerd's store into containerd's directory.
    Out,
}

impl Way {
    fn path(self) -> &'static str {
        match self {
            Self::In => "/v1/content/import",
            Self::Out => "/v1/content/export",
        }
    }

    fn action(self) -> &'static str {
        match self {
            Self::In => "import",
            Self::Out => "export to",
        }
    }

    fn loss(self) -> &'static str {
        match self {
            Self::In => "containerd's images would have no content: nothing was changed",
            Self::Out => "what containerd has of images stays in Hawker",
        }
    }
}

/// hawkerd's store on one side, containerd's directory on the other.
#[derive(Clone, Debug)]
pub(crate) struct Mover {
    control: PathBuf,
    dir: PathBuf,
}

impl Mover {
    /// Moves between the hawkerd behind `control` and the content store in `dir`.
    pub(crate) fn new(control: PathBuf, dir: PathBuf) -> Self {
        Self { control, dir }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Moves what is not there yet, and tells `shown` how far it is. Everything is on disk when it
    /// returns.
    pub(crate) async fn move_all(
        &self,
        way: Way,
        shown: &mut dyn FnMut(Progress),
    ) -> Result<Moved, MoveError> {
        let body = serde_json::json!({"dir": self.dir}).to_string();
        let asked = self.ask(way.path(), body).await;
        let mut body = asked.map_err(|error| self.refused(way, error))?;
        let broken = |why: String| MoveError::Broken {
            action: way.action(),
            dir: self.dir.clone(),
            why,
        };
        let mut rest = Vec::new();
        loop {
            let frame = body.frame().await;
            let Some(frame) = frame
                .transpose()
                .map_err(|error| broken(error.to_string()))?
            else {
                return Err(broken("its answer has no end".to_owned()));
            };
            rest.extend_from_slice(&frame.into_data().unwrap_or_default());
            while let Some(line) = next_line(&mut rest) {
                match serde_json::from_slice(&line) {
                    Ok(Line::Done { done }) => return Ok(done),
                    Ok(Line::Failed { error }) => {
                        return Err(MoveError::Refused {
                            action: way.action(),
                            dir: self.dir.clone(),
                            why: error,
                        });
                    }
                    Ok(Line::Progress(progress)) => shown(progress),
                    Err(error) => return Err(broken(format!("its answer: {error}"))),
                }
            }
            if rest.len() > MOST_LINE_LEN {
                return Err(broken("its answer has no lines".to_owned()));
            }
        }
    }

    /// hawkerd forgets that containerd has content in it; what was that becomes cache. Says how many
    /// blobs that were.
    pub(crate) async fn release(&self) -> Result<u64, ClientError> {
        let body = self.ask("/v1/content/release", String::new()).await?;
        let body = body.collect().await?.to_bytes();
        let released: Result<Released, _> = serde_json::from_slice(&body);
        Ok(released.map_or(0, |answer| answer.released))
    }

    /// Whether hawkerd answers at all, and what it takes in could be given back too.
    pub(crate) async fn reach(&self, way: Way) -> Result<(), MoveError> {
        let body = serde_json::json!({"dir": self.dir}).to_string();
        let reached = self.ask("/v1/content/try", body).await;
        reached.map(drop).map_err(|error| match error {
            ClientError::Refused { message, .. } => MoveError::NoWayBack {
                dir: self.dir.clone(),
                why: message,
            },
            error => self.refused(way, error),
        })
    }

    async fn ask(&self, path: &str, body: String) -> Result<Incoming, ClientError> {
        let client = Client::connect(&self.control).await?;
        let answer = client.post(path, Bytes::from(body)).await?;
        Ok(answer.into_body())
    }

    fn refused(&self, way: Way, error: ClientError) -> MoveError {
        match error {
            ClientError::Refused { message, .. } => MoveError::Refused {
                action: way.action(),
                dir: self.dir.clone(),
                why: message,
            },
            error => MoveError::Client {
                what: way.loss(),
                error,
            },
        }
    }
}

/// Takes the first line out, where it is whole.
fn next_line(bytes: &mut Vec<u8>) -> Option<Vec<u8>> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let rest = bytes.split_off(end + 1);
    Some(std::mem::replace(bytes, rest))
}

/// Whether containerd keeps its content in hawkerd: by what it says of itself, else by its settings.
pub(crate) fn is_ours(plugins: Option<&[Plugin]>, settings: Option<&Settings>) -> bool {
    match plugins {
        Some(plugins) => content_stores(plugins).contains(&CONTENT),
        None => settings.is_some_and(|settings| settings.proxies(&STORES).contains(CONTENT)),
    }
}

/// Where containerd's own content store is or would be: by what it says of itself, else by its
/// settings.
pub(crate) fn local_dir(plugins: Option<&[Plugin]>, settings: Option<&Settings>) -> PathBuf {
    let plugins = plugins.unwrap_or_default();
    let own = plugins.iter().find(|p| p.is(CONTENT_KIND, "content"));
    if let Some(root) = own.and_then(|plugin| plugin.exports.get("root")) {
        return PathBuf::from(root);
    }
    // Every plugin of its own has a directory beside it.
    let beside = plugins.iter().find_map(|plugin| {
        let root = Path::new(plugin.exports.get("root")?);
        let is_own = root.file_name()? == format!("{}.{}", plugin.kind, plugin.id).as_str();
        is_own.then(|| root.parent())?
    });
    let root = beside.map(Path::to_owned);
    let root = root.or_else(|| settings.and_then(Settings::root));
    root.unwrap_or_else(|| PathBuf::from(ROOT)).join(DIR)
}

#[cfg(test)]
mod tests;
