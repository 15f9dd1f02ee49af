//! Credentials that clients of the mirror showed, and the registry accepted, for a manifest.
//!
//! The layers of a manifest are part of the same pull; so what was accepted for the manifest may be
//! shown for them, and for nothing else: not in another repository, not for another manifest. Only
//! where a manifest's children are not known (a HEAD of an index) is the repository what counts, as
//! it does at registries.
//!
//! "No credential" is such an answer too, and the only one where the snapshotter does not know the
//! manifest: nobody's pull can be told from another's then. Containerd's clients name it wherever
//! they name a layer, and so do the manifests that passed the mirror.
//!
//! Everything is in memory only, bounded, and ends after a few minutes.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hawker_model::{Digest, RegistryHost, Repository};
use hawker_swarm::Secret;

use super::ImageName;

/// How long what was shown may be used. A pull of many GiB over a slow link takes longer, but asks
/// for its last layer before that.
const KEEP: Duration = Duration::from_secs(600);
/// Repositories at most.
const MOST_REPOSITORIES: usize = 1024;
/// Credentials of one repository at most.
const MOST_CREDENTIALS: usize = 16;
/// Manifests of one credential at most.
const MOST_MANIFESTS: usize = 256;
/// Bytes of all at most, about.
const MOST_BYTES: usize = 16 << 20;
/// How often it is looked for what is too old.
const SWEEP: Duration = Duration::from_secs(60);

/// The credentials seen at the mirror.
#[derive(Default)]
pub(super) struct Keychain {
    seen: Mutex<All>,
}

#[derive(Default)]
struct All {
    places: HashMap<Place, Vec<Seen>>,
    /// What they take, about.
    bytes: usize,
    swept: Option<Instant>,
}

type Place = (RegistryHost, Repository);

/// One credential, and what it was accepted for.
struct Seen {
    credential: Option<Secret>,
    /// When it was last accepted for each manifest; `None`: for one of which nothing is known.
    accepted: BTreeMap<Option<Digest>, Instant>,
}

impl Keychain {
    /// The registry accepted `credential` for the manifests `covered`; `None` among them: for
    /// manifests that nobody here knows.
    pub(super) fn note(
        &self,
        image: &ImageName,
        covered: &[Option<Digest>],
        credential: Option<&Secret>,
    ) {
        self.note_at(image, covered, credential, Instant::now());
    }

    fn note_at(
        &self,
        image: &ImageName,
        covered: &[Option<Digest>],
        credential: Option<&Secret>,
        now: Instant,
    ) {
        let mut all = self.lock();
        let place = place(image);
        all.make_room(&place, now);
        let All { places, bytes, .. } = &mut *all;
        let seen = places.entry(place).or_default();
        *bytes -= weight(seen);
        let position = seen
            .iter()
            .position(|seen| seen.credential.as_ref() == credential);
        // The newest is the last.
        let mut entry = match position {
            Some(position) => seen.remove(position),
            None => Seen {
                credential: credential.cloned(),
                accepted: BTreeMap::new(),
            },
        };
        let covered = &covered[..covered.len().min(MOST_MANIFESTS)];
        if entry.accepted.len() + covered.len() > MOST_MANIFESTS {
            entry.accepted.clear();
        }
        let accepted = covered.iter().map(|manifest| (*manifest, now));
        entry.accepted.extend(accepted);
        if seen.len() >= MOST_CREDENTIALS {
            seen.remove(0);
        }
        seen.push(entry);
        *bytes += weight(seen);
    }

    /// What may be shown for the image's layers, newest first.
    pub(super) fn seen(&self, image: &ImageName) -> Vec<Option<Secret>> {
        self.seen_at(image, Instant::now())
    }

    fn seen_at(&self, image: &ImageName, now: Instant) -> Vec<Option<Secret>> {
        let all = self.lock();
        let Some(seen) = all.places.get(&place(image)) else {
            return Vec::new();
        };
        let of = |wanted: &dyn Fn(&Option<Digest>) -> bool| -> Vec<_> {
            let fits = |seen: &&Seen| {
                let mut accepted = seen.accepted.iter();
                accepted.any(|(manifest, at)| wanted(manifest) && is_fresh(*at, now))
            };
            let newest_first = seen.iter().rev().filter(fits);
            newest_first.map(|seen| seen.credential.clone()).collect()
        };
        match image.manifest {
            None => {
                let mut seen = of(&|_| true);
                seen.retain(Option::is_none);
                seen
            }
            Some(manifest) => match of(&|other| *other == Some(manifest)) {
                exact if exact.is_empty() => of(&Option::is_none),
                exact => exact,
            },
        }
    }

