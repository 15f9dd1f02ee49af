//! What an edit changes, as a unified diff.

use std::{borrow::Cow, fmt::Write as _, path::Path, sync::LazyLock};

use regex::Regex;

/// Lines shown around a change.
const CONTEXT: usize = 3;
/// Above this many cells the middle is shown as removed and added whole.
const MOST_CELLS: usize = 16_000_000;

/// Keys of credentials in settings of containerd, hosts.toml files and daemon.json, with what is
/// said of them.
#[allow(clippy::expect_used, reason = "a constant that a test parses")]
static SECRET: LazyLock<Regex> = LazyLock::new(|| {
    let key = r#"["']?(?:password|auth|identitytoken|token|secret|authorization)["']?\s*[=:]\s*"#;
    let value = r#"(?:"(?:[^"\\]|\\.)*"?|'[^']*'?|\[[^\]]*\]?)"#;
    Regex::new(&format!("(?i)({key}){value}")).expect("a sound expression")
});

/// A line as it may be shown on any screen.
fn without_secrets(line: &str) -> Cow<'_, str> {
    SECRET.replace_all(line, "${1}…")
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Edit {
    Keep,
    Remove,
    Add,
}

/// The diff between two texts of a file; empty where they are the same. `old` is `None` for a file
/// that is not there yet.
pub(crate) fn unified(path: &Path, old: Option<&str>, new: &str) -> String {
    let before: Vec<&str> = old.unwrap_or_default().lines().collect();
    let after: Vec<&str> = new.lines().collect();
    let edits = edits(&before, &after);
    let mut out = String::new();
    for (start, end) in hunks(&edits) {
        hunk(&mut out, &edits, start, end);
    }
    match (out.as_str(), old) {
        ("", Some(_)) => String::new(),
        (_, Some(_)) => format!("--- {0}\n+++ {0}\n{out}", path.display()),
        (_, None) => format!("--- /dev/null\n+++ {}\n{out}", path.display()),
    }
}

/// Every line of both texts, in order.
fn edits<'a>(before: &[&'a str], after: &[&'a str]) -> Vec<(Edit, &'a str)> {
    let head = common(before.iter(), after.iter());
    let (old, new) = (&before[head..], &after[head..]);
    let tail = common(old.iter().rev(), new.iter().rev());
    let (old, rest) = old.split_at(old.len() - tail);
    let new = &new[..new.len() - tail];
    let keep = |lines: &[&'a str]| lines.iter().map(|l| (Edit::Keep, *l)).collect::<Vec<_>>();
    let mut edits = keep(&before[..head]);
    edits.extend(middle(old, new));
    edits.extend(keep(rest));
    edits
}

fn common<'a>(
    one: impl Iterator<Item = &'a &'a str>,
    other: impl Iterator<Item = &'a &'a str>,
) -> usize {
    one.zip(other).take_while(|(a, b)| a == b).count()
}

/// The shortest edit, by the longest common subsequence.
fn middle<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<(Edit, &'a str)> {
    let width = new.len() + 1;
    let (mut i, mut j) = (0, 0);
    let mut edits = Vec::new();
    if (old.len() + 1).saturating_mul(width) <= MOST_CELLS {
        let mut longest = vec![0_u32; (old.len() + 1) * width];
        for i in (0..old.len()).rev() {
            for j in (0..new.len()).rev() {
                longest[i * width + j] = match old[i] == new[j] {
                    true => longest[(i + 1) * width + j + 1] + 1,
                    false => longest[(i + 1) * width + j].max(longest[i * width + j + 1]),
                };
            }
        }
        while i < old.len() && j < new.len() {
            if old[i] == new[j] {
                edits.push((Edit::Keep, old[i]));
                (i, j) = (i + 1, j + 1);
            } else if longest[(i + 1) * width + j] >= longest[i * width + j + 1] {
                edits.push((Edit::Remove, old[i]));
                i += 1;
            } else {
                edits.push((Edit::Add, new[j]));
                j += 1;
            }
        }
    }
    edits.extend(old[i..].iter().map(|line| (Edit::Remove, *line)));
    edits.extend(new[j..].iter().map(|line| (Edit::Add, *line)));
    edits
}

