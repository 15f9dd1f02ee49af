//! Transactions that are cut anywhere.

use std::{
    cell::Cell,
    os::unix::fs::PermissionsExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
};

use super::*;

/// Two files that change, one of them in a directory to be made.
struct Place {
    dir: tempfile::TempDir,
}

const OLD: &str = "old = 1\n";
const NEW: &str = "old = 1\nnew = 2\n";
const MADE: &str = "made = 1\n";

impl Place {
    fn new() -> Self {
        let place = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        fs::write(place.config(), OLD).unwrap();
        fs::set_permissions(place.config(), fs::Permissions::from_mode(0o600)).unwrap();
        place
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("config.toml")
    }

    fn hosts(&self) -> PathBuf {
        self.dir.path().join("certs.d/_default/hosts.toml")
    }

    fn changes(&self) -> Vec<Change> {
        let change = |path, old: Option<&str>, new: &str| Change {
            path,
            old: old.map(str::to_owned),
            new: new.to_owned(),
        };
        vec![
            change(self.config(), Some(OLD), NEW),
            change(self.hosts(), None, MADE),
        ]
    }

    fn transaction<'a>(&self, disk: Disk<'a>) -> Transaction<'a> {
        Transaction::open(&self.dir.path().join("state"), "test", disk).unwrap()
    }

    /// All files but the journal's own, with their texts.
    fn files(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        let mut dirs = vec![self.dir.path().to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true if path.ends_with("state") => {}
                    true => dirs.push(path),
                    false => {
                        found.insert(path.clone(), fs::read_to_string(path).unwrap());
                    }
                }
            }
        }
        found
    }

    fn assert_untouched(&self, when: &str) {
        let expected = BTreeMap::from([(self.config(), OLD.to_owned())]);
        assert_eq!(self.files(), expected, "{when}");
        assert!(!self.dir.path().join("certs.d").exists(), "{when}");
        assert!(!self.dir.path().join("state/test.json").exists(), "{when}");
        let mode = fs::metadata(self.config()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{when}");
    }

    fn assert_applied(&self, when: &str) {
        assert_eq!(fs::read_to_string(self.config()).unwrap(), NEW, "{when}");
        assert_eq!(fs::read_to_string(self.hosts()).unwrap(), MADE, "{when}");
    }

    /// Runs `work` on a disk that dies before its `fatal`th step. Says whether it died.
    fn killed_at(&self, fatal: usize, work: impl Fn(&Transaction<'_>)) -> bool {
        let steps = Cell::new(0);
        let step = |_: &str, _: &Path| {
            steps.set(steps.get() + 1);
            if steps.get() == fatal {
                std::panic::resume_unwind(Box::new("killed"));
            }
        };
        let transaction = self.transaction(Disk::watched(&step));
        catch_unwind(AssertUnwindSafe(|| work(&transaction))).is_err()
    }
}

fn apply_and_finish(place: &Place, transaction: &Transaction<'_>) {
    transaction.recover().unwrap();
    transaction.apply(&place.changes()).unwrap();
    transaction.finish().unwrap();
}

/// A process that is being started has copies of all open files until its exec.
#[test]
fn lock_ends_with_the_transaction_though_a_child_being_started_has_the_file() {
    let place = Place::new();
    let transaction = place.transaction(Disk::new());
    let child = transaction._lock.try_clone().unwrap();
    let second = || Transaction::open(&place.dir.path().join("state"), "test", Disk::new());
    assert!(matches!(second(), Err(TransactionError::Locked(_))));
    drop(transaction);
    second().unwrap();
    drop(child);
}

#[test]
fn undo_gives_the_same_bytes_and_twice_is_harmless() {
    let place = Place::new();
    let transaction = place.transaction(Disk::new());
    apply_and_finish(&place, &transaction);
    place.assert_applied("applied");
    let backups: Vec<_> = place.files().into_keys().collect();
    assert_eq!(backups.len(), 3, "{backups:?}");
    let restored = transaction.undo(Foreign::Refuse).unwrap();
    assert_eq!(restored, [place.config(), place.hosts()]);
    place.assert_untouched("undone");
    assert!(transaction.undo(Foreign::Refuse).unwrap().is_empty());
    place.assert_untouched("undone twice");
}

#[test]
fn run_killed_anywhere_tells_what_files_were_and_are() {
    let text = |path: PathBuf| fs::read_to_string(path).ok();
    for fatal in 1.. {
        let place = Place::new();
        let died = place.killed_at(fatal, |transaction| {
            transaction.apply(&place.changes()).unwrap();
        });
        let cut = place.transaction(Disk::new()).cut_short().unwrap();
        let expected = [(place.config(), Some(OLD)), (place.hosts(), None)];
        let expected = expected.map(|(path, before)| Cut {
            before: before.map(str::to_owned),
            now: text(path.clone()),
            path,
        });
        // Killed before its journal was written, it has done nothing.
        assert!(cut.is_empty() || cut == expected, "{fatal}: {cut:?}");
        assert!(died || !cut.is_empty());
        if !died {
            break;
        }
    }
    let place = Place::new();
    let transaction = place.transaction(Disk::new());
    apply_and_finish(&place, &transaction);
    assert_eq!(transaction.cut_short().unwrap(), []);
}

#[test]
fn run_killed_anywhere_is_taken_back_by_undo_and_by_the_next_run() {
    for fatal in 1.. {
        let place = Place::new();
        let died = place.killed_at(fatal, |transaction| apply_and_finish(&place, transaction));
        if !died {
            assert!(fatal > 8, "only {fatal} steps");
            break;
        }
        place
            .transaction(Disk::new())
            .undo(Foreign::Refuse)
            .unwrap();
        place.assert_untouched(&format!("undone after death at {fatal}"));

        assert!(place.killed_at(fatal, |transaction| apply_and_finish(&place, transaction)));
        let transaction = place.transaction(Disk::new());
        if fs::read_to_string(place.config()).unwrap() == NEW {
            place.transaction_was_cut_late(&transaction);
        } else {
            apply_and_finish(&place, &transaction);
        }
        place.assert_applied(&format!("second run after death at {fatal}"));
        transaction.undo(Foreign::Refuse).unwrap();
        place.assert_untouched(&format!("undone after death at {fatal} and second run"));
    }
}

impl Place {
    /// As the command does it: recover, look again, apply.
    fn transaction_was_cut_late(&self, transaction: &Transaction<'_>) {
        assert!(transaction.recover().unwrap());
        self.assert_untouched("recovered");
        apply_and_finish(self, transaction);
    }
}

#[test]
fn undo_killed_anywhere_is_ended_by_the_next_undo() {
    for fatal in 1.. {
        let place = Place::new();
        apply_and_finish(&place, &place.transaction(Disk::new()));
        let died = place.killed_at(fatal, |transaction| {
            transaction.undo(Foreign::Refuse).unwrap();
        });
        place
            .transaction(Disk::new())
            .undo(Foreign::Refuse)
            .unwrap();
        place.assert_untouched(&format!("death at {fatal}"));
        if !died {
            break;
        }
    }
}

#[test]
fn files_changed_since_are_named_and_stay_unless_forced() {
    let place = Place::new();
    let transaction = place.transaction(Disk::new());
    apply_and_finish(&place, &transaction);
    fs::write(place.config(), "mine\n").unwrap();
    let error = transaction.undo(Foreign::Refuse).unwrap_err();
    assert!(matches!(&error, TransactionError::ChangedSince(paths) if *paths == [place.config()]));
    assert_eq!(fs::read_to_string(place.hosts()).unwrap(), MADE);
    transaction.undo(Foreign::PutAside).unwrap();
    assert_eq!(fs::read_to_string(place.config()).unwrap(), OLD);
    let files = place.files();
    assert!(!files.contains_key(&place.hosts()));
    assert!(files.values().any(|text| text == "mine\n"), "{files:?}");
}

#[test]
fn second_generation_is_taken_back_to_the_very_beginning() {
    let place = Place::new();
    let transaction = place.transaction(Disk::new());
    apply_and_finish(&place, &transaction);
    let more = Change {
        path: place.config(),
        old: Some(NEW.to_owned()),
        new: "newer\n".to_owned(),
    };
    transaction.apply(&[more]).unwrap();
    transaction.finish().unwrap();
    transaction.undo(Foreign::Refuse).unwrap();
    place.assert_untouched("two generations");
}

#[test]
fn file_that_cannot_be_written_takes_the_others_back() {
    let place = Place::new();
    let transaction = place.transaction(Disk::new());
    let mut changes = place.changes();
    changes.push(Change {
        path: PathBuf::from("/proc/hawker/hosts.toml"),
        old: None,
        new: MADE.to_owned(),
    });
    let error = transaction.apply(&changes).unwrap_err().to_string();
    assert!(error.contains("/proc/hawker"), "{error}");
    place.assert_untouched("failed");
}

#[test]
fn one_setup_at_a_time() {
    let place = Place::new();
    let _first = place.transaction(Disk::new());
    let second = Transaction::open(&place.dir.path().join("state"), "test", Disk::new());
    assert!(matches!(second.unwrap_err(), TransactionError::Locked(_)));
}

#[test]
fn journal_that_is_not_understood_is_left_alone() {
    let place = Place::new();
    let transaction = place.transaction(Disk::new());
    let path = place.dir.path().join("state/test.json");
    for text in ["{", "{\"format\": 9, \"generations\": []}", "\u{0}"] {
        fs::write(&path, text).unwrap();
        let error = transaction.undo(Foreign::Refuse).unwrap_err().to_string();
        assert!(error.contains("by hand"), "{error}");
        assert!(transaction.apply(&place.changes()).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}
