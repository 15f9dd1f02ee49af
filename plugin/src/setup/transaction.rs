//! Several files changed together, or none of them.
//!
//! [`Transaction::apply`] writes a journal, backs up, writes; [`Transaction::finish`] makes it last;
//! [`Transaction::take_back`] and [`Transaction::undo`] restore the very bytes. A run that was killed
//! anywhere is taken back by the next one.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use time::OffsetDateTime;

use super::{
    disk::{self, Disk, DiskError},
    journal::{Entry, Generation, Journal, JournalError},
    plan::Change,
};

/// The changes of one program's settings ("containerd", "docker").
#[derive(Debug)]
pub(crate) struct Transaction<'a> {
    disk: Disk<'a>,
    journal: PathBuf,
    /// One setup at a time. Its drop unlocks: closing alone would leave the lock to a child that is
    /// between fork and exec.
    _lock: Flock<File>,
}

/// Why files are not changed, or not changed back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransactionError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("cannot use {}: {source}; run as root, or name another --state-dir", path.display())]
    State { path: PathBuf, source: io::Error },
    #[error("another setup is at work ({} is locked): wait for it", .0.display())]
    Locked(PathBuf),
    #[error("{} has changed meanwhile: look at it, and run this again", .0.display())]
    ChangedMeanwhile(PathBuf),
    #[error(
        "changed since setup wrote them: {}; change them back, or take the setup back with --force, \
         which keeps what is there now as *.hawker-replaced-*", list(.0)
    )]
    ChangedSince(Vec<PathBuf>),
    #[error(
        "{} is missing, which holds what {} was: write that file by hand, then remove {}",
        backup.display(), path.display(), journal.display()
    )]
    NoBackup {
        path: PathBuf,
        backup: PathBuf,
        journal: PathBuf,
    },
    #[error("{cause}; and what was done could not be taken back: {failure}; try --undo")]
    NotTakenBack {
        cause: Box<Self>,
        failure: Box<Self>,
    },
}

fn list(paths: &[PathBuf]) -> String {
    let paths: Vec<_> = paths.iter().map(|p| p.display().to_string()).collect();
    paths.join(", ")
}

/// What becomes of files that were changed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Foreign {
    /// They stay, and nothing is taken back.
    Refuse,
    /// They are put aside.
    PutAside,
}

/// A file that a run which was cut short was to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) path: PathBuf,
    /// What it was; `None` where there was none.
    pub(crate) before: Option<String>,
    pub(crate) now: Option<String>,
}

