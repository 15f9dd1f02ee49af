//! Images of what real ones seldom hold: the odd corners of the layer format, by seed.

use std::{os::unix::fs::FileExt, path::Path, process::Command};

use anyhow::{Context, Result};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

use super::{Form, Image, ImageBuilder, LayerBuilder, layer::Mode};
use crate::cache;

/// Raised when the way of building changes.
const VERSION: &str = "4";
const FILE: Mode = Mode {
    mode: 0o644,
    uid: 0,
    gid: 0,
};
const DIR: Mode = Mode {
    mode: 0o755,
    uid: 0,
    gid: 0,
};
/// Layers of the image with very many.
const MANY: usize = 130;

/// One odd corner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oddity {
    /// Files and directories of lower layers removed, hidden and made again.
    Whiteouts,
    /// Hard links, also to files of lower layers, and symlinks into nowhere.
    Links,
    /// Extended attributes with binary values, file capabilities, setuid, odd owners, devices.
    Attributes,
    /// Sparse, empty and zero-filled files.
    Sparse,
    /// Paths beyond every short field of tar, and names that are not plain.
    DeepPaths,
    /// Layers in gzip, in zstd and as they are.
    Forms,
    /// Times before 1970, after 2106 and between two seconds.
    Times,
    /// Entries whose directories stand in a lower layer alone, or nowhere.
    ImpliedDirs,
    /// Names with dots and slashes, and files that the same lowest layer removes again.
    OddNames,
    /// Entries twice, and files in place of directories, which Hawker leaves to containerd.
    Repeats,
    /// Names and sizes in records of PAX, by GNU tar.
    Pax,
    /// Hard links to files of a lower layer, which a layer cannot hold.
    FarLinks,
    /// A file that the same upper layer also removes, which overlayfs cannot say.
    OwnWhiteout,
    /// Sparse files as GNU tar wrote them before PAX, which containerd does not read.
    GnuSparse,
    ZeroLayers,
    ManyLayers,
}

impl Oddity {
    pub const ALL: [Self; 16] = [
        Self::Whiteouts,
        Self::Links,
        Self::Attributes,
        Self::Sparse,
        Self::DeepPaths,
        Self::Forms,
        Self::Times,
        Self::ImpliedDirs,
        Self::OddNames,
        Self::Repeats,
        Self::Pax,
        Self::FarLinks,
        Self::OwnWhiteout,
        Self::GnuSparse,
        Self::ZeroLayers,
        Self::ManyLayers,
    ];

    /// Whether Hawker refuses such layers: containerd has to see for itself.
    #[must_use]
    pub fn is_left_to_containerd(self) -> bool {
        matches!(self, Self::Repeats | Self::FarLinks | Self::OwnWhiteout)
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Whiteouts => "whiteouts",
            Self::Links => "links",
            Self::Attributes => "attributes",
            Self::Sparse => "sparse",
            Self::DeepPaths => "deep-paths",
            Self::Forms => "forms",
            Self::Times => "times",
            Self::ImpliedDirs => "implied-dirs",
            Self::OddNames => "odd-names",
            Self::Repeats => "repeats",
            Self::Pax => "pax",
            Self::FarLinks => "far-links",
            Self::OwnWhiteout => "own-whiteout",
            Self::GnuSparse => "gnu-sparse",
            Self::ZeroLayers => "zero-layers",
            Self::ManyLayers => "many-layers",
        }
    }
}

