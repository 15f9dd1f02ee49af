//! `hawker doctor` as a process: beside a hawkerd, and without one.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use serde_json::Value;
use tokio::process::Command;

use crate::{
    daemon::{Daemon, settings},
    origin::{Origin, Reply},
};

/// The verdict of each check, the worst where there are several, and whether all is well.
async fn doctor(dir: &Path, config: &str) -> (Value, Option<i32>) {
    let file = dir.join("hawkerd.toml");
    fs::write(&file, config).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_hawker"))
        .arg("doctor")
        .arg("--json")
        .arg("--hawkerd-config")
        .arg(&file)
        .arg("--containerd-config")
        .arg(dir.join("config.toml"))
        .arg("--address")
        .arg(dir.join("no-containerd.sock"))
        .arg("--certs-dir")
        .arg(dir.join("certs.d"))
        .arg("--docker-config")
        .arg(dir.join("daemon.json"))
        .env_remove("HAWKER_SOCKET")
        .env("PATH", format!("{}:/usr/bin:/bin", dir.display()))
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let findings = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (findings, output.status.code())
}

fn of<'a>(findings: &'a Value, check: &str) -> &'a Value {
    let mut all = findings.as_array().unwrap().iter();
    all.find(|finding| finding["check"] == check)
        .unwrap_or_else(|| panic!("no {check}: {findings:#}"))
}

#[tokio::test]
async fn running_hawkerd_is_found_well() {
    let origin = Origin::start(|_| Reply::bytes("{}")).await;
    let daemon = Daemon::start(origin.address).await;
    let text = settings(daemon.dir.path(), origin.address);
    let (findings, _) = doctor(daemon.dir.path(), &text).await;
    for check in ["settings", "hawkerd", "snapshotter socket", "mirror"] {
        assert_eq!(of(&findings, check)["verdict"], "ok", "{findings:#}");
    }
    assert_eq!(of(&findings, "cluster")["verdict"], "info");
    drop(origin);
}

#[tokio::test]
async fn registry_that_is_not_reachable_is_no_fault_of_the_mirror() {
    let origin = Origin::start(|_| Reply::status(503)).await;
    let daemon = Daemon::start(origin.address).await;
    let text = settings(daemon.dir.path(), origin.address);
    let (findings, _) = doctor(daemon.dir.path(), &text).await;
    let mirror = of(&findings, "mirror");
    assert_eq!(mirror["verdict"], "warn", "{findings:#}");
    let what = mirror["what"].as_str().unwrap();
    assert!(what.contains(&origin.address.to_string()), "{what}");
}

#[tokio::test]
async fn hawkerd_that_does_not_run_fails_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let text = settings(dir.path(), "127.0.0.1:1".parse().unwrap());
    let (findings, code) = doctor(dir.path(), &text).await;
    assert_eq!(code, Some(1));
    for check in ["hawkerd", "snapshotter socket", "mirror"] {
        let finding = of(&findings, check);
        assert_eq!(finding["verdict"], "fail", "{findings:#}");
        assert!(finding["remedy"].as_str().unwrap().contains("systemctl"));
    }
}

#[tokio::test]
async fn wrong_settings_are_told_and_the_rest_is_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let (findings, code) = doctor(dir.path(), "[stor]\n").await;
    assert_eq!(code, Some(1));
    let settings = of(&findings, "settings");
    assert_eq!(settings["verdict"], "fail");
    assert!(settings["what"].as_str().unwrap().contains("did you mean"));
    of(&findings, "kernel");
}

#[tokio::test]
async fn certificate_and_scheduler_of_a_cluster_are_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().display();
    let text = format!(
        "[node]\nname = \"n\"\n[p2p]\nschedulers = [\"127.0.0.1:1\"]\n\
         [[p2p.seeds]]\nname = \"s\"\naddress = \"127.0.0.1:1\"\n\
         [tls]\nca = \"{place}/ca.pem\"\ncert = \"{place}/cert.pem\"\nkey = \"{place}/key.pem\"\n\
         [control]\nsocket = \"{place}/h.sock\"\n[containerd]\nsocket = \"{place}/c.sock\"\n"
    );
    let (findings, _) = doctor(dir.path(), &text).await;
    assert_eq!(of(&findings, "certificate")["verdict"], "fail");
    assert_eq!(of(&findings, "schedulers")["verdict"], "fail");
    assert_eq!(of(&findings, "seeds")["verdict"], "warn");
    assert_eq!(of(&findings, "clock")["verdict"], "info");
}

#[tokio::test]
async fn settings_of_containerd_are_looked_at_without_it_running() {
    let dir = tempfile::tempdir().unwrap();
    let text = settings(dir.path(), "127.0.0.1:1".parse().unwrap())
        .replace("127.0.0.1:0", "127.0.0.1:65001");
    let containerd = dir.path().join("containerd");
    fs::write(&containerd, "#!/bin/sh\necho containerd x 1.6.20\n").unwrap();
    fs::set_permissions(&containerd, fs::Permissions::from_mode(0o755)).unwrap();
    let verdict = async |check: &str| {
        let (findings, _) = doctor(dir.path(), &text).await;
        of(&findings, check)["verdict"].as_str().unwrap().to_owned()
    };
    assert_eq!(verdict("containerd").await, "fail");
    assert_eq!(verdict("containerd settings").await, "fail");

    let place = dir.path().display();
    let config = format!(
        "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\n\
         config_path = \"{place}/certs.d\"\n"
    );
    fs::write(dir.path().join("config.toml"), config).unwrap();
    let hosts = dir.path().join("certs.d/_default/hosts.toml");
    fs::create_dir_all(hosts.parent().unwrap()).unwrap();
    fs::write(&hosts, "[host.\"http://127.0.0.1:65001\"]\n").unwrap();
    assert_eq!(verdict("containerd settings").await, "ok");
    assert_eq!(verdict("hosts.toml").await, "ok");

    fs::write(
        &hosts,
        "[host.\"http://127.0.0.1:65001\"]\nskip_verify = true\n",
    )
    .unwrap();
    assert_eq!(verdict("hosts.toml").await, "warn");
    fs::write(&hosts, "[host.\"http://127").unwrap();
    assert_eq!(verdict("hosts.toml").await, "fail");
}
