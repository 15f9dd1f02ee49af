use std::sync::atomic::AtomicU32;

use hawker_model::{Digest, TaskId};
use hawker_p2p::OriginError;

use super::{
    super::{jwt::tests::bearer, right_key::Item},
    *,
};

const LONG: Duration = Duration::from_secs(60);

fn rights(keep: Duration, grace: Duration) -> Rights {
    Rights::new(RightsSettings {
        keep,
        grace,
        keep_tags: Duration::ZERO,
    })
}

fn key(credential: &str, blob: &str) -> RightKey {
    RightKey {
        holder: Holder::of_repository("r.io/a", Some(&Secret::new(credential))),
        item: Item::Task(TaskId::Blob(Digest::of(blob.as_bytes()))),
    }
}

fn place() -> Place {
    Place::named("r.io", "a")
}

fn right() -> Right {
    Right {
        length: Some(1),
        ..Right::default()
    }
}

fn yes() -> Result<Granted, AccessError> {
    let (right, shown) = (right(), None);
    Ok(Granted { right, shown })
}

fn refused() -> Result<Granted, AccessError> {
    let (url, challenges) = ("u".to_owned(), Vec::new());
    let denied = OriginError::Denied {
        url,
        status: 403,
        challenges,
    };
    Err(denied.into())
}

async fn establish(
    rights: &Rights,
    key: &RightKey,
    answer: Result<Granted, AccessError>,
) -> Result<Basis, AccessError> {
    let asked = rights.establish(key, &place(), || async { answer }).await;
    asked.map(|(_, basis)| basis)
}

#[tokio::test]
async fn right_is_asked_for_once_even_by_many() {
    let rights = rights(LONG, Duration::ZERO);
    let asked = AtomicU32::new(0);
    let ask = || async {
        asked.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
        yes()
    };
    let (key, place) = (key("t", "x"), place());
    let establish = || rights.establish(&key, &place, ask);
    let (a, b, c) = tokio::join!(establish(), establish(), establish());
    for got in [a, b, c] {
        assert_eq!(got.unwrap(), (right(), Basis::Asked));
    }
    assert_eq!(establish().await.unwrap().1, Basis::Remembered);
    assert_eq!(asked.into_inner(), 1);
    assert!(rights.lock().flights.is_empty());
}

#[tokio::test]
async fn failure_is_shared_by_those_who_waited_for_it() {
    let rights = rights(LONG, Duration::ZERO);
    let asked = AtomicU32::new(0);
    let ask = || async {
        asked.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
        Err(AccessError::Slow)
    };
    let (key, place) = (key("t", "x"), place());
    let establish = || rights.establish(&key, &place, ask);
    let (a, b) = tokio::join!(establish(), establish());
    assert!(a.is_err() && b.is_err());
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    assert!(establish().await.is_err());
    assert_eq!(asked.into_inner(), 2, "a later one asks anew");
}

