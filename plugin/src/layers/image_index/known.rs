//! What is known of manifests and configs, in memory.
//!
//! A manifest is known by its digest, and beside it the places that gave it to somebody; a config by
//! the stacks that its layers make. What passed last stands first. Everything is bounded: what
//! passed longest ago goes first.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use hawker_model::{Digest, RegistryHost, Repository};
use hawker_snapshotter::{ChainId, DiffId, chain_ids};

use crate::layers::{ImageName, manifest::Part};

/// Manifests remembered at most.
const MOST_MANIFESTS: usize = 4096;
/// Layers, and manifests of indexes, that all of them name at most: less than 10 MiB with the
/// configs.
const MOST_NAMED: usize = 64 << 10;
/// Configs remembered at most, and layers that they tell of.
const MOST_CONFIGS: usize = 4096;
const MOST_STACKED: usize = 64 << 10;
/// Places of one manifest at most.
const MOST_PLACES: usize = 8;
/// How often a config is asked for in vain.
const MOST_FAILURES: u32 = 3;

/// A repository of a registry.
pub(super) type Place = (RegistryHost, Repository);

/// What a manifest names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Index(Arc<[Digest]>),
    Image(Arc<Image>),
}

/// An image: its config and its layers, bottom first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) config: Part,
    pub(super) layers: Vec<Part>,
}

/// A layer in an image, found.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) manifest: Digest,
    /// When the manifest passed.
    pub(super) seen: u64,
    pub(super) places: Vec<Place>,
    pub(super) image: Arc<Image>,
    /// Which of its layers it is.
    pub(super) position: usize,
}

/// What changed since it was last asked for, and so is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Changed {
    Manifest(Digest),
    Config(Digest),
}

/// One manifest.
#[derive(Clone, Debug)]
pub(super) struct Manifest {
    pub(super) content: Content,
    /// The newest first; none where only its bytes were seen.
    pub(super) places: Vec<Place>,
    /// The higher, the later.
    pub(super) seen: u64,
    failures: u32,
}

/// One config: its layers' diff ids, bottom first. None: it is no image's.
#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) diff_ids: Vec<DiffId>,
    pub(super) seen: u64,
    chains: Vec<ChainId>,
}

#[derive(Debug, Default)]
pub(super) struct Known {
    manifests: HashMap<Digest, Manifest>,
    configs: HashMap<Digest, Config>,
    by_age: BTreeMap<u64, Digest>,
    configs_by_age: BTreeMap<u64, Digest>,
    named: usize,
    stacked: usize,
    next: u64,
    changed: BTreeSet<Changed>,
}

impl Manifest {
    pub(super) fn new(content: Content, places: Vec<Place>, seen: u64) -> Self {
        Self {
            content,
            places,
            seen,
            failures: 0,
        }
    }
}

impl Config {
    pub(super) fn new(diff_ids: Vec<DiffId>, seen: u64) -> Self {
        Self {
            chains: chain_ids(&diff_ids),
            diff_ids,
            seen,
        }
    }
}

impl Content {
    /// How many layers or manifests it names.
    fn len(&self) -> usize {
        match self {
            Self::Index(manifests) => manifests.len(),
            Self::Image(image) => image.layers.len(),
        }
    }
}

impl Known {
    /// Takes what was written before.
    pub(super) fn load(
        &mut self,
        manifests: Vec<(Digest, Manifest)>,
        configs: Vec<(Digest, Config)>,
    ) {
        for (digest, manifest) in manifests {
            self.put_manifest(digest, manifest);
        }
        for (digest, config) in configs {
            self.put_config(digest, config);
        }
        self.changed.clear();
        self.make_room();
    }

    /// A manifest passed, at a place where that is known. What is known of it already stays: a
    /// digest has one content.
    pub(super) fn note(&mut self, digest: Digest, place: Option<Place>, content: Content) {
        let seen = self.next();
        let known = self.take_manifest(&digest);
        let mut manifest = known.unwrap_or_else(|| Manifest::new(content, Vec::new(), seen));
        manifest.seen = seen;
        if let Some(place) = place {
            manifest.places.retain(|known| *known != place);
            manifest.places.insert(0, place);
            manifest.places.truncate(MOST_PLACES);
        }
        if let Content::Image(image) = &manifest.content {
            self.touch_config(&image.config.digest.clone());
        }
        self.put_manifest(digest, manifest);
        self.make_room();
    }

