//! From a layer's tar entries to a file tree.
//!
//! Names mean what they mean when docker extracts the layer into an empty directory: later
//! entries replace earlier ones, a directory entry over a directory only changes its attributes, links on
//! the way to a name are followed inside the layer. AUFS whiteouts become what overlayfs wants.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufRead;

use crate::erofs::{Attributes, Content, DataWriter, Node, NodeId, ROOT, Tree, Xattr, finish};
use crate::tar::{Entry, EntryKind, Reader};

use super::error::LayerError;
use super::lower::Lower;
use super::path::{AUFS_META, OPAQUE, WHITEOUT, components, readable};
use super::tarmap::TarMapWriter;

/// Most symbolic links followed for one path, as in Linux.
const MAX_LINKS: usize = 40;
/// AUFS kept hard-linked files here.
const AUFS_LINKS: &[u8] = b".wh..wh.plnk";

/// The attribute that makes a directory hide the layers below.
const OPAQUE_XATTR: (&[u8], &[u8]) = (b"trusted.overlay.opaque", b"y");

/// What a layer's root directory entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootEntry {
    /// Owner, mode and time.
    pub attributes: Attributes,
}

/// A layer whose tar is read and whose disk lacks its metadata.
pub struct Converted {
    tree: Tree,
    data: DataWriter,
    map: TarMapWriter,
    /// Hard links to files that only a lower layer can have: node, link, target.
    unresolved: Vec<(NodeId, Vec<u8>, Vec<Vec<u8>>)>,
    files_size: u64,
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

/// Builds the tree.
struct Converter {
    tree: Tree,
    data: DataWriter,
    whiteout: Option<NodeId>,
    aufs_links: HashMap<Vec<u8>, NodeId>,
    unresolved: Vec<(NodeId, Vec<u8>, Vec<Vec<u8>>)>,
    files_size: u64,
}

/// Reads a whole tar. File contents go to `disk`, everything else of the tar to `map`;
/// `scratch` is an empty file for what does not fit in memory.
pub fn read_tar(source: impl BufRead, disk: File, scratch: File, map: File) -> Result<Converted, LayerError> {
    let mut converter = Converter {
        tree: Tree::new(),
        data: DataWriter::new(disk, scratch).map_err(LayerError::write)?,
        whiteout: None,
        aufs_links: HashMap::new(),
        unresolved: Vec::new(),
        files_size: 0,
    };
    let map = TarMapWriter::new(map).map_err(LayerError::write)?;
    let mut reader = Reader::new(source, map);
    while let Some(entry) = reader.next_entry()? {
        converter.entry(entry, &mut reader)?;
    }
    reader.drain()?;
    let Converter { tree, data, unresolved, files_size, .. } = converter;
    Ok(Converted { tree, data, map: reader.into_parts().1, unresolved, files_size })
}

impl Converter {
    /// Takes one entry in.
    fn entry<R: BufRead>(
        &mut self,
        entry: Entry,
        reader: &mut Reader<R, TarMapWriter>,
    ) -> Result<(), LayerError> {
        let path = components(&entry.path)?;
        let Some((name, parents)) = path.split_last() else {
            return self.root_entry(&entry);
        };
        if path[0].starts_with(AUFS_META) && path[0] != OPAQUE {
            if path[0] == AUFS_LINKS && entry.kind == EntryKind::File {
                let node = self.file(&entry, reader)?;
                self.aufs_links.insert(name.to_vec(), node);
            }
            return Ok(());
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return self.whiteout(&entry, parents, name, hidden);
        }
        match entry.kind {
            EntryKind::Directory => {
                let parent = self.directory(parents, &entry.path)?;
                self.directory_entry(&entry, parent, name)
            }
            EntryKind::HardLink => {
                let parent = self.directory(parents, &entry.path)?;
                let node = self.hard_link(&entry)?;
                // A link over itself would be forgotten before it is linked again.
                if self.tree.child(parent, name) != Some(node) {
                    self.tree.link(parent, name, node)?;
                }
                Ok(())
            }
            EntryKind::File => {
                let node = self.file(&entry, reader)?;
                let parent = self.directory(parents, &entry.path)?;
                Ok(self.tree.link(parent, name, node)?)
            }
            EntryKind::Symlink | EntryKind::CharacterDevice | EntryKind::BlockDevice | EntryKind::Fifo => {
                let node = self.special(&entry)?;
                let parent = self.directory(parents, &entry.path)?;
                Ok(self.tree.link(parent, name, node)?)
            }
        }
    }

    /// The root directory's own entry.
    fn root_entry(&mut self, entry: &Entry) -> Result<(), LayerError> {
        if entry.kind != EntryKind::Directory {
            return Err(bad_path(&entry.path, "the root is a directory"));
        }
        self.describe_directory(ROOT, entry)
    }

