//! Images of noise, which nothing else shares: for pulls that must take a while.

use anyhow::{Context, Result};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{Form, Image, ImageBuilder, layer::Mode};
use crate::cache;

/// Raised when the way of building changes.
const VERSION: &str = "1";
const LAYERS: usize = 4;
const FILES: usize = 6;
const FILE_LEN: usize = 1 << 20;

/// Four layers of 6 MiB in all forms that a layer travels in, and a busybox that can look at them:
/// `/bin/busybox cat /name` prints the name. Another name gives other bytes.
///
/// # Errors
/// When the machine has no busybox, or the cache cannot be written.
pub fn noise(name: &str) -> Result<Image> {
    let busybox = std::fs::read("/bin/busybox").context("cannot read /bin/busybox")?;
    let repository = format!("noise/{name}");
    let dir = cache::entry("noise", &format!("{name}-v{VERSION}"), |dir| {
        let seed = name.bytes().fold(7, |seed: u64, byte| {
            seed.wrapping_mul(31).wrapping_add(u64::from(byte))
        });
        let mut rng = StdRng::seed_from_u64(seed);
        let mut image = ImageBuilder::create(dir)?.command(&["/bin/busybox", "cat", "/name"]);
        let forms = [Form::Gzip, Form::Zstd, Form::Plain].into_iter().cycle();
        for (number, form) in forms.take(LAYERS).enumerate() {
            image.layer_as(form, |layer| {
                if number == 0 {
                    layer.dir("bin", Mode::root(0o755))?;
                    layer.file("bin/busybox", Mode::root(0o755), &busybox)?;
                    layer.file("name", Mode::root(0o644), name.as_bytes())?;
                }
                for file in 0..FILES {
                    let mut bytes = vec![0; FILE_LEN];
                    rng.fill_bytes(&mut bytes);
                    layer.file(&format!("{number}-{file}"), Mode::root(0o644), &bytes)?;
                }
                Ok(())
            })?;
        }
        image.finish(&repository, "1").map(drop)
    })?;
    Image::open(&dir, &repository, "1")
}
