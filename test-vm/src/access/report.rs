//! The matrix as people read it.

use serde::Serialize;

use super::{Asker, Cell, Reach, Seen, Shown, State, expected};

/// Everything that was seen, for printing.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Access {
    pub seen: Vec<Seen>,
}

impl Access {
    fn cell(&self, cell: Cell) -> String {
        let wanted = expected(cell);
        match self.seen.iter().find(|it| it.cell == cell) {
            None => "not run".to_owned(),
            Some(seen) if seen.outcome == wanted => wanted.name().to_owned(),
            Some(seen) => format!("WRONG: {} for {}", seen.outcome.name(), wanted.name()),
        }
    }
}

/// The page `docs/access.md`.
#[must_use]
pub fn document(access: &Access) -> String {
    let mut text = INTRODUCTION.to_owned();
    for asker in Asker::all() {
        text += &format!("\n## {}\n", asker.name());
        for &reach in asker.reaches() {
            text += &table(access, asker, reach);
        }
    }
    text
}

fn table(access: &Access, asker: Asker, reach: Reach) -> String {
    let mut text = format!("\nRegistry {}:\n\n| credential |", reach.name());
    for state in State::ALL {
        text += &format!(" {} |", state.name());
    }
    text += "\n|---|---|---|---|---|\n";
    for shown in Shown::ALL {
        text += &format!("| {} |", shown.name());
        for state in State::ALL {
            let cell = Cell {
                asker,
                shown,
                state,
                reach,
            };
            text += &format!(" {} |", access.cell(cell));
        }
        text += "\n";
    }
    text
}

const INTRODUCTION: &str = "\
# Access

Who gets the bytes of a private image through Hawker: every client with every credential, wherever
the blobs are, while the registry can be reached and while it cannot. `hawker-test-vm access --write`
makes this page anew from pulls with the real programs, one image for each cell; the cases
`access_matrix_*` do the same and fail where a cell is not what it has to be. What it has to be was
written down before anything was tried (`src/access/expected.rs`). No blob left the registry more
than once.

* The registry is docker-registry with a token service beside it, as Harbor has one. Daemons have a
  name and a password; curl shows the mirror a token. containerd knows no other way to the registry
  than the mirror, so that nothing but Hawker can have answered.
* **refused**: by the registry, in its own words. **no token**: by the token service. **not found**:
  the registry says so, to those who may know. **unavailable**: nobody could say, or give it.
* *expired*: an account, or a token, whose time is over. *revoked*: it was right until it was taken
  back, and the registry has refused it since; its rights have been remembered before, and ended.
* *down, within the grace*: the registry and its token service refuse connections; what was right a
  moment before is believed for `mirror.rights_grace`. containerd and Docker show an account only
  where they are challenged and need a new token for each pull, even for what anybody may pull; nobody
  issues one then; but Docker needs none for what a seed was given in nobody's name. From registries
  that want no tokens they go on pulling.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_says_of_every_cell_what_has_to_come_of_it() {
        let cells = Asker::all().into_iter().flat_map(Asker::cells);
        let seen = cells.map(|cell| Seen {
            cell,
            outcome: expected(cell),
            copies: 1.0,
            words: String::new(),
        });
        let page = document(&Access {
            seen: seen.collect(),
        });
        assert_eq!(page, include_str!("../../docs/access.md"));
    }
}
