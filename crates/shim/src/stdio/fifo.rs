//! Named pipes that containerd gives for standard streams.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::{Notify, mpsc};

use super::fanout::Piece;
use super::input::Input;

/// Checks what a request names for a stream: nothing, or the absolute path of a named pipe.
///
/// # Errors
/// Anything else, in words.
pub fn check(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Ok(());
    }
    if name.contains("://") || !name.starts_with('/') {
        return Err(format!(
            "{name:?} is not supported for a standard stream, only the path of a named pipe is"
        ));
    }
    match std::fs::metadata(name) {
        Ok(metadata) if metadata.file_type().is_fifo() => Ok(()),
        Ok(_) => Err(format!("{name} is no named pipe")),
        Err(error) => Err(format!("cannot look at {name}: {error}")),
    }
}

/// Copies output into a named pipe until it ends. The pipe is open for reading too, so that a reader may go and
/// come again.
///
/// # Errors
/// When it cannot be opened.
pub fn open_output(path: &Path, mut pieces: mpsc::Receiver<Piece>) -> io::Result<()> {
    let mut pipe = pipe::OpenOptions::new().read_write(true).open_sender(path)?;
    tokio::spawn(async move {
        while let Some(piece) = pieces.recv().await {
            if pipe.write_all(&piece.bytes).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// Copies a named pipe into the input. When `close` is notified, what is in the pipe is still copied, then the input
/// ends.
///
/// # Errors
/// When it cannot be opened.
pub fn open_input(path: &Path, input: Arc<Input>, close: Arc<Notify>) -> io::Result<()> {
    let mut pipe = pipe::OpenOptions::new().read_write(true).open_receiver(path)?;
    tokio::spawn(async move {
        let mut buffer = vec![0; 16 << 10];
        loop {
            tokio::select! {
                biased;
                read = pipe.read(&mut buffer) => match read {
                    Ok(read @ 1..) => {
                        if !input.write(&buffer[..read]).await {
                            return;
                        }
                    }
                    _ => break,
                },
                () = close.notified() => {
                    while let Ok(read @ 1..) = pipe.try_read(&mut buffer) {
                        if !input.write(&buffer[..read]).await {
                            return;
                        }
                    }
                    break;
                }
            }
        }
        input.finish();
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdio::{Fanout, Interest};
    use hyper_protocol::agent::Output;
    use std::io::Write;
    use std::time::Duration;

    fn fifo(dir: &Path, name: &str) -> std::path::PathBuf {
        let path = dir.join(name);
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        path
    }

    #[tokio::test]
    async fn output_reaches_a_named_pipe_and_its_reader_sees_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = fifo(dir.path(), "out");
        let fanout = Fanout::new(None);
        open_output(&path, fanout.attach(Interest { stdout: true, stderr: false }).unwrap()).unwrap();
        let mut reader = pipe::OpenOptions::new().open_receiver(&path).unwrap();
        fanout.write(Output::Stdout, b"hello").await;
        fanout.write(Output::Stderr, b"no").await;
        fanout.close();
        let mut text = String::new();
        reader.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
    }

    #[tokio::test]
    async fn closing_takes_what_is_in_the_pipe_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = fifo(dir.path(), "in");
        let (input, close) = (Arc::new(Input::new(true)), Arc::new(Notify::new()));
        open_input(&path, input.clone(), close.clone()).unwrap();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().write_all(b"hello").unwrap();
        close.notify_one();
        tokio::time::timeout(Duration::from_secs(5), async {
            while input.is_open() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
    }

    #[test]
    fn only_named_pipes_are_taken() {
        let dir = tempfile::tempdir().unwrap();
        assert!(check("").is_ok() && check(fifo(dir.path(), "x").to_str().unwrap()).is_ok());
        for bad in ["binary:///bin/logger", "relative", "/nosuch/pipe", "/dev/null"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
