//! A disk on which the test decides what fails, and when the power goes; and what is on it when the
//! power is back.

use std::{
    collections::{BTreeMap, HashMap},
    fmt, fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use nix::libc;

use crate::store::{
    disk::{Disk, Op},
    record::lock,
};

/// Smaller parts of a write than this are never lost alone.
const SECTOR_LEN: usize = 512;

/// What is to happen.
#[derive(Clone, Copy, Debug)]
pub(super) enum Plan {
    /// Nothing.
    Spare,
    /// Of the operations that can fail like this, the one of this number does; `lasting`: and all
    /// that follow, until [`Fate::heal`].
    Fail {
        at: usize,
        errno: i32,
        lasting: bool,
    },
    /// Of the operations that change something, the one of this number is not done, and nothing
    /// after it.
    PowerOff { at: usize },
}

/// Decides about every operation of one store.
pub(in crate::store) struct Fate(Mutex<State>);

struct State {
    plan: Plan,
    /// Operations that the plan counts.
    count: usize,
    /// The first that failed.
    struck: Option<String>,
    journal: Journal,
}

impl Fate {
    pub(super) fn new(plan: Plan) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            plan,
            count: 0,
            struck: None,
            journal: Journal::default(),
        })))
    }

    pub(super) fn disk(self: &Arc<Self>) -> Disk {
        Disk {
            fate: Some(Arc::clone(self)),
            ..Disk::default()
        }
    }

    /// From now on all that can fail like this does.
    pub(super) fn strike(&self, errno: i32) {
        let state = &mut *lock(&self.0);
        state.plan = Plan::Fail {
            at: state.count,
            errno,
            lasting: true,
        };
    }

    pub(super) fn heal(&self) {
        lock(&self.0).plan = Plan::Spare;
    }

    /// What failed first.
    pub(super) fn struck(&self) -> Option<String> {
        lock(&self.0).struck.clone()
    }

    pub(in crate::store) fn act<T>(
        &self,
        op: Op<'_>,
        work: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let state = &mut *lock(&self.0);
        if let Some(errno) = state.verdict(&op) {
            state.struck.get_or_insert_with(|| format!("{op:?}"));
            state.journal.fail(&op, errno, state.plan);
            return Err(io::Error::from_raw_os_error(errno));
        }
        let done = work()?;
        state.journal.note(&op);
        Ok(done)
    }

    /// Makes in `root`, for what was below `from`, what is there when the power is back.
    pub(super) fn restore(&self, from: &Path, root: &Path, loss: Loss) {
        lock(&self.0).journal.restore(from, root, loss);
    }
}

impl State {
    fn verdict(&mut self, op: &Op<'_>) -> Option<i32> {
        let (at, errno, lasting, counts) = match self.plan {
            Plan::Spare => return None,
            Plan::Fail { at, errno, lasting } => (at, errno, lasting, can_fail(op, errno)),
            Plan::PowerOff { at } if self.count <= at => (at, libc::EIO, true, is_change(op)),
            Plan::PowerOff { .. } => return Some(libc::EIO),
        };
        if !counts {
            return None;
        }
        self.count += 1;
        (self.count == at + 1 || (lasting && self.count > at)).then_some(errno)
    }
}

fn is_change(op: &Op<'_>) -> bool {
    !matches!(op, Op::Look | Op::Open(_) | Op::OpenToWrite(_) | Op::Read)
}

fn can_fail(op: &Op<'_>, errno: i32) -> bool {
    match errno {
        libc::ENOSPC => is_change(op) && !matches!(op, Op::Remove(_)),
        libc::EROFS => {
            let changes = is_change(op) && !matches!(op, Op::SyncDir(_));
            changes || matches!(op, Op::OpenToWrite(_))
        }
        _ => true,
    }
}

impl fmt::Debug for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fate")
    }
}

/// How much of what was not synchronised is lost with the power.
#[derive(Clone, Copy, Debug)]
pub(super) enum Loss {
    Nothing,
    Everything,
    /// Some sectors, lengths and names, by the dice.
    Some(u64),
}

impl Loss {
    fn keeps(&mut self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Everything => false,
            Self::Some(dice) => {
                // SplitMix64.
                *dice = dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut x = *dice;
                x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                (x ^ (x >> 31)) & 1 == 0
            }
        }
    }
}

/// What is on the disk for certain, and what may be.
#[derive(Default)]
struct Journal {
    files: Vec<Content>,
    by_inode: HashMap<u64, usize>,
    /// As programs see them.
    live: BTreeMap<PathBuf, usize>,
    /// As they are on the disk; `None` is a directory.
    names: BTreeMap<PathBuf, Option<usize>>,
    pending: Vec<Change>,
}

#[derive(Default)]
struct Content {
    synced: Vec<u8>,
    pending: Vec<Edit>,
}

enum Edit {
    Length(u64),
    Write(u64, Vec<u8>),
}

/// Of names.
enum Change {
    Put(PathBuf, Option<usize>),
    Move(PathBuf, PathBuf, usize),
    Drop(PathBuf),
}