/// An image of that kind; the same seed gives the same digests.
///
/// # Errors
/// When the cache cannot be written.
pub fn synthetic(oddity: Oddity, seed: u64) -> Result<Image> {
    let (repository, tag) = (
        format!("synthetic/{}", oddity.name()),
        format!("seed-{seed}"),
    );
    let key = format!("{}-{seed}-v{VERSION}", oddity.name());
    let dir = cache::entry("synthetic", &key, |dir| {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut image = ImageBuilder::create(dir)?;
        match oddity {
            Oddity::Whiteouts => whiteouts(&mut image, &mut rng)?,
            Oddity::Links => links(&mut image, &mut rng)?,
            Oddity::Attributes => attributes(&mut image, &mut rng)?,
            Oddity::Sparse => sparse(&mut image, &mut rng)?,
            Oddity::DeepPaths => deep_paths(&mut image, &mut rng)?,
            Oddity::Forms => forms(&mut image, &mut rng)?,
            Oddity::Times => times(&mut image)?,
            Oddity::ImpliedDirs => implied_dirs(&mut image)?,
            Oddity::OddNames => odd_names(&mut image)?,
            Oddity::Repeats => repeats(&mut image)?,
            Oddity::Pax => pax(&mut image)?,
            Oddity::FarLinks => far_links(&mut image)?,
            Oddity::OwnWhiteout => own_whiteout(&mut image)?,
            Oddity::GnuSparse => gnu_sparse(&mut image, &mut rng)?,
            Oddity::ZeroLayers => {}
            Oddity::ManyLayers => many_layers(&mut image, &mut rng)?,
        }
        image.finish(&repository, &tag).map(drop)
    })?;
    Image::open(&dir, &repository, &tag)
}

fn noise(rng: &mut StdRng, max_len: usize) -> Vec<u8> {
    let mut bytes = vec![0; rng.random_range(1..=max_len)];
    rng.fill_bytes(&mut bytes);
    bytes
}

fn forms(image: &mut ImageBuilder, rng: &mut StdRng) -> Result<()> {
    for (number, form) in [Form::Gzip, Form::Zstd, Form::Plain, Form::Zstd]
        .into_iter()
        .enumerate()
    {
        image.layer_as(form, |layer| {
            let dir = format!("layer-{number}");
            layer.dir(&dir, DIR)?;
            for file in 0..20 {
                layer.file(&format!("{dir}/{file}"), FILE, &noise(rng, 200_000))?;
            }
            layer.file("last", FILE, dir.as_bytes()).map(drop)
        })?;
    }
    // Nothing in it at all.
    image.layer_as(Form::Plain, |_| Ok(()))?;
    Ok(())
}

fn times(image: &mut ImageBuilder) -> Result<()> {
    image.layer(|layer| {
        layer.file("linked", FILE, b"x")?;
        for time in [
            "-1",
            "-1.5",
            "0",
            "0.000000001",
            "1000000000.123456789",
            "1000000000.1",
            "4102444800",
            "5000000000.5",
            "20000000000",
        ] {
            layer.records(&[("mtime", time)])?;
            layer.file(&format!("file-{time}"), FILE, b"x")?;
            layer.records(&[("mtime", time), ("atime", "1000000001.7")])?;
            layer.dir(&format!("dir-{time}"), DIR)?;
            layer.file(&format!("dir-{time}/inside"), FILE, b"x")?;
            layer.records(&[("mtime", time)])?;
            layer.symlink(&format!("symlink-{time}"), "file-0")?;
            layer.records(&[("mtime", time)])?;
            layer.hard_link(&format!("link-{time}"), "linked")?;
        }
        Ok(())
    })?;
    Ok(())
}

fn implied_dirs(image: &mut ImageBuilder) -> Result<()> {
    let own = Mode {
        mode: 0o2750,
        uid: 1_000,
        gid: 2_000,
    };
    image.layer(|layer| {
        layer
            .xattrs(&[("user.of-the-lower", b"yes")])?
            .dir("a", own)?;
        layer
            .dir(
                "a/b",
                Mode {
                    mode: 0o1777,
                    ..own
                },
            )?
            .dir("a/b/c", Mode { mode: 0o700, ..own })?;
        layer.file("a/b/c/lower", FILE, b"lower")?;
        layer.file("nowhere/named/file", FILE, b"x").map(drop)
    })?;
    image.layer(|layer| {
        layer.file("a/b/c/upper", FILE, b"upper")?;
        layer.file("a/b/new/upper", FILE, b"upper")?;
        layer.file("other/named/file", FILE, b"x").map(drop)
    })?;
    image.layer(|layer| {
        layer.file("a/b/c/.wh.lower", FILE, b"")?;
        layer.file("nowhere/named/.wh..wh..opq", FILE, b"")?;
        layer.symlink("a/b/c/d/e/symlink", "../../upper").map(drop)
    })?;
    Ok(())
}

