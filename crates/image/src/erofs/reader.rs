//! Reading the images that [`super::writer`] makes: lookups for the layers above, and checks.
//!
//! Only what our writer produces is understood (extended inodes, no compression, no shared
//! attributes); every offset is checked, since the disk under a blob can rot.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::encode::{
    BLOCK, DEVICE, DIRENT, DataLayout, Device, FEATURE_DEVICES, HOLE, INODE, MAGIC, SLOT, SUPERBLOCK_OFFSET,
    block_checksum, device_parts,
};
use super::layout::MAX_INLINE;
use super::tree::{Attributes, Xattr};
use super::writer::MAX_CHUNKS;

/// Largest directory read: two million names of full length.
const MAX_DIRECTORY: u64 = 1 << 30;

/// Why an image cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error("layer image cannot be read")]
    Io(#[from] io::Error),
    /// It is not what the writer wrote.
    #[error("layer image is damaged: {0}")]
    Damaged(&'static str),
}

/// What an image says of itself at its begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Its identity.
    pub uuid: [u8; 16],
    /// Its own blocks.
    pub blocks: u32,
    /// The other files that it uses.
    pub devices: Vec<Device>,
}

impl Head {
    /// Reads and checks the begin of an image: its checksum, that the file is as long as it says, and that its devices
    /// follow each other. At most `most_devices` are read.
    ///
    /// # Errors
    /// It is no image, or a damaged one.
    pub fn read(file: &File, most_devices: usize) -> Result<Self, ReadError> {
        let mut block = [0; BLOCK as usize];
        file.read_exact_at(&mut block, 0)?;
        let sb = &block[SUPERBLOCK_OFFSET..];
        if u32_at(sb, 0) != MAGIC || u64::from(sb[12]) != u64::from(BLOCK.trailing_zeros()) {
            return Err(ReadError::Damaged("no superblock"));
        }
        if u32_at(sb, 4) != block_checksum(sb) {
            return Err(ReadError::Damaged("checksum of the superblock"));
        }
        let blocks = u32_at(sb, 36);
        if u64::from(blocks) * BLOCK != file.metadata()?.len() {
            return Err(ReadError::Damaged("size of the file"));
        }
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&sb[48..64]);
        let count = if u32_at(sb, 80) & FEATURE_DEVICES == 0 { 0 } else { usize::from(u16_at(sb, 86)) };
        if count > most_devices {
            return Err(ReadError::Damaged("number of devices"));
        }
        let mut table = vec![0; count * DEVICE];
        file.read_exact_at(&mut table, u64::from(u16_at(sb, 88)) * DEVICE as u64)?;
        let mut next = blocks;
        let mut devices = Vec::with_capacity(count);
        for slot in table.chunks_exact(DEVICE) {
            let mut device = Device { tag: [0; 64], blocks: u32_at(slot, 64), start: u32_at(slot, 68) };
            device.tag.copy_from_slice(&slot[..64]);
            if device.start != next {
                return Err(ReadError::Damaged("device table"));
            }
            next = next.checked_add(device.blocks).ok_or(ReadError::Damaged("device table"))?;
            devices.push(device);
        }
        Ok(Self { uuid, blocks, devices })
    }
}

/// Where the content of a regular file is in its image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// Whole blocks, then an end that lies elsewhere.
    Flat {
        /// First byte of the blocks.
        start: u64,
        /// Bytes of content in them.
        in_blocks: u64,
    },
    /// Chunks with holes.
    Chunks {
        /// log2 of a chunk's blocks.
        chunk_bits: u8,
        /// Each chunk's first block, or a hole.
        table: Vec<u32>,
    },
}

/// An open image.
pub struct Reader {
    file: File,
    meta_start: u64,
    root: u64,
    size: u64,
}

/// An inode.
#[derive(Debug, Clone)]
pub struct Inode {
    /// Type and permission bits as in `st_mode`.
    pub mode: u16,
    /// Bytes of content.
    pub size: u64,
    /// Owner, permission bits and time.
    pub attributes: Attributes,
    /// Extended attributes.
    pub xattrs: Vec<Xattr>,
    /// Names, as the inode has it.
    pub links: u32,
    layout: u16,
    union: u32,
    /// First byte behind inode and attributes.
    behind: u64,
}

