//! Deletes what is in the trash, in one thread.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    io,
    sync::Arc,
    thread::{self, JoinHandle},
};

use super::{directories::Directories, signal::Watched, tree};

/// Ends when it is dropped; what is left is deleted after the next start.
#[derive(Debug)]
pub(super) struct Reaper {
    work: Arc<Watched<Work>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Work {
    /// There may be something in the trash.
    is_due: bool,
    is_over: bool,
}

impl Reaper {
    /// Begins with what is in the trash already.
    pub(super) fn start(dirs: Directories) -> io::Result<Self> {
        let work = Arc::new(Watched::<Work>::default());
        work.lock().is_due = true;
        let thread = thread::Builder::new().name("snapshot-trash".to_owned());
        let thread = thread.spawn({
            let work = work.clone();
            move || run(&dirs, &work)
        })?;
        Ok(Self {
            work,
            thread: Some(thread),
        })
    }

    /// Something came into the trash.
    pub(super) fn wake(&self) {
        self.work.change(|work| work.is_due = true);
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.work.change(|work| work.is_over = true);
        if let Some(thread) = self.thread.take() {
            // A panic was printed where it happened.
            drop(thread.join());
        }
    }
}

fn run(dirs: &Directories, work: &Watched<Work>) {
    let is_over = || work.lock().is_over;
    let mut stuck = BTreeSet::new();
    loop {
        let goes_on = work.wait_for(|work| match (work.is_over, work.is_due) {
            (true, _) => Some(false),
            (false, true) => {
                work.is_due = false;
                Some(true)
            }
            (false, false) => None,
        });
        if !goes_on {
            return;
        }
        if let Err(error) = empty(dirs, &mut stuck, &is_over) {
            tracing::warn!(trash = %dirs.trash().display(), %error, "trash cannot be read");
        }
    }
}

/// Deletes everything that can be. What cannot is reported once, and tried again each time.
fn empty(
    dirs: &Directories,
    stuck: &mut BTreeSet<OsString>,
    is_over: &dyn Fn() -> bool,
) -> io::Result<()> {
    let trash = dirs.trash();
    let free_name = || dirs.free_in_trash();
    let is_stopped = || is_over() || dirs.is_dead();
    for name in tree::names(&trash)? {
        match tree::delete(&trash, &name, &free_name, &is_stopped) {
            Ok(true) => drop(stuck.remove(&name)),
            Ok(false) => return Ok(()),
            Err(error) => {
                let path = trash.join(&name);
                if stuck.insert(name) {
                    tracing::warn!(path = %path.display(), %error, "cannot be deleted");
                }
            }
        }
    }
    Ok(())
}
