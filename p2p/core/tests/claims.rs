//! Claims and their answers, by inputs and outputs alone.

use std::time::{Duration, Instant};

use hawker_model::{Digest, HostId, Role, TaskId};
use hawker_swarm::{
    Abilities, Admission, ClaimAction, Claims, Docket, Finding, GivenManifest, Lie, ManifestWish,
    NoSeed, Question, Resolution, Secret, Source, Verdict,
};
use proptest::prelude::*;

const GRANTED: Verdict = Verdict::Granted {
    length: Some(7),
    held: true,
};

fn host(name: &str) -> HostId {
    HostId::parse(name).expect("a sound name")
}

fn claim() -> (TaskId, Question) {
    let source = Source {
        url: "https://registry.example/v2/a/blobs/b".to_owned(),
        authorization: Some(Secret::new("Bearer t")),
    };
    (TaskId::Blob(Digest::of(b"layer")), Question::Right(source))
}

/// Claims and their clock.
struct Bench {
    claims: Claims,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        #[allow(clippy::disallowed_methods, reason = "an Instant has no other origin")]
        let now = Instant::now();
        let claims = Claims::default();
        Self { claims, now }
    }

    fn ask(&mut self, number: u64, seeds: &[&str]) {
        let seeds = seeds.iter().map(|seed| host(seed)).collect();
        self.claims.handle_ask(number, claim(), seeds, self.now);
    }

    /// Claim 1 is at the seed "a"; "b" is the next.
    fn asked() -> Self {
        let mut bench = Self::new();
        bench.ask(1, &["a", "b"]);
        bench.connect("a");
        bench.actions();
        bench
    }

    fn heard() -> Self {
        let mut bench = Self::asked();
        bench.claims.handle_heard(&host("a"), 1, bench.now);
        bench
    }

    fn connect(&mut self, name: &str) {
        self.claims
            .handle_connected(&host(name), (Role::Seed, Abilities::OURS), self.now);
    }

    /// A frame comes that is not about a claim.
    fn word(&mut self, name: &str) {
        self.claims.handle_word(&host(name), Role::Seed, self.now);
    }

    /// Lets time pass, waking the claims whenever they want.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.claims.poll_timeout().filter(|due| *due <= end) {
            self.now = due.max(self.now);
            self.claims.handle_timeout(self.now);
        }
        self.now = end;
    }

    /// Lets time pass in which nobody wakes the claims.
    fn oversleep(&mut self, time: Duration) {
        self.now += time;
        self.claims.handle_timeout(self.now);
    }

    fn actions(&mut self) -> Vec<ClaimAction> {
        std::iter::from_fn(|| self.claims.poll_action()).collect()
    }

    fn answer(&mut self) -> Option<Result<Verdict, NoSeed>> {
        let found = self.finding()?;
        Some(found.map(|finding| finding.into_verdict().expect("a verdict")))
    }

    fn finding(&mut self) -> Option<Result<Finding, NoSeed>> {
        let answer = |action| match action {
            ClaimAction::Answer { answer, .. } => Some(answer),
            _ => None,
        };
        self.actions().into_iter().find_map(answer)
    }
}

fn dial(name: &str) -> ClaimAction {
    ClaimAction::Dial { host: host(name) }
}

fn send(name: &str, number: u64) -> ClaimAction {
    let (task, question) = claim();
    ClaimAction::Send {
        host: host(name),
        number,
        task,
        question,
    }
}

#[test]
fn a_claim_is_sent_once_its_seed_is_connected_and_answered_by_its_verdict() {
    let mut bench = Bench::new();
    bench.ask(1, &["a", "b"]);
    assert_eq!(bench.actions(), [dial("a")]);
    bench.connect("b");
    assert_eq!(bench.actions(), []);
    bench.connect("a");
    assert_eq!(bench.actions(), [send("a", 1)]);
    bench.claims.handle_heard(&host("a"), 1, bench.now);
    bench.claims.handle_verdict(&host("a"), 1, Some(GRANTED));
    assert_eq!(bench.answer(), Some(Ok(GRANTED)));
    assert_eq!(bench.claims.poll_timeout(), None);
}

#[test]
fn without_any_seed_the_answer_comes_at_once() {
    let mut bench = Bench::new();
    bench.ask(1, &[]);
    assert_eq!(bench.answer(), Some(Err(NoSeed::Unknown)));
}

