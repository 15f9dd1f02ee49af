//! Images of real content: Debian packages as apt gives them, and Python wheels from PyPI.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use super::{Image, ImageBuilder};
use crate::cache;

/// Raised when the way of building changes, so that old caches are not used.
const VERSION: &str = "1";
const NUMPY: &str = "numpy==2.2.6";
const BASE: &[&str] = &[
    "base-files",
    "bash",
    "busybox-static",
    "coreutils",
    "dash",
    "libc-bin",
];
const PYTHON: &[&str] = &["libstdc++6", "python3", "python3-minimal"];
/// Compilers: one layer of some hundred MB.
const BIG: &[&str] = &["clang", "rustc"];

/// A C compiler and Python, of some hundred packages, for many layers.
const MANY: &[&str] = &["gcc", "python3", "libstdc++6"];
const MANY_LAYERS: usize = 14;

/// What a container of [`python`] runs to show that every layer is there.
pub const PYTHON_COMMAND: &[&str] = &[
    "/bin/sh",
    "-c",
    "echo Debian $(cat /etc/debian_version) && python3 -c 'import sys, numpy; \
     print(f\"Python {sys.version.split()[0]}, numpy {numpy.__version__}: {numpy.arange(10).sum()}\")'",
];

/// A Debian tree, Python on top, numpy on top of that; each a layer. Runs `/bin/sh` and `python3`.
///
/// # Errors
/// When apt or pip cannot fetch something.
pub fn python() -> Result<Image> {
    let base = closure(BASE)?;
    let python: BTreeSet<_> = closure(PYTHON)?.difference(&base).cloned().collect();
    let words = [VERSION, "python", NUMPY].into_iter();
    let key = cache::key(words.chain(base.iter().chain(&python).map(String::as_str)));
    let dir = cache::entry("images", &key, |dir| {
        let mut image = ImageBuilder::create(dir)?.command(&["/usr/bin/python3"]);
        image.layer(|layer| with_tree(&base, |tree| layer.tree(tree).map(drop)))?;
        image.layer(|layer| with_tree(&python, |tree| layer.tree(tree).map(drop)))?;
        image.layer(|layer| with_wheel(&python, |tree| layer.tree(tree).map(drop)))?;
        image.finish("demo/python", "1").map(drop)
    })?;
    Image::open(&dir, "demo/python", "1")
}

/// Compilers and their libraries in a single layer of some hundred MB, with a shell.
///
/// # Errors
/// When apt cannot fetch something.
pub fn big_layer() -> Result<Image> {
    let names: Vec<_> = BASE.iter().chain(BIG).copied().collect();
    let packages = closure(&names)?;
    let words = [VERSION, "big"]
        .into_iter()
        .chain(packages.iter().map(String::as_str));
    let dir = cache::entry("images", &cache::key(words), |dir| {
        let mut image = ImageBuilder::create(dir)?;
        image.layer(|layer| with_tree(&packages, |tree| layer.tree(tree).map(drop)))?;
        image.finish("demo/compilers", "1").map(drop)
    })?;
    Image::open(&dir, "demo/compilers", "1")
}

/// A C compiler and Python, their packages spread over fourteen layers of about one size.
///
/// # Errors
/// When apt cannot fetch something.
pub fn many_layers() -> Result<Image> {
    let names: Vec<_> = BASE.iter().chain(MANY).copied().collect();
    let packages = closure(&names)?;
    let words = [VERSION, "many"].into_iter();
    let key = cache::key(words.chain(packages.iter().map(String::as_str)));
    let dir = cache::entry("images", &key, |dir| {
        let mut image = ImageBuilder::create(dir)?;
        for part in spread(&packages, MANY_LAYERS)? {
            image.layer(|layer| with_tree(&part, |tree| layer.tree(tree).map(drop)))?;
        }
        image.finish("demo/many", "1").map(drop)
    })?;
    Image::open(&dir, "demo/many", "1")
}

/// Parts of about the same size; the largest package first into the smallest part.
fn spread(packages: &BTreeSet<String>, parts: usize) -> Result<Vec<BTreeSet<String>>> {
    let mut sized = Vec::new();
    for package in packages {
        let files = download(&BTreeSet::from([package.clone()]))?;
        let lens = files.iter().map(|file| Ok(fs::metadata(file)?.len()));
        sized.push((lens.sum::<Result<u64>>()?, package.clone()));
    }
    sized.sort_by(|a, b| b.cmp(a));
    let mut spread = vec![(0, BTreeSet::new()); parts];
    for (len, package) in sized {
        let smallest = spread.iter_mut().min_by_key(|part: &&mut (u64, _)| part.0);
        let (sum, part) = smallest.context("no parts")?;
        *sum += len;
        part.insert(package);
    }
    Ok(spread.into_iter().map(|(_, part)| part).collect())
}

/// Packages and all that they depend on, with the version that apt would install.
fn closure(names: &[&str]) -> Result<BTreeSet<String>> {
    let mut command = Command::new("apt-cache");
    command.args([
        "depends",
        "--recurse",
        "--no-recommends",
        "--no-suggests",
        "--no-conflicts",
    ]);
    command
        .args(["--no-breaks", "--no-replaces", "--no-enhances"])
        .args(names);
    let text = output(&mut command)?;
    let is_name = |line: &&str| line.starts_with(|it: char| it.is_ascii_alphanumeric());
    // Of what only runs when packages are configured, nothing is needed in an image; `:i386` and
    // the like are the machine's foreign architectures.
    let unneeded = [
        "debconf",
        "dpkg",
        "perl",
        "libperl",
        "tar",
        "install-info",
        "mailcap",
        "cdebconf",
    ];
    let wanted: BTreeSet<_> = text
        .lines()
        .filter(is_name)
        .filter(|name| !name.contains(':'))
        .filter(|name| !unneeded.iter().any(|it| name.starts_with(it)))
        .collect();
    versions(&wanted)
}

