//! The cluster's certificates, made with `hawker ca`.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::Binaries;
use crate::bed::Host;

/// A certificate authority and what it has issued, as files.
#[derive(Debug)]
pub struct Authority {
    binaries: Binaries,
    dir: PathBuf,
}

impl Authority {
    /// One command for a whole cluster: a scheduler of that name, seeds and nodes.
    pub(super) fn create(
        binaries: &Binaries,
        dir: &Path,
        seeds: &[String],
        nodes: &[String],
    ) -> Result<Self> {
        let this = Self {
            binaries: binaries.clone(),
            dir: dir.to_owned(),
        };
        let mut arguments = vec!["cluster", "--scheduler", "scheduler"];
        let hosts = seeds
            .iter()
            .map(|it| ("--seed", it))
            .chain(nodes.iter().map(|it| ("--node", it)));
        arguments.extend(hosts.flat_map(|(flag, name)| [flag, name]));
        this.run(&arguments, dir)?;
        Ok(this)
    }

    /// An authority of another cluster, which issues for the same names.
    ///
    /// # Errors
    /// When `hawker ca` fails.
    pub fn foreign(&self, name: &str, role: &str, host: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        self.run(
            &["cluster", "--cluster", name, &format!("--{role}"), host],
            &dir,
        )?;
        Ok(dir.join(host))
    }

    /// Another certificate of this authority. Returns its directory.
    ///
    /// # Errors
    /// When `hawker ca` fails.
    pub fn issue(&self, role: &str, host: &str, more: &[&str]) -> Result<PathBuf> {
        let out = self.dir.join(format!("issued-{role}-{host}"));
        let ca = self.dir.join("ca");
        let ca = ca.to_str().context("the authority's path is not text")?;
        let arguments = ["issue", "--ca", ca, "--role", role, "--host", host];
        self.run(&[&arguments[..], more].concat(), &out)?;
        Ok(out)
    }

    /// Gives a host the files that were issued to `name`.
    pub(super) fn install(&self, host: &Host, name: &str) -> Result<()> {
        install(host, &self.dir.join(name))
    }

    fn run(&self, arguments: &[&str], out: &Path) -> Result<()> {
        let mut command = Command::new(self.binaries.hawker());
        command
            .arg("ca")
            .args(arguments)
            .args([OsStr::new("--out"), out.as_os_str()]);
        let output = command.output().context("failed to run hawker ca")?;
        ensure!(
            output.status.success(),
            "hawker ca: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }
}

/// Copies `ca.pem`, `cert.pem` and `key.pem` of a directory to where the host's daemon looks.
///
/// # Errors
/// When a file is missing.
pub(super) fn install(host: &Host, from: &Path) -> Result<()> {
    for name in ["ca.pem", "cert.pem", "key.pem"] {
        let path = from.join(name);
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        host.write(&format!("/etc/hawker/tls/{name}"), text)?;
    }
    Ok(())
}