#[test]
fn a_silent_seed_is_given_up_after_a_quarter_of_a_second_and_not_asked_for_a_while() {
    let mut bench = Bench::asked();
    bench.pass(Duration::from_millis(249));
    assert_eq!(bench.answer(), None);
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.answer(), Some(Err(NoSeed::Silent(host("a")))));
    bench.ask(2, &["a", "b"]);
    assert_eq!(bench.actions(), [dial("b")]);
    bench.ask(3, &["a"]);
    assert_eq!(bench.answer(), Some(Err(NoSeed::Unreachable(host("a")))));
    bench.pass(Duration::from_secs(5));
    bench.actions();
    bench.ask(4, &["a", "b"]);
    assert_eq!(bench.actions(), [dial("a")]);
}

const MILLI: Duration = Duration::from_millis(1);

#[test]
fn whatever_a_seed_says_gives_it_more_time_but_a_second_in_all() {
    let mut bench = Bench::asked();
    bench.pass(MILLI * 200);
    bench.word("a");
    bench.pass(MILLI * 249);
    assert_eq!(bench.answer(), None);
    bench.pass(MILLI);
    assert_eq!(bench.answer(), Some(Err(NoSeed::Silent(host("a")))));

    let mut bench = Bench::asked();
    for _ in 0..9 {
        bench.pass(MILLI * 100);
        bench.word("a");
    }
    bench.pass(MILLI * 99);
    assert_eq!(bench.answer(), None);
    bench.pass(MILLI);
    assert_eq!(bench.answer(), Some(Err(NoSeed::Silent(host("a")))));

    // What others say is no sign of its life.
    let mut bench = Bench::asked();
    bench.pass(MILLI * 200);
    bench.word("b");
    bench.claims.handle_word(&host("a"), Role::Node, bench.now);
    bench.pass(MILLI * 50);
    assert_eq!(bench.answer(), Some(Err(NoSeed::Silent(host("a")))));
}

#[test]
fn a_seed_that_is_connected_late_has_its_time_from_then_on() {
    let mut bench = Bench::new();
    bench.ask(1, &["a"]);
    bench.pass(MILLI * 240);
    bench.connect("a");
    bench.pass(MILLI * 240);
    assert_eq!(bench.answer(), None);
    bench.claims.handle_heard(&host("a"), 1, bench.now);
    bench.claims.handle_verdict(&host("a"), 1, Some(GRANTED));
    assert_eq!(bench.answer(), Some(Ok(GRANTED)));
}

#[test]
fn any_word_of_a_seed_that_was_silent_makes_it_worth_asking_again() {
    let words: [fn(&mut Bench); 3] = [
        |bench| bench.word("a"),
        |bench| _ = bench.claims.handle_heard(&host("a"), 1, bench.now),
        |bench| _ = bench.claims.handle_verdict(&host("a"), 1, Some(GRANTED)),
    ];
    for word in words {
        let mut bench = Bench::asked();
        bench.pass(MILLI * 250);
        assert_eq!(bench.answer(), Some(Err(NoSeed::Silent(host("a")))));
        bench.ask(2, &["a", "b"]);
        assert_eq!(bench.actions(), [dial("b")]);
        word(&mut bench);
        bench.ask(3, &["a", "b"]);
        assert_eq!(bench.actions(), [dial("a")]);
    }
}

#[test]
fn who_wakes_late_waits_a_little_longer_once() {
    let mut bench = Bench::asked();
    bench.oversleep(MILLI * 301);
    assert_eq!(bench.answer(), None);
    bench.claims.handle_heard(&host("a"), 1, bench.now);
    bench.claims.handle_verdict(&host("a"), 1, Some(GRANTED));
    assert_eq!(bench.answer(), Some(Ok(GRANTED)));

    let mut bench = Bench::asked();
    bench.oversleep(MILLI * 301);
    bench.oversleep(MILLI * 300);
    assert_eq!(bench.answer(), Some(Err(NoSeed::Silent(host("a")))));

    let mut bench = Bench::asked();
    bench.oversleep(MILLI * 300);
    assert_eq!(
        bench.answer(),
        Some(Err(NoSeed::Silent(host("a")))),
        "not late"
    );
}

#[test]
fn a_seed_that_connects_after_all_is_asked_again() {
    let mut bench = Bench::new();
    bench.ask(1, &["a"]);
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.answer(), Some(Err(NoSeed::Silent(host("a")))));
    bench.connect("a");
    bench.ask(2, &["a"]);
    assert_eq!(bench.actions(), [dial("a")]);
}

