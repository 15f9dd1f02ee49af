//! Which turn comes next.

use hawker_model::Role;

use super::{
    slots::{MOST, SLOW},
    *,
};
use crate::{Rate, sample};

fn uploads(slots: usize, slots_per_host: usize, queue: usize) -> Uploads {
    let mut config = SwarmConfig::new(sample::host("me"), Role::Node);
    config.upload_slots = slots;
    config.upload_slots_per_host = slots_per_host;
    config.upload_queue = queue;
    Uploads::new(&config)
}

fn ask(uploads: &mut Uploads, host: &HostId, task: TaskId, piece: u32) -> bool {
    let (piece, progress) = (PieceIndex(piece), Progress(0));
    uploads.ask(host, (task, piece, 1), progress, sample::start()) != Asked::Refused
}

fn begin_next(uploads: &mut Uploads) -> Option<(HostId, PieceIndex)> {
    let Turn::Asked(host, task, piece) = uploads.next_turn(sample::start())? else {
        return None;
    };
    uploads.begin(&host, (task, piece, 1), Open::No, sample::start());
    Some((host, piece))
}

#[test]
fn slots_go_round_by_host_and_no_further_than_there_are() {
    let (a, b, task) = (sample::host("a"), sample::host("b"), sample::task());
    let mut uploads = uploads(3, 3, 9);
    for piece in 0..4 {
        assert!(ask(&mut uploads, &a, task, piece));
    }
    assert!(ask(&mut uploads, &b, task, 7));
    assert_eq!(begin_next(&mut uploads), Some((a.clone(), PieceIndex(0))));
    assert_eq!(begin_next(&mut uploads), Some((b, PieceIndex(7))));
    assert_eq!(begin_next(&mut uploads), Some((a.clone(), PieceIndex(1))));
    assert_eq!(begin_next(&mut uploads), None);
    uploads.finish(&a, task, PieceIndex(0), sample::start());
    assert_eq!(begin_next(&mut uploads), Some((a, PieceIndex(2))));
}

#[test]
fn a_task_that_leaves_the_choice_to_us_does_not_starve_beside_one_that_asks_by_number() {
    let (a, [numbered, open]) = (sample::host("a"), sample::tasks());
    for rate in [None, Rate::new(1 << 30)] {
        let (mut uploads, start) = (uploads(1, 1, 9), sample::start());
        let limit = Limit {
            total: rate,
            per_task: None,
        };
        uploads.set_limit(limit, start);
        uploads.ask_any(&a, open, 9);
        let mut served = Vec::new();
        for number in 0..8 {
            // There is always more that was asked for.
            ask(&mut uploads, &a, numbered, 2 * number);
            ask(&mut uploads, &a, numbered, 2 * number + 1);
            let (task, piece, open) = match uploads.next_turn(start).unwrap() {
                Turn::Asked(_, task, piece) => (task, piece, Open::No),
                Turn::Open(_, tasks) => (tasks[0], PieceIndex(number), Open::Yes),
            };
            uploads.begin(&a, (task, piece, 1), open, start);
            uploads.finish(&a, task, piece, start);
            served.push(open);
        }
        let of_choice = served.iter().filter(|it| **it == Open::Yes).count();
        assert_eq!(of_choice, 4, "{served:?}");
    }
}

#[test]
fn a_full_queue_refuses_and_a_cancelled_request_is_not_served() {
    let (a, task) = (sample::host("a"), sample::task());
    let mut uploads = uploads(1, 1, 1);
    assert!(ask(&mut uploads, &a, task, 0));
    let again = (task, PieceIndex(0), 1);
    let again = uploads.ask(&a, again, Progress(0), sample::start());
    assert_eq!(again, Asked::Known);
    assert!(!ask(&mut uploads, &a, task, 1));
    uploads.cancel(&a, task, PieceIndex(0));
    assert_eq!(uploads.next_turn(sample::start()), None);
}

