//! Where each inode goes.
//!
//! An inode and the remainder of its content must end in one block. Placing them one after the
//! other would waste a third of the space, so up to 32 blocks stay open and each inode goes where it fits best.

use super::encode::{BLOCK, DIRENT, DataLayout, INODE, SLOT, directory_blocks, xattr_area_size};
use super::tree::{Content, FileData, Node, ROOT, Tree};

/// Most bytes of content kept behind an inode: room for the inode itself is left in the block.
pub const MAX_INLINE: u64 = BLOCK - INODE;
/// Blocks that still take inodes.
const OPEN_BLOCKS: usize = 32;
/// The position of what is not stored.
pub const NOWHERE: u64 = u64::MAX;

/// What a node's content needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// How it is stored.
    pub layout: DataLayout,
    /// Bytes of the content, as `stat` shows them.
    pub size: u64,
    /// Whole blocks among the metadata.
    pub blocks: u64,
    /// Bytes behind the inode that must not cross a block.
    pub inline: u64,
    /// Bytes behind the inode that may.
    pub table: u64,
}

/// All positions, in bytes from the metadata's begin.
#[derive(Debug)]
pub struct Layout {
    /// Each node's inode, or [`NOWHERE`].
    pub inodes: Vec<u64>,
    /// Each node's blocks among the metadata, or [`NOWHERE`].
    pub blocks: Vec<u64>,
    /// Bytes of the metadata, a multiple of the block size.
    pub end: u64,
    /// Inodes in all.
    pub count: u64,
}

/// Whether a node is written: it has a name, or the original tar needs its content.
fn is_stored(node: &Node) -> bool {
    node.names > 0 || matches!(&node.content, Content::File(FileData::Flat { tail_length: 1.., .. }))
}

/// What a node's content needs.
pub fn shape(node: &Node) -> Shape {
    let flat = |size: u64, in_metadata: bool| {
        let remainder = size % BLOCK;
        let (inline, padded) = if remainder > MAX_INLINE { (0, 1) } else { (remainder, 0) };
        Shape {
            layout: if inline > 0 { DataLayout::FlatInline } else { DataLayout::FlatPlain },
            size,
            blocks: if in_metadata { size / BLOCK + padded } else { 0 },
            inline,
            table: 0,
        }
    };
    match &node.content {
        Content::Directory { entries, .. } => flat(directory_size(entries.keys()), true),
        Content::Symlink(target) => flat(target.len() as u64, true),
        Content::File(FileData::Flat { size, .. }) => flat(*size, false),
        Content::File(FileData::Chunks { size, table, .. }) => Shape {
            layout: DataLayout::ChunkBased,
            size: *size,
            blocks: 0,
            inline: 0,
            table: table.len() as u64 * 4,
        },
        Content::CharacterDevice { .. } | Content::BlockDevice { .. } | Content::Fifo => flat(0, false),
    }
}

/// Bytes of a directory: whole blocks, and what the last one uses.
fn directory_size<'a>(names: impl Iterator<Item = &'a Box<[u8]>>) -> u64 {
    let blocks = directory_blocks(with_dots(names.map(|name| &**name)));
    let last = blocks.last().map_or(0, |(_, used)| *used);
    (blocks.len() as u64 - 1) * BLOCK + last as u64
}

/// Sorted names with `.` and `..` in their places.
pub fn with_dots<'a>(names: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = &'a [u8]> {
    let mut dots = [b".".as_slice(), b"..".as_slice()].into_iter().peekable();
    let mut names = names.peekable();
    std::iter::from_fn(move || match (dots.peek(), names.peek()) {
        (Some(dot), Some(name)) if name < dot => names.next(),
        (Some(_), _) => dots.next(),
        (None, _) => names.next(),
    })
}

