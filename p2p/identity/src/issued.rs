//! What an authority has issued: one line for each certificate, so that a host's certificates can
//! be found when they are to be revoked.
//!
//! The file is only appended to. A line that a crash cut short is passed over, and so is one of a
//! later version that says more.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use hawker_model::{HostId, Role};

use crate::{moment::Moment, serial::Serial};

/// A file of issued certificates.
#[derive(Clone, Debug)]
pub struct IssuedLog {
    path: PathBuf,
}

/// One issued certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub serial: Serial,
    pub host: HostId,
    pub role: Role,
    pub issued: SystemTime,
    pub not_after: SystemTime,
    /// How it came to be: `ca`, `join <token id>`, `renew`. Without tabs and line ends.
    pub how: String,
}

/// Why the file cannot be read or added to.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the list of issued certificates {path}: {source}")]
pub struct IssuedLogError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl IssuedLog {
    /// A log in `path`, which need not be there.
    pub fn new(path: &Path) -> Self {
        let path = path.to_owned();
        Self { path }
    }

    /// Adds a certificate; durable when it returns.
    pub fn add(&self, record: &Record) -> Result<(), IssuedLogError> {
        // A line that was cut short must not swallow this one.
        let line = format!("\n{}\n", record.to_line());
        let add = || {
            let mut options = OpenOptions::new();
            let options = options.append(true).create(true).mode(0o600);
            let mut file = options.open(&self.path)?;
            file.write_all(line.as_bytes())?;
            file.sync_all()
        };
        add().map_err(|source| self.error("add to", source))
    }

    /// All certificates, oldest first; none where there is no file.
    pub fn read(&self) -> Result<Vec<Record>, IssuedLogError> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(self.error("read", source)),
        };
        let text = String::from_utf8_lossy(&text);
        Ok(text.lines().filter_map(Record::of_line).collect())
    }

    fn error(&self, action: &'static str, source: io::Error) -> IssuedLogError {
        let path = self.path.clone();
        IssuedLogError {
            action,
            path,
            source,
        }
    }
}

impl Record {
    fn to_line(&self) -> String {
        let how: String = self.how.chars().filter(|c| !c.is_control()).collect();
        let seconds = |time: SystemTime| Moment::from(time).to_unix();
        format!(
            "{}\t{}\t{}\t{}\t{}\t{how}",
            self.serial,
            self.host,
            self.role,
            seconds(self.issued),
            seconds(self.not_after)
        )
    }

    fn of_line(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split('\t').collect();
        let [serial, host, role, issued, not_after, how, ..] = fields[..] else {
            return None;
        };
        let time = |text: &str| Some(Moment::from_unix(text.parse().ok()?).to_system());
        Some(Self {
            serial: serial.parse().ok()?,
            host: HostId::parse(host).ok()?,
            role: role.parse().ok()?,
            issued: time(issued)?,
            not_after: time(not_after)?,
            how: how.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn record(serial: &str) -> Record {
        Record {
            serial: serial.parse().unwrap(),
            host: HostId::parse("node-1").unwrap(),
            role: Role::Node,
            issued: UNIX_EPOCH + Duration::from_secs(1),
            not_after: UNIX_EPOCH + Duration::from_secs(2),
            how: "join a1".to_owned(),
        }
    }

    #[test]
    fn records_survive_a_line_that_was_cut_short() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("issued.tsv");
        let log = IssuedLog::new(&path);
        assert_eq!(log.read().unwrap(), []);
        log.add(&record("0a")).unwrap();
        let mut text = fs::read(&path).unwrap();
        text.extend_from_slice(b"0b\tnode-1\tno");
        fs::write(&path, text).unwrap();
        log.add(&record("0c")).unwrap();
        assert_eq!(log.read().unwrap(), [record("0a"), record("0c")]);
    }
}