#[test]
fn a_slow_seed_that_has_heard_is_waited_for() {
    let mut bench = Bench::heard();
    bench.pass(Duration::from_secs(30));
    assert_eq!(bench.answer(), None);
    bench.claims.handle_verdict(&host("a"), 1, Some(GRANTED));
    assert_eq!(bench.answer(), Some(Ok(GRANTED)));
}

#[test]
fn a_seed_that_never_ends_its_judgement_is_given_up_in_the_end() {
    let mut bench = Bench::heard();
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.answer(), Some(Err(NoSeed::Silent(host("a")))));
}

/// Asks of another server than [`claim`].
fn ask_elsewhere(bench: &mut Bench, number: u64, seeds: &[&str]) {
    let (task, mut question) = claim();
    if let Question::Right(source) = &mut question {
        source.url = "https://registry.example:5000/v2/a/blobs/b".to_owned();
    }
    let seeds = seeds.iter().map(|seed| host(seed)).collect();
    let claim = (task, question);
    bench.claims.handle_ask(number, claim, seeds, bench.now);
}

/// The seed "a" hears the claim, and an origin that was asked a second later is quicker.
fn outrun(bench: &mut Bench, number: u64) {
    bench.ask(number, &["a"]);
    bench.connect("a");
    bench.claims.handle_heard(&host("a"), number, bench.now);
    bench.pass(Duration::from_secs(1));
    bench.claims.handle_outrun(number, bench.now);
    bench.actions();
}

#[test]
fn a_seed_that_hears_and_hangs_is_not_asked_of_that_origin_for_a_while() {
    let mut bench = Bench::new();
    outrun(&mut bench, 1);
    // Whatever else it says.
    bench.connect("a");
    bench.word("a");
    bench.ask(2, &["a", "b"]);
    assert_eq!(bench.actions(), [dial("b")]);
    bench.ask(3, &["a"]);
    assert_eq!(bench.answer(), Some(Err(NoSeed::Slow(host("a")))));
    ask_elsewhere(&mut bench, 4, &["a", "b"]);
    assert_eq!(bench.actions(), [dial("a")]);
    bench.pass(Duration::from_secs(15));
    bench.actions();
    bench.ask(5, &["a", "b"]);
    assert_eq!(bench.actions(), [dial("a")]);
}

#[test]
fn a_late_answer_is_forgiven_once_and_what_it_held_up_with_it() {
    let mut bench = Bench::new();
    for number in [1, 2] {
        bench.ask(number, &["a"]);
        bench.connect("a");
        bench.claims.handle_heard(&host("a"), number, bench.now);
    }
    bench.pass(Duration::from_secs(1));
    bench.claims.handle_outrun(1, bench.now);
    assert!(bench.claims.handle_verdict(&host("a"), 1, Some(GRANTED)));
    bench.pass(Duration::from_millis(100));
    bench.claims.handle_outrun(2, bench.now);
    bench.actions();
    bench.ask(3, &["a"]);
    assert_eq!(bench.actions(), [dial("a")]);
    bench.claims.handle_drop(3, bench.now);
    outrun(&mut bench, 4);
    assert!(bench.claims.handle_verdict(&host("a"), 4, Some(GRANTED)));
    bench.ask(5, &["a"]);
    assert_eq!(bench.answer(), Some(Err(NoSeed::Slow(host("a")))));
}

#[test]
fn a_seed_that_had_no_time_or_has_not_heard_or_whose_asker_left_is_no_laggard() {
    let fair = Duration::from_secs(1);
    let cases: [fn(&mut Bench, Duration); 3] = [
        // It took the place of one that was lost.
        |bench, fair| {
            bench.pass(fair);
            bench.claims.handle_unreachable(&host("a"), bench.now);
            bench.connect("b");
            bench.claims.handle_heard(&host("b"), 1, bench.now);
            bench.claims.handle_outrun(1, bench.now);
        },
        |bench, fair| {
            bench.claims.handle_lost_words(&host("a"), bench.now);
            bench.pass(fair / 5);
            bench.claims.handle_outrun(1, bench.now);
        },
        |bench, fair| {
            bench.pass(fair);
            bench.claims.handle_drop(1, bench.now);
        },
    ];
    for case in cases {
        let mut bench = Bench::heard();
        case(&mut bench, fair);
        bench.pass(Duration::from_secs(5));
        bench.actions();
        bench.ask(2, &["a", "b"]);
        assert_eq!(bench.actions(), [dial("a")]);
        bench.ask(3, &["b"]);
        assert_eq!(bench.actions(), [dial("b")]);
    }
}

