//! Writing one layer: a deterministic tar, its diff id, and its compressed form.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufWriter, Read, Write},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder, write::GzEncoder};
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use super::Descriptor;

/// A day in 2001, for every file.
const MTIME: u64 = 1_000_000_000;

/// How a layer travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Gzip,
    Zstd,
    Plain,
}

impl Form {
    fn media_type(self) -> &'static str {
        match self {
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
            Self::Plain => "application/vnd.oci.image.layer.v1.tar",
        }
    }
}

/// A finished layer.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    pub(super) descriptor: Descriptor,
    pub(super) diff_id: String,
}

/// A layer that is being written. Entries come in the order of the calls.
pub struct LayerBuilder {
    tar: tar::Builder<Hashing<Encoder>>,
    form: Form,
    path: PathBuf,
}

/// The end of the layer's file.
type Target = Hashing<BufWriter<File>>;

/// What compresses a layer.
enum Encoder {
    Gzip(GzEncoder<Target>),
    Zstd(zstd::Encoder<'static, Target>),
    Plain(Target),
}

impl Encoder {
    fn new(form: Form, target: Target) -> io::Result<Self> {
        Ok(match form {
            Form::Gzip => Self::Gzip(GzBuilder::new().mtime(0).write(target, Compression::new(5))),
            Form::Zstd => Self::Zstd(zstd::Encoder::new(target, 3)?),
            Form::Plain => Self::Plain(target),
        })
    }

    fn finish(self) -> io::Result<Target> {
        match self {
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
            Self::Plain(target) => Ok(target),
        }
    }
}

impl Write for Encoder {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Self::Gzip(encoder) => encoder.write(data),
            Self::Zstd(encoder) => encoder.write(data),
            Self::Plain(target) => target.write(data),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
            Self::Plain(target) => target.flush(),
        }
    }
}

impl std::fmt::Debug for LayerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerBuilder")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// Owner and permissions of an entry.
#[derive(Debug, Clone, Copy)]
pub struct Mode {
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
}

impl Mode {
    #[must_use]
    pub fn root(mode: u32) -> Self {
        Self {
            mode,
            uid: 0,
            gid: 0,
        }
    }
}

impl LayerBuilder {
    pub(super) fn create(path: &Path, form: Form) -> Result<Self> {
        let file = Hashing::new(BufWriter::new(File::create(path)?));
        let encoder = Encoder::new(form, file)?;
        let mut tar = tar::Builder::new(Hashing::new(encoder));
        tar.mode(tar::HeaderMode::Deterministic);
        Ok(Self {
            tar,
            form,
            path: path.to_owned(),
        })
    }