/// `name=version` for each package that has a candidate; virtual ones have none.
fn versions(names: &BTreeSet<&str>) -> Result<BTreeSet<String>> {
    let text = output(Command::new("apt-cache").arg("policy").args(names))?;
    let mut found = BTreeSet::new();
    let mut name = None;
    for line in text.lines() {
        if let Some(package) = line.strip_suffix(':').filter(|it| !it.starts_with(' ')) {
            name = Some(package);
        } else if let Some(version) = line.trim_start().strip_prefix("Candidate: ")
            && let Some(name) = name
            && version != "(none)"
        {
            found.insert(format!("{name}={version}"));
        }
    }
    ensure!(
        !found.is_empty(),
        "apt knows none of {names:?}: run apt-get update"
    );
    Ok(found)
}

/// Unpacks packages into a directory that exists while `work` runs.
fn with_tree(packages: &BTreeSet<String>, work: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let debs = download(packages)?;
    with_scratch("tree", |tree| {
        for name in ["bin", "sbin", "lib", "lib64"] {
            fs::create_dir_all(tree.join("usr").join(name))?;
            std::os::unix::fs::symlink(format!("usr/{name}"), tree.join(name))?;
        }
        for deb in debs {
            unpack(&deb, tree).with_context(|| format!("failed to unpack {}", deb.display()))?;
        }
        let shell = tree.join("usr/bin/sh");
        if tree.join("usr/bin/dash").exists() && !shell.is_symlink() {
            std::os::unix::fs::symlink("dash", shell)?;
        }
        work(tree)
    })
}

fn unpack(deb: &Path, tree: &Path) -> Result<()> {
    let mut source = Command::new("dpkg-deb");
    let mut source = source
        .arg("--fsys-tarfile")
        .arg(deb)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = source.stdout.take().context("no output of dpkg-deb")?;
    let mut tar = Command::new("tar");
    tar.args([
        "-x",
        "-p",
        "--keep-directory-symlink",
        "--numeric-owner",
        "-C",
    ])
    .arg(tree);
    let status = tar.stdin(stdout).status()?;
    ensure!(
        source.wait()?.success() && status.success(),
        "dpkg-deb or tar failed"
    );
    Ok(())
}

/// The package files, from the cache or from apt.
fn download(packages: &BTreeSet<String>) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut missing = Vec::new();
    for package in packages {
        let dir = cache::dir()
            .join("debs")
            .join(package.replace(['/', ':'], "_"));
        if dir.exists() {
            files.push(only_file(&dir)?);
        } else {
            missing.push((package, dir));
        }
    }
    if missing.is_empty() {
        return Ok(files);
    }
    with_scratch("apt", |scratch| {
        let names = missing.iter().map(|(package, _)| package.as_str());
        let mut command = Command::new("apt-get");
        command
            .args(["download", "-q", "-o", "APT::Sandbox::User=root"])
            .args(names);
        output(command.current_dir(scratch))
            .context("apt-get download failed: apt-get update may help")?;
        for (package, dir) in &missing {
            let (name, _) = package.split_once('=').unwrap_or((package, ""));
            let prefix = format!("{name}_");
            let found = fs::read_dir(scratch)?
                .flatten()
                .find(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
            let found = found.with_context(|| format!("apt did not give {package}"))?;
            fs::create_dir_all(dir)?;
            let file = dir.join(found.file_name());
            fs::copy(found.path(), &file)?;
            files.push(file);
        }
        Ok(())
    })?;
    files.sort();
    Ok(files)
}

fn with_wheel(python: &BTreeSet<String>, work: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let version = python
        .iter()
        .find_map(|it| it.strip_prefix("python3="))
        .context("no python3")?;
    let version: String = version.split('.').take(2).collect::<Vec<_>>().join(".");
    with_scratch("wheel", |scratch| {
        let wheels = scratch.join("wheels");
        let arch = std::env::consts::ARCH;
        let mut pip = Command::new("python3");
        pip.args([
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--only-binary=:all:",
        ]);
        for platform in ["manylinux2014", "manylinux_2_17", "manylinux_2_28"] {
            pip.arg("--platform").arg(format!("{platform}_{arch}"));
        }
        pip.args(["--python-version", &version, "--implementation", "cp", "-d"]);
        output(pip.arg(&wheels).arg(NUMPY)).context("pip download failed")?;
        let tree = scratch.join("tree");
        let packages = tree.join("usr/lib/python3/dist-packages");
        fs::create_dir_all(&packages)?;
        let code = "import sys,zipfile; zipfile.ZipFile(sys.argv[1]).extractall(sys.argv[2])";
        let mut unzip = Command::new("python3");
        output(
            unzip
                .args(["-c", code])
                .arg(only_file(&wheels)?)
                .arg(&packages),
        )?;
        work(&tree)
    })
}

fn only_file(dir: &Path) -> Result<PathBuf> {
    let first = fs::read_dir(dir)?.flatten().next();
    Ok(first
        .with_context(|| format!("{} is empty", dir.display()))?
        .path())
}

fn with_scratch(name: &str, work: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let dir = cache::dir().join(format!("scratch.{name}.{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let done = work(&dir);
    fs::remove_dir_all(&dir).ok();
    done
}

fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).env("LC_ALL", "C").output();
    let output = output.with_context(|| format!("failed to run {program}"))?;
    if !output.status.success() {
        bail!(
            "{program} failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
