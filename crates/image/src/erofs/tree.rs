//! A layer's file tree while it is being built. File contents are elsewhere.

use std::collections::BTreeMap;

/// Index of a node in its tree.
pub type NodeId = u32;
/// The root directory.
pub const ROOT: NodeId = 0;

/// Most inodes of one layer. Debian's whole archive of shared libraries would fit.
pub const MAX_NODES: usize = 2 << 20;
/// Deepest directory: deeper ones no path could name (`PATH_MAX`).
pub const MAX_DEPTH: u16 = 2048;
/// Most bytes of names, attributes, link targets and chunk tables of one layer.
pub const MAX_METADATA: u64 = 512 << 20;

/// Owner, mode and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Permission bits, at most `0o7777`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time, seconds since 1970.
    pub mtime: i64,
    /// And nanoseconds, below 1 000 000 000.
    pub mtime_nanoseconds: u32,
}

/// An extended attribute. The prefix is a number in EROFS.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// 1 `user.`, 2 and 3 the POSIX ACLs (no suffix), 4 `trusted.`, 6 `security.`.
    pub prefix: u8,
    /// The name without the prefix, at most 255 bytes.
    pub suffix: Box<[u8]>,
    /// The value, at most 65535 bytes.
    pub value: Box<[u8]>,
}

/// Prefixes of attribute names and their numbers (`EROFS_XATTR_INDEX_*`).
const XATTR_PREFIXES: [(&str, u8); 5] = [
    ("user.", 1),
    ("system.posix_acl_access", 2),
    ("system.posix_acl_default", 3),
    ("trusted.", 4),
    ("security.", 6),
];

impl Xattr {
    /// An attribute by its full name; none when EROFS has no place for such a name or value.
    pub fn new(name: &[u8], value: &[u8]) -> Option<Self> {
        let (prefix, suffix) = XATTR_PREFIXES.iter().find_map(|(text, number)| {
            let suffix = name.strip_prefix(text.as_bytes())?;
            (suffix.is_empty() != text.ends_with('.')).then_some((*number, suffix))
        })?;
        let fits = suffix.len() <= 255 && value.len() <= usize::from(u16::MAX);
        fits.then(|| Self { prefix, suffix: suffix.into(), value: value.into() })
    }

    /// The full name.
    #[cfg(test)]
    pub fn name(&self) -> Vec<u8> {
        let prefix = XATTR_PREFIXES.iter().find(|(_, number)| *number == self.prefix);
        let mut name = prefix.map_or(Vec::new(), |(text, _)| text.as_bytes().to_vec());
        name.extend_from_slice(&self.suffix);
        name
    }
}

/// Where a regular file's content is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileData {
    /// Whole blocks from `start` (bytes, block-aligned), then `tail_length` bytes in the spill.
    Flat {
        /// Bytes in all.
        size: u64,
        /// Where the blocks are: 0 is the image itself, others its devices, counted from 1.
        device: u16,
        /// First byte of the blocks there.
        start: u64,
        /// First byte of the tail in the spill.
        tail_start: u64,
        /// Bytes of the tail; zero when the last block was written padded.
        tail_length: u16,
    },
    /// Chunks with holes.
    Chunks {
        /// Bytes in all.
        size: u64,
        /// Where the chunks are, as for flat files.
        device: u16,
        /// log2 of a chunk's blocks.
        chunk_bits: u8,
        /// Each chunk's first block there, or a hole.
        table: Vec<u32>,
    },
}

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A directory.
    Directory {
        /// Its names, sorted bytewise as EROFS wants them.
        entries: BTreeMap<Box<[u8]>, NodeId>,
        /// The directory above; the root's is itself.
        parent: NodeId,
        /// It hides what lower layers have under its name.
        opaque: bool,
        /// No entry of its own was seen: its attributes are the lower layer's, if that has it.
        implicit: bool,
        /// Directories above it, the root's own being 0.
        depth: u16,
    },
    /// A regular file.
    File(FileData),
    /// A symbolic link.
    Symlink(Box<[u8]>),
    /// A character device; 0/0 hides the name in lower layers.
    CharacterDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// One inode.
#[derive(Debug, Clone)]
pub struct Node {
    /// Owner, mode, time.
    pub attributes: Attributes,
    /// Extended attributes, sorted, no name twice.
    pub xattrs: Vec<Xattr>,
    /// What it is.
    pub content: Content,
    /// Names that lead to it (for directories: 0 or 1; the dots are counted when written).
    pub names: u32,
}

/// A layer would need more metadata than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MetadataBudget {
    /// Too many files.
    #[error("more than {MAX_NODES} files")]
    Nodes,
    /// Too many directories in each other.
    #[error("directories more than {MAX_DEPTH} deep")]
    Depth,
    /// Too many bytes of names and attributes.
    #[error("more than {MAX_METADATA} bytes of names and attributes")]
    Bytes,
}

/// The tree. Node 0 is the root directory.
#[derive(Debug)]
pub struct Tree {
    nodes: Vec<Node>,
    metadata: u64,
}

