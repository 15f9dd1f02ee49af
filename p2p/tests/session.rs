//! Sessions against real schedulers, plain and over TLS.

#![allow(clippy::unwrap_used)]

mod cluster;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use cluster::Cluster;
use hawker_identity::Identity;
use hawker_model::{Digest, HostId, Role, TaskId};
use hawker_p2p::{
    Holding, Level, PeerAddress, Security, Session, SessionConfig, SessionEvent, SessionHandle,
};
use hawker_scheduler::{Scheduler, Security as SchedulerSecurity, Settings};
use hawker_swarm::{Duty, Misbehaviour};
use tokio::{net::TcpListener, sync::mpsc, time::timeout};

fn host(name: &str) -> HostId {
    HostId::parse(name).unwrap()
}

fn task(number: u32) -> TaskId {
    TaskId::Blob(Digest::of(&number.to_le_bytes()))
}

fn complete(task: TaskId) -> Holding {
    Holding {
        task,
        pieces: 4,
        total: 4,
        complete: true,
    }
}

async fn scheduler_at(address: SocketAddr, security: SchedulerSecurity) -> Scheduler {
    let mut settings = Settings::new(host("scheduler"), address, security);
    settings.tracker.settle_time = Duration::ZERO;
    Scheduler::start(settings).await.unwrap()
}

async fn plain_scheduler() -> Scheduler {
    scheduler_at(([127, 0, 0, 1], 0).into(), SchedulerSecurity::Plain).await
}

/// A host with its session.
struct Host {
    session: SessionHandle,
    events: mpsc::Receiver<SessionEvent>,
    /// Its peer port, which answers.
    _listener: TcpListener,
    address: SocketAddr,
}

impl Host {
    async fn spawn(name: &str, role: Role, schedulers: &[SocketAddr]) -> Self {
        let security = Security::Plain {
            host: host(name),
            role,
        };
        Self::spawn_with(name, role, security, schedulers).await
    }

    async fn spawn_with(
        name: &str,
        role: Role,
        security: Security,
        schedulers: &[SocketAddr],
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (session, events) = Session::spawn(SessionConfig {
            schedulers: schedulers.iter().map(ToString::to_string).collect(),
            security,
            host: host(name),
            role,
            advertise: Vec::new(),
            peer_port: Some(address.port()),
            zone: String::new(),
        });
        Self {
            session,
            events,
            _listener: listener,
            address,
        }
    }

    async fn next(&mut self) -> SessionEvent {
        let event = timeout(Duration::from_secs(10), self.events.recv()).await;
        event.expect("an event in time").unwrap()
    }

    async fn up(&mut self) -> Vec<SocketAddr> {
        loop {
            if let SessionEvent::Up { advertised, .. } = self.next().await {
                return advertised;
            }
        }
    }

    async fn down(&mut self) -> String {
        loop {
            if let SessionEvent::Down { reason, .. } = self.next().await {
                return reason;
            }
        }
    }

    async fn seeds(&mut self) -> Vec<PeerAddress> {
        loop {
            if let SessionEvent::Seeds { seeds, .. } = self.next().await {
                return seeds;
            }
        }
    }

    async fn parents(&mut self) -> (Vec<HostId>, Duty) {
        loop {
            if let SessionEvent::Parents { parents, duty, .. } = self.next().await {
                return (
                    parents.into_iter().map(|parent| parent.host).collect(),
                    duty,
                );
            }
        }
    }
}

#[tokio::test]
async fn a_lookup_is_answered_when_another_announces() {
    let scheduler = plain_scheduler().await;
    let at = [scheduler.address()];
    let mut holder = Host::spawn("holder", Role::Node, &at).await;
    assert_eq!(holder.up().await, vec![holder.address], "found by itself");
    let mut seeker = Host::spawn("seeker", Role::Node, &at).await;
    seeker.up().await;
    seeker.session.lookup(task(1));
    assert_eq!(
        seeker.parents().await,
        (vec![], Duty::Fetch),
        "there is nobody else"
    );
    holder.session.lookup(task(1));
    let (parents, duty) = holder.parents().await;
    assert_eq!((parents, duty), (vec![host("seeker")], Duty::Wait));
    scheduler.stop().await;
}

