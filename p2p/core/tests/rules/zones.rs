//! What is asked of another zone.

use super::*;

/// Pieces asked of a host so far.
fn asked_of(actions: &[Action], name: &str) -> Vec<u32> {
    let asked = actions.iter().filter_map(|action| match action {
        Action::Send { host: to, envelope } if *to == host(name) => match envelope.message {
            Message::Request { piece } => Some(piece.0),
            _ => None,
        },
        _ => None,
    });
    asked.collect()
}

#[test]
fn what_the_own_zone_has_is_not_asked_of_another_zone() {
    let parents: [(_, _, &[u32]); 2] = [
        ("near", "here", &[0, 1, 2, 3, 4, 5]),
        ("far", "there", &[0, 1, 2, 3, 4, 5, 6, 7]),
    ];
    let mut bench = Bench::between_zones(&parents);
    let actions = bench.actions();
    let mut far = asked_of(&actions, "far");
    far.sort();
    assert_eq!(far, [6, 7]);
    assert!(!asked_of(&actions, "near").is_empty());
}

#[test]
fn what_the_own_zone_has_and_does_not_give_comes_from_another_one() {
    let everything: &[u32] = &[0, 1, 2, 3, 4, 5, 6, 7];
    let parents = [("near", "here", everything), ("far", "there", everything)];
    let mut bench = Bench::between_zones(&parents);
    assert_eq!(asked_of(&bench.actions(), "far"), [0; 0]);
    bench.pass(Duration::from_secs(2));
    let actions = bench.actions();
    assert!(!asked_of(&actions, "far").is_empty());
}