impl Inode {
    /// The type bits of the mode.
    pub fn kind(&self) -> u16 {
        self.mode & 0o170_000
    }

    /// It is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind() == 0o040_000
    }

    /// It hides the name in the layers below.
    pub fn is_whiteout(&self) -> bool {
        self.kind() == 0o020_000 && self.union == 0
    }

    /// Major and minor number of a device.
    pub fn device(&self) -> (u32, u32) {
        device_parts(self.union)
    }

    /// A directory that hides the layers below.
    pub fn is_opaque(&self) -> bool {
        self.xattrs
            .iter()
            .any(|xattr| xattr.prefix == 4 && &*xattr.suffix == b"overlay.opaque" && &*xattr.value == b"y")
    }
}

impl Reader {
    /// Opens an image.
    ///
    /// # Errors
    /// It is none, or cannot be read.
    pub fn new(file: File) -> Result<Self, ReadError> {
        let size = file.metadata()?.len();
        let mut sb = [0; 128];
        file.read_exact_at(&mut sb, SUPERBLOCK_OFFSET as u64)?;
        if u32_at(&sb, 0) != MAGIC || u64::from(sb[12]) != u64::from(BLOCK.trailing_zeros()) {
            return Err(ReadError::Damaged("no superblock"));
        }
        Ok(Self {
            file,
            meta_start: u64::from(u32_at(&sb, 40)) * BLOCK,
            root: u64::from(u16_at(&sb, 14)),
            size,
        })
    }

    /// Blocks of the image, all of them.
    ///
    /// # Errors
    /// They are not whole, or more than can be addressed.
    pub fn blocks(&self) -> Result<u32, ReadError> {
        match u32::try_from(self.size / BLOCK) {
            Ok(blocks) if self.size.is_multiple_of(BLOCK) && blocks < HOLE => Ok(blocks),
            _ => Err(ReadError::Damaged("size of the file")),
        }
    }

    /// Bytes of file contents in the image, tails aside: what lies before the metadata.
    pub fn data_size(&self) -> u64 {
        self.meta_start.saturating_sub(BLOCK)
    }

    /// Number of the root directory's inode.
    pub fn root_number(&self) -> u64 {
        self.root
    }

