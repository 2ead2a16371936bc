//! Writing an image: contents while they come, metadata at the end.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use super::encode::{
    BLOCK, BLOCK_BITS, DIRENT, Device, HOLE, InodeFields, SLOT, Superblock, device_number, directory_block,
    directory_blocks, head, head_size, inode,
};
use super::layout::{Layout, MAX_INLINE, NOWHERE, layout, shape, with_dots};
use super::spill::Spill;
use super::tree::{Content, FileData, NodeId, ROOT, Tree};

/// Bytes gathered before a write.
const BUFFER: usize = 1 << 20;
/// Most chunks of one sparse file; larger files get larger chunks.
pub const MAX_CHUNKS: u64 = 1 << 20;
/// Largest apparent size of a sparse file: what 32-bit block addresses reach.
const MAX_SPARSE: u64 = 1 << 44;

/// Takes file contents and remembers where they went.
pub struct DataWriter {
    out: BufWriter<File>,
    /// Where the next block goes, always block-aligned.
    position: u64,
    spill: Spill,
    chunked: bool,
    /// Most devices that the image has room for at its begin.
    most_devices: usize,
}

/// A file whose whole blocks are in one of the image's devices.
#[derive(Debug, Clone, Copy)]
pub struct Elsewhere {
    /// The device, counted from 1.
    pub device: u16,
    /// First byte of the blocks there, block-aligned.
    pub start: u64,
}

/// Another file whose blocks the image uses.
#[derive(Debug, Clone, Copy)]
pub struct DeviceFile {
    /// Which file.
    pub tag: [u8; 64],
    /// Its blocks.
    pub blocks: u32,
}

/// Some bytes of the original tar's payload in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// First byte in the image.
    pub offset: u64,
    /// How many.
    pub length: u64,
}

/// A file being written.
pub struct FlatFile {
    size: u64,
    start: u64,
    /// Bytes that go to whole blocks.
    in_blocks: u64,
    written: u64,
    tail: Vec<u8>,
}

/// A finished image.
#[derive(Debug)]
pub struct Finished {
    /// Each node's inline content in the image, or `u64::MAX`.
    pub tails: Vec<u64>,
    /// Bytes of the image.
    pub size: u64,
}

impl DataWriter {
    /// Begins an image in the empty file `out`; `scratch` takes what does not fit in memory.
    pub fn new(out: File, scratch: File) -> io::Result<Self> {
        Self::over(out, scratch, 0)
    }

    /// Begins an image of which some content may be in up to `most_devices` other files.
    pub fn over(out: File, scratch: File, most_devices: usize) -> io::Result<Self> {
        let mut out = BufWriter::with_capacity(BUFFER, out);
        let position = head_size(most_devices);
        out.seek(SeekFrom::Start(position))?;
        Ok(Self { out, position, spill: Spill::new(scratch), chunked: false, most_devices })
    }

    /// A file of `size` bytes whose whole blocks are in a device, and what follows them.
    pub fn keep_tail(&mut self, size: u64, elsewhere: Elsewhere, tail: &[u8]) -> io::Result<FileData> {
        let Elsewhere { device, start } = elsewhere;
        let tail_start = if tail.is_empty() { 0 } else { self.spill.append(tail)? };
        Ok(FileData::Flat { size, device, start, tail_start, tail_length: tail.len() as u16 })
    }

    /// A sparse file of `size` bytes whose chunks are all in a device.
    pub fn keep_chunks(&mut self, size: u64, device: u16, chunk_bits: u8, table: Vec<u32>) -> FileData {
        self.chunked = true;
        FileData::Chunks { size, device, chunk_bits, table }
    }

    /// Begins a file of exactly `size` bytes.
    pub fn begin(&mut self, size: u64) -> FlatFile {
        let remainder = size % BLOCK;
        let in_blocks = if remainder > MAX_INLINE { size } else { size - remainder };
        FlatFile { size, start: self.position, in_blocks, written: 0, tail: Vec::new() }
    }

