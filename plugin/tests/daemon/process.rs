//! `hawkerd` as a process.

use std::{
    fs,
    net::SocketAddr,
    os::{
        fd::OwnedFd,
        unix::{net::UnixListener as StdListener, process::ExitStatusExt as _},
    },
    path::Path,
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use containerd_client::services::v1::snapshots::{
    StatSnapshotRequest, snapshots_client::SnapshotsClient,
};
use hawker_config::NodeConfig;
use hawker_model::Digest;
use http_body_util::BodyExt;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStderr, Command},
    sync::Semaphore,
};
use tonic::Code;

use crate::{
    client::send,
    daemon::settings,
    origin::{Origin, Part, Reply, noise},
};

fn hawkerd() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hawkerd"));
    command.kill_on_drop(true).env_remove("HAWKER_LOG");
    command
}

/// Starts hawkerd and reads its log up to the mirror's address.
async fn start(
    dir: &Path,
    registry: SocketAddr,
) -> (Child, SocketAddr, Lines<BufReader<ChildStderr>>) {
    start_as(hawkerd(), dir, registry).await
}

async fn start_as(
    mut hawkerd: Command,
    dir: &Path,
    registry: SocketAddr,
) -> (Child, SocketAddr, Lines<BufReader<ChildStderr>>) {
    let config = dir.join("hawkerd.toml");
    let text = settings(dir, registry).replace("[log]", "[log]\nformat = \"json\"");
    fs::write(&config, text).unwrap();
    let mut child = hawkerd
        .args(["--config".as_ref(), config.as_os_str()])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let (mut mirror, mut up) = (None, false);
    while mirror.is_none() || !up {
        let line = lines.next_line().await.unwrap().expect("hawkerd ended");
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        match event["message"].as_str() {
            Some("mirror listens") if mirror.is_none() => {
                mirror = event["address"].as_str().unwrap().parse().ok();
            }
            Some("control socket listens") => up = true,
            _ => {}
        }
    }
    (child, mirror.unwrap(), lines)
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(child.id().unwrap().try_into().unwrap());
    kill(pid, signal).unwrap();
}