    /// The root directory.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn root(&self) -> Result<Inode, ReadError> {
        self.inode(self.root)
    }

    /// The inode with this number.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn inode(&self, nid: u64) -> Result<Inode, ReadError> {
        let at = nid.checked_mul(SLOT).and_then(|offset| offset.checked_add(self.meta_start));
        let at = at.ok_or(ReadError::Damaged("inode number"))?;
        let raw = self.bytes(at, INODE)?;
        let format = u16_at(&raw, 0);
        if format & 1 != 1 {
            return Err(ReadError::Damaged("inode format"));
        }
        let area = match u16_at(&raw, 2) {
            0 => Vec::new(),
            count => self.bytes(at + INODE, 12 + 4 * (u64::from(count) - 1))?,
        };
        let mode = u16_at(&raw, 4);
        Ok(Inode {
            mode,
            size: u64_at(&raw, 8),
            attributes: Attributes {
                mode: mode & 0o7777,
                uid: u32_at(&raw, 24),
                gid: u32_at(&raw, 28),
                mtime: u64_at(&raw, 32) as i64,
                mtime_nanoseconds: u32_at(&raw, 40),
            },
            xattrs: xattrs(&area)?,
            links: u32_at(&raw, 44),
            layout: format >> 1 & 7,
            union: u32_at(&raw, 16),
            behind: at + INODE + area.len() as u64,
        })
    }

    /// What a directory has under `name`, found by halving.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn lookup(&self, directory: &Inode, name: &[u8]) -> Result<Option<Inode>, ReadError> {
        let (mut low, mut high) = (0, self.directory_size(directory)?.div_ceil(BLOCK));
        while low < high {
            let middle = low + (high - low) / 2;
            let block = self.directory_block(directory, middle)?;
            let entries = block_entries(&block)?;
            let (first, _) = entries.first().ok_or(ReadError::Damaged("empty directory block"))?;
            if *first > name {
                high = middle;
                continue;
            }
            if let Ok(at) = entries.binary_search_by(|(entry, _)| (*entry).cmp(name)) {
                return self.inode(entries[at].1).map(Some);
            }
            low = middle + 1;
        }
        Ok(None)
    }

    /// A directory's names, without the dots, and their inode numbers.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn entries(&self, directory: &Inode) -> Result<Vec<(Vec<u8>, u64)>, ReadError> {
        let mut all = Vec::new();
        self.each_entry(directory, |name, nid| -> Result<(), ReadError> {
            all.push((name.to_vec(), nid));
            Ok(())
        })?;
        Ok(all)
    }

    /// Shows a directory's names, without the dots, and their inode numbers to `visit`, until that fails.
    ///
    /// # Errors
    /// See [`ReadError`]; and the visitor's.
    pub fn each_entry<E: From<ReadError>>(
        &self,
        directory: &Inode,
        mut visit: impl FnMut(&[u8], u64) -> Result<(), E>,
    ) -> Result<(), E> {
        for index in 0..self.directory_size(directory)?.div_ceil(BLOCK) {
            let block = self.directory_block(directory, index)?;
            for (name, nid) in block_entries(&block)? {
                if !matches!(name, b"." | b"..") {
                    visit(name, nid)?;
                }
            }
        }
        Ok(())
    }

    /// Where a regular file's content is; all of it lies within the image.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn stored(&self, inode: &Inode) -> Result<Stored, ReadError> {
        const FLAT_PLAIN: u16 = DataLayout::FlatPlain as u16;
        const FLAT_INLINE: u16 = DataLayout::FlatInline as u16;
        const CHUNK_BASED: u16 = DataLayout::ChunkBased as u16;
        let bad = || ReadError::Damaged("place of a file's content");
        let remainder = inode.size % BLOCK;
        let in_blocks = match (inode.layout, remainder) {
            (FLAT_INLINE, 1..=MAX_INLINE) => inode.size - remainder,
            (FLAT_PLAIN, 0 | MAX_INLINE..) if remainder != MAX_INLINE => inode.size,
            (CHUNK_BASED, _) => return self.chunks(inode),
            _ => return Err(bad()),
        };
        let start = u64::from(inode.union) * BLOCK;
        match start.checked_add(in_blocks) {
            Some(end) if end <= self.size || in_blocks == 0 => Ok(Stored::Flat { start, in_blocks }),
            _ => Err(bad()),
        }
    }

    /// A file's chunk table, checked.
    fn chunks(&self, inode: &Inode) -> Result<Stored, ReadError> {
        let bad = || ReadError::Damaged("chunk table");
        let chunk_bits = u8::try_from(inode.union).ok().filter(|bits| *bits < 32).ok_or_else(bad)?;
        let chunk = BLOCK << chunk_bits;
        let count = inode.size.div_ceil(chunk);
        if count > MAX_CHUNKS {
            return Err(bad());
        }
        let raw = self.bytes(inode.behind, count * 4)?;
        let table: Vec<u32> = raw.chunks_exact(4).map(|entry| u32_at(entry, 0)).collect();
        for (index, block) in (0..).zip(&table) {
            let length = (inode.size - index * chunk).min(chunk);
            if *block != HOLE && u64::from(*block) * BLOCK + length > self.size {
                return Err(bad());
            }
        }
        Ok(Stored::Chunks { chunk_bits, table })
    }

    /// A directory's size, checked.
    fn directory_size(&self, directory: &Inode) -> Result<u64, ReadError> {
        if !directory.is_directory() || directory.size > MAX_DIRECTORY {
            return Err(ReadError::Damaged("directory"));
        }
        Ok(directory.size)
    }

    /// One block of a directory.
    fn directory_block(&self, directory: &Inode, index: u64) -> Result<Vec<u8>, ReadError> {
        let start = index * BLOCK;
        let mut block = vec![0; (directory.size - start).min(BLOCK) as usize];
        self.read(directory, start, &mut block)?;
        Ok(block)
    }

    /// A symbolic link's target.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn symlink(&self, inode: &Inode) -> Result<Vec<u8>, ReadError> {
        if inode.size > BLOCK {
            return Err(ReadError::Damaged("symbolic link"));
        }
        let mut target = vec![0; inode.size as usize];
        self.read(inode, 0, &mut target)?;
        Ok(target)
    }

    /// Reads content at `offset`; the range must lie within the file.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn read(&self, inode: &Inode, offset: u64, out: &mut [u8]) -> Result<(), ReadError> {
        let length = out.len() as u64;
        if offset.checked_add(length).is_none_or(|end| end > inode.size) {
            return Err(ReadError::Damaged("range beyond the end of a file"));
        }
        match inode.layout {
            0 => Ok(self.file.read_exact_at(out, u64::from(inode.union) * BLOCK + offset)?),
            2 => {
                let in_blocks = inode.size / BLOCK * BLOCK;
                let split = in_blocks.saturating_sub(offset).min(length) as usize;
                self.file.read_exact_at(&mut out[..split], u64::from(inode.union) * BLOCK + offset)?;
                let from = inode.behind + (offset + split as u64).saturating_sub(in_blocks);
                Ok(self.file.read_exact_at(&mut out[split..], from)?)
            }
            4 => self.read_chunks(inode, offset, out),
            _ => Err(ReadError::Damaged("inode layout")),
        }
    }

    /// Reads from a file with a chunk table.
    fn read_chunks(&self, inode: &Inode, mut offset: u64, mut out: &mut [u8]) -> Result<(), ReadError> {
        let chunk = BLOCK << (inode.union & 31).min(32);
        while !out.is_empty() {
            let entry = self.bytes(inode.behind + offset / chunk * 4, 4)?;
            let length = (chunk - offset % chunk).min(out.len() as u64);
            let (now, rest) = out.split_at_mut(length as usize);
            match u32_at(&entry, 0) {
                HOLE => now.fill(0),
                block => {
                    // The last chunk may end beyond the image's last block only by what is zero.
                    self.file.read_exact_at(now, u64::from(block) * BLOCK + offset % chunk)?;
                }
            }
            out = rest;
            offset += length;
        }
        Ok(())
    }

    /// Bytes of the image, bounded by its size.
    fn bytes(&self, at: u64, length: u64) -> Result<Vec<u8>, ReadError> {
        if at.checked_add(length).is_none_or(|end| end > self.size) {
            return Err(ReadError::Damaged("offset beyond the end"));
        }
        let mut bytes = vec![0; length as usize];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }
}

