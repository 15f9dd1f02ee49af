//! Rendezvous hashing: who of several takes a task, so that everybody who knows the same names
//! comes to the same answer without asking anybody.
//!
//! The score of a name for a task is FNV-1a 64 over the task's 33 bytes and then the name's bytes,
//! passed through the finalizer of MurmurHash3 (`fmix64`), which spreads FNV's weak high bits. The
//! highest score wins. When a name goes, only its own tasks move; when one comes, it takes an equal
//! share from each. The function is part of the protocol: it must never change, since hosts of
//! different versions would send a blob's downloads to different seeds.

use crate::TaskId;

/// The score of `name` for `task`.
pub fn rendezvous_score(task: &TaskId, name: &str) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let bytes = task.to_bytes();
    let bytes = bytes.iter().chain(name.as_bytes());
    mix(bytes.fold(OFFSET, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(PRIME)
    }))
}

/// The one of `candidates` that takes `task`; equal scores are decided by name. `None` if there
/// are none.
pub fn rendezvous<T>(
    task: &TaskId,
    candidates: impl IntoIterator<Item = T>,
    name: impl Fn(&T) -> &str,
) -> Option<T> {
    let mut best: Option<(u64, T)> = None;
    for candidate in candidates {
        let score = rendezvous_score(task, name(&candidate));
        let wins = match &best {
            None => true,
            Some((best, held)) => (score, name(&candidate)) > (*best, name(held)),
        };
        if wins {
            best = Some((score, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// MurmurHash3's 64-bit finalizer.
fn mix(mut hash: u64) -> u64 {
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;

    const SEEDS: [&str; 4] = ["seed-1", "seed-2", "seed-3", "seed-4"];

    fn task(number: u32) -> TaskId {
        TaskId::Blob(Digest::of(&number.to_le_bytes()))
    }

    fn choose<'a>(task: &TaskId, names: &[&'a str]) -> Option<&'a str> {
        rendezvous(task, names.iter().copied(), |name| name)
    }

    #[test]
    fn scores_are_the_same_in_every_version() {
        let task = TaskId::Blob(Digest::from_bytes([0; 32]));
        assert_eq!(rendezvous_score(&task, "seed-1"), 0x14ec_cac2_8a4e_7e18);
        assert_eq!(rendezvous_score(&task, ""), 0xc3f7_5074_2cdf_2dd2);
    }

    #[test]
    fn tasks_spread_evenly() {
        for name in SEEDS {
            let share = (0..4000).filter(|n| choose(&task(*n), &SEEDS) == Some(name));
            let share = share.count();
            assert!((900..1100).contains(&share), "{name}: {share} of 4000");
        }
    }

    #[test]
    fn only_the_tasks_of_a_lost_name_move() {
        for number in 0..1000 {
            let before = choose(&task(number), &SEEDS);
            let after = choose(&task(number), &SEEDS[1..]);
            assert!(before == Some("seed-1") || before == after);
        }
    }

    #[test]
    fn nobody_takes_a_task_of_no_candidates() {
        assert_eq!(choose(&task(1), &[]), None);
        let mut reversed = SEEDS;
        reversed.reverse();
        assert_eq!(choose(&task(1), &SEEDS), choose(&task(1), &reversed));
    }
}