    /// A config passed.
    pub(super) fn note_config(&mut self, digest: Digest, diff_ids: Vec<DiffId>) {
        let seen = self.next();
        self.take_config(&digest);
        self.put_config(digest, Config::new(diff_ids, seen));
        self.make_room();
    }

    /// A config could not be read.
    pub(super) fn note_failure(&mut self, manifest: &Digest) {
        if let Some(manifest) = self.manifests.get_mut(manifest) {
            manifest.failures += 1;
        }
    }

    /// What a manifest names, if that place gave it to somebody.
    pub(super) fn content_at(&self, image: &ImageName) -> Option<Content> {
        let manifest = self.manifests.get(&image.manifest?)?;
        let mut places = manifest.places.iter();
        let is_known =
            places.any(|place| (&place.0, &place.1) == (&image.registry, &image.repository));
        is_known.then(|| manifest.content.clone())
    }

    pub(super) fn has_place(&self, manifest: &Digest) -> bool {
        let known = self.manifests.get(manifest);
        known.is_some_and(|known| !known.places.is_empty())
    }

    pub(super) fn has_config(&self, digest: &Digest) -> bool {
        self.configs.contains_key(digest)
    }

    /// The layers on top of the stack `chain`, newest image first.
    pub(super) fn find(&self, chain: &ChainId) -> Vec<Found> {
        self.found(|image| {
            let config = self.configs.get(&image.config.digest)?;
            let is_sound = config.chains.len() == image.layers.len();
            let mut chains = config.chains.iter().filter(|_| is_sound);
            chains.position(|other| other == chain)
        })
    }

    /// What a layer unpacks to, where the image's config is known.
    pub(super) fn diff_id(&self, found: &Found) -> Option<DiffId> {
        let config = self.configs.get(&found.image.config.digest)?;
        let is_sound = config.diff_ids.len() == found.image.layers.len();
        let diff_ids = config.diff_ids.get(found.position).filter(|_| is_sound);
        diff_ids.copied()
    }

    /// The images that have a layer, newest first.
    pub(super) fn having(&self, layer: &Digest) -> Vec<Found> {
        self.found(|image| {
            let mut layers = image.layers.iter();
            layers.position(|other| other.digest == *layer)
        })
    }

    fn found(&self, position: impl Fn(&Image) -> Option<usize>) -> Vec<Found> {
        let found = self.images().filter_map(|(digest, manifest, image)| {
            Some(Found {
                manifest: digest,
                seen: manifest.seen,
                places: manifest.places.clone(),
                position: position(image)?,
                image: Arc::clone(image),
            })
        });
        found.collect()
    }

    /// The newest images whose configs were not read, when they passed and where to read them.
    pub(super) fn unread(&self, most: usize) -> Vec<(u64, ImageName, Digest)> {
        let unread = self.images().filter_map(|(digest, manifest, image)| {
            let (registry, repository) = manifest.places.first()?.clone();
            let is_worth_it = manifest.failures < MOST_FAILURES
                && !self.configs.contains_key(&image.config.digest);
            let name = ImageName {
                registry,
                repository,
                manifest: Some(digest),
            };
            is_worth_it.then_some((manifest.seen, name, image.config.digest))
        });
        unread.take(most).collect()
    }

    fn images(&self) -> impl Iterator<Item = (Digest, &Manifest, &Arc<Image>)> {
        let newest = self.by_age.values().rev();
        newest.filter_map(|digest| {
            let manifest = self.manifests.get(digest)?;
            match &manifest.content {
                Content::Image(image) => Some((*digest, manifest, image)),
                Content::Index(_) => None,
            }
        })
    }

    /// All places that are known.
    pub(super) fn places(&self) -> BTreeSet<Place> {
        let manifests = self.manifests.values();
        manifests.flat_map(|known| known.places.clone()).collect()
    }