impl<'a> Transaction<'a> {
    /// Opens the journal `<dir>/<name>.json`, alone.
    pub(crate) fn open(dir: &Path, name: &str, disk: Disk<'a>) -> Result<Self, TransactionError> {
        let state = |path: &Path| {
            let path = path.to_owned();
            move |source| TransactionError::State { path, source }
        };
        fs::create_dir_all(dir).map_err(state(dir))?;
        let path = dir.join(format!("{name}.lock"));
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(state(&path))?;
        let lock = match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => return Err(TransactionError::Locked(path)),
            Err((_, errno)) => return Err(state(&path)(errno.into())),
        };
        Ok(Self {
            disk,
            journal: dir.join(format!("{name}.json")),
            _lock: lock,
        })
    }

    /// The files of a run that was killed; none, where there was no such run.
    pub(crate) fn cut_short(&self) -> Result<Vec<Cut>, TransactionError> {
        let journal = Journal::load(&self.journal)?;
        let last = journal.generations.into_iter().next_back();
        let files = last.filter(|last| !last.finished).map(|last| last.files);
        let mut cut = Vec::new();
        for entry in files.into_iter().flatten() {
            let now = disk::read_text(&entry.path)?;
            let before = match &entry.backup {
                // Without one it was not written to yet.
                Some(backup) => disk::read_text(backup)?.or_else(|| now.clone()),
                None => None,
            };
            cut.push(Cut {
                path: entry.path,
                before,
                now,
            });
        }
        Ok(cut)
    }

    /// Takes back what a killed run left. Says whether there was such a thing.
    pub(crate) fn recover(&self) -> Result<bool, TransactionError> {
        let journal = Journal::load(&self.journal)?;
        match journal.generations.last() {
            Some(generation) if !generation.finished => {
                self.take_back()?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Makes the changes. When one fails, those before it are taken back.
    pub(crate) fn apply(&self, changes: &[Change]) -> Result<(), TransactionError> {
        let mut journal = Journal::load(&self.journal)?;
        let generation = generation(changes)?;
        for entry in &generation.files {
            unchanged(entry)?;
        }
        journal.generations.push(generation);
        journal.save(&self.disk, &self.journal)?;
        match self.write(&journal, changes) {
            Ok(()) => Ok(()),
            Err(cause) => match self.take_back() {
                Ok(()) => Err(cause),
                Err(failure) => Err(TransactionError::NotTakenBack {
                    cause: Box::new(cause),
                    failure: Box::new(failure),
                }),
            },
        }
    }

    fn write(&self, journal: &Journal, changes: &[Change]) -> Result<(), TransactionError> {
        let Some(generation) = journal.generations.last() else {
            return Ok(());
        };
        for dir in &generation.dirs {
            self.disk.make_dir(dir)?;
        }
        for entry in &generation.files {
            if let Some(backup) = &entry.backup {
                self.disk.back_up(&entry.path, backup)?;
            }
        }
        for (entry, change) in generation.files.iter().zip(changes) {
            unchanged(entry)?;
            self.disk.replace(&entry.path, change.new.as_bytes())?;
        }
        Ok(())
    }

    /// What was applied is in use: from now on only `--undo` takes it back.
    pub(crate) fn finish(&self) -> Result<(), TransactionError> {
        let mut journal = Journal::load(&self.journal)?;
        if let Some(generation) = journal.generations.last_mut() {
            generation.finished = true;
        }
        Ok(journal.save(&self.disk, &self.journal)?)
    }

    /// Takes back the last run's changes. A file that is neither as before nor as written is of
    /// somebody else: then nothing is changed.
    pub(crate) fn take_back(&self) -> Result<(), TransactionError> {
        let mut journal = Journal::load(&self.journal)?;
        let Some(generation) = journal.generations.pop() else {
            return Ok(());
        };
        refuse_foreign(std::slice::from_ref(&generation))?;
        self.restore(&generation, Foreign::Refuse)?;
        Ok(journal.save(&self.disk, &self.journal)?)
    }

    /// Whether there is something to take back. Fails where [`Transaction::undo`] would refuse.
    pub(crate) fn can_undo(&self, foreign: Foreign) -> Result<bool, TransactionError> {
        let journal = Journal::load(&self.journal)?;
        if foreign == Foreign::Refuse {
            refuse_foreign(&journal.generations)?;
        }
        Ok(!journal.generations.is_empty())
    }

    /// Takes back everything. Says which files were restored or removed; none, when there is nothing
    /// to take back.
    pub(crate) fn undo(&self, foreign: Foreign) -> Result<Vec<PathBuf>, TransactionError> {
        let mut journal = Journal::load(&self.journal)?;
        if foreign == Foreign::Refuse {
            refuse_foreign(&journal.generations)?;
        }
        let mut restored: Vec<PathBuf> = Vec::new();
        while let Some(generation) = journal.generations.pop() {
            self.restore(&generation, foreign)?;
            journal.save(&self.disk, &self.journal)?;
            for entry in generation.files {
                if !restored.contains(&entry.path) {
                    restored.push(entry.path);
                }
            }
        }
        Ok(restored)
    }

    fn restore(&self, generation: &Generation, foreign: Foreign) -> Result<(), TransactionError> {
        for entry in generation.files.iter().rev() {
            self.restore_file(entry, foreign)?;
        }
        for dir in generation.dirs.iter().rev() {
            self.disk.remove_empty_dir(dir)?;
        }
        Ok(())
    }

    fn restore_file(&self, entry: &Entry, foreign: Foreign) -> Result<(), TransactionError> {
        self.disk.remove(&disk::beside(&entry.path))?;
        let now = disk::digest(&entry.path)?;
        let is_ours = now.as_ref() == Some(&entry.new);
        if now != entry.old && !is_ours && now.is_some() && foreign == Foreign::PutAside {
            let aside = free_name(&entry.path, "replaced")?;
            self.disk.back_up(&entry.path, &aside)?;
        }
        match &entry.backup {
            Some(backup) if now != entry.old => {
                if !backup.exists() {
                    return Err(TransactionError::NoBackup {
                        path: entry.path.clone(),
                        backup: backup.clone(),
                        journal: self.journal.clone(),
                    });
                }
                self.disk.rename(backup, &entry.path)?;
            }
            Some(backup) => self.disk.remove(backup)?,
            None if now.is_some() => self.disk.remove(&entry.path)?,
            None => {}
        }
        Ok(())
    }
}

/// Fails when a file is not what the changes were made for.
fn unchanged(entry: &Entry) -> Result<(), TransactionError> {
    match disk::digest(&entry.path)? == entry.old {
        true => Ok(()),
        false => Err(TransactionError::ChangedMeanwhile(entry.path.clone())),
    }
}

/// Fails when a file is neither what the generations wrote nor what they found.
fn refuse_foreign(generations: &[Generation]) -> Result<(), TransactionError> {
    let mut now: BTreeMap<&Path, Option<String>> = BTreeMap::new();
    let mut foreign = Vec::new();
    for entry in generations.iter().rev().flat_map(|g| g.files.iter().rev()) {
        let found = match now.get(entry.path.as_path()) {
            Some(found) => found.clone(),
            None => disk::digest(&entry.path)?,
        };
        if found != entry.old && found.as_ref() != Some(&entry.new) {
            foreign.push(entry.path.clone());
        }
        now.insert(&entry.path, entry.old.clone());
    }
    match foreign.is_empty() {
        true => Ok(()),
        false => Err(TransactionError::ChangedSince(foreign)),
    }
}

fn generation(changes: &[Change]) -> Result<Generation, TransactionError> {
    let mut generation = Generation {
        finished: false,
        dirs: Vec::new(),
        files: Vec::new(),
    };
    for change in changes {
        let missing = change.path.ancestors().skip(1).take_while(|d| !d.exists());
        let mut missing: Vec<_> = missing.map(Path::to_owned).collect();
        missing.reverse();
        for dir in missing {
            if !generation.dirs.contains(&dir) {
                generation.dirs.push(dir);
            }
        }
        let old = change.old.as_ref();
        generation.files.push(Entry {
            path: change.path.clone(),
            old: old.map(|text| disk::digest_of(text.as_bytes())),
            new: disk::digest_of(change.new.as_bytes()),
            backup: match old {
                Some(_) => Some(free_name(&change.path, "backup")?),
                None => None,
            },
        });
    }
    Ok(generation)
}

/// `<path>.hawker-<what>-<time>`, a name that is not taken.
fn free_name(path: &Path, what: &str) -> Result<PathBuf, DiskError> {
    let now = OffsetDateTime::now_utc();
    let (date, (hour, minute, second)) = (now.date(), now.to_hms());
    let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stamp = format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}");
    let first = path.with_file_name(format!("{name}.hawker-{what}-{stamp}"));
    let mut free = first.clone();
    for n in 2_u32.. {
        if disk::read(&free)?.is_none() {
            break;
        }
        free = first.with_file_name(format!("{name}.hawker-{what}-{stamp}-{n}"));
    }
    Ok(free)
}

#[cfg(test)]
mod tests;
