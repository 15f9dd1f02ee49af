//! What manifests that passed the mirror name.
//!
//! The labels of a snapshot say what an image's pusher or any client of containerd wants them to
//! say. A manifest that a registry gave to somebody says which blobs are part of its repository's
//! images. So the accounts of this host speak only for what is named here.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hawker_model::{Digest, RegistryHost, Repository};

use super::ImageName;

/// How long a manifest is evidence: a large image on a slow link takes that long.
const KEEP: Duration = Duration::from_secs(3600);
/// Names remembered at most: less than 10 MiB.
const MOST: usize = 64 << 10;
/// Manifests remembered for one name at most.
const MOST_MANIFESTS: usize = 8;

/// Which manifests name which blobs.
#[derive(Debug, Default)]
pub(super) struct Evidence(Mutex<HashMap<Named, Vec<Witness>>>);

type Named = (RegistryHost, Repository, Digest);

/// A manifest, and when it last passed.
#[derive(Debug)]
struct Witness {
    manifest: Option<Digest>,
    at: Instant,
}

impl Evidence {
    /// A manifest of the image's repository passed and names these blobs.
    pub(super) fn note(&self, image: &ImageName, named: &[Digest]) {
        self.note_at(image, named, Instant::now());
    }

    fn note_at(&self, image: &ImageName, named: &[Digest], now: Instant) {
        let mut all = self.lock();
        if all.len() + named.len() > MOST {
            all.retain(|_, witnesses| witnesses.iter().any(|witness| witness.is_fresh(now)));
        }
        if all.len() + named.len() > MOST {
            all.clear();
        }
        for digest in named.iter().take(MOST) {
            let witnesses = all.entry(name(image, digest)).or_default();
            witnesses.retain(|witness| witness.manifest != image.manifest);
            if witnesses.len() >= MOST_MANIFESTS {
                witnesses.remove(0);
            }
            witnesses.push(Witness {
                manifest: image.manifest,
                at: now,
            });
        }
    }

    /// Whether a manifest of the image's repository names the blob.
    pub(super) fn names(&self, image: &ImageName, digest: &Digest) -> bool {
        !self.witnesses(image, digest, Instant::now()).is_empty()
    }

    /// The manifests of the image's repository that name the blob, newest first.
    pub(super) fn manifests(&self, image: &ImageName, digest: &Digest) -> Vec<Digest> {
        let witnesses = self.witnesses(image, digest, Instant::now());
        witnesses.into_iter().flatten().collect()
    }

    fn witnesses(&self, image: &ImageName, digest: &Digest, now: Instant) -> Vec<Option<Digest>> {
        let all = self.lock();
        let witnesses = all.get(&name(image, digest)).into_iter().flatten().rev();
        let fresh = witnesses.filter(|witness| witness.is_fresh(now));
        fresh.map(|witness| witness.manifest).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Named, Vec<Witness>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Witness {
    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < KEEP
    }
}

fn name(image: &ImageName, digest: &Digest) -> Named {
    (image.registry.clone(), image.repository.clone(), *digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str, manifest: &str) -> ImageName {
        let manifest = Digest::of(manifest.as_bytes());
        ImageName::parse(name).unwrap().with_manifest(manifest)
    }

    #[test]
    fn only_what_the_repositorys_own_manifests_name_is_named() {
        let evidence = Evidence::default();
        let [one, other] = [b"1", b"2"].map(|blob| Digest::of(blob));
        evidence.note(&image("r.io/a", "m"), &[one]);
        evidence.note(&image("r.io/a", "n"), &[one]);
        assert!(evidence.names(&image("r.io/a", "elsewhere"), &one));
        assert!(!evidence.names(&image("r.io/a", "m"), &other));
        assert!(!evidence.names(&image("r.io/b", "m"), &one));
        assert!(!evidence.names(&image("s.io/a", "m"), &one));
        let newest_first = [b"n", b"m"].map(|text| Digest::of(text));
        assert_eq!(
            evidence.manifests(&image("r.io/a", "x"), &one),
            newest_first
        );
    }

    #[test]
    fn evidence_ends_and_memory_is_bounded() {
        let (evidence, now) = (Evidence::default(), Instant::now());
        let a = image("r.io/a", "m");
        for i in 0..2 * MOST_MANIFESTS {
            evidence.note_at(&image("r.io/a", &i.to_string()), &[Digest::of(b"x")], now);
        }
        assert_eq!(
            evidence.witnesses(&a, &Digest::of(b"x"), now).len(),
            MOST_MANIFESTS
        );
        assert!(
            evidence
                .witnesses(&a, &Digest::of(b"x"), now + KEEP)
                .is_empty()
        );
        for i in 0..MOST + 10 {
            evidence.note_at(&a, &[Digest::of(&i.to_le_bytes())], now);
        }
        assert!(evidence.lock().len() <= MOST);
    }
}
