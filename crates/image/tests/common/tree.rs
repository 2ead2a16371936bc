//! File trees: mounted from disks, and compared in everything that `stat` and friends tell.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use hyper_image::{Digest, Image, MergedLayers};

use super::run;

/// An image's disks mounted and laid over each other.
pub struct Mounted {
    directory: tempfile::TempDir,
    mounts: Vec<PathBuf>,
    loops: Vec<String>,
}

impl Mounted {
    pub fn new(image: &Image) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut mounted = Self { directory, mounts: Vec::new(), loops: Vec::new() };
        let mut lower = Vec::new();
        for (index, layer) in image.layers.iter().enumerate() {
            // Short names: the kernel takes one page of options.
            let at = mounted.directory.path().join(format!("{index}"));
            std::fs::create_dir(&at).unwrap();
            run(
                "mount",
                &["-t", "erofs", "-o", "ro,loop", layer.blob.to_str().unwrap(), at.to_str().unwrap()],
            );
            mounted.mounts.push(at.clone());
            lower.push(format!("{index}"));
        }
        if lower.len() > 1 {
            lower.reverse();
            let root = mounted.root();
            std::fs::create_dir(&root).unwrap();
            let options = format!("lowerdir={}", lower.join(":"));
            let status = Command::new("mount")
                .current_dir(mounted.directory.path())
                .args(["-t", "overlay", "-o", &options, "overlay", "root"])
                .status()
                .unwrap();
            assert!(status.success());
            mounted.mounts.push(root);
        }
        mounted
    }

    /// All layers as the one disk they are to a container: with each file a device of its own, or all of them
    /// one after the other in one.
    pub fn merged(merged: &MergedLayers, one_file: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().join("0");
        std::fs::create_dir(&at).unwrap();
        let mut loops = Vec::new();
        let mut options = "ro".to_owned();
        let first = if one_file {
            let whole = directory.path().join("whole");
            std::fs::copy(&merged.metadata, &whole).unwrap();
            let mut out = std::fs::File::options().append(true).open(&whole).unwrap();
            for device in &merged.devices {
                std::io::copy(&mut std::fs::File::open(device).unwrap(), &mut out).unwrap();
            }
            whole
        } else {
            for device in &merged.devices {
                loops.push(
                    run("losetup", &["-f", "-r", "--show", device.to_str().unwrap()]).trim().to_owned(),
                );
                options.push_str(&format!(",device={}", loops.last().unwrap()));
            }
            merged.metadata.clone()
        };
        loops.push(run("losetup", &["-f", "-r", "--show", first.to_str().unwrap()]).trim().to_owned());
        let disk = loops.last().unwrap().clone();
        let mounted = Self { directory, mounts: vec![at.clone()], loops };
        run("mount", &["-i", "-t", "erofs", "-o", &options, &disk, at.to_str().unwrap()]);
        mounted
    }

    /// What a container would see.
    pub fn root(&self) -> PathBuf {
        match self.mounts.len() {
            1 => self.mounts[0].clone(),
            _ => self.directory.path().join("root"),
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for mount in self.mounts.iter().rev() {
            let _ = Command::new("umount").arg(mount).status();
        }
        for device in &self.loops {
            let _ = Command::new("losetup").args(["-d", device]).status();
        }
    }
}

/// Everything about one file; hard links are told by the first name of their group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub mode: u32,
    pub owner: (u32, u32),
    pub size: u64,
    pub mtime: (i64, i64),
    pub device: u64,
    pub link: Option<Vec<u8>>,
    pub content: Option<Digest>,
    pub xattrs: BTreeMap<String, Digest>,
    pub same_as: String,
    pub names: u64,
}

/// All files below a directory, by path.
pub fn tree(root: &Path) -> BTreeMap<Vec<u8>, Node> {
    let mut paths = Vec::new();
    collect(root, root, &mut paths);
    paths.sort();
    let mut first: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
    let mut nodes = BTreeMap::new();
    for path in paths {
        let full = root.join(std::ffi::OsStr::from_bytes(&path));
        let metadata = std::fs::symlink_metadata(&full).unwrap();
        let kind = metadata.file_type();
        let same_as = first.entry((metadata.dev(), metadata.ino())).or_insert_with(|| path.clone()).clone();
        let is_device = kind.is_char_device() || kind.is_block_device();
        let node = Node {
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            size: if kind.is_dir() { 0 } else { metadata.size() },
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            device: if is_device { metadata.rdev() } else { 0 },
            link: kind
                .is_symlink()
                .then(|| std::fs::read_link(&full).unwrap().as_os_str().as_bytes().to_vec()),
            content: kind.is_file().then(|| Digest::of(&std::fs::read(&full).unwrap())),
            xattrs: xattrs(&full),
            same_as: String::from_utf8_lossy(if kind.is_dir() { &path } else { &same_as }).into_owned(),
            names: if kind.is_dir() { 0 } else { metadata.nlink() },
        };
        nodes.insert(path, node);
    }
    nodes
}

fn collect(root: &Path, directory: &Path, paths: &mut Vec<Vec<u8>>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let path = entry.path();
        paths.push(path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec());
        if entry.file_type().unwrap().is_dir() {
            collect(root, &path, paths);
        }
    }
}

fn xattrs(path: &Path) -> BTreeMap<String, Digest> {
    let mut names = vec![0_u8; 65536];
    let Ok(length) = rustix::fs::llistxattr(path, &mut names[..]) else { return BTreeMap::new() };
    names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty() && !name.starts_with(b"trusted.overlay."))
        .map(|name| {
            let mut value = vec![0_u8; 65536];
            let length =
                rustix::fs::lgetxattr(path, std::ffi::OsStr::from_bytes(name), &mut value[..]).unwrap();
            value.truncate(length);
            (String::from_utf8_lossy(name).into_owned(), Digest::of(&value))
        })
        .collect()
}

/// Fails with the differing files.
pub fn assert_same(found: &BTreeMap<Vec<u8>, Node>, expected: &BTreeMap<Vec<u8>, Node>) {
    let mut differences = Vec::new();
    for path in found.keys().chain(expected.keys()) {
        if found.get(path) != expected.get(path) {
            differences.push(format!(
                "{}:\n  found    {:?}\n  expected {:?}",
                String::from_utf8_lossy(path),
                found.get(path),
                expected.get(path)
            ));
        }
    }
    differences.sort();
    differences.dedup();
    let shown = differences.iter().take(10).cloned().collect::<Vec<_>>().join("\n");
    assert!(differences.is_empty(), "{} of {} files differ:\n{shown}", differences.len(), expected.len());
}