#[test]
fn a_receiver_that_takes_its_time_holds_no_slot_for_long_and_gets_one_at_a_time() {
    let (slow, quick, task) = (sample::host("slow"), sample::host("quick"), sample::task());
    let (mut uploads, start) = (uploads(2, 4, 9), sample::start());
    for piece in 0..9 {
        assert!(ask(&mut uploads, &slow, task, piece));
    }
    let begin_at = |now, uploads: &mut Uploads| {
        let Some(Turn::Asked(host, task, piece)) = uploads.next_turn(now) else {
            return None;
        };
        uploads.begin(&host, (task, piece, 1), Open::No, now);
        Some((host, piece))
    };
    assert!(begin_at(start, &mut uploads).is_some() && begin_at(start, &mut uploads).is_some());
    assert!(ask(&mut uploads, &quick, task, 0));
    assert_eq!(begin_at(start, &mut uploads), None);
    // It says itself when it has to be looked at again.
    let later = uploads.due().unwrap();
    assert_eq!(later, start + SLOW);
    let piece = begin_at(later, &mut uploads);
    assert_eq!(piece, Some((quick, PieceIndex(0))));
    assert_eq!(begin_at(later, &mut uploads), None);
    uploads.finish(&slow, task, PieceIndex(0), later);
    assert_eq!(begin_at(later, &mut uploads), None, "one is still stuck");
    uploads.finish(&slow, task, PieceIndex(1), later);
    assert_eq!(begin_at(later, &mut uploads), Some((slow, PieceIndex(2))));
    assert_eq!(begin_at(later, &mut uploads), None);
}

#[test]
fn what_slow_receivers_take_is_usual_only_up_to_a_second() {
    let (mut slots, start) = (Slots::new(4), sample::start());
    for _ in 0..4 {
        slots.begin(1, start);
        assert!(!slots.finish(start, start + SLOW * 100));
    }
    assert_eq!(slots.slow(), SLOW);
    for _ in 0..1000 {
        slots.begin(1, start);
        slots.finish(start, start + SLOW * 100);
    }
    assert_eq!(slots.slow(), Duration::from_secs(1));
    // Where our own link is slow, nobody is slow for long.
    slots.begin(1, start);
    assert!(slots.finish(start, start + SLOW * 4));
}

#[test]
fn who_holds_everything_up_is_given_up() {
    let (slow, quick, task) = (sample::host("slow"), sample::host("quick"), sample::task());
    let (mut uploads, mut now) = (uploads(1, 8, 9), sample::start());
    for (number, host) in ["a", "b", "c"].map(sample::host).iter().enumerate() {
        assert!(ask(&mut uploads, host, task, number as u32));
    }
    assert!(ask(&mut uploads, &slow, task, 9));
    for _ in 0..MOST {
        let Some(Turn::Asked(host, task, piece)) = uploads.next_turn(now) else {
            unreachable!("a slot is free");
        };
        uploads.begin(&host, (task, piece, 1), Open::No, now);
        now += SLOW;
    }
    assert_eq!(uploads.hopeless(now + SLOW * 99), None, "nobody waits");
    assert!(ask(&mut uploads, &quick, task, 0));
    assert_eq!(
        (uploads.next_turn(now), uploads.hopeless(now)),
        (None, None)
    );
    let at = uploads.due().unwrap();
    let given_up = uploads.hopeless(at).unwrap();
    uploads.disconnect(&given_up);
    assert!(matches!(uploads.next_turn(at), Some(Turn::Asked(host, ..)) if host == quick));
}

#[test]
fn open_requests_of_several_tasks_take_turns() {
    let (a, [one, two]) = (sample::host("a"), sample::tasks());
    let mut uploads = uploads(9, 9, 9);
    uploads.ask_any(&a, one, 9);
    uploads.ask_any(&a, two, 9);
    let mut served = Vec::new();
    for piece in 0..4 {
        let Some(Turn::Open(host, tasks)) = uploads.next_turn(sample::start()) else {
            continue;
        };
        let piece = (tasks[0], PieceIndex(piece), 1);
        uploads.begin(&host, piece, Open::Yes, sample::start());
        served.push(tasks[0]);
    }
    assert_eq!(served[..2], served[2..]);
    assert_ne!(served[0], served[1]);
}

