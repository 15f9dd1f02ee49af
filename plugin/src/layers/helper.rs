//! Docker's credential helpers: programs that keep logins elsewhere than in a file.

use std::{ffi::OsString, io, process::Stdio, time::Duration};

use hawker_p2p::{Account, Login};
use hawker_swarm::Secret;
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
};

/// How long a helper may take: some ask a cloud's metadata service.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer that is read, in bytes.
const MAX_ANSWER_LEN: u64 = 64 << 10;
/// The user name that stands for an identity token.
const TOKEN_USER: &str = "<token>";

/// Why a helper gives no login. Never holds what it wrote: that may be a login.
#[derive(Debug, thiserror::Error)]
pub(super) enum HelperError {
    #[error("{0:?} is no name of a credential helper")]
    Name(String),
    #[error(
        "cannot run {program}: {source}; put it into a directory of the PATH that hawkerd runs with"
    )]
    Start { program: String, source: io::Error },
    #[error("{program} failed: {source}")]
    Pipe { program: String, source: io::Error },
    #[error("{program} did not answer within {} s", PATIENCE.as_secs())]
    Slow { program: String },
    #[error("{program} answered with something other than a login")]
    Answer { program: String },
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// The login that the helper `name` keeps for `server`; `None` if it keeps none. `path` is where
/// it is looked for in place of the `PATH`. Kills a helper that takes too long.
pub(super) async fn ask(
    name: &str,
    server: &str,
    path: Option<&OsString>,
) -> Result<Option<Account>, HelperError> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || !name.chars().all(is_name) {
        return Err(HelperError::Name(name.to_owned()));
    }
    let program = format!("docker-credential-{name}");
    let mut command = Command::new(&program);
    if let Some(path) = path {
        command.env("PATH", path);
    }
    // A service has none; helpers look for their own settings there.
    if std::env::var_os("HOME").is_none() {
        command.env("HOME", "/root");
    }
    command
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let child = command.spawn().map_err(|source| HelperError::Start {
        program: program.clone(),
        source,
    })?;
    let conversation = tokio::time::timeout(PATIENCE, converse(child, server)).await;
    let (succeeded, answer) = conversation
        .map_err(|_| HelperError::Slow {
            program: program.clone(),
        })?
        .map_err(|source| HelperError::Pipe {
            program: program.clone(),
            source,
        })?;
    // "Not found" is told like every other failure, by the status.
    if !succeeded {
        return Ok(None);
    }
    let answer: Answer =
        serde_json::from_slice(&answer).map_err(|_| HelperError::Answer { program })?;
    Ok(account(answer))
}

async fn converse(mut child: Child, server: &str) -> io::Result<(bool, Vec<u8>)> {
    if let Some(mut input) = child.stdin.take() {
        // A helper that answers without reading is its own matter.
        let _ = input.write_all(server.as_bytes()).await;
    }
    let mut answer = Vec::new();
    if let Some(output) = child.stdout.take() {
        output.take(MAX_ANSWER_LEN).read_to_end(&mut answer).await?;
    }
    let status = child.wait().await?;
    Ok((status.success(), answer))
}

fn account(answer: Answer) -> Option<Account> {
    let secret = Secret::new(answer.secret);
    match answer.username.as_str() {
        _ if secret.expose().is_empty() => None,
        TOKEN_USER => Some(Account::IdentityToken(secret)),
        _ => Some(Account::Login(Login {
            username: answer.username,
            password: secret,
        })),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, path::Path};

    use super::*;

    fn write(dir: &Path, name: &str, script: &str) {
        let path = dir.join(format!("docker-credential-{name}"));
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn path(dir: &Path) -> OsString {
        let mut path = dir.as_os_str().to_owned();
        path.push(":/usr/bin:/bin");
        path
    }

    #[tokio::test]
    async fn helpers_give_logins_and_identity_tokens() {
        let dir = tempfile::tempdir().unwrap();
        let answer =
            r#"read server; printf '{"ServerURL":"%s","Username":"%s","Secret":"%s"}' "$server""#;
        write(
            dir.path(),
            "login",
            &format!("{answer} ann \"pw-$1-$server\""),
        );
        write(dir.path(), "token", &format!("{answer} '<token>' t"));
        write(dir.path(), "none", "echo 'credentials not found'; exit 1");
        let path = path(dir.path());
        let ask = |name| ask(name, "r.io", Some(&path));
        let login = Login {
            username: "ann".to_owned(),
            password: Secret::new("pw-get-r.io"),
        };
        assert_eq!(ask("login").await.unwrap(), Some(Account::Login(login)));
        let token = Account::IdentityToken(Secret::new("t"));
        assert_eq!(ask("token").await.unwrap(), Some(token));
        assert_eq!(ask("none").await.unwrap(), None);
    }

    #[tokio::test]
    async fn helpers_that_fail_are_told_without_what_they_wrote() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "odd", "echo hush");
        write(dir.path(), "endless", "while :; do echo hush; done");
        let path = path(dir.path());
        for name in ["odd", "missing", "../odd", ""] {
            let error = ask(name, "r.io", Some(&path))
                .await
                .unwrap_err()
                .to_string();
            assert!(!error.contains("hush"), "{error}");
        }
        // Its pipe is closed once it has said too much.
        assert_eq!(ask("endless", "r.io", Some(&path)).await.unwrap(), None);
    }
}
