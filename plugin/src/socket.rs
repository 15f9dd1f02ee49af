//! A unix socket's place in the file system, or the one that systemd listens on for us.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use tokio::net::{UnixListener, UnixStream};
use tracing::warn;

mod activation;

/// Which socket is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SocketPlace<'a> {
    /// Where.
    pub path: &'a Path,
    /// Who may use it.
    pub mode: u32,
    /// The setting that names it.
    pub key: &'static str,
}

/// A listening socket. Its file is removed when this is dropped, unless systemd holds it.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    held: bool,
}

impl SocketFile {
    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.held {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            warn!(path = %self.path.display(), %error, "cannot remove the socket");
        }
    }
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error(
        "another hawkerd answers on {path} ({key}): stop it, or give this one its own \
         `control.socket`, `containerd.socket`, `mirror.listen`, `p2p.listen`, `metrics.listen`, \
         `store.dir` and `snapshotter.dir`"
    )]
    Taken { path: PathBuf, key: &'static str },
    #[error("cannot {action} {path}: {source}; set `{key}` to a path that hawkerd may use")]
    Io {
        action: &'static str,
        path: PathBuf,
        key: &'static str,
        source: io::Error,
    },
}

/// The listener that systemd passes for this place (`hawkerd.socket`), which goes on
/// queueing connections while hawkerd is restarted; otherwise one of our own.
pub(crate) async fn activated_or_listen(
    place: SocketPlace<'_>,
) -> Result<(UnixListener, SocketFile), SocketError> {
    let passed = activation::take(place.path).map_err(|source| SocketError::Io {
        action: "take over from systemd",
        path: place.path.to_owned(),
        key: place.key,
        source,
    })?;
    let Some(listener) = passed else {
        return listen(place).await;
    };
    let file = SocketFile {
        path: place.path.to_owned(),
        held: true,
    };
    Ok((listener, file))
}

/// Listens on a socket of its own. One that nobody answers on is replaced; one that somebody
/// answers on, and everything that is no socket, stays.
pub(crate) async fn listen(
    place: SocketPlace<'_>,
) -> Result<(UnixListener, SocketFile), SocketError> {
    let SocketPlace { path, mode, key } = place;
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| SocketError::Io {
            action,
            path,
            key,
            source,
        }
    };
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(failed("create", dir))?;
    }
    if UnixStream::connect(path).await.is_ok() {
        let path = path.to_owned();
        return Err(SocketError::Taken { path, key });
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !is_socket(&found) => {
            let source = io::Error::other("it exists and is no socket");
            return Err(failed("replace", path)(source));
        }
        _ => {}
    }
    // Bound beside and moved into place, so that it never has another mode than it should.
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(beside);
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("replace", &beside)(error));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&beside).map_err(failed("listen on", &beside))?;
    fs::set_permissions(&beside, fs::Permissions::from_mode(mode))
        .and_then(|()| fs::rename(&beside, path))
        .map_err(failed("listen on", path))?;
    let file = SocketFile {
        path: path.to_owned(),
        held: false,
    };
    Ok((listener, file))
}

fn is_socket(found: &fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    found.file_type().is_socket()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(path: &Path) -> SocketPlace<'_> {
        SocketPlace {
            path,
            mode: 0o660,
            key: "control.socket",
        }
    }

    #[tokio::test]
    async fn stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/h.sock");
        let (listener, file) = listen(place(&path)).await.unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o660
        );
        assert!(matches!(
            listen(place(&path)).await,
            Err(SocketError::Taken { .. })
        ));
        // As after a kill: nobody listens, the file is still there.
        drop(listener);
        std::mem::forget(file);
        let (_listener, file) = listen(place(&path)).await.unwrap();
        drop(file);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        fs::write(&path, "x").unwrap();
        assert!(matches!(
            listen(place(&path)).await,
            Err(SocketError::Io { .. })
        ));
        assert_eq!(fs::read(&path).unwrap(), b"x");
    }
}
