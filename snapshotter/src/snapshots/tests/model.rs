//! The store against a model of what containerd expects of it.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Prepare(usize, usize),
    View(usize, usize),
    Commit(usize, usize),
    Layer(usize, usize),
    Remove(usize),
    Update(usize, u8),
    Cleanup,
    Reopen,
}

/// Number 0 is the empty key.
const KEYS: usize = 6;

fn key(number: usize) -> String {
    match number {
        0 => String::new(),
        number => format!("key-{number}"),
    }
}

fn step() -> impl Strategy<Value = Step> {
    let key = || 0..KEYS;
    prop_oneof![
        6 => (key(), key()).prop_map(|(key, parent)| Step::Prepare(key, parent)),
        2 => (key(), key()).prop_map(|(key, parent)| Step::View(key, parent)),
        6 => (key(), key()).prop_map(|(name, key)| Step::Commit(name, key)),
        4 => (0..3usize, key()).prop_map(|(chain, parent)| Step::Layer(chain, parent)),
        4 => key().prop_map(Step::Remove),
        2 => (key(), any::<u8>()).prop_map(|(key, value)| Step::Update(key, value)),
        1 => Just(Step::Cleanup),
        1 => Just(Step::Reopen),
    ]
}

/// What the store should hold: kind, parent, labels and the name of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    kind: Kind,
    parent: String,
    labels: BTreeMap<String, String>,
    files: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    NotFound,
    Exists,
    Precondition,
    Invalid,
}

fn outcome<T>(result: Result<T, SnapshotError>) -> Outcome {
    match result {
        Ok(_) => Outcome::Done,
        Err(SnapshotError::NotFound { .. }) => Outcome::NotFound,
        Err(SnapshotError::AlreadyExists { .. }) => Outcome::Exists,
        Err(SnapshotError::FailedPrecondition { .. }) => Outcome::Precondition,
        Err(SnapshotError::InvalidArgument { .. }) => Outcome::Invalid,
        Err(other) => panic!("{other}"),
    }
}

#[derive(Default)]
struct Model {
    known: BTreeMap<String, Known>,
}

impl Model {
    fn check_parent(&self, parent: &str) -> Outcome {
        match self.known.get(parent) {
            _ if parent.is_empty() => Outcome::Done,
            None => Outcome::NotFound,
            Some(known) if known.kind != Kind::Committed => Outcome::Invalid,
            Some(_) => Outcome::Done,
        }
    }

    fn create(&mut self, key: &str, kind: Kind, parent: &str) -> Outcome {
        let check = self.check_parent(parent);
        if check != Outcome::Done {
            return check;
        }
        if key.is_empty() {
            return Outcome::Invalid;
        }
        if self.known.contains_key(key) {
            return Outcome::Exists;
        }
        let known = Known {
            kind,
            parent: parent.to_owned(),
            labels: labels(&[("key", key)]),
            files: Vec::new(),
        };
        self.known.insert(key.to_owned(), known);
        Outcome::Done
    }

    fn commit(&mut self, name: &str, key: &str) -> Outcome {
        if name.is_empty() {
            return Outcome::Invalid;
        }
        if self.known.contains_key(name) {
            return Outcome::Exists;
        }
        let Some(known) = self.known.get(key) else {
            return Outcome::NotFound;
        };
        if known.kind != Kind::Active {
            return Outcome::Precondition;
        }
        let known = Known {
            kind: Kind::Committed,
            labels: plain(),
            ..known.clone()
        };
        self.known.remove(key);
        self.known.insert(name.to_owned(), known);
        Outcome::Done
    }

    fn find(&self, chain: &ChainId, parent: &str) -> Option<String> {
        let reference = chain.to_string();
        let is_it = |known: &Known| {
            known.labels.get(REFERENCE_LABEL) == Some(&reference)
                && known.parent == parent
                && known.kind == Kind::Committed
        };
        let found = self.known.iter().find(|(_, known)| is_it(known));
        found.map(|(name, _)| name.clone())
    }

    fn remove(&mut self, key: &str) -> Outcome {
        if !self.known.contains_key(key) {
            return Outcome::NotFound;
        }
        if self.known.values().any(|known| known.parent == key) {
            return Outcome::Precondition;
        }
        self.known.remove(key);
        Outcome::Done
    }
}

