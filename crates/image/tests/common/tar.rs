//! Tars made by hand.

/// A tar under construction.
#[derive(Default)]
pub struct Tar(Vec<u8>);

/// What an entry says beside its name and content.
#[derive(Clone, Copy)]
pub struct Meta {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: u64,
}

impl Default for Meta {
    fn default() -> Self {
        Self { mode: 0o644, uid: 0, gid: 0, mtime: 1_700_000_000 }
    }
}

/// A mode and everything else as usual.
pub fn mode(mode: u32) -> Meta {
    Meta { mode, ..Meta::default() }
}

impl Tar {
    pub fn file(self, path: &str, content: &[u8]) -> Self {
        self.entry(path.as_bytes(), b'0', b"", content, Meta::default(), (0, 0))
    }

    pub fn file_as(self, path: &str, content: &[u8], meta: Meta) -> Self {
        self.entry(path.as_bytes(), b'0', b"", content, meta, (0, 0))
    }

    pub fn raw_name(self, path: &[u8], content: &[u8]) -> Self {
        self.entry(path, b'0', b"", content, Meta::default(), (0, 0))
    }

    pub fn directory(self, path: &str) -> Self {
        self.entry(path.as_bytes(), b'5', b"", b"", mode(0o755), (0, 0))
    }

    pub fn directory_as(self, path: &str, meta: Meta) -> Self {
        self.entry(path.as_bytes(), b'5', b"", b"", meta, (0, 0))
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path.as_bytes(), b'2', target.as_bytes(), b"", mode(0o777), (0, 0))
    }

    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(path.as_bytes(), b'1', target.as_bytes(), b"", Meta::default(), (0, 0))
    }

    pub fn hard_link_as(self, path: &str, target: &str, meta: Meta) -> Self {
        self.entry(path.as_bytes(), b'1', target.as_bytes(), b"", meta, (0, 0))
    }

    pub fn device(self, path: &str, kind: u8, device: (u32, u32)) -> Self {
        self.entry(path.as_bytes(), kind, b"", b"", mode(0o620), device)
    }

    pub fn fifo(self, path: &str) -> Self {
        self.entry(path.as_bytes(), b'6', b"", b"", mode(0o600), (0, 0))
    }

    /// PAX records for the next entry.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut payload = Vec::new();
        for (key, value) in records {
            let body = key.len() + value.len() + 3;
            let mut length = body + body.to_string().len();
            if length.to_string().len() + body != length {
                length = body + length.to_string().len();
            }
            payload.extend(format!("{length} {key}=").as_bytes());
            payload.extend(*value);
            payload.push(b'\n');
        }
        self.entry(b"pax", b'x', b"", &payload, Meta::default(), (0, 0))
    }

    pub fn entry(
        mut self,
        path: &[u8],
        kind: u8,
        link: &[u8],
        content: &[u8],
        meta: Meta,
        device: (u32, u32),
    ) -> Self {
        let mut block = [0_u8; 512];
        assert!(path.len() <= 100 && link.len() <= 100);
        block[..path.len()].copy_from_slice(path);
        block[157..157 + link.len()].copy_from_slice(link);
        let mut octal = |at: usize, width: usize, value: u64| {
            block[at..at + width].copy_from_slice(format!("{value:0width$o}").as_bytes());
        };
        octal(100, 7, u64::from(meta.mode));
        octal(108, 7, u64::from(meta.uid));
        octal(116, 7, u64::from(meta.gid));
        octal(124, 11, content.len() as u64);
        octal(136, 11, meta.mtime);
        octal(329, 7, u64::from(device.0));
        octal(337, 7, u64::from(device.1));
        block[156] = kind;
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.0.extend(block);
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn bytes(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }

    /// Without the end.
    pub fn unfinished(self) -> Vec<u8> {
        self.0
    }
}
