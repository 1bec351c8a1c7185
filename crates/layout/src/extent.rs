/// A file of a checkpoint, as an index into its list of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub u32);

/// A run of bytes in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    /// Which file.
    pub file: FileId,
    /// First byte, from the start of the file.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

impl Extent {
    /// The first byte after the extent. Whoever makes an extent has checked that this does not overflow.
    pub fn end(&self) -> u64 {
        self.offset + self.len
    }

    /// `len` bytes of this extent, starting `at` bytes into it.
    ///
    /// # Panics
    /// If the range does not lie inside the extent.
    pub fn slice(&self, at: u64, len: u64) -> Extent {
        assert!(
            at.checked_add(len).is_some_and(|end| end <= self.len),
            "bytes {at}+{len} lie outside an extent of {} bytes",
            self.len
        );
        Extent { file: self.file, offset: self.offset + at, len }
    }
}
