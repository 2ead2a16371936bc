//! Registries behind TLS: whom they are, whom they know.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};

use common::namespace::{ADDRESS, inside};
use common::{Registry, TestStore, have, login_wanted, run, small_image};
use hyper_image::{Auth, ErrorKind, PullError, Reference, RegistryConfig};

/// Keys and certificates in a directory.
struct Certificates(PathBuf);

impl Certificates {
    /// An authority `ca`.
    fn new(directory: &Path) -> Self {
        let certificates = Self(directory.to_owned());
        certificates.own("ca", &["-subj", "/CN=test authority"]);
        certificates
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// `NAME.crt`, signed by its own `NAME.key`.
    fn own(&self, name: &str, more: &[&str]) {
        let (key, crt) = (self.path(&format!("{name}.key")), self.path(&format!("{name}.crt")));
        let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
        let files = ["req", "-x509", "-keyout", &key, "-out", &crt];
        run("openssl", &[&files[..], &curve, more].concat());
    }

    /// `NAME.crt` with these extensions, signed by the authority.
    fn signed(&self, name: &str, extensions: &str) {
        let path = |extension: &str| self.path(&format!("{name}.{extension}"));
        let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let subject = format!("/CN={name}");
        let request = ["req", "-keyout", &path("key"), "-out", &path("csr"), "-subj", &subject];
        run("openssl", &[&request[..], &curve].concat());
        std::fs::write(path("ext"), extensions).unwrap();
        let (ca, ca_key) = (self.path("ca.crt"), self.path("ca.key"));
        let signing = ["x509", "-req", "-in", &path("csr"), "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial"];
        run(
            "openssl",
            &[&signing[..], &["-days", "2", "-out", &path("crt"), "-extfile", &path("ext")]].concat(),
        );
    }

    /// A registry's configuration to show `NAME.crt`.
    fn shown(&self, name: &str) -> String {
        format!(
            ", tls: {{certificate: {}, key: {}}}",
            self.path(&format!("{name}.crt")),
            self.path(&format!("{name}.key"))
        )
    }
}

/// A directory, certificates in it, and an image to push.
struct Scene {
    directory: tempfile::TempDir,
    certificates: Certificates,
    image: String,
}

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let certificates = Certificates::new(directory.path());
        certificates.signed("server", &format!("subjectAltName=IP:{ADDRESS}\n"));
        let image = format!("oci:{}", small_image(directory.path()));
        Self { directory, certificates, image }
    }

    /// A registry that shows `NAME.crt` and has the image as `x:1`.
    fn registry(&self, name: &str, more: &str, push: &[&str]) -> Registry {
        let registry = Registry::start_at(ADDRESS, &self.certificates.shown(name), more);
        registry.push(&self.image, "x:1", push);
        registry
    }

    /// A store that looks for certificates in a directory of its own.
    fn store(&self) -> TestStore {
        TestStore::with(RegistryConfig { certs_dir: self.certs_dir(), ..RegistryConfig::default() })
    }

    fn certs_dir(&self) -> PathBuf {
        self.directory.path().join("certs.d")
    }

    /// Puts a file of certificates where docker looks for it.
    fn trust(&self, registry: &Registry, file: &str, name: &str) {
        let directory = self.certs_dir().join(registry.host());
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::copy(self.certificates.path(file), directory.join(name)).unwrap();
    }
}

async fn pull(registry: &Registry, store: &TestStore, auth: Option<Auth>) -> Result<(), PullError> {
    let reference = Reference::parse(&registry.name("x:1")).unwrap();
    store.store.pull(&reference, None, auth, |_| {}).await.map(|_| ())
}

/// The error and all its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Whether everything is there that these tests use.
fn tools() -> bool {
    have(&["umoci", "skopeo", "docker-registry", "openssl"])
}

#[test]
fn an_authority_in_certs_d_is_trusted_as_soon_as_it_is_there_and_no_other_is() {
    if !tools() {
        return;
    }
    inside(async || {
        let scene = Scene::new();
        let registry = scene.registry("server", "", &[]);
        let store = scene.store();
        let unknown = pull(&registry, &store, None).await.unwrap_err();
        assert!(chain(&unknown).contains("UnknownIssuer"), "{}", chain(&unknown));
        scene.certificates.own("stranger", &["-subj", "/CN=somebody else"]);
        scene.trust(&registry, "stranger.crt", "ca.crt");
        let unknown = pull(&registry, &store, None).await.unwrap_err();
        assert!(chain(&unknown).contains("UnknownIssuer"), "{}", chain(&unknown));
        scene.trust(&registry, "ca.crt", "ours.crt");
        pull(&registry, &store, None).await.unwrap();
    });
}

