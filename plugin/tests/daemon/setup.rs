//! `hawker setup` as a process, on directories of its own.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

mod content;

const CONFIG: &str = "version = 2\n\n# ours\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\n  \
                      bin_dir = \"/usr/lib/cni\"\n";

/// A machine in a directory; containerd is not running on it.
struct Machine {
    dir: tempfile::TempDir,
    /// containerd's settings.
    config: String,
}

impl Machine {
    fn new() -> Self {
        let machine = Self {
            dir: tempfile::tempdir().unwrap(),
            config: CONFIG.to_owned(),
        };
        fs::create_dir(machine.path("etc")).unwrap();
        fs::write(machine.path("etc/config.toml"), CONFIG).unwrap();
        fs::write(machine.path("hawkerd.toml"), "").unwrap();
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, kind: &str, config: &str, more: &[&str]) -> Vec<String> {
        let path = |name: &str| self.path(name).to_str().unwrap().to_owned();
        let mut words = vec![
            env!("CARGO_BIN_EXE_hawker").to_owned(),
            "setup".to_owned(),
            kind.to_owned(),
            format!("--config={}", path(config)),
            format!("--hawkerd-config={}", path("hawkerd.toml")),
            format!("--state-dir={}", path("state")),
        ];
        if kind == "containerd" {
            words.push(format!("--address={}", path("containerd.sock")));
            words.push(format!("--certs-dir={}", path("etc/certs.d")));
            words.push("--containerd-version=1.6.20".to_owned());
        }
        words.extend(more.iter().map(|word| (*word).to_owned()));
        words
    }

    fn containerd(&self, more: &[&str]) -> Said {
        run(&self.command("containerd", "etc/config.toml", more))
    }

    /// The same where etc is on a read-only file system.
    fn containerd_read_only(&self, more: &[&str]) -> Said {
        let script = format!(
            "mount --bind {0} {0} && mount -o remount,bind,ro {0} && exec \"$@\"",
            self.path("etc").display()
        );
        let output = Command::new("unshare")
            .args(["-m", "sh", "-c", &script, "sh"])
            .args(self.command("containerd", "etc/config.toml", more))
            .output();
        said(&output.unwrap())
    }

    /// Every file below etc, with its text.
    fn files(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        let mut dirs = vec![self.path("etc")];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => dirs.push(path),
                    false => {
                        found.insert(path.clone(), fs::read_to_string(path).unwrap());
                    }
                }
            }
        }
        found
    }

    fn assert_untouched(&self) {
        let expected = BTreeMap::from([(self.path("etc/config.toml"), self.config.clone())]);
        assert_eq!(self.files(), expected);
        assert!(!self.path("etc/certs.d").exists());
    }
}

#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    error: String,
}

fn run(words: &[String]) -> Said {
    let output = Command::new(&words[0]).args(&words[1..]).output().unwrap();
    said(&output)
}

fn said(output: &Output) -> Said {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said {
        code: output.status.code(),
        out: text(&output.stdout),
        error: text(&output.stderr),
    }
}

#[test]
fn setup_shows_asks_changes_and_is_taken_back() {
    let machine = Machine::new();
    let shown = machine.containerd(&["--dry-run"]);
    assert_eq!(shown.code, Some(0), "{shown:?}");
    assert!(shown.out.contains("+[proxy_plugins.hawker]\n"), "{shown:?}");
    machine.assert_untouched();

    let asked = machine.containerd(&[]);
    assert_eq!(asked.code, Some(1), "{asked:?}");
    assert!(asked.error.contains("--yes"), "{asked:?}");
    machine.assert_untouched();

    let done = machine.containerd(&["--yes"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.out.contains("it takes effect with"), "{done:?}");
    let after = machine.files();
    assert_eq!(after.len(), 3, "{after:?}");
    let again = machine.containerd(&["--yes"]);
    assert!(again.out.contains("nothing to change"), "{again:?}");
    assert_eq!(machine.files(), after);

    let undone = machine.containerd(&["--undo"]);
    assert_eq!(undone.code, Some(0), "{undone:?}");
    machine.assert_untouched();
    let twice = machine.containerd(&["--undo"]);
    assert!(twice.out.contains("nothing to undo"), "{twice:?}");
}

#[test]
fn failed_restart_takes_everything_back() {
    let machine = Machine::new();
    let failed = machine.containerd(&["--yes", "--restart-command", "echo no >&2; false"]);
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert!(
        failed.error.contains("everything is as it was"),
        "{failed:?}"
    );
    assert!(failed.error.contains(": no"), "{failed:?}");
    machine.assert_untouched();
}

/// A containerd that says of every settings file that CRI's snapshotter is another.
const STUBBORN: &str = r#"#!/bin/sh
case "$*" in
--version) echo containerd example 1.6.20 ;;
*) echo version = 2
   echo '[plugins."io.containerd.grpc.v1.cri".containerd]'
   echo 'snapshotter = "overlayfs"'
   echo '[plugins."io.containerd.grpc.v1.cri".registry]'
   echo 'config_path = "/x"' ;;