    /// What is to be written: `None` where it went.
    pub(super) fn take_changes(&mut self) -> Changes {
        let mut changes = Changes::default();
        for changed in std::mem::take(&mut self.changed) {
            match changed {
                Changed::Manifest(digest) => {
                    let manifest = self.manifests.get(&digest).cloned();
                    changes.manifests.push((digest, manifest));
                }
                Changed::Config(digest) => {
                    let config = self.configs.get(&digest).cloned();
                    changes.configs.push((digest, config));
                }
            }
        }
        changes
    }

    pub(super) fn len(&self) -> usize {
        self.manifests.len()
    }

    fn next(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn touch_config(&mut self, digest: &Digest) {
        if let Some(mut config) = self.take_config(digest) {
            config.seen = self.next();
            self.put_config(*digest, config);
        }
    }

    fn put_manifest(&mut self, digest: Digest, manifest: Manifest) {
        self.next = self.next.max(manifest.seen);
        self.named += manifest.content.len();
        self.by_age.insert(manifest.seen, digest);
        self.changed.insert(Changed::Manifest(digest));
        self.manifests.insert(digest, manifest);
    }

    fn take_manifest(&mut self, digest: &Digest) -> Option<Manifest> {
        let manifest = self.manifests.remove(digest)?;
        self.named -= manifest.content.len();
        self.by_age.remove(&manifest.seen);
        self.changed.insert(Changed::Manifest(*digest));
        Some(manifest)
    }

    fn put_config(&mut self, digest: Digest, config: Config) {
        self.next = self.next.max(config.seen);
        self.stacked += config.chains.len();
        self.configs_by_age.insert(config.seen, digest);
        self.changed.insert(Changed::Config(digest));
        self.configs.insert(digest, config);
    }

    fn take_config(&mut self, digest: &Digest) -> Option<Config> {
        let config = self.configs.remove(digest)?;
        self.stacked -= config.chains.len();
        self.configs_by_age.remove(&config.seen);
        self.changed.insert(Changed::Config(*digest));
        Some(config)
    }

    fn make_room(&mut self) {
        while self.manifests.len() > MOST_MANIFESTS || self.named > MOST_NAMED {
            let Some(oldest) = self.by_age.values().next().copied() else {
                break;
            };
            self.take_manifest(&oldest);
        }
        while self.configs.len() > MOST_CONFIGS || self.stacked > MOST_STACKED {
            let Some(oldest) = self.configs_by_age.values().next().copied() else {
                break;
            };
            self.take_config(&oldest);
        }
    }
}

/// What is to be written.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) manifests: Vec<(Digest, Option<Manifest>)>,
    pub(super) configs: Vec<(Digest, Option<Config>)>,
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.manifests.is_empty() && self.configs.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest(of: u32) -> Digest {
        Digest::of(&of.to_le_bytes())
    }

    fn part(of: u32) -> Part {
        Part {
            digest: digest(of),
            size: None,
            is_elsewhere: false,
        }
    }

    fn image(config: u32, layers: &[u32]) -> Content {
        Content::Image(Arc::new(Image {
            config: part(config),
            layers: layers.iter().map(|layer| part(*layer)).collect(),
        }))
    }

    fn place(name: &str) -> Place {
        let name = ImageName::parse(name).unwrap();
        (name.registry, name.repository)
    }

    fn ids(of: &[u32]) -> Vec<DiffId> {
        of.iter().map(|id| DiffId::from(digest(*id))).collect()
    }

    #[test]
    fn stack_has_the_layers_of_all_images_newest_first() {
        let mut known = Known::default();
        // The same files, packed twice.
        known.note(digest(1), Some(place("r.io/gzip")), image(10, &[100, 101]));
        known.note(digest(2), Some(place("r.io/zstd")), image(20, &[200, 201]));
        for config in [10, 20] {
            known.note_config(digest(config), ids(&[7, 8]));
        }
        let chains = chain_ids(&ids(&[7, 8]));
        let found = known.find(&chains[1]);
        let layers: Vec<_> = found
            .iter()
            .map(|found| found.image.layers[found.position].digest)
            .collect();
        assert_eq!(layers, [digest(201), digest(101)]);
        known.note(digest(1), Some(place("s.io/again")), image(10, &[100, 101]));
        let newest = &known.find(&chains[0])[0];
        assert_eq!(newest.manifest, digest(1));
        assert_eq!(newest.places, [place("s.io/again"), place("r.io/gzip")]);
    }

