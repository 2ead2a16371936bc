//! From a layer's tar entries to a file tree.
//!
//! Names mean what they mean when docker extracts the layer into an empty directory: later
//! entries replace earlier ones, a directory entry over a directory only changes its attributes, links on
//! the way to a name are followed inside the layer. AUFS whiteouts become what overlayfs wants.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufRead;

use crate::erofs::{Attributes, Content, DataWriter, Node, NodeId, ROOT, Tree, Xattr};
use crate::tar::{Entry, EntryKind, Reader};

use super::error::LayerError;
use super::finish::Converted;
use super::path::{AUFS_META, OPAQUE, WHITEOUT, components, readable};
use super::tarmap::TarMapWriter;

/// Most symbolic links followed for one path, as in Linux.
const MAX_LINKS: usize = 40;
/// Most names walked through in one layer: a hundred for each of the most files.
const MAX_STEPS: u64 = 200 << 20;
/// Most bytes of one file's extended attributes; EROFS has room for twice as many.
const MAX_XATTR_BYTES: u64 = 128 << 10;
/// AUFS kept hard-linked files here.
const AUFS_LINKS: &[u8] = b".wh..wh.plnk";

/// What a walk does where there is no directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    /// It ends there.
    End,
    /// It makes one, unless another file is in the way.
    Make,
}

