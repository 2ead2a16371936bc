//! A registry that misbehaves as told.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hyper_image::Digest;

/// A request as it came.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub path: String,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
    /// How many requests for this path came before.
    pub nth: usize,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// What the registry does with a request.
pub enum Answer {
    /// Status, headers, body.
    Whole(u16, Vec<(String, String)>, Vec<u8>),
    /// The same, but the connection closes after so many bytes of the body.
    Cut(u16, Vec<(String, String)>, Vec<u8>, usize),
    /// The same, but nothing comes after so many bytes of the body.
    Stall(Vec<u8>, usize),
    /// The connection closes at once.
    Close,
}

pub fn ok(body: &[u8]) -> Answer {
    Answer::Whole(200, Vec::new(), body.to_vec())
}

pub fn status(status: u16, body: &str) -> Answer {
    Answer::Whole(status, Vec::new(), body.as_bytes().to_vec())
}

pub fn header(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

type Handler = dyn Fn(&Request) -> Answer + Send + Sync;

/// The server; it ends with the process.
pub struct Faulty {
    pub port: u16,
    pub seen: Arc<Mutex<Vec<Request>>>,
    pub connections: Arc<AtomicUsize>,
}

impl Faulty {
    pub fn start(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let handler: Arc<Handler> = Arc::new(handler);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let (their_seen, their_connections) = (Arc::clone(&seen), Arc::clone(&connections));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (handler, seen) = (Arc::clone(&handler), Arc::clone(&their_seen));
                their_connections.fetch_add(1, Ordering::Relaxed);
                std::thread::spawn(move || serve(&stream.unwrap(), &*handler, &seen));
            }
        });
        Self { port, seen, connections }
    }

    pub fn name(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }
}

/// One connection.
fn serve(stream: &TcpStream, handler: &Handler, seen: &Mutex<Vec<Request>>) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        // A TLS client says hello in binary; it is told that this is not TLS.
        match reader.by_ref().take(1).read_to_end(&mut line) {
            Ok(1) if matches!(line[0], b'G' | b'H' | b'P') => {}
            _ => return,
        }
        if reader.read_until(b'\n', &mut line).is_err() {
            return;
        }
        let line = String::from_utf8_lossy(&line).into_owned();
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut request = Request { path, ..Request::default() };
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header).unwrap_or(0) == 0 {
                return;
            }
            match header.trim().split_once(':') {
                Some((name, value)) => {
                    request.headers.insert(name.to_lowercase(), value.trim().to_owned());
                }
                None => break,
            }
        }
        let length = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        request.body = vec![0; length];
        if reader.read_exact(&mut request.body).is_err() {
            return;
        }
        request.nth = {
            let mut seen = seen.lock().unwrap();
            let nth = seen.iter().filter(|known| known.path == request.path).count();
            seen.push(Request { nth, ..request.clone() });
            nth
        };
        if !answer(stream, handler(&request)) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}

/// Writes an answer; false ends the connection.
fn answer(mut stream: &TcpStream, answer: Answer) -> bool {
    let head = |status: u16, headers: &[(String, String)], length: usize| {
        let mut head = format!("HTTP/1.1 {status} X\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
            head.push_str(&format!("Content-Length: {length}\r\n"));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head + "\r\n"
    };
    match answer {
        Answer::Whole(status, headers, body) => {
            let head = head(status, &headers, body.len());
            stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body)).is_ok()
        }
        Answer::Cut(status, headers, body, at) => {
            let head = head(status, &headers, body.len());
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body[..at]));
            false
        }
        Answer::Stall(body, at) => {
            let head = head(200, &[], body.len());
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body[..at]));
            // Until the client has had enough.
            let _ = stream.read(&mut [0; 1]);
            false
        }
        Answer::Close => false,
    }
}

/// An image as a registry serves it.
#[derive(Clone)]
pub struct Served {
    pub manifest: Vec<u8>,
    pub config: Vec<u8>,
    pub layers: Vec<Vec<u8>>,
}

impl Served {
    /// An image of these layer tars, gzipped.
    pub fn of(tars: &[Vec<u8>]) -> Self {
        let layers: Vec<Vec<u8>> = tars.iter().map(|tar| gzip(tar)).collect();
        let diff_ids: Vec<Digest> = tars.iter().map(|tar| Digest::of(tar)).collect();
        Self::with_diff_ids(layers, &diff_ids)
    }

    /// An image whose configuration says what it likes.
    pub fn with_diff_ids(layers: Vec<Vec<u8>>, diff_ids: &[Digest]) -> Self {
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = config.to_string().into_bytes();
        let descriptors: Vec<_> = layers
            .iter()
            .map(|layer| {
                serde_json::json!({
                    "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                    "digest": Digest::of(layer), "size": layer.len(),
                })
            })
            .collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                       "digest": Digest::of(&config), "size": config.len()},
            "layers": descriptors,
        });
        Self { manifest: manifest.to_string().into_bytes(), config, layers }
    }

    /// What an honest registry answers.
    pub fn answer(&self, request: &Request) -> Answer {
        let path = &request.path;
        if path == "/v2/" {
            return ok(b"{}");
        }
        if path.contains("/manifests/") {
            let kind = header("Content-Type", "application/vnd.oci.image.manifest.v1+json");
            return Answer::Whole(200, vec![kind], self.manifest.clone());
        }
        for blob in self.layers.iter().chain([&self.config]) {
            if path.ends_with(&Digest::of(blob).to_string()) {
                let range = request.header("range").and_then(|range| range.strip_prefix("bytes="));
                let start =
                    range.and_then(|range| range.strip_suffix('-')).and_then(|start| start.parse().ok());
                return match start {
                    Some(start) => {
                        let start: usize = start;
                        let range = format!("bytes {start}-{}/{}", blob.len() - 1, blob.len());
                        Answer::Whole(206, vec![header("Content-Range", &range)], blob[start..].to_vec())
                    }
                    None => ok(blob),
                };
            }
        }
        status(404, r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown"}]}"#)
    }

    /// Whether a request is for the layer.
    pub fn is_layer(&self, request: &Request, index: usize) -> bool {
        request.path.ends_with(&Digest::of(&self.layers[index]).to_string())
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