#[test]
fn a_seed_that_talks_and_never_hears_is_not_asked_of_that_origin_for_a_while() {
    let mut bench = Bench::asked();
    for _ in 0..10 {
        bench.pass(MILLI * 100);
        bench.word("a");
    }
    assert_eq!(bench.answer(), Some(Err(NoSeed::Silent(host("a")))));
    bench.word("a");
    bench.ask(2, &["a", "b"]);
    assert_eq!(bench.actions(), [dial("b")]);
    // That its word was late is forgiven once.
    assert!(bench.claims.handle_heard(&host("a"), 1, bench.now));
    bench.ask(3, &["a", "b"]);
    assert_eq!(bench.actions(), [dial("a")]);
}

#[test]
fn when_a_seed_dies_while_it_judges_the_next_one_is_asked_and_has_its_own_time() {
    let mut bench = Bench::heard();
    bench.pass(Duration::from_secs(10));
    bench.claims.handle_unreachable(&host("a"), bench.now);
    assert_eq!(bench.actions(), [dial("b")]);
    bench.connect("b");
    assert_eq!(bench.actions(), [send("b", 1)]);
    // The dead one's word counts no more.
    bench.claims.handle_verdict(&host("a"), 1, Some(GRANTED));
    assert_eq!(bench.answer(), None);
    bench.pass(Duration::from_millis(250));
    assert_eq!(bench.answer(), Some(Err(NoSeed::Silent(host("b")))));
}

#[test]
fn a_claim_is_asked_again_when_one_of_two_connections_is_lost() {
    let mut bench = Bench::heard();
    bench.pass(Duration::from_secs(10));
    bench.claims.handle_lost_words(&host("a"), bench.now);
    assert_eq!(bench.actions(), [dial("a")]);
    bench.connect("a");
    assert_eq!(bench.actions(), [send("a", 1)]);
    bench.pass(Duration::from_millis(250));
    assert_eq!(bench.answer(), Some(Err(NoSeed::Silent(host("a")))));
}

#[test]
fn when_all_seeds_are_out_of_reach_the_answer_comes_within_the_first_ones_time() {
    let mut bench = Bench::new();
    bench.ask(1, &["a", "b"]);
    bench.claims.handle_unreachable(&host("a"), bench.now);
    bench.claims.handle_unreachable(&host("b"), bench.now);
    assert_eq!(bench.answer(), Some(Err(NoSeed::Unreachable(host("b")))));
}

#[test]
fn a_node_where_a_seed_is_expected_gets_no_credential() {
    let mut bench = Bench::new();
    bench.ask(1, &["a"]);
    bench.actions();
    bench
        .claims
        .handle_connected(&host("a"), (Role::Node, Abilities::OURS), bench.now);
    assert_eq!(
        bench.actions(),
        [ClaimAction::Answer {
            number: 1,
            answer: Err(NoSeed::Unreachable(host("a")))
        }]
    );
}

#[test]
fn a_verdict_of_another_host_is_ignored() {
    let mut bench = Bench::asked();
    bench.claims.handle_verdict(&host("b"), 1, Some(GRANTED));
    bench.claims.handle_verdict(&host("a"), 2, Some(GRANTED));
    assert_eq!(bench.answer(), None);
}

#[test]
fn a_busy_seed_says_so_and_too_many_claims_are_not_even_sent() {
    let mut bench = Bench::asked();
    bench.claims.handle_verdict(&host("a"), 1, None);
    let busy = Some(Err(NoSeed::Busy(host("a"))));
    assert_eq!(bench.answer(), busy);
    for number in 2..34 {
        bench.ask(number, &["a"]);
    }
    assert_eq!(bench.answer(), None);
    bench.ask(300, &["a"]);
    assert_eq!(bench.answer(), busy);
}

#[test]
fn a_claim_that_nobody_waits_for_is_forgotten() {
    let mut bench = Bench::heard();
    bench.claims.handle_drop(1, bench.now);
    assert_eq!(bench.claims.poll_timeout(), None);
    bench.claims.handle_verdict(&host("a"), 1, Some(GRANTED));
    assert_eq!(bench.actions(), []);
}

