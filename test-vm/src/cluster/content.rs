//! What a containerd has of content, as its clients see it, and whether it is sound.

use std::{collections::BTreeSet, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};

use super::{Containerd, Session};
use crate::image::Image;

const LIMIT: Duration = Duration::from_secs(60);

impl Containerd {
    /// Digests of the content of a namespace.
    ///
    /// # Errors
    /// When containerd does not answer.
    pub fn content(&self, namespace: &str) -> Result<BTreeSet<String>> {
        let words = ["-n", namespace, "content", "ls", "-q"];
        let output = self.host().run(Command::new("ctr").args(words), LIMIT)?;
        let output = output.success()?;
        Ok(output.stdout.lines().map(str::to_owned).collect())
    }

    /// Reads every blob of an image through containerd, and looks whether it is what its digest
    /// says.
    ///
    /// # Errors
    /// When one cannot be read, or is another.
    pub fn check_content(&self, namespace: &str, image: &Image) -> Result<()> {
        let known = self.content(namespace)?;
        let digests = image.blobs().iter().map(|blob| &blob.digest);
        for digest in digests.chain([&image.manifest.digest]) {
            ensure!(known.contains(digest), "{namespace} has no {digest}");
            let get =
                format!("set -o pipefail; ctr -n {namespace} content get {digest} | sha256sum");
            let output = self
                .host()
                .run(Command::new("bash").args(["-c", &get]), LIMIT)?;
            let output = output.success().with_context(|| digest.clone())?;
            let read = output.stdout.split_whitespace().next().unwrap_or_default();
            ensure!(
                digest.strip_prefix("sha256:") == Some(read),
                "{digest} reads as {read}"
            );
        }
        Ok(())
    }
}

impl Session {
    /// Reads every blob of an image in the session's namespace.
    ///
    /// # Errors
    /// When one cannot be read, or is another.
    pub fn check_content(&self, image: &Image) -> Result<()> {
        self.containerd().check_content(self.namespace(), image)
    }
}
