//! What `hawker setup containerd` does to containerd's content, with a hawkerd that answers as it is
//! told.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    process::Command,
    sync::{Arc, Mutex},
    thread,
};

use nix::{
    sys::{
        signal::{Signal, kill},
        socket::{getsockopt, sockopt::PeerCredentials},
    },
    unistd::Pid,
};

use super::{CONFIG, Machine, read};
use crate::containerd;

impl Machine {
    /// With a hawkerd that answers so to questions about content.
    fn with_hawkerd(answer: fn(&str) -> String) -> (Self, Arc<Mutex<Vec<String>>>) {
        let mut machine = Self::new();
        let root = machine.path("containerd");
        fs::create_dir_all(root.join("io.containerd.content.v1.content")).unwrap();
        machine.config = format!("root = {root:?}\n{CONFIG}");
        fs::write(machine.path("etc/config.toml"), &machine.config).unwrap();
        let socket = machine.path("hawkerd.sock");
        let settings = format!("[control]\nsocket = {socket:?}\n");
        fs::write(machine.path("hawkerd.toml"), settings).unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let request = answer_one(stream, answer);
                told.lock().unwrap().push(request);
            }
        });
        (machine, asked)
    }

    /// And with a containerd that runs, and keeps its content itself.
    fn with_both(answer: fn(&str) -> String) -> (Self, Arc<Mutex<Vec<String>>>) {
        let (machine, asked) = Self::with_hawkerd(answer);
        let own = machine.path("containerd/io.containerd.content.v1.content");
        containerd::start(&machine.path("containerd.sock"), machine.path("ours"), own);
        (machine, asked)
    }

    /// A restart after which containerd keeps its content in hawkerd, and one after which it does not.
    fn restarts(&self) -> [String; 2] {
        let ours = self.path("ours");
        ["touch", "rm"].map(|what| format!("{what} {}", ours.display()))
    }

    fn unanswering(&self) {
        let settings = format!("[control]\nsocket = {:?}\n", self.path("none.sock"));
        fs::write(self.path("hawkerd.toml"), settings).unwrap();
    }

    fn answering(&self) {
        let settings = format!("[control]\nsocket = {:?}\n", self.path("hawkerd.sock"));
        fs::write(self.path("hawkerd.toml"), settings).unwrap();
    }

    /// Nothing is left to do.
    fn assert_settled(&self, asked: &Mutex<Vec<String>>) {
        assert!(!self.path("state/containerd.content").exists());
        taken(asked);
        let again = self.containerd(&["--undo"]);
        assert!(again.out.contains("nothing to undo"), "{again:?}");
        assert_eq!(taken(asked), Vec::<String>::new());
    }
}

/// Answered so, a client is killed instead.
const KILL: &str = "kill";