#[tokio::test]
async fn tls_sessions_name_addresses_that_are_found_by_themselves() {
    let cluster = Cluster::new("test");
    let identity = cluster.identity("scheduler", Role::Scheduler);
    let any = ([127, 0, 0, 1], 0).into();
    let scheduler = scheduler_at(any, SchedulerSecurity::Tls(identity)).await;
    let at = [scheduler.address()];
    let mut hosts = Vec::new();
    for (name, role) in [("seed-1", Role::Seed), ("node-1", Role::Node)] {
        let security = Security::Tls(cluster.identity(name, role));
        let mut host = Host::spawn_with(name, role, security, &at).await;
        host.up().await;
        hosts.push(host);
    }
    let [seed, node] = &mut hosts[..] else {
        unreachable!()
    };
    let begun = Instant::now();
    node.session.lookup(task(1));
    loop {
        if let SessionEvent::Parents {
            parents, fetcher, ..
        } = node.next().await
        {
            assert_eq!(fetcher, Some(host("seed-1")));
            assert_eq!(parents[0].addresses, vec![seed.address]);
            break;
        }
    }
    assert!(
        begun.elapsed() < Duration::from_millis(400),
        "{:?}",
        begun.elapsed()
    );
    scheduler.stop().await;
}

#[tokio::test]
async fn everything_is_announced_again_after_the_scheduler_restarts() {
    let scheduler = plain_scheduler().await;
    let address = scheduler.address();
    let mut holder = Host::spawn("holder", Role::Node, &[address]).await;
    holder.up().await;
    holder.session.announce(complete(task(1)));
    assert!(holder.session.is_up());
    scheduler.stop().await;
    assert!(holder.down().await.contains("the scheduler stops"));
    assert!(!holder.session.is_up());
    let scheduler = scheduler_at(address, SchedulerSecurity::Plain).await;
    holder.up().await;
    holder
        .session
        .announce_all((0..5000).map(|n| complete(task(n))).collect());
    // A lookup on the same stream comes after the announcements.
    holder.session.lookup(task(9999));
    holder.parents().await;
    let mut seeker = Host::spawn("seeker", Role::Node, &[address]).await;
    seeker.up().await;
    seeker.session.lookup(task(4999));
    assert_eq!(seeker.parents().await, (vec![host("holder")], Duty::Wait));
    scheduler.stop().await;
}

#[tokio::test]
async fn a_scheduler_that_is_absent_is_found_when_it_comes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut node = Host::spawn("node", Role::Node, &[address]).await;
    assert!(node.down().await.contains("cannot connect"));
    let status = node.session.status();
    assert!(!status[0].connected && status[0].error.is_some());
    let scheduler = scheduler_at(address, SchedulerSecurity::Plain).await;
    node.up().await;
    assert_eq!(node.session.status()[0].error, None);
    scheduler.stop().await;
}

#[tokio::test]
async fn a_certificate_for_another_name_or_role_is_refused_with_the_reason() {
    let cluster = Cluster::new("test");
    let identity = cluster.identity("scheduler", Role::Scheduler);
    let any = ([127, 0, 0, 1], 0).into();
    let scheduler = scheduler_at(any, SchedulerSecurity::Tls(identity)).await;
    let at = [scheduler.address()];
    let node = Security::Tls(cluster.identity("node-1", Role::Node));
    let mut wrong_role = Host::spawn_with("node-1", Role::Seed, node.clone(), &at).await;
    let reason = wrong_role.down().await;
    assert!(
        reason.contains("you say that you are seed node-1"),
        "{reason}"
    );
    assert!(
        reason.contains("your certificate says node node-1"),
        "{reason}"
    );
    let mut wrong_name = Host::spawn_with("node-2", Role::Node, node, &at).await;
    assert!(wrong_name.down().await.contains("node-2"));
    let stranger = Cluster::new("other").identity("node-1", Role::Node);
    let stranger = Security::Tls(stranger);
    let mut stranger = Host::spawn_with("node-1", Role::Node, stranger, &at).await;
    let reason = stranger.down().await;
    assert!(reason.contains("TLS"), "{reason}");
    scheduler.stop().await;
}

