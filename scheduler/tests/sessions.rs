//! The scheduler as hosts see it, on real sockets.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::{net::SocketAddr, time::Duration};

use hawker_model::Role;
use hawker_scheduler_api::{Duty, Holding, HostMessage, PeerListener, ReportReason, proto};
use support::{Host, get, hello, host, settings, start, status, task};
use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};
use tonic::Code;

/// A peer port that answers.
async fn peer() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test]
async fn a_lookup_is_answered_with_the_seed_and_the_others() {
    let scheduler = start(settings()).await;
    let (_a, seed_address) = peer().await;
    let (_b, node_address) = peer().await;
    let seed = hello("seed-1", Role::Seed, Some(seed_address));
    let _seed = Host::connect(&scheduler, seed).await.unwrap();
    let one = hello("node-1", Role::Node, Some(node_address));
    let mut one = Host::connect(&scheduler, one).await.unwrap();
    one.lookup().await;
    let parents = one.parents().await;
    assert_eq!(parents.duty, Duty::Wait);
    assert_eq!(parents.fetcher, Some(host("seed-1")));
    assert_eq!(parents.parents[0].addresses, vec![seed_address]);
    let two = hello("node-2", Role::Node, None);
    let mut two = Host::connect(&scheduler, two).await.unwrap();
    two.lookup().await;
    let names: Vec<_> = two.parents().await.parents.into_iter().collect();
    assert!(names.iter().any(|parent| parent.host == host("node-1")));
    scheduler.stop().await;
}

#[tokio::test]
async fn a_lookup_is_answered_anew_when_the_elected_host_goes() {
    let scheduler = start(settings()).await;
    let mut one = Host::connect(&scheduler, hello("node-1", Role::Node, None))
        .await
        .unwrap();
    one.lookup().await;
    assert_eq!(one.parents().await.duty, Duty::Fetch);
    let mut two = Host::connect(&scheduler, hello("node-2", Role::Node, None))
        .await
        .unwrap();
    two.lookup().await;
    assert_eq!(two.parents().await.duty, Duty::Wait);
    drop(one);
    assert_eq!(two.parents().await.duty, Duty::Fetch);
    scheduler.stop().await;
}

#[tokio::test]
async fn bad_messages_end_their_own_session_with_the_reason() {
    use proto::host_message::Message;
    let scheduler = start(settings()).await;
    let mut good = Host::connect(&scheduler, hello("good", Role::Node, None))
        .await
        .unwrap();
    let lookup = |task: Vec<u8>| Message::Lookup(proto::Lookup { task, attempt: 0 });
    let holding = proto::Holding {
        task: task().to_bytes().to_vec(),
        pieces: 3,
        total: 2,
        complete: false,
    };
    let announce = Message::Announce(proto::Announce {
        holdings: vec![holding],
    });
    let cases = [
        (
            Some(lookup(vec![0; 7])),
            "lookup.task: a task id has 33 bytes, not 7",
        ),
        (
            Some(lookup(vec![9; 33])),
            "lookup.task: task id of unknown kind 9",
        ),
        (Some(announce), "3 of 2 pieces"),
        (None, "a message without content"),
        (
            Some(Message::Hello(hello("bad", Role::Node, None).into())),
            "a second hello",
        ),
    ];
    for (message, reason) in cases {
        let mut bad = Host::connect(&scheduler, hello("bad", Role::Node, None))
            .await
            .unwrap();
        bad.say_raw(proto::HostMessage { message }).await;
        let end = bad.end().await;
        assert_eq!(end.code(), Code::InvalidArgument, "{reason}");
        assert!(
            end.message().contains(reason),
            "{reason}: {}",
            end.message()
        );
    }
    good.lookup().await;
    assert_eq!(good.parents().await.duty, Duty::Fetch);
    scheduler.stop().await;
}