#[tokio::test]
async fn sigterm_lets_a_running_response_end() {
    let bytes = noise(2 << 20, 1);
    let gate = Arc::new(Semaphore::new(0));
    let (content, held) = (bytes.clone(), Arc::clone(&gate));
    let origin = Origin::start(move |_| {
        let parts = vec![
            Part::Bytes(content.slice(..1 << 20)),
            Part::Wait(Arc::clone(&held)),
            Part::Bytes(content.slice(1 << 20..)),
        ];
        Reply::parts(content.len(), parts).with("etag", "\"1\"")
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let (mut child, mirror, mut lines) = start(dir.path(), origin.address).await;
    let path = format!("/v2/a/blobs/{}", Digest::of(&bytes));
    let mut response = send(mirror, "GET", &path, &[]).await;
    let first = response
        .frame()
        .await
        .unwrap()
        .unwrap()
        .into_data()
        .unwrap();

    signal(&child, Signal::SIGTERM);
    while !lines.next_line().await.unwrap().unwrap().contains("drains") {}
    let drained = tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    gate.add_permits(100);
    let rest = response.collect().await.unwrap().to_bytes();
    assert!([first, rest].concat() == bytes);
    let ended = tokio::time::timeout(Duration::from_secs(15), child.wait()).await;
    assert_eq!(ended.unwrap().unwrap().code(), Some(0));
    drained.await.unwrap();
    assert!(!dir.path().join("h.sock").exists());
}

/// What `hawker get` says of it must hold no password either.
async fn get_with_a_password(socket: &Path, url: &str, file: &Path) {
    let mut get = Command::new(env!("CARGO_BIN_EXE_hawker"));
    get.args(["get", url, "--no-back-to-source", "-o"])
        .arg(file);
    if !url.contains('@') {
        get.args(["--user", "ann", "--password-stdin"]);
    }
    get.env("HAWKER_SOCKET", socket).kill_on_drop(true);
    get.stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = get.spawn().unwrap();
    // Not read where no password is asked for.
    let _ = child.stdin.take().unwrap().write_all(b"hush\n").await;
    let output = child.wait_with_output().await.unwrap();
    let said = [output.stderr, output.stdout].concat();
    let said = String::from_utf8(said).unwrap();
    assert!(!said.contains("hush"), "{said}");
}

#[tokio::test]
async fn no_line_of_the_most_talkative_log_holds_a_credential() {
    let bytes = noise(200_000, 2);
    let content = bytes.clone();
    let origin = Origin::start(move |seen| match seen.header("authorization") {
        None => Reply::challenge(),
        Some("Bearer hush-bad") => Reply::status(403),
        Some(_) if seen.path.contains("/blobs/") => Reply::file(seen, &content),
        Some(_) => Reply::bytes("{}"),
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let mut talkative = hawkerd();
    talkative.env("HAWKER_LOG", "trace");
    let (mut child, mirror, mut lines) = start_as(talkative, dir.path(), origin.address).await;
    let logged = tokio::spawn(async move {
        let mut all = Vec::new();
        while let Ok(Some(line)) = lines.next_line().await {
            all.push(line);
        }
        all
    });
    let blob = format!("/v2/a/blobs/{}?hush=1", Digest::of(&bytes));
    for credential in ["Bearer hush-good", "Bearer hush-bad", "Basic aHVzaDpodXNo"] {
        let shown = [("authorization", credential)];
        for path in ["/v2/", "/v2/a/manifests/t", &blob] {
            let response = send(mirror, "GET", path, &shown).await;
            response.collect().await.unwrap();
        }
    }
    let unfit = [
        ("cookie", "hush"),
        ("proxy-authorization", "Basic aHVzaDpodXNo"),
        ("x-dragonfly-registry", "http://hush:hush@r.example"),
    ];
    for header in unfit {
        let path = "/v2/?ns=hush:hush@r.example&Signature=hush";
        let response = send(mirror, "GET", path, &[header]).await;
        response.collect().await.unwrap();
    }
    let (socket, file) = (dir.path().join("h.sock"), dir.path().join("f"));
    for (scheme, user) in [("http", "hush:hush@"), ("http", ""), ("ftp", "hush:hush@")] {
        let url = format!("{scheme}://{user}{}/f?X-Amz-Signature=hush", origin.address);
        get_with_a_password(&socket, &url, &file).await;
    }
    signal(&child, Signal::SIGTERM);
    child.wait().await.unwrap();
    let logged = logged.await.unwrap();
    let talkative = ["\"TRACE\"", "\"DEBUG\""];
    let traced = logged
        .iter()
        .filter(|line| talkative.iter().any(|level| line.contains(level)));
    assert!(traced.count() > 10, "{logged:#?}");
    for line in logged {
        assert!(!line.contains("hush") && !line.contains("aHVza"), "{line}");
    }
}

#[tokio::test]
async fn second_hawkerd_on_the_same_socket_is_refused() {
    let origin = Origin::start(|_| Reply::status(404)).await;
    let dir = tempfile::tempdir().unwrap();
    let (_child, _, _lines) = start(dir.path(), origin.address).await;
    let second = hawkerd()
        .arg("--config")
        .arg(dir.path().join("hawkerd.toml"))
        .output()
        .await
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains("another hawkerd answers"), "{said}");
}

#[tokio::test]
async fn printed_config_reads_back_as_itself() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hawkerd.toml");
    fs::write(&path, settings(dir.path(), "127.0.0.1:1".parse().unwrap())).unwrap();
    let print = || {
        hawkerd()
            .arg("--print-config")
            .arg("--config")
            .arg(&path)
            .output()
    };
    let printed = String::from_utf8(print().await.unwrap().stdout).unwrap();
    let read = |text: &str| NodeConfig::parse(text, &path, None).unwrap();
    assert_eq!(read(&printed), read(&fs::read_to_string(&path).unwrap()));
    fs::write(&path, &printed).unwrap();
    assert_eq!(
        String::from_utf8(print().await.unwrap().stdout).unwrap(),
        printed
    );
}

/// Starts hawkerd with a socket that listens already, as systemd does.
async fn start_activated(dir: &Path, listener: &StdListener) -> Child {
    let config = dir.join("hawkerd.toml");
    fs::write(&config, settings(dir, "127.0.0.1:1".parse().unwrap())).unwrap();
    let mut child = Command::new("/bin/sh");
    let pass = "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" --config \"$1\"";
    child
        .args(["-c", pass, env!("CARGO_BIN_EXE_hawkerd")])
        .arg(config);
    let passed = OwnedFd::from(listener.try_clone().unwrap());
    child.stdin(Stdio::from(passed)).stderr(Stdio::null());
    child.kill_on_drop(true).spawn().unwrap()
}

#[tokio::test]
async fn containerd_is_never_refused_where_systemd_holds_the_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("containerd.sock");
    let listener = StdListener::bind(&path).unwrap();
    let stat = async |path: &Path| {
        let channel = containerd_client::connect(path).await.unwrap();
        let stat = StatSnapshotRequest {
            key: "missing".to_owned(),
            ..StatSnapshotRequest::default()
        };
        SnapshotsClient::new(channel)
            .stat(stat)
            .await
            .unwrap_err()
            .code()
    };
    let mut first = start_activated(dir.path(), &listener).await;
    assert_eq!(stat(&path).await, Code::NotFound);
    signal(&first, Signal::SIGTERM);
    assert_eq!(first.wait().await.unwrap().code(), Some(0));
    // Nobody answers, and nobody is refused: the next one does.
    let (code, _second) = tokio::join!(stat(&path), start_activated(dir.path(), &listener));
    assert_eq!(code, Code::NotFound);
}

#[tokio::test]
async fn wrong_settings_are_told_with_their_place_and_exit_code_2() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hawkerd.toml");
    fs::write(&path, "[mirror]\nlistne = \"x\"\n").unwrap();
    let check = hawkerd()
        .arg("--check-config")
        .arg("--config")
        .arg(&path)
        .output()
        .await
        .unwrap();
    assert_eq!(check.status.code(), Some(2));
    let said = String::from_utf8(check.stderr).unwrap();
    assert!(
        said.contains("hawkerd.toml") && said.contains("listne"),
        "{said}"
    );
}