    /// The registry refused it.
    pub(super) fn forget(&self, image: &ImageName, credential: Option<&Secret>) {
        let mut all = self.lock();
        let All { places, bytes, .. } = &mut *all;
        if let Some(seen) = places.get_mut(&place(image)) {
            *bytes -= weight(seen);
            seen.retain(|seen| seen.credential.as_ref() != credential);
            *bytes += weight(seen);
        }
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Keychain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let repositories = self.lock().places.len();
        f.debug_struct("Keychain")
            .field("repositories", &repositories)
            .finish_non_exhaustive()
    }
}

fn place(image: &ImageName) -> Place {
    (image.registry.clone(), image.repository.clone())
}

fn is_fresh(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) < KEEP
}

/// What one repository's credentials take, about.
fn weight(seen: &[Seen]) -> usize {
    let of_one = |seen: &Seen| {
        let credential = seen.credential.as_ref();
        let credential = credential.map_or(0, |secret| secret.expose().len());
        let accepted = seen.accepted.len() * size_of::<(Option<Digest>, Instant)>();
        size_of::<Seen>() + credential + accepted
    };
    seen.iter().map(of_one).sum()
}

impl All {
    /// Lets go what is too old, and everything where that is not enough: it is shown again soon.
    fn make_room(&mut self, coming: &Place, now: Instant) {
        let is_due = self.swept.is_none_or(|at| now >= at + SWEEP);
        if is_due || self.is_full(coming) {
            self.sweep(now);
        }
        if self.is_full(coming) {
            self.places.clear();
            self.bytes = 0;
        }
    }

    fn is_full(&self, coming: &Place) -> bool {
        let is_new = !self.places.contains_key(coming);
        self.bytes >= MOST_BYTES || self.places.len() >= MOST_REPOSITORIES && is_new
    }

    fn sweep(&mut self, now: Instant) {
        for seen in self.places.values_mut() {
            for seen in seen.iter_mut() {
                seen.accepted.retain(|_, at| is_fresh(*at, now));
            }
            seen.retain(|seen| !seen.accepted.is_empty());
        }
        self.places.retain(|_, seen| !seen.is_empty());
        self.bytes = self.places.values().map(|seen| weight(seen)).sum();
        self.swept = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str, manifest: Option<&str>) -> ImageName {
        let image = ImageName::parse(name).unwrap();
        match manifest {
            Some(manifest) => image.with_manifest(digest(manifest)),
            None => image,
        }
    }