#[tokio::test]
async fn bad_hellos_are_refused_with_the_reason() {
    let scheduler = start(settings()).await;
    let lookup = HostMessage::Lookup {
        task: task(),
        attempt: 0,
    };
    let first = Host::open(scheduler.address(), lookup.into())
        .await
        .err()
        .unwrap();
    assert_eq!(first.message(), "the first message is no hello");
    let mut new = hello("new", Role::Node, None);
    new.protocol = 7..=9;
    let new = Host::connect(&scheduler, new).await.err().unwrap();
    assert_eq!(new.code(), Code::FailedPrecondition);
    assert!(
        new.message().contains("versions 7 to 9"),
        "{}",
        new.message()
    );
    let wrong = proto::Hello {
        host: "no/name".into(),
        ..hello("x", Role::Node, None).into()
    };
    let wrong = proto::HostMessage {
        message: Some(proto::host_message::Message::Hello(wrong)),
    };
    let wrong = Host::open(scheduler.address(), wrong).await.err().unwrap();
    assert!(
        wrong.message().contains("hello.host"),
        "{}",
        wrong.message()
    );
    scheduler.stop().await;
}

#[tokio::test]
async fn a_host_that_does_not_read_is_cut_off_with_a_reason() {
    let mut settings = settings();
    settings.queue = 4;
    let scheduler = start(settings).await;
    let mut slow = Host::connect(&scheduler, hello("slow", Role::Node, None))
        .await
        .unwrap();
    // It asks and asks, and never looks at the answers. Those that fit into the windows of HTTP/2
    // count as read: it takes some thousand.
    let flood = async {
        let task = hawker_model::TaskId::Url([1; 32]);
        while slow.try_say(HostMessage::Lookup { task, attempt: 0 }).await {}
    };
    timeout(Duration::from_secs(30), flood).await.unwrap();
    let metrics = get(scheduler.http().unwrap(), "/metrics").await.1;
    assert!(
        metrics.contains("hawker_scheduler_slow_hosts_total 1"),
        "{metrics}"
    );
    let end = slow.end().await;
    assert_eq!(end.message(), "you read too slowly", "{end:?}");
    let mut other = Host::connect(&scheduler, hello("other", Role::Node, None))
        .await
        .unwrap();
    other.lookup().await;
    assert_eq!(other.parents().await.duty, Duty::Fetch);
    scheduler.stop().await;
}

#[tokio::test]
async fn a_wrong_address_is_said_to_the_host_and_in_the_status() {
    let scheduler = start(settings()).await;
    let (closed, wrong) = peer().await;
    drop(closed);
    let mut node = Host::connect(&scheduler, hello("node-1", Role::Node, Some(wrong)))
        .await
        .unwrap();
    let notice = node.notice().await;
    assert!(
        notice.contains(&format!("{wrong} (connection refused)")),
        "{notice}"
    );
    assert!(notice.contains("set node.advertise"), "{notice}");
    let report = status(&scheduler).await;
    assert_eq!(report.hosts[0].reachability, "unreachable");
    assert_eq!(report.hosts[0].warning, Some(notice));
    let metrics = get(scheduler.http().unwrap(), "/metrics").await.1;
    assert!(metrics.contains("hawker_scheduler_unreachable_hosts 1"));
    scheduler.stop().await;
}

