//! Image archives and documents that nobody would make.

use std::sync::Mutex;

use serde_json::json;

use crate::tar::{entry_header, padding_of, trailer};
use crate::{Auth, Digest, ImageConfig, ImportRequest, Limits, Platform, Reference, RegistryConfig, Store};

fn tar(files: &[(&str, u8, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (path, kind, bytes) in files {
        let header = entry_header(path.as_bytes(), *kind, 0o755, bytes.len() as u64, 1).expect("short names");
        out.extend(header);
        out.extend_from_slice(bytes);
        out.resize(out.len() + padding_of(bytes.len() as u64) as usize, 0);
    }
    out.extend(trailer());
    out
}

fn layer() -> Vec<u8> {
    tar(&[
        ("etc/", b'5', b""),
        ("etc/hosts", b'0', b"127.0.0.1 localhost\n"),
        ("etc/.wh.gone", b'0', b""),
        ("bin/.wh..wh..opq", b'0', b""),
        ("big", b'0', &[9; 10_000]),
    ])
}

fn docker_archive() -> Vec<u8> {
    let layer = layer();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer)]}, "history": [{"created_by": "x"}],
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": ["a:b"], "Layers": ["0/layer.tar"]}]);
    tar(&[
        ("manifest.json", b'0', manifest.to_string().as_bytes()),
        ("0/layer.tar", b'0', &layer),
        ("config.json", b'0', config.to_string().as_bytes()),
    ])
}

fn store(directory: &std::path::Path) -> Store {
    let limits = Limits { layer: 64 << 20, free: 1 << 20, ratio: 10 };
    let config = RegistryConfig { limits, ..RegistryConfig::default() };
    Store::open(&directory.join("images"), &directory.join("db"), config).expect("a new store")
}

/// Takes away what was made, so that the next input meets an empty store.
fn empty(store: &Store) {
    for image in store.list().expect("a sound store") {
        store.remove(&image.id.to_string(), true, false, &|_| None).expect("nobody uses it");
    }
    store.collect_garbage().expect("a sound store");
}

const TOKENS: [&[u8]; 14] = [
    b"../",
    b"/etc/passwd",
    b".wh.",
    b".wh..wh..opq",
    b"\0",
    b"\"",
    b"null",
    b"[[",
    b"{\"manifests\":",
    b"sha256:",
    b"-1",
    b"18446744073709551615",
    b"77777777777\0",
    b"\x1f\x8b",
];

#[test]
fn fuzz_loading() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Mutex::new(store(directory.path()));
    hyper_fuzz::tars(&[docker_archive()], &TOKENS, |archive| {
        let store = store.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if store.load(archive, &|_| {}).is_ok() {
            store.save(&["a:b".to_owned()], std::io::sink()).ok();
            empty(&store);
        }
    });
}

#[test]
fn fuzz_importing() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Mutex::new(store(directory.path()));
    hyper_fuzz::tars(&[layer()], &TOKENS, |tar| {
        let store = store.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let request = ImportRequest { reference: None, changes: Vec::new(), message: None, platform: None };
        if let Ok(id) = store.import(tar, &request, &|_| {}) {
            // What was taken in comes out again, byte for byte up to its end.
            let mut saved = Vec::new();
            store.save(&[id.to_string()], &mut saved).expect("a sound store");
            empty(&store);
        }
    });
}

#[test]
fn fuzz_documents() {
    let digest = Digest::of(b"x");
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": 5},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": 7}],
    });
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{"digest": digest, "size": 1, "platform": {"os": "linux", "architecture": "amd64"}}],
    });
    let config = json!({
        "architecture": "amd64", "os": "linux", "created": "2024-02-29T12:30:45Z",
        "config": {"Cmd": ["sh"], "Env": ["A=b"], "Labels": {"a": "b"}, "ExposedPorts": {"80/tcp": {}},
            "Healthcheck": {"Test": ["CMD", "x"], "Interval": 5}},
        "rootfs": {"type": "layers", "diff_ids": [digest]}, "history": [{"created_by": "x", "empty_layer": true}],
    });
    let auth = json!({"username": "u", "password": "p", "auth": "dTpw", "identitytoken": "t"});
    hyper_fuzz::json(&[manifest, index, config, auth], |document| {
        let bytes = document.to_string().into_bytes();
        let _ = crate::registry::media_type_of(&bytes, Some("application/json"));
        let _ = crate::registry::parse_manifest(&bytes);
        let _ = crate::registry::parse_index(&bytes)
            .map(|index| crate::registry::choose(index, &Platform::host()));
        let _ = ImageConfig::parse(&bytes);
        let _ = Auth::from_json(&bytes);
    });
}

#[test]
fn fuzz_names() {
    let digest = Digest::of(b"x").to_string();
    let with_digest = format!("localhost:5000/a/b:tag@{digest}");
    let good =
        ["debian:12", "docker.io/library/debian", with_digest.as_str(), "[::1]:5000/x", "linux/arm/v7"];
    hyper_fuzz::text(&good, &["/", ":", "@", "sha256:", "..", "__", "A", "é", "\u{0}", "["], |text| {
        if let Ok(reference) = Reference::parse(text) {
            let again = Reference::parse(&reference.canonical());
            assert_eq!(again.as_ref(), Ok(&reference), "{text}");
            assert_eq!(Reference::parse(&reference.to_string()), again, "{text}");
        }
        let _ = text.parse::<Platform>();
        let _ = Auth::from_header(text);
    });
}
