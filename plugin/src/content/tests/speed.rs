//! How long `Info` takes. Run by hand: `cargo test -p hawker-plugin --release -- --ignored --nocapture
//! info_takes`.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Instant,
};

use super::*;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a benchmark"]
async fn info_takes_no_time_with_10_000_records_while_promises_are_recorded() {
    let dir = temp();
    let bed = Bed::open(dir.path(), NOWHERE).await;
    let name = image("registry.example", "team/app");
    for i in 0..10_000u64 {
        let row = Row::new(i, ContentState::Committed).with_image(&name);
        let digest = Digest::of(&i.to_le_bytes());
        bed.store.0.journal.note(Change::Put(digest, row.clone()));
        bed.store.0.records.put(digest, Record::told(row).into());
    }
    let (is_over, recorded) = (AtomicBool::new(false), std::sync::atomic::AtomicU64::new(0));
    let recording = async {
        let mut i = 10_000u64;
        while !is_over.load(Relaxed) {
            let saves = (0..8).map(|_| {
                i += 1;
                let row = Row::new(i, ContentState::Promised).with_image(&name);
                let (digest, now) = (Digest::of(&i.to_le_bytes()), Instant::now());
                let store = bed.store.clone();
                async move {
                    let change = Change::Put(digest, row.clone());
                    store.0.journal.save(change).await.unwrap();
                    store
                        .0
                        .records
                        .put(digest, Record::promised(row, now).into());
                }
            });
            futures::future::join_all(saves).await;
            recorded.fetch_add(8, Relaxed);
        }
    };
    let store = bed.store.clone();
    let asking = async {
        let asked = tokio::task::spawn_blocking(move || {
            let mut times = Vec::new();
            for i in 0..200_000u64 {
                let digest = Digest::of(&(i * 7919 % 10_000).to_le_bytes());
                let begin = Instant::now();
                assert!(store.info(&digest).is_some());
                times.push(begin.elapsed());
                if i % 1000 == 0 {
                    store.list(None, 100);
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            times.sort();
            times
        });
        let times = asked.await.unwrap();
        is_over.store(true, Relaxed);
        times
    };
    let ((), times) = tokio::join!(recording, asking);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!(
        "Info of 10,000 records, {} promises recorded meanwhile: p50 {:?}, p99 {:?}, most {:?}",
        recorded.load(Relaxed),
        at(0.5),
        at(0.99),
        at(1.0)
    );
    assert!(at(0.99) < Duration::from_millis(1));
}
