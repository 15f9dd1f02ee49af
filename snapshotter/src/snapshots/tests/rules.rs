//! Which operation may follow which, as containerd's metadata store and test suite have it.

use super::*;

fn code(result: Result<impl std::fmt::Debug, SnapshotError>) -> &'static str {
    match result.unwrap_err() {
        SnapshotError::NotFound { .. } => "not found",
        SnapshotError::AlreadyExists { .. } => "already exists",
        SnapshotError::FailedPrecondition { .. } => "failed precondition",
        SnapshotError::InvalidArgument { .. } => "invalid argument",
        other => panic!("{other}"),
    }
}

#[test]
fn what_is_not_there_is_not_found() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = open(&dir);
    assert_eq!(code(snapshots.stat("x")), "not found");
    assert_eq!(code(snapshots.usage("x")), "not found");
    assert_eq!(code(snapshots.mounts("x")), "not found");
    assert_eq!(code(snapshots.remove("x")), "not found");
    assert_eq!(code(snapshots.update("x", plain(), &[])), "not found");
    assert_eq!(code(snapshots.commit("y", "x", plain())), "not found");
    assert_eq!(code(snapshots.prepare("y", "x", plain())), "not found");
    let layer = staged(&snapshots, "file");
    let refused = snapshots.commit_layer(layer, &chain("c"), "x", plain());
    assert_eq!(code(refused), "not found");
    eventually("the refused layer goes", || {
        entries(&snapshots.inner.core.dirs.staging()).is_empty()
    });
    assert_tidy(&snapshots);
}

#[test]
fn a_key_is_used_once_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = open(&dir);
    committed(&snapshots, "base", "");
    snapshots.prepare("key", "base", plain()).unwrap();
    for again in [
        snapshots.prepare("key", "base", plain()),
        snapshots.view("key", "base", plain()),
        snapshots.prepare("base", "", plain()),
    ] {
        assert_eq!(code(again), "already exists");
    }
    assert_eq!(
        code(snapshots.commit("base", "key", plain())),
        "already exists"
    );
    assert_eq!(
        code(snapshots.commit("key", "key", plain())),
        "already exists"
    );
    snapshots.remove("key").unwrap();
    snapshots.view("key", "base", plain()).unwrap();
    snapshots.remove("key").unwrap();
    snapshots.prepare("key", "", plain()).unwrap();
    snapshots.remove("base").unwrap();
    snapshots.commit("base", "key", plain()).unwrap();
    assert_eq!(names(&snapshots), ["base"]);
    assert_eq!(code(snapshots.prepare("", "", plain())), "invalid argument");
    assert_tidy(&snapshots);
}

#[test]
fn only_active_snapshots_are_committed_and_only_committed_ones_are_parents() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = open(&dir);
    committed(&snapshots, "base", "");
    snapshots.view("view", "base", plain()).unwrap();
    snapshots.prepare("active", "base", plain()).unwrap();
    for key in ["view", "base"] {
        let refused = snapshots.commit("new", key, plain());
        assert_eq!(code(refused), "failed precondition");
    }
    for parent in ["view", "active"] {
        assert_eq!(
            code(snapshots.prepare("x", parent, plain())),
            "invalid argument"
        );
        let layer = staged(&snapshots, "file");
        let refused = snapshots.commit_layer(layer, &chain("c"), parent, plain());
        assert_eq!(code(refused), "invalid argument");
    }
    assert_eq!(code(snapshots.mounts("base")), "failed precondition");
}

#[test]
fn what_others_stand_on_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = open(&dir);
    committed(&snapshots, "base", "");
    committed(&snapshots, "next", "base");
    snapshots.view("view", "next", plain()).unwrap();
    for parent in ["base", "next"] {
        let error = snapshots.remove(parent).unwrap_err();
        assert!(error.to_string().contains("cannot remove"), "{error}");
        assert_eq!(code(Err::<(), _>(error)), "failed precondition");
    }
    for key in ["view", "next", "base"] {
        snapshots.remove(key).unwrap();
    }
    assert_eq!(names(&snapshots), Vec::<String>::new());
    assert_tidy(&snapshots);
}