esac
"#;

#[test]
fn containerd_that_reads_its_settings_otherwise_is_not_restarted() {
    let machine = Machine::new();
    let program = machine.path("containerd");
    fs::write(&program, STUBBORN).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let restart = format!("touch {}", machine.path("restarted").display());
    let words = ["--yes", "--restart-command", &restart];
    let words = machine.command("containerd", "etc/config.toml", &words);
    let path = format!(
        "{}:{}",
        machine.dir.path().display(),
        std::env::var("PATH").unwrap()
    );
    let mut command = Command::new(&words[0]);
    let output = command.args(&words[1..]).env("PATH", path).output();
    let said = said(&output.unwrap());
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.error.contains("\"overlayfs\""), "{said:?}");
    assert!(!machine.path("restarted").exists());
    machine.assert_untouched();
}

#[test]
fn setup_that_is_killed_is_taken_back_by_the_next_and_by_undo() {
    let machine = Machine::new();
    let killed = ["--yes", "--restart-command", "kill -9 $PPID"];
    assert_eq!(machine.containerd(&killed).code, None);
    assert!(machine.files().len() > 1);
    assert_eq!(machine.containerd(&["--undo"]).code, Some(0));
    machine.assert_untouched();

    assert_eq!(machine.containerd(&killed).code, None);
    let again = machine.containerd(&["--yes"]);
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(again.out.contains("cut short"), "{again:?}");
    machine.containerd(&["--undo"]);
    machine.assert_untouched();
}

#[test]
fn file_changed_since_is_named_and_restored_only_by_force() {
    let machine = Machine::new();
    machine.containerd(&["--yes"]);
    let config = machine.path("etc/config.toml");
    fs::write(&config, "version = 2\n# mine\n").unwrap();
    let refused = machine.containerd(&["--undo"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.error.contains(config.to_str().unwrap()),
        "{refused:?}"
    );
    assert_eq!(machine.containerd(&["--undo", "--force"]).code, Some(0));
    assert_eq!(fs::read_to_string(config).unwrap(), CONFIG);
    assert!(machine.files().values().any(|text| text.contains("# mine")));
}

#[test]
fn read_only_file_system_is_told_and_nothing_is_changed() {
    if !nix::unistd::Uid::effective().is_root() {
        return;
    }
    let machine = Machine::new();
    let said = machine.containerd_read_only(&["--yes"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.error.contains("read-only"), "{said:?}");
    machine.assert_untouched();
}

#[test]
fn settings_without_mirror_or_snapshotter_are_told() {
    let machine = Machine::new();
    fs::write(machine.path("hawkerd.toml"), "[mirror]\nenabled = false\n").unwrap();
    let refused = machine.containerd(&["--yes"]);
    assert!(refused.error.contains("mirror.enabled"), "{refused:?}");
    fs::write(
        machine.path("hawkerd.toml"),
        "[containerd]\nenabled = false\n",
    )
    .unwrap();
    let refused = machine.containerd(&["--yes"]);
    assert!(refused.error.contains("--profile mirror"), "{refused:?}");
    machine.assert_untouched();
    assert_eq!(
        machine.containerd(&["--yes", "--profile", "mirror"]).code,
        Some(0)
    );
}

#[test]
fn docker_is_set_up_and_taken_back() {
    let machine = Machine::new();
    let daemon = machine.path("etc/daemon.json");
    let before = "{\n    \"log-driver\": \"journald\"\n}\n";
    fs::write(&daemon, before).unwrap();
    let docker = |more: &[&str]| run(&machine.command("docker", "etc/daemon.json", more));
    let done = docker(&["--yes"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    let text = read(&daemon);
    let settings: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(settings["registry-mirrors"][0], "http://127.0.0.1:65001");
    assert_eq!(settings["log-driver"], "journald");
    assert!(docker(&["--yes"]).out.contains("nothing to change"));
    assert_eq!(docker(&["--undo"]).code, Some(0));
    assert_eq!(read(&daemon), before);
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}