    /// Adds content; all of it together must be the size given.
    pub fn write(&mut self, file: &mut FlatFile, bytes: &[u8]) -> io::Result<()> {
        let to_blocks = (file.in_blocks - file.written.min(file.in_blocks)).min(bytes.len() as u64) as usize;
        self.out.write_all(&bytes[..to_blocks])?;
        file.tail.extend_from_slice(&bytes[to_blocks..]);
        file.written += bytes.len() as u64;
        Ok(())
    }

    /// Ends a file whose content is complete.
    pub fn end(&mut self, file: FlatFile) -> io::Result<FileData> {
        debug_assert_eq!(file.written, file.size);
        let padding = file.in_blocks.next_multiple_of(BLOCK) - file.in_blocks;
        self.out.write_all(&[0; BLOCK as usize][..padding as usize])?;
        self.position += file.in_blocks + padding;
        let tail_start = if file.tail.is_empty() { 0 } else { self.spill.append(&file.tail)? };
        Ok(FileData::Flat {
            size: file.size,
            device: 0,
            start: file.start,
            tail_start,
            tail_length: file.tail.len() as u16,
        })
    }

    /// Begins a file with holes, whose data lies in `map` (offset, length; ascending, apart, within `size`).
    ///
    /// # Errors
    /// The file is larger than 16 TiB.
    pub fn begin_sparse(&mut self, size: u64, map: &[(u64, u64)]) -> io::Result<SparseFile> {
        if size > MAX_SPARSE {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "sparse file is larger than 16 TiB"));
        }
        let mut chunk_bits = 0;
        while size.div_ceil(BLOCK << chunk_bits) > MAX_CHUNKS {
            chunk_bits += 1;
        }
        let chunk = BLOCK << chunk_bits;
        let mut table = vec![HOLE; size.div_ceil(chunk) as usize];
        let mut next = self.position;
        for (offset, length) in map.iter().filter(|(_, length)| *length > 0) {
            for index in offset / chunk..=(offset + length - 1) / chunk {
                let entry = &mut table[index as usize];
                if *entry == HOLE {
                    *entry = u32::try_from(next >> BLOCK_BITS).map_err(|_| too_large())?;
                    next = next.saturating_add(chunk);
                }
            }
        }
        self.chunked = true;
        self.out.flush()?;
        let end = next;
        Ok(SparseFile { size, chunk_bits, table, end })
    }

    /// Adds content at `offset` of a sparse file and tells where it went.
    pub fn write_sparse(
        &mut self,
        file: &SparseFile,
        mut offset: u64,
        mut bytes: &[u8],
    ) -> io::Result<Vec<Piece>> {
        let chunk = BLOCK << file.chunk_bits;
        let mut pieces: Vec<Piece> = Vec::new();
        while !bytes.is_empty() {
            let within = offset % chunk;
            let length = (chunk - within).min(bytes.len() as u64);
            let start = u64::from(file.table[(offset / chunk) as usize]) * BLOCK + within;
            self.out.get_ref().write_all_at(&bytes[..length as usize], start)?;
            match pieces.last_mut() {
                Some(piece) if piece.offset + piece.length == start => piece.length += length,
                _ => pieces.push(Piece { offset: start, length }),
            }
            bytes = &bytes[length as usize..];
            offset += length;
        }
        Ok(pieces)
    }

    /// Ends a sparse file.
    pub fn end_sparse(&mut self, file: SparseFile) -> io::Result<FileData> {
        self.position = file.end;
        self.out.seek(SeekFrom::Start(file.end))?;
        Ok(FileData::Chunks { size: file.size, device: 0, chunk_bits: file.chunk_bits, table: file.table })
    }
}

/// A sparse file being written.
pub struct SparseFile {
    size: u64,
    chunk_bits: u8,
    table: Vec<u32>,
    end: u64,
}

/// Block addresses have 32 bits.
fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, "the disk needs more than 16 TiB")
}

