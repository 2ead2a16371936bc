//! What a long operation tells while it runs, and how docker's JSON stream says it.

use serde_json::{Value, json};

use crate::digest::Digest;

/// One event of a pull, load or import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A pull has found its image: repository path (`library/debian`) and tag or digest.
    PullingFrom {
        /// The repository's path, without docker.io.
        repository: String,
        /// The tag, or the digest when pulled by digest.
        tag: String,
    },
    /// Something happened to a layer.
    Layer {
        /// First 12 hex digits of the layer's digest.
        id: String,
        /// What happened.
        step: LayerStep,
    },
    /// A push found a layer in another repository of the registry.
    Mounted {
        /// First 12 hex digits of the layer's diff ID.
        id: String,
        /// The repository's path.
        from: String,
    },
    /// A tag is pushed, for programs.
    Pushed {
        /// The tag.
        tag: String,
        /// The manifest's digest.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// The manifest's digest, once the pull is complete.
    Digest(Digest),
    /// A line of its own, such as `Status: Image is up to date for debian:12`.
    Status(String),
    /// A line of a load (`Loaded image: debian:12`).
    Line(String),
}

/// A layer's way from the registry to a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerStep {
    /// It will be fetched.
    PullingFsLayer,
    /// It waits for its turn, or for another pull that fetches the same layer.
    Waiting,
    /// Bytes have come.
    Downloading {
        /// Bytes so far.
        current: u64,
        /// Bytes in all.
        total: u64,
    },
    /// All bytes are there.
    VerifyingChecksum,
    /// Size and digest are right.
    DownloadComplete,
    /// The disk is being written (for a pull, while the bytes come).
    Extracting {
        /// Bytes of the layer worked on so far.
        current: u64,
        /// Bytes in all.
        total: u64,
    },
    /// The disk is in the store.
    PullComplete,
    /// The store had it already.
    AlreadyExists,
    /// The connection broke; the next attempt comes after a pause.
    Retrying {
        /// Whole seconds to wait.
        seconds: u64,
    },
    /// What was kept of it is of no use: it is fetched from its first byte again.
    StartingOver {
        /// Why.
        reason: &'static str,
    },
    /// It will be pushed.
    Preparing,
    /// A push sends it.
    Pushing {
        /// Bytes of its tar so far.
        current: u64,
        /// Bytes in all.
        total: u64,
    },
    /// The registry has it now.
    Pushed,
    /// The registry had it already.
    LayerExists,
    /// A load reads it from an archive.
    Loading {
        /// Bytes so far.
        current: u64,
        /// Bytes in all.
        total: u64,
    },
}

impl Progress {
    /// The message as docker's JSON stream has it, one object per line.
    pub fn to_json(&self) -> Value {
        match self {
            Self::PullingFrom { repository, tag } => {
                json!({"status": format!("Pulling from {repository}"), "id": tag})
            }
            Self::Layer { id, step } => step.to_json(id),
            Self::Mounted { id, from } => {
                json!({"status": format!("Mounted from {from}"), "progressDetail": {}, "id": id})
            }
            Self::Pushed { tag, digest, size } => {
                json!({"progressDetail": {}, "aux": {"Tag": tag, "Digest": digest.to_string(), "Size": size}})
            }
            Self::Digest(digest) => json!({"status": format!("Digest: {digest}")}),
            Self::Status(text) => json!({"status": text}),
            Self::Line(text) => json!({"stream": format!("{text}\n")}),
        }
    }
}

impl LayerStep {
    /// The message about layer `id`.
    fn to_json(self, id: &str) -> Value {
        let plain = |status: &str| json!({"status": status, "progressDetail": {}, "id": id});
        let counted = |status: &str, current: u64, total: u64| {
            json!({
                "status": status,
                "progressDetail": {"current": current, "total": total},
                "progress": bar(current, total),
                "id": id,
            })
        };
        match self {
            Self::PullingFsLayer => plain("Pulling fs layer"),
            Self::Waiting => plain("Waiting"),
            Self::Downloading { current, total } => counted("Downloading", current, total),
            Self::VerifyingChecksum => plain("Verifying Checksum"),
            Self::DownloadComplete => plain("Download complete"),
            Self::Extracting { current, total } => counted("Extracting", current, total),
            Self::PullComplete => plain("Pull complete"),
            Self::AlreadyExists => plain("Already exists"),
            Self::Retrying { seconds } => {
                let unit = if seconds == 1 { "second" } else { "seconds" };
                plain(&format!("Retrying in {seconds} {unit}"))
            }
            Self::StartingOver { reason } => plain(&format!("Starting over: {reason}")),
            Self::Preparing => plain("Preparing"),
            Self::Pushing { current, total } => counted("Pushing", current, total),
            Self::Pushed => plain("Pushed"),
            Self::LayerExists => plain("Layer already exists"),
            Self::Loading { current, total } => counted("Loading layer", current, total),
        }
    }
}

/// Docker's textual bar for clients without a terminal: `[====>   ]  1.2MB/3.4MB`.
fn bar(current: u64, total: u64) -> String {
    /// Columns inside the brackets (moby `jsonmessage`).
    const WIDTH: usize = 50;
    if total == 0 {
        return format!("{:>8}", human_size(current));
    }
    let percent = (u128::from(current.min(total)) * 100 / u128::from(total)) as usize / 2;
    let mut text = String::from("[");
    text.push_str(&"=".repeat(percent));
    text.push('>');
    text.push_str(&" ".repeat(WIDTH.saturating_sub(percent)));
    format!("{text}] {:>8}/{}", human_size(current), human_size(total))
}

/// Decimal units with four significant digits, as go-units prints them.
fn human_size(bytes: u64) -> String {
    let mut size = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if size < 1000.0 {
            let digits = match size {
                _ if unit == "B" || size >= 1000.0 => 0,
                size if size >= 100.0 => 1,
                size if size >= 10.0 => 2,
                _ => 3,
            };
            let text = format!("{size:.digits$}");
            let text = if digits > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
            return format!("{text}{unit}");
        }
        size /= 1000.0;
    }
    format!("{size:.3}TB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn download_progress_reads_as_docker_writes_it() {
        let event = Progress::Layer {
            id: "0123456789ab".to_owned(),
            step: LayerStep::Downloading { current: 512_000, total: 2_048_000 },
        };
        assert_eq!(
            event.to_json(),
            json!({
                "status": "Downloading",
                "progressDetail": {"current": 512_000, "total": 2_048_000},
                "progress": "[============>                                      ]    512kB/2.048MB",
                "id": "0123456789ab",
            })
        );
    }
}
