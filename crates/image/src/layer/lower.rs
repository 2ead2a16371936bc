//! The layers below the one being made, seen as one tree.

use crate::erofs::{Inode, ReadError, Reader};

/// Most symbolic links followed for one path, as in Linux.
const MAX_LINKS: usize = 40;

/// The layers below, and lookups in what they show together.
#[derive(Default)]
pub struct Lower {
    /// Bottom first.
    layers: Vec<Reader>,
}

impl Lower {
    /// Over these layers, bottom first.
    pub fn new(layers: Vec<Reader>) -> Self {
        Self { layers }
    }

    /// What `path` shows, and the layer it is in. The last name is not followed if it is a link;
    /// links on the way are when `follow` is set, and end the search when not.
    ///
    /// # Errors
    /// A layer cannot be read.
    pub fn lookup(&self, path: &[&[u8]], follow: bool) -> Result<Option<(&Reader, Inode)>, ReadError> {
        let mut path: Vec<Vec<u8>> = path.iter().map(|name| name.to_vec()).collect();
        for _ in 0..MAX_LINKS {
            match self.walk(&path)? {
                Walk::Found(layer, inode) => return Ok(Some((layer, inode))),
                Walk::Missing => return Ok(None),
                Walk::Link { depth, target } if follow => path = redirect(&path, depth, &target),
                Walk::Link { .. } => return Ok(None),
            }
        }
        Ok(None)
    }

    /// All names that the root directory shows.
    ///
    /// # Errors
    /// A layer cannot be read.
    pub fn root_names(&self) -> Result<Vec<Vec<u8>>, ReadError> {
        let mut names = Vec::new();
        for layer in &self.layers {
            names.extend(layer.entries(&layer.root()?)?.into_iter().map(|(name, _)| name));
        }
        names.sort_unstable();
        names.dedup();
        let mut shown = Vec::new();
        for name in names {
            if self.lookup(&[&name], false)?.is_some() {
                shown.push(name);
            }
        }
        Ok(shown)
    }

    /// One search, ending at the first symbolic link on the way.
    fn walk(&self, path: &[Vec<u8>]) -> Result<Walk<'_>, ReadError> {
        'layers: for layer in self.layers.iter().rev() {
            let mut inode = layer.root()?;
            let mut covers = inode.is_opaque();
            for (depth, name) in path.iter().enumerate() {
                match layer.lookup(&inode, name)? {
                    Some(found) => inode = found,
                    None if covers => return Ok(Walk::Missing),
                    None => continue 'layers,
                }
                let is_last = depth + 1 == path.len();
                if inode.is_whiteout() {
                    return Ok(Walk::Missing);
                }
                if !is_last && inode.kind() == 0o120_000 {
                    return Ok(Walk::Link { depth, target: layer.symlink(&inode)? });
                }
                if !is_last && !inode.is_directory() {
                    return Ok(Walk::Missing);
                }
                covers |= inode.is_opaque();
            }
            return Ok(Walk::Found(layer, inode));
        }
        Ok(Walk::Missing)
    }
}

/// How a search ended.
enum Walk<'a> {
    Found(&'a Reader, Inode),
    Missing,
    /// The name at `depth` is a link.
    Link {
        depth: usize,
        target: Vec<u8>,
    },
}

/// The path with the link at `depth` replaced by its target; `..` stays inside.
fn redirect(path: &[Vec<u8>], depth: usize, target: &[u8]) -> Vec<Vec<u8>> {
    let mut names = if target.starts_with(b"/") { Vec::new() } else { path[..depth].to_vec() };
    let target_names = target.split(|byte| *byte == b'/').map(<[u8]>::to_vec);
    for name in target_names.chain(path[depth + 1..].iter().cloned()) {
        match name.as_slice() {
            b"" | b"." => {}
            b".." => {
                names.pop();
            }
            _ => names.push(name),
        }
    }
    names
}
