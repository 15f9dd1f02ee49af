//! One daemon per directory.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use super::OpenSnapshotsError;

/// Makes the directory and takes it. The lock ends with the file or the process.
pub(super) fn acquire(dir: &Path) -> Result<Flock<File>, OpenSnapshotsError> {
    let failed = |cause| OpenSnapshotsError::Directory {
        dir: dir.to_owned(),
        cause,
    };
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(dir).map_err(failed)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600);
    let file = options.open(dir.join("lock")).map_err(failed)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            // For whoever finds it taken; nothing depends on it.
            let written = lock
                .set_len(0)
                .and_then(|()| write!(lock, "{}", std::process::id()));
            written.map_err(failed)?;
            Ok(lock)
        }
        Err((mut file, Errno::EWOULDBLOCK)) => {
            let mut pid = String::new();
            let read = file.read_to_string(&mut pid);
            Err(OpenSnapshotsError::InUse {
                dir: dir.to_owned(),
                pid: read.ok().and_then(|_| pid.trim().parse().ok()),
            })
        }
        Err((_, error)) => Err(failed(error.into())),
    }
}
