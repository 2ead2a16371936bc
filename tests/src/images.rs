//! Real images made from Debian packages, kept by the hash of their recipes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::layout;
use crate::registry::Registry;

/// How one image is made.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Repository and tag, as in `debian:12`.
    pub name: &'static str,
    /// A shell script that writes its layers as `1.tar`, `2.tar`, … into the
    /// current directory.
    script: &'static str,
    /// The `config` object of the image configuration, JSON.
    config: &'static str,
    /// Manifest format in the registry, as skopeo names it.
    format: &'static str,
}

const BUSYBOX: &str = r#"
mkdir -p root/bin root/etc root/tmp root/srv root/www root/root root/dev root/proc root/sys root/home/app
cp /bin/busybox root/bin/busybox
for applet in $(/bin/busybox --list); do [ "$applet" = busybox ] || ln -s busybox "root/bin/$applet"; done
chmod 1777 root/tmp
printf '%s\n' 'root:x:0:0:root:/root:/bin/sh' 'www-data:x:33:33:www-data:/srv:/bin/sh' 'app:x:1000:1000::/home/app:/bin/sh' >root/etc/passwd
printf '%s\n' 'root:x:0:' 'www-data:x:33:' 'app:x:1000:' 'extra:x:2000:app,www-data' >root/etc/group
echo 'served by busybox' >root/www/index.html
echo data >root/srv/plain.txt
chown 1000:1000 root/home/app
tar --sort=name --mtime=@1700000000 -C root -cf 1.tar .
"#;

/// A hundred layers; each adds a file, rewrites a common one, and every tenth
/// removes the file of ten layers before.
const LAYERS: &str = r#"
mkdir -p root/bin root/layers root/etc
cp /bin/busybox root/bin/busybox
for applet in sh cat ls find sha256sum wc; do ln -s busybox "root/bin/$applet"; done
echo 'root:x:0:0:root:/root:/bin/sh' >root/etc/passwd
tar --sort=name --mtime=@1700000000 -C root -cf 1.tar .
for n in $(seq 2 100); do
  rm -rf root; mkdir -p root/layers
  echo "$n" >"root/layers/$n"; echo "$n" >root/layers/last
  [ $((n % 10)) != 0 ] || [ "$n" = 10 ] || : >"root/layers/.wh.$((n - 10))"
  tar --sort=name --mtime=@1700000000 -C root -cf "$n.tar" .
done
"#;

/// Everything the tests pull.
pub const RECIPES: [Recipe; 7] = [
    Recipe {
        name: "debian:12",
        script: "mmdebstrap --quiet --variant=minbase bookworm 1.tar",
        config: r#"{"Cmd": ["bash"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}"#,
        format: "oci",
    },
    Recipe {
        name: "busybox:latest",
        script: BUSYBOX,
        config: r#"{"Cmd": ["sh"], "Env": ["PATH=/bin", "FROM_IMAGE=yes"], "Labels": {"made": "from busybox-static"}}"#,
        format: "v2s2",
    },
    Recipe {
        name: "layers:100",
        script: LAYERS,
        config: r#"{"Cmd": ["sh"], "Env": ["PATH=/bin"]}"#,
        format: "oci",
    },
    Recipe {
        name: "nginx:latest",
        script: "mmdebstrap --quiet --variant=minbase --include=nginx-light bookworm 1.tar",
        config: r#"{"Cmd": ["nginx", "-g", "daemon off;"], "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
                    "ExposedPorts": {"80/tcp": {}}, "StopSignal": "SIGQUIT"}"#,
        format: "v2s2",
    },
    Recipe {
        name: "redis:latest",
        script: "mmdebstrap --quiet --variant=minbase --include=redis-server bookworm 1.tar",
        config: r#"{"Entrypoint": ["redis-server"], "Cmd": ["--protected-mode", "no"], "User": "redis",
                    "WorkingDir": "/var/lib/redis", "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
                    "ExposedPorts": {"6379/tcp": {}}}"#,
        format: "oci",
    },
    Recipe {
        name: "postgres:15",
        script: "mmdebstrap --quiet --variant=minbase --include=postgresql bookworm 1.tar",
        config: r#"{"Cmd": ["/usr/lib/postgresql/15/bin/postgres", "-D", "/var/lib/postgresql/15/main",
                    "-c", "config_file=/etc/postgresql/15/main/postgresql.conf",
                    "-c", "unix_socket_directories=/tmp"], "User": "postgres",
                    "Env": ["PATH=/usr/lib/postgresql/15/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}"#,
        format: "oci",
    },
    Recipe {
        name: "python:3",
        script: "mmdebstrap --quiet --variant=minbase --include=python3-minimal bookworm 1.tar",
        config: r#"{"Cmd": ["python3"], "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}"#,
        format: "oci",
    },
];