#[test]
fn a_commit_begins_anew_with_labels_and_times() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = open(&dir);
    let before = std::time::SystemTime::now();
    snapshots.prepare("key", "", labels(&[("a", "1")])).unwrap();
    let active = snapshots.stat("key").unwrap();
    assert_eq!(active.created, active.updated);
    assert!(active.created >= before && active.created <= std::time::SystemTime::now());
    snapshots
        .commit("name", "key", labels(&[("b", "2"), ("none", "")]))
        .unwrap();
    let done = snapshots.stat("name").unwrap();
    assert_eq!((done.kind, done.parent.as_str()), (Kind::Committed, ""));
    assert_eq!(done.labels, labels(&[("b", "2")]));
    assert_eq!(done.created, done.updated);
    assert!(done.created >= active.created);
    assert_eq!(snapshots.list(&[]).unwrap(), [done]);
}

#[test]
fn updates_change_what_their_mask_names_and_the_time() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = open(&dir);
    snapshots.prepare("key", "", labels(&[("a", "1")])).unwrap();
    let created = snapshots.stat("key").unwrap().created;
    let update = |new: &[(&str, &str)], mask: &[&str]| {
        let mask: Vec<_> = mask.iter().map(|path| (*path).to_owned()).collect();
        snapshots.update("key", labels(new), &mask)
    };
    let all = update(&[("l1", "v1"), ("l2", "v2"), ("l.3", "v3")], &[]).unwrap();
    assert_eq!(
        all.labels,
        labels(&[("l1", "v1"), ("l2", "v2"), ("l.3", "v3")])
    );
    assert_eq!(all.created, created);
    assert!(all.updated > created);
    let some = update(&[("l1", "new"), ("l4", "no")], &["labels.l1", "labels.l2"]).unwrap();
    assert_eq!(some.labels, labels(&[("l1", "new"), ("l.3", "v3")]));
    let dotted = update(&[("l.3", "new")], &["labels.l.3"]).unwrap();
    assert_eq!(dotted.labels, labels(&[("l1", "new"), ("l.3", "new")]));
    let rest = update(&[("l4", "v4")], &["labels"]).unwrap();
    assert_eq!(rest.labels, labels(&[("l4", "v4")]));
    for path in ["parent", "kind", "name", "labelsx", ""] {
        assert_eq!(code(update(&[("x", "y")], &[path])), "invalid argument");
    }
    assert_eq!(snapshots.stat("key").unwrap(), rest);
    drop(snapshots);
    assert_eq!(open(&dir).stat("key").unwrap(), rest);
}

#[test]
fn labels_pass_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = open(&dir);
    let given = labels(&[
        ("containerd.io/gc.root", "2026-01-01T00:00:00Z"),
        ("containerd.io/gc.ref.snapshot.x/1", "y"),
        ("odd \"label\" \\ 牛", "any\nvalue\u{7f}"),
        ("long", &"x".repeat(4000)),
    ]);
    snapshots.prepare("key", "", given.clone()).unwrap();
    drop(snapshots);
    let snapshots = open(&dir);
    assert_eq!(snapshots.stat("key").unwrap().labels, given);
}

#[test]
fn layers_are_found_by_chain_and_parent() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = open(&dir);
    let given = labels(&[(
        "containerd.io/snapshot/cri.image-ref",
        "docker.io/library/x:1",
    )]);
    let base = snapshots
        .commit_layer(staged(&snapshots, "low"), &chain("base"), "", given)
        .unwrap();
    assert_eq!(base, format!("hawker/1/{}", chain("base")));
    let top = snapshots
        .commit_layer(staged(&snapshots, "high"), &chain("top"), &base, plain())
        .unwrap();
    let again = snapshots.commit_layer(staged(&snapshots, "x"), &chain("top"), &base, plain());
    assert_eq!(code(again), "already exists");

    assert_eq!(snapshots.find_layer(&chain("base"), ""), Some(base.clone()));
    assert_eq!(
        snapshots.find_layer(&chain("top"), &base),
        Some(top.clone())
    );
    assert_eq!(snapshots.find_layer(&chain("top"), ""), None);
    let info = snapshots.stat(&top).unwrap();
    assert_eq!(
        (info.kind, info.parent.as_str()),
        (Kind::Committed, base.as_str())
    );
    assert_eq!(info.labels[REFERENCE_LABEL], chain("top").to_string());
    let wanted = format!(
        "labels.\"{REFERENCE_LABEL}\"==\"{}\",parent==\"{base}\"",
        chain("top")
    );
    let found = snapshots.list(&[Filter::parse(&wanted).unwrap()]).unwrap();
    assert_eq!(found, [info]);
    assert_eq!(
        fs::read_to_string(files(&snapshots, &top).join("high")).unwrap(),
        "high"
    );

    drop(snapshots);
    let snapshots = open(&dir);
    assert_eq!(
        snapshots.find_layer(&chain("top"), &base),
        Some(top.clone())
    );
    snapshots.remove(&top).unwrap();
    assert_eq!(snapshots.find_layer(&chain("top"), &base), None);
    assert_tidy(&snapshots);
}

