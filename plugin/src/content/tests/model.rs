//! The store against a model of containerd's metadata: namespaces, leases, images, and the garbage
//! collection that follows from them. Nothing that a pull still needs is ever released, and what
//! nobody needs is, by the next collection.

use std::time::Instant;

use proptest::prelude::*;
use tokio::runtime::Runtime;

use super::*;

const NAMESPACES: usize = 2;
const BLOBS: usize = 5;

fn blobs() -> Vec<Bytes> {
    let lengths = [0, 3, 65_536, 70_001, 200_000];
    let blobs = lengths.iter().zip(0..);
    blobs.map(|(length, seed)| noise(*length, seed)).collect()
}

/// What happens, in whatever order.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A manifest that names the blob passes the mirror.
    Pass(usize),
    /// containerd opens a writer for a blob of a pull, under the pull's lease.
    Begin(usize, usize),
    /// A client writes half of it and goes.
    Half(usize, usize),
    /// What was begun is committed.
    Commit(usize, usize),
    /// An image names it from now on, or no longer.
    Tag(usize, usize),
    Untag(usize, usize),
    /// The pull is over, or was given up.
    EndLease(usize),
    Collect,
    /// What was deleted is on the disk.
    Settle,
    Restart,
    /// An hour passes for what nobody asked for.
    Hour,
    /// The disk loses what can be had again from an image.
    Lose(usize),
    /// A restart while the registry refuses everything.
    Refuse,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (ns, blob) = (0..NAMESPACES, 0..BLOBS);
    let of = move |make: fn(usize, usize) -> Step| {
        (ns.clone(), blob.clone()).prop_map(move |(ns, blob)| make(ns, blob))
    };
    let step = prop_oneof![
        4 => (0..BLOBS).prop_map(Step::Pass),
        6 => of(Step::Begin),
        2 => of(Step::Half),
        6 => of(Step::Commit),
        4 => of(Step::Tag),
        2 => of(Step::Untag),
        2 => (0..NAMESPACES).prop_map(Step::EndLease),
        4 => Just(Step::Collect),
        2 => Just(Step::Settle),
        1 => Just(Step::Restart),
        1 => Just(Step::Hour),
        3 => (0..BLOBS).prop_map(Step::Lose),
        1 => Just(Step::Refuse),
    ];
    prop::collection::vec(step, 1..40)
}

/// How a blob comes into a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ingest {
    /// The store said that it has it: it is kept for this ingest alone.
    Shared,
    /// Written under this name.
    Written(String),
}

#[derive(Debug, Default)]
struct Namespace {
    blobs: BTreeSet<usize>,
    leased: BTreeSet<usize>,
    tagged: BTreeSet<usize>,
    ingests: BTreeMap<usize, Ingest>,
}

/// containerd's metadata over a real store.
struct World {
    dir: TempDir,
    origin: Origin,
    refuses: Arc<AtomicBool>,
    bed: Option<Bed>,
    blobs: Vec<Bytes>,
    namespaces: Vec<Namespace>,
    /// Passed the mirror, and nobody has asked since.
    awaited: BTreeSet<usize>,
    sequence: usize,
}

impl World {
    async fn new() -> Self {
        let (dir, blobs) = (temp(), blobs());
        let refuses = Arc::default();
        let origin = refusing_registry(&blobs, Arc::clone(&refuses)).await;
        let address = origin.address.to_string();
        let bed = Box::pin(Bed::open(dir.path(), &address)).await;
        Self {
            dir,
            origin,
            refuses,
            bed: Some(bed),
            blobs,
            namespaces: (0..NAMESPACES).map(|_| Namespace::default()).collect(),
            awaited: BTreeSet::new(),
            sequence: 0,
        }
    }

    fn bed(&self) -> &Bed {
        self.bed.as_ref().unwrap()
    }

