//! From a file tree to a finished disk, with what it borrows from the layers below.

use crate::erofs::{Attributes, Content, DataWriter, Node, NodeId, ROOT, Tree, Xattr, finish};

use super::convert::{check_xattrs, is_overlay, merge_xattrs};
use super::error::LayerError;
use super::lower::Lower;
use super::path::readable;
use super::tarmap::TarMapWriter;

/// The attribute that makes a directory hide the layers below.
const OPAQUE_XATTR: (&[u8], &[u8]) = (b"trusted.overlay.opaque", b"y");
/// Sees a directory and its path; false ends the visit.
type Visit<'a> = dyn FnMut(NodeId, &[&[u8]]) -> Result<bool, LayerError> + 'a;

/// What a layer's root directory entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootEntry {
    /// Owner, mode and time.
    pub attributes: Attributes,
}

/// A layer whose tar is read and whose disk lacks its metadata.
pub struct Converted {
    /// The tree.
    pub(super) tree: Tree,
    /// Where contents are.
    pub(super) data: DataWriter,
    /// The tar without them.
    pub(super) map: TarMapWriter,
    /// Hard links to files that only a lower layer can have: node, link, target.
    pub(super) unresolved: Vec<(NodeId, Vec<u8>, Vec<Vec<u8>>)>,
    /// Bytes of all files.
    pub(super) files_size: u64,
}

/// What is known about a finished layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Bytes of all files.
    pub files_size: u64,
    /// Bytes of the disk.
    pub disk_size: u64,
    /// Bytes of the tar.
    pub tar_size: u64,
    /// The root directory, if the tar describes it.
    pub root: Option<RootEntry>,
}

impl Converted {
    /// Whether the layer cannot be finished without those below.
    pub fn needs_lower(&self) -> bool {
        let root_is_opaque = matches!(self.tree.node(ROOT).content, Content::Directory { opaque: true, .. });
        let mut borrows = false;
        let visited = self.visit_borrowing(&mut |_, _| {
            borrows = true;
            Ok(false)
        });
        root_is_opaque || !self.unresolved.is_empty() || borrows || visited.is_err()
    }

    /// Finishes the disk; the caller syncs the files. `lower` is empty for the bottom layer.
    ///
    /// # Errors
    /// A hard link leads nowhere, or writing fails.
    pub fn finish(mut self, lower: &Lower, uuid: [u8; 16]) -> Result<Summary, LayerError> {
        self.borrow_directories(lower)?;
        self.borrow_links(lower)?;
        self.hide_root(lower)?;
        let (opaque, _) =
            Xattr::new(OPAQUE_XATTR.0, OPAQUE_XATTR.1).map(|xattr| (xattr, ())).expect("a valid name");
        let count = self.tree.nodes().len() as NodeId;
        for id in 0..count {
            let node = self.tree.node_mut(id);
            if matches!(node.content, Content::Directory { opaque: true, .. }) && id != ROOT {
                merge_xattrs(&mut node.xattrs, vec![opaque.clone()]);
            }
        }
        let root = self.tree.node(ROOT);
        let root = match root.content {
            Content::Directory { implicit: false, .. } => Some(RootEntry { attributes: root.attributes }),
            _ => None,
        };
        let finished = finish(self.data, &self.tree, uuid, &[]).map_err(LayerError::write)?;
        let tar_size = self.map.finish(&self.tree, &finished.tails).map_err(LayerError::write)?;
        Ok(Summary { files_size: self.files_size, disk_size: finished.size, tar_size, root })
    }