    /// A name that hides one below, or everything below.
    fn whiteout(
        &mut self,
        entry: &Entry,
        parents: &[&[u8]],
        name: &[u8],
        hidden: &[u8],
    ) -> Result<(), LayerError> {
        if name == OPAQUE {
            let parent = self.directory(parents, &entry.path)?;
            self.set_opaque(parent);
            return Ok(());
        }
        if name.starts_with(AUFS_META) {
            return Ok(());
        }
        if hidden.is_empty() || hidden == b"." || hidden == b".." {
            return Err(bad_path(&entry.path, "the whiteout names no file"));
        }
        let parent = self.directory(parents, &entry.path)?;
        match self.tree.child(parent, hidden) {
            Some(existing) => self.set_opaque(existing),
            None => {
                let whiteout = match self.whiteout {
                    Some(whiteout) => whiteout,
                    None => self.add(
                        Attributes::default(),
                        Content::CharacterDevice { major: 0, minor: 0 },
                        Vec::new(),
                    )?,
                };
                self.whiteout = Some(whiteout);
                self.tree.link(parent, hidden, whiteout)?;
            }
        }
        Ok(())
    }

    /// A directory of the layer hides those below. Other files hide them anyway.
    fn set_opaque(&mut self, node: NodeId) {
        if let Content::Directory { opaque, .. } = &mut self.tree.node_mut(node).content {
            *opaque = true;
        }
    }

    /// Makes a directory, or describes one that is there.
    fn directory_entry(&mut self, entry: &Entry, parent: NodeId, name: &[u8]) -> Result<(), LayerError> {
        let node = self.open_or_make(parent, name)?;
        self.describe_directory(node, entry)
    }

    /// The directory `name` in `parent`, made if it is not there, in place of any other file.
    fn open_or_make(&mut self, parent: NodeId, name: &[u8]) -> Result<NodeId, LayerError> {
        let existing = self.tree.child(parent, name);
        if let Some(node) = existing
            && matches!(self.tree.node(node).content, Content::Directory { .. })
        {
            return Ok(node);
        }
        let attributes = Attributes { mode: 0o755, ..Attributes::default() };
        let content = self.tree.directory_below(parent)?;
        let node = self.add(attributes, content, Vec::new())?;
        if existing.is_some_and(|node| self.is_whiteout(node)) {
            self.set_opaque(node);
        }
        self.tree.link(parent, name, node)?;
        Ok(node)
    }

    /// Gives a directory the attributes of its entry.
    fn describe_directory(&mut self, node: NodeId, entry: &Entry) -> Result<(), LayerError> {
        let xattrs = xattrs(entry);
        self.charge(&xattrs)?;
        let node = self.tree.node_mut(node);
        node.attributes = attributes(entry);
        merge_xattrs(&mut node.xattrs, xattrs);
        if let Content::Directory { implicit, .. } = &mut node.content {
            *implicit = false;
        }
        Ok(())
    }

    /// The node that a hard link leads to, changed as the link's header says.
    fn hard_link(&mut self, entry: &Entry) -> Result<NodeId, LayerError> {
        let target = components(&entry.link)?;
        if let [first, name] = target.as_slice()
            && *first == AUFS_LINKS
            && let Some(node) = self.aufs_links.get(*name)
        {
            return Ok(*node);
        }
        let found = self.resolve(&target, &entry.path)?;
        let node = match found {
            Some(node) if matches!(self.tree.node(node).content, Content::Directory { .. }) => {
                return Err(bad_path(&entry.path, "it is a hard link to a directory"));
            }
            Some(node) if !self.is_whiteout(node) => node,
            _ => {
                let nothing = self.data.begin(0);
                let content = Content::File(self.data.end(nothing).map_err(LayerError::write)?);
                let node = self.add(attributes(entry), content, xattrs(entry))?;
                let target = target.iter().map(|name| name.to_vec()).collect();
                self.tree.charge(entry.link.len() + entry.path.len())?;
                self.unresolved.push((node, entry.path.clone(), target));
                return Ok(node);
            }
        };
        let xattrs = xattrs(entry);
        self.charge(&xattrs)?;
        let node_mut = self.tree.node_mut(node);
        let mode = node_mut.attributes.mode;
        node_mut.attributes = attributes(entry);
        if matches!(node_mut.content, Content::Symlink(_)) {
            node_mut.attributes.mode = mode;
        }
        merge_xattrs(&mut node_mut.xattrs, xattrs);
        Ok(node)
    }

