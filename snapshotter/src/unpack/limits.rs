//! How much a layer may be, and the account of how much it is.

/// What a layer may not exceed. Whatever does is refused, and containerd unpacks it in its own way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes: of the tar, and of the files in it as they read (holes of sparse files count).
    pub size: u64,
    /// Bytes of tar per byte of the blob, looked at once the tar is larger than `ratio_from`.
    /// Layers of programs are below 20; gzip cannot exceed about 1030, which only zeros reach.
    pub ratio: u64,
    /// Bytes of tar below which any ratio passes: a layer of zeros is no bomb yet.
    pub ratio_from: u64,
    /// Entries, directories made without an entry included.
    pub entries: u64,
    /// Bytes of one path, and of one link's target.
    pub path: usize,
    /// Directories above one entry.
    pub depth: usize,
    /// Bytes of one extended header (PAX records, a long name, a map of holes).
    pub record: usize,
    /// Bytes of the paths of directories made without an entry.
    pub implied: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            size: 64 << 30,
            ratio: 1000,
            ratio_from: 2 << 30,
            entries: 4_000_000,
            path: 4095,
            depth: 256,
            record: 1 << 20,
            implied: 16 << 20,
        }
    }
}
