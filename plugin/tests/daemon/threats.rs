//! The threat model (`docs/threats.md`) names tests: they are there.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn sources(dir: &Path, found: &mut String) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        match path.is_dir() {
            true if name != "target" => sources(&path, found),
            false if name.ends_with(".rs") => found.push_str(&fs::read_to_string(&path).unwrap()),
            _ => {}
        }
    }
}

#[test]
fn tests_that_the_threat_model_names_are_there() {
    let plugin = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(plugin.join("docs/threats.md")).unwrap();
    let mut all = String::new();
    for crate_dir in ["p2p", "plugin", "scheduler", "test-vm"] {
        sources(&plugin.join("..").join(crate_dir), &mut all);
    }
    let is_test = |word: &&str| {
        word.matches('_').count() >= 2
            && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    let named: Vec<_> = text.split('`').skip(1).step_by(2).filter(is_test).collect();
    assert!(named.len() > 30, "{named:?}");
    for name in named {
        assert!(all.contains(&format!("fn {name}(")), "{name}");
    }
}