fn odd_names(image: &mut ImageBuilder) -> Result<()> {
    image.layer(|layer| {
        layer.odd_name(b"./", Mode::root(0o700), b"")?;
        layer.odd_name(b"./dotted", FILE, b"x")?;
        layer.odd_name(b"/absolute", FILE, b"x")?;
        layer.odd_name(b"dir//double///slashes", FILE, b"x")?;
        layer
            .file("removed-at-once", FILE, b"x")?
            .file(".wh.removed-at-once", FILE, b"")?;
        layer
            .dir("emptied", DIR)?
            .file("emptied/before", FILE, b"x")?
            .file("emptied/.wh..wh..opq", FILE, b"")?
            .file("emptied/after", FILE, b"x")?;
        layer.file(".wh..wh.plnk/1.2", FILE, b"x").map(drop)
    })?;
    image.layer(|layer| {
        layer
            .dir("emptied", DIR)?
            .file("emptied/before", FILE, b"x")?
            .file("emptied/.wh..wh..opq", FILE, b"")?;
        layer
            .file("emptied/later", FILE, b"x")?
            .file("dir/.wh.none", FILE, b"")
            .map(drop)
    })?;
    Ok(())
}

fn repeats(image: &mut ImageBuilder) -> Result<()> {
    image.layer(|layer| {
        layer.odd_name(b"dir/./dots/../up", FILE, b"x")?;
        layer
            .file("twice", FILE, b"first")?
            .file("twice", Mode::root(0o600), b"second")?;
        layer
            .dir("was-a-dir", DIR)?
            .file("was-a-dir/inside", FILE, b"x")?
            .file("was-a-dir", FILE, b"now a file")?;
        layer
            .file("was-a-file", FILE, b"x")?
            .dir("was-a-file", DIR)?
            .file("was-a-file/inside", FILE, b"x")?;
        layer
            .dir("modes", Mode::root(0o700))?
            .dir("modes", Mode::root(0o755))
            .map(drop)
    })?;
    image.layer(|layer| {
        layer
            .file(".wh.twice", FILE, b"")?
            .file("twice", FILE, b"third")
            .map(drop)
    })?;
    Ok(())
}

/// What GNU tar writes into records: long names and link targets, large owners, sparse files.
fn pax(image: &mut ImageBuilder) -> Result<()> {
    let dir = cache::dir().join(format!("scratch.pax.{}", std::process::id()));
    let deep = (0..12).map(|it| format!("a-directory-of-some-length-{it}"));
    let deep: std::path::PathBuf = deep.collect();
    std::fs::create_dir_all(dir.join(&deep))?;
    std::fs::write(dir.join(&deep).join("a".repeat(250)), "content")?;
    std::os::unix::fs::symlink(&deep, dir.join("to-the-deep"))?;
    std::fs::hard_link(
        dir.join(&deep).join("a".repeat(250)),
        dir.join("of-the-deep"),
    )?;
    write_holes(&dir, 7)?;
    let tarred = gnu_tar(&dir, &["--format=pax", "-cS", "--sparse-version=1.0"]);
    std::fs::remove_dir_all(&dir)?;
    let tarred = tarred?;
    image.layer(|layer| {
        // A header for all that follows, as git archive writes.
        let comment = b"25 comment=of everything\n";
        layer.global_records(comment)?;
        layer.raw_tar(tarred.as_slice()).map(drop)
    })?;
    Ok(())
}

fn own_whiteout(image: &mut ImageBuilder) -> Result<()> {
    image.layer(|layer| layer.file("lower", FILE, b"x").map(drop))?;
    image.layer(|layer| {
        layer
            .file("removed", FILE, b"x")?
            .file(".wh.removed", FILE, b"")
            .map(drop)
    })?;
    Ok(())
}

fn gnu_sparse(image: &mut ImageBuilder, rng: &mut StdRng) -> Result<()> {
    let seed = rng.random::<u64>();
    image.layer(|layer| holes(layer, seed))?;
    Ok(())
}

fn far_links(image: &mut ImageBuilder) -> Result<()> {
    image.layer(|layer| layer.file("lower", FILE, b"x").map(drop))?;
    image.layer(|layer| layer.hard_link("upper", "lower").map(drop))?;
    Ok(())
}

