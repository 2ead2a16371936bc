//! All layers of an image as one filesystem.
//!
//! What is written is the tree that an overlay of the layers shows: whiteouts applied, directories united, their
//! attributes those of the topmost layer that has them. Contents stay in the layers' disks, which become devices
//! of the new image; only the ends of files, which sit among the metadata, and the few blocks of small layers are
//! copied. The layers are our own, but the disk under them can rot: nothing in them is trusted.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;

use crate::digest::Digest;
use crate::erofs::{
    Content, DataWriter, DeviceFile, Elsewhere, FileData, Inode, Node, NodeId, ROOT, ReadError, Reader,
    Stored, Tree, finish,
};

use super::convert::is_overlay;
use super::error::LayerError;

/// Most bytes of contents in a layer that is no device: a further file in a row costs a start 0.4 ms (measured
/// with QEMU), and such layers are most of an image that has many.
const COPIED: u64 = 256 << 10;
/// Bytes copied at once.
const COPY: u64 = 1 << 20;
/// Longest name.
const MAX_NAME: usize = 255;

/// A layer's disk by the key that names it.
pub struct Disk {
    /// The key.
    pub key: Digest,
    /// The disk, open for reading.
    pub file: File,
}

/// The mark of a layer in a device table.
pub fn tag(key: &Digest) -> [u8; 64] {
    let mut tag = [0; 64];
    tag.copy_from_slice(key.hex().as_bytes());
    tag
}

/// Writes the metadata of all `layers`, bottom first, as they show together, to the empty file `out`; the caller
/// syncs. `scratch` is an empty file for what does not fit in memory.
///
/// # Errors
/// A layer cannot be read or is damaged, they have too many files together, or writing fails.
pub fn merge(layers: Vec<Disk>, out: File, scratch: File, uuid: [u8; 16]) -> Result<(), LayerError> {
    let data = DataWriter::over(out, scratch, layers.len()).map_err(LayerError::write)?;
    let layers = layers.into_iter().map(Layer::new).collect::<Result<_, ReadError>>()?;
    let mut merger = Merger { layers, devices: Vec::new(), tree: Tree::new(), data, nodes: HashMap::new() };
    merger.run()?;
    let Merger { tree, data, devices, .. } = merger;
    finish(data, &tree, uuid, &devices).map_err(LayerError::write)?;
    Ok(())
}

/// An open layer.
struct Layer {
    reader: Reader,
    file: DeviceFile,
    /// Bytes of contents that may be copied; none where they are not.
    copied: Option<u64>,
    /// Its number among the devices, counted from 1, once something is in it.
    device: Option<u16>,
}

impl Layer {
    fn new(disk: Disk) -> Result<Self, ReadError> {
        let reader = Reader::new(disk.file)?;
        let file = DeviceFile { tag: tag(&disk.key), blocks: reader.blocks()? };
        let copied = Some(reader.data_size()).filter(|size| *size <= COPIED);
        Ok(Self { reader, file, copied, device: None })
    }
}

/// An inode of a layer, by the layer's place from the bottom.
type Source = (usize, u64);

/// What a directory shows under a name while its layers are gone through from the top.
enum Shown {
    /// What is further down does not matter.
    Closed,
    /// A directory, and the layers' directories it unites so far.
    Directory { node: NodeId, sources: Vec<Source>, open: bool },
}

struct Merger {
    /// Bottom first.
    layers: Vec<Layer>,
    devices: Vec<DeviceFile>,
    tree: Tree,
    data: DataWriter,
    /// Directories, and files that may have further names.
    nodes: HashMap<Source, NodeId>,
}

impl Merger {
    /// Builds the tree.
    fn run(&mut self) -> Result<(), LayerError> {
        let tops = (0..self.layers.len()).rev();
        let sources: Vec<Source> = tops.map(|at| (at, self.layers[at].reader.root_number())).collect();
        for source in &sources {
            self.nodes.insert(*source, ROOT);
        }
        if let Some(top) = self.layers.last() {
            let inode = top.reader.root()?;
            let root = self.tree.node_mut(ROOT);
            root.attributes = inode.attributes;
            root.xattrs = inode.xattrs;
            root.xattrs.retain(|xattr| !is_overlay(xattr));
        }
        let mut pending = vec![(ROOT, sources)];
        while let Some((node, sources)) = pending.pop() {
            pending.extend(self.directory(node, &sources)?);
        }
        Ok(())
    }

    /// Fills a directory and returns those in it.
    fn directory(
        &mut self,
        directory: NodeId,
        sources: &[Source],
    ) -> Result<Vec<(NodeId, Vec<Source>)>, LayerError> {
        let mut names: BTreeMap<Box<[u8]>, Shown> = BTreeMap::new();
        for (layer, number) in sources {
            let mut entries = Vec::new();
            let reader = &self.layers[*layer].reader;
            reader.each_entry(&reader.inode(*number)?, |name, number| -> Result<(), LayerError> {
                check_name(name)?;
                if !matches!(names.get(name), Some(Shown::Closed | Shown::Directory { open: false, .. })) {
                    self.tree.charge(name.len() + 32)?;
                    entries.push((Box::from(name), number));
                }
                Ok(())
            })?;
            for (name, number) in entries {
                let below = (*layer, number);
                let shown = match names.remove(&name) {
                    None => self.enter(directory, &name, below)?,
                    Some(Shown::Directory { node, sources, open: true }) => {
                        self.unite(node, sources, below)?
                    }
                    Some(shown) => shown,
                };
                names.insert(name, shown);
            }
        }
        let directories = names.into_values().filter_map(|shown| match shown {
            Shown::Directory { node, sources, .. } => Some((node, sources)),
            Shown::Closed => None,
        });
        Ok(directories.collect())
    }

