//! What is in files.

use std::{fs::File, io::Write, os::unix::fs::FileExt as _};

use crate::unpack::{
    error::Fault,
    pipe::Input,
    tar::{Extent, Tar},
};

/// Writes all data of the entry.
pub(super) fn copy<I: Input>(tar: &mut Tar<I>, file: &mut File) -> Result<(), Fault> {
    loop {
        let data = tar.data()?;
        let len = data.len();
        if len == 0 {
            return Ok(());
        }
        file.write_all(data).map_err(write_fault)?;
        tar.consume(len);
    }
}

/// Writes the data of a sparse file to their places; what lies between stays a hole.
pub(super) fn copy_extents<I: Input>(
    tar: &mut Tar<I>,
    file: &File,
    extents: &[Extent],
    size: u64,
) -> Result<(), Fault> {
    for extent in extents {
        let mut at = extent.offset;
        let end = extent.offset + extent.len;
        while at < end {
            let data = tar.data()?;
            let len = usize::try_from(end - at).map_or(data.len(), |left| left.min(data.len()));
            file.write_all_at(&data[..len], at).map_err(write_fault)?;
            tar.consume(len);
            at += len as u64;
        }
    }
    file.set_len(size).map_err(write_fault)
}

fn write_fault(error: std::io::Error) -> Fault {
    Fault::Io {
        what: "write",
        error,
    }
}
