//! The matrix as people read it.

use super::{Outcome, Step};
use crate::cluster::{Client, ContainerdVersion};

/// All outcomes, for printing.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Matrix {
    pub outcomes: Vec<Outcome>,
}

/// One outcome in one line.
pub(super) fn line(outcome: &Outcome) -> String {
    let Outcome {
        version,
        client,
        step,
        failure,
        has_fetched,
        has_released,
        seconds,
        stall,
    } = outcome;
    let (version, client, step) = (version.name(), client.name(), step.name());
    let mut text = format!("containerd {version}, {client}: {step}: ");
    text += &match failure {
        Some(failure) => format!("FAILED: {failure}"),
        None => format!("ok ({seconds:.1} s)"),
    };
    if *has_fetched {
        text += ", containerd fetched layers itself";
    }
    if *has_released {
        text += ", since garbage was collected meanwhile";
    }
    if let Some(stall) = stall {
        text += &format!(
            ", {} containers started meanwhile in at most {:.2} s (alone {:.2} s) beside {} \
             collections of at most {:.2} s",
            stall.starts, stall.slowest, stall.alone, stall.collections, stall.slowest_collection
        );
    }
    text
}

/// A row's cells before the versions.
fn head(client: Client, step: Step) -> String {
    format!("| {} | {} |", client.name(), step.name())
}

/// The page `docs/clients.md`.
#[must_use]
pub fn document(matrix: &Matrix) -> String {
    let mut text = INTRODUCTION.to_owned();
    text += "| client | step |";
    for version in ContainerdVersion::ALL {
        text += &format!(" containerd {} |", version.name());
    }
    text += "\n|---|---|---|---|---|\n";
    for (client, step) in rows() {
        text += &head(client, step);
        for version in ContainerdVersion::ALL {
            text += &format!(" {} |", matrix.cell(version, client, step));
        }
        text += "\n";
    }
    text += STALLS;
    for outcome in &matrix.outcomes {
        let Some(stall) = outcome.stall else { continue };
        text += &format!(
            "| {} | {} | {:.2} s | {:.2} s | {} | {} | {:.2} s |\n",
            outcome.version.name(),
            outcome.client.name(),
            stall.alone,
            stall.slowest,
            stall.starts,
            stall.collections,
            stall.slowest_collection,
        );
    }
    text
}

impl Matrix {
    fn cell(&self, version: ContainerdVersion, client: Client, step: Step) -> &'static str {
        let found = self
            .outcomes
            .iter()
            .find(|it| (it.version, it.client, it.step) == (version, client, step));
        match found {
            None => "not run",
            Some(outcome) if outcome.failure.is_some() => "FAILS",
            Some(outcome) if outcome.has_fetched => "yes, itself",
            Some(_) => "yes",
        }
    }
}

fn rows() -> impl Iterator<Item = (Client, Step)> {
    let all = |client| Step::ALL.into_iter().map(move |step| (client, step));
    let rows = Client::ALL.into_iter().flat_map(all);
    rows.filter(|(client, step)| step.is_offered_by(*client))
}

const INTRODUCTION: &str = "\
# Clients

What each client does on each containerd through the snapshotter, as the testbed has tried it with
the real programs. `hawker-test-vm matrix --write` makes this page anew; the cases
`clients_work_on_containerd_*` do the same and fail where a cell is not what it has to be.

* **yes**: it works, and containerd fetched no layer itself: it asked Hawker's mirror for manifests
  and configs alone, and the snapshotter gave it the layers.
* **yes, itself**: it works, and containerd fetched at least one layer itself: through the mirror, or
  from the registry while there was no hawkerd. The `ctr` of 1.6 and 1.7 asks for snapshots without
  a word on the image, and fetches everything before it asks; `nerdctl commit` writes a manifest
  with layers that containerd has to have; and where garbage has to be collected, or something goes
  wrong in the middle, Hawker lets containerd do what it always did, so that nobody waits.
* *hawkerd killed* and *restarted in the middle*: the pull may fail while hawkerd is away, and
  succeeds when it is tried again, as kubelets do.
* crictl's containers run in pods of CRI. It knows one namespace: nerdctl has the other.

";

const STALLS: &str = "
While one pull waited for its layers and containerd collected garbage all the time, other containers
were started on the same snapshotter:

| containerd | client of the pull | start alone | slowest start meanwhile | starts | collections | \
slowest collection |
|---|---|---|---|---|---|---|
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_has_a_row_for_each_thing_that_is_tried_and_says_that_it_works() {
        let page = include_str!("../../docs/clients.md");
        let found: Vec<_> = page
            .lines()
            .filter(|line| {
                Client::ALL
                    .iter()
                    .any(|client| line.starts_with(&format!("| {} |", client.name())))
            })
            .collect();
        let expected: Vec<_> = rows().map(|(client, step)| head(client, step)).collect();
        assert_eq!(found.len(), expected.len());
        for (line, head) in found.iter().zip(&expected) {
            assert!(line.starts_with(head), "{line} is not the row of {head}");
            let cells = line[head.len()..].split('|').map(str::trim);
            let cells: Vec<_> = cells.filter(|cell| !cell.is_empty()).collect();
            assert_eq!(cells.len(), ContainerdVersion::ALL.len(), "{line}");
            assert!(
                cells.iter().all(|cell| cell.starts_with("yes")),
                "{line} does not say that it works"
            );
        }
        for version in ContainerdVersion::ALL {
            assert!(page.contains(&format!(" containerd {} |", version.name())));
        }
    }
}
