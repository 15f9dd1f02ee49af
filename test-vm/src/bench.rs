//! Benchmarks: never part of the tests, since they measure the machine as well.

mod access;
mod channel;
mod content;
mod hedge;
mod idle;
mod limits;
mod machine;
mod memory;
mod nginx;
mod pull;
mod receive;
mod serve;
mod small;
mod start;
mod swarm;
mod tasks;
mod wire;

use anyhow::{Context, Result, bail};

pub use access::Access;
pub use content::Content;
pub use hedge::Hedge;
pub use idle::Idle;
pub use limits::Limits;
pub use memory::Memory;
pub use pull::Pull;
pub use receive::Receive;
pub use serve::Serve;
pub use small::Small;
pub use swarm::{Swarm, Tracker};
pub use tasks::Tasks;

/// `64MiB`, `1GiB`, `500kB`: bytes.
///
/// # Errors
/// When it is not a number with such a unit.
pub fn parse_len(text: &str) -> Result<u64> {
    let digits = text
        .find(|it: char| !it.is_ascii_digit())
        .unwrap_or(text.len());
    let unit: u64 = match &text[digits..] {
        "" | "B" => 1,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => bail!("size {text:?} is not like 64MiB"),
    };
    let number: u64 = text[..digits]
        .parse()
        .with_context(|| format!("size {text:?}"))?;
    match number.checked_mul(unit) {
        Some(0) | None => bail!("size {text:?} is out of range"),
        Some(len) => Ok(len),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() -> Result<()> {
        assert_eq!(parse_len("64MiB")?, 64 << 20);
        assert_eq!(parse_len("5kB")?, 5000);
        for wrong in ["", "MiB", "-1MiB", "64mib", "0", "99999999999999GiB"] {
            assert!(parse_len(wrong).is_err(), "{wrong}");
        }
        Ok(())
    }
}
