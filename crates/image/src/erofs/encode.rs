//! EROFS structures as bytes. Everything is little-endian; offsets are from `fs/erofs/erofs_fs.h`.

use std::sync::OnceLock;

use super::tree::{Attributes, Xattr};

/// Bytes of a block: the one size that every kernel page size can mount.
pub const BLOCK: u64 = 4096;
/// log2 of [`BLOCK`].
pub const BLOCK_BITS: u32 = 12;
/// Where the superblock begins in its block.
pub const SUPERBLOCK_OFFSET: usize = 1024;
/// `EROFS_SUPER_MAGIC_V1`.
pub const MAGIC: u32 = 0xE0F5_E1E2;
/// Bytes of an inode slot; a nid counts these from the metadata's begin.
pub const SLOT: u64 = 32;
/// Bytes of `struct erofs_inode_extended`.
pub const INODE: u64 = 64;
/// Bytes of `struct erofs_dirent`.
pub const DIRENT: usize = 12;
/// Bytes of `struct erofs_xattr_ibody_header`.
const XATTR_HEADER: usize = 12;
/// `EROFS_FEATURE_COMPAT_SB_CHKSUM` and `EROFS_FEATURE_COMPAT_MTIME`.
const FEATURES_COMPAT: u32 = 1 | 2;
/// `EROFS_FEATURE_INCOMPAT_CHUNKED_FILE`.
const FEATURE_CHUNKED: u32 = 4;
/// `EROFS_FEATURE_INCOMPAT_DEVICE_TABLE`.
pub const FEATURE_DEVICES: u32 = 8;
/// Bytes of `struct erofs_super_block`.
pub const SUPERBLOCK: usize = 128;
/// Bytes of `struct erofs_deviceslot`; the superblock counts the table's place in these.
pub const DEVICE: usize = 128;
/// Where our device tables begin: behind the superblock.
const DEVICES_OFFSET: usize = SUPERBLOCK_OFFSET + SUPERBLOCK;
/// A hole in a chunk table, `EROFS_NULL_ADDR`.
pub const HOLE: u32 = u32::MAX;

/// How an inode's content is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataLayout {
    /// Blocks in a row.
    FlatPlain = 0,
    /// Blocks in a row, the remainder behind the inode.
    FlatInline = 2,
    /// A table of chunks behind the inode.
    ChunkBased = 4,
}

/// The parts of an inode that its place in the tree decides.
#[derive(Debug, Clone, Copy)]
pub struct InodeFields {
    /// How the content is stored.
    pub layout: DataLayout,
    /// Type and permission bits.
    pub mode: u16,
    /// Bytes of content.
    pub size: u64,
    /// `i_u`: block address, device number or chunk format.
    pub union: u32,
    /// Inode number for 32-bit callers.
    pub number: u32,
    /// Names.
    pub links: u32,
}

/// An extended inode with its attribute area.
pub fn inode(fields: InodeFields, attributes: &Attributes, xattrs: &[Xattr]) -> Vec<u8> {
    let area = xattr_area(xattrs);
    let count = match area.len() {
        0 => 0,
        length => (length - XATTR_HEADER) / 4 + 1,
    };
    let mut out = Vec::with_capacity(INODE as usize + area.len());
    out.extend(((fields.layout as u16) << 1 | 1).to_le_bytes());
    out.extend((count as u16).to_le_bytes());
    out.extend(fields.mode.to_le_bytes());
    out.extend([0; 2]);
    out.extend(fields.size.to_le_bytes());
    out.extend(fields.union.to_le_bytes());
    out.extend(fields.number.to_le_bytes());
    out.extend(attributes.uid.to_le_bytes());
    out.extend(attributes.gid.to_le_bytes());
    out.extend(attributes.mtime.to_le_bytes());
    out.extend(attributes.mtime_nanoseconds.to_le_bytes());
    out.extend(fields.links.to_le_bytes());
    out.extend([0; 16]);
    out.extend(area);
    out
}

/// Bytes that an inode's attribute area takes.
pub fn xattr_area_size(xattrs: &[Xattr]) -> u64 {
    if xattrs.is_empty() {
        return 0;
    }
    let entries: usize = xattrs.iter().map(entry_size).sum();
    (XATTR_HEADER + entries) as u64
}

/// Bytes of one attribute, padded.
fn entry_size(xattr: &Xattr) -> usize {
    (4 + xattr.suffix.len() + xattr.value.len()).next_multiple_of(4)
}

/// The attribute area: a header and the attributes, none of them shared.
fn xattr_area(xattrs: &[Xattr]) -> Vec<u8> {
    if xattrs.is_empty() {
        return Vec::new();
    }
    let mut out = vec![0; XATTR_HEADER];
    for xattr in xattrs {
        out.push(xattr.suffix.len() as u8);
        out.push(xattr.prefix);
        out.extend((xattr.value.len() as u16).to_le_bytes());
        out.extend(&*xattr.suffix);
        out.extend(&*xattr.value);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    out
}

/// A device number as `new_encode_dev` packs it: 12 bits of major, 20 of minor.
pub fn device_number(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & !0xff) << 12
}