#[test]
fn what_containerd_commits_with_a_reference_counts_as_a_layer() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = open(&dir);
    let reference = chain("base").to_string();
    let given = labels(&[(REFERENCE_LABEL, &reference)]);
    snapshots.prepare("key", "", given.clone()).unwrap();
    assert_eq!(snapshots.find_layer(&chain("base"), ""), None);
    snapshots.commit("default/1/x", "key", given).unwrap();
    let found = snapshots.find_layer(&chain("base"), "");
    assert_eq!(found.as_deref(), Some("default/1/x"));
}

#[test]
fn a_chain_is_read_from_label_or_name() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = open(&dir);
    let reference = chain("c").to_string();
    for (name, given) in [
        (
            "labelled".to_owned(),
            labels(&[(REFERENCE_LABEL, &reference)]),
        ),
        (format!("k8s.io/17/{reference}"), plain()),
        ("k8s.io/18/sha256:12".to_owned(), plain()),
    ] {
        snapshots.prepare("key", "", plain()).unwrap();
        snapshots.commit(&name, "key", given).unwrap();
    }
    let active = format!("k8s.io/19/extract-1 {reference}");
    snapshots.prepare(&active, "", plain()).unwrap();
    assert_eq!(snapshots.chain_of("labelled"), Some(chain("c")));
    let named = format!("k8s.io/17/{reference}");
    assert_eq!(snapshots.chain_of(&named), Some(chain("c")));
    for none in ["", "k8s.io/18/sha256:12", &active, "unknown"] {
        assert_eq!(snapshots.chain_of(none), None, "{none}");
    }
}

#[test]
fn a_name_that_looks_like_ours_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = open(&dir);
    let taken = format!("hawker/2/{}", chain("c"));
    snapshots.prepare(&taken, "", plain()).unwrap();
    let layer = staged(&snapshots, "file");
    let name = snapshots.commit_layer(layer, &chain("c"), "", plain());
    assert_eq!(name.unwrap(), format!("hawker/3/{}", chain("c")));
    assert_tidy(&snapshots);
}

#[test]
fn ten_thousand_snapshots_are_filtered_at_once() {
    let row = Row::new(
        0,
        Kind::Committed,
        "",
        labels(&[("name", &"x".repeat(200))]),
    );
    let rows = (0..10_000).map(|id| (format!("k8s.io/{id}/x"), Row { id, ..row.clone() }));
    let graph = Graph::new(rows);
    let filter = "labels.name~=x$,kind==committed,name==\"k8s.io/77/x\"";
    let filter = Filter::parse(filter).unwrap();
    let start = Instant::now();
    let one = graph
        .iter()
        .filter(|(name, row)| filter.matches_row(name, row));
    assert_eq!(one.count(), 1);
    // A few milliseconds when optimised.
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[test]
fn callers_at_once_get_what_they_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = open(&dir);
    committed(&snapshots, "base", "");
    thread::scope(|scope| {
        for caller in 0..8 {
            let snapshots = &snapshots;
            scope.spawn(move || {
                for round in 0..10 {
                    let key = format!("{caller}-{round}");
                    snapshots.prepare(&key, "base", plain()).unwrap();
                    snapshots.mounts(&key).unwrap();
                    let same = staged(snapshots, "same");
                    let result =
                        snapshots.commit_layer(same, &chain(&round.to_string()), "", plain());
                    assert!(result.is_ok() || code(result) == "already exists");
                    match round % 2 {
                        0 => snapshots.remove(&key).unwrap(),
                        _ => snapshots
                            .commit(&format!("{key}-done"), &key, plain())
                            .unwrap(),
                    }
                }
            });
        }
    });
    assert_eq!(names(&snapshots).len(), 1 + 8 * 5 + 10);
    eventually("what came too late goes", || {
        entries(&snapshots.inner.core.dirs.staging()).is_empty()
    });
    assert_tidy(&snapshots);
}
