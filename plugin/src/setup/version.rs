//! Which containerd it is, and what that one understands.

use std::fmt;

/// A containerd's version; what a distribution adds to it is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ContainerdVersion {
    major: u32,
    minor: u32,
    patch: u32,
}

impl ContainerdVersion {
    pub(crate) const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self {
            major,
            minor,
            patch,
        }
    }

    /// Finds the version in `v2.3.4`, `1.6.20~ds1`, `v1.7.21-k3s1`, or in the line that
    /// `containerd --version` prints.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        text.split_whitespace().find_map(Self::parse_word)
    }

    fn parse_word(word: &str) -> Option<Self> {
        let word = word.strip_prefix('v').unwrap_or(word);
        let mut numbers = word.splitn(3, '.');
        let major = numbers.next()?.parse().ok()?;
        let minor = leading_number(numbers.next()?)?;
        let patch = numbers.next().map_or(Some(0), leading_number)?;
        Some(Self::new(major, minor, patch))
    }

    /// The schema of settings that a new file gets.
    pub(crate) fn new_schema(self) -> i64 {
        if self.major >= 2 { 3 } else { 2 }
    }

    /// Whether `exports` and `platform` of a proxy plugin are known.
    pub(crate) fn knows_exports(self) -> bool {
        match (self.major, self.minor) {
            (1, 6) => self.patch >= 32,
            (1, 7) => self.patch >= 16,
            (major, _) => major >= 2,
        }
    }

    /// Whether `capabilities` of a proxy plugin are known.
    pub(crate) fn knows_capabilities(self) -> bool {
        self >= Self::new(1, 7, 23)
    }

    /// Whether a content store outside of containerd is known to work.
    pub(crate) fn takes_content(self) -> bool {
        self >= Self::new(1, 6, 0)
    }

    /// Whether layers can be applied outside of containerd.
    pub(crate) fn takes_differs(self) -> bool {
        self >= Self::new(1, 7, 4)
    }

    /// Whether `ctr` and others pull through the transfer service.
    pub(crate) fn has_transfer(self) -> bool {
        self.major >= 2
    }

    /// Whether CRI pulls through the transfer service, unless its settings forbid.
    pub(crate) fn cri_transfers(self) -> bool {
        self >= Self::new(2, 1, 0)
    }

    /// Whether the transfer service unpacks EROFS images by default.
    pub(crate) fn unpacks_erofs(self) -> bool {
        self >= Self::new(2, 3, 0)
    }

    /// Whether imported files are merged into a plugin's settings key by key; otherwise the last
    /// file that has the plugin's table has it alone.
    pub(crate) fn merges_deep(self) -> bool {
        self.major >= 2
    }

    /// Whether patterns of imports are looked for beside the file that has them; before, in the
    /// working directory.
    pub(crate) fn globs_beside_file(self) -> bool {
        match (self.major, self.minor) {
            (1, 6) => self.patch >= 29,
            (1, 7) => self.patch >= 16,
            (major, _) => major >= 2,
        }
    }

    /// Whether a hosts.toml without any [host] table is refused.
    pub(crate) fn wants_a_host(self) -> bool {
        self < Self::new(1, 7, 32)
    }
}

impl fmt::Display for ContainerdVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

fn leading_number(text: &str) -> Option<u32> {
    let end = text.find(|c: char| !c.is_ascii_digit());
    text[..end.unwrap_or(text.len())].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_found_in_what_containerd_says_of_itself() {
        for (text, expected) in [
            ("1.6.20~ds1", Some((1, 6, 20))),
            ("v2.3.4", Some((2, 3, 4))),
            ("v2.4.0-beta.0", Some((2, 4, 0))),
            ("v1.7.21-k3s1", Some((1, 7, 21))),
            ("2.3", Some((2, 3, 0))),
            (
                "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3",
                Some((1, 6, 20)),
            ),
            (
                "containerd github.com/containerd/containerd/v2 2.3.7 ",
                Some((2, 3, 7)),
            ),
            ("containerd unknown", None),
            ("", None),
        ] {
            let expected = expected.map(|(a, b, c)| ContainerdVersion::new(a, b, c));
            assert_eq!(ContainerdVersion::parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn fields_of_proxy_plugins_are_known_from_where_they_came() {
        let version = ContainerdVersion::new;
        let exports = [version(1, 6, 32), version(1, 7, 16), version(2, 0, 0)];
        assert!(exports.into_iter().all(ContainerdVersion::knows_exports));
        let none = [version(1, 6, 31), version(1, 7, 15), version(1, 5, 40)];
        assert!(!none.into_iter().any(ContainerdVersion::knows_exports));
        assert!(!version(1, 7, 22).knows_capabilities());
        assert!(version(1, 7, 23).knows_capabilities() && version(2, 0, 0).knows_capabilities());
        assert!(!version(2, 0, 9).cri_transfers() && version(2, 1, 0).cri_transfers());
        assert!(!version(1, 5, 18).takes_content() && version(1, 6, 0).takes_content());
        let none = [version(1, 6, 39), version(1, 7, 3)];
        assert!(!none.into_iter().any(ContainerdVersion::takes_differs));
        assert!(version(1, 7, 4).takes_differs() && version(2, 0, 0).takes_differs());
    }
}