#[tokio::test]
async fn right_that_was_ended_is_remembered_again_by_those_who_ask_afterwards() {
    let rights = rights(LONG, Duration::ZERO);
    let (asked, held) = (AtomicU32::new(0), tokio::sync::Semaphore::new(0));
    let ask = || async {
        asked.fetch_add(1, Ordering::Relaxed);
        let _turn = held.acquire().await;
        yes()
    };
    let (key, place) = (key("t", "x"), place());
    let establish = || Box::pin(rights.establish(&key, &place, ask));
    let mut first = establish();
    assert!(futures::poll!(&mut first).is_pending());
    rights.end(&key.holder);
    let (mut second, mut third) = (establish(), establish());
    assert!(futures::poll!(&mut second).is_pending());
    assert!(futures::poll!(&mut third).is_pending());
    held.add_permits(1);
    let (first, second, third) = tokio::join!(first, second, third);
    assert!(first.is_ok() && second.is_ok() && third.is_ok());
    assert!(rights.find(&key).is_some());
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[test]
fn what_was_asked_for_before_a_refusal_is_not_granted_after_it() {
    let endings: [fn(&Rights, &RightKey); 2] = [
        |rights, key| rights.end(&key.holder),
        // Whose right was on its way is not known there.
        |rights, _| _ = rights.forget(&|_| false),
    ];
    for end in endings {
        let (rights, key) = (rights(LONG, LONG), key("t", "x"));
        let grant = |asked| rights.grant(&key, &place(), yes().unwrap(), asked);
        let asked = Instant::now();
        end(&rights, &key);
        grant(asked);
        assert!(rights.held(&key).is_none());
        std::thread::sleep(Duration::from_millis(1));
        grant(Instant::now());
        assert!(rights.find(&key).is_some());
    }
    let (rights, key, asked) = (rights(LONG, LONG), key("t", "x"), Instant::now());
    rights.end(&self::key("u", "x").holder);
    rights.grant(&key, &place(), yes().unwrap(), asked);
    assert!(rights.find(&key).is_some(), "another's refusal");
}

#[tokio::test]
async fn asker_who_leaves_is_followed_by_the_next() {
    let rights = rights(LONG, Duration::ZERO);
    let (key, place) = (key("t", "x"), place());
    let never = rights.establish(&key, &place, std::future::pending);
    let mut never = Box::pin(never);
    assert!(futures::poll!(&mut never).is_pending());
    let mut next = Box::pin(establish(&rights, &key, yes()));
    assert!(futures::poll!(&mut next).is_pending());
    drop(never);
    assert_eq!(next.await.unwrap(), Basis::Asked);
    assert!(rights.lock().flights.is_empty());
}

#[tokio::test]
async fn rights_of_others_count_for_nothing() {
    let rights = rights(LONG, LONG);
    establish(&rights, &key("t", "x"), yes()).await.unwrap();
    for other in [key("u", "x"), key("t", "y"), key("", "x")] {
        assert!(rights.find(&other).is_none());
        assert!(
            establish(&rights, &other, Err(AccessError::Slow))
                .await
                .is_err()
        );
    }
}

#[tokio::test]
async fn right_outlives_the_origin_only_for_its_grace() {
    let short = rights(Duration::ZERO, Duration::ZERO);
    establish(&short, &key("t", "x"), yes()).await.unwrap();
    assert!(
        establish(&short, &key("t", "x"), Err(AccessError::Slow))
            .await
            .is_err()
    );

    let kind = rights(Duration::ZERO, LONG);
    establish(&kind, &key("t", "x"), yes()).await.unwrap();
    assert!(kind.find(&key("t", "x")).is_none(), "it is asked for again");
    let grace = establish(&kind, &key("t", "x"), Err(AccessError::Slow)).await;
    assert_eq!(grace.unwrap(), Basis::Grace);
}

#[tokio::test]
async fn refusal_ends_all_rights_of_the_credential_and_there_is_no_grace_after_it() {
    let rights = rights(Duration::ZERO, LONG);
    for key in [key("t", "x"), key("t", "y"), key("u", "x")] {
        establish(&rights, &key, yes()).await.unwrap();
    }
    assert!(establish(&rights, &key("t", "x"), refused()).await.is_err());
    for key in [key("t", "x"), key("t", "y")] {
        assert!(
            establish(&rights, &key, Err(AccessError::Slow))
                .await
                .is_err()
        );
    }
    let other = establish(&rights, &key("u", "x"), Err(AccessError::Slow)).await;
    assert_eq!(other.unwrap(), Basis::Grace);
}

#[tokio::test]
async fn who_was_refused_or_forgotten_is_known_for_a_while() {
    let rights = rights(LONG, LONG);
    for key in [key("t", "x"), key("u", "x"), key("v", "x")] {
        establish(&rights, &key, yes()).await.unwrap();
        assert!(!rights.was_ended(&key.holder, LONG));
    }
    assert!(establish(&rights, &key("t", "y"), refused()).await.is_err());
    assert!(rights.was_ended(&key("t", "x").holder, LONG));
    assert!(!rights.was_ended(&key("t", "x").holder, Duration::ZERO));
    assert!(!rights.was_ended(&key("u", "x").holder, LONG));
    rights.forget(&|place| place.registry() == "r.io");
    assert!(rights.was_ended(&key("u", "x").holder, LONG));
}

#[tokio::test]
async fn blob_that_is_gone_ends_its_own_right_alone() {
    let rights = rights(Duration::ZERO, LONG);
    for key in [key("t", "x"), key("t", "y")] {
        establish(&rights, &key, yes()).await.unwrap();
    }
    let gone = OriginError::NotFound {
        url: "u".to_owned(),
        status: 404,
    };
    assert!(
        establish(&rights, &key("t", "x"), Err(gone.into()))
            .await
            .is_err()
    );
    assert!(rights.held(&key("t", "x")).is_none());
    assert!(rights.held(&key("t", "y")).is_some());
}

#[tokio::test]
async fn grant_that_a_refusal_overtakes_is_not_remembered() {
    let rights = rights(LONG, LONG);
    let (key, place) = (key("t", "x"), place());
    let overtaken = rights.establish(&key, &place, || async {
        rights.end(&key.holder);
        yes()
    });
    overtaken.await.unwrap();
    assert!(rights.held(&key).is_none());
}

#[tokio::test]
async fn token_that_expires_takes_its_right_with_it() {
    let rights = rights(LONG, Duration::ZERO);
    let key = key("t", "x");
    for (exp, is_kept) in [(r#"{"exp":1}"#, false), (r#"{"exp":1e18}"#, true)] {
        let granted = Granted {
            right: right(),
            shown: Some(bearer(exp)),
        };
        establish(&rights, &key, Ok(granted)).await.unwrap();
        assert_eq!(rights.find(&key).is_some(), is_kept, "{exp}");
    }
}

#[tokio::test]
async fn operator_makes_all_be_asked_anew() {
    let rights = rights(LONG, LONG);
    let key = key("t", "x");
    establish(&rights, &key, yes()).await.unwrap();
    assert_eq!(rights.report()[0].fresh, 1);
    assert_eq!(rights.forget(&|place| place.registry() == "s.io"), 0);
    assert_eq!(rights.forget(&|place| place.registry() == "r.io"), 1);
    assert!(rights.held(&key).is_none());
    assert_eq!(rights.len(), 0);
}