    /// Takes in what the topmost layer that knows a name has under it.
    fn enter(&mut self, directory: NodeId, name: &[u8], source: Source) -> Result<Shown, LayerError> {
        let inode = self.inode(source)?;
        if inode.is_whiteout() {
            return Ok(Shown::Closed);
        }
        if !inode.is_directory() {
            let node = self.file(source, inode)?;
            self.tree.link(directory, name, node)?;
            return Ok(Shown::Closed);
        }
        let open = !inode.is_opaque();
        let content = self.tree.directory_below(directory)?;
        let node = self.add(inode, content)?;
        self.note_directory(source, node)?;
        self.tree.link(directory, name, node)?;
        Ok(Shown::Directory { node, sources: vec![source], open })
    }

    /// A lower layer's file under the name of a directory: another directory is united with it, anything else
    /// hides what is further down.
    fn unite(&mut self, node: NodeId, mut sources: Vec<Source>, source: Source) -> Result<Shown, LayerError> {
        let inode = self.inode(source)?;
        if !inode.is_directory() {
            return Ok(Shown::Directory { node, sources, open: false });
        }
        self.note_directory(source, node)?;
        sources.push(source);
        Ok(Shown::Directory { node, sources, open: !inode.is_opaque() })
    }

    /// A directory has one name, so there is an end to going down.
    fn note_directory(&mut self, source: Source, node: NodeId) -> Result<(), LayerError> {
        match self.nodes.insert(source, node) {
            None => Ok(()),
            Some(_) => Err(ReadError::Damaged("a directory has two names").into()),
        }
    }

    fn inode(&self, (layer, number): Source) -> Result<Inode, LayerError> {
        let inode = self.layers[layer].reader.inode(number)?;
        if inode.attributes.mtime_nanoseconds >= 1_000_000_000 {
            return Err(ReadError::Damaged("time of a file").into());
        }
        Ok(inode)
    }

    /// The node of a file that is no directory.
    fn file(&mut self, source: Source, inode: Inode) -> Result<NodeId, LayerError> {
        if inode.links > 1
            && let Some(node) = self.nodes.get(&source)
        {
            return match self.tree.node(*node).content {
                Content::Directory { .. } => Err(ReadError::Damaged("type of a file").into()),
                _ => Ok(*node),
            };
        }
        let (major, minor) = inode.device();
        let content = match inode.kind() {
            0o100_000 => Content::File(self.content(source.0, &inode)?),
            0o120_000 => {
                let target = self.layers[source.0].reader.symlink(&inode)?;
                if target.is_empty() || target.contains(&0) {
                    return Err(ReadError::Damaged("symbolic link").into());
                }
                Content::Symlink(target.into())
            }
            0o020_000 => Content::CharacterDevice { major, minor },
            0o060_000 => Content::BlockDevice { major, minor },
            0o010_000 => Content::Fifo,
            _ => return Err(ReadError::Damaged("type of a file").into()),
        };
        let links = inode.links;
        let node = self.add(inode, content)?;
        if links > 1 {
            self.nodes.insert(source, node);
        }
        Ok(node)
    }

    fn add(&mut self, inode: Inode, content: Content) -> Result<NodeId, LayerError> {
        let Inode { attributes, mut xattrs, .. } = inode;
        xattrs.retain(|xattr| !is_overlay(xattr));
        Ok(self.tree.add(Node { attributes, xattrs, content, names: 0 })?)
    }

    /// Where a regular file's content is to be found.
    fn content(&mut self, layer: usize, inode: &Inode) -> Result<FileData, LayerError> {
        let stored = self.layers[layer].reader.stored(inode)?;
        match stored {
            Stored::Flat { in_blocks: 0, .. } => self.copy(layer, inode),
            Stored::Flat { in_blocks, .. } if let Some(left) = &mut self.layers[layer].copied => {
                // No two files have the same blocks.
                let overlap = ReadError::Damaged("place of a file's content");
                *left = left.checked_sub(in_blocks).ok_or(overlap)?;
                self.copy(layer, inode)
            }
            Stored::Flat { start, in_blocks } => {
                let device = self.device(layer);
                let mut tail = vec![0; (inode.size - in_blocks) as usize];
                self.layers[layer].reader.read(inode, in_blocks, &mut tail)?;
                let elsewhere = Elsewhere { device, start };
                self.data.keep_tail(inode.size, elsewhere, &tail).map_err(LayerError::write)
            }
            Stored::Chunks { chunk_bits, table } => {
                let device = self.device(layer);
                Ok(self.data.keep_chunks(inode.size, device, chunk_bits, table))
            }
        }
    }

    fn copy(&mut self, layer: usize, inode: &Inode) -> Result<FileData, LayerError> {
        let mut file = self.data.begin(inode.size);
        let mut at = 0;
        while at < inode.size {
            let mut buffer = vec![0; (inode.size - at).min(COPY) as usize];
            self.layers[layer].reader.read(inode, at, &mut buffer)?;
            self.data.write(&mut file, &buffer).map_err(LayerError::write)?;
            at += buffer.len() as u64;
        }
        self.data.end(file).map_err(LayerError::write)
    }

    /// A layer's number among the devices.
    fn device(&mut self, layer: usize) -> u16 {
        let layer = &mut self.layers[layer];
        *layer.device.get_or_insert_with(|| {
            self.devices.push(layer.file);
            self.devices.len() as u16
        })
    }
}

/// What can be no name would be shown to the guest, and a slash confuses whoever walks there.
fn check_name(name: &[u8]) -> Result<(), ReadError> {
    match name.is_empty() || name.len() > MAX_NAME || name.contains(&b'/') {
        true => Err(ReadError::Damaged("name of a file")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests;
