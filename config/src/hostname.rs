//! The machine's name as a host's name.

use std::fs;

use hawker_model::HostId;

/// The machine's host name as the kernel knows it; what a name cannot hold becomes `-`.
pub(crate) fn hostname() -> HostId {
    let name = fs::read("/proc/sys/kernel/hostname").unwrap_or_default();
    sanitize(&String::from_utf8_lossy(&name))
}

fn sanitize(text: &str) -> HostId {
    let name: String = text
        .trim()
        .chars()
        .take(128)
        .map(|c| match c {
            c if c.is_ascii_alphanumeric() || ".-_".contains(c) => c,
            _ => '-',
        })
        .collect();
    HostId::parse(&name).unwrap_or_else(|_| localhost())
}

#[allow(clippy::expect_used, reason = "a constant that a test parses")]
pub(crate) fn localhost() -> HostId {
    HostId::parse("localhost").expect("localhost is a sound name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_host_name_becomes_a_sound_one() {
        assert_eq!(sanitize("node-1.example\n").as_str(), "node-1.example");
        assert_eq!(sanitize("my host/ä").as_str(), "my-host--");
        assert_eq!(sanitize("\n"), localhost());
        assert_eq!(sanitize(&"x".repeat(300)).as_str().len(), 128);
    }
}
