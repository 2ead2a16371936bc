//! Paths in a layer's tar.

use super::error::LayerError;

/// Longest file name on Linux, and in EROFS.
const MAX_NAME: usize = 255;
/// Marks a name that hides one in the layers below.
pub const WHITEOUT: &[u8] = b".wh.";
/// Marks AUFS's own files.
pub const AUFS_META: &[u8] = b".wh..wh.";
/// Marks a directory that hides the layers below.
pub const OPAQUE: &[u8] = b".wh..wh..opq";

/// Takes a path apart into its names; empty for the root. `..` is resolved in the text, as docker
/// does; an absolute path begins at the layer's root.
///
/// # Errors
/// The path leads out of the layer, or a name is too long.
pub fn components(path: &[u8]) -> Result<Vec<&[u8]>, LayerError> {
    let fail = |problem| LayerError::Path { path: readable(path), problem };
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => {
                if names.pop().is_none() && !path.starts_with(b"/") {
                    return Err(fail("it leads out of the layer"));
                }
            }
            _ if name.len() > MAX_NAME => return Err(fail("a name is longer than 255 bytes")),
            _ if name.contains(&0) => return Err(fail("a name contains NUL")),
            _ => names.push(name),
        }
    }
    Ok(names)
}

/// A path for messages, at most 200 bytes of it.
pub fn readable(path: &[u8]) -> String {
    String::from_utf8_lossy(&path[..path.len().min(200)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_and_escapes_refused() {
        let joined = |path: &[u8]| components(path).map(|names| names.join(&b'/'));
        assert_eq!(joined(b"./a//b/./c/").expect("fine"), b"a/b/c");
        assert_eq!(joined(b"/etc/x").expect("fine"), b"etc/x");
        assert_eq!(joined(b"a/../b").expect("fine"), b"b");
        assert_eq!(joined(b"/../b").expect("fine"), b"b");
        assert_eq!(joined(b"./").expect("fine"), b"");
        assert!(joined(b"../b").is_err());
        assert!(joined(b"a/../../b").is_err());
        assert!(joined(&[b'n'; 256]).is_err());
    }
}
