//! Images of what real ones seldom hold: the odd corners of the layer format, by seed.

use std::process::Command;

use anyhow::{Context, Result};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

use super::{Image, ImageBuilder, LayerBuilder, layer::Mode};
use crate::cache;

/// Raised when the way of building changes.
const VERSION: &str = "1";
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
    ZeroLayers,
    ManyLayers,
}

impl Oddity {
    pub const ALL: [Self; 7] = [
        Self::Whiteouts,
        Self::Links,
        Self::Attributes,
        Self::Sparse,
        Self::DeepPaths,
        Self::ZeroLayers,
        Self::ManyLayers,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Whiteouts => "whiteouts",
            Self::Links => "links",
            Self::Attributes => "attributes",
            Self::Sparse => "sparse",
            Self::DeepPaths => "deep-paths",
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
        layer
            .file("a/new", FILE, &noise(rng, 5_000))?
            .hard_link("b-link", "a/first")?;
        layer
            .hard_link("a/of-new", "a/new")?
            .file("a/link1", FILE, b"no link any more")
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
        layer
            .fifo("pipe", Mode::root(0o600))?
            .device("null", Mode::root(0o666), 1, 3)
            .map(drop)
    })?;
    Ok(())
}

fn sparse(image: &mut ImageBuilder, rng: &mut StdRng) -> Result<()> {
    let seed = rng.random::<u64>();
    image.layer(|layer| {
        layer
            .file("empty", FILE, b"")?
            .file("zeros", FILE, &vec![0; 3_000_000])?;
        layer
            .file("one-block", FILE, &noise(rng, 512))?
            .dir("empty-dir", DIR)?;
        holes(layer, seed)
    })?;
    Ok(())
}

/// A file that is mostly holes, in the sparse form of GNU tar, which alone can write it.
fn holes(layer: &mut LayerBuilder, seed: u64) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let dir = cache::dir().join(format!("scratch.sparse.{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let file = std::fs::File::create(dir.join("holes"))?;
    file.set_len(64 << 20)?;
    for number in 0..6 {
        file.write_all_at(&seed.to_le_bytes(), number * (9 << 20) + 4096)?;
    }
    let mut tar = Command::new("tar");
    tar.args([
        "-cS",
        "--format=gnu",
        "--mtime=@1000000000",
        "--owner=0",
        "--group=0",
        "--mode=644",
    ]);
    let output = tar
        .arg("--numeric-owner")
        .arg("-C")
        .arg(&dir)
        .arg("holes")
        .output();
    std::fs::remove_dir_all(&dir)?;
    let output = output.context("failed to run tar")?;
    anyhow::ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    layer.raw_tar(output.stdout.as_slice()).map(drop)
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
            .file("a\\b", FILE, b"x")
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