#[tokio::test]
async fn what_a_scheduler_says_is_revoked_is_believed_also_of_itself() {
    let cluster = Cluster::new("test");
    let identity = cluster.identity("scheduler", Role::Scheduler);
    let any = ([127, 0, 0, 1], 0).into();
    let scheduler = scheduler_at(any, SchedulerSecurity::Tls(identity.clone())).await;
    let own = cluster.identity("node-1", Role::Node);
    let at = [scheduler.address()];
    let mut node = Host::spawn_with("node-1", Role::Node, Security::Tls(own.clone()), &at).await;
    node.up().await;
    let revoke = |bad: &Identity, before: Option<&str>| {
        let before = before.map(str::as_bytes);
        let list = cluster.authority.revoke(&[bad.serial()], before).unwrap();
        let mut read = cluster.authority.own_lists(list.as_bytes()).unwrap();
        (list, read.remove(0))
    };
    let (first, list) = revoke(&cluster.identity("node-2", Role::Node), None);
    let mut changes = own.changes();
    identity.learn(list.der()).unwrap();
    timeout(Duration::from_secs(10), changes.changed())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(own.revoked_count(), 1);
    let (_, list) = revoke(&identity, Some(&first));
    identity.learn(list.der()).unwrap();
    let reason = node.down().await;
    assert!(reason.contains("revoked"), "{reason}");
    assert_eq!(own.revoked_count(), 2);
    scheduler.stop().await;
}

#[tokio::test]
async fn a_scheduler_without_a_schedulers_certificate_is_refused() {
    let cluster = Cluster::new("test");
    let impostor = cluster.identity("node-9", Role::Node);
    let refused = Settings::new(
        host("node-9"),
        ([127, 0, 0, 1], 0).into(),
        SchedulerSecurity::Tls(impostor.clone()),
    );
    let error = Scheduler::start(refused).await.unwrap_err().to_string();
    assert!(
        error.contains("the certificate is for node node-9"),
        "{error}"
    );
    // One that does not look at its own certificate.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(impostor.server_config(&[b"h2"]));
    let impostor = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let _held = acceptor.accept(stream).await;
        std::future::pending::<()>().await;
    });
    let security = Security::Tls(cluster.identity("node-1", Role::Node));
    let mut node = Host::spawn_with("node-1", Role::Node, security, &[address]).await;
    let reason = node.down().await;
    assert!(reason.contains("it is no scheduler"), "{reason}");
    assert!(reason.contains("role node, host node-9"), "{reason}");
    impostor.abort();
}

#[tokio::test]
async fn tls_against_plain_fails_with_a_reason_on_both_ways() {
    let cluster = Cluster::new("test");
    let scheduler = plain_scheduler().await;
    let security = Security::Tls(cluster.identity("node-1", Role::Node));
    let at = [scheduler.address()];
    let mut node = Host::spawn_with("node-1", Role::Node, security, &at).await;
    let reason = node.down().await;
    assert!(reason.contains("TLS"), "{reason}");
    scheduler.stop().await;
    let identity = cluster.identity("scheduler", Role::Scheduler);
    let any = ([127, 0, 0, 1], 0).into();
    let scheduler = scheduler_at(any, SchedulerSecurity::Tls(identity)).await;
    let mut node = Host::spawn("node-1", Role::Node, &[scheduler.address()]).await;
    assert!(!node.down().await.is_empty());
    scheduler.stop().await;
}

#[tokio::test]
async fn a_wrong_advertised_address_is_said() {
    let scheduler = plain_scheduler().await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let wrong = closed.local_addr().unwrap();
    drop(closed);
    let (_session, mut events) = Session::spawn(SessionConfig {
        schedulers: vec![scheduler.address().to_string()],
        security: Security::Plain {
            host: host("node"),
            role: Role::Node,
        },
        host: host("node"),
        role: Role::Node,
        advertise: vec![wrong],
        peer_port: Some(wrong.port()),
        zone: String::new(),
    });
    loop {
        let event = timeout(Duration::from_secs(10), events.recv()).await;
        if let SessionEvent::Notice { level, text, .. } = event.unwrap().unwrap() {
            assert_eq!(level, Level::Warning);
            assert!(text.contains(&wrong.to_string()), "{text}");
            break;
        }
    }
    scheduler.stop().await;
}

