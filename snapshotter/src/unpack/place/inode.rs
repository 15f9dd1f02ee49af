//! What an entry says, in the kernel's words.

use nix::{
    libc::dev_t,
    sys::{
        stat::{FileStat, Mode, SFlag, makedev},
        time::TimeSpec,
    },
    unistd::{Gid, Uid},
};

use crate::unpack::{dirs::Times, error::Refusal, tar::Entry};

pub(super) fn file_type(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

pub(super) fn mode(entry: &Entry) -> Mode {
    Mode::from_bits_truncate(entry.mode)
}

pub(super) fn is_set_id(entry: &Entry) -> bool {
    entry.mode & 0o6000 != 0
}

pub(super) fn owner(entry: &Entry) -> (Uid, Gid) {
    (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid))
}

/// The numbers of a device as the kernel counts them: 12 bits and 20 bits.
pub(super) fn device(entry: &Entry) -> Result<dev_t, Refusal> {
    match (u64::try_from(entry.device.0), u64::try_from(entry.device.1)) {
        (Ok(major @ 0..0x1000), Ok(minor @ 0..0x10_0000)) => Ok(makedev(major, minor)),
        _ => Err(Refusal::Device),
    }
}

/// When it was accessed and modified, as containerd has it: never accessed before it was modified,
/// and 1970 for what 64 bits of nanoseconds since then cannot say.
pub(super) fn times(entry: &Entry) -> Times {
    let accessed = entry.accessed.unwrap_or(entry.modified);
    (
        bounded(accessed.max(entry.modified)),
        bounded(entry.modified),
    )
}

fn bounded(time: i128) -> TimeSpec {
    const NANOS: i64 = 1_000_000_000;
    let nanos = i64::try_from(time).unwrap_or_default().max(0);
    TimeSpec::new(nanos / NANOS, nanos % NANOS)
}

pub(super) fn stat_times(stat: &FileStat) -> Times {
    (
        TimeSpec::new(stat.st_atime, stat.st_atime_nsec),
        TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec),
    )
}
