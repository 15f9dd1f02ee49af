//! The hostile matrix as people read it.

use serde::Serialize;

use super::Seen;

/// Everything that was seen, for printing.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Page {
    pub seen: Vec<Seen>,
}

/// The page `docs/hostile.md`.
#[must_use]
pub fn document(page: &Page) -> String {
    let rows = page.seen.iter().map(row);
    INTRODUCTION.to_owned() + &rows.collect::<String>()
}

fn row(seen: &Seen) -> String {
    let isolated = if seen.isolated { "yes" } else { "no" };
    let paroled = match seen.paroled {
        Some(true) => "yes",
        Some(false) => "no",
        None => "",
    };
    format!(
        "| {} | {} | {} | {} | {} | {} | {isolated} | {paroled} | {} | {:.2} | {:.1} s |\n",
        seen.villain.name(),
        seen.right,
        seen.refused,
        seen.wrong,
        seen.wronged.len(),
        seen.shut_out_by,
        seen.pieces,
        seen.copies,
        seen.seconds,
    )
}

const INTRODUCTION: &str = "\
# Hostile peers

Every kind of liar against a cluster of real daemons: a scheduler, a seed, four nodes, a registry,
TLS. The liar has a certificate of the cluster, speaks the real protocol, and tells the scheduler
that it has the blob (16 MiB, 256 pieces), which the nodes then pull at once. `hawker-test-vm hostile
--write` makes this page anew; the case `hostile_peers_never_win` does the same and fails where
anything is not as it has to be (`src/hostile.rs`).

* *right*, *refused*, *wrong*: nodes whose client got the right bytes, an error, wrong bytes.
* *wronged*: honest hosts that the scheduler isolated, or that an honest host shut out.
* *shut out by*: honest hosts that take nothing of the liar any more. *isolated*: the scheduler sends
  nobody there. Who stalls, or has not what it says it has, may be slow or unlucky: it is left, and
  isolated only where a third of those in contact with it say so. One flipped bit, however many meet
  it, is an accident until twice as many report it.
* *paroled*: the first one that was isolated stays; when its time is over, here 20 s, the scheduler
  sends others there again.
* *pieces*: the most that the liar got rid of at one victim.
* *copies*: what left the registry, by the blob's length. One node and the seed hold the blob before a
  liar comes, except before the lying seed, whose victims ask the registry for the last piece, and then
  one of them for all.

| liar | right | refused | wrong | wronged | shut out by | isolated | paroled | pieces | copies | time |
|---|---|---|---|---|---|---|---|---|---|---|
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hostile::Villain;

    #[test]
    fn page_has_a_row_for_every_kind_of_liar() {
        let page = include_str!("../../docs/hostile.md");
        assert!(page.starts_with(INTRODUCTION), "make it anew");
        for villain in Villain::all() {
            let row = format!("\n| {} | ", villain.name());
            assert!(page.contains(&row), "{row}");
        }
    }
}