    /// Extended attributes of the entry that comes next.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn xattrs(&mut self, attributes: &[(&str, &[u8])]) -> Result<&mut Self> {
        let named: Vec<_> = attributes
            .iter()
            .map(|(name, value)| (format!("SCHILY.xattr.{name}"), *value))
            .collect();
        self.tar
            .append_pax_extensions(named.iter().map(|(name, value)| (name.as_str(), *value)))?;
        Ok(self)
    }

    /// PAX records of the entry that comes next, as they are: times, owners and names beyond the
    /// header's fields.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn records(&mut self, records: &[(&str, &str)]) -> Result<&mut Self> {
        let records = records
            .iter()
            .map(|(name, value)| (*name, value.as_bytes()));
        self.tar.append_pax_extensions(records)?;
        Ok(self)
    }

    /// PAX records for all entries that follow.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn global_records(&mut self, records: &[u8]) -> Result<&mut Self> {
        let mut header = header(
            EntryType::XGlobalHeader,
            Mode::root(0o644),
            records.len() as u64,
        );
        self.tar
            .append_data(&mut header, "pax_global_header", records)?;
        Ok(self)
    }

    /// # Errors
    /// When the disk is full.
    pub fn dir(&mut self, path: &str, mode: Mode) -> Result<&mut Self> {
        self.entry(EntryType::Directory, path, mode, &[])
    }

    /// # Errors
    /// When the disk is full.
    pub fn file(&mut self, path: &str, mode: Mode, content: &[u8]) -> Result<&mut Self> {
        self.entry(EntryType::Regular, path, mode, content)
    }

    /// # Errors
    /// When the disk is full.
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<&mut Self> {
        self.link(EntryType::Symlink, path, Mode::root(0o777), target)
    }

    /// # Errors
    /// When the disk is full.
    pub fn hard_link(&mut self, path: &str, target: &str) -> Result<&mut Self> {
        self.link(EntryType::Link, path, Mode::root(0o644), target)
    }

    /// # Errors
    /// When the disk is full.
    pub fn fifo(&mut self, path: &str, mode: Mode) -> Result<&mut Self> {
        self.entry(EntryType::Fifo, path, mode, &[])
    }

    /// # Errors
    /// When the disk is full.
    pub fn device(&mut self, path: &str, mode: Mode, major: u32, minor: u32) -> Result<&mut Self> {
        let mut header = header(EntryType::Char, mode, 0);
        header.set_device_major(major)?;
        header.set_device_minor(minor)?;
        self.tar.append_data(&mut header, path, io::empty())?;
        Ok(self)
    }

    /// # Errors
    /// When the disk is full.
    pub fn block_device(
        &mut self,
        path: &str,
        mode: Mode,
        major: u32,
        minor: u32,
    ) -> Result<&mut Self> {
        let mut header = header(EntryType::Block, mode, 0);
        header.set_device_major(major)?;
        header.set_device_minor(minor)?;
        self.tar.append_data(&mut header, path, io::empty())?;
        Ok(self)
    }

    /// An entry whose name is written as it is: absolute, with dots, or not UTF-8.
    ///
    /// # Errors
    /// When the name has more than 100 bytes, or the disk is full.
    pub fn odd_name(&mut self, name: &[u8], mode: Mode, content: &[u8]) -> Result<&mut Self> {
        let kind = match name.last() {
            Some(b'/') => EntryType::Directory,
            _ => EntryType::Regular,
        };
        let mut header = header(kind, mode, content.len() as u64);
        let field = &mut header.as_old_mut().name;
        anyhow::ensure!(name.len() < field.len(), "the name is too long");
        field[..name.len()].copy_from_slice(name);
        header.set_cksum();
        self.tar.append(&header, content)?;
        Ok(self)
    }

    /// All that a directory holds, sorted.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn tree(&mut self, root: &Path) -> Result<&mut Self> {
        let mut seen = BTreeMap::new();
        self.subtree(root, Path::new(""), &mut seen)?;
        Ok(self)
    }

    fn subtree(
        &mut self,
        root: &Path,
        relative: &Path,
        seen: &mut BTreeMap<u64, PathBuf>,
    ) -> Result<()> {
        let dir = root.join(relative);
        let mut names: Vec<_> = fs::read_dir(&dir)
            .with_context(|| format!("cannot read {}", dir.display()))?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<io::Result<_>>()?;
        names.sort();
        for name in names {
            let relative = relative.join(name);
            let metadata = fs::symlink_metadata(root.join(&relative))?;
            self.copy(root, &relative, &metadata, seen)?;
            if metadata.is_dir() {
                self.subtree(root, &relative, seen)?;
            }
        }
        Ok(())
    }

    fn copy(
        &mut self,
        root: &Path,
        relative: &Path,
        metadata: &fs::Metadata,
        seen: &mut BTreeMap<u64, PathBuf>,
    ) -> Result<()> {
        let (uid, gid) = (u64::from(metadata.uid()), u64::from(metadata.gid()));
        let mode = Mode {
            mode: metadata.mode() & 0o7777,
            uid,
            gid,
        };
        let kind = metadata.file_type();
        if kind.is_symlink() {
            let mut header = header(EntryType::Symlink, mode, 0);
            self.tar
                .append_link(&mut header, relative, fs::read_link(root.join(relative))?)?;
        } else if kind.is_dir() {
            let mut header = header(EntryType::Directory, mode, 0);
            self.tar.append_data(&mut header, relative, io::empty())?;
        } else if kind.is_file() {
            if metadata.nlink() > 1 {
                if let Some(first) = seen.get(&metadata.ino()) {
                    let mut header = header(EntryType::Link, mode, 0);
                    self.tar.append_link(&mut header, relative, first)?;
                    return Ok(());
                }
                seen.insert(metadata.ino(), relative.to_owned());
            }
            let mut header = header(EntryType::Regular, mode, metadata.len());
            self.tar
                .append_data(&mut header, relative, File::open(root.join(relative))?)?;
        } else if kind.is_socket() {
            anyhow::bail!("{} is a socket", relative.display());
        }
        Ok(())
    }

    /// The bytes of a tar that another program made, in place of entries of one's own.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn raw_tar(&mut self, mut tar: impl Read) -> Result<&mut Self> {
        // Without its end, so that more entries can follow.
        let mut bytes = Vec::new();
        tar.read_to_end(&mut bytes)?;
        let used = bytes
            .rchunks(512)
            .skip_while(|block| block.iter().all(|it| *it == 0));
        let used = used.count() * 512;
        self.tar.get_mut().write_all(&bytes[..used])?;
        Ok(self)
    }

    fn entry(
        &mut self,
        kind: EntryType,
        path: &str,
        mode: Mode,
        content: &[u8],
    ) -> Result<&mut Self> {
        let mut header = header(kind, mode, content.len() as u64);
        self.tar.append_data(&mut header, path, content)?;
        Ok(self)
    }

    fn link(&mut self, kind: EntryType, path: &str, mode: Mode, target: &str) -> Result<&mut Self> {
        self.tar
            .append_link(&mut header(kind, mode, 0), path, target)?;
        Ok(self)
    }

    /// Ends the layer and moves it to the name of its digest in `blobs`.
    pub(super) fn finish(self, blobs: &Path) -> Result<Layer> {
        let (encoder, diff_id, _) = self.tar.into_inner()?.finish();
        let (mut file, digest, size) = encoder.finish()?.finish();
        file.flush()?;
        fs::rename(&self.path, blobs.join(&digest))?;
        let digest = format!("sha256:{digest}");
        let descriptor = Descriptor {
            media_type: self.form.media_type().to_owned(),
            digest,
            size,
        };
        Ok(Layer {
            descriptor,
            diff_id: format!("sha256:{diff_id}"),
        })
    }
}