/// Answers a request; gives its path and, behind that, its body.
fn answer_one(stream: UnixStream, answer: fn(&str) -> String) -> String {
    let mut reader = BufReader::new(stream);
    let (mut line, mut length) = (String::new(), 0);
    reader.read_line(&mut line).unwrap();
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    while line.trim() != "" {
        line.clear();
        reader.read_line(&mut line).unwrap();
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let (mut stream, answer) = (reader.into_inner(), answer(&path));
    if answer == KILL {
        let asker = getsockopt(&stream, PeerCredentials).unwrap().pid();
        kill(Pid::from_raw(asker), Signal::SIGKILL).unwrap();
    }
    let text = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{answer}");
    // It may have been killed meanwhile.
    let _ = stream.write_all(text.as_bytes());
    format!("{path} {}", String::from_utf8_lossy(&body))
}

fn willing(path: &str) -> String {
    match path {
        "/v1/content/release" => "{\"released\":3}\n".to_owned(),
        _ => "{\"done\":{\"blobs\":3,\"bytes\":9,\"shared_bytes\":9,\"known\":0}}\n".to_owned(),
    }
}

fn unwilling(path: &str) -> String {
    match path {
        "/v1/content/import" | "/v1/content/export" => "{\"error\":\"no room\"}\n".to_owned(),
        other => willing(other),
    }
}

fn deadly(path: &str) -> String {
    match path {
        "/v1/content/import" => KILL.to_owned(),
        other => willing(other),
    }
}

/// The paths that were asked for, and no others since.
fn taken(asked: &Mutex<Vec<String>>) -> Vec<String> {
    let asked = std::mem::take(&mut *asked.lock().unwrap());
    let path = |request: &String| request.split(' ').next().unwrap_or_default().to_owned();
    let paths = asked.iter().map(path);
    paths.filter(|path| path != "/v1/content/try").collect()
}

#[test]
fn full_profile_takes_content_along_and_gives_it_back() {
    let (machine, asked) = Machine::with_hawkerd(willing);
    let full = ["--yes", "--profile", "full"];
    let shown = machine.containerd(&["--dry-run", "--profile", "full"]);
    assert!(
        shown.out.contains("io.containerd.content.v1.content"),
        "{shown:?}"
    );
    assert!(
        shown.out.contains("is taken into Hawker's store"),
        "{shown:?}"
    );
    machine.assert_untouched();
    assert_eq!(taken(&asked), Vec::<String>::new());

    let done = machine.containerd(&full);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(
        done.out.contains("3 blobs, 9 B (9 B without a copy)"),
        "{done:?}"
    );
    assert_eq!(taken(&asked), ["/v1/content/import"]);
    let after = machine.files();
    let again = machine.containerd(&full);
    assert!(again.out.contains("nothing to change"), "{again:?}");
    assert_eq!(machine.files(), after);
    // What an earlier run did not get to; the directory goes where its owner needs the room.
    assert_eq!(taken(&asked), ["/v1/content/import"]);
    fs::remove_dir_all(machine.path("containerd")).unwrap();
    assert_eq!(machine.containerd(&full).code, Some(0));
    assert_eq!(taken(&asked), Vec::<String>::new());

    let less = machine.containerd(&["--yes"]);
    assert_eq!(less.code, Some(0), "{less:?}");
    assert_eq!(taken(&asked), ["/v1/content/export", "/v1/content/release"]);
    let text = read(&machine.path("etc/config.toml"));
    assert!(!text.contains("hawker-content") && text.contains("[proxy_plugins.hawker]"));

    assert_eq!(machine.containerd(&full).code, Some(0));
    taken(&asked);
    let undone = machine.containerd(&["--undo"]);
    assert_eq!(undone.code, Some(0), "{undone:?}");
    assert_eq!(taken(&asked), ["/v1/content/export", "/v1/content/release"]);
    machine.assert_untouched();
    assert!(!machine.path("state/containerd.content").exists());
}

#[test]
fn without_hawkerd_nothing_of_the_full_profile_is_changed() {
    let (machine, _) = Machine::with_hawkerd(unwilling);
    let full = ["--yes", "--profile", "full"];
    let refused = machine.containerd(&full);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.error.contains("no room"), "{refused:?}");
    machine.assert_untouched();

    machine.unanswering();
    let refused = machine.containerd(&full);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.error.contains("systemctl status hawkerd"),
        "{refused:?}"
    );
    machine.assert_untouched();
}