/// The reverse of [`device_number`].
pub fn device_parts(number: u32) -> (u32, u32) {
    ((number & 0xfff00) >> 8, (number & 0xff) | (number >> 12 & 0xfff00))
}

/// What the superblock says.
#[derive(Debug, Clone, Copy)]
pub struct Superblock {
    /// The root directory.
    pub root_nid: u16,
    /// Inodes in all.
    pub inodes: u64,
    /// Blocks in all.
    pub blocks: u32,
    /// First block of the metadata.
    pub meta_block: u32,
    /// The filesystem's identity.
    pub uuid: [u8; 16],
    /// Some file is chunk-based.
    pub chunked: bool,
}

/// Another file whose blocks belong to the image: they follow its own, in the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Which file.
    pub tag: [u8; 64],
    /// Its blocks.
    pub blocks: u32,
    /// The address of the first one.
    pub start: u32,
}

/// Bytes before anything else, for an image with so many devices: whole blocks.
pub fn head_size(devices: usize) -> u64 {
    ((DEVICES_OFFSET + devices * DEVICE) as u64).next_multiple_of(BLOCK)
}

/// The image's begin: block 0 with its checksum, and the device table, which may go on in further blocks.
pub fn head(fields: &Superblock, devices: &[Device]) -> Vec<u8> {
    let mut head = vec![0; head_size(devices.len()) as usize];
    for (slot, device) in head[DEVICES_OFFSET..].chunks_exact_mut(DEVICE).zip(devices) {
        slot[..64].copy_from_slice(&device.tag);
        slot[64..68].copy_from_slice(&device.blocks.to_le_bytes());
        slot[68..72].copy_from_slice(&device.start.to_le_bytes());
    }
    let sb = &mut head[SUPERBLOCK_OFFSET..BLOCK as usize];
    let mut put = |at: usize, bytes: &[u8]| sb[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &MAGIC.to_le_bytes());
    put(8, &FEATURES_COMPAT.to_le_bytes());
    put(12, &[BLOCK_BITS as u8]);
    put(14, &fields.root_nid.to_le_bytes());
    put(16, &fields.inodes.to_le_bytes());
    put(36, &fields.blocks.to_le_bytes());
    put(40, &fields.meta_block.to_le_bytes());
    put(48, &fields.uuid);
    let chunked = if fields.chunked { FEATURE_CHUNKED } else { 0 };
    let with_devices = if devices.is_empty() { 0 } else { FEATURE_DEVICES };
    put(80, &(chunked | with_devices).to_le_bytes());
    if !devices.is_empty() {
        put(86, &(devices.len() as u16).to_le_bytes());
        put(88, &((DEVICES_OFFSET / DEVICE) as u16).to_le_bytes());
    }
    let checksum = block_checksum(sb);
    sb[4..8].copy_from_slice(&checksum.to_le_bytes());
    head
}

/// Checksum of block 0 from the superblock on, whose own field counts as zero.
pub fn block_checksum(sb: &[u8]) -> u32 {
    let field = 4..8;
    let mut bytes = sb.to_vec();
    bytes[field].fill(0);
    crc32c(&bytes)
}

/// CRC-32C as the kernel's `crc32c(~0, …)` gives it: without the final inversion.
fn crc32c(bytes: &[u8]) -> u32 {
    static TABLE: OnceLock<[u32; 256]> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        std::array::from_fn(|index| {
            (0..8).fold(index as u32, |crc, _| crc >> 1 ^ if crc & 1 == 1 { 0x82F6_3B78 } else { 0 })
        })
    });
    bytes.iter().fold(u32::MAX, |crc, byte| crc >> 8 ^ table[usize::from(crc as u8 ^ byte)])
}

/// Splits sorted names into directory blocks: for each block, how many names it holds and its bytes.
pub fn directory_blocks<'a>(names: impl Iterator<Item = &'a [u8]>) -> Vec<(usize, usize)> {
    let mut blocks: Vec<(usize, usize)> = Vec::new();
    for name in names {
        let size = DIRENT + name.len();
        match blocks.last_mut() {
            Some((count, used)) if *used + size <= BLOCK as usize => {
                *count += 1;
                *used += size;
            }
            _ => blocks.push((1, size)),
        }
    }
    blocks
}

/// One directory block: the fixed parts, then the names.
pub fn directory_block(entries: &[(&[u8], u64, u8)]) -> Vec<u8> {
    let mut name_offset = entries.len() * DIRENT;
    let mut out = Vec::with_capacity(BLOCK as usize);
    for (name, nid, file_type) in entries {
        out.extend(nid.to_le_bytes());
        out.extend((name_offset as u16).to_le_bytes());
        out.extend([*file_type, 0]);
        name_offset += name.len();
    }
    for (name, ..) in entries {
        out.extend(*name);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_matches_the_known_check_value() {
        assert_eq!(!crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn device_numbers_round_trip() {
        for (major, minor) in [(0, 0), (1, 3), (8, 17), (4095, 1_048_575)] {
            assert_eq!(device_parts(device_number(major, minor)), (major, minor));
        }
    }
}