    #[test]
    fn config_of_another_number_of_layers_names_none() {
        let mut known = Known::default();
        known.note(digest(1), None, image(10, &[100]));
        known.note_config(digest(10), ids(&[7, 8]));
        assert!(known.find(&chain_ids(&ids(&[7]))[0]).is_empty());
        assert_eq!(known.having(&digest(100)).len(), 1);
    }

    #[test]
    fn what_was_written_is_known_again_in_the_same_order() {
        let mut known = Known::default();
        known.note(digest(1), Some(place("r.io/a")), image(10, &[100]));
        known.note(digest(2), None, image(20, &[200]));
        known.note_config(digest(10), ids(&[7]));
        known.note_config(digest(20), ids(&[7]));
        let changes = known.take_changes();
        assert!(known.take_changes().is_empty());
        let there = |(digest, row): (Digest, Option<_>)| (digest, row.unwrap());
        let mut again = Known::default();
        again.load(
            changes.manifests.into_iter().map(there).collect(),
            changes
                .configs
                .into_iter()
                .map(|(digest, row)| (digest, row.unwrap()))
                .collect(),
        );
        let chain = chain_ids(&ids(&[7]))[0];
        let order = |known: &Known| -> Vec<Digest> {
            known.find(&chain).iter().map(|it| it.manifest).collect()
        };
        assert_eq!(order(&again), [digest(2), digest(1)]);
        again.note(digest(1), None, image(10, &[100]));
        assert_eq!(order(&again), [digest(1), digest(2)]);
        assert_eq!(again.find(&chain)[0].places, [place("r.io/a")]);
    }

    #[test]
    fn memory_is_bounded_and_what_went_is_told() {
        let mut known = Known::default();
        for at in 0..2 * u32::try_from(MOST_MANIFESTS).unwrap() {
            known.note(digest(at), Some(place("r.io/a")), image(at, &[at]));
            known.note_config(digest(at), ids(&[at]));
        }
        assert_eq!(known.manifests.len(), MOST_MANIFESTS);
        assert_eq!(known.configs.len(), MOST_CONFIGS);
        let changes = known.take_changes();
        let gone = changes.manifests.iter().filter(|(_, row)| row.is_none());
        assert_eq!(gone.count(), MOST_MANIFESTS);
        for at in 0..2 * MOST_PLACES {
            let place = Some(place(&format!("r.io/a{at}")));
            known.note(digest(1), place, image(1, &[1]));
        }
        assert_eq!(known.manifests[&digest(1)].places.len(), MOST_PLACES);
    }

    #[test]
    fn configs_that_cannot_be_read_are_given_up() {
        let mut known = Known::default();
        known.note(digest(1), Some(place("r.io/a")), image(10, &[100]));
        known.note(digest(2), None, image(20, &[200]));
        for _ in 0..MOST_FAILURES {
            assert_eq!(known.unread(8).len(), 1);
            known.note_failure(&digest(1));
        }
        assert!(known.unread(8).is_empty());
    }

    proptest! {
        /// What is counted is what is there, whatever comes in whatever order.
        #[test]
        fn counts_hold(steps in prop::collection::vec((0u32..6, 0u32..6, 0usize..5), 0..60)) {
            let mut known = Known::default();
            for (manifest, config, layers) in steps {
                let layers: Vec<_> = (0..u32::try_from(layers).unwrap()).collect();
                known.note(digest(manifest), None, image(config, &layers));
                known.note_config(digest(config), ids(&layers));
            }
            let named: usize = known.manifests.values().map(|it| it.content.len()).sum();
            let stacked: usize = known.configs.values().map(|it| it.chains.len()).sum();
            prop_assert_eq!((known.named, known.stacked), (named, stacked));
            prop_assert_eq!(known.by_age.len(), known.manifests.len());
            prop_assert_eq!(known.configs_by_age.len(), known.configs.len());
        }
    }
}
