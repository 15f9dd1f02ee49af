//! All uploads, by the names that containerd gives them.

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use hawker_model::Digest;
use tracing::{info, warn};

use super::{
    error::{ContentError, OpenContentError},
    ingest::{self, Ingest, IngestStatus, Writer},
    step::step,
};

/// Longest name of an upload, in bytes: what a key of containerd's own database may have.
const MAX_REFERENCE_LEN: usize = 32 << 10;

/// The uploads under way.
#[derive(Debug)]
pub(super) struct Ingests {
    dir: PathBuf,
    all: Mutex<BTreeMap<String, Arc<Ingest>>>,
    /// Held while directories are made and put aside.
    structure: Mutex<()>,
    /// How many were put aside.
    retired: AtomicU64,
}

impl Ingests {
    /// What an earlier process left in `dir`, which is made if need be. Blocks on the disk.
    pub(super) fn open(dir: PathBuf) -> Result<Self, OpenContentError> {
        let in_dir = |cause| OpenContentError::Directory {
            dir: dir.clone(),
            cause,
        };
        fs::create_dir_all(&dir).map_err(in_dir)?;
        let boot = ingest::boot();
        let mut all = BTreeMap::new();
        for entry in fs::read_dir(&dir).map_err(in_dir)? {
            let path = entry.map_err(in_dir)?.path();
            match Ingest::load(path.clone(), &boot) {
                Ok(found) if path == place(&dir, &found.status().reference) => {
                    all.insert(found.status().reference, Arc::new(found));
                }
                Ok(_) => remove(&path, "it is not where its name belongs"),
                Err(error) => remove(&path, &error.to_string()),
            }
        }
        Ok(Self {
            dir,
            all: Mutex::new(all),
            structure: Mutex::default(),
            retired: AtomicU64::new(0),
        })
    }

    /// Begins or goes on with an upload. Blocks on the disk.
    ///
    /// # Errors
    /// `Unavailable` while somebody else writes it.
    pub(super) fn write(&self, reference: &str, total: u64) -> Result<Writer, ContentError> {
        check(reference)?;
        let known = self.get(reference);
        let ingest = match known {
            Some(known) => known,
            None => self.create(reference)?,
        };
        let mut writer = ingest.write()?;
        let before = writer.status().total;
        if total > 0 && before > 0 && total != before {
            info!(
                reference,
                total, before, "another upload of the same name begins"
            );
            writer.restart()?;
        }
        writer.expect(total, None)?;
        Ok(writer)
    }

    fn create(&self, reference: &str) -> Result<Arc<Ingest>, ContentError> {
        let _structure = self.structure();
        if let Some(known) = self.get(reference) {
            return Ok(known);
        }
        let ingest = Arc::new(Ingest::create(place(&self.dir, reference), reference)?);
        self.lock()
            .insert(reference.to_owned(), Arc::clone(&ingest));
        Ok(ingest)
    }

    /// How far an upload is.
    pub(super) fn status(&self, reference: &str) -> Result<IngestStatus, ContentError> {
        let known = self.get(reference);
        let known = known.ok_or_else(|| ContentError::NotFound {
            what: format!("ref {reference}: not found"),
        })?;
        Ok(known.status())
    }

    /// How far all are.
    pub(super) fn statuses(&self) -> Vec<IngestStatus> {
        let all: Vec<_> = self.lock().values().cloned().collect();
        all.into_iter().map(|ingest| ingest.status()).collect()
    }

    /// The upload, if an earlier process left it and it is too long to be hashed while somebody
    /// waits.
    pub(super) fn long_in_hashing(&self, reference: &str) -> Option<Arc<Ingest>> {
        let known = self.get(reference);
        known.filter(|ingest| ingest.is_long_in_hashing())
    }

    /// Those that an earlier process left, and nobody has gone on with.
    pub(super) fn unhashed(&self) -> Vec<Arc<Ingest>> {
        let all = self.lock();
        let unhashed = all.values().filter(|ingest| ingest.is_unhashed());
        unhashed.cloned().collect()
    }

    /// Ends an upload, whoever writes it; one that is not there is ended already. Blocks on the
    /// disk.
    pub(super) fn abort(&self, reference: &str) -> Result<(), ContentError> {
        let Some(aside) = self.retire(reference)? else {
            return Ok(());
        };
        step();
        // Without the lock: a large one takes long, and containerd's transaction may wait for
        // another.
        match fs::remove_dir_all(&aside) {
            Err(cause) if cause.kind() != ErrorKind::NotFound => Err(ContentError::Io {
                what: "remove",
                path: aside,
                cause,
            }),
            _ => Ok(()),
        }
    }

    /// Takes an upload out of the way: its name is free again. Says where its files are.
    pub(super) fn retire(&self, reference: &str) -> Result<Option<PathBuf>, ContentError> {
        let _structure = self.structure();
        let Some(known) = self.get(reference) else {
            return Ok(None);
        };
        let number = self.retired.fetch_add(1, Relaxed);
        let aside = place(&self.dir, reference).with_extension(format!("gone-{number}"));
        known.retire(&aside)?;
        self.lock().remove(reference);
        Ok(Some(aside))
    }

    fn get(&self, reference: &str) -> Option<Arc<Ingest>> {
        self.lock().get(reference).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Ingest>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn structure(&self) -> MutexGuard<'_, ()> {
        self.structure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn check(reference: &str) -> Result<(), ContentError> {
    let what = match reference.len() {
        0 => "the first message must have a reference".to_owned(),
        1..=MAX_REFERENCE_LEN => return Ok(()),
        len => format!("a reference of {len} bytes is longer than {MAX_REFERENCE_LEN}"),
    };
    Err(ContentError::InvalidArgument { what })
}

fn place(dir: &Path, reference: &str) -> PathBuf {
    dir.join(Digest::of(reference.as_bytes()).to_hex())
}

fn remove(path: &Path, why: &str) {
    info!(path = %path.display(), why, "the rest of an upload is removed");
    let removed = match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
    if let Err(error) = removed {
        warn!(path = %path.display(), %error, "the rest of an upload cannot be removed");
    }
}