#[test]
fn a_certificate_that_signs_itself_is_trusted_for_its_own_name() {
    if !tools() {
        return;
    }
    inside(async || {
        let scene = Scene::new();
        let name = |address: &str| format!("subjectAltName=IP:{address}");
        // An authority and a server's certificate at once is what `openssl req -x509` makes.
        scene.certificates.own("both", &["-subj", "/CN=x", "-addext", &name(ADDRESS)]);
        let leaf =
            ["-subj", "/CN=x", "-addext", &name(ADDRESS), "-addext", "basicConstraints=critical,CA:FALSE"];
        scene.certificates.own("leaf", &leaf);
        scene.certificates.own("other", &["-subj", "/CN=x", "-addext", &name("192.0.2.9")]);
        for (certificate, trusted) in [("both", true), ("leaf", true), ("other", false)] {
            let registry = scene.registry(certificate, "", &[]);
            let store = scene.store();
            assert!(pull(&registry, &store, None).await.is_err());
            scene.trust(&registry, &format!("{certificate}.crt"), "ca.crt");
            let pulled = pull(&registry, &store, None).await;
            assert_eq!(pulled.is_ok(), trusted, "{certificate}: {pulled:?}");
        }
    });
}

#[test]
fn an_insecure_registry_may_show_any_certificate() {
    if !tools() {
        return;
    }
    inside(async || {
        let scene = Scene::new();
        let registry = scene.registry("server", "", &[]);
        let insecure = vec!["192.0.2.0/24".to_owned()];
        let store = TestStore::with(RegistryConfig { insecure, ..RegistryConfig::default() });
        pull(&registry, &store, None).await.unwrap();
    });
}

#[test]
fn a_registry_that_wants_a_certificate_gets_the_clients() {
    if !tools() {
        return;
    }
    inside(async || {
        let scene = Scene::new();
        scene.certificates.signed("client", "extendedKeyUsage=clientAuth\n");
        // Pushed where everybody may; the same files are then served to known clients only.
        let certificates = &scene.certificates;
        let known = format!(
            "{}, clientcas: [{}]}}",
            certificates.shown("server").trim_end_matches('}'),
            certificates.path("ca.crt")
        );
        let registry = Registry::start_at(ADDRESS, &known, "");
        let identity = scene.directory.path().join("identity");
        std::fs::create_dir(&identity).unwrap();
        for (from, to) in [("client.crt", "client.cert"), ("client.key", "client.key")] {
            std::fs::copy(certificates.path(from), identity.join(to)).unwrap();
        }
        registry.push(&scene.image, "x:1", &["--dest-cert-dir", identity.to_str().unwrap()]);
        scene.trust(&registry, "ca.crt", "ca.crt");
        let store = scene.store();
        assert!(pull(&registry, &store, None).await.is_err());
        scene.trust(&registry, "client.crt", "client.cert");
        let half = pull(&registry, &store, None).await.unwrap_err();
        assert!(chain(&half).contains("client.key does not exist"), "{}", chain(&half));
        scene.trust(&registry, "client.key", "client.key");
        pull(&registry, &store, None).await.unwrap();
        scene.trust(&registry, "client.key", "second.key");
        let half = pull(&registry, &store, None).await.unwrap_err();
        assert!(chain(&half).contains("second.cert does not exist"), "{}", chain(&half));
    });
}

#[test]
fn a_password_goes_to_the_registry_that_proved_its_name() {
    if !tools() {
        return;
    }
    inside(async || {
        let scene = Scene::new();
        let wanted = login_wanted(scene.directory.path());
        let registry = scene.registry("server", &wanted, &["--dest-creds", "user:secret"]);
        let store = scene.store();
        let login =
            |password: &str| Some(Auth::Basic { username: "user".to_owned(), password: password.to_owned() });
        assert!(pull(&registry, &store, login("secret")).await.is_err(), "its authority is unknown");
        scene.trust(&registry, "ca.crt", "ca.crt");
        for (auth, kind) in [(None, ErrorKind::Unauthorized), (login("wrong"), ErrorKind::Unauthorized)] {
            assert_eq!(pull(&registry, &store, auth).await.unwrap_err().kind(), kind);
        }
        pull(&registry, &store, login("secret")).await.unwrap();
    });
}

#[test]
fn a_file_that_is_no_certificate_is_said() {
    if !tools() {
        return;
    }
    inside(async || {
        let scene = Scene::new();
        let registry = scene.registry("server", "", &[]);
        scene.trust(&registry, "server.ext", "ca.crt");
        let error = pull(&registry, &scene.store(), None).await.unwrap_err();
        assert!(chain(&error).contains("ca.crt holds no certificate"), "{}", chain(&error));
    });
}
