//! Stacks of layers made of anything, merged, against a model of what layers mean.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::*;
use crate::erofs::{Attributes, Xattr};

/// The names that lead to a file.
type Path = Vec<Vec<u8>>;

/// What a layer puts under a name.
#[derive(Debug, Clone)]
enum Thing {
    Directory {
        opaque: bool,
    },
    File {
        size: usize,
    },
    Sparse {
        size: u64,
    },
    Symlink(Vec<u8>),
    Character(u32, u32),
    Block(u32, u32),
    Fifo,
    Whiteout,
    /// Another name of a file of the same layer.
    HardLink(usize),
}

/// A thing with its attributes, and the path to it.
type Op = (Path, Thing, Attributes, Option<Vec<u8>>);

/// Everything about a file that can be seen; hard links have one group.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    kind: u16,
    attributes: Attributes,
    xattrs: Vec<Xattr>,
    content: Vec<u8>,
    device: (u32, u32),
    group: (usize, u64),
    links: u32,
}

fn temporary() -> File {
    tempfile::tempfile().expect("a temporary file")
}

fn again(file: &File) -> File {
    file.try_clone().expect("another handle")
}

/// Few names, so that they meet each other; one is no UTF-8, one sorts before the dots.
fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![Just(b"a".to_vec()), Just(b"b".to_vec()), Just(b"\xff\x01".to_vec()), Just(b"!".to_vec())]
}