fn wish(target: &str) -> ManifestWish {
    ManifestWish {
        source: Source {
            url: format!("https://registry.example/v2/a/manifests/{target}"),
            authorization: None,
        },
        accept: "a/b".to_owned(),
        whole: true,
    }
}

fn given(bytes: &'static [u8]) -> Resolution {
    Resolution::Given(GivenManifest {
        digest: Digest::of(bytes),
        media_type: "a/b".to_owned(),
        length: bytes.len() as u64,
        bytes: Some(bytes.into()),
    })
}

impl Bench {
    /// Question 1, for this manifest, is at the seed "a"; "b" is the next.
    fn asked_for(target: &str) -> Self {
        let mut bench = Self::new();
        let wish = wish(target);
        let question = (wish.place(), Question::Manifest(wish));
        let seeds = vec![host("a"), host("b")];
        bench.claims.handle_ask(1, question, seeds, bench.now);
        bench.connect("a");
        bench.actions();
        bench
    }
}

#[test]
fn a_manifest_is_asked_for_and_given_as_a_claim_is_judged() {
    let mut bench = Bench::asked_for("v1");
    bench.claims.handle_heard(&host("a"), 1, bench.now);
    // No answer to what was asked.
    bench.claims.handle_verdict(&host("a"), 1, Some(GRANTED));
    assert_eq!(bench.finding(), None);
    let told = bench
        .claims
        .handle_resolved(&host("a"), 1, Some(given(b"m")));
    assert_eq!(told, Ok(true));
    let found = Finding::Manifest(given(b"m"));
    assert_eq!(bench.finding(), Some(Ok(found)));
    let mut bench = Bench::asked();
    let told = bench
        .claims
        .handle_resolved(&host("a"), 1, Some(given(b"m")));
    assert_eq!((told, bench.finding()), (Ok(false), None));
}

#[test]
fn a_silent_seed_costs_a_manifest_no_more_than_a_claim() {
    let mut bench = Bench::asked_for("v1");
    bench.pass(MILLI * 250);
    assert_eq!(bench.finding(), Some(Err(NoSeed::Silent(host("a")))));
    // Nor is it asked for claims meanwhile.
    bench.ask(2, &["a"]);
    assert_eq!(bench.answer(), Some(Err(NoSeed::Unreachable(host("a")))));
}

#[test]
fn a_seed_of_an_older_version_is_asked_for_no_manifest_but_for_claims() {
    let mut bench = Bench::new();
    let wish = wish("v1");
    let question = (wish.place(), Question::Manifest(wish));
    let seeds = vec![host("a"), host("b")];
    bench.claims.handle_ask(1, question, seeds, bench.now);
    bench.ask(2, &["a"]);
    bench.actions();
    let old = (Role::Seed, Abilities::default());
    bench.claims.handle_connected(&host("a"), old, bench.now);
    assert_eq!(bench.actions(), [dial("b"), send("a", 2)]);
    bench.claims.handle_connected(&host("b"), old, bench.now);
    assert_eq!(bench.finding(), Some(Err(NoSeed::Unable(host("b")))));
}

#[test]
fn a_seed_that_gives_another_manifest_is_a_liar_and_the_next_one_is_asked() {
    let wanted = Digest::of(b"m").to_string();
    let mut bench = Bench::asked_for(&wanted);
    let mut bare = given(b"m");
    if let Resolution::Given(manifest) = &mut bare {
        manifest.bytes = None;
    }
    for lie in [given(b"other"), bare] {
        let told = bench.claims.handle_resolved(&host("a"), 1, Some(lie));
        assert_eq!((told, bench.finding()), (Err(Lie), None));
    }
    bench.claims.handle_unreachable(&host("a"), bench.now);
    assert_eq!(bench.actions(), [dial("b")]);
    bench.connect("b");
    let told = bench
        .claims
        .handle_resolved(&host("b"), 1, Some(given(b"m")));
    assert_eq!(told, Ok(true));
    assert!(matches!(bench.finding(), Some(Ok(Finding::Manifest(_)))));
}