fn whiteouts(image: &mut ImageBuilder, rng: &mut StdRng) -> Result<()> {
    image.layer(|layer| {
        for dir in ["kept", "removed", "hidden", "again"] {
            layer.dir(dir, DIR)?;
            for number in 0..8 {
                layer.file(&format!("{dir}/{number}"), FILE, &noise(rng, 20_000))?;
            }
        }
        layer
            .file("becomes-a-directory", FILE, b"file")?
            .dir("becomes-a-file", DIR)?;
        layer.file("becomes-a-file/inside", FILE, b"file").map(drop)
    })?;
    image.layer(|layer| {
        layer.file(".wh.removed", FILE, b"")?;
        layer
            .dir("hidden", DIR)?
            .file("hidden/.wh..wh..opq", FILE, b"")?;
        layer.file("hidden/new", FILE, &noise(rng, 5_000))?;
        layer
            .dir("kept", DIR)?
            .file("kept/.wh.3", FILE, b"")?
            .file("kept/.wh.5", FILE, b"")?;
        layer.file(".wh.again", FILE, b"").map(drop)
    })?;
    image.layer(|layer| {
        layer
            .dir("again", DIR)?
            .file("again/2", FILE, &noise(rng, 5_000))?;
        layer
            .file("kept/3", FILE, b"back")?
            .file("kept/.wh.none-of-that-name", FILE, b"")?;
        layer
            .dir("becomes-a-directory", DIR)?
            .file("becomes-a-directory/x", FILE, b"x")?;
        layer.file("becomes-a-file", FILE, b"now a file").map(drop)
    })?;
    Ok(())
}

fn links(image: &mut ImageBuilder, rng: &mut StdRng) -> Result<()> {
    image.layer(|layer| {
        layer
            .dir("a", DIR)?
            .file("a/first", FILE, &noise(rng, 50_000))?;
        for number in 0..5 {
            layer.hard_link(&format!("a/link{number}"), "a/first")?;
        }
        layer
            .symlink("a/absolute", "/a/first")?
            .symlink("a/relative", "../a/first")?;
        layer
            .symlink("a/nowhere", "/none/such")?
            .symlink("a/loop", "loop")?;
        layer
            .symlink("a/outside", "../../../../etc/passwd")?
            .symlink("dir-link", "a")
            .map(drop)
    })?;
    image.layer(|layer| {
        layer.file("a/new", FILE, &noise(rng, 5_000))?;
        layer
            .hard_link("a/of-new", "a/new")?
            .file("a/link1", FILE, b"no link any more")?;
        let mut dir = String::from("deep");
        for number in 0..20 {
            layer.dir(&dir, DIR)?;
            layer.hard_link(&format!("{dir}/link{number}"), "a/new")?;
            dir += "/deeper";
        }
        layer
            .symlink("a/to-new", "new")?
            .hard_link("a/of-symlink", "a/to-new")
            .map(drop)
    })?;
    Ok(())
}

fn attributes(image: &mut ImageBuilder, rng: &mut StdRng) -> Result<()> {
    // cap_net_bind_service=ep as the kernel stores it, revision 2.
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    image.layer(|layer| {
        layer.xattrs(&[("security.capability", &capability)])?;
        layer.file("capable", Mode::root(0o755), &noise(rng, 5_000))?;
        let binary = noise(rng, 200);
        layer.xattrs(&[
            ("user.binary", &binary),
            ("user.empty", b""),
            ("user.text", b"text"),
        ])?;
        layer.file("attributed", FILE, b"x")?;
        layer
            .xattrs(&[("user.on-a-directory", b"yes")])?
            .dir("dir", DIR)?;
        layer
            .file("setuid", Mode::root(0o4755), b"x")?
            .file("setgid", Mode::root(0o2755), b"x")?;
        layer
            .dir("sticky", Mode::root(0o1777))?
            .file("no-access", Mode::root(0), b"x")?;
        let owner = |uid, gid| Mode {
            mode: 0o640,
            uid,
            gid,
        };
        layer.file("nobody", owner(65_534, 65_534), b"x")?;
        layer.file("high-owner", owner(4_000_000_000, 4_000_000_000), b"x")?;
        layer.records(&[("uid", "3000000"), ("gid", "3000001")])?;
        layer.file("owner-by-records", FILE, b"x")?;
        layer.dir("setgid-dir", Mode::root(0o2775))?.file(
            "setgid-dir/of-other",
            owner(7, 8),
            b"x",
        )?;
        layer
            .fifo("pipe", Mode::root(0o600))?
            .device("null", Mode::root(0o666), 1, 3)?
            .device("far", Mode::root(0o600), 300, 70_000)?
            .block_device("disk", Mode::root(0o660), 8, 1)?;
        layer.xattrs(&[("user.linked", b"1")])?;
        layer
            .file("linked", FILE, b"x")?
            .hard_link("linked-too", "linked")
            .map(drop)
    })?;
    Ok(())
}

