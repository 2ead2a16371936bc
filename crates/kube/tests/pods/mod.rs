//! What is told of pods.

use hyper_kube::load;

/// What is told of a pod whose spec has these lines besides a sound container `main` (or instead of it, if they have
/// containers of their own); without the file's and the object's name.
pub fn told(spec: &str) -> Vec<String> {
    let containers = if spec.contains("\n  containers:") || spec.starts_with("  containers:") {
        ""
    } else {
        "  containers: [{name: main, image: a}]\n"
    };
    let text = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n{spec}\n{containers}");
    let (faults, warnings) = match load([("f", text.as_bytes())]) {
        Ok(loaded) => (Vec::new(), loaded.warnings),
        Err(faults) => (faults.faults, faults.warnings),
    };
    faults.iter().chain(&warnings).map(|fault| format!("{}: {}", fault.path, fault.problem)).collect()
}

/// The same with the lines in the container `main`.
pub fn container(lines: &str) -> Vec<String> {
    let path = "spec.containers[0].";
    let told = told(&format!(
        "  volumes: [{{name: v}}, {{name: c, persistentVolumeClaim: {{claimName: c}}}}]\n  containers:\n  - name: main\n    image: a\n{lines}"
    ));
    told.into_iter().map(|line| line.strip_prefix(path).map_or(line.clone(), str::to_owned)).collect()
}

/// Whether that and nothing else is told.
#[track_caller]
pub fn same(told: Vec<String>, wanted: &[&str]) {
    assert_eq!(told, wanted, "{told:#?}");
}