/// Builds the tree.
struct Converter {
    tree: Tree,
    data: DataWriter,
    whiteout: Option<NodeId>,
    aufs_links: HashMap<Vec<u8>, NodeId>,
    /// Names walked through so far.
    steps: u64,
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
        steps: 0,
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
        check_xattrs(&xattrs(&entry), &entry.path)?;
        let Some((name, parents)) = path.split_last() else {
            return self.root_entry(&entry);
        };
        if path[0].starts_with(AUFS_META) && path[0] != OPAQUE {
            if path[0] == AUFS_LINKS && entry.kind == EntryKind::File {
                let node = self.file(&entry, reader)?;
                self.tree.charge(32 + name.len())?;
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
        check_xattrs(&node.xattrs, &entry.path)
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
        check_xattrs(&node_mut.xattrs, &entry.path)?;
        Ok(node)
    }

    /// The node at `path`, if the layer has it; links on the way are followed.
    fn resolve(&mut self, path: &[&[u8]], entry: &[u8]) -> Result<Option<NodeId>, LayerError> {
        let Some((name, parents)) = path.split_last() else { return Ok(Some(ROOT)) };
        let parent = self.walk(parents, entry, Missing::End)?;
        Ok(parent.and_then(|parent| self.tree.child(parent, name)))
    }

    /// The directory at `path`, made where it is missing; links on the way are followed.
    fn directory(&mut self, path: &[&[u8]], entry: &[u8]) -> Result<NodeId, LayerError> {
        let found = self.walk(path, entry, Missing::Make)?;
        Ok(found.expect("what is missing was made"))
    }

    /// Goes from the root through the directories of `path`, and through those of links on the way.
    /// None where the way ends, which it never does when what is missing is made.
    fn walk(&mut self, path: &[&[u8]], entry: &[u8], missing: Missing) -> Result<Option<NodeId>, LayerError> {
        let mut names = path.iter();
        // What is left of links' targets, the next name last; it comes before the rest of the path.
        let mut targets: Vec<Vec<u8>> = Vec::new();
        let (mut at, mut links) = (ROOT, 0);
        loop {
            let target = targets.pop();
            let Some(name) = target.as_deref().or_else(|| names.next().copied()) else { return Ok(Some(at)) };
            self.step(entry)?;
            if name == b".." {
                at = self.parent_of(at);
                continue;
            }
            let existing = self.tree.child(at, name);
            match existing.map(|node| (node, &self.tree.node(node).content)) {
                Some((node, Content::Directory { .. })) => at = node,
                Some((_, Content::Symlink(target))) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(bad_path(entry, "too many symbolic links"));
                    }
                    if target.starts_with(b"/") {
                        at = ROOT;
                    }
                    push_target(&mut targets, target);
                }
                _ if missing == Missing::End => return Ok(None),
                Some((node, _)) if !self.is_whiteout(node) => {
                    return Err(bad_path(entry, "a name on the way is not a directory"));
                }
                _ => at = self.open_or_make(at, name)?,
            }
        }
    }

    /// Counts a name walked through: links make long ways of short paths.
    fn step(&mut self, entry: &[u8]) -> Result<(), LayerError> {
        self.steps += 1;
        match self.steps > MAX_STEPS {
            true => Err(bad_path(entry, "the layer's paths are too long altogether")),
            false => Ok(()),
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
                        let pieces = data.write_sparse(&file, run.0, now);
                        pieces.and_then(|pieces| sink.pieces(&pieces)).map_err(LayerError::write)?;
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
pub(super) fn is_overlay(xattr: &Xattr) -> bool {
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
pub(super) fn merge_xattrs(xattrs: &mut Vec<Xattr>, more: Vec<Xattr>) {
    for xattr in more {
        xattrs.retain(|known| known.prefix != xattr.prefix || known.suffix != xattr.suffix);
        xattrs.push(xattr);
    }
    xattrs.sort_unstable();
}

/// One file's attributes must fit in its inode.
pub(super) fn check_xattrs(xattrs: &[Xattr], path: &[u8]) -> Result<(), LayerError> {
    let bytes: u64 = xattrs.iter().map(|xattr| (8 + xattr.suffix.len() + xattr.value.len()) as u64).sum();
    match bytes > MAX_XATTR_BYTES {
        true => Err(bad_path(path, "its extended attributes are too large")),
        false => Ok(()),
    }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn converter() -> Converter {
        let file = || tempfile::tempfile().expect("a temporary file");
        Converter {
            tree: Tree::new(),
            data: DataWriter::new(file(), file()).expect("an empty file"),
            whiteout: None,
            aufs_links: HashMap::new(),
            steps: 0,
            unresolved: Vec::new(),
            files_size: 0,
        }
    }

    /// One name of few, so that paths meet each other.
    fn name() -> impl Strategy<Value = &'static str> {
        prop_oneof![6 => Just("a"), 6 => Just("b"), 3 => Just("c"), 2 => Just("..")]
    }

    fn path() -> impl Strategy<Value = String> {
        (any::<bool>(), proptest::collection::vec(name(), 1..5))
            .prop_map(|(absolute, names)| format!("{}{}", if absolute { "/" } else { "" }, names.join("/")))
    }

    /// What is made below the directory that a path leads to.
    #[derive(Debug, Clone)]
    enum Thing {
        Directory,
        Link(String),
        File,
        Whiteout,
    }

    fn thing() -> impl Strategy<Value = Thing> {
        prop_oneof![
            4 => Just(Thing::Directory),
            5 => path().prop_map(Thing::Link),
            1 => Just(Thing::File),
            1 => Just(Thing::Whiteout),
        ]
    }

    fn names(path: &str) -> Vec<&[u8]> {
        components(path.as_bytes()).unwrap_or_default()
    }

    /// A tree of things, put where the paths lead, as entries of a tar are.
    fn tree_of(things: &[(String, Thing)]) -> Converter {
        let mut converter = converter();
        for (path, thing) in things {
            let names = names(path);
            let Some((name, parents)) = names.split_last() else { continue };
            let Ok(parent) = converter.directory(parents, b"entry") else { continue };
            let content = match thing {
                Thing::Directory => {
                    converter.open_or_make(parent, name).expect("there is room");
                    continue;
                }
                Thing::Link(target) => Content::Symlink(target.as_bytes().into()),
                Thing::File => Content::Fifo,
                Thing::Whiteout => Content::CharacterDevice { major: 0, minor: 0 },
            };
            let node = converter.add(Attributes::default(), content, Vec::new()).expect("there is room");
            converter.tree.link(parent, name, node).expect("there is room");
        }
        converter
    }

    /// What a walk means, said the other way round: the directory of a path is the last name's, looked
    /// up in the directory of the names before.
    fn directory_by_definition(
        tree: &Tree,
        from: NodeId,
        path: &[Vec<u8>],
        links: &mut usize,
    ) -> Option<NodeId> {
        let Some((name, before)) = path.split_last() else { return Some(from) };
        let parent = directory_by_definition(tree, from, before, links)?;
        let above = |node| match tree.node(node).content {
            Content::Directory { parent, .. } => parent,
            _ => ROOT,
        };
        if name == b".." {
            return Some(above(parent));
        }
        let node = tree.child(parent, name)?;
        match &tree.node(node).content {
            Content::Directory { .. } => Some(node),
            Content::Symlink(target) => {
                *links += 1;
                if *links > MAX_LINKS {
                    return None;
                }
                let from = if target.starts_with(b"/") { ROOT } else { parent };
                let names = target.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
                directory_by_definition(tree, from, &names.map(<[u8]>::to_vec).collect::<Vec<_>>(), links)
            }
            _ => None,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn a_walk_leads_where_links_say_and_makes_only_what_is_missing(
            things in proptest::collection::vec((path(), thing()), 0..12),
            path in path(),
        ) {
            let mut converter = tree_of(&things);
            let names = names(&path);
            let owned: Vec<Vec<u8>> = names.iter().map(|name| name.to_vec()).collect();
            let expected = directory_by_definition(&converter.tree, ROOT, &owned, &mut 0);
            let nodes = converter.tree.nodes().len();
            match converter.walk(&names, b"entry", Missing::End) {
                Ok(found) => prop_assert_eq!(found, expected),
                Err(_) => prop_assert_eq!(expected, None, "only endless links fail"),
            }
            prop_assert_eq!(converter.tree.nodes().len(), nodes, "looking makes nothing");
            let Ok(made) = converter.directory(&names, b"entry") else {
                prop_assert_eq!(expected, None);
                return Ok(());
            };
            let is_directory = matches!(converter.tree.node(made).content, Content::Directory { .. });
            prop_assert!(is_directory);
            match expected {
                Some(expected) => prop_assert_eq!((made, converter.tree.nodes().len()), (expected, nodes)),
                None => prop_assert!(converter.tree.nodes().len() > nodes),
            }
            prop_assert_eq!(converter.walk(&names, b"entry", Missing::End).expect("it was found"), Some(made));
        }
    }

    #[test]
    fn a_chain_of_links_has_an_end_and_costs_steps() {
        let links = |count: usize| -> Vec<(String, Thing)> {
            let link = |number: usize| (format!("l{number}"), Thing::Link(format!("l{}", number + 1)));
            (0..count).map(link).chain([(format!("l{count}"), Thing::Directory)]).collect()
        };
        let mut converter = tree_of(&links(MAX_LINKS));
        assert!(converter.directory(&[b"l0"], b"entry").is_ok());
        let mut converter = tree_of(&links(MAX_LINKS + 1));
        assert!(converter.directory(&[b"l0"], b"entry").is_err());
        assert!(converter.resolve(&[b"l0", b"x"], b"entry").is_err());
        converter.steps = MAX_STEPS;
        assert!(converter.directory(&[b"a"], b"entry").is_err());
    }
}
