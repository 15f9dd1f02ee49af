//! The directory of one bed and what it is called.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

const IN_MEMORY: &str = "/dev/shm/hawker-test-vm";
const ON_DISK: &str = "/var/tmp/hawker-test-vm";
/// Free memory from which on hosts keep their files there.
const AMPLE: u64 = 10 << 30;

/// Where new beds keep their files: `$HAWKER_TEST_VM_DIR`, else memory where that is ample, since
/// thousands of unpacked files are then gone at once, else the disk.
#[must_use]
pub fn base_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("HAWKER_TEST_VM_DIR") {
        return PathBuf::from(dir);
    }
    PathBuf::from(if is_memory_ample() {
        IN_MEMORY
    } else {
        ON_DISK
    })
}

/// What a bed wants of where its files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Place {
    #[default]
    Anywhere,
    /// A file system as nodes have it, for measuring.
    Disk,
}

fn disk_dir() -> PathBuf {
    std::env::var_os("HAWKER_TEST_VM_DIR").map_or_else(|| PathBuf::from(ON_DISK), PathBuf::from)
}

/// Everywhere that beds may have been made.
pub(super) fn base_dirs() -> Vec<PathBuf> {
    let mut dirs = vec![base_dir(), IN_MEMORY.into(), ON_DISK.into()];
    dirs.sort();
    dirs.dedup();
    dirs
}

fn is_memory_ample() -> bool {
    let free = nix::sys::statvfs::statvfs("/dev/shm");
    let free = free.map_or(0, |it| {
        it.blocks_available().saturating_mul(it.fragment_size())
    });
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let available = available.and_then(|it| it.split_whitespace().next()?.parse::<u64>().ok());
    free >= AMPLE && available.unwrap_or_default().saturating_mul(1024) >= AMPLE
}

/// Name and directory of a bed.
#[derive(Debug, Clone)]
pub struct Run {
    id: String,
    dir: PathBuf,
}

impl Run {
    pub(crate) fn create(place: Place) -> Result<Self> {
        let base = match place {
            Place::Anywhere => base_dir(),
            Place::Disk => disk_dir(),
        };
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
