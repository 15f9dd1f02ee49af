//! "Did you mean": the word nearest to one that is not known.

/// The candidate nearest to `word`, if it is near enough to be a slip.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let tolerance = 1 + word.len() / 4;
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= tolerance)
        .min()
        .map(|(_, candidate)| candidate)
}

/// How many letters must be added, removed, changed or swapped with their neighbour to make `a` of
/// `b`; case and the kind of hyphen do not count.
fn distance(a: &str, b: &str) -> usize {
    let letters = |text: &str| -> Vec<char> {
        let lower = text.to_ascii_lowercase();
        lower.chars().filter(|c| !matches!(c, '_' | '-')).collect()
    };
    let (a, b) = (letters(a), letters(b));
    let mut before_last = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let changed = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + changed);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before_last[j - 2] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        let keys = ["listen", "quota", "max_neighbours", "dir"];
        assert_eq!(nearest("lisetn", keys), Some("listen"));
        assert_eq!(nearest("max-neighbors", keys), Some("max_neighbours"));
        assert_eq!(nearest("Quota", keys), Some("quota"));
        assert_eq!(nearest("banana", keys), None);
        assert_eq!(nearest("", keys), None);
    }
}