#[test]
fn content_that_cannot_be_given_back_keeps_the_settings_unless_it_is_given_up() {
    let (machine, _) = Machine::with_hawkerd(willing);
    assert_eq!(
        machine.containerd(&["--yes", "--profile", "full"]).code,
        Some(0)
    );
    let after = machine.files();
    machine.unanswering();
    let refused = machine.containerd(&["--undo"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.error.contains("--without-content"), "{refused:?}");
    let refused = machine.containerd(&["--yes", "--profile", "mirror"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert_eq!(machine.files(), after);
    let undone = machine.containerd(&["--undo", "--without-content"]);
    assert_eq!(undone.code, Some(0), "{undone:?}");
    machine.assert_untouched();
}

#[test]
fn giving_back_that_is_killed_is_ended_by_the_next_run() {
    let (machine, asked) = Machine::with_hawkerd(willing);
    assert_eq!(
        machine.containerd(&["--yes", "--profile", "full"]).code,
        Some(0)
    );
    taken(&asked);
    let killed = ["--undo", "--restart-command", "kill -9 $PPID"];
    assert_eq!(machine.containerd(&killed).code, None);
    assert_eq!(taken(&asked), ["/v1/content/export"]);
    machine.assert_untouched();
    let ended = machine.containerd(&["--undo"]);
    assert!(ended.out.contains("cut short"), "{ended:?}");
    assert_eq!(taken(&asked), ["/v1/content/export", "/v1/content/release"]);
    assert!(
        machine
            .containerd(&["--undo"])
            .out
            .contains("nothing to undo")
    );
    assert_eq!(taken(&asked), Vec::<String>::new());
}

#[test]
fn full_profile_that_fails_to_restart_is_taken_back_with_what_came_meanwhile() {
    let (machine, asked) = Machine::with_hawkerd(willing);
    let words = ["--yes", "--profile", "full", "--restart-command", "false"];
    let failed = machine.containerd(&words);
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert!(
        failed.error.contains("everything is as it was"),
        "{failed:?}"
    );
    machine.assert_untouched();
    let paths = taken(&asked);
    assert_eq!(paths[..2], ["/v1/content/import", "/v1/content/export"]);
}

#[test]
fn import_that_fails_leaves_nothing_pinned() {
    let (machine, asked) = Machine::with_hawkerd(unwilling);
    let refused = machine.containerd(&["--yes", "--profile", "full"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.error.contains("no room"), "{refused:?}");
    machine.assert_untouched();
    assert_eq!(taken(&asked), ["/v1/content/import", "/v1/content/release"]);
    machine.assert_settled(&asked);
}

#[test]
fn import_that_is_killed_is_released_by_the_next_run() {
    for next in [&["--undo"][..], &["--yes", "--profile", "mirror"]] {
        let (machine, asked) = Machine::with_both(deadly);
        let [restart, _] = machine.restarts();
        let full = ["--yes", "--profile", "full", "--restart-command", &restart];
        assert_eq!(machine.containerd(&full).code, None);
        machine.assert_untouched();
        assert_eq!(taken(&asked), ["/v1/content/import"]);
        let ended = machine.containerd(next);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.out.contains("cut short"), "{ended:?}");
        assert_eq!(taken(&asked), ["/v1/content/release"]);
        machine.containerd(&["--undo"]);
        machine.assert_settled(&asked);
    }
}

#[test]
fn settings_that_cannot_be_written_leave_nothing_pinned() {
    if !nix::unistd::Uid::effective().is_root() {
        return;
    }
    let (machine, asked) = Machine::with_hawkerd(willing);
    let failed = machine.containerd_read_only(&["--yes", "--profile", "full"]);
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert!(failed.error.contains("read-only"), "{failed:?}");
    machine.assert_untouched();
    let paths = taken(&asked);
    let expected = [
        "/v1/content/import",
        "/v1/content/export",
        "/v1/content/release",
    ];
    assert_eq!(paths, expected);
    assert!(!machine.path("state/containerd.content").exists());
    machine.containerd(&["--undo"]);
    machine.assert_settled(&asked);
}

#[test]
fn giving_up_content_releases_it() {
    let (machine, asked) = Machine::with_hawkerd(willing);
    machine.containerd(&["--yes", "--profile", "full"]);
    taken(&asked);
    let undone = machine.containerd(&["--undo", "--without-content"]);
    assert_eq!(undone.code, Some(0), "{undone:?}");
    assert_eq!(taken(&asked), ["/v1/content/release"]);
    machine.assert_untouched();
    machine.assert_settled(&asked);
}

#[test]
fn giving_up_content_releases_it_once_hawkerd_is_back() {
    let (machine, asked) = Machine::with_hawkerd(willing);
    machine.containerd(&["--yes", "--profile", "full"]);
    taken(&asked);
    machine.unanswering();
    let undone = machine.containerd(&["--undo", "--without-content"]);
    assert_eq!(undone.code, Some(0), "{undone:?}");
    assert!(undone.out.contains("--undo once more"), "{undone:?}");
    machine.assert_untouched();
    machine.answering();
    assert_eq!(machine.containerd(&["--undo"]).code, Some(0));
    assert_eq!(taken(&asked), ["/v1/content/release"]);
    machine.assert_settled(&asked);
}

#[test]
fn given_up_content_is_kept_until_containerd_is_restarted() {
    let (machine, asked) = Machine::with_both(willing);
    let [on, off] = machine.restarts();
    let killed = format!("{on}; kill -9 $PPID");
    machine.containerd(&["--yes", "--profile", "full", "--restart-command", &killed]);
    taken(&asked);
    let undone = machine.containerd(&["--undo", "--without-content"]);
    assert_eq!(undone.code, Some(0), "{undone:?}");
    assert!(undone.out.contains("until it is restarted"), "{undone:?}");
    assert_eq!(taken(&asked), Vec::<String>::new());
    Command::new("sh").args(["-c", &off]).status().unwrap();
    assert_eq!(machine.containerd(&["--undo"]).code, Some(0));
    assert_eq!(taken(&asked), ["/v1/content/release"]);
    machine.assert_settled(&asked);
}

#[test]
fn switching_on_that_is_killed_after_the_restart_stays_and_can_be_taken_back() {
    let (machine, asked) = Machine::with_both(willing);
    let [on, off] = machine.restarts();
    let killed = format!("{on}; kill -9 $PPID");
    let full = ["--yes", "--profile", "full", "--restart-command", &killed];
    assert_eq!(machine.containerd(&full).code, None);
    let after = machine.files();
    // Nobody is there to be asked.
    let declined = ["--profile", "mirror", "--restart-command", &off];
    let declined = machine.containerd(&declined);
    assert_eq!(declined.code, Some(1), "{declined:?}");
    assert!(declined.out.contains("so they stay"), "{declined:?}");
    assert_eq!(machine.files(), after);
    taken(&asked);
    let done = machine.containerd(&["--yes", "--profile", "mirror", "--restart-command", &off]);
    assert_eq!(done.code, Some(0), "{done:?}");
    let expected = [
        "/v1/content/export",
        "/v1/content/export",
        "/v1/content/release",
    ];
    assert_eq!(taken(&asked), expected);
    machine.containerd(&["--undo"]);
    machine.assert_untouched();
    machine.assert_settled(&asked);
}

#[test]
fn switching_on_that_is_killed_before_the_restart_is_given_back_and_taken_back() {
    let (machine, asked) = Machine::with_both(willing);
    let full = [
        "--yes",
        "--profile",
        "full",
        "--restart-command",
        "kill -9 $PPID",
    ];
    assert_eq!(machine.containerd(&full).code, None);
    taken(&asked);
    let mirror = machine.containerd(&["--yes", "--profile", "mirror"]);
    assert_eq!(mirror.code, Some(0), "{mirror:?}");
    // It could have been restarted with them by anybody.
    assert_eq!(taken(&asked), ["/v1/content/export", "/v1/content/release"]);
    assert!(!read(&machine.path("etc/config.toml")).contains("hawker-content"));
    machine.containerd(&["--undo"]);
    machine.assert_untouched();
    machine.assert_settled(&asked);
}

#[test]
fn switching_off_that_is_killed_after_the_restart_stays_off() {
    let (machine, asked) = Machine::with_both(willing);
    let [on, off] = machine.restarts();
    let full = ["--yes", "--profile", "full", "--restart-command"];
    let killed = format!("{on}; kill -9 $PPID");
    machine.containerd(&[&full[..], &[killed.as_str()]].concat());
    let killed = format!("{off}; kill -9 $PPID");
    let mirror = ["--yes", "--profile", "mirror", "--restart-command", &killed];
    assert_eq!(machine.containerd(&mirror).code, None);
    let after = machine.files();
    taken(&asked);
    let ended = machine.containerd(&["--profile", "mirror"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.out.contains("so they stay"), "{ended:?}");
    assert_eq!(machine.files(), after);
    assert_eq!(taken(&asked), ["/v1/content/export", "/v1/content/release"]);
    machine.containerd(&["--undo"]);
    machine.assert_untouched();
    machine.assert_settled(&asked);
}