    fn digest(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    fn shown(keychain: &Keychain, image: &ImageName, now: Instant) -> Vec<String> {
        let seen = keychain.seen_at(image, now);
        let text =
            |secret: Option<Secret>| secret.map_or_else(|| "-".into(), |s| s.expose().to_owned());
        seen.into_iter().map(text).collect()
    }

    fn note(keychain: &Keychain, image: &ImageName, credential: Option<&str>, now: Instant) {
        let credential = credential.map(Secret::new);
        keychain.note_at(image, &[image.manifest], credential.as_ref(), now);
    }

    #[test]
    fn credential_is_shown_for_the_manifest_that_it_was_accepted_for() {
        let (keychain, now) = (Keychain::default(), Instant::now());
        let (a, b) = (image("r.io/x", Some("a")), image("r.io/x", Some("b")));
        note(&keychain, &a, Some("of a"), now);
        note(&keychain, &b, Some("of b"), now);
        assert_eq!(shown(&keychain, &a, now), ["of a"]);
        assert_eq!(shown(&keychain, &b, now), ["of b"]);
        for other in ["r.io/y", "r.io:443/x", "s.io/x"] {
            assert!(shown(&keychain, &image(other, Some("a")), now).is_empty());
        }
        assert!(shown(&keychain, &image("r.io/x", Some("c")), now).is_empty());
    }

    #[test]
    fn image_whose_manifest_is_not_known_gets_no_credential_of_others() {
        let (keychain, now) = (Keychain::default(), Instant::now());
        let (a, any) = (image("r.io/x", Some("a")), image("r.io/x", None));
        note(&keychain, &a, Some("of a"), now);
        note(&keychain, &any, Some("of head"), now);
        assert!(shown(&keychain, &any, now).is_empty());
        note(&keychain, &a, None, now);
        assert_eq!(shown(&keychain, &any, now), ["-"]);
    }

    #[test]
    fn unknown_manifests_are_the_repositorys_where_nothing_fits_better() {
        let (keychain, now) = (Keychain::default(), Instant::now());
        let (whole, a) = (image("r.io/x", None), image("r.io/x", Some("a")));
        note(&keychain, &whole, Some("of head"), now);
        assert_eq!(shown(&keychain, &a, now), ["of head"]);
        note(&keychain, &a, Some("of a"), now);
        note(&keychain, &whole, Some("of head"), now);
        assert_eq!(shown(&keychain, &a, now), ["of a"]);
    }

    #[test]
    fn newest_comes_first_and_none_is_an_answer() {
        let (keychain, now) = (Keychain::default(), Instant::now());
        let a = image("r.io/x", Some("a"));
        for credential in [Some("1"), None, Some("2"), Some("1")] {
            note(&keychain, &a, credential, now);
        }
        assert_eq!(shown(&keychain, &a, now), ["1", "2", "-"]);
        keychain.forget(&a, Some(&Secret::new("1")));
        keychain.forget(&a, None);
        assert_eq!(shown(&keychain, &a, now), ["2"]);
    }

    #[test]
    fn what_is_old_is_not_shown_and_not_kept() {
        let (keychain, now) = (Keychain::default(), Instant::now());
        let (a, b) = (image("r.io/x", Some("a")), image("r.io/y", None));
        note(&keychain, &a, Some("1"), now);
        let later = now + KEEP;
        assert!(shown(&keychain, &a, later).is_empty());
        note(&keychain, &b, Some("2"), later);
        assert_eq!(keychain.lock().places.len(), 1);
    }

    #[test]
    fn memory_is_bounded() {
        let (keychain, now) = (Keychain::default(), Instant::now());
        for i in 0..2 * MOST_MANIFESTS {
            let manifest = i.to_string();
            note(&keychain, &image("r.io/x", Some(&manifest)), Some("1"), now);
        }
        for i in 0..2 * MOST_CREDENTIALS {
            note(&keychain, &image("r.io/x", None), Some(&i.to_string()), now);
        }
        for i in 0..2 * MOST_REPOSITORIES {
            note(&keychain, &image(&format!("r.io/r{i}"), None), None, now);
        }
        let all = keychain.lock();
        assert!(all.places.len() <= MOST_REPOSITORIES);
        let seen = all.places.values().flatten();
        assert!(
            seen.into_iter()
                .all(|seen| seen.accepted.len() <= MOST_MANIFESTS)
        );
        let mut seen = all.places.values();
        assert!(seen.all(|seen| seen.len() <= MOST_CREDENTIALS));
    }

    #[test]
    fn long_credentials_take_no_more_memory_than_short_ones() {
        let (keychain, now) = (Keychain::default(), Instant::now());
        for i in 0..4 * MOST_BYTES / 16_000 {
            let credential = format!("{i}{}", "x".repeat(16_000));
            let name = format!("r.io/r{}", i % 800);
            note(&keychain, &image(&name, None), Some(&credential), now);
        }
        let all = keychain.lock();
        let bytes: usize = all.places.values().map(|seen| weight(seen)).sum();
        assert_eq!(all.bytes, bytes);
        assert!(bytes <= MOST_BYTES + 32_000, "{bytes}");
    }

    #[test]
    fn nothing_secret_is_printed() {
        let keychain = Keychain::default();
        note(
            &keychain,
            &image("r.io/x", None),
            Some("hush"),
            Instant::now(),
        );
        assert!(!format!("{keychain:?}").contains("hush"));
    }
}