/// Writes the metadata and the superblock. The caller syncs. The tree's files may have content in `devices`, of
/// which there are at most as many as [`DataWriter::over`] was told.
///
/// # Errors
/// Writing fails, or image and devices together would be larger than 16 TiB.
pub fn finish(data: DataWriter, tree: &Tree, uuid: [u8; 16], devices: &[DeviceFile]) -> io::Result<Finished> {
    debug_assert!(devices.len() <= data.most_devices);
    let layout = layout(tree);
    let meta_start = data.position;
    let size = meta_start + layout.end;
    let blocks = u32::try_from(size >> BLOCK_BITS).map_err(|_| too_large())?;
    let devices = place(blocks, devices)?;
    let mut writer = MetadataWriter {
        tree,
        layout: &layout,
        meta_start,
        bases: std::iter::once(0).chain(devices.iter().map(|device| device.start)).collect(),
        out: data.out,
        at: 0,
        spill: data.spill,
    };
    let tails = writer.write_all()?;
    let file = writer.out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.set_len(size)?;
    let fields = Superblock {
        root_nid: (layout.inodes[ROOT as usize] / SLOT) as u16,
        inodes: layout.count,
        blocks,
        meta_block: (meta_start >> BLOCK_BITS) as u32,
        uuid,
        chunked: data.chunked,
    };
    file.write_all_at(&head(&fields, &devices), 0)?;
    Ok(Finished { tails, size })
}

/// Gives each device its addresses, behind the image's own `blocks`.
fn place(blocks: u32, devices: &[DeviceFile]) -> io::Result<Vec<Device>> {
    let mut next = blocks;
    let place = |file: &DeviceFile| {
        let start = next;
        next = next.checked_add(file.blocks).filter(|end| *end < HOLE).ok_or_else(too_large)?;
        Ok(Device { tag: file.tag, blocks: file.blocks, start })
    };
    devices.iter().map(place).collect()
}

/// Something with a place among the metadata.
#[derive(Clone, Copy)]
enum Item {
    Inode(NodeId),
    Blocks(NodeId),
}

struct MetadataWriter<'a> {
    tree: &'a Tree,
    layout: &'a Layout,
    meta_start: u64,
    /// The first block's address of the image and of each device.
    bases: Vec<u32>,
    out: BufWriter<File>,
    /// Bytes of metadata written.
    at: u64,
    spill: Spill,
}