/// The names in a directory block and their inode numbers, in order.
fn block_entries(block: &[u8]) -> Result<Vec<(&[u8], u64)>, ReadError> {
    let bad = || ReadError::Damaged("directory block");
    let entry = |index: usize| block.get(index * DIRENT..(index + 1) * DIRENT).ok_or_else(bad);
    let offset = |index: usize| entry(index).map(|entry| usize::from(u16_at(entry, 8)));
    let count = offset(0)? / DIRENT;
    let mut entries = Vec::with_capacity(count);
    for index in 0..count {
        let end = if index + 1 < count { offset(index + 1)? } else { block.len() };
        let name = block.get(offset(index)?..end).ok_or_else(bad)?;
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        entries.push((name, u64_at(entry(index)?, 0)));
    }
    Ok(entries)
}

/// Takes an attribute area apart.
fn xattrs(area: &[u8]) -> Result<Vec<Xattr>, ReadError> {
    let bad = || ReadError::Damaged("extended attributes");
    let mut rest = area.get(12..).unwrap_or_default();
    let mut xattrs = Vec::new();
    while !rest.is_empty() {
        let [name_length, prefix, low, high, ..] = *rest else { return Err(bad()) };
        let value_start = 4 + usize::from(name_length);
        let end = value_start + usize::from(u16::from_le_bytes([low, high]));
        let suffix = rest.get(4..value_start).ok_or_else(bad)?.into();
        let value = rest.get(value_start..end).ok_or_else(bad)?.into();
        xattrs.push(Xattr { prefix, suffix, value });
        rest = rest.get(end.next_multiple_of(4)..).ok_or_else(bad)?;
    }
    Ok(xattrs)
}

/// Little-endian numbers; the callers' slices are long enough by construction.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