fn sparse(image: &mut ImageBuilder, rng: &mut StdRng) -> Result<()> {
    image.layer(|layer| {
        layer
            .file("empty", FILE, b"")?
            .file("zeros", FILE, &vec![0; 3_000_000])?;
        layer
            .file("one-block", FILE, &noise(rng, 512))?
            .dir("empty-dir", DIR)
            .map(drop)
    })?;
    Ok(())
}

/// A file that is mostly holes, in the sparse form of GNU tar, which alone can write it.
fn holes(layer: &mut LayerBuilder, seed: u64) -> Result<()> {
    let dir = cache::dir().join(format!("scratch.sparse.{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    write_holes(&dir, seed)?;
    let tarred = gnu_tar(&dir, &["--format=gnu", "-cS"]);
    std::fs::remove_dir_all(&dir)?;
    layer.raw_tar(tarred?.as_slice()).map(drop)
}

fn write_holes(dir: &Path, seed: u64) -> Result<()> {
    let file = std::fs::File::create(dir.join("holes"))?;
    file.set_len(64 << 20)?;
    for number in 0..6 {
        // To their last byte: what ends a tar is told from zeros.
        let block = (seed | 1).to_le_bytes().map(|byte| byte | 1).repeat(512);
        file.write_all_at(&block, number * (9 << 20) + 4096)?;
    }
    Ok(())
}

/// What a directory holds, without times and owners that differ from run to run.
fn gnu_tar(dir: &Path, arguments: &[&str]) -> Result<Vec<u8>> {
    let mut tar = Command::new("tar");
    tar.args(arguments)
        .args(["--sort=name", "--mtime=@1000000000"]);
    if arguments.contains(&"--format=pax") {
        tar.arg("--pax-option=exthdr.name=%d/%f,delete=atime,delete=ctime");
    }
    tar.args(["--owner=0", "--group=0", "--mode=u=rwX,go=rX"]);
    let mut names: Vec<_> = std::fs::read_dir(dir)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<std::io::Result<_>>()?;
    names.sort();
    let output = tar.arg("--numeric-owner").arg("-C").arg(dir).args(names);
    let output = output.output().context("failed to run tar")?;
    anyhow::ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output.stdout)
}

fn deep_paths(image: &mut ImageBuilder, rng: &mut StdRng) -> Result<()> {
    image.layer(|layer| {
        let mut path = String::new();
        for depth in 0..60 {
            path = format!(
                "{path}{}directory-{depth}",
                if depth == 0 { "" } else { "/" }
            );
            layer.dir(&path, DIR)?;
        }
        layer.file(&format!("{path}/file"), FILE, &noise(rng, 5_000))?;
        layer
            .symlink("to-the-deep", &path)?
            .hard_link("of-the-deep", &format!("{path}/file"))?;
        layer.file(&"n".repeat(255), FILE, b"longest name")?;
        layer
            .file("blank and\ttab", FILE, b"x")?
            .file("new\nline", FILE, b"x")?;
        layer
            .file("ünïcödé-☃", FILE, b"x")?
            .file("-rf", FILE, b"x")?
            .file("a\\b", FILE, b"x")?
            .odd_name(b"not-utf8-\xff\xfe", FILE, b"x")
            .map(drop)
    })?;
    Ok(())
}

fn many_layers(image: &mut ImageBuilder, rng: &mut StdRng) -> Result<()> {
    for number in 0..MANY {
        image.layer(|layer| {
            layer.file(&format!("layer-{number}"), FILE, &noise(rng, 3_000))?;
            layer
                .file("last", FILE, number.to_string().as_bytes())
                .map(drop)
        })?;
    }
    Ok(())
}
