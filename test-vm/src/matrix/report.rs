//! The matrix as people read it.

use super::{Outcome, Step};
use crate::cluster::{Client, ContainerdVersion, Profile};

/// All outcomes, for printing.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct Matrix {
    pub outcomes: Vec<Outcome>,
}

/// One outcome in one line.
pub(super) fn line(outcome: &Outcome) -> String {
    let Outcome {
        profile,
        version,
        client,
        step,
        failure,
        has_fetched,
        has_released,
        seconds,
        stall,
    } = outcome;
    let (profile, version) = (profile.name(), version.name());
    let (client, step) = (client.name(), step.name());
    let mut text = format!("{profile}, containerd {version}, {client}: {step}: ");
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
    for profile in Profile::ALL {
        text += &heading(profile);
        text += "| client | step |";
        for version in ContainerdVersion::ALL {
            text += &format!(" containerd {} |", version.name());
        }
        text += "\n|---|---|---|---|---|\n";
        for (client, step) in rows() {
            text += &head(client, step);
            for version in ContainerdVersion::ALL {
                text += &format!(" {} |", matrix.cell(profile, version, client, step));
            }
            text += "\n";
        }
    }
    text += STALLS;
    for outcome in &matrix.outcomes {
        let Some(stall) = outcome.stall else { continue };
        text += &format!(
            "| {} | {} | {} | {:.2} s | {:.2} s | {} | {} | {:.2} s |\n",
            outcome.profile.name(),
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

fn heading(profile: Profile) -> String {
    let what = match profile {
        Profile::Snapshotter => "the snapshotter and the mirror",
        Profile::Mirror => "the mirror alone: containerd fetches and unpacks",
        Profile::Full => "content store, snapshotter, mirror, and the diff service from 1.7 on",
        Profile::FullOverlayfs => {
            "content store, mirror, and the diff service from 1.7 on, into stock overlayfs"
        }
    };
    format!("\n## Profile {}: {what}\n\n", profile.name())
}

impl Matrix {
    /// Whether a client was tried with a profile on a containerd.
    #[must_use]
    pub fn has(&self, profile: Profile, version: ContainerdVersion, client: Client) -> bool {
        let mut outcomes = self.outcomes.iter();
        outcomes.any(|it| (it.profile, it.version, it.client) == (profile, version, client))
    }

    fn cell(
        &self,
        profile: Profile,
        version: ContainerdVersion,
        client: Client,
        step: Step,
    ) -> &'static str {
        if !Client::all_of(version).contains(&client) {
            return NONE;
        }
        let wanted = (profile, version, client, step);
        let is_wanted = |it: &&Outcome| (it.profile, it.version, it.client, it.step) == wanted;
        match self.outcomes.iter().find(is_wanted) {
            None => "not run",
            Some(outcome) if outcome.failure.is_some() => "FAILS",
            Some(outcome) if outcome.has_fetched => "yes, itself",
            Some(_) => "yes",
        }
    }
}

/// Where there is no such client.
const NONE: &str = "–";

fn rows() -> impl Iterator<Item = (Client, Step)> {
    let all = |client| Step::ALL.into_iter().map(move |step| (client, step));
    let rows = Client::ALL.into_iter().flat_map(all);
    rows.filter(|(client, step)| step.is_offered_by(*client))
}

const INTRODUCTION: &str = "\
# Clients

What each client does on each containerd with each profile, as the testbed has tried it with the real
programs. `hawker-test-vm matrix --write` makes this page anew; the cases `clients_work_*` do the same
and fail where a cell is not what it has to be (with `--long` every cell, else a selection of the
profiles that are not the default).

* **yes**: it works, and containerd fetched no layer itself: it asked Hawker's mirror for manifests
  and configs alone, and the snapshotter or the content store gave it the layers.
* **yes, itself**: it works, and containerd fetched at least one layer itself: through the mirror, or
  from the registry while there was no hawkerd. That is all that the profile mirror is for. With the
  snapshotter alone, the `ctr` of 1.6 and 1.7, and that of 2.3 with `--local`, asks for snapshots
  without a word on the image, and fetches everything before it asks; `nerdctl commit` writes a
  manifest with layers that containerd has to have; and where garbage has to be collected, or
  something goes wrong in the middle, Hawker lets containerd do what it always did, so that nobody
  waits. With the profile full nothing of this is left but the time in which there is no hawkerd.
* *hawkerd killed* and *restarted in the middle*: the pull may fail while hawkerd is away, and
  succeeds when it is tried again, as kubelets do.
* crictl's containers run in pods of CRI. It knows one namespace: nerdctl has the other.
* `ctr` before 2.0 always pulls as `ctr --local` does since.
* docker is Debian's client with a daemon of Docker 29 that the testbed builds, since Debian's has no
  images in containerd; it wants a newer containerd than Debian's. It has one namespace as well. What
  Debian's own Docker does, which has its images to itself, is in the cases.
";

const STALLS: &str = "
## What others had to wait

While one pull waited for its layers and containerd collected garbage all the time, other containers
were started on the same snapshotter:

| profile | containerd | client of the pull | start alone | slowest start meanwhile | starts | \
collections | slowest collection |
|---|---|---|---|---|---|---|---|
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_has_a_row_for_each_thing_that_is_tried_and_says_that_it_works() {
        let page = include_str!("../../docs/clients.md");
        for profile in Profile::ALL {
            let (_, section) = page.split_once(&heading(profile)).unwrap_or_default();
            let section = section.split("\n\n").next().unwrap_or_default();
            let found: Vec<_> = section.lines().skip(2).collect();
            let expected: Vec<_> = rows().collect();
            assert_eq!(found.len(), expected.len(), "{profile:?}");
            for (line, (client, step)) in found.iter().zip(expected) {
                let head = head(client, step);
                assert!(line.starts_with(&head), "{line} is not the row of {head}");
                let cells = line[head.len()..].split('|').map(str::trim);
                let cells: Vec<_> = cells.filter(|cell| !cell.is_empty()).collect();
                assert_eq!(cells.len(), ContainerdVersion::ALL.len(), "{line}");
                for (cell, version) in cells.iter().zip(ContainerdVersion::ALL) {
                    let is_there = Client::all_of(version).contains(&client);
                    let is_right = if is_there {
                        cell.starts_with("yes")
                    } else {
                        *cell == NONE
                    };
                    assert!(is_right, "{profile:?}: {line} does not say that it works");
                }
            }
        }
        for version in ContainerdVersion::ALL {
            assert!(page.contains(&format!(" containerd {} |", version.name())));
        }
    }
}
