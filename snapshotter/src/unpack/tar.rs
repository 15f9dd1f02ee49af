//! The tar as a sequence of entries, read as Go's `archive/tar` reads it, since that is what
//! containerd's differ stands on. No file and no thread is known here: bytes come from an
//! [`Input`], entries go out.
//!
//! Why not the `tar` crate: it splits PAX records at newlines, so binary attributes
//! (`security.capability`) are lost; it knows no sparse files in PAX form and shows no holes; it
//! reads records of any length into memory; and it takes what is malformed for absent.
//!
//! Where Go's reader takes the last of several contradicting headers, this one refuses the tar:
//! whatever two readers may understand differently is no layer.

mod entry;
mod header;
mod number;
mod pax;
mod sparse;

pub(super) use self::{
    entry::{Entry, Kind},
    sparse::Extent,
};
use self::{
    entry::{kind, owner, replace},
    header::{BLOCK, Block, Dialect, Header},
    pax::Records,
    sparse::{DataMap, Form},
};
use super::{
    error::{Fault, Refusal, TarFault},
    limits::Limits,
    pipe::Input,
};

/// Headers that describe the next entry, of which each may be there once.
#[derive(Default)]
struct Pending {
    records: Option<Records>,
    path: bool,
    link: bool,
}

/// A tar that is being read.
pub(super) struct Tar<I> {
    input: I,
    limits: Limits,
    block: Block,
    long_path: Vec<u8>,
    long_link: Vec<u8>,
    /// Bytes of the entry's data that were not taken yet, and those that fill its last block.
    left: u64,
    padding: u64,
    started: bool,
}

impl<I: Input> Tar<I> {
    pub(super) fn new(input: I, limits: Limits) -> Self {
        Self {
            input,
            limits,
            block: Block::default(),
            long_path: Vec::new(),
            long_link: Vec::new(),
            left: 0,
            padding: 0,
            started: false,
        }
    }

    /// What the bytes came from, with those behind the end of the archive.
    pub(super) fn into_input(self) -> I {
        self.input
    }

    /// Reads the next entry's headers; what was not taken of the last one's data is skipped. False
    /// at the end of the archive. After an error `entry.path` is the name as far as it is known.
    pub(super) fn next(&mut self, entry: &mut Entry) -> Result<bool, Fault> {
        entry.clear();
        self.skip_data()?;
        let mut pending = Pending::default();
        while self.read_block()? {
            if self.block.is_zero() {
                pending.check_none()?;
                return self.read_end().map(|()| false);
            }
            let header = Header::parse(&self.block, &mut entry.path, &mut entry.link)?;
            if !self.read_extension(&header, entry, &mut pending)? {
                return self.describe(&header, entry, pending).map(|()| true);
            }
        }
        match self.started {
            true => Err(TarFault::NoEnd.into()),
            // An empty blob is an empty layer to containerd as well (docker/docker#18170).
            false => Ok(false),
        }
    }