struct Harness {
    dir: tempfile::TempDir,
    snapshots: Option<Snapshots>,
    model: Model,
}

impl Harness {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = Some(open(&dir));
        Self {
            dir,
            snapshots,
            model: Model::default(),
        }
    }

    fn store(&self) -> &Snapshots {
        self.snapshots.as_ref().unwrap()
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Prepare(number, parent) => self.create(Kind::Active, *number, *parent),
            Step::View(number, parent) => self.create(Kind::View, *number, *parent),
            Step::Commit(name, number) => {
                let (name, key) = (key(*name), key(*number));
                let found = outcome(self.store().commit(&name, &key, plain()));
                assert_eq!(found, self.model.commit(&name, &key));
            }
            Step::Layer(number, parent) => self.layer(*number, *parent),
            Step::Remove(number) => {
                let key = key(*number);
                let found = outcome(self.store().remove(&key));
                assert_eq!(found, self.model.remove(&key));
            }
            Step::Update(number, value) => {
                let (key, new) = (key(*number), labels(&[("u", &value.to_string())]));
                let mask = ["labels.u".to_owned()];
                let found = self.store().update(&key, new.clone(), &mask);
                assert_eq!(found.is_ok(), self.model.known.contains_key(&key));
                if let Some(known) = self.model.known.get_mut(&key) {
                    known.labels.extend(new);
                }
            }
            Step::Cleanup => self.store().cleanup().unwrap(),
            Step::Reopen => {
                self.snapshots = None;
                self.snapshots = Some(open(&self.dir));
            }
        }
    }

    fn create(&mut self, kind: Kind, number: usize, parent: usize) {
        let (key, parent) = (key(number), key(parent));
        let given = labels(&[("key", &key)]);
        let result = match kind {
            Kind::View => self.store().view(&key, &parent, given),
            _ => self.store().prepare(&key, &parent, given),
        };
        let found = outcome(result);
        assert_eq!(found, self.model.create(&key, kind, &parent));
        if found == Outcome::Done && kind == Kind::Active {
            fs::write(files(self.store(), &key).join(&key), "").unwrap();
            let known = self.model.known.get_mut(&key).unwrap();
            known.files.push(key);
        }
    }

    fn layer(&mut self, number: usize, parent: usize) {
        let (chain, parent) = (chain(&number.to_string()), key(parent));
        let layer = staged(self.store(), "layer");
        let result = self.store().commit_layer(layer, &chain, &parent, plain());
        let check = self.model.check_parent(&parent);
        match (check, self.model.find(&chain, &parent)) {
            (Outcome::Done, None) => {
                let known = Known {
                    kind: Kind::Committed,
                    parent,
                    labels: labels(&[(REFERENCE_LABEL, &chain.to_string())]),
                    files: vec!["layer".to_owned()],
                };
                self.model.known.insert(result.unwrap(), known);
            }
            (Outcome::Done, Some(_)) => assert_eq!(outcome(result), Outcome::Exists),
            (refused, _) => assert_eq!(outcome(result), refused),
        }
    }

    fn check(&self) {
        let store = self.store();
        let infos = store.list(&[]).unwrap();
        let found: BTreeMap<_, _> = infos
            .into_iter()
            .map(|info| {
                assert_eq!(store.stat(&info.name).unwrap(), info);
                let known = Known {
                    kind: info.kind,
                    parent: info.parent,
                    labels: info.labels,
                    files: entries(&files(store, &info.name)),
                };
                (info.name, known)
            })
            .collect();
        assert_eq!(found, self.model.known);
        for (name, known) in &found {
            assert_eq!(store.mounts(name).is_ok(), known.kind != Kind::Committed);
        }
        for number in 0..3 {
            for parent in (0..KEYS).map(key) {
                let chain = chain(&number.to_string());
                assert_eq!(
                    store.find_layer(&chain, &parent),
                    self.model.find(&chain, &parent)
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_store_does_what_the_model_does(steps in prop::collection::vec(step(), 1..40)) {
        let mut harness = Harness::new();
        for step in &steps {
            harness.run(step);
            harness.check();
        }
        harness.run(&Step::Reopen);
        harness.check();
        assert_tidy(harness.store());
    }
}