impl Tree {
    /// A tree of an implicit root directory.
    pub fn new() -> Self {
        let root = Node {
            attributes: Attributes { mode: 0o755, ..Attributes::default() },
            xattrs: Vec::new(),
            content: Content::directory(ROOT, 0),
            names: 1,
        };
        Self { nodes: vec![root], metadata: 0 }
    }

    /// All nodes in the order they were made.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id as usize]
    }

    /// The node, to change.
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id as usize]
    }

    /// What `directory` has under `name`.
    pub fn child(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        match &self.node(directory).content {
            Content::Directory { entries, .. } => entries.get(name).copied(),
            _ => None,
        }
    }

    /// Counts metadata bytes against the layer's budget.
    ///
    /// # Errors
    /// The budget is used up.
    pub fn charge(&mut self, bytes: usize) -> Result<(), MetadataBudget> {
        self.metadata = self.metadata.saturating_add(bytes as u64);
        if self.metadata > MAX_METADATA { Err(MetadataBudget::Bytes) } else { Ok(()) }
    }

    /// A new directory's content.
    ///
    /// # Errors
    /// It would be too deep.
    pub fn directory_below(&self, parent: NodeId) -> Result<Content, MetadataBudget> {
        match self.node(parent).content {
            Content::Directory { depth, .. } if depth >= MAX_DEPTH => Err(MetadataBudget::Depth),
            Content::Directory { depth, .. } => Ok(Content::directory(parent, depth + 1)),
            _ => Ok(Content::directory(parent, 0)),
        }
    }

    /// Adds a node that has no name yet.
    ///
    /// # Errors
    /// The budget is used up.
    pub fn add(&mut self, node: Node) -> Result<NodeId, MetadataBudget> {
        if self.nodes.len() >= MAX_NODES {
            return Err(MetadataBudget::Nodes);
        }
        let xattrs: usize = node.xattrs.iter().map(|xattr| 32 + xattr.suffix.len() + xattr.value.len()).sum();
        let content = match &node.content {
            Content::Symlink(target) => target.len(),
            Content::File(FileData::Chunks { table, .. }) => table.len() * 4,
            _ => 0,
        };
        self.charge(xattrs + content)?;
        self.nodes.push(node);
        Ok((self.nodes.len() - 1) as NodeId)
    }

    /// Gives `node` a name in `directory`, in place of what had it.
    ///
    /// # Errors
    /// The budget is used up.
    pub fn link(&mut self, directory: NodeId, name: &[u8], node: NodeId) -> Result<(), MetadataBudget> {
        self.charge(name.len() + 32)?;
        self.node_mut(node).names += 1;
        if let Content::Directory { parent, .. } = &mut self.node_mut(node).content {
            *parent = directory;
        }
        let replaced = match &mut self.node_mut(directory).content {
            Content::Directory { entries, .. } => entries.insert(name.into(), node),
            _ => None,
        };
        if let Some(replaced) = replaced {
            self.forget(replaced);
        }
        Ok(())
    }

    /// A name of `node` is gone; a directory takes its own names along.
    fn forget(&mut self, node: NodeId) {
        let mut pending = vec![node];
        while let Some(id) = pending.pop() {
            let node = self.node_mut(id);
            node.names = node.names.saturating_sub(1);
            if let Content::Directory { entries, .. } = &mut node.content {
                pending.extend(std::mem::take(entries).into_values());
            }
        }
    }
}

impl Content {
    /// An empty, implicit directory.
    pub fn directory(parent: NodeId, depth: u16) -> Self {
        Self::Directory { entries: BTreeMap::new(), parent, opaque: false, implicit: true, depth }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xattr_names_split_into_known_prefixes() {
        assert_eq!(Xattr::new(b"security.capability", b"x").map(|x| x.prefix), Some(6));
        assert_eq!(Xattr::new(b"system.posix_acl_access", b"x").map(|x| x.prefix), Some(2));
        assert_eq!(Xattr::new(b"user.", b"x"), None);
        assert_eq!(Xattr::new(b"system.posix_acl_accessory", b"x"), None);
        assert_eq!(Xattr::new(b"com.apple.x", b"x"), None);
        assert_eq!(Xattr::new(b"user.a.b", b"").map(|x| x.name()), Some(b"user.a.b".to_vec()));
    }

    #[test]
    fn replacing_a_directory_forgets_what_was_in_it() {
        let mut tree = Tree::new();
        let node =
            |content| Node { attributes: Attributes::default(), xattrs: Vec::new(), content, names: 0 };
        let directory = tree.add(node(Content::directory(ROOT, 1))).expect("budget");
        let file = tree.add(node(Content::Fifo)).expect("budget");
        tree.link(ROOT, b"a", directory).expect("budget");
        tree.link(directory, b"b", file).expect("budget");
        tree.link(ROOT, b"c", file).expect("budget");
        let other = tree.add(node(Content::Fifo)).expect("budget");
        tree.link(ROOT, b"a", other).expect("budget");
        assert_eq!((tree.node(file).names, tree.node(directory).names), (1, 0));
    }
}