#[test]
fn what_a_seed_still_judges_is_our_share_there_whoever_waits_for_it() {
    let mut bench = Bench::heard();
    bench.claims.handle_drop(1, bench.now);
    for number in 2..33 {
        bench.ask(number, &["a"]);
    }
    assert_eq!(bench.answer(), None);
    bench.ask(33, &["a"]);
    assert_eq!(bench.answer(), Some(Err(NoSeed::Busy(host("a")))));
    // Its verdict was asked for, once.
    let judged = |bench: &mut Bench| bench.claims.handle_verdict(&host("a"), 1, Some(GRANTED));
    assert!(judged(&mut bench) && !judged(&mut bench));
    bench.ask(34, &["a"]);
    assert_eq!(bench.answer(), None);
}

#[test]
fn what_is_dropped_while_it_is_asked_again_counts_too() {
    let mut bench = Bench::new();
    for number in 0..32 {
        bench.ask(number, &["a"]);
    }
    bench.connect("a");
    // One of two connections is lost: the seed has them all, and may not be told again.
    bench.claims.handle_lost_words(&host("a"), bench.now);
    bench.claims.handle_drop(1, bench.now);
    bench.actions();
    bench.ask(32, &["a"]);
    assert_eq!(bench.answer(), Some(Err(NoSeed::Busy(host("a")))));
    assert!(bench.claims.handle_verdict(&host("a"), 1, None));
    // What was never sent is nobody's share.
    bench.ask(33, &["a"]);
    bench.claims.handle_drop(33, bench.now);
    bench.ask(34, &["a"]);
    assert_eq!(bench.answer(), None);
}

#[test]
fn what_no_seed_was_asked_is_told_from_what_it_was() {
    let mut bench = Bench::asked();
    assert!(!bench.claims.handle_heard(&host("b"), 1, bench.now));
    assert!(!bench.claims.handle_heard(&host("a"), 2, bench.now));
    assert!(bench.claims.handle_heard(&host("a"), 1, bench.now));
    assert!(!bench.claims.handle_heard(&host("a"), 1, bench.now));
    assert!(!bench.claims.handle_verdict(&host("b"), 1, None));
    assert!(bench.claims.handle_verdict(&host("a"), 1, None));
    assert!(!bench.claims.handle_verdict(&host("a"), 1, None));
    // Manifests are no other.
    let mut bench = Bench::asked_for("v1");
    let told = |bench: &mut Bench, by: &str| bench.claims.handle_resolved(&host(by), 1, None);
    assert!(!bench.claims.handle_verdict(&host("a"), 1, None));
    assert_eq!(told(&mut bench, "b"), Ok(false));
    bench.claims.handle_drop(1, bench.now);
    assert_eq!(told(&mut bench, "b"), Ok(false));
    assert_eq!(told(&mut bench, "a"), Ok(true));
    assert_eq!(told(&mut bench, "a"), Ok(false));
}

#[test]
fn clients_that_come_and_go_never_make_their_host_ask_for_more_than_its_share() {
    let mut state = 1_u64;
    let mut random = move |most: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005);
        state = state.wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % most
    };
    let (mut bench, mut docket) = (Bench::new(), Docket::new(Role::Seed));
    let (us, seed) = (host("us"), host("a"));
    // What the seed will say: when it has judged a claim.
    let mut due = std::collections::BTreeMap::new();
    let (mut open, mut busy, mut silent, mut next) = (Vec::new(), 0, 0, 0);
    for step in 0..60_000 {
        for _ in 0..random(3) {
            next += 1;
            bench.ask(next, &["a"]);
            open.push(next);
        }
        if !open.is_empty() && random(3) == 0 {
            let number = open.swap_remove(random(open.len() as u64) as usize);
            bench.claims.handle_drop(number, bench.now);
        }
        for action in bench.actions() {
            match action {
                ClaimAction::Dial { host } => {
                    let seed = (Role::Seed, Abilities::OURS);
                    bench.claims.handle_connected(&host, seed, bench.now);
                }
                ClaimAction::Send { number, .. } => {
                    assert_eq!(docket.admit(&us, number), Admission::Judge, "step {step}");
                    // Now and then it is too slow to say that it has heard.
                    if random(40) > 0 {
                        bench.claims.handle_heard(&seed, number, bench.now);
                    }
                    due.insert((step + random(5_000), number), ());
                }
                ClaimAction::Answer { number, answer } => {
                    open.retain(|one| *one != number);
                    busy += u32::from(matches!(answer, Err(NoSeed::Busy(_))));
                    silent += u32::from(matches!(answer, Err(NoSeed::Silent(_))));
                }
            }
        }
        while let Some(entry) = due.first_entry().filter(|entry| entry.key().0 <= step) {
            let (_, number) = *entry.key();
            entry.remove();
            assert!(docket.settle(&us, number));
            assert!(bench.claims.handle_verdict(&seed, number, Some(GRANTED)));
        }
        bench.pass(Duration::from_millis(10));
    }
    assert!(busy > 1000 && silent > 0, "{busy} busy, {silent} silent");
}