#[test]
fn who_waits_for_a_tasks_rate_and_for_a_piece_of_our_choice_gets_no_turn_meanwhile() {
    let (a, [numbered, open]) = (sample::host("a"), sample::tasks());
    let (mut uploads, start) = (uploads(9, 9, 9), sample::start());
    let limit = Limit {
        total: None,
        per_task: Rate::new(1000),
    };
    uploads.set_limit(limit, start);
    uploads.ask_any(&a, open, 9);
    for piece in 0..2 {
        let piece = (numbered, PieceIndex(piece), 60_000);
        uploads.ask(&a, piece, Progress(0), start);
    }
    // There is no piece of the open task, and the other's rate is used up after one.
    let turns = |uploads: &mut Uploads, now| {
        let mut asked = 0;
        for _ in 0..100 {
            match uploads.next_turn(now) {
                None => return asked,
                Some(Turn::Asked(host, task, piece)) => {
                    uploads.begin(&host, (task, piece, 60_000), Open::No, now);
                    uploads.finish(&host, task, piece, now);
                    asked += 1;
                }
                Some(Turn::Open(host, _)) => uploads.end_open_turn(&host, now),
            }
        }
        panic!("turns without end");
    };
    assert_eq!(turns(&mut uploads, start), 1);
    let due = uploads.due().unwrap();
    assert!(due > start);
    assert_eq!(turns(&mut uploads, due), 1);
}

#[test]
fn a_lost_connection_frees_its_slots() {
    let (a, b, task) = (sample::host("a"), sample::host("b"), sample::task());
    let mut uploads = uploads(1, 1, 9);
    assert!(ask(&mut uploads, &a, task, 0));
    assert!(begin_next(&mut uploads).is_some());
    assert!(ask(&mut uploads, &b, task, 0));
    assert_eq!(begin_next(&mut uploads), None);
    uploads.disconnect(&a);
    assert!(begin_next(&mut uploads).is_some());
    uploads.finish(&a, task, PieceIndex(0), sample::start());
    assert_eq!(uploads.slots.len(), 1);
}

#[test]
fn new_pieces_go_round_by_host() {
    let (a, b, task) = (sample::host("a"), sample::host("b"), sample::task());
    let mut uploads = uploads(9, 9, 9);
    uploads.ask_any(&a, task, 9);
    uploads.ask_any(&b, task, 9);
    let mut served = Vec::new();
    for piece in 0..4 {
        // Nothing is left for either of them; then there is a new piece.
        while uploads.next_turn(sample::start()).is_some() {}
        uploads.wake(&task);
        let Some(Turn::Open(host, _)) = uploads.next_turn(sample::start()) else {
            continue;
        };
        uploads.begin(
            &host,
            (task, PieceIndex(piece), 1),
            Open::Yes,
            sample::start(),
        );
        served.push(host.to_string());
    }
    assert_eq!(served, ["a", "b", "a", "b"]);
}

#[test]
fn open_requests_end_with_their_credit() {
    let (a, task) = (sample::host("a"), sample::task());
    let mut uploads = uploads(9, 9, 9);
    uploads.ask_any(&a, task, 1);
    assert_eq!(
        uploads.next_turn(sample::start()),
        Some(Turn::Open(a.clone(), vec![task]))
    );
    uploads.begin(&a, (task, PieceIndex(3), 1), Open::Yes, sample::start());
    assert_eq!(uploads.next_turn(sample::start()), None);
}

/// Sends whatever it may, pieces of `len` bytes of the tasks, to hosts that always ask for more.
/// Says how much each host got of each task.
fn send_for(
    uploads: &mut Uploads,
    wants: &[(HostId, TaskId, u32)],
    time: Duration,
    start: Instant,
) -> Vec<u64> {
    let (mut now, mut sent) = (start, vec![0; wants.len()]);
    let mut next = 0;
    while now < start + time {
        for (host, task, len) in wants {
            next += 1;
            let asked = (*task, PieceIndex(next), *len);
            let known = uploads.lanes.get(host).is_some_and(|lane| {
                let of_task = |(asked, _): &&(TaskId, PieceIndex)| asked == task;
                lane.queue.iter().filter(of_task).count() > 2
            });
            if !known {
                uploads.ask(host, asked, Progress(0), now);
            }
        }
        while let Some(Turn::Asked(host, task, piece)) = uploads.next_turn(now) {
            let at = wants
                .iter()
                .position(|want| (&want.0, &want.1) == (&host, &task));
            let at = at.unwrap();
            uploads.begin(&host, (task, piece, wants[at].2), Open::No, now);
            uploads.finish(&host, task, piece, now);
            sent[at] += u64::from(wants[at].2);
        }
        now += Duration::from_millis(1);
    }
    sent
}

