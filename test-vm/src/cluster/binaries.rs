//! Where Hawker's own programs are.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// A directory with the three programs.
#[derive(Debug, Clone)]
pub struct Binaries {
    dir: PathBuf,
}

impl Binaries {
    /// `$HAWKER_BIN_DIR`, else where the testbed itself was built.
    ///
    /// # Errors
    /// When a program is missing: names it and how to build it.
    pub fn find() -> Result<Self> {
        let dir = match std::env::var_os("HAWKER_BIN_DIR") {
            Some(dir) => PathBuf::from(dir),
            None => {
                let own = std::env::current_exe()?;
                own.parent()
                    .context("the testbed has no directory")?
                    .to_owned()
            }
        };
        for name in ["hawkerd", "hawker", "hawker-scheduler"] {
            let path = dir.join(name);
            ensure!(
                path.exists(),
                "{} is missing: build it with `cargo build --release`, or set HAWKER_BIN_DIR",
                path.display()
            );
        }
        Ok(Self { dir })
    }

    #[must_use]
    pub fn hawkerd(&self) -> PathBuf {
        self.dir.join("hawkerd")
    }

    #[must_use]
    pub fn hawker(&self) -> PathBuf {
        self.dir.join("hawker")
    }

    #[must_use]
    pub fn scheduler(&self) -> PathBuf {
        self.dir.join("hawker-scheduler")
    }

    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}