fn thing() -> impl Strategy<Value = Thing> {
    let sizes = [0, 9, 4031, 4032, 4033, 4096, 5000, 70_000, 300_000];
    prop_oneof![
        8 => any::<bool>().prop_map(|opaque| Thing::Directory { opaque }),
        6 => prop::sample::select(sizes.to_vec()).prop_map(|size| Thing::File { size }),
        1 => prop::sample::select(vec![100_000, 1 << 20]).prop_map(|size| Thing::Sparse { size }),
        1 => prop::sample::select(vec![1, 60, 4000]).prop_map(|length| Thing::Symlink(vec![b'x'; length])),
        1 => (1_u32..4096, 0_u32..1 << 20).prop_map(|(major, minor)| Thing::Character(major, minor)),
        1 => (0_u32..4096, 0_u32..1 << 20).prop_map(|(major, minor)| Thing::Block(major, minor)),
        1 => Just(Thing::Fifo),
        4 => Just(Thing::Whiteout),
        3 => any::<usize>().prop_map(Thing::HardLink),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let attributes = (0_u16..0o10000, 0_u32..100_000, any::<i32>(), 0_u32..1_000_000_000);
    let attributes = attributes.prop_map(|(mode, uid, mtime, mtime_nanoseconds)| Attributes {
        mode,
        uid,
        gid: uid / 2,
        mtime: mtime.into(),
        mtime_nanoseconds,
    });
    let note = prop::option::weighted(0.3, prop::collection::vec(any::<u8>(), 0..3000));
    (prop::collection::vec(name(), 1..5), thing(), attributes, note)
}

fn stack() -> impl Strategy<Value = Vec<Vec<Op>>> {
    prop::collection::vec(prop::collection::vec(op(), 0..14), 1..6)
}

/// A layer's tree, its contents by node, and its disk.
struct Made {
    tree: Tree,
    contents: HashMap<NodeId, Vec<u8>>,
    disk: File,
}

fn opaque() -> Xattr {
    Xattr::new(b"trusted.overlay.opaque", b"y").expect("a valid name")
}

fn bytes(seed: usize, size: usize) -> Vec<u8> {
    (0..size).map(|at| (at * 7 + at / 255 + seed * 31) as u8).collect()
}

/// Makes a layer's disk.
fn made(number: usize, ops: &[Op]) -> Made {
    let disk = temporary();
    let (mut tree, mut contents) = (Tree::new(), HashMap::new());
    let mut data = DataWriter::new(again(&disk), temporary()).expect("an empty file");
    let mut files = Vec::new();
    tree.node_mut(ROOT).attributes.uid = number as u32;
    for (path, thing, attributes, note) in ops {
        let (name, parents) = path.split_last().expect("a path has a name");
        let mut at = Some(ROOT);
        for parent in parents {
            at = at.and_then(|at| match tree.child(at, parent) {
                Some(child) => {
                    Some(child).filter(|child| matches!(tree.node(*child).content, Content::Directory { .. }))
                }
                None => {
                    let content = tree.directory_below(at).expect("not deep");
                    let attributes = Attributes { mode: 0o755, ..Attributes::default() };
                    let node = Node { attributes, xattrs: Vec::new(), content, names: 0 };
                    let node = tree.add(node).expect("few");
                    tree.link(at, parent, node).expect("few");
                    Some(node)
                }
            });
        }
        let Some(directory) = at else { continue };
        let mut xattrs: Vec<Xattr> =
            note.iter().map(|note| Xattr::new(b"user.note", note).expect("it fits")).collect();
        let mut content_bytes = None;
        let content = match thing {
            Thing::Directory { opaque: is_opaque } => {
                if *is_opaque {
                    xattrs.insert(0, opaque());
                }
                tree.directory_below(directory).expect("not deep")
            }
            Thing::File { size } => {
                let bytes = bytes(number * 100 + contents.len(), *size);
                let mut file = data.begin(*size as u64);
                data.write(&mut file, &bytes).expect("there is room");
                content_bytes = Some(bytes);
                Content::File(data.end(file).expect("there is room"))
            }
            Thing::Sparse { size } => {
                let mut bytes = vec![0; *size as usize];
                bytes[50_000..50_010].fill(number as u8 + 1);
                let file = data.begin_sparse(*size, &[(50_000, 10)]).expect("small");
                data.write_sparse(&file, 50_000, &bytes[50_000..50_010]).expect("there is room");
                content_bytes = Some(bytes);
                Content::File(data.end_sparse(file).expect("there is room"))
            }
            Thing::Symlink(target) => Content::Symlink(target.as_slice().into()),
            Thing::Character(major, minor) => Content::CharacterDevice { major: *major, minor: *minor },
            Thing::Block(major, minor) => Content::BlockDevice { major: *major, minor: *minor },
            Thing::Fifo => Content::Fifo,
            Thing::Whiteout => Content::CharacterDevice { major: 0, minor: 0 },
            Thing::HardLink(which) => {
                let Some(node) = files.get(which % files.len().max(1)).copied() else { continue };
                if tree.node(node).names > 0 && tree.child(directory, name) != Some(node) {
                    tree.link(directory, name, node).expect("few");
                }
                continue;
            }
        };
        let is_directory = matches!(content, Content::Directory { .. });
        let node = tree.add(Node { attributes: *attributes, xattrs, content, names: 0 }).expect("few");
        if !is_directory && !matches!(thing, Thing::Whiteout) {
            files.push(node);
        }
        contents.extend(content_bytes.map(|bytes| (node, bytes)));
        tree.link(directory, name, node).expect("few");
    }
    finish(data, &tree, [0; 16], &[]).expect("there is room");
    Made { tree, contents, disk }
}

/// What layers show, by the specification's words: each is applied to what those below have made.
fn model(layers: &[Made]) -> BTreeMap<Path, Seen> {
    let mut shown: BTreeMap<Path, Seen> = BTreeMap::new();
    for (number, layer) in layers.iter().enumerate() {
        let mut pending: Vec<(Path, NodeId)> = vec![(Vec::new(), ROOT)];
        while let Some((path, id)) = pending.pop() {
            let node = layer.tree.node(id);
            let below = |other: &Path| other.len() > path.len() && other.starts_with(&path);
            let is_directory = matches!(node.content, Content::Directory { .. });
            let was_directory = shown.get(&path).is_some_and(|seen| seen.kind == 0o040_000);
            if !is_directory || !was_directory || node.xattrs.contains(&opaque()) {
                shown.retain(|other, _| !below(other));
            }
            shown.remove(&path);
            let (kind, content, device) = match &node.content {
                Content::Directory { entries, .. } => {
                    for (name, child) in entries {
                        pending.push(([path.clone(), vec![name.to_vec()]].concat(), *child));
                    }
                    (0o040_000, Vec::new(), (0, 0))
                }
                Content::File(_) => (0o100_000, layer.contents[&id].clone(), (0, 0)),
                Content::Symlink(target) => (0o120_000, target.to_vec(), (0, 0)),
                Content::CharacterDevice { major: 0, minor: 0 } => continue,
                Content::CharacterDevice { major, minor } => (0o020_000, Vec::new(), (*major, *minor)),
                Content::BlockDevice { major, minor } => (0o060_000, Vec::new(), (*major, *minor)),
                Content::Fifo => (0o010_000, Vec::new(), (0, 0)),
            };
            let xattrs = node.xattrs.iter().filter(|xattr| **xattr != opaque()).cloned().collect();
            let group = (number, id.into());
            let attributes = node.attributes;
            shown.insert(path, Seen { kind, attributes, xattrs, content, device, group, links: 0 });
        }
    }
    let counted = shown.clone();
    for (path, seen) in &mut shown {
        let children = |other: &&Path| other.len() == path.len() + 1 && other.starts_with(path);
        seen.links = match seen.kind {
            0o040_000 => {
                let below = counted.keys().filter(children);
                2 + below.filter(|other| counted[*other].kind == 0o040_000).count() as u32
            }
            _ => counted.values().filter(|other| other.group == seen.group).count() as u32,
        };
    }
    shown
}

/// Merges disks; gives the whole disk, files in a row.
fn merged(disks: &[File]) -> Result<(File, Vec<usize>), LayerError> {
    let key = |number: usize| Digest::of(&number.to_le_bytes());
    let layer = |(number, disk): (usize, &File)| Disk { key: key(number), file: again(disk) };
    let mut out = temporary();
    merge(disks.iter().enumerate().map(layer).collect(), again(&out), temporary(), [9; 16])?;
    let head = crate::erofs::Head::read(&out, disks.len()).expect("it was just written");
    assert_eq!(head.uuid, [9; 16]);
    let mut devices = Vec::new();
    out.seek(SeekFrom::End(0)).expect("a file");
    for device in head.devices {
        let number = (0..disks.len()).find(|number| tag(&key(*number)) == device.tag).expect("a layer");
        assert_eq!(out.stream_position().expect("a file"), u64::from(device.start) * 4096);
        let mut disk = again(&disks[number]);
        disk.seek(SeekFrom::Start(0)).expect("a file");
        let copied = std::io::copy(&mut disk.take(u64::MAX), &mut out).expect("there is room");
        assert_eq!(copied, u64::from(device.blocks) * 4096);
        devices.push(number);
    }
    out.flush().expect("a file");
    Ok((out, devices))
}

/// All files of a disk.
fn seen(reader: &Reader) -> Result<BTreeMap<Path, Seen>, ReadError> {
    let mut all = BTreeMap::new();
    let mut pending = vec![(Vec::new(), reader.root_number())];
    while let Some((path, number)) = pending.pop() {
        let inode = reader.inode(number)?;
        let mut content = Vec::new();
        match inode.kind() {
            0o040_000 => {
                let entries = reader.entries(&inode)?.into_iter();
                pending.extend(entries.map(|(name, number)| ([path.clone(), vec![name]].concat(), number)));
            }
            0o100_000 => {
                content.resize(inode.size as usize, 0);
                reader.read(&inode, 0, &mut content)?;
            }
            0o120_000 => content = reader.symlink(&inode)?,
            _ => {}
        }
        let device = match inode.kind() {
            0o020_000 | 0o060_000 => inode.device(),
            _ => (0, 0),
        };
        let group = (usize::MAX, number);
        let Inode { attributes, ref xattrs, links, .. } = inode;
        let (kind, xattrs) = (inode.kind(), xattrs.clone());
        all.insert(path, Seen { kind, attributes, xattrs, content, device, group, links });
    }
    Ok(all)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_stack_shows_what_its_layers_make_of_each_other(stack in stack()) {
        let layers: Vec<Made> = stack.iter().enumerate().map(|(number, ops)| made(number, ops)).collect();
        let expected = model(&layers);
        let disks: Vec<File> = layers.iter().map(|layer| again(&layer.disk)).collect();
        let (disk, _) = merged(&disks).expect("sound layers");
        let found = seen(&Reader::new(disk).expect("it was just written")).expect("it was just written");
        prop_assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        let mut groups: HashMap<(usize, u64), (usize, u64)> = HashMap::new();
        for (path, seen) in found {
            let group = *groups.entry(seen.group).or_insert(expected[&path].group);
            prop_assert_eq!(&Seen { group, ..seen }, &expected[&path], "{:?}", path);
        }
    }

    #[test]
    fn damaged_layers_end_in_an_error_or_a_readable_disk(
        stack in stack(),
        damages in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..30),
        shorter in prop::option::weighted(0.1, any::<prop::sample::Index>()),
    ) {
        let layers: Vec<Made> = stack.iter().enumerate().map(|(number, ops)| made(number, ops)).collect();
        let disks: Vec<File> = layers.iter().map(|layer| again(&layer.disk)).collect();
        for (which, place, value) in damages {
            let disk = &disks[which.index(disks.len())];
            let size = disk.metadata().expect("a file").len();
            // Where the metadata is, of which there is less than of contents.
            let reach = (size as usize).min(16 << 10);
            let at = size - 1 - place.index(reach) as u64;
            disk.write_all_at(&[value], at).expect("there is room");
        }
        if let Some(shorter) = shorter {
            let size = disks[0].metadata().expect("a file").len();
            disks[0].set_len(shorter.index(size as usize) as u64).expect("a file");
        }
        if let Ok((disk, _)) = merged(&disks) {
            let reader = Reader::new(disk).expect("it was just written");
            seen(&reader).expect("what was written can be read");
        }
    }
}

