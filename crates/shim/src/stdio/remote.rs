//! Output that goes to the host's syslog or journal, line by line.
//!
//! Sockets are written with a short patience: a peer that does not read loses lines, and the container goes on.

use std::io::{self, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::time::Duration;

use hyper_protocol::agent::Output;
use hyper_protocol::shim::{RemoteLog, Syslog, SyslogAddress, SyslogFormat};

/// Where local syslog daemons listen, in the order in which they are tried.
const LOCAL_SYSLOG: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];
/// Where journald listens (systemd's native protocol).
const JOURNAL: &str = "/run/systemd/journal/socket";
/// How long a peer may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How long it may take to take a line.
const WRITE: Duration = Duration::from_millis(200);
/// Severities of syslog: output is information, error output an error.
const SEVERITIES: (u8, u8) = (6, 3);

/// A connection to the host's log.
#[derive(Debug)]
pub struct Remote {
    to: RemoteLog,
    socket: Option<Socket>,
    hostname: String,
}

#[derive(Debug)]
enum Socket {
    Datagram(UnixDatagram),
    Udp(UdpSocket),
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Remote {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn open(to: RemoteLog) -> io::Result<Self> {
        let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let mut remote = Self { to, socket: None, hostname };
        remote.socket = Some(remote.connect()?);
        Ok(remote)
    }

    fn connect(&self) -> io::Result<Socket> {
        let failed = |what: &str, error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"));
        match &self.to {
            RemoteLog::Journald { .. } => datagram(Path::new(JOURNAL))
                .map_err(|error| failed(&format!("journald is not enabled on this host ({JOURNAL})"), error)),
            RemoteLog::Syslog(Syslog { address, .. }) => match address {
                SyslogAddress::Local => LOCAL_SYSLOG
                    .iter()
                    .find_map(|path| datagram(Path::new(path)).or_else(|_| stream(Path::new(path))).ok())
                    .ok_or_else(|| {
                        io::Error::new(
                            io::ErrorKind::NotFound,
                            format!(
                                "Unix syslog delivery error: nobody listens on {}",
                                LOCAL_SYSLOG.join(", ")
                            ),
                        )
                    }),
                SyslogAddress::Unix(path) => stream(path)
                    .or_else(|_| datagram(path))
                    .map_err(|error| failed(&path.display().to_string(), error)),
                SyslogAddress::UnixDatagram(path) => {
                    datagram(path).map_err(|error| failed(&path.display().to_string(), error))
                }
                SyslogAddress::Udp(address) => udp(address).map_err(|error| failed(address, error)),
                SyslogAddress::Tcp(address) => tcp(address).map_err(|error| failed(address, error)),
            },
        }
    }

    /// Sends a line, with or without its end; connects again once when the connection was lost.
    pub fn send(&mut self, output: Output, line: &[u8], unix_ns: i64) -> io::Result<()> {
        let message = self.message(output, line, unix_ns);
        for last in [false, true] {
            if self.socket.is_none() {
                self.socket = Some(self.connect()?);
            }
            match self.socket.as_mut().expect("it was connected just now").write(&message) {
                Ok(()) => return Ok(()),
                // A peer that does not read is still there; half a line on a stream would spoil the next.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if matches!(self.socket, Some(Socket::Unix(_) | Socket::Tcp(_))) {
                        self.socket = None;
                    }
                    return Err(error);
                }
                Err(error) => {
                    self.socket = None;
                    if last {
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }

    fn message(&self, output: Output, line: &[u8], unix_ns: i64) -> Vec<u8> {
        let whole = line.last() == Some(&b'\n');
        let text = if whole { &line[..line.len() - 1] } else { line };
        let severity = if output == Output::Stderr { SEVERITIES.1 } else { SEVERITIES.0 };
        match &self.to {
            RemoteLog::Journald { fields } => {
                let mut message = Vec::new();
                for (name, value) in fields {
                    field(&mut message, name, value.as_bytes());
                }
                field(&mut message, "PRIORITY", severity.to_string().as_bytes());
                if !whole {
                    field(&mut message, "CONTAINER_PARTIAL_MESSAGE", b"true");
                }
                field(&mut message, "MESSAGE", text);
                message
            }
            RemoteLog::Syslog(syslog) => {
                let mut message =
                    header(syslog, severity, unix_ns, &self.hostname, std::process::id()).into_bytes();
                message.extend_from_slice(text);
                message.push(b'\n');
                message
            }
        }
    }
}

impl Socket {
    fn write(&mut self, message: &[u8]) -> io::Result<()> {
        match self {
            Self::Datagram(socket) => socket.send(message).map(drop),
            Self::Udp(socket) => socket.send(message).map(drop),
            Self::Unix(socket) => socket.write_all(message),
            Self::Tcp(socket) => socket.write_all(message),
        }
    }
}

fn datagram(path: &Path) -> io::Result<Socket> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_write_timeout(Some(WRITE))?;
    Ok(Socket::Datagram(socket))
}

fn stream(path: &Path) -> io::Result<Socket> {
    let socket = UnixStream::connect(path)?;
    socket.set_write_timeout(Some(WRITE))?;
    Ok(Socket::Unix(socket))
}

fn udp(address: &str) -> io::Result<Socket> {
    let to = resolve(address)?;
    let socket = UdpSocket::bind(if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" })?;
    socket.connect(to)?;
    socket.set_write_timeout(Some(WRITE))?;
    Ok(Socket::Udp(socket))
}

fn tcp(address: &str) -> io::Result<Socket> {
    let socket = TcpStream::connect_timeout(&resolve(address)?, CONNECT)?;
    socket.set_write_timeout(Some(WRITE))?;
    Ok(Socket::Tcp(socket))
}

fn resolve(address: &str) -> io::Result<std::net::SocketAddr> {
    address.to_socket_addrs()?.next().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}

/// A field of journald's native protocol (systemd, "Native Journal Protocol"): with a newline in it, its length stands
/// before it.
fn field(into: &mut Vec<u8>, name: &str, value: &[u8]) {
    into.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        into.push(b'\n');
        into.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        into.push(b'=');
    }
    into.extend_from_slice(value);
    into.push(b'\n');
}

/// What stands before the line, as docker's syslog driver has it.
fn header(syslog: &Syslog, severity: u8, unix_ns: i64, host: &str, pid: u32) -> String {
    let priority = syslog.facility * 8 + severity;
    let tag = &syslog.tag;
    let time = jiff::Timestamp::from_nanosecond(unix_ns.into()).unwrap_or_default();
    let local = time.to_zoned(jiff::tz::TimeZone::system());
    match syslog.format {
        SyslogFormat::Unix => format!("<{priority}>{} {tag}[{pid}]: ", local.strftime("%b %e %H:%M:%S")),
        SyslogFormat::Rfc3164 => {
            format!("<{priority}>{} {host} {tag}[{pid}]: ", local.strftime("%b %e %H:%M:%S"))
        }
        SyslogFormat::Rfc5424 => {
            format!("<{priority}>1 {} {host} {tag} {pid} {tag} - ", local.strftime("%Y-%m-%dT%H:%M:%S%:z"))
        }
        SyslogFormat::Rfc5424Micro => {
            format!(
                "<{priority}>1 {} {host} {tag} {pid} {tag} - ",
                local.strftime("%Y-%m-%dT%H:%M:%S%.6f%:z")
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn syslog(format: SyslogFormat, address: SyslogAddress) -> Syslog {
        Syslog { address, facility: 3, format, tag: "web".into() }
    }

    #[test]
    fn headers_have_the_forms_of_their_standards() {
        let of = |format| header(&syslog(format, SyslogAddress::Local), 6, 1_795_338_656_063_662_651, "h", 7);
        assert!(of(SyslogFormat::Unix).starts_with("<30>Nov 22 "));
        assert!(of(SyslogFormat::Unix).ends_with(" web[7]: "));
        assert!(of(SyslogFormat::Rfc3164).ends_with(" h web[7]: "));
        assert!(of(SyslogFormat::Rfc5424).starts_with("<30>1 2026-11-22T"));
        assert!(of(SyslogFormat::Rfc5424).ends_with(" h web 7 web - "));
        assert!(of(SyslogFormat::Rfc5424Micro).contains(".063662"));
    }

    #[test]
    fn journal_fields_with_newlines_have_their_length() {
        let mut bytes = Vec::new();
        field(&mut bytes, "A", b"x");
        field(&mut bytes, "B", b"1\n2");
        assert_eq!(bytes, b"A=x\nB\n\x03\0\0\0\0\0\0\x001\n2\n");
    }

    #[test]
    fn lines_arrive_and_a_lost_daemon_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let to = || RemoteLog::Syslog(syslog(SyslogFormat::Unix, SyslogAddress::UnixDatagram(path.clone())));
        assert!(Remote::open(to()).unwrap_err().to_string().contains("log"));
        let daemon = UnixDatagram::bind(&path).unwrap();
        let mut remote = Remote::open(to()).unwrap();
        let mut buffer = [0; 1000];
        let mut next = |daemon: &UnixDatagram| {
            let length = daemon.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        };
        remote.send(Output::Stderr, b"failed\n", 0).unwrap();
        let line = next(&daemon);
        assert!(line.starts_with("<27>") && line.ends_with("]: failed\n"), "{line}");
        drop(daemon);
        std::fs::remove_file(&path).unwrap();
        remote.send(Output::Stdout, b"lost\n", 0).unwrap_err();
        let daemon = UnixDatagram::bind(&path).unwrap();
        remote.send(Output::Stdout, b"again", 0).unwrap();
        assert!(next(&daemon).ends_with("]: again\n"));
    }
}
