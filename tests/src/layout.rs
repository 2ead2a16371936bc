//! OCI image layouts on disk, made from tar files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

/// Media type of a manifest (OCI image specification 1.0, `media-types.md`).
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an image configuration.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Media type of a gzipped layer.
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Writes an image layout into `directory`; its only image is tagged `latest`.
/// `config` is the `config` object of the image configuration.
pub fn write(directory: &Path, tars: &[PathBuf], config: &Value) {
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
    for tar in tars {
        let gzipped = blobs.join("layer.part");
        let output = fs::File::create(&gzipped).unwrap();
        let status = Command::new("gzip").args(["-n", "-1", "-c"]).arg(tar).stdout(output).status().unwrap();
        assert!(status.success(), "gzip {}", tar.display());
        layers.push(descriptor(LAYER, &gzipped));
        diff_ids.push(format!("sha256:{}", sha256_of_file(tar)));
        fs::rename(&gzipped, blobs.join(sha256_of_file(&gzipped))).unwrap();
    }
    let config = json!({
        "created": "2024-01-01T00:00:00Z", "architecture": "amd64", "os": "linux", "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": diff_ids.iter().enumerate().map(|(n, _)| json!({
            "created": "2024-01-01T00:00:00Z", "created_by": format!("layer {n}"),
        })).collect::<Vec<_>>(),
    });
    let config = add(&blobs, CONFIG, &config);
    let manifest = add(
        &blobs,
        MANIFEST,
        &json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}),
    );
    let mut tagged = manifest;
    tagged["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
    fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    fs::write(directory.join("index.json"), json!({"schemaVersion": 2, "manifests": [tagged]}).to_string())
        .unwrap();
}

fn add(blobs: &Path, kind: &str, value: &Value) -> Value {
    let part = blobs.join("json.part");
    fs::write(&part, value.to_string()).unwrap();
    let descriptor = descriptor(kind, &part);
    fs::rename(&part, blobs.join(sha256_of_file(&part))).unwrap();
    descriptor
}

fn descriptor(kind: &str, path: &Path) -> Value {
    json!({
        "mediaType": kind, "digest": format!("sha256:{}", sha256_of_file(path)),
        "size": fs::metadata(path).unwrap().len(),
    })
}

fn sha256_of_file(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "sha256sum {}", path.display());
    String::from_utf8_lossy(&output.stdout[..64]).into_owned()
}