/// A layer's disk of one file.
fn one_file(name: &[u8], size: usize) -> File {
    made(1, &[(vec![name.to_vec()], Thing::File { size }, Attributes::default(), None)]).disk
}

#[test]
fn only_layers_with_much_content_that_is_shown_are_devices() {
    let (small, large, hidden) = (one_file(b"small", 9000), one_file(b"x", 900_000), one_file(b"y", 800_000));
    let whiteout = made(2, &[(vec![b"y".to_vec()], Thing::Whiteout, Attributes::default(), None)]).disk;
    let (_, devices) = merged(&[small, hidden, large, whiteout]).expect("sound layers");
    assert_eq!(devices, [2]);
}

#[test]
fn a_directory_that_leads_to_itself_is_refused() {
    let disk = temporary();
    let mut tree = Tree::new();
    let data = DataWriter::new(again(&disk), temporary()).expect("an empty file");
    let directory = |tree: &Tree, above| Node {
        attributes: Attributes::default(),
        xattrs: Vec::new(),
        content: tree.directory_below(above).expect("not deep"),
        names: 0,
    };
    let first = tree.add(directory(&tree, ROOT)).expect("few");
    tree.link(ROOT, b"a", first).expect("few");
    let second = tree.add(directory(&tree, first)).expect("few");
    tree.link(first, b"b", second).expect("few");
    tree.link(second, b"c", first).expect("few");
    finish(data, &tree, [0; 16], &[]).expect("there is room");
    let refused = merged(&[disk, one_file(b"x", 1)]);
    assert!(matches!(refused, Err(LayerError::Lower(ReadError::Damaged(_)))), "{:?}", refused.err());
}

