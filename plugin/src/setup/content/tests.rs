//! A hawkerd that answers as it is told.

use std::{collections::HashMap, fs};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixListener,
};

use super::*;
use crate::setup::version::ContainerdVersion;

/// Answers one request with a status and a body, in two pieces. Gives what was asked.
async fn asked(status: &'static str, body: &'static str, ask: impl AsyncFnOnce(Mover)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let control = dir.path().join("h.sock");
    let listener = UnixListener::bind(&control).unwrap();
    let answer = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 4096];
        let length = stream.read(&mut request).await.unwrap();
        request.truncate(length);
        let (one, other) = body.split_at(body.len() / 2);
        let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n\r\n{one}");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        stream.write_all(other.as_bytes()).await.unwrap();
        drop(stream);
        String::from_utf8(request).unwrap()
    });
    ask(Mover::new(control, "/d".into())).await;
    answer.await.unwrap()
}

async fn moved(status: &'static str, body: &'static str) -> Result<(Moved, Vec<u64>), String> {
    let mut result = None;
    asked(status, body, async |mover| {
        let mut seen = Vec::new();
        let mut show = |progress: Progress| seen.push(progress.bytes);
        let moved = mover.move_all(Way::In, &mut show).await;
        result = Some(moved.map(|moved| (moved, seen)));
    })
    .await;
    result.unwrap().map_err(|error| error.to_string())
}

#[tokio::test]
async fn hawkerd_is_asked_and_tells_how_far_it_is() {
    let body = "{\"blobs\":0,\"blobs_total\":2,\"bytes\":3,\"bytes_total\":9}\n\
                {\"bytes\":6,\"bytes_total\":9}\n\
                {\"done\":{\"blobs\":2,\"bytes\":9,\"shared_bytes\":9,\"known\":1,\"skipped\":[\"x\"]}}\n";
    let (done, seen) = moved("200 OK", body).await.unwrap();
    assert_eq!(seen, [3, 6]);
    let expected = Moved {
        blobs: 2,
        bytes: 9,
        shared_bytes: 9,
        known: 1,
        skipped: vec!["x".to_owned()],
    };
    assert_eq!(done, expected);
    let request = asked("200 OK", "{\"done\":{}}\n", async |mover| {
        mover.move_all(Way::Out, &mut |_| ()).await.unwrap();
    })
    .await;
    assert!(request.starts_with("POST /v1/content/export "), "{request}");
    assert!(request.ends_with("{\"dir\":\"/d\"}"), "{request}");
    asked("200 OK", "{\"released\": 7}", async |mover| {
        assert_eq!(mover.release().await.unwrap(), 7);
    })
    .await;
}

#[tokio::test]
async fn what_does_not_come_to_its_end_has_failed() {
    let error = moved("200 OK", "{\"error\":\"no room\"}\n")
        .await
        .unwrap_err();
    assert!(error.contains("import /d: no room"), "{error}");
    let error = moved("409 Conflict", "{\"error\":\"another import\"}").await;
    assert!(error.unwrap_err().contains("another import"));
    let error = moved("200 OK", "{\"bytes\":3,\"bytes_total\":9}\n").await;
    assert!(error.unwrap_err().contains("no end"));
    let error = moved("200 OK", "<html>\n").await.unwrap_err();
    assert!(error.contains("its answer"), "{error}");
}

#[tokio::test]
async fn hawkerd_that_does_not_answer_is_named_with_what_that_means() {
    let mover = Mover::new("/nonexistent/h.sock".into(), "/d".into());
    let error = mover.reach(Way::In).await.unwrap_err().to_string();
    assert!(error.contains("systemctl status hawkerd"), "{error}");
    assert!(error.contains("nothing was changed"), "{error}");
}

#[tokio::test]
async fn directory_that_hawkerd_cannot_write_to_is_named_before_anything_is_moved() {
    let mut told = None;
    let answer = "{\"error\":\"cannot write in /d: Read-only file system\"}";
    let request = asked("409 Conflict", answer, async |mover| {
        told = Some(mover.reach(Way::In).await.unwrap_err().to_string());
    })
    .await;
    assert!(request.starts_with("POST /v1/content/try "), "{request}");
    let told = told.unwrap();
    assert!(
        told.contains("Read-only") && told.contains("ReadWritePaths="),
        "{told}"
    );
}

fn plugin(kind: &str, id: &str, root: &str) -> Plugin {
    let exports = HashMap::from([("root".to_owned(), root.to_owned())]);
    Plugin {
        kind: kind.to_owned(),
        id: id.to_owned(),
        exports: if root.is_empty() {
            HashMap::new()
        } else {
            exports
        },
        error: None,
    }
}

#[test]
fn own_store_is_found_by_what_containerd_says_of_itself() {
    let local = plugin(
        CONTENT_KIND,
        "content",
        "/r/io.containerd.content.v1.content",
    );
    let ours = plugin(CONTENT_KIND, CONTENT, "");
    let overlay = "io.containerd.snapshotter.v1";
    let overlay = plugin(
        overlay,
        "overlayfs",
        "/s/io.containerd.snapshotter.v1.overlayfs",
    );
    let proxy = plugin(
        "io.containerd.snapshotter.v1",
        "hawker",
        "/var/lib/hawker/snapshotter",
    );
    let text = "version = 2\nroot = \"/t\"\n[proxy_plugins.hawker-content]\ntype = \"content\"\n";
    let version = ContainerdVersion::new(1, 7, 24);
    let settings = Settings::parse(Path::new("x"), text, version).unwrap();
    let dir = |plugins: Option<&[Plugin]>, settings| local_dir(plugins, settings);
    let name = "io.containerd.content.v1.content";
    assert_eq!(
        dir(Some(std::slice::from_ref(&local)), None),
        Path::new("/r").join(name)
    );
    let full = [proxy.clone(), ours.clone(), overlay];
    assert_eq!(dir(Some(&full), None), Path::new("/s").join(name));
    assert_eq!(
        dir(Some(&[proxy]), Some(&settings)),
        Path::new("/t").join(name)
    );
    assert_eq!(dir(None, None), Path::new("/var/lib/containerd").join(name));

    assert!(is_ours(Some(&[ours]), None));
    assert!(is_ours(None, Some(&settings)));
    // What runs counts, not what was written.
    assert!(!is_ours(Some(&[local]), Some(&settings)));
    assert!(!is_ours(None, None));
}

#[test]
fn note_of_what_is_to_be_done_outlives_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let pending = Pending::new(dir.path());
    let noted = || Pending::new(dir.path()).noted().unwrap();
    assert_eq!(noted(), None);
    pending.owe(Debt::Release).unwrap();
    assert_eq!(noted(), Some(Debt::Release));
    pending.owe(Debt::GiveBack).unwrap();
    pending.owe(Debt::Release).unwrap();
    assert_eq!(noted(), Some(Debt::GiveBack));
    pending.note(Debt::Release).unwrap();
    assert_eq!(noted(), Some(Debt::Release));
    pending.forget().unwrap();
    pending.forget().unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
