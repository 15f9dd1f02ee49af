//! What `hawker setup containerd` does to containerd's content, with a hawkerd that answers as it is
//! told.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    sync::{Arc, Mutex},
    thread,
};

use super::{CONFIG, Machine, read};

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
}

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
    let text = format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}",
        answer(&path)
    );
    // It may have been killed meanwhile.
    let _ = reader.into_inner().write_all(text.as_bytes());
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

/// The paths that were asked for, and no others since.
fn taken(asked: &Mutex<Vec<String>>) -> Vec<String> {
    let asked = std::mem::take(&mut *asked.lock().unwrap());
    let path = |request: &String| request.split(' ').next().unwrap_or_default().to_owned();
    let paths = asked.iter().map(path);
    paths.filter(|path| path != "/v1/status").collect()
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
    assert!(!machine.path("state/containerd.giving-back").exists());
}

#[test]
fn without_hawkerd_nothing_of_the_full_profile_is_changed() {
    let (machine, _) = Machine::with_hawkerd(unwilling);
    let full = ["--yes", "--profile", "full"];
    let refused = machine.containerd(&full);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.error.contains("no room"), "{refused:?}");
    machine.assert_untouched();

    let settings = format!("[control]\nsocket = {:?}\n", machine.path("none.sock"));
    fs::write(machine.path("hawkerd.toml"), settings).unwrap();
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
    let settings = format!("[control]\nsocket = {:?}\n", machine.path("none.sock"));
    fs::write(machine.path("hawkerd.toml"), settings).unwrap();
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