    /// Visits the directories without an entry of their own that a lower layer may describe, with
    /// their paths, until `visit` says false.
    fn visit_borrowing(&self, visit: &mut Visit<'_>) -> Result<(), LayerError> {
        let mut path: Vec<&[u8]> = Vec::new();
        let mut pending: Vec<(NodeId, usize, &[u8])> = vec![(ROOT, 0, b"")];
        while let Some((id, depth, name)) = pending.pop() {
            let Content::Directory { entries, opaque, implicit, .. } = &self.tree.node(id).content else {
                continue;
            };
            if id != ROOT {
                if *opaque {
                    continue;
                }
                path.truncate(depth - 1);
                path.push(name);
                if *implicit && !visit(id, &path)? {
                    return Ok(());
                }
            }
            let is_directory = |id: NodeId| matches!(self.tree.node(id).content, Content::Directory { .. });
            let below = entries.iter().filter(|(_, child)| is_directory(**child));
            pending.extend(below.map(|(name, child)| (*child, depth + 1, &**name)));
        }
        Ok(())
    }

    /// Gives such directories the lower layer's attributes.
    fn borrow_directories(&mut self, lower: &Lower) -> Result<(), LayerError> {
        let mut borrowed = Vec::new();
        self.visit_borrowing(&mut |id, path| {
            // Where the layers below have a link to a directory, that directory is what people saw.
            if let Some((_, inode)) = lower.lookup(path, true)?
                && inode.is_directory()
            {
                borrowed.push((id, inode.attributes, inode.xattrs));
            }
            Ok(true)
        })?;
        for (id, attributes, xattrs) in borrowed {
            let node = self.tree.node_mut(id);
            node.attributes = attributes;
            node.xattrs = xattrs;
            node.xattrs.retain(|xattr| !is_overlay(xattr));
        }
        Ok(())
    }

    /// Copies files that the layer links to and only a lower one has.
    fn borrow_links(&mut self, lower: &Lower) -> Result<(), LayerError> {
        const COPY: u64 = 1 << 20;
        for (id, path, target) in std::mem::take(&mut self.unresolved) {
            let names: Vec<&[u8]> = target.iter().map(Vec::as_slice).collect();
            let missing =
                || LayerError::HardLink { path: readable(&path), target: readable(&target.join(&b'/')) };
            let (layer, inode) = lower.lookup(&names, true)?.ok_or_else(missing)?;
            let content = match inode.kind() {
                0o100_000 => {
                    let mut file = self.data.begin(inode.size);
                    let mut at = 0;
                    while at < inode.size {
                        let mut buffer = vec![0; (inode.size - at).min(COPY) as usize];
                        layer.read(&inode, at, &mut buffer)?;
                        self.data.write(&mut file, &buffer).map_err(LayerError::write)?;
                        at += buffer.len() as u64;
                    }
                    Content::File(self.data.end(file).map_err(LayerError::write)?)
                }
                0o120_000 => Content::Symlink(layer.symlink(&inode)?.into()),
                _ => return Err(missing()),
            };
            let node = self.tree.node_mut(id);
            node.content = content;
            let mut xattrs = inode.xattrs;
            merge_xattrs(&mut xattrs, std::mem::take(&mut node.xattrs));
            check_xattrs(&xattrs, &path)?;
            node.xattrs = xattrs;
        }
        Ok(())
    }

    /// An opaque root: overlayfs has no such thing, so each lower name gets a whiteout, and each
    /// directory that is in both becomes opaque.
    fn hide_root(&mut self, lower: &Lower) -> Result<(), LayerError> {
        if !matches!(self.tree.node(ROOT).content, Content::Directory { opaque: true, .. }) {
            return Ok(());
        }
        for name in lower.root_names()? {
            match self.tree.child(ROOT, &name) {
                Some(child) => {
                    if let Content::Directory { opaque, .. } = &mut self.tree.node_mut(child).content {
                        *opaque = true;
                    }
                }
                None => {
                    let content = Content::CharacterDevice { major: 0, minor: 0 };
                    let node =
                        Node { attributes: Attributes::default(), xattrs: Vec::new(), content, names: 0 };
                    let whiteout = self.tree.add(node)?;
                    self.tree.link(ROOT, &name, whiteout)?;
                }
            }
        }
        Ok(())
    }
}