    /// The node at `path`, if the layer has it; links on the way are followed.
    fn resolve(&mut self, path: &[&[u8]], entry: &[u8]) -> Result<Option<NodeId>, LayerError> {
        let Some((name, parents)) = path.split_last() else { return Ok(Some(ROOT)) };
        let mut pending: Vec<Vec<u8>> = parents.iter().rev().map(|name| name.to_vec()).collect();
        let (mut at, mut links) = (ROOT, 0);
        while let Some(name) = pending.pop() {
            if name == b".." {
                at = self.parent_of(at);
                continue;
            }
            let Some(next) = self.tree.child(at, &name) else { return Ok(None) };
            match &self.tree.node(next).content {
                Content::Directory { .. } => at = next,
                Content::Symlink(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(bad_path(entry, "too many symbolic links"));
                    }
                    if target.starts_with(b"/") {
                        at = ROOT;
                    }
                    push_target(&mut pending, target);
                }
                _ => return Ok(None),
            }
        }
        Ok(self.tree.child(at, name))
    }

    /// The directory at `path`, made where it is missing; links on the way are followed.
    fn directory(&mut self, path: &[&[u8]], entry: &[u8]) -> Result<NodeId, LayerError> {
        let mut pending: Vec<Vec<u8>> = Vec::new();
        let mut names = path.iter();
        let (mut at, mut links) = (ROOT, 0);
        loop {
            let popped = pending.pop();
            let name: &[u8] = match (&popped, popped.is_none().then(|| names.next()).flatten()) {
                (Some(name), _) => name,
                (None, Some(name)) => name,
                (None, None) => return Ok(at),
            };
            if name == b".." {
                at = self.parent_of(at);
                continue;
            }
            let existing = self.tree.child(at, name);
            let Some(next) = existing else {
                at = self.open_or_make(at, name)?;
                continue;
            };
            match &self.tree.node(next).content {
                Content::Directory { .. } => at = next,
                Content::Symlink(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(bad_path(entry, "too many symbolic links"));
                    }
                    if target.starts_with(b"/") {
                        at = ROOT;
                    }
                    push_target(&mut pending, target);
                }
                _ if self.is_whiteout(next) => at = self.open_or_make(at, name)?,
                _ => return Err(bad_path(entry, "a name on the way is not a directory")),
            }
        }
    }

    /// The directory above.
    fn parent_of(&self, node: NodeId) -> NodeId {
        match self.tree.node(node).content {
            Content::Directory { parent, .. } => parent,
            _ => ROOT,
        }
    }

    /// A device that overlayfs takes for a whiteout.
    fn is_whiteout(&self, node: NodeId) -> bool {
        matches!(self.tree.node(node).content, Content::CharacterDevice { major: 0, minor: 0 })
    }

    /// Writes a regular file's content and makes its node.
    fn file<R: BufRead>(
        &mut self,
        entry: &Entry,
        reader: &mut Reader<R, TarMapWriter>,
    ) -> Result<NodeId, LayerError> {
        /// Below this size holes are not worth a chunk table.
        const SMALL: u64 = 64 << 10;
        self.files_size = self.files_size.saturating_add(entry.size);
        let data = &mut self.data;
        match &entry.sparse {
            None => {
                let mut file = data.begin(entry.size);
                reader.payload(|_, bytes| data.write(&mut file, bytes).map_err(LayerError::write))?;
                let content = Content::File(data.end(file).map_err(LayerError::write)?);
                let node = self.add(attributes(entry), content, xattrs(entry))?;
                if entry.size > 0 {
                    reader.sink_mut().node(node);
                }
                Ok(node)
            }
            Some(map) if entry.size <= SMALL => {
                // The payload stays in the tar map as well: it is small.
                let mut payload = Vec::new();
                reader.payload(|sink, bytes| {
                    payload.extend_from_slice(bytes);
                    crate::tar::Sink::raw(sink, bytes).map_err(LayerError::write)
                })?;
                let content = expand(map, &payload, entry.size);
                let mut file = data.begin(entry.size);
                data.write(&mut file, &content).map_err(LayerError::write)?;
                let content = Content::File(data.end(file).map_err(LayerError::write)?);
                self.add(attributes(entry), content, xattrs(entry))
            }
            Some(map) => {
                let file = data.begin_sparse(entry.size, map).map_err(LayerError::write)?;
                let mut runs = map.iter().copied();
                let mut run = (0, 0);
                reader.payload(|sink, mut bytes| -> Result<(), LayerError> {
                    while !bytes.is_empty() {
                        if run.1 == 0 {
                            run = runs.next().unwrap_or((entry.size, bytes.len() as u64));
                        }
                        let length = run.1.min(bytes.len() as u64);
                        let (now, rest) = bytes.split_at(length as usize);
                        sink.pieces(&data.write_sparse(&file, run.0, now).map_err(LayerError::write)?);
                        run = (run.0 + length, run.1 - length);
                        bytes = rest;
                    }
                    Ok(())
                })?;
                let content = Content::File(data.end_sparse(file).map_err(LayerError::write)?);
                self.add(attributes(entry), content, xattrs(entry))
            }
        }
    }

    /// A symbolic link, device or pipe.
    fn special(&mut self, entry: &Entry) -> Result<NodeId, LayerError> {
        let (major, minor) = entry.device;
        let mut attributes = attributes(entry);
        let content = match entry.kind {
            EntryKind::Symlink => {
                if entry.link.is_empty() || entry.link.contains(&0) {
                    return Err(bad_path(&entry.path, "the symbolic link has no target"));
                }
                attributes.mode = 0o777;
                Content::Symlink(entry.link.as_slice().into())
            }
            EntryKind::Fifo => Content::Fifo,
            // Linux has 12 bits of major and 20 of minor.
            _ if major > 0xfff || minor > 0xf_ffff => {
                return Err(bad_path(&entry.path, "the device numbers are too large"));
            }
            EntryKind::CharacterDevice => Content::CharacterDevice { major, minor },
            _ => Content::BlockDevice { major, minor },
        };
        self.add(attributes, content, xattrs(entry))
    }

    /// Adds a node.
    fn add(
        &mut self,
        attributes: Attributes,
        content: Content,
        xattrs: Vec<Xattr>,
    ) -> Result<NodeId, LayerError> {
        Ok(self.tree.add(Node { attributes, xattrs, content, names: 0 })?)
    }

    /// Counts attributes that a later header adds.
    fn charge(&mut self, xattrs: &[Xattr]) -> Result<(), LayerError> {
        let bytes = xattrs.iter().map(|xattr| 32 + xattr.suffix.len() + xattr.value.len()).sum();
        Ok(self.tree.charge(bytes)?)
    }
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
        let finished = finish(self.data, &self.tree, uuid).map_err(LayerError::write)?;
        let tar_size = self.map.finish(&self.tree, &finished.tails).map_err(LayerError::write)?;
        Ok(Summary { files_size: self.files_size, disk_size: finished.size, tar_size, root })
    }

    /// Visits the directories without an entry of their own that a lower layer may describe, with
    /// their paths, until `visit` says false.
    fn visit_borrowing(
        &self,
        visit: &mut dyn FnMut(NodeId, &[&[u8]]) -> Result<bool, LayerError>,
    ) -> Result<(), LayerError> {
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

/// Puts a link's target before what is still to be walked.
fn push_target(pending: &mut Vec<Vec<u8>>, target: &[u8]) {
    let names = target.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
    pending.extend(names.rev().map(<[u8]>::to_vec));
}

/// Owner, mode and time of an entry.
fn attributes(entry: &Entry) -> Attributes {
    Attributes {
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime,
        mtime_nanoseconds: entry.mtime_nanoseconds,
    }
}

/// Attributes that steer overlayfs must come from us alone.
fn is_overlay(xattr: &Xattr) -> bool {
    xattr.prefix == 4 && xattr.suffix.starts_with(b"overlay.")
}

/// An entry's extended attributes that a disk can have.
fn xattrs(entry: &Entry) -> Vec<Xattr> {
    let mut xattrs = Vec::new();
    for (name, value) in &entry.xattrs {
        match Xattr::new(name, value) {
            Some(xattr) if !is_overlay(&xattr) => xattrs.push(xattr),
            _ => tracing::debug!(
                path = %readable(&entry.path), name = %readable(name), "extended attribute left out"
            ),
        }
    }
    xattrs.sort_unstable();
    xattrs.dedup_by(|a, b| a.prefix == b.prefix && a.suffix == b.suffix);
    xattrs
}

/// Adds attributes; a known name gets its new value.
fn merge_xattrs(xattrs: &mut Vec<Xattr>, more: Vec<Xattr>) {
    for xattr in more {
        xattrs.retain(|known| known.prefix != xattr.prefix || known.suffix != xattr.suffix);
        xattrs.push(xattr);
    }
    xattrs.sort_unstable();
}

/// A small file with its holes filled.
fn expand(map: &[(u64, u64)], payload: &[u8], size: u64) -> Vec<u8> {
    let mut content = vec![0; size as usize];
    let mut rest = payload;
    for (offset, length) in map {
        let (now, after) = rest.split_at((*length as usize).min(rest.len()));
        content[*offset as usize..*offset as usize + now.len()].copy_from_slice(now);
        rest = after;
    }
    content
}

/// A path that cannot be used.
fn bad_path(path: &[u8], problem: &'static str) -> LayerError {
    LayerError::Path { path: readable(path), problem }
}
