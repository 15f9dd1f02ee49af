//! Paths as layers write them, made plain, and the names that mean something.

use super::{error::Refusal, limits::Limits};

/// What the kernel takes as one name.
const LONGEST_NAME: usize = 255;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What the last part of a path says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning<'a> {
    /// A file of that name.
    Name,
    /// Whatever lies below in the same directory is hidden.
    Opaque,
    /// That name below is hidden.
    Hides(&'a [u8]),
}

/// Puts the path into `clean` with no empty, `.` and `..` parts and no slash around; empty for the
/// root. `..` takes away the part before it, as Go's `filepath.Clean` does, and not what a
/// symbolic link of that name points to.
pub(super) fn clean(path: &[u8], limits: &Limits, clean: &mut Vec<u8>) -> Result<(), Refusal> {
    clean.clear();
    if path.is_empty() {
        return Err(Refusal::NoName);
    }
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if clean.is_empty() => return Err(Refusal::Climbs),
            b".." => clean.truncate(parent(clean).len()),
            part => push(clean, part, limits)?,
        }
    }
    let above = clean.iter().filter(|byte| **byte == b'/').count();
    match above > limits.depth {
        true => Err(Refusal::TooDeep(limits.depth)),
        false => Ok(()),
    }
}

/// Adds one part to a clean path.
pub(super) fn push(path: &mut Vec<u8>, part: &[u8], limits: &Limits) -> Result<(), Refusal> {
    if part.len() > LONGEST_NAME || path.len() + 1 + part.len() > limits.path {
        return Err(Refusal::PathTooLong(limits.path));
    }
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(part);
    Ok(())
}

/// The clean path above; empty for what lies in the root.
pub(super) fn parent(path: &[u8]) -> &[u8] {
    split(path).0
}

/// A clean path as what is above and the last part.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

/// What a name means. Since 1.2, containerd knows none of the other names of AUFS (`.wh..wh.plnk`):
/// they are whiteouts like others.
pub(super) fn meaning(name: &[u8]) -> Result<Meaning<'_>, Refusal> {
    if name == OPAQUE {
        return Ok(Meaning::Opaque);
    }
    match name.strip_prefix(WHITEOUT) {
        None => Ok(Meaning::Name),
        Some(b"" | b"." | b"..") => Err(Refusal::WhiteoutName),
        Some(hidden) => Ok(Meaning::Hides(hidden)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cleaned(path: &str) -> Result<String, Refusal> {
        let mut clean = Vec::new();
        super::clean(path.as_bytes(), &Limits::default(), &mut clean)?;
        Ok(String::from_utf8(clean).unwrap())
    }

    #[test]
    fn paths_are_made_plain() {
        for (path, clean) in [
            ("a", "a"),
            ("./a/b/", "a/b"),
            ("/a//b/./c", "a/b/c"),
            ("a/../b", "b"),
            ("a/b/../../c", "c"),
            ("a/..", ""),
            ("./", ""),
            ("/", ""),
            (".", ""),
            ("...", "..."),
        ] {
            assert_eq!(cleaned(path).unwrap(), clean, "{path}");
        }
    }

    #[test]
    fn paths_that_climb_or_are_too_long_are_refused() {
        for path in ["..", "../a", "/..", "/../a", "a/../../b", "a/../.."] {
            assert_eq!(cleaned(path), Err(Refusal::Climbs), "{path}");
        }
        assert_eq!(cleaned(""), Err(Refusal::NoName));
        let long = Err(Refusal::PathTooLong(4095));
        assert_eq!(cleaned(&"n".repeat(256)), long);
        assert_eq!(cleaned(&["n"; 2049].join("/")), long);
        assert_eq!(cleaned(&["n"; 258].join("/")), Err(Refusal::TooDeep(256)));
        assert!(cleaned(&["n"; 257].join("/")).is_ok());
        assert!(cleaned(&"n".repeat(255)).is_ok());
    }

    #[test]
    fn whiteouts_are_told_from_names() {
        assert_eq!(meaning(b"a"), Ok(Meaning::Name));
        assert_eq!(meaning(b"wh.a"), Ok(Meaning::Name));
        assert_eq!(meaning(b".wh.a"), Ok(Meaning::Hides(b"a")));
        assert_eq!(meaning(b".wh..wh..opq"), Ok(Meaning::Opaque));
        assert_eq!(meaning(b".wh..wh.plnk"), Ok(Meaning::Hides(b".wh.plnk")));
        for name in [".wh.", ".wh..", ".wh..."] {
            assert_eq!(
                meaning(name.as_bytes()),
                Err(Refusal::WhiteoutName),
                "{name}"
            );
        }
    }

    proptest! {
        #[test]
        fn clean_paths_stay_below(path in "[./a]{0,30}") {
            let clean = cleaned(&path).unwrap_or_default();
            let is_plain = |part: &str| !matches!(part, "" | "." | "..");
            prop_assert!(clean.is_empty() || clean.split('/').all(is_plain));
        }
    }
}