fn header(kind: EntryType, mode: Mode, len: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(len);
    header.set_mode(mode.mode);
    header.set_uid(mode.uid);
    header.set_gid(mode.gid);
    header.set_mtime(MTIME);
    header
}

/// `sha256:` and the digest of bytes in memory.
#[must_use]
pub fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Hashes and counts what is written through it.
#[derive(Debug)]
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    len: u64,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
            len: 0,
        }
    }

    fn finish(self) -> (W, String, u64) {
        (self.inner, hex(&self.hash.finalize()), self.len)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(data)?;
        self.hash.update(&data[..written]);
        self.len += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_entries_give_the_same_digest() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let build = |name: &str| -> Result<Layer> {
            let mut layer = LayerBuilder::create(&dir.path().join(name), Form::Gzip)?;
            layer
                .dir("a", Mode::root(0o755))?
                .file("a/b", Mode::root(0o600), b"hello")?;
            layer
                .xattrs(&[("user.x", b"y\0z")])?
                .file("a/c", Mode::root(0o600), b"")?;
            layer.finish(dir.path())
        };
        let (one, two) = (build("one")?, build("two")?);
        assert_eq!(one.descriptor, two.descriptor);
        assert_eq!(one.diff_id, two.diff_id);
        let len = fs::metadata(dir.path().join(&one.descriptor.digest[7..]))?.len();
        assert_eq!(len, one.descriptor.size);
        Ok(())
    }
}
