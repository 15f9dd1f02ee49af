//! The core stays below everything that does I/O.

/// What the tracker may use, with all that those use.
const ALLOWED: [&str; 2] = ["hawker-model", "rand"];

#[test]
fn the_tracker_imports_nothing_that_owns_a_world() {
    let manifest = include_str!("../Cargo.toml");
    let section = manifest.split("\n[dependencies]\n").nth(1).unwrap();
    let section = section.split("\n[").next().unwrap();
    let names = section
        .lines()
        .filter_map(|line| line.split(['.', '=', ' ']).next());
    for name in names.filter(|name| !name.is_empty() && !name.starts_with('#')) {
        assert!(
            ALLOWED.contains(&name),
            "{name} is no dependency for a core"
        );
    }
}