/// Places everything.
pub fn layout(tree: &Tree) -> Layout {
    let nodes = tree.nodes();
    let mut space = Space { open: vec![(0, SLOT)], blocks: 1 };
    let mut layout =
        Layout { inodes: vec![NOWHERE; nodes.len()], blocks: vec![NOWHERE; nodes.len()], end: 0, count: 0 };
    for (index, node) in nodes.iter().enumerate() {
        if !is_stored(node) && index != ROOT as usize {
            continue;
        }
        let shape = shape(node);
        let head = INODE + xattr_area_size(&node.xattrs) + shape.table;
        layout.inodes[index] = space.place(head, shape.inline);
        layout.count += 1;
        if shape.blocks > 0 {
            layout.blocks[index] = space.whole(shape.blocks);
        }
    }
    layout.end = space.blocks * BLOCK;
    layout
}

/// The metadata's blocks as they fill up.
struct Space {
    /// Blocks with room: first byte, bytes used (a multiple of the slot).
    open: Vec<(u64, u64)>,
    /// Blocks in all.
    blocks: u64,
}

impl Space {
    /// Room for `head` bytes and then `inline` bytes that stay in one block.
    fn place(&mut self, head: u64, inline: u64) -> u64 {
        let total = head + inline;
        if total > BLOCK {
            return self.place_spanning(head, inline);
        }
        let fitting = self.open.iter_mut().filter(|(_, used)| used + total <= BLOCK);
        if let Some((start, used)) = fitting.max_by_key(|(_, used)| *used) {
            let position = *start + *used;
            *used = (*used + total).next_multiple_of(SLOT);
            return position;
        }
        let start = self.whole(1);
        self.open((start, total.next_multiple_of(SLOT)));
        start
    }

    /// Room for what is larger than a block, shifted so that the inline part ends in its block.
    fn place_spanning(&mut self, head: u64, inline: u64) -> u64 {
        let shift = match head % BLOCK {
            into if into + inline > BLOCK => (BLOCK - into).next_multiple_of(SLOT),
            _ => 0,
        };
        let total = shift + head + inline;
        let start = self.whole(total.div_ceil(BLOCK));
        if !total.is_multiple_of(BLOCK) {
            self.open((start + total / BLOCK * BLOCK, (total % BLOCK).next_multiple_of(SLOT)));
        }
        start + shift
    }

    /// Whole blocks in a row.
    fn whole(&mut self, count: u64) -> u64 {
        let start = self.blocks * BLOCK;
        self.blocks += count;
        start
    }

    /// Adds a block with room; the fullest gives way.
    fn open(&mut self, block: (u64, u64)) {
        self.open.push(block);
        if self.open.len() > OPEN_BLOCKS {
            let fullest = (0..self.open.len()).max_by_key(|index| self.open[*index].1);
            if let Some(fullest) = fullest {
                self.open.swap_remove(fullest);
            }
        }
    }
}

/// The smallest directory entry must fit many times.
const _: () = assert!(DIRENT + 255 < BLOCK as usize);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dots_are_sorted_among_the_names() {
        let names: Vec<&[u8]> = vec![b"!", b"-", b".a", b"a"];
        let all: Vec<&[u8]> = with_dots(names.into_iter()).collect();
        assert_eq!(all, [b"!".as_slice(), b"-", b".", b"..", b".a", b"a"]);
    }

    proptest! {
        #[test]
        fn nothing_overlaps_and_inline_parts_stay_in_their_block(
            wishes in proptest::collection::vec(((16_u64..40).prop_union(900_u64..1100), 0..=MAX_INLINE), 1..300)
        ) {
            let mut space = Space { open: vec![(0, SLOT)], blocks: 1 };
            let mut taken: Vec<(u64, u64)> = vec![(0, SLOT)];
            for (head_words, inline) in wishes {
                let head = head_words * 4;
                let position = space.place(head, inline);
                prop_assert_eq!(position % SLOT, 0);
                if inline > 0 {
                    prop_assert!((position + head) % BLOCK + inline <= BLOCK);
                }
                taken.push((position, position + head + inline));
            }
            taken.sort_unstable();
            prop_assert!(taken.windows(2).all(|pair| pair[0].1 <= pair[1].0));
            prop_assert!(taken.last().expect("one").1 <= space.blocks * BLOCK);
        }
    }
}
