//! Opening a session: the four greetings of [`hyper_protocol::hello`].

use std::time::Duration;

use hyper_protocol::hello::{Hello, LENGTH, Role, Scanner, VERSION};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until};

use crate::LinkError;

/// A host that hears nothing repeats its hello after this long. An answering guest takes a few milliseconds;
/// a repetition is needed only where the guest's old session swallowed the first.
const REPEAT: Duration = Duration::from_millis(200);

/// Asks for a session and waits until the guest is ready, however long that takes.
pub(crate) async fn host<T: AsyncRead + AsyncWrite + Unpin>(io: &mut T) -> Result<(), LinkError> {
    let mut nonce = [0; 16];
    let mut filled = 0;
    while filled < nonce.len() {
        filled += rustix::rand::getrandom(&mut nonce[filled..], rustix::rand::GetRandomFlags::empty())
            .map_err(std::io::Error::from)?;
    }
    let mut scanner = Scanner::new();
    send(io, Role::Host, nonce).await?;
    let mut repeat = Instant::now() + REPEAT;
    loop {
        // Reading is cancel safe: the bytes of one read are taken before the next await.
        let hello = tokio::select! {
            hello = next(io, &mut scanner) => hello?,
            () = sleep_until(repeat) => {
                send(io, Role::Host, nonce).await?;
                repeat = Instant::now() + REPEAT;
                continue;
            }
        };
        if hello.role == Role::Guest && hello.nonce == nonce {
            check_version(hello)?;
            break;
        }
    }
    send(io, Role::Confirm, nonce).await?;
    loop {
        let hello = next(io, &mut scanner).await?;
        if hello.role == Role::Ready && hello.nonce == nonce {
            return Ok(());
        }
    }
}

/// Waits for a host and agrees on a session.
pub(crate) async fn guest<T: AsyncRead + AsyncWrite + Unpin>(io: &mut T) -> Result<(), LinkError> {
    let mut scanner = Scanner::new();
    let mut asked = None;
    loop {
        let hello = next(io, &mut scanner).await?;
        match hello.role {
            Role::Host => {
                send(io, Role::Guest, hello.nonce).await?;
                check_version(hello)?;
                asked = Some(hello.nonce);
            }
            Role::Confirm if asked == Some(hello.nonce) => return send(io, Role::Ready, hello.nonce).await,
            Role::Confirm | Role::Guest | Role::Ready => {}
        }
    }
}

fn check_version(hello: Hello) -> Result<(), LinkError> {
    if hello.version == VERSION { Ok(()) } else { Err(LinkError::Version { theirs: hello.version }) }
}

async fn send<T: AsyncWrite + Unpin>(io: &mut T, role: Role, nonce: [u8; 16]) -> Result<(), LinkError> {
    io.write_all(&Hello { version: VERSION, role, nonce }.encode()).await?;
    io.flush().await?;
    Ok(())
}

/// The next hello; everything else is skipped. Takes no byte behind it. Cancel safe.
async fn next<T: AsyncRead + Unpin>(io: &mut T, scanner: &mut Scanner) -> Result<Hello, LinkError> {
    let mut buffer = [0; LENGTH];
    loop {
        let wanted = scanner.missing();
        let read = io.read(&mut buffer[..wanted]).await?;
        if read == 0 {
            return Err(LinkError::Closed);
        }
        let mut found = None;
        for &byte in &buffer[..read] {
            found = scanner.push(byte).or(found);
        }
        if let Some(hello) = found {
            return Ok(hello);
        }
    }
}