#[derive(Clone, Debug)]
enum Input {
    Ask(u64),
    Connected(usize, bool),
    Drop(u64),
    Heard(usize, u64),
    Outrun(u64),
    Pass(u64),
    Oversleep(u64),
    Unreachable(usize),
    Verdict(usize, u64),
    Word(usize),
}

fn input() -> impl Strategy<Value = Input> {
    let (seed, number) = (0usize..3, 0u64..8);
    prop_oneof![
        3 => number.clone().prop_map(Input::Ask),
        3 => (seed.clone(), any::<bool>()).prop_map(|(s, role)| Input::Connected(s, role)),
        1 => number.clone().prop_map(Input::Drop),
        2 => (seed.clone(), number.clone()).prop_map(|(s, n)| Input::Heard(s, n)),
        1 => number.clone().prop_map(Input::Outrun),
        2 => (0u64..70_000).prop_map(Input::Pass),
        2 => (0u64..2_000).prop_map(Input::Oversleep),
        1 => seed.clone().prop_map(Input::Unreachable),
        2 => seed.clone().prop_map(Input::Word),
        2 => (seed, number).prop_map(|(s, n)| Input::Verdict(s, n)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_claim_is_answered_once_unless_it_is_dropped(
        inputs in prop::collection::vec(input(), 0..80),
    ) {
        let names = ["a", "b", "c"];
        let mut bench = Bench::new();
        let (mut asked, mut answered) = (std::collections::BTreeSet::new(), Vec::new());
        for (step, input) in inputs.into_iter().enumerate() {
            match input {
                Input::Ask(number) => {
                    // A number is used once.
                    let number = number + 8 * (step as u64 + 1);
                    bench.ask(number, &names);
                    asked.insert(number);
                }
                Input::Connected(seed, node) => {
                    let role = if node { Role::Node } else { Role::Seed };
                    let peer = (role, Abilities::OURS);
                    bench.claims.handle_connected(&host(names[seed]), peer, bench.now);
                }
                Input::Drop(number) => {
                    let number = asked.iter().copied().nth(number as usize);
                    if let Some(number) = number.filter(|number| !answered.contains(number)) {
                        bench.claims.handle_drop(number, bench.now);
                        asked.remove(&number);
                    }
                }
                Input::Outrun(number) => {
                    let number = asked.iter().copied().nth(number as usize);
                    if let Some(number) = number.filter(|number| !answered.contains(number)) {
                        bench.claims.handle_outrun(number, bench.now);
                        asked.remove(&number);
                    }
                }
                Input::Heard(seed, number) => {
                    let number = asked.iter().copied().nth(number as usize).unwrap_or(number);
                    bench.claims.handle_heard(&host(names[seed]), number, bench.now);
                }
                Input::Pass(millis) => bench.pass(Duration::from_millis(millis)),
                Input::Oversleep(millis) => bench.oversleep(Duration::from_millis(millis)),
                Input::Word(seed) => bench.word(names[seed]),
                Input::Unreachable(seed) => {
                    bench.claims.handle_unreachable(&host(names[seed]), bench.now);
                }
                Input::Verdict(seed, number) => {
                    let number = asked.iter().copied().nth(number as usize).unwrap_or(number);
                    bench.claims.handle_verdict(&host(names[seed]), number, Some(GRANTED));
                }
            }
            answered.extend(bench.actions().iter().filter_map(|action| match action {
                ClaimAction::Answer { number, .. } => Some(*number),
                _ => None,
            }));
        }
        for _ in 0..4 {
            bench.pass(Duration::from_secs(61));
        }
        answered.extend(bench.actions().iter().filter_map(|action| match action {
            ClaimAction::Answer { number, .. } => Some(*number),
            _ => None,
        }));
        answered.sort_unstable();
        prop_assert_eq!(answered, asked.into_iter().collect::<Vec<_>>());
        prop_assert_eq!(bench.claims.poll_timeout(), None);
    }
}
