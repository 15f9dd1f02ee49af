//! A download on its way into a file: hashed as it comes, under its name only when it is whole.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use hawker_model::Digest;
use sha2::{Digest as _, Sha256};

use super::CliError;

/// `FILE.part`, removed unless it is kept as `FILE`.
pub(super) struct Saving {
    target: PathBuf,
    part: PathBuf,
    file: File,
    hasher: Sha256,
    length: u64,
    kept: bool,
}

impl Saving {
    pub(super) fn create(target: &Path) -> Result<Self, CliError> {
        if target.is_dir() {
            return Err(CliError::NotSaved(format!(
                "{} is a directory: give the name of a file with -o",
                target.display()
            )));
        }
        let mut part = target.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = File::create(&part).map_err(cannot("create", &part))?;
        Ok(Self {
            target: target.to_owned(),
            part,
            file,
            hasher: Sha256::new(),
            length: 0,
            kept: false,
        })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        let written = self.file.write_all(bytes);
        written.map_err(cannot("write", &self.part))
    }

    /// Checks length and digest, and gives the file its name.
    pub(super) fn keep(
        mut self,
        length: Option<u64>,
        wanted: Option<Digest>,
    ) -> Result<Digest, CliError> {
        if let Some(length) = length
            && length != self.length
        {
            return Err(CliError::Failed(format!(
                "{} of {length} bytes came: the transfer was cut",
                self.length
            )));
        }
        let got = Digest::from_bytes(self.hasher.clone().finalize().into());
        match wanted {
            Some(wanted) if wanted != got => {
                return Err(CliError::WrongDigest(format!(
                    "the bytes have digest {got}, wanted {wanted}: nothing was saved"
                )));
            }
            _ => {}
        }
        self.file.sync_all().map_err(cannot("write", &self.part))?;
        fs::rename(&self.part, &self.target).map_err(cannot("create", &self.target))?;
        self.kept = true;
        Ok(got)
    }
}

impl Drop for Saving {
    fn drop(&mut self) {
        if !self.kept {
            // What is left of a failed download helps nobody; nor does a second error.
            let _ = fs::remove_file(&self.part);
        }
    }
}

fn cannot<'a>(action: &'a str, path: &'a Path) -> impl FnOnce(io::Error) -> CliError + 'a {
    move |error| CliError::NotSaved(format!("cannot {action} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_appears_only_when_it_is_right() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("f");
        let saved = |bytes: &[u8], length, wanted| {
            let mut saving = Saving::create(&target).unwrap();
            saving.write(bytes).unwrap();
            saving.keep(length, wanted)
        };
        let wanted = Some(Digest::of(b"abc"));
        assert!(matches!(
            saved(b"abd", Some(3), wanted),
            Err(CliError::WrongDigest(_))
        ));
        assert!(matches!(
            saved(b"ab", Some(3), None),
            Err(CliError::Failed(_))
        ));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(saved(b"abc", Some(3), wanted).unwrap(), Digest::of(b"abc"));
        assert_eq!(fs::read(&target).unwrap(), b"abc");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