impl Journal {
    fn note(&mut self, op: &Op<'_>) {
        match *op {
            Op::Look | Op::Read => {}
            Op::Open(path) | Op::OpenToWrite(path) => drop(self.file_at(path, true)),
            Op::Create(path) => {
                let file = self.add(path, Vec::new());
                self.pending.push(Change::Put(path.to_owned(), Some(file)));
            }
            Op::MakeDir(path) => self.pending.push(Change::Put(path.to_owned(), None)),
            Op::Link(from, to) => {
                let file = self.file_at(from, false);
                self.live.insert(to.to_owned(), file);
                self.pending.push(Change::Put(to.to_owned(), Some(file)));
            }
            Op::Rename(from, to) => {
                let file = self.file_at(to, false);
                self.live.remove(from);
                self.live.insert(to.to_owned(), file);
                let (from, to) = (from.to_owned(), to.to_owned());
                self.pending.push(Change::Move(from, to, file));
            }
            Op::Remove(path) => {
                self.live.remove(path);
                self.pending.push(Change::Drop(path.to_owned()));
            }
            Op::Resize(file, length) => self.edit(file, Edit::Length(length)),
            Op::Write(file, at, data) => self.edit(file, Edit::Write(at, data.to_vec())),
            Op::Sync(file) => {
                if let Some(file) = self.of(file) {
                    self.files[file].sync();
                }
            }
            Op::SyncDir(dir) => self.sync_dir(dir),
        }
    }

    /// What of an operation is done although it fails.
    fn fail(&mut self, op: &Op<'_>, errno: i32, plan: Plan) {
        match (*op, plan) {
            (Op::Write(file, at, data), Plan::PowerOff { .. }) => {
                self.edit(file, Edit::Write(at, data.to_vec()));
            }
            (Op::Write(file, at, data), _) if errno != libc::EROFS => {
                use std::os::unix::fs::FileExt;
                let half = &data[..data.len() / 2];
                file.write_all_at(half, at).unwrap();
                self.edit(file, Edit::Write(at, half.to_vec()));
            }
            // The kernel may throw away what it could not write.
            (Op::Sync(file), Plan::Fail { .. }) if errno == libc::EIO => {
                use std::os::unix::fs::FileExt;
                if let Some(at) = self.of(file) {
                    self.files[at].pending.clear();
                    let synced = &self.files[at].synced;
                    file.set_len(synced.len() as u64).unwrap_or_default();
                    let _ = file.write_all_at(synced, 0);
                }
            }
            _ => {}
        }
    }

    fn edit(&mut self, file: &fs::File, edit: Edit) {
        if let Some(file) = self.of(file) {
            self.files[file].pending.push(edit);
        }
    }

    fn of(&self, file: &fs::File) -> Option<usize> {
        self.by_inode.get(&file.metadata().unwrap().ino()).copied()
    }

    fn add(&mut self, path: &Path, synced: Vec<u8>) -> usize {
        let at = self.files.len();
        self.files.push(Content {
            synced,
            pending: Vec::new(),
        });
        let inode = fs::metadata(path).unwrap().ino();
        self.by_inode.insert(inode, at);
        self.live.insert(path.to_owned(), at);
        at
    }

    /// A file that the store did not make: `durable`, or of which nobody knows.
    fn file_at(&mut self, path: &Path, durable: bool) -> usize {
        let inode = fs::metadata(path).unwrap().ino();
        if let Some(known) = self.by_inode.get(&inode) {
            return *known;
        }
        let data = fs::read(path).unwrap();
        match durable {
            true => {
                let at = self.add(path, data);
                self.names.insert(path.to_owned(), Some(at));
                at
            }
            false => {
                let at = self.add(path, Vec::new());
                self.files[at].pending.push(Edit::Write(0, data));
                at
            }
        }
    }

    fn sync_dir(&mut self, dir: &Path) {
        for change in std::mem::take(&mut self.pending) {
            match change.dir() == Some(dir) {
                true => change.apply(&mut self.names),
                false => self.pending.push(change),
            }
        }
    }

    fn restore(&self, from: &Path, root: &Path, mut loss: Loss) {
        let mut names = self.names.clone();
        for change in &self.pending {
            if loss.keeps() {
                change.apply(&mut names);
            }
        }
        for (path, file) in names {
            let path = root.join(path.strip_prefix(from).unwrap());
            if !path.parent().is_some_and(Path::is_dir) {
                continue;
            }
            match file {
                None => fs::create_dir(&path).unwrap_or_default(),
                Some(file) => fs::write(path, self.files[file].after(&mut loss)).unwrap(),
            }
        }
    }
}

impl Content {
    fn sync(&mut self) {
        self.synced = self.after(&mut Loss::Nothing);
        self.pending.clear();
    }

    fn after(&self, loss: &mut Loss) -> Vec<u8> {
        let mut bytes = self.synced.clone();
        for edit in &self.pending {
            match edit {
                Edit::Length(length) if loss.keeps() => bytes.resize(*length as usize, 0),
                Edit::Length(_) => {}
                Edit::Write(at, data) => {
                    for (number, sector) in data.chunks(SECTOR_LEN).enumerate() {
                        let start = *at as usize + number * SECTOR_LEN;
                        let end = start + sector.len();
                        if loss.keeps() {
                            bytes.resize(bytes.len().max(end), 0);
                            bytes[start..end].copy_from_slice(sector);
                        }
                    }
                }
            }
        }
        bytes
    }
}

impl Change {
    /// The directory that has to be synchronised for it.
    fn dir(&self) -> Option<&Path> {
        match self {
            Self::Put(path, _) | Self::Move(_, path, _) | Self::Drop(path) => path.parent(),
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Option<usize>>) {
        match self {
            Self::Put(path, file) => drop(names.insert(path.clone(), *file)),
            Self::Move(from, to, file) => {
                names.remove(from);
                names.insert(to.clone(), Some(*file));
            }
            Self::Drop(path) => drop(names.remove(path)),
        }
    }
}