/// The ranges of edits that are shown together.
fn hunks(edits: &[(Edit, &str)]) -> Vec<(usize, usize)> {
    let mut hunks: Vec<(usize, usize)> = Vec::new();
    for (at, _) in edits
        .iter()
        .enumerate()
        .filter(|(_, (edit, _))| *edit != Edit::Keep)
    {
        let (start, end) = (
            at.saturating_sub(CONTEXT),
            edits.len().min(at + CONTEXT + 1),
        );
        match hunks.last_mut() {
            Some(last) if start <= last.1 => last.1 = end,
            _ => hunks.push((start, end)),
        }
    }
    hunks
}

fn hunk(out: &mut String, edits: &[(Edit, &str)], start: usize, end: usize) {
    let count = |range: &[(Edit, &str)], other: Edit| {
        range.iter().filter(|(edit, _)| *edit != other).count()
    };
    let place = |other: Edit| {
        let (before, lines) = (
            count(&edits[..start], other),
            count(&edits[start..end], other),
        );
        let first = if lines == 0 { before } else { before + 1 };
        format!("{first},{lines}")
    };
    // Writing to a String does not fail.
    let _ = writeln!(out, "@@ -{} +{} @@", place(Edit::Add), place(Edit::Remove));
    for (edit, line) in &edits[start..end] {
        let sign = match edit {
            Edit::Keep => ' ',
            Edit::Remove => '-',
            Edit::Add => '+',
        };
        let _ = writeln!(out, "{sign}{}", without_secrets(line));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn change_is_shown_with_three_lines_around_it() {
        let old = "a\nb\nc\nd\ne\nf\ng\nh\ni\n";
        let new = "a\nb\nc\nd\nE\nf\ng\nh\ni\n";
        assert_eq!(
            unified(Path::new("/x"), Some(old), new),
            "--- /x\n+++ /x\n@@ -2,7 +2,7 @@\n b\n c\n d\n-e\n+E\n f\n g\n h\n"
        );
        assert_eq!(unified(Path::new("/x"), Some(old), old), "");
        assert_eq!(
            unified(Path::new("/x"), None, "a\n"),
            "--- /dev/null\n+++ /x\n@@ -0,0 +1,1 @@\n+a\n"
        );
    }

    #[test]
    fn credentials_are_not_shown() {
        for (line, shown) in [
            ("  password = \"pa\\\"ss\" # x", "  password = … # x"),
            (
                "auth = { username = \"u\", password = 'p' }",
                "auth = { username = \"u\", password = … }",
            ),
            ("Authorization = [\"Basic eA==\"]", "Authorization = …"),
            ("{ \"auth\": \"eA==\" }", "{ \"auth\": … }"),
            ("identitytoken = \"abc", "identitytoken = …"),
            ("config_path = \"/etc\"", "config_path = \"/etc\""),
            (
                "[registry.configs.\"r\".auth]",
                "[registry.configs.\"r\".auth]",
            ),
        ] {
            assert_eq!(without_secrets(line), shown);
        }
    }

    proptest! {
        #[test]
        fn edits_lead_from_the_one_to_the_other(
            old in proptest::collection::vec("[abc]", 0..12),
            new in proptest::collection::vec("[abc]", 0..12),
        ) {
            let before: Vec<&str> = old.iter().map(String::as_str).collect();
            let after: Vec<&str> = new.iter().map(String::as_str).collect();
            let edits = edits(&before, &after);
            let without = |other: Edit| -> Vec<&str> {
                let kept = edits.iter().filter(|(edit, _)| *edit != other);
                kept.map(|(_, line)| *line).collect()
            };
            prop_assert_eq!(without(Edit::Add), before);
            prop_assert_eq!(without(Edit::Remove), after);
        }
    }
}
