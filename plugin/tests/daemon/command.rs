//! `hawker` as a process.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Output, Stdio},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use hawker_identity::{AuthorityFiles, Identity, TlsFiles};
use hawker_model::{Digest, Role};
use http::Method;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{io::AsyncWriteExt as _, process::Command, sync::Semaphore};

use crate::{
    daemon::Daemon,
    origin::{Origin, Part, Reply, noise},
};

async fn hawker(socket: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hawker"))
        .args(arguments)
        .env("HAWKER_SOCKET", socket)
        .kill_on_drop(true)
        .output()
        .await
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A server of one file, and its URL.
async fn with_file(bytes: &Bytes) -> (Origin, String) {
    let content = bytes.clone();
    let origin = Origin::start(move |seen| match seen.path == "/f" {
        true => Reply::file(seen, &content),
        false => Reply::status(404),
    })
    .await;
    let url = format!("http://{}/f", origin.address);
    (origin, url)
}

#[tokio::test]
async fn get_saves_through_hawkerd() {
    let bytes = noise(400_000, 1);
    let (origin, url) = with_file(&bytes).await;
    let daemon = Daemon::start(origin.address).await;
    let (socket, file) = (daemon.app.control_path(), daemon.dir.path().join("f"));
    let digest = Digest::of(&bytes).to_string();
    for _ in 0..2 {
        let path = file.to_str().unwrap();
        let arguments = [
            "get",
            &url,
            "-o",
            path,
            "--digest",
            &digest,
            "--no-back-to-source",
        ];
        let output = hawker(&socket, &arguments).await;
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        assert!(fs::read(&file).unwrap() == bytes);
        assert!(said(&output).contains(&digest));
        daemon.has_stored(1).await;
    }
    let seen = origin.seen();
    let whole = seen
        .iter()
        .filter(|seen| seen.method == Method::GET && seen.header("range").is_none());
    assert_eq!(whole.count(), 1);
    // The digest is the user's word: four parts are compared, once.
    assert_eq!(origin.count(Method::GET, "/f"), 5);
}

#[tokio::test]
async fn get_goes_straight_without_hawkerd_and_says_so() {
    let bytes = noise(100_000, 2);
    let (_origin, url) = with_file(&bytes).await;
    let dir = tempfile::tempdir().unwrap();
    let (socket, file) = (dir.path().join("no.sock"), dir.path().join("f"));
    let path = file.to_str().unwrap();
    let output = hawker(&socket, &["get", &url, "-o", path]).await;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(
        said(&output).contains("hawkerd is not reachable"),
        "{}",
        said(&output)
    );
    assert!(fs::read(&file).unwrap() == bytes);
    fs::remove_file(&file).unwrap();
    let output = hawker(&socket, &["get", &url, "-o", path, "--no-back-to-source"]).await;
    assert_eq!(output.status.code(), Some(4));
    assert!(!file.exists());
}

#[tokio::test]
async fn get_with_a_wrong_digest_saves_nothing() {
    let (origin, url) = with_file(&noise(100_000, 3)).await;
    let daemon = Daemon::start(origin.address).await;
    let dir = tempfile::tempdir().unwrap();
    let digest = Digest::of(b"other").to_string();
    for socket in [daemon.app.control_path(), dir.path().join("no.sock")] {
        let file = dir.path().join("f");
        let arguments = [
            "get",
            &url,
            "-o",
            file.to_str().unwrap(),
            "--digest",
            &digest,
        ];
        let output = hawker(&socket, &arguments).await;
        assert_eq!(output.status.code(), Some(3), "{}", said(&output));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn status_is_for_people_and_for_programs() {
    let (origin, _) = with_file(&Bytes::new()).await;
    let daemon = Daemon::start(origin.address).await;
    let socket = daemon.app.control_path();
    let text = String::from_utf8(hawker(&socket, &["status"]).await.stdout).unwrap();
    assert!(text.starts_with("tested (node), hawkerd "), "{text}");
    let json = hawker(&socket, &["status", "--json"]).await.stdout;
    let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(value["host"], "tested");
    let output = hawker(Path::new("/nonexistent/h.sock"), &["status"]).await;
    assert_eq!(output.status.code(), Some(4));
    assert!(
        said(&output).contains("is it running?"),
        "{}",
        said(&output)
    );
}

#[tokio::test]
async fn one_command_makes_the_certificates_of_a_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("c");
    let text = out.to_str().unwrap();
    let make = async |more: &[&str]| {
        let mut arguments = vec!["ca", "cluster", "--out", text, "--cluster", "c1"];
        arguments.extend(more);
        hawker(dir.path(), &arguments).await
    };
    let hosts = [
        "--scheduler",
        "s1",
        "--seed",
        "a",
        "--node",
        "b",
        "--node",
        "c",
    ];
    let output = make(&hosts).await;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    for (host, role) in [
        ("s1", Role::Scheduler),
        ("a", Role::Seed),
        ("c", Role::Node),
    ] {
        let identity = Identity::load(&TlsFiles::in_dir(&out.join(host))).unwrap();
        assert_eq!((identity.host().as_str(), identity.role()), (host, role));
        let mode = fs::metadata(out.join(host).join("key.pem"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    // A host later, by the same authority; none twice.
    assert_eq!(make(&["--node", "d"]).await.status.code(), Some(0));
    let twice = make(&["--node", "d"]).await;
    assert_eq!(twice.status.code(), Some(1));
    assert!(said(&twice).contains("--force"), "{}", said(&twice));
    let authority = |host: &str| fs::read(out.join(host).join("ca.pem")).unwrap();
    assert_eq!(authority("d"), authority("a"));
    let both = make(&["--node", "x", "--seed", "x"]).await;
    assert!(said(&both).contains("given twice"), "{}", said(&both));
}

#[tokio::test]
async fn interrupted_get_leaves_nothing() {
    let bytes = noise(1 << 20, 7);
    let gate = Arc::new(Semaphore::new(0));
    let (content, held) = (bytes.clone(), Arc::clone(&gate));
    let origin = Origin::start(move |_| {
        let parts = vec![
            Part::Bytes(content.slice(..600_000)),
            Part::Wait(Arc::clone(&held)),
            Part::Bytes(content.slice(600_000..)),
        ];
        Reply::parts(content.len(), parts).with("etag", "\"1\"")
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let (socket, file) = (dir.path().join("no.sock"), dir.path().join("f"));
    let url = format!("http://{}/f", origin.address);
    let child = Command::new(env!("CARGO_BIN_EXE_hawker"))
        .args(["get", &url, "-o", file.to_str().unwrap()])
        .env("HAWKER_SOCKET", &socket)
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    while fs::metadata(dir.path().join("f.part")).map_or(0, |part| part.len()) == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let pid = Pid::from_raw(child.id().unwrap().try_into().unwrap());
    kill(pid, Signal::SIGINT).unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", said(&output));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn get_into_a_place_that_is_not_there_asks_nobody_else() {
    let (origin, url) = with_file(&noise(1000, 8)).await;
    let daemon = Daemon::start(origin.address).await;
    let file = daemon.dir.path().join("absent/f");
    let arguments = ["get", &url, "-o", file.to_str().unwrap()];
    let output = hawker(&daemon.app.control_path(), &arguments).await;
    assert_eq!(output.status.code(), Some(1));
    let said = said(&output);
    assert!(said.contains("cannot create"), "{said}");
    assert!(!said.contains("straight"), "{said}");
}

/// A server of one file for ann, whose password is "pw".
async fn with_private_file(bytes: &Bytes, path: &'static str) -> Origin {
    let content = bytes.clone();
    Origin::start(move |seen| match seen.header("authorization") {
        Some("Basic YW5uOnB3") if seen.path == path => Reply::file(seen, &content),
        _ => Reply::status(401).with("www-authenticate", "Basic realm=\"r\""),
    })
    .await
}

#[tokio::test]
async fn get_asks_as_the_user_whose_password_it_reads() {
    let bytes = noise(1000, 9);
    let origin = with_private_file(&bytes, "/f").await;
    let dir = tempfile::tempdir().unwrap();
    let (socket, file) = (dir.path().join("no.sock"), dir.path().join("f"));
    let url = format!("http://{}/f", origin.address);
    for (arguments, input, code) in [
        (&["--user", "ann", "--password-stdin"][..], "pw\n", 0),
        (&["--user", "ann", "--password-stdin"], "wrong", 1),
        (&["--user", "ann", "--password-stdin"], "", 1),
        (&["--user", "ann"], "", 2),
        (&[], "", 1),
    ] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_hawker"))
            .args(["get", &url, "-q", "-o", file.to_str().unwrap()])
            .args(arguments)
            .env("HAWKER_SOCKET", &socket)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        // Not read where no password is asked for.
        let _ = child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .await;
        let output = child.wait_with_output().await.unwrap();
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {}",
            said(&output)
        );
    }
    assert!(fs::read(&file).unwrap() == bytes);
}

#[tokio::test]
async fn get_of_a_registrys_blob_asks_as_docker_does() {
    let bytes = noise(1000, 10);
    let origin = with_private_file(&bytes, "/v2/a/blobs/x").await;
    let dir = tempfile::tempdir().unwrap();
    let logins = format!(
        "{{\"auths\":{{\"{}\":{{\"auth\":\"YW5uOnB3\"}}}}}}",
        origin.address
    );
    fs::write(dir.path().join("config.json"), logins).unwrap();
    let file = dir.path().join("f");
    let get = async |path: &str, more: &[&str]| {
        let url = format!("http://{}{path}", origin.address);
        let output = Command::new(env!("CARGO_BIN_EXE_hawker"))
            .args(["get", &url, "-q", "-o", file.to_str().unwrap()])
            .args(more)
            .env("HAWKER_SOCKET", dir.path().join("no.sock"))
            .env("DOCKER_CONFIG", dir.path())
            .output()
            .await
            .unwrap();
        output.status.code()
    };
    assert_eq!(get("/v2/a/blobs/x", &["--anonymous"]).await, Some(1));
    // No URL of a registry: its login is not shown.
    assert_eq!(get("/f", &[]).await, Some(1));
    let shown = |seen: &crate::origin::Seen| seen.header("authorization").is_some();
    assert!(!origin.seen().iter().any(shown));
    assert_eq!(get("/v2/a/blobs/x", &[]).await, Some(0));
    assert!(fs::read(&file).unwrap() == bytes);
}

#[tokio::test]
async fn a_host_is_revoked_where_the_authority_is() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    let ca = dir.path().join("ca");
    let run = async |arguments: &[&str]| hawker(dir.path(), arguments).await;
    let made = run(&["ca", "cluster", "--out", out, "--node", "a", "--node", "b"]).await;
    assert_eq!(made.status.code(), Some(0), "{}", said(&made));
    let ca_text = ca.to_str().unwrap();
    let revoked = run(&["ca", "revoke", "--ca", ca_text, "b"]).await;
    assert_eq!(revoked.status.code(), Some(0), "{}", said(&revoked));
    let [a, b] = ["a", "b"].map(|host| TlsFiles::in_dir(&dir.path().join(host)));
    let [serial_a, serial_b] = [&a, &b].map(|files| Identity::load(files).unwrap().serial());
    // By its number, and both stay revoked.
    let number = serial_a.to_string();
    let revoked = run(&["ca", "revoke", "--ca", ca_text, &number]).await;
    assert_eq!(revoked.status.code(), Some(0), "{}", said(&revoked));
    for files in [&a, &b] {
        fs::copy(ca.join("crl.pem"), &files.crl).unwrap();
        let error = Identity::load(files).unwrap_err().to_string();
        assert!(error.contains("was revoked"), "{error}");
    }
    let list = run(&["ca", "list", "--ca", ca_text]).await;
    let list = String::from_utf8(list.stdout).unwrap();
    assert!(list.contains(&serial_b.to_string()), "{list}");
    assert_eq!(list.matches("revoked").count(), 2, "{list}");
    let unknown = run(&["ca", "revoke", "--ca", ca_text, "nobody"]).await;
    assert_eq!(unknown.status.code(), Some(1));
    assert!(said(&unknown).contains("nobody"), "{}", said(&unknown));
}

/// A cluster of a, b and c in `dir`, and their certificates' numbers.
async fn made_cluster(dir: &Path) -> [String; 3] {
    let out = dir.to_str().unwrap();
    let nodes = ["--node", "a", "--node", "b", "--node", "c"];
    let made = hawker(
        dir,
        &[&["ca", "cluster", "--out", out][..], &nodes].concat(),
    )
    .await;
    assert_eq!(made.status.code(), Some(0), "{}", said(&made));
    ["a", "b", "c"].map(|host| {
        let files = TlsFiles::in_dir(&dir.join(host));
        Identity::load(&files).unwrap().serial().to_string()
    })
}

#[tokio::test]
async fn a_revocation_where_the_authority_is_keeps_those_of_the_schedulers() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b, c] = made_cluster(dir.path()).await;
    let ca = dir.path().join("ca");
    // Two schedulers have revoked one each.
    let authority = AuthorityFiles::in_dir(&ca).load().unwrap();
    let told = [&a, &b].map(|serial| {
        let file = dir.path().join(format!("{serial}.pem"));
        let list = authority.revoke(&[serial.parse().unwrap()], None).unwrap();
        fs::write(&file, list).unwrap();
        file.to_str().unwrap().to_owned()
    });
    let at = [
        "--ca",
        ca.to_str().unwrap(),
        "--crl",
        &told[0],
        "--crl",
        &told[1],
    ];
    let revoked = hawker(dir.path(), &[&["ca", "revoke", "c"][..], &at].concat()).await;
    assert_eq!(revoked.status.code(), Some(0), "{}", said(&revoked));
    let lists = fs::read(ca.join("crl.pem")).unwrap();
    let lists = authority.own_lists(&lists).unwrap();
    let named = |serial: &String| {
        let mut revoked = lists[0].revoked();
        revoked.any(|(revoked, _)| revoked.to_string() == *serial)
    };
    assert!(lists.len() == 1 && [a, b, c].iter().all(named), "{lists:?}");
}

#[tokio::test]
async fn lists_that_cannot_be_read_do_not_count_as_empty() {
    let dir = tempfile::tempdir().unwrap();
    made_cluster(dir.path()).await;
    let ca = dir.path().join("ca");
    let at = ca.to_str().unwrap();
    fs::create_dir(ca.join("crl.pem")).unwrap();
    for arguments in [
        &["ca", "list", "--ca", at][..],
        &["ca", "revoke", "a", "--ca", at],
    ] {
        let output = hawker(dir.path(), arguments).await;
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains("crl.pem"), "{}", said(&output));
    }
    fs::remove_dir(ca.join("crl.pem")).unwrap();
    let gone = dir.path().join("gone.pem");
    let told = [
        "ca",
        "revoke",
        "a",
        "--ca",
        at,
        "--crl",
        gone.to_str().unwrap(),
    ];
    let output = hawker(dir.path(), &told).await;
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(!ca.join("crl.pem").exists());
}

#[tokio::test]
async fn joining_without_a_sound_token_or_over_a_certificate_is_refused_before_anything_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    let join = async |more: &[&str]| {
        // Nobody listens there.
        let mut arguments = vec!["join", "--scheduler", "127.0.0.1:1", "--out", out];
        arguments.extend(more);
        hawker(dir.path(), &arguments).await
    };
    let secret = "5".repeat(64);
    let broken = format!("hawker-join.00.{secret}.{}", "a".repeat(64));
    let output = join(&["--token", &broken]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(!said(&output).contains(&secret), "{}", said(&output));
    fs::write(dir.path().join("cert.pem"), "").unwrap();
    let sound = format!("hawker-join.{}.{secret}.{}", "0".repeat(12), "a".repeat(64));
    let output = join(&["--host", "a", "--token", &sound]).await;
    assert!(
        said(&output).contains("is there already"),
        "{}",
        said(&output)
    );
    fs::remove_file(dir.path().join("cert.pem")).unwrap();
    let output = join(&["--host", "a", "--token", &sound]).await;
    assert!(
        said(&output).contains("cannot connect to the issuer"),
        "{}",
        said(&output)
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn tokens_are_made_where_a_scheduler_issues_only() {
    let output = hawker(
        Path::new("/unused"),
        &["token", "create", "--socket", "/nonexistent/control.sock"],
    )
    .await;
    assert_eq!(output.status.code(), Some(4));
    assert!(
        said(&output).contains("[issuer] ca_cert"),
        "{}",
        said(&output)
    );
}