#[test]
fn more_blocks_than_can_be_addressed_are_refused() {
    // 9 TiB of contents that nobody has written.
    let large = |name: &[u8]| {
        let disk = temporary();
        let mut data = DataWriter::new(again(&disk), temporary()).expect("an empty file");
        let size = 9_u64 << 40;
        let file = data.begin_sparse(size, &[(0, size)]).expect("below the bound");
        let mut tree = Tree::new();
        let content = Content::File(data.end_sparse(file).expect("nothing is written"));
        let node = Node { attributes: Attributes::default(), xattrs: Vec::new(), content, names: 0 };
        let node = tree.add(node).expect("few");
        tree.link(ROOT, name, node).expect("few");
        finish(data, &tree, [0; 16], &[]).map(|_| disk)
    };
    let (Ok(one), Ok(other)) = (large(b"x"), large(b"y")) else {
        eprintln!("skipped: files of 9 TiB cannot be made here");
        return;
    };
    let merge = |disks: Vec<File>| {
        let layer = |(number, file): (u8, File)| Disk { key: Digest::of(&[number]), file };
        merge((0..).zip(disks).map(layer).collect(), temporary(), temporary(), [9; 16])
    };
    merge(vec![again(&one), one_file(b"z", 1)]).expect("9 TiB can be addressed");
    let refused = merge(vec![one, other]);
    let too_large = |error: &std::io::Error| error.kind() == std::io::ErrorKind::FileTooLarge;
    assert!(matches!(&refused, Err(LayerError::Write(error)) if too_large(error)), "{refused:?}");
}