    fn digest(&self, blob: usize) -> Digest {
        Digest::of(&self.blobs[blob])
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Pass(blob) => {
                let origin = self.origin.address.to_string();
                let promised = self.bed().promise(&origin, "team/app", &self.blobs[blob]);
                Box::pin(promised).await.unwrap();
                self.awaited.insert(blob);
            }
            Step::Begin(ns, blob) => self.begin(ns, blob).await,
            Step::Half(ns, blob) => {
                let ingest = self.namespaces[ns].ingests.get(&blob);
                if let Some(Ingest::Written(reference)) = ingest {
                    self.write_half(reference, blob).await;
                }
            }
            Step::Commit(ns, blob) => self.commit(ns, blob).await,
            Step::Tag(ns, blob) => {
                let namespace = &mut self.namespaces[ns];
                if namespace.blobs.contains(&blob) {
                    namespace.tagged.insert(blob);
                }
            }
            Step::Untag(ns, blob) => drop(self.namespaces[ns].tagged.remove(&blob)),
            Step::EndLease(ns) => {
                self.namespaces[ns].leased.clear();
                self.namespaces[ns].ingests.clear();
            }
            Step::Collect => self.collect().await,
            Step::Settle => self.settle().await,
            Step::Restart => self.restart().await,
            Step::Hour => {
                let keep = Duration::from_secs(3600);
                let then = Instant::now() + keep;
                self.bed().store.end_forgotten(then, keep).await;
                self.awaited.clear();
            }
            Step::Lose(blob) => self.lose(blob).await,
            Step::Refuse => {
                self.refuses.store(true, Relaxed);
                self.restart().await;
                // What was promised is asked for in vain meanwhile.
                tokio::time::sleep(Duration::from_millis(20)).await;
                self.refuses.store(false, Relaxed);
            }
        }
    }

    async fn restart(&mut self) {
        self.bed.take().unwrap().close().await;
        let origin = self.origin.address.to_string();
        self.bed = Some(Box::pin(Bed::open(self.dir.path(), &origin)).await);
        self.awaited.clear();
    }

    async fn lose(&self, blob: usize) {
        let digest = self.digest(blob);
        let found = self.bed().store.find(&digest);
        if found.is_some_and(|info| !info.images.is_empty()) {
            let node = &self.bed().node;
            node.set_pinned(digest, false).await.unwrap();
            // What is being fetched stays; what is not here cannot be lost.
            let _ = node.remove(digest).await;
        }
    }

    /// As clients do who are refused: they try again.
    async fn read(&self, blob: usize) -> Vec<u8> {
        for _ in 0..100 {
            if let Ok(read) = self.bed().read(&self.digest(blob)).await {
                return read;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.bed().read(&self.digest(blob)).await.unwrap()
    }

    /// `Writer` of containerd's metadata, with the shared policy.
    async fn begin(&mut self, ns: usize, blob: usize) {
        let digest = self.digest(blob);
        if self.namespaces[ns].blobs.contains(&blob) {
            self.namespaces[ns].leased.insert(blob);
            return;
        }
        if self.namespaces[ns].ingests.contains_key(&blob) {
            return;
        }
        self.awaited.remove(&blob);
        let ingest = match self.bed().store.info(&digest) {
            Some(info) => {
                assert_eq!(info.size, self.blobs[blob].len() as u64);
                Ingest::Shared
            }
            None => {
                self.sequence += 1;
                let reference = format!("ns{ns}/{}/layer-{digest}", self.sequence);
                drop(self.writer(&reference, blob).await);
                Ingest::Written(reference)
            }
        };
        self.namespaces[ns].ingests.insert(blob, ingest);
    }

    /// As clients do: while somebody else has it, they try again.
    async fn writer(&self, reference: &str, blob: usize) -> Writer {
        let total = self.blobs[blob].len() as u64;
        loop {
            match self.bed().store.write(reference, total).await {
                Ok(writer) => return writer,
                Err(ContentError::Unavailable { .. }) => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn write_half(&self, reference: &str, blob: usize) {
        let mut writer = self.writer(reference, blob).await;
        let at = writer.status().offset as usize;
        let until = (at + self.blobs[blob].len()).div_ceil(2);
        writer.append(&self.blobs[blob][at..until]).unwrap();
    }

    async fn commit(&mut self, ns: usize, blob: usize) {
        let Some(ingest) = self.namespaces[ns].ingests.remove(&blob) else {
            return;
        };
        if let Ingest::Written(reference) = ingest {
            drop(self.writer(&reference, blob).await);
            match self.bed().write(&reference, &self.blobs[blob]).await {
                Ok(()) | Err(ContentError::AlreadyExists(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        self.namespaces[ns].blobs.insert(blob);
        self.namespaces[ns].leased.insert(blob);
    }

    /// containerd's garbage collection: its own sweep, then the store's.
    async fn collect(&mut self) {
        for namespace in &mut self.namespaces {
            let (tagged, leased) = (&namespace.tagged, &namespace.leased);
            let is_needed = |blob: &usize| tagged.contains(blob) || leased.contains(blob);
            namespace.blobs.retain(is_needed);
        }
        let needed: BTreeSet<Digest> = self.needed().iter().map(|b| self.digest(*b)).collect();
        for digest in self.bed().listed() {
            if !needed.contains(&digest) {
                self.bed().store.delete(&digest).await;
            }
        }
        let references = self.references();
        for status in self.bed().store.statuses() {
            if !references.contains(&status.reference) {
                self.bed().store.abort(&status.reference).await.unwrap();
            }
        }
        assert!(
            self.bed().listed().is_subset(&needed),
            "unneeded content is released"
        );
        assert_eq!(self.bed().store.statuses().len(), references.len());
        self.check_bytes().await;
    }

    async fn settle(&self) {
        self.bed().settle().await;
        let is_known = |digest: &Digest| self.bed().store.find(digest).is_some();
        let pinned = self.bed().pinned();
        assert!(pinned.iter().all(is_known), "unneeded blobs are unpinned");
    }

    /// The blobs that a namespace has, or is about to have without its bytes being written.
    fn needed(&self) -> BTreeSet<usize> {
        let mut needed = BTreeSet::new();
        for namespace in &self.namespaces {
            needed.extend(&namespace.blobs);
            let ingests = namespace.ingests.iter();
            let shared = ingests.filter(|(_, ingest)| **ingest == Ingest::Shared);
            needed.extend(shared.map(|(blob, _)| *blob));
        }
        needed
    }

    fn references(&self) -> BTreeSet<String> {
        let ingests = self.namespaces.iter().flat_map(|ns| ns.ingests.values());
        let names = ingests.filter_map(|ingest| match ingest {
            Ingest::Written(reference) => Some(reference.clone()),
            Ingest::Shared => None,
        });
        names.collect()
    }

    /// Whatever containerd relies on is known and has its size.
    fn check(&self) {
        for blob in self.needed().union(&self.awaited) {
            let info = self.bed().store.find(&self.digest(*blob));
            let info = info.unwrap_or_else(|| panic!("blob {blob} was released"));
            assert_eq!(info.size, self.blobs[*blob].len() as u64);
        }
    }

    async fn check_bytes(&self) {
        for blob in self.needed() {
            assert_eq!(self.read(blob).await, self.blobs[blob]);
        }
    }
}

async fn live(steps: Vec<Step>) {
    let mut world = World::new().await;
    for step in steps {
        Box::pin(world.take(step)).await;
        world.check();
    }
    Box::pin(world.take(Step::Restart)).await;
    world.check();
    world.check_bytes().await;
    for step in [Step::Collect, Step::Settle] {
        Box::pin(world.take(step)).await;
    }
    world.bed.take().unwrap().close().await;
}

/// Without optimisation all of this, polled at once, fills the stack that a test has.
fn with_room(work: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(64 << 20);
    if let Err(panic) = thread.spawn(work).unwrap().join() {
        std::panic::resume_unwind(panic);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn nothing_needed_is_released_and_everything_else_is(steps in steps()) {
        with_room(move || Runtime::new().unwrap().block_on(Box::pin(live(steps))));
    }
}
