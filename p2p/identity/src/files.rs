//! Certificates and keys as files.
//!
//! A file appears whole or not at all, keys with mode 0600 from their first byte on, and nothing
//! that exists is overwritten unless the caller says so.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::{ClusterCa, Issued, credentials::Credentials};

/// Where a host's certificate files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The cluster's authority; several while it is being exchanged.
    pub ca: PathBuf,
    /// The host's certificate.
    pub cert: PathBuf,
    /// The host's key.
    pub key: PathBuf,
    /// The authorities' lists of revoked certificates; need not be there. The daemon adds what it
    /// is told ([`crate::Identity::keep_lists`]).
    pub crl: PathBuf,
}

impl TlsFiles {
    /// `ca.pem`, `cert.pem`, `key.pem` and `crl.pem` of a directory.
    pub fn in_dir(dir: &Path) -> Self {
        Self {
            ca: dir.join("ca.pem"),
            cert: dir.join("cert.pem"),
            key: dir.join("key.pem"),
            crl: dir.join("crl.pem"),
        }
    }

    /// Where a new key waits until its certificate is there.
    fn next_key(&self) -> PathBuf {
        beside(&self.key, ".next")
    }

    /// All lists that the daemon has ever believed: it remembers them whatever is put in the place
    /// of [`Self::crl`] while it does not run.
    pub(crate) fn known_crl(&self) -> PathBuf {
        beside(&self.crl, ".known")
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Where a cluster authority's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Its list of revoked certificates; not there before the first.
    pub crl: PathBuf,
    /// What it has issued, see [`crate::IssuedLog`].
    pub issued: PathBuf,
}

impl AuthorityFiles {
    /// `ca.pem`, `ca-key.pem`, `crl.pem` and `issued.tsv` of a directory.
    pub fn in_dir(dir: &Path) -> Self {
        Self {
            cert: dir.join("ca.pem"),
            key: dir.join("ca-key.pem"),
            crl: dir.join("crl.pem"),
            issued: dir.join("issued.tsv"),
        }
    }

    /// Reads the authority back.
    pub fn load(&self) -> Result<ClusterCa, WriteError> {
        let read = |path: &Path| fs::read_to_string(path).map_err(WriteError::io("read", path));
        let (cert, key) = (read(&self.cert)?, read(&self.key)?);
        ClusterCa::load(&cert, &key).map_err(|source| WriteError::Authority {
            path: self.cert.clone(),
            source,
        })
    }
}

/// What happens to files that exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// They stay; writing fails before anything is changed.
    Keep,
    /// They are replaced.
    Replace,
}

/// Why certificate files could not be written or read back.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("{0} exists and is not overwritten unless forced")]
    Exists(PathBuf),
    #[error("cannot {action} {path}: {source}")]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{path}: {source}")]
    Authority {
        path: PathBuf,
        source: crate::CaError,
    },
}

impl WriteError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::AlreadyExists => Self::Exists(path),
            _ => Self::Io {
                action,
                path,
                source,
            },
        }
    }
}

/// Writes an authority as `ca.pem` and `ca-key.pem` (0600) into a directory, which is made.
pub fn write_authority(
    dir: &Path,
    authority: &ClusterCa,
    existing: Existing,
) -> Result<AuthorityFiles, WriteError> {
    let files = AuthorityFiles::in_dir(dir);
    let contents = [
        NewFile::secret(&files.key, authority.key_pem()),
        NewFile::public(&files.cert, authority.cert_pem().to_owned()),
    ];
    write_all(dir, &contents, existing)?;
    Ok(files)
}

/// Writes a host's files as `ca.pem`, `cert.pem` and `key.pem` (0600) into a directory, which is
/// made. A `ca.pem` that says the same already does not count as existing.
pub fn write_host(
    dir: &Path,
    authority_pem: &str,
    issued: &Issued,
    existing: Existing,
) -> Result<TlsFiles, WriteError> {
    let files = TlsFiles::in_dir(dir);
    let mut contents = vec![
        NewFile::secret(&files.key, issued.key_pem.clone()),
        NewFile::public(&files.cert, issued.cert_pem.clone()),
    ];
    if fs::read(&files.ca).ok().as_deref() != Some(authority_pem.as_bytes()) {
        contents.push(NewFile::public(&files.ca, authority_pem.to_owned()));
    }
    write_all(dir, &contents, existing)?;
    Ok(files)
}