#[tokio::test]
async fn sound_settings_pass_the_check() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hawkerd.toml");
    fs::write(&path, settings(dir.path(), "127.0.0.1:1".parse().unwrap())).unwrap();
    let check = hawkerd()
        .arg("--check-config")
        .arg("--config")
        .arg(&path)
        .output()
        .await
        .unwrap();
    assert_eq!(
        check.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&check.stderr)
    );
}

#[tokio::test]
async fn killed_hawkerd_leaves_no_core_file_but_where_a_developer_wants_one() {
    let dir = tempfile::tempdir().unwrap();
    let limits = |child: &Child| core_limits(&child.id().unwrap().to_string());
    let registry = "127.0.0.1:1".parse().unwrap();
    let (mut child, _, _lines) = start(dir.path(), registry).await;
    assert_eq!(limits(&child), ["0", "0"]);
    signal(&child, Signal::SIGABRT);
    assert!(!child.wait().await.unwrap().core_dumped());

    let mut open = hawkerd();
    open.env("HAWKER_CORE_DUMPS", "1");
    let (child, _, _lines) = start_as(open, dir.path(), registry).await;
    assert_eq!(limits(&child), core_limits("self"));
}

/// The soft and the hard limit of a process's core files.
fn core_limits(process: &str) -> Vec<String> {
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let numbers = core.unwrap().split_whitespace().skip(4).take(2);
    numbers.map(str::to_owned).collect()
}