#[tokio::test]
async fn without_an_address_the_seen_one_is_used() {
    let scheduler = start(settings()).await;
    let (_open, address) = peer().await;
    let mut silent = hello("node-1", Role::Node, Some(address));
    silent.listener = silent.listener.map(|listener| PeerListener {
        addresses: Vec::new(),
        configured: false,
        ..listener
    });
    let _node = Host::connect(&scheduler, silent).await.unwrap();
    for _ in 0..100 {
        let report = status(&scheduler).await;
        assert_eq!(report.hosts[0].addresses, vec![address]);
        if report.hosts[0].reachability == "reachable" {
            return scheduler.stop().await;
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("never found reachable");
}

#[tokio::test]
async fn a_second_session_of_a_host_replaces_the_first() {
    let scheduler = start(settings()).await;
    let mut first = Host::connect(&scheduler, hello("node-1", Role::Node, None))
        .await
        .unwrap();
    let mut second = Host::connect(&scheduler, hello("node-1", Role::Node, None))
        .await
        .unwrap();
    assert_eq!(first.end().await.code(), Code::Aborted);
    second.lookup().await;
    assert_eq!(second.parents().await.duty, Duty::Fetch);
    scheduler.stop().await;
}

#[tokio::test]
async fn more_tasks_than_reasonable_end_the_session() {
    let mut settings = settings();
    settings.tasks_per_host = 1;
    let scheduler = start(settings).await;
    let mut host = Host::connect(&scheduler, hello("node-1", Role::Node, None))
        .await
        .unwrap();
    let holding = Holding {
        task: task(),
        pieces: 1,
        total: 1,
        complete: true,
    };
    host.say(HostMessage::Announce(vec![holding; 2])).await;
    assert_eq!(host.end().await.code(), Code::ResourceExhausted);
    scheduler.stop().await;
}

#[tokio::test]
async fn a_silent_host_is_dropped() {
    let mut settings = settings();
    settings.tracker.silent_after = Duration::from_millis(500);
    let scheduler = start(settings).await;
    let mut host = Host::connect(&scheduler, hello("node-1", Role::Node, None))
        .await
        .unwrap();
    let end = host.end().await;
    assert!(end.message().contains("nothing was heard"), "{end:?}");
    scheduler.stop().await;
}

#[tokio::test]
async fn a_host_that_hangs_is_noticed_within_seconds() {
    let mut settings = settings();
    settings.tracker.silent_after = Duration::from_secs(60);
    let scheduler = start(settings).await;
    let address = scheduler.address();
    let (up, is_up) = tokio::sync::oneshot::channel();
    let (done, wait) = std::sync::mpsc::channel::<()>();
    // Its socket stays open, but nothing answers a ping any more.
    let hung = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let hello = hello("hung", Role::Node, None);
        let host = runtime.block_on(Host::connect_to(address, hello)).unwrap();
        up.send(()).unwrap();
        let _ = wait.recv();
        drop(host);
    });
    is_up.await.unwrap();
    assert_eq!(status(&scheduler).await.hosts.len(), 1);
    for _ in 0..70 {
        sleep(Duration::from_millis(100)).await;
        if status(&scheduler).await.hosts.is_empty() {
            drop(done);
            hung.join().unwrap();
            return scheduler.stop().await;
        }
    }
    panic!("still thought alive after 7 s");
}

#[tokio::test]
async fn hosts_are_told_of_liars_and_of_their_parole() {
    let mut settings = settings();
    settings.tracker.isolation = Duration::from_secs(2);
    let scheduler = start(settings).await;
    let mut hosts = Vec::new();
    for name in ["a", "b", "bad"] {
        let hello = hello(name, Role::Node, None);
        let host = Host::connect(&scheduler, hello).await.unwrap();
        host.lookup().await;
        hosts.push(host);
    }
    for reporter in &hosts[..2] {
        let report = HostMessage::Report {
            task: task(),
            host: host("bad"),
            reason: ReportReason::FalseList,
            piece: None,
        };
        reporter.say(report).await;
    }
    let late = hello("late", Role::Node, None);
    let mut late = Host::connect(&scheduler, late).await.unwrap();
    assert_eq!(late.liars().await, [host("bad")]);
    assert_eq!(hosts[0].liars().await, [host("bad")]);
    assert_eq!(hosts[2].liars().await, [host("bad")], "it knows as well");
    assert_eq!(late.liars().await, []);
    assert_eq!(hosts[0].liars().await, []);
    scheduler.stop().await;
}

#[tokio::test]
async fn hosts_are_told_when_the_scheduler_stops() {
    let scheduler = start(settings()).await;
    let mut host = Host::connect(&scheduler, hello("node-1", Role::Node, None))
        .await
        .unwrap();
    let (end, ()) = tokio::join!(host.end(), scheduler.stop());
    assert_eq!(end.code(), Code::Unavailable);
    assert_eq!(end.message(), "the scheduler stops");
}

#[tokio::test]
async fn health_and_metrics_are_served() {
    let scheduler = start(settings()).await;
    let _seed = Host::connect(&scheduler, hello("seed-1", Role::Seed, None))
        .await
        .unwrap();
    let http = scheduler.http().unwrap();
    let (line, body) = get(http, "/healthy").await;
    assert_eq!(
        (line.as_str(), body.as_str()),
        ("HTTP/1.1 200 OK", "\"OK\"")
    );
    let (_, metrics) = get(http, "/metrics").await;
    assert!(
        metrics.contains("hawker_scheduler_hosts{role=\"seed\"} 1"),
        "{metrics}"
    );
    assert!(metrics.contains("hawker_scheduler_streams 1"), "{metrics}");
    scheduler.stop().await;
}
