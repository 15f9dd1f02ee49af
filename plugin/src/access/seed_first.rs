//! A right, or a manifest, by a seed's word, or by the origin's own.
//!
//! The seed of a blob or repository is the same one for all hosts: it asks the origin once for all
//! who show the same credential. Its yes counts; everything else it says is heard from the origin
//! itself, so that no client is refused for what is wrong with a seed. A seed that is slow costs no more than
//! [`PATIENCE`] (and one without a sign of life a quarter second: `Node::ask_seed`). Where the origin
//! then answers within the same time, the seed is slow and not the origin: it is not asked of that
//! one for a while ([`Race`]). Where the origin is slow too, seeds are asked as ever, since many hosts
//! that ask would make it slower.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use futures::future::{Either, select};
use hawker_p2p::{NoSeed, Race, Verdict};
use tracing::debug;

use super::{
    AccessError,
    rights::{Granted, Right},
};

/// How long a seed that has heard the question may take before the origin is asked as well; and for
/// how long that one may be asked to show that the seed was slow.
const PATIENCE: Duration = Duration::from_secs(1);

/// Who granted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grantor {
    Seed,
    Origin,
}

impl Grantor {
    /// The label's value.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Seed => "seed",
            Self::Origin => "origin",
        }
    }
}

/// What a seed's word is worth.
#[derive(Debug)]
pub(crate) enum Heard<T> {
    Granted(T),
    /// It says that the origin refuses.
    Refused(AccessError),
    Nothing,
}

/// Asks the seed, then the origin; whoever grants first. `race` is what the seed is asked with.
pub(crate) async fn ask<T: Granting, S, O>(
    seed: S,
    race: &Race,
    origin: impl FnOnce() -> O,
) -> (Grantor, Result<T, AccessError>)
where
    S: Future<Output = Heard<T>>,
    O: Future<Output = Result<T, AccessError>>,
{
    let mut seed = pin!(seed);
    let Ok(heard) = tokio::time::timeout(PATIENCE, &mut seed).await else {
        let since = Instant::now();
        return match select(seed, pin!(origin())).await {
            Either::Left((heard, origin)) => match heard {
                Heard::Granted(granted) => (Grantor::Seed, Ok(granted)),
                other => (Grantor::Origin, other.or(origin.await)),
            },
            Either::Right((answer, _)) => {
                // A refusal, or too many questions, may be quick for want of what the seed waits for.
                let gave = match &answer {
                    Ok(answer) => answer.is_given(),
                    Err(error) => error.is_missing(),
                };
                if since.elapsed() < PATIENCE && gave {
                    race.lose();
                }
                (Grantor::Origin, answer)
            }
        };
    };
    match heard {
        Heard::Granted(granted) => (Grantor::Seed, Ok(granted)),
        other => (Grantor::Origin, other.or(origin().await)),
    }
}

/// Whether it is the origin's word that it cannot answer now, or none.
fn is_outage<T: Granting>(answer: &Result<T, AccessError>) -> bool {
    match answer {
        Ok(answer) => answer.is_outage(),
        Err(error) => error.is_outage(),
    }
}

/// What is granted.
pub(crate) trait Granting {
    /// Whether it is the origin's word that it cannot answer now.
    fn is_outage(&self) -> bool;

    /// Whether it is what was asked for.
    fn is_given(&self) -> bool;
}

impl Granting for Granted {
    fn is_outage(&self) -> bool {
        false
    }

    fn is_given(&self) -> bool {
        true
    }
}

impl<T: Granting> Heard<T> {
    /// The origin's own word. Where it cannot be had, a refusal that the seed heard stands: there is
    /// no grace after it.
    fn or(self, answer: Result<T, AccessError>) -> Result<T, AccessError> {
        match self {
            Self::Refused(refusal) if is_outage(&answer) => Err(refusal),
            _ => answer,
        }
    }
}

