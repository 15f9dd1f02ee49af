//! The directory of one bed and what it is called.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// Where beds keep their files. Not under `/run` or `/var/lib`: hosts have those of their own.
#[must_use]
pub fn base_dir() -> PathBuf {
    std::env::var_os("HAWKER_TEST_VM_DIR")
        .map_or_else(|| PathBuf::from("/var/tmp/hawker-test-vm"), PathBuf::from)
}

/// Name and directory of a bed.
#[derive(Debug, Clone)]
pub struct Run {
    id: String,
    dir: PathBuf,
}

impl Run {
    pub(crate) fn create() -> Result<Self> {
        let base = base_dir();
        fs::create_dir_all(&base).with_context(|| format!("failed to make {}", base.display()))?;
        loop {
            let id = format!("{:06x}", rand::random::<u32>() & 0x00ff_ffff);
            let dir = base.join(&id);
            match fs::create_dir(&dir) {
                Ok(()) => return Ok(Self { id, dir }),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("failed to make {}", dir.display()));
                }
            }
        }
    }

    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The control group under which all containers of the bed run.
    #[must_use]
    pub fn cgroup(id: &str) -> String {
        format!("hawker-test-vm-{id}")
    }
}