impl Recipe {
    fn hash(&self) -> String {
        let text = format!("1\n{}\n{}\n{}\n{}", self.name, self.script, self.config, self.format);
        hex(&Sha256::digest(text))[..16].to_owned()
    }

    /// The image layout, made when it is not there yet.
    fn layout(&self, cache: &Path) -> PathBuf {
        let done = cache.join(format!("layout-{}-{}", self.name.replace(':', "-"), self.hash()));
        if done.exists() {
            return done;
        }
        eprintln!("making image {}", self.name);
        let work = tempfile::tempdir_in(cache).unwrap();
        let script = format!("set -eu\n{}", self.script);
        let status = Command::new("sh").args(["-c", &script]).current_dir(work.path()).status().unwrap();
        assert!(status.success(), "the recipe of {} failed: {status}", self.name);
        let tars: Vec<PathBuf> =
            (1..).map(|n| work.path().join(format!("{n}.tar"))).take_while(|tar| tar.exists()).collect();
        assert!(!tars.is_empty(), "the recipe of {} made no layer", self.name);
        let config: Value = serde_json::from_str(self.config).unwrap();
        let made = work.path().join("layout");
        layout::write(&made, &tars, &config);
        fs::rename(made, &done).unwrap();
        done
    }
}

/// The directory of a registry that has every image of [`RECIPES`]; made when
/// it is not there yet, which takes a few minutes.
pub fn registry_storage() -> PathBuf {
    let cache = cache();
    fs::create_dir_all(&cache).unwrap();
    let lock = File::create(cache.join("lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let hashes: String = RECIPES.iter().map(Recipe::hash).collect();
    let done = cache.join(format!("registry-{}", &hex(&Sha256::digest(hashes))[..16]));
    if done.exists() {
        return done;
    }
    let work = tempfile::tempdir_in(&cache).unwrap();
    let storage = work.path().join("storage");
    fs::create_dir(&storage).unwrap();
    let resolv = work.path().join("resolv.conf");
    fs::write(&resolv, "").unwrap();
    let layouts: Vec<PathBuf> = RECIPES.iter().map(|recipe| recipe.layout(&cache)).collect();
    let namespace = crate::namespace::Namespace::new(&resolv);
    let registry = Registry::start(&namespace, &storage, work.path(), 5000, None, false);
    for (recipe, layout) in RECIPES.iter().zip(layouts) {
        let status = namespace
            .command()
            .args(["skopeo", "copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false", "--format"])
            .args([recipe.format, &format!("oci:{}:latest", layout.display())])
            .arg(format!("docker://localhost:5000/{}", recipe.name))
            .status()
            .unwrap();
        assert!(status.success(), "skopeo could not copy {}", recipe.name);
    }
    drop(registry);
    fs::rename(storage, &done).unwrap();
    done
}

/// The layout of one image on disk, for `load` and for comparisons.
pub fn layout_of(name: &str) -> PathBuf {
    let recipe = RECIPES.iter().find(|recipe| recipe.name == name).expect("the image has a recipe");
    recipe.layout(&cache())
}

/// `HYPER_CACHE`, else `hyper/` in the user's cache directory; what the tests
/// keep is in `e2e/` below.
pub fn cache() -> PathBuf {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    variable("HYPER_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|path| path.join("hyper")))
        .or_else(|| variable("HOME").map(|path| path.join(".cache/hyper")))
        .expect("HYPER_CACHE or HOME is an absolute path")
        .join("e2e")
}

/// The digest of `bytes` as in OCI: `sha256:…`.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The manifest, configuration and layers of a one-layer image, in memory.
#[derive(Clone, Debug)]
pub struct Small {
    /// The manifest.
    pub manifest: Vec<u8>,
    /// The configuration.
    pub config: Vec<u8>,
    /// The gzipped layer.
    pub layer: Vec<u8>,
}

impl Small {
    /// An image whose only layer is the gzipped tar file `layer`; `diff` is the
    /// digest of the tar file.
    pub fn new(layer: Vec<u8>, diff: &str) -> Self {
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [diff]},
        })
        .to_string()
        .into_bytes();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": layout::MANIFEST,
            "config": {"mediaType": layout::CONFIG, "digest": digest(&config), "size": config.len()},
            "layers": [{"mediaType": layout::LAYER, "digest": digest(&layer), "size": layer.len()}],
        });
        Self { manifest: manifest.to_string().into_bytes(), config, layer }
    }

    /// The image whose layer is what `script` writes as a tar file to its
    /// standard output, run in an empty directory.
    pub fn from_script(script: &str) -> Self {
        let work = tempfile::tempdir().unwrap();
        let sh = |line: &str| {
            let output = Command::new("bash").args(["-ec", line]).current_dir(work.path()).output().unwrap();
            assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
            output.stdout
        };
        let tar = sh(script);
        fs::write(work.path().join("layer.tar"), &tar).unwrap();
        Self::new(sh("gzip -n -c layer.tar"), &digest(&tar))
    }
}
