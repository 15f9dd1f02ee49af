//! The binary as an operator meets it.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

fn scheduler() -> Command {
    Command::new(env!("CARGO_BIN_EXE_hawker-scheduler"))
}

#[test]
fn print_config_prints_what_can_be_read_again() {
    let printed = scheduler().arg("--print-config").output().unwrap();
    assert!(printed.status.success());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("scheduler.toml");
    std::fs::write(&file, &printed.stdout).unwrap();
    let again = scheduler()
        .arg("--print-config")
        .arg("--config")
        .arg(file)
        .output()
        .unwrap();
    assert_eq!(printed.stdout, again.stdout);
}

#[test]
fn a_wrong_config_exits_with_78_and_names_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("scheduler.toml");
    std::fs::write(&file, "[scheduler]\nlisten = 7\n").unwrap();
    let output = scheduler().arg("--config").arg(file).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("scheduler.listen"), "{said}");
}

#[test]
fn it_starts_says_where_it_listens_and_stops_on_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("scheduler.toml");
    let config = "[scheduler]\nname = \"s\"\nlisten = \"127.0.0.1:0\"\ntransport = \"plain\"\n\
                  [http]\nlisten = \"127.0.0.1:0\"\n[log]\nformat = \"json\"\n";
    std::fs::write(&file, config).unwrap();
    let mut child = scheduler()
        .arg("--config")
        .arg(file)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let ready = log.any(|line| line.unwrap().contains("/healthy"));
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    let rest: Vec<String> = log.map(Result::unwrap).collect();
    assert!(
        ready && rest.iter().any(|line| line.contains("stopped")),
        "{rest:?}"
    );
    assert!(child.wait().unwrap().success());
}

#[test]
fn what_goes_into_a_file_has_no_colours() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("scheduler.toml");
    let config = "[scheduler]\nname = \"s\"\nlisten = \"127.0.0.1:0\"\ntransport = \"plain\"\n\
                  [http]\nlisten = \"127.0.0.1:0\"\n";
    std::fs::write(&file, config).unwrap();
    let mut child = scheduler()
        .arg("--config")
        .arg(file)
        .env_remove("HAWKER_LOG")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let first = log.next().unwrap().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        first.contains("starting") && !first.contains('\x1b'),
        "{first:?}"
    );
}
