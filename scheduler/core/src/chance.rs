//! Random choice with weights.

use rand::{RngExt, rngs::StdRng};

/// Draws up to `count` of `candidates` without putting back; a candidate with twice the weight is
/// twice as likely to be drawn first. Weights are positive. (Efraimidis and Spirakis: the `count`
/// least of -ln(u)/weight, which tells the least weights apart where u^(1/weight) does not.)
pub(crate) fn draw<T>(rng: &mut StdRng, candidates: Vec<(f64, T)>, count: usize) -> Vec<T> {
    let keyed = candidates.into_iter();
    let mut keyed: Vec<(f64, T)> = keyed
        .map(|(weight, candidate)| (-rng.random::<f64>().ln() / weight, candidate))
        .collect();
    keyed.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    keyed.truncate(count);
    keyed.into_iter().map(|(_, candidate)| candidate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn heavier_candidates_are_drawn_more_often() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut first = [0; 3];
        for _ in 0..3000 {
            let drawn = draw(&mut rng, vec![(1.0, 0), (1.0, 1), (2.0, 2)], 2);
            assert_eq!(drawn.len(), 2);
            assert_ne!(drawn[0], drawn[1]);
            first[drawn[0]] += 1;
        }
        assert!((650..850).contains(&first[0]), "{first:?}");
        assert!((1350..1650).contains(&first[2]), "{first:?}");
    }

    #[test]
    fn candidates_of_little_weight_have_their_chances_too() {
        let mut rng = StdRng::seed_from_u64(1);
        let candidates = || vec![(1e-12, 0), (1e-12, 1), (1e-12, 2)];
        let drawn = (0..300).flat_map(|_| draw(&mut rng, candidates(), 1));
        let last = drawn.filter(|candidate| *candidate == 2).count();
        assert!((60..140).contains(&last), "{last}");
    }

    #[test]
    fn fewer_candidates_than_wanted_are_all_drawn() {
        let mut rng = StdRng::seed_from_u64(1);
        assert_eq!(draw(&mut rng, vec![(1.0, 'a')], 8), vec!['a']);
        assert!(draw::<char>(&mut rng, Vec::new(), 8).is_empty());
    }
}