impl MetadataWriter<'_> {
    /// Writes everything in the order of places and returns where inline content is.
    fn write_all(&mut self) -> io::Result<Vec<u64>> {
        let places = |places: &[u64], item: fn(NodeId) -> Item| -> Vec<(u64, Item)> {
            let stored = places.iter().enumerate().filter(|(_, at)| **at != NOWHERE);
            stored.map(|(id, at)| (*at, item(id as NodeId))).collect()
        };
        let mut items = places(&self.layout.inodes, Item::Inode);
        items.extend(places(&self.layout.blocks, Item::Blocks));
        items.sort_unstable_by_key(|(at, _)| *at);
        let mut tails = vec![u64::MAX; self.tree.nodes().len()];
        for (at, item) in items {
            let bytes = match item {
                Item::Inode(id) => {
                    let (bytes, inline) = self.inode(id)?;
                    if inline > 0 {
                        tails[id as usize] = self.meta_start + at + (bytes.len() - inline) as u64;
                    }
                    bytes
                }
                Item::Blocks(id) => self.content_blocks(id),
            };
            self.pad_to(at)?;
            self.out.write_all(&bytes)?;
            self.at += bytes.len() as u64;
        }
        self.pad_to(self.layout.end)?;
        Ok(tails)
    }

    /// Zeros up to a place.
    fn pad_to(&mut self, at: u64) -> io::Result<()> {
        const ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];
        while self.at < at {
            let length = (at - self.at).min(BLOCK);
            self.out.write_all(&ZEROS[..length as usize])?;
            self.at += length;
        }
        Ok(())
    }

    /// An inode with what is behind it, and how many bytes of that are inline content.
    fn inode(&mut self, id: NodeId) -> io::Result<(Vec<u8>, usize)> {
        let node = self.tree.node(id);
        let shape = shape(node);
        let (kind, union, links) = match &node.content {
            Content::Directory { entries, .. } => {
                let is_directory =
                    |id: &&NodeId| matches!(self.tree.node(**id).content, Content::Directory { .. });
                (0o040_000, self.metadata_block(id), 2 + entries.values().filter(is_directory).count() as u32)
            }
            Content::File(FileData::Flat { device, start, .. }) => {
                (0o100_000, self.bases[usize::from(*device)] + (start >> BLOCK_BITS) as u32, node.names)
            }
            Content::File(FileData::Chunks { chunk_bits, .. }) => {
                (0o100_000, u32::from(*chunk_bits), node.names)
            }
            Content::Symlink(_) => (0o120_000, self.metadata_block(id), node.names),
            Content::CharacterDevice { major, minor } => {
                (0o020_000, device_number(*major, *minor), node.names)
            }
            Content::BlockDevice { major, minor } => (0o060_000, device_number(*major, *minor), node.names),
            Content::Fifo => (0o010_000, 0, node.names),
        };
        let fields = InodeFields {
            layout: shape.layout,
            mode: kind | node.attributes.mode,
            size: shape.size,
            union,
            number: id + 1,
            links,
        };
        let mut bytes = inode(fields, &node.attributes, &node.xattrs);
        match &node.content {
            Content::File(FileData::Chunks { device, table, .. }) => {
                let base = self.bases[usize::from(*device)];
                let address = |at: &u32| if *at == HOLE { HOLE } else { base + at };
                bytes.extend(table.iter().flat_map(|at| address(at).to_le_bytes()))
            }
            Content::File(FileData::Flat { tail_start, tail_length: length @ 1.., .. }) => {
                self.spill.read(*tail_start, usize::from(*length), &mut bytes)?;
            }
            Content::Directory { .. } | Content::Symlink(_) if shape.inline > 0 => {
                let content = self.content(id);
                bytes.extend_from_slice(&content[content.len() - shape.inline as usize..]);
            }
            _ => {}
        }
        Ok((bytes, shape.inline as usize))
    }

    /// The address of a node's first whole block among the metadata.
    fn metadata_block(&self, id: NodeId) -> u32 {
        match self.layout.blocks[id as usize] {
            NOWHERE => 0,
            at => ((self.meta_start + at) >> BLOCK_BITS) as u32,
        }
    }

    /// A directory's or symlink's whole blocks, the last one as far as it is used.
    fn content_blocks(&self, id: NodeId) -> Vec<u8> {
        let mut content = self.content(id);
        let inline = shape(self.tree.node(id)).inline as usize;
        content.truncate(content.len() - inline);
        content
    }

    /// A directory's or symlink's content.
    fn content(&self, id: NodeId) -> Vec<u8> {
        match &self.tree.node(id).content {
            Content::Symlink(target) => target.to_vec(),
            Content::Directory { entries, parent, .. } => {
                let names: Vec<(&[u8], u64, u8)> = with_dots(entries.keys().map(|name| &**name))
                    .map(|name| {
                        let target = match name {
                            b"." => id,
                            b".." => *parent,
                            name => entries[name],
                        };
                        (name, self.layout.inodes[target as usize] / SLOT, self.file_type(target))
                    })
                    .collect();
                let mut content = Vec::new();
                let mut rest = names.as_slice();
                for (count, _) in directory_blocks(names.iter().map(|(name, ..)| *name)) {
                    content.resize(content.len().next_multiple_of(BLOCK as usize), 0);
                    content.extend(directory_block(&rest[..count]));
                    rest = &rest[count..];
                }
                content
            }
            _ => Vec::new(),
        }
    }

    /// The type in a directory entry (`FT_*`).
    fn file_type(&self, id: NodeId) -> u8 {
        match self.tree.node(id).content {
            Content::File(_) => 1,
            Content::Directory { .. } => 2,
            Content::CharacterDevice { .. } => 3,
            Content::BlockDevice { .. } => 4,
            Content::Fifo => 5,
            Content::Symlink(_) => 7,
        }
    }
}

/// A directory entry is never larger than a block.
const _: () = assert!(DIRENT < BLOCK as usize);
