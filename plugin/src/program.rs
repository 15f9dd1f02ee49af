//! The pages of the program itself.
//!
//! To start takes most of the program: settings, certificates, databases, doors. Hardly any of that
//! is run again, but its pages stay mapped, with those around them that the kernel maps along: some
//! 12 MiB, of all that hawkerd needs the largest part by far. Mapped code is also what the kernel
//! takes away last. So it is given back once the start is over.
#![allow(unsafe_code, reason = "the one file for it")]

use std::{ffi::c_void, fs, io, path::Path, ptr};

use nix::libc;

/// Gives the pages of the program's code back to the page cache, and tells how many bytes of
/// addresses that concerned. What is run again is mapped again, page by page, without being read
/// from the disk as long as the cache has it.
pub fn unmap_program() -> io::Result<usize> {
    let program = fs::read_link("/proc/self/exe")?;
    let maps = fs::read_to_string("/proc/self/maps")?;
    let mut len = 0;
    for code in maps.lines().filter_map(|line| Code::parse(line, &program)) {
        code.unmap()?;
        len += code.len;
    }
    Ok(len)
}

/// Where code of the program is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Code {
    start: usize,
    len: usize,
}

impl Code {
    /// Reads a line of `/proc/PID/maps`: `start-end r-xp offset device inode path`. Code is what can be
    /// run and not be written.
    fn parse(line: &str, program: &Path) -> Option<Self> {
        let mut fields = line.splitn(6, ' ');
        let (start, end) = fields.next()?.split_once('-')?;
        let is_code = fields.next()? == "r-xp";
        let path = fields.nth(3)?.trim_start();
        if !is_code || Path::new(path) != program {
            return None;
        }
        let [start, end] = [start, end].map(|text| usize::from_str_radix(text, 16).ok());
        let (start, end) = (start?, end?);
        Some(Self {
            start,
            len: end.checked_sub(start)?,
        })
    }

    fn unmap(self) -> io::Result<()> {
        let address = ptr::without_provenance_mut::<c_void>(self.start);
        // SAFETY: the range is a mapping of the program's file that is not written to (`r-xp`, and the
        // linker leaves no relocations in code): every page of it is the file's, and read from there
        // again when it is next touched. The file cannot be changed while it is run (ETXTBSY).
        let done = unsafe { libc::madvise(address, self.len, libc::MADV_DONTNEED) };
        match done {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_the_program_itself_is_meant() {
        let of = |line: &str| Code::parse(line, Path::new("/usr/bin/hawker d"));
        let code = "55d0-77d0 r-xp 00632000 fe:00 1234                       /usr/bin/hawker d";
        let (start, len) = (0x55d0, 0x2200);
        assert_eq!(of(code), Some(Code { start, len }));
        for other in [
            &code.replace("r-xp", "r--p"),
            &code.replace("r-xp", "rw-p"),
            &code.replace("r-xp", "rwxp"),
            &code.replace("hawker d", "hawker"),
            "7f00-7f10 r-xp 00000000 00:00 0                          [vdso]",
            "7f00-7f10 r-xp 00000000 00:00 0 ",
            "",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn the_program_runs_on_when_its_pages_were_given_back() {
        for _ in 0..3 {
            assert!(unmap_program().unwrap() > 0);
        }
    }
}
