//! `start`: a shim in the background, or the one that has the pod already.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::args::{Args, is_id};
use crate::container;
use crate::home::{self, Note};

/// Name of the socket in the bundle.
const SOCKET: &str = "task.sock";
/// Longest path of a socket that clients can connect to (`sun_path` of `unix(7)`, less the final NUL).
const SOCKET_PATH_MAX: usize = 107;
/// Annotation by which containerd's CRI says to which pod a container belongs.
const SANDBOX: &str = "io.kubernetes.cri.sandbox-id";
/// Name of the named pipe that containerd reads a shim's log from.
const LOG_PIPE: &str = "log";

/// Starts a shim for the bundle and returns the address of its API.
pub fn start(args: &Args, bundle: &Path) -> anyhow::Result<String> {
    if let Some(address) = pod_of_group(args, bundle)? {
        return Ok(address);
    }
    let socket = socket_path(args, bundle)?;
    let (dir, name) = (socket.parent().context("a socket has a directory")?, socket.file_name());
    if UnixStream::connect(&socket).is_ok() {
        bail!("a shim for {} is running already", args.id);
    }
    let name = name.and_then(|name| name.to_str()).context("a socket has a name")?;
    let listener = home::bind(dir, name).with_context(|| format!("cannot bind {}", socket.display()))?;
    let note = Note { socket: socket.clone(), dir: None, pod: args.id.clone() };
    note.write(bundle).with_context(|| format!("cannot write to {}", bundle.display()))?;
    if let Err(error) = spawn(args, bundle, listener.into()) {
        let _ = fs::remove_file(&socket);
        Note::remove(bundle);
        return Err(error);
    }
    Ok(format!("unix://{}", socket.display()))
}

/// The address of the pod that the bundle's container belongs to, if that is another's.
fn pod_of_group(args: &Args, bundle: &Path) -> anyhow::Result<Option<String>> {
    if !bundle.join("config.json").exists() {
        return Ok(None);
    }
    let spec = container::read_spec(bundle)?;
    let Some(pod) = spec["annotations"][SANDBOX].as_str().filter(|pod| *pod != args.id) else {
        return Ok(None);
    };
    if !is_id(pod) {
        bail!("annotation {SANDBOX} is no name: {pod:?}");
    }
    // Bundles of one namespace are neighbours.
    let note = bundle.parent().and_then(|bundles| Note::read(&bundles.join(pod)));
    let socket = note.map(|note| note.socket).filter(|socket| UnixStream::connect(socket).is_ok());
    match socket {
        Some(socket) => Ok(Some(format!("unix://{}", socket.display()))),
        None => bail!("pod {pod} of container {} has no running shim", args.id),
    }
}

/// In the bundle, or where the path is too long for a socket, under a short name in the runtime directory.
fn socket_path(args: &Args, bundle: &Path) -> anyhow::Result<PathBuf> {
    let path = bundle.join(SOCKET);
    if path.as_os_str().len() <= SOCKET_PATH_MAX {
        return Ok(path);
    }
    let run = std::env::var_os("HYPER_RUN").map_or_else(|| PathBuf::from("/run/hyper"), PathBuf::from);
    let dir = run.join("s");
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .with_context(|| format!("cannot make {}", dir.display()))?;
    let mut hasher = DefaultHasher::new();
    (&args.address, &args.namespace, &args.id, bundle).hash(&mut hasher);
    let path = dir.join(format!("{:016x}", hasher.finish()));
    if path.as_os_str().len() > SOCKET_PATH_MAX {
        bail!("{} is too long for a socket", path.display());
    }
    Ok(path)
}

fn spawn(args: &Args, bundle: &Path, listener: OwnedFd) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("cannot tell the shim's own path")?;
    let mut command = Command::new(&program);
    command
        .args(["-namespace", &args.namespace, "-id", &args.id, "-address", &args.address])
        .args(["-publish-binary", &args.publish_binary])
        .args(args.debug.then_some("-debug"))
        .arg("-socket")
        .arg(listener.as_raw_fd().to_string())
        .arg("serve")
        .current_dir(bundle)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(first_log(bundle));
    hyper_sys::spawn::new_session(&mut command);
    hyper_sys::spawn::inherit_only(&mut command, vec![listener]);
    // Not waited for: it belongs to init as soon as this process ends.
    command.spawn().with_context(|| format!("cannot run {}", program.display()))?;
    Ok(())
}

/// Where the log goes until the pod has a directory: to containerd if it listens, else nowhere.
fn first_log(bundle: &Path) -> Stdio {
    let path = bundle.join(LOG_PIPE);
    if !fs::metadata(&path).is_ok_and(|metadata| metadata.file_type().is_fifo()) {
        return Stdio::null();
    }
    // For reading too, so that opening does not wait and a reader may come later.
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    File::options()
        .read(true)
        .write(true)
        .custom_flags(nonblock)
        .open(path)
        .map_or_else(|_| Stdio::null(), Stdio::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(id: &str) -> Args {
        crate::args::parse(["-namespace", "n", "-id", id, "start"].map(str::to_owned)).unwrap()
    }

    #[test]
    fn socket_is_in_the_bundle_while_its_path_is_short() {
        assert_eq!(socket_path(&args("a"), Path::new("/run/p/a")).unwrap(), Path::new("/run/p/a/task.sock"));
    }

    #[test]
    fn container_of_a_pod_without_shim_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = dir.path().join("c1");
        fs::create_dir(&bundle).unwrap();
        fs::write(bundle.join("config.json"), r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"p1"}}"#)
            .unwrap();
        assert!(pod_of_group(&args("c1"), &bundle).is_err());
        assert_eq!(pod_of_group(&args("p1"), &bundle).unwrap(), None);
        fs::create_dir(dir.path().join("p1")).unwrap();
        let socket = dir.path().join("sock");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        Note { socket: socket.clone(), dir: None, pod: "p1".into() }.write(&dir.path().join("p1")).unwrap();
        let address = pod_of_group(&args("c1"), &bundle).unwrap();
        assert_eq!(address, Some(format!("unix://{}", socket.display())));
    }
}
