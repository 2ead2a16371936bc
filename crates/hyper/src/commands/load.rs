//! `hyper load` and `hyper import`: images from archives.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Args;
use futures::Stream;
use http_body_util::StreamBody;
use http1::body::Frame;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::App;
use super::pull::parse;
use crate::error::{Failure, Outcome};
use crate::progress::{self, To};
use crate::stream::{stdin_is_terminal, stdout_is_terminal};

/// Bytes sent at once.
const CHUNK: usize = 256 << 10;

/// Flags of `load`.
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// Read from tar archive file, instead of STDIN
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Load only the given platform variant (not supported yet)
    #[arg(long)]
    platform: Option<String>,
    /// Suppress the load output
    #[arg(short, long)]
    quiet: bool,
}

/// Flags of `import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// Apply Dockerfile instruction to the created image
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// Set commit message for imported image
    #[arg(short, long)]
    message: Option<String>,
    /// Set platform if server is multi-platform capable
    #[arg(long)]
    platform: Option<String>,
    /// A tar archive, or - for STDIN
    #[arg(value_name = "FILE|URL|-", allow_hyphen_values = true)]
    source: String,
    /// The new image's name
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

type Source = Box<dyn AsyncRead + Send + Unpin>;

async fn open(path: &Path) -> Result<Source, Failure> {
    let failed = |error| Failure::new(format!("open {}: {error}", path.display()));
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    if file.metadata().await.map_err(failed)?.is_dir() {
        return Err(Failure::new(format!("{} is a directory, not an archive", path.display())));
    }
    Ok(Box::new(file))
}

/// The bytes of `source` as a request's body.
fn body(source: Source) -> StreamBody<impl Stream<Item = Result<Frame<Bytes>, std::io::Error>>> {
    StreamBody::new(futures::stream::try_unfold(source, |mut source| async move {
        let mut buffer = bytes::BytesMut::with_capacity(CHUNK);
        let count = source.read_buf(&mut buffer).await?;
        Ok((count > 0).then(|| (Frame::data(buffer.freeze()), source)))
    }))
}

/// Loads images from an archive of `save`.
pub async fn load(app: &App, args: LoadArgs) -> Outcome {
    if args.platform.is_some() {
        return Err(Failure::new("--platform is not supported yet"));
    }
    let source: Source = match &args.input {
        Some(path) => open(path).await?,
        None if stdin_is_terminal() => {
            return Err(Failure::new("requested load from stdin, but stdin is empty")
                .with_hint("use -i FILE or a pipe"));
        }
        None => Box::new(tokio::io::stdin()),
    };
    // As docker: without a terminal nobody reads the bars.
    let quiet = args.quiet || !stdout_is_terminal();
    let query = [("quiet", if quiet { "1" } else { "0" })];
    let lines = app.client.upload("/images/load", &query, body(source)).await?;
    progress::show(lines, To::Stdout).await?;
    Ok(0)
}

/// Makes an image from a tree of files.
pub async fn import(app: &App, args: ImportArgs) -> Outcome {
    let name = args.name.as_deref().map(parse).transpose()?;
    if name.as_ref().is_some_and(|name| name.digest.is_some()) {
        return Err(Failure::new("cannot import an image by digest"));
    }
    let is_url = args.source.starts_with("http://") || args.source.starts_with("https://");
    let source: Source = match args.source.as_str() {
        "-" => Box::new(tokio::io::stdin()),
        _ if is_url => Box::new(tokio::io::empty()),
        path => open(Path::new(path)).await?,
    };
    let repository = args.name.clone().unwrap_or_default();
    let mut query =
        vec![("fromSrc", if is_url { args.source.as_str() } else { "-" }), ("repo", repository.as_str())];
    query.extend(args.change.iter().map(|change| ("changes", change.as_str())));
    query.extend(args.message.as_deref().map(|message| ("message", message)));
    query.extend(args.platform.as_deref().map(|platform| ("platform", platform)));
    let lines = app.client.upload("/images/create", &query, body(source)).await?;
    progress::show(lines, To::Stdout).await?;
    Ok(0)
}