/// Replaces a host's certificate and key. Whenever that is cut short, the next start or reload
/// finds either the old pair or the new one.
pub fn replace_pair(files: &TlsFiles, cert_pem: &str, key_pem: &str) -> Result<(), WriteError> {
    let next = files.next_key();
    write_secret(&next, key_pem)?;
    write_public(&files.cert, cert_pem)?;
    // From here on the certificate belongs to the next key; see `finish_renewal`.
    fs::rename(&next, &files.key).map_err(WriteError::io("replace", &files.key))?;
    sync_dir_of(&files.key)
}

/// Takes the next key into use; says whether there was one. To be called when the certificate does
/// not belong to the key.
pub(crate) fn finish_renewal(files: &TlsFiles) -> bool {
    let next = files.next_key();
    let (Ok(cert), Ok(key)) = (fs::read(&files.cert), fs::read(&next)) else {
        return false;
    };
    Credentials::from_pem(&cert, &key, files).is_ok() && fs::rename(&next, &files.key).is_ok()
}

/// Writes or replaces a file that anybody may read, whole or not at all.
pub fn write_public(path: &Path, text: &str) -> Result<(), WriteError> {
    write_one(&NewFile::public(path, text.to_owned()), Existing::Replace)?;
    sync_dir_of(path)
}

/// Writes or replaces a file that only its owner may read (0600), whole or not at all.
pub fn write_secret(path: &Path, text: &str) -> Result<(), WriteError> {
    write_one(&NewFile::secret(path, text.to_owned()), Existing::Replace)?;
    sync_dir_of(path)
}

fn sync_dir_of(path: &Path) -> Result<(), WriteError> {
    match path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        Some(dir) => sync_dir(dir),
        None => sync_dir(Path::new(".")),
    }
}

fn sync_dir(dir: &Path) -> Result<(), WriteError> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(WriteError::io("sync", dir))
}

struct NewFile<'a> {
    path: &'a Path,
    mode: u32,
    text: String,
}

impl<'a> NewFile<'a> {
    fn secret(path: &'a Path, text: String) -> Self {
        let mode = 0o600;
        Self { path, mode, text }
    }

    fn public(path: &'a Path, text: String) -> Self {
        let mode = 0o644;
        Self { path, mode, text }
    }
}

fn write_all(dir: &Path, files: &[NewFile<'_>], existing: Existing) -> Result<(), WriteError> {
    fs::create_dir_all(dir).map_err(WriteError::io("create", dir))?;
    if existing == Existing::Keep {
        for file in files {
            // Also a dangling link counts as existing.
            if file.path.symlink_metadata().is_ok() {
                return Err(WriteError::Exists(file.path.to_owned()));
            }
        }
    }
    for file in files {
        write_one(file, existing)?;
    }
    sync_dir(dir)
}

fn write_one(file: &NewFile<'_>, existing: Existing) -> Result<(), WriteError> {
    // Two threads may write the same file; the later one's stays.
    static DRAFTS: AtomicU64 = AtomicU64::new(0);
    let draft = DRAFTS.fetch_add(1, Relaxed);
    let mut name = file.path.as_os_str().to_owned();
    name.push(format!(".{}.{draft}.new", std::process::id()));
    let draft = PathBuf::from(name);
    let written = write_draft(&draft, file).and_then(|()| match existing {
        // A hard link fails where the name is taken, a rename replaces; both are atomic.
        Existing::Keep => fs::hard_link(&draft, file.path),
        Existing::Replace => fs::rename(&draft, file.path),
    });
    // After a rename there is none any more; after a failure it is of no use.
    let _ = fs::remove_file(&draft);
    written.map_err(WriteError::io("write", file.path))
}

fn write_draft(draft: &Path, file: &NewFile<'_>) -> io::Result<()> {
    match fs::remove_file(draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    let mut new = options
        .write(true)
        .create_new(true)
        .mode(file.mode)
        .open(draft)?;
    new.write_all(file.text.as_bytes())?;
    new.sync_all()
}