    /// The data that come next, at least one byte; none at the end of the entry.
    pub(super) fn data(&mut self) -> Result<&[u8], Fault> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let data = self.input.fill()?;
        if data.is_empty() {
            return Err(TarFault::Truncated.into());
        }
        let len = usize::try_from(self.left).map_or(data.len(), |left| left.min(data.len()));
        Ok(&data[..len])
    }

    /// Counts `len` bytes of data as taken.
    pub(super) fn consume(&mut self, len: usize) {
        self.input.consume(len);
        self.left = self.left.saturating_sub(len as u64);
    }

    fn skip_data(&mut self) -> Result<(), Fault> {
        self.left += std::mem::take(&mut self.padding);
        while self.left > 0 {
            let len = self.data()?.len();
            self.consume(len);
        }
        Ok(())
    }

    /// Expects `len` bytes of data, and what fills their last block.
    fn expect(&mut self, len: u64) {
        self.left = len;
        self.padding = len.wrapping_neg() % BLOCK as u64;
    }

    /// Reads one block; false when there is nothing more.
    fn read_block(&mut self) -> Result<bool, Fault> {
        let mut len = 0;
        while len < BLOCK {
            let bytes = self.input.fill()?;
            if bytes.is_empty() {
                break;
            }
            let taken = bytes.len().min(BLOCK - len);
            self.block.0[len..len + taken].copy_from_slice(&bytes[..taken]);
            self.input.consume(taken);
            len += taken;
        }
        self.started |= len > 0;
        match len {
            0 => Ok(false),
            BLOCK => Ok(true),
            _ => Err(TarFault::Truncated.into()),
        }
    }

    /// Behind the first zero block: there must be another.
    fn read_end(&mut self) -> Result<(), Fault> {
        match self.read_block()? {
            false => Err(TarFault::NoEnd.into()),
            true if self.block.is_zero() => Ok(()),
            true => Err(TarFault::LoneZeroBlock.into()),
        }
    }

    /// Reads a header that is not an entry but about one. False when it is an entry.
    fn read_extension(
        &mut self,
        header: &Header,
        entry: &mut Entry,
        pending: &mut Pending,
    ) -> Result<bool, Fault> {
        match header.kind {
            b'x' => {
                once(pending.records.is_some(), "PAX headers")?;
                self.read_record(header.size, &mut entry.records)?;
                let records = Records::parse(&entry.records, &mut entry.attributes)?;
                pending.records = Some(records);
            }
            b'g' => {
                // What it says is ignored, as Go's reader and containerd do.
                pending.check_none()?;
                self.read_record(header.size, &mut entry.records)?;
                Records::parse(&entry.records, &mut entry.attributes)?;
                entry.attributes.clear();
            }
            b'L' => {
                once(pending.path, "long names")?;
                pending.path = true;
                self.read_name(header.size, |tar| &mut tar.long_path)?;
            }
            b'K' => {
                once(pending.link, "long link names")?;
                pending.link = true;
                self.read_name(header.size, |tar| &mut tar.long_link)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Reads all data of an extended header.
    fn read_record(&mut self, size: u64, into: &mut Vec<u8>) -> Result<(), Fault> {
        into.clear();
        if size > self.limits.record as u64 {
            return Err(Refusal::RecordTooLong(self.limits.record).into());
        }
        self.expect(size);
        while self.left > 0 {
            let data = self.data()?;
            into.extend_from_slice(data);
            let len = data.len();
            self.consume(len);
        }
        self.skip_data()
    }

    /// Reads a long name: it ends at its first NUL, and nothing may follow that.
    fn read_name(&mut self, size: u64, of: fn(&mut Self) -> &mut Vec<u8>) -> Result<(), Fault> {
        let mut name = std::mem::take(of(self));
        self.read_record(size, &mut name)?;
        let len = name.iter().position(|byte| *byte == 0);
        let len = len.unwrap_or(name.len());
        if name[len..].iter().any(|byte| *byte != 0) {
            return Err(TarFault::Nul("a long name").into());
        }
        name.truncate(len);
        *of(self) = name;
        Ok(())
    }

    /// Puts together what all headers say about the entry.
    fn describe(
        &mut self,
        header: &Header,
        entry: &mut Entry,
        pending: Pending,
    ) -> Result<(), Fault> {
        if pending.path && !self.long_path.is_empty() {
            entry.path.clone_from(&self.long_path);
        }
        if pending.link && !self.long_link.is_empty() {
            entry.link.clone_from(&self.long_link);
        }
        let records = pending.records.unwrap_or_default();
        // In Go's reader as well, GNU's long names stand above PAX paths.
        if !pending.path || self.long_path.is_empty() {
            replace(&mut entry.path, &entry.records, records.path.as_ref());
        }
        if !pending.link || self.long_link.is_empty() {
            replace(&mut entry.link, &entry.records, records.link.as_ref());
        }
        entry.kind = kind(header.kind, &entry.path)?;
        entry.mode = u32::try_from(header.mode & 0o7777).unwrap_or_default();
        entry.uid = owner(records.uid.unwrap_or(header.uid))?;
        entry.gid = owner(records.gid.unwrap_or(header.gid))?;
        entry.modified = records.modified.unwrap_or(header.modified);
        entry.accessed = records.accessed.or(header.accessed);
        entry.device = header.device;
        self.describe_data(header, entry, &records)
    }

    /// How many data the entry has, and where its holes are.
    fn describe_data(
        &mut self,
        header: &Header,
        entry: &mut Entry,
        records: &Records,
    ) -> Result<(), Fault> {
        let size = match records.size {
            Some(size) => u64::try_from(size).map_err(|_| TarFault::Number("the size"))?,
            None => header.size,
        };
        let is_file = entry.kind == Kind::File;
        entry.size = if is_file { size } else { 0 };
        self.expect(entry.size);
        let form = records.sparse.form();
        if header.kind != b'S' && form.is_none() {
            return Ok(());
        }
        if !is_file {
            return Err(TarFault::SparseKind.into());
        }
        replace(
            &mut entry.path,
            &entry.records,
            records.sparse.name.as_ref(),
        );
        let map = match form {
            _ if header.kind == b'S' => self.read_gnu_map(header, &mut entry.size)?,
            Some(Form::Data) => self.read_data_map()?,
            _ => records.sparse.map()?,
        };
        if header.kind != b'S' {
            entry.size = records.sparse.size()?.unwrap_or(entry.size);
        }
        sparse::check(&map, entry.size, self.left)?;
        entry.extents = Some(map);
        Ok(())
    }

    /// The map of a GNU sparse file: in its header, and in blocks between that and the data.
    fn read_gnu_map(&mut self, header: &Header, size: &mut u64) -> Result<Vec<Extent>, Fault> {
        if header.dialect != Dialect::Gnu {
            return Err(TarFault::SparseMap.into());
        }
        *size = sparse::gnu_size(&self.block)?;
        let mut map = Vec::new();
        let mut continues = sparse::gnu_header(&self.block, &mut map)?;
        let mut read = BLOCK;
        while continues {
            read += BLOCK;
            if read > self.limits.record {
                return Err(Refusal::RecordTooLong(self.limits.record).into());
            }
            if !self.read_block()? {
                return Err(TarFault::Truncated.into());
            }
            continues = sparse::gnu_continued(&self.block, &mut map)?;
        }
        Ok(map)
    }

    /// The map that lies before the data in PAX 1.0.
    fn read_data_map(&mut self) -> Result<Vec<Extent>, Fault> {
        let mut map = DataMap::default();
        let mut read = 0;
        loop {
            read += BLOCK;
            if read > self.limits.record {
                return Err(Refusal::RecordTooLong(self.limits.record).into());
            }
            // Whole blocks only: what the entry has left must have room for one.
            let left = self.left.checked_sub(BLOCK as u64);
            self.left = left.ok_or(TarFault::SparseMap)?;
            if !self.read_block()? {
                return Err(TarFault::Truncated.into());
            }
            if map.take(&self.block.0)? {
                return Ok(map.map()?);
            }
        }
    }
}

impl Pending {
    /// Whatever describes an entry must be followed by it.
    fn check_none(&self) -> Result<(), TarFault> {
        match (&self.records, self.path, self.link) {
            (None, false, false) => Ok(()),
            (Some(_), ..) => Err(TarFault::Dangling("a PAX header")),
            _ => Err(TarFault::Dangling("a long name")),
        }
    }
}

fn once(seen: bool, what: &'static str) -> Result<(), TarFault> {
    match seen {
        true => Err(TarFault::Twice(what)),
        false => Ok(()),
    }
}