fn limited(total: u64, per_task: u64) -> Uploads {
    let mut uploads = uploads(8, 4, 64);
    let limit = Limit {
        total: Rate::new(total),
        per_task: Rate::new(per_task),
    };
    uploads.set_limit(limit, sample::start());
    uploads
}

#[test]
fn a_limit_is_kept_and_shared_by_hosts_whatever_the_size_of_their_pieces() {
    let mut uploads = limited(1 << 20, 0);
    let (a, b, [one, two]) = (sample::host("a"), sample::host("b"), sample::tasks());
    let wants = [(a, one, 256 << 10), (b, two, 16 << 10)];
    let seconds = 60;
    let time = Duration::from_secs(seconds);
    let sent = send_for(&mut uploads, &wants, time, sample::start());
    let all: u64 = sent.iter().sum();
    let rate = all as f64 / (seconds << 20) as f64;
    assert!((0.95..=1.05).contains(&rate), "{rate}");
    let share = sent[0] as f64 / all as f64;
    assert!((0.45..=0.55).contains(&share), "{sent:?}");
}

#[test]
fn a_host_that_wants_two_tasks_gets_both() {
    let mut uploads = limited(1 << 20, 0);
    let (a, [one, two]) = (sample::host("a"), sample::tasks());
    let wants = [(a.clone(), one, 64 << 10), (a, two, 64 << 10)];
    let time = Duration::from_secs(20);
    let sent = send_for(&mut uploads, &wants, time, sample::start());
    let share = sent[0] as f64 / (sent[0] + sent[1]) as f64;
    assert!((0.45..=0.55).contains(&share), "{sent:?}");
}

#[test]
fn a_task_at_its_limit_holds_up_no_other() {
    let mut uploads = limited(0, 1 << 20);
    let (a, [one, two]) = (sample::host("a"), sample::tasks());
    let wants = [(a.clone(), one, 64 << 10), (a, two, 64 << 10)];
    let seconds = 20;
    let time = Duration::from_secs(seconds);
    let sent = send_for(&mut uploads, &wants, time, sample::start());
    for bytes in sent {
        let rate = bytes as f64 / (seconds << 20) as f64;
        assert!((0.95..=1.05).contains(&rate), "{rate}");
    }
}

#[test]
fn who_would_wait_for_long_is_told_at_once() {
    let mut uploads = limited(1 << 20, 0);
    let (a, b, task) = (sample::host("a"), sample::host("b"), sample::task());
    let now = sample::start();
    let large = |piece| (task, PieceIndex(piece), 4 << 20);
    assert_eq!(uploads.ask(&a, large(0), Progress(0), now), Asked::Queued);
    assert!(begin_next(&mut uploads).is_some());
    uploads.meter.take(&task, 4 << 20, now);
    assert_eq!(uploads.ask(&b, large(1), Progress(0), now), Asked::Refused);
    let later = now + Duration::from_secs(4);
    assert_eq!(uploads.ask(&b, large(1), Progress(0), later), Asked::Queued);
}

#[test]
fn a_piece_that_was_asked_for_and_chosen_as_well_is_sent_once_and_one_of_our_choice_stays_owed() {
    let (a, task, now) = (sample::host("a"), sample::task(), sample::start());
    let mut uploads = uploads(9, 9, 9);
    uploads.ask_any(&a, task, 1);
    assert!(ask(&mut uploads, &a, task, 7));
    uploads.begin(&a, (task, PieceIndex(7), 1), Open::Yes, now);
    assert!(uploads.is_open(&task));
    assert_eq!(
        uploads.next_turn(now),
        Some(Turn::Open(a.clone(), vec![task]))
    );
    uploads.begin(&a, (task, PieceIndex(8), 1), Open::Yes, now);
    assert!(!uploads.is_open(&task));
    assert_eq!(uploads.next_turn(now), None);
}
