//! What the counter has counted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Requests and bytes for one path or digest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    pub gets: u64,
    pub heads: u64,
    /// Bytes of bodies, without heads, as they were handed to the kernel.
    pub body_bytes: u64,
    /// How many of the requests were answered with 401 or 403.
    pub refused: u64,
}

/// Who asks for what.
#[derive(Debug, Clone, Default)]
pub(super) struct Asked {
    pub(super) path: String,
    /// The program, as it calls itself.
    pub(super) agent: String,
    /// The account whose credential it shows; empty for none.
    pub(super) account: String,
}

/// All that was asked of a registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    pub total: Traffic,
    pub by_path: BTreeMap<String, Traffic>,
    /// By the digest that ends the path, over all repositories.
    pub by_digest: BTreeMap<String, Traffic>,
    /// Blobs by the program that asked for them, as it calls itself before the first "/".
    pub by_agent: BTreeMap<String, Traffic>,
    /// Blobs by the account whose credential was shown.
    pub by_account: BTreeMap<String, Traffic>,
    /// Requests at the storage port that carried credentials meant for the registry.
    pub leaked_credentials: u64,
}

impl Tally {
    /// Bytes of blobs: what an image's layers and config cost, without manifests.
    #[must_use]
    pub fn blob_bytes(&self) -> u64 {
        let blobs = self
            .by_path
            .iter()
            .filter(|(path, _)| path.contains("/blobs/"));
        blobs.map(|(_, traffic)| traffic.body_bytes).sum()
    }

    #[must_use]
    pub fn of_digest(&self, digest: &str) -> Traffic {
        self.by_digest.get(digest).copied().unwrap_or_default()
    }

    /// Bytes of blobs that were sent to anybody but Hawker.
    #[must_use]
    pub fn bytes_past_hawker(&self) -> u64 {
        let others = self
            .by_agent
            .iter()
            .filter(|(agent, _)| !agent.starts_with("hawker"));
        others.map(|(_, traffic)| traffic.body_bytes).sum()
    }

    /// Requests for blobs that showed this account's credential.
    #[must_use]
    pub fn of_account(&self, account: &str) -> Traffic {
        self.by_account.get(account).copied().unwrap_or_default()
    }

    pub(super) fn count_request(&mut self, asked: &Asked, is_head: bool) {
        self.each(asked, |traffic| {
            if is_head {
                traffic.heads += 1;
            } else {
                traffic.gets += 1;
            }
        });
    }

    pub(super) fn count_bytes(&mut self, asked: &Asked, len: u64) {
        self.each(asked, |traffic| traffic.body_bytes += len);
    }

    pub(super) fn count_refusal(&mut self, asked: &Asked) {
        self.each(asked, |traffic| traffic.refused += 1);
    }

    fn each(&mut self, asked: &Asked, mut add: impl FnMut(&mut Traffic)) {
        let Asked {
            path,
            agent,
            account,
        } = asked;
        add(&mut self.total);
        if path.contains("/blobs/") {
            let agent = agent.split('/').next().unwrap_or(agent);
            add(self.by_agent.entry(agent.to_owned()).or_default());
            add(self.by_account.entry(account.to_owned()).or_default());
        }
        add(self.by_path.entry(path.to_owned()).or_default());
        if let Some((_, digest)) = path
            .rsplit_once('/')
            .filter(|(_, it)| it.starts_with("sha256:"))
        {
            add(self.by_digest.entry(digest.to_owned()).or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_are_told_from_manifests_and_summed_over_repositories() {
        let asked = |path: &str, agent: &str| Asked {
            path: path.to_owned(),
            agent: agent.to_owned(),
            account: "someone".to_owned(),
        };
        let mut tally = Tally::default();
        tally.count_request(&asked("/v2/a/blobs/sha256:11", "hawkerd/1"), false);
        tally.count_bytes(&asked("/v2/a/blobs/sha256:11", "hawkerd/1"), 10);
        tally.count_bytes(&asked("/v2/b/blobs/sha256:11", "containerd/1.6"), 5);
        tally.count_bytes(&asked("/v2/a/manifests/sha256:22", "containerd/1.6"), 3);
        tally.count_request(&asked("/v2/a/manifests/latest", "containerd/1.6"), true);
        assert_eq!(tally.blob_bytes(), 15);
        assert_eq!(tally.bytes_past_hawker(), 5);
        assert_eq!(tally.of_digest("sha256:11").body_bytes, 15);
        assert_eq!(tally.of_account("someone").gets, 1);
        assert_eq!(
            tally.total,
            Traffic {
                gets: 1,
                heads: 1,
                body_bytes: 18,
                refused: 0,
            }
        );
    }
}