/// What a verdict is worth.
pub(super) fn judged(verdict: Result<Verdict, NoSeed>) -> Heard<Granted> {
    match verdict {
        Ok(Verdict::Granted { length, held }) => Heard::Granted(Granted {
            right: Right {
                length,
                is_proven: held,
                ..Right::default()
            },
            shown: None,
        }),
        Ok(Verdict::Denied { status, challenges }) => {
            Heard::Refused(AccessError::Refused { status, challenges })
        }
        Ok(Verdict::NotFound) => Heard::Nothing,
        Ok(Verdict::Failed(reason)) => {
            debug!(%reason, "a seed cannot judge: the registry is asked");
            Heard::Nothing
        }
        Err(reason) => {
            debug!(%reason, "no seed judges: the registry is asked");
            Heard::Nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use hawker_p2p::OriginError;

    use super::{ask as ask_of, *};

    /// Asks a seed that judges.
    async fn ask<O: Future<Output = Result<Granted, AccessError>>>(
        verdict: impl Future<Output = Result<Verdict, NoSeed>>,
        origin: impl FnOnce() -> O,
    ) -> (Grantor, Result<Granted, AccessError>) {
        let race = Race::default();
        ask_of(async { judged(verdict.await) }, &race, origin).await
    }

    fn yes(length: u64) -> Result<Granted, AccessError> {
        let right = Right {
            length: Some(length),
            ..Right::default()
        };
        Ok(Granted { right, shown: None })
    }

    fn verdict(length: u64) -> Result<Verdict, NoSeed> {
        Ok(Verdict::Granted {
            length: Some(length),
            held: true,
        })
    }

    fn denied() -> Result<Verdict, NoSeed> {
        let (status, challenges) = (401, vec!["Basic".to_owned()]);
        Ok(Verdict::Denied { status, challenges })
    }

    fn length((grantor, answer): (Grantor, Result<Granted, AccessError>)) -> (Grantor, u64) {
        (grantor, answer.unwrap().right.length.unwrap())
    }

    #[tokio::test]
    async fn seeds_yes_costs_no_request() {
        let asked = ask(ready(verdict(1)), || async {
            panic!("the origin is not asked")
        })
        .await;
        assert!(asked.1.as_ref().unwrap().right.is_proven);
        assert_eq!(length(asked), (Grantor::Seed, 1));
    }

    #[tokio::test]
    async fn whatever_else_a_seed_says_the_origin_decides() {
        for said in [
            denied(),
            Ok(Verdict::NotFound),
            Ok(Verdict::Failed("no".to_owned())),
            Err(NoSeed::Unknown),
        ] {
            let asked = ask(ready(said), || ready(yes(2))).await;
            assert_eq!(length(asked), (Grantor::Origin, 2));
        }
    }

    #[tokio::test]
    async fn refusal_that_a_seed_heard_stands_where_the_origin_is_silent() {
        let (_, answer) = ask(ready(denied()), || ready(Err(AccessError::Slow))).await;
        assert!(answer.unwrap_err().is_refusal());
        let gone = OriginError::NotFound {
            url: "u".to_owned(),
            status: 404,
        };
        let (_, answer) = ask(ready(denied()), || ready(Err(gone.into()))).await;
        assert!(!answer.unwrap_err().is_refusal());
    }

    #[tokio::test]
    async fn seed_that_says_nothing_more_is_not_waited_for() {
        let asked = ask(pending(), || ready(yes(3))).await;
        assert_eq!(length(asked), (Grantor::Origin, 3));
    }

    #[tokio::test]
    async fn seed_is_slow_where_the_origin_is_not() {
        let outage = || Err(AccessError::Slow);
        // It may be what the seed waits for.
        let refusal = || {
            let (status, challenges) = (429, Vec::new());
            Err(AccessError::Refused { status, challenges })
        };
        let late = async || {
            tokio::time::sleep(PATIENCE).await;
            yes(4)
        };
        let races = [(); 4].map(|()| Race::default());
        let seed = || async { judged(pending().await) };
        let [by_yes, by_late, by_outage, by_refusal] = &races;
        let (yes, late, outage, refusal) = tokio::join!(
            ask_of(seed(), by_yes, || ready(yes(4))),
            ask_of(seed(), by_late, late),
            ask_of(seed(), by_outage, || ready(outage())),
            ask_of(seed(), by_refusal, || ready(refusal())),
        );
        assert!(yes.1.is_ok() && late.1.is_ok() && outage.1.is_err() && refusal.1.is_err());
        assert_eq!(
            races.each_ref().map(Race::is_lost),
            [true, false, false, false]
        );
    }
}