#[tokio::test]
async fn tasks_are_placed_the_same_way_by_all_and_move_when_a_scheduler_goes() {
    let schedulers = [plain_scheduler().await, plain_scheduler().await];
    let at: Vec<SocketAddr> = schedulers.iter().map(Scheduler::address).collect();
    let mut holder = Host::spawn("holder", Role::Node, &at).await;
    let mut seeker = Host::spawn("seeker", Role::Node, &at).await;
    for host in [&mut holder, &mut seeker] {
        host.up().await;
        host.up().await;
    }
    holder
        .session
        .announce_all((0..20).map(|n| complete(task(n))).collect());
    // Enough for the announcements to be there: they came first on each stream.
    for number in 100..120 {
        holder.session.lookup(task(number));
        holder.parents().await;
    }
    for number in 0..20 {
        seeker.session.lookup(task(number));
        let (parents, _) = seeker.parents().await;
        assert_eq!(parents, vec![host("holder")], "task {number}");
    }
    let [one, two] = schedulers;
    one.stop().await;
    holder.down().await;
    holder.up().await;
    holder
        .session
        .announce_all((20..40).map(|n| complete(task(n))).collect());
    holder.session.lookup(task(200));
    holder.parents().await;
    seeker.down().await;
    seeker.up().await;
    for number in 20..40 {
        seeker.session.lookup(task(number));
        let (parents, _) = seeker.parents().await;
        assert_eq!(parents, vec![host("holder")], "task {number}");
    }
    two.stop().await;
}

#[tokio::test]
async fn dropping_the_handle_ends_the_session() {
    let scheduler = plain_scheduler().await;
    let mut node = Host::spawn("node", Role::Node, &[scheduler.address()]).await;
    node.up().await;
    drop(node.session);
    let end = async { while node.events.recv().await.is_some() {} };
    timeout(Duration::from_secs(2), end).await.unwrap();
    scheduler.stop().await;
}

#[tokio::test]
async fn quiet_hosts_stay_alive() {
    let mut settings = Settings::new(
        host("scheduler"),
        ([127, 0, 0, 1], 0).into(),
        SchedulerSecurity::Plain,
    );
    settings.tracker.silent_after = Duration::from_millis(1500);
    settings.tracker.settle_time = Duration::ZERO;
    settings.progress_interval = Duration::from_millis(200);
    let scheduler = Scheduler::start(settings).await.unwrap();
    let mut node = Host::spawn("node", Role::Node, &[scheduler.address()]).await;
    node.up().await;
    assert!(matches!(node.next().await, SessionEvent::Seeds { .. }));
    let event = timeout(Duration::from_millis(3500), node.events.recv()).await;
    assert!(event.is_err(), "{event:?}");
    scheduler.stop().await;
}

#[tokio::test]
async fn a_host_is_told_whom_others_have_caught_lying() {
    let scheduler = plain_scheduler().await;
    let at = [scheduler.address()];
    let mut hosts = Vec::new();
    for name in ["a", "b", "liar"] {
        let mut host = Host::spawn(name, Role::Node, &at).await;
        host.up().await;
        host.session.lookup(task(1));
        host.parents().await;
        hosts.push(host);
    }
    for host in &hosts[..2] {
        let liar = self::host("liar");
        let reason = Misbehaviour::FalseList;
        host.session.report(task(1), liar, reason, None);
    }
    for host in &mut hosts {
        let told = loop {
            if let SessionEvent::Liars { hosts, .. } = host.next().await {
                break hosts;
            }
        };
        assert_eq!(told, [self::host("liar")]);
    }
    scheduler.stop().await;
}

#[tokio::test]
async fn a_host_is_told_which_seeds_live() {
    let scheduler = plain_scheduler().await;
    let at = [scheduler.address()];
    let mut node = Host::spawn("node", Role::Node, &at).await;
    node.up().await;
    assert_eq!(node.seeds().await, []);
    let seed = Host::spawn("seed", Role::Seed, &at).await;
    let known = PeerAddress {
        host: host("seed"),
        role: Role::Seed,
        addresses: vec![seed.address],
    };
    assert_eq!(node.seeds().await, [known]);
    drop(seed);
    assert_eq!(node.seeds().await, []);
    scheduler.stop().await;
}
