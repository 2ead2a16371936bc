//! What an object has that its file does not say.

use hyper_kube::model::{PullPolicy, VolumeSource};
use hyper_kube::{IntOrString, Object, Quantity, load};

fn object(text: &str) -> Object {
    load([("f", text.as_bytes())]).unwrap_or_else(|faults| panic!("{faults}")).documents.remove(0).object
}

fn spec_of(spec: &str) -> hyper_kube::model::PodSpec {
    match object(&format!("{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {{{spec}}}}}")) {
        Object::Pod(pod) => pod.spec,
        other => panic!("{other:?}"),
    }
}

fn quantity(text: &str) -> Quantity {
    text.parse().expect("a quantity")
}

#[test]
fn pull_policies_follow_the_tag() {
    for (image, policy) in [
        ("a", PullPolicy::Always),
        ("a:latest", PullPolicy::Always),
        ("a:1", PullPolicy::IfNotPresent),
        ("localhost:5000/a", PullPolicy::Always),
        ("localhost:5000/a:1", PullPolicy::IfNotPresent),
        ("a@sha256:0", PullPolicy::IfNotPresent),
        ("a:latest@sha256:0", PullPolicy::Always),
        ("a:1@sha256:0", PullPolicy::IfNotPresent),
    ] {
        let spec = spec_of(&format!("containers: [{{name: a, image: '{image}'}}]"));
        assert_eq!(spec.containers[0].image_pull_policy, Some(policy), "{image}");
    }
    let spec = spec_of("containers: [{name: a, image: a, imagePullPolicy: Never}]");
    assert_eq!(spec.containers[0].image_pull_policy, Some(PullPolicy::Never));
}

#[test]
fn requests_are_limits_unless_given() {
    let spec = spec_of(
        "containers: [{name: a, image: a, resources: {limits: {cpu: 2, memory: 1Gi}, requests: {cpu: 1}}}]",
    );
    let resources = spec.containers[0].resources.as_ref().unwrap();
    assert_eq!((resources.requests["cpu"], resources.requests["memory"]), (quantity("1"), quantity("1Gi")));
    let odd = spec_of("containers: [{name: a, image: a, resources: {limits: {cpu: 0.0001}}}]");
    assert_eq!(odd.containers[0].resources.as_ref().unwrap().limits["cpu"].to_string(), "1m");
}

#[test]
fn a_pods_requests_are_those_of_what_runs_together() {
    let asks = |name: &str, cpu: &str, rest: &str| {
        format!("{{name: {name}, image: a, {rest} resources: {{requests: {{cpu: '{cpu}'}}}}}}")
    };
    let spec = spec_of(&format!(
        "initContainers: [{}, {}, {}], containers: [{}, {}], resources: {{limits: {{cpu: 10, memory: 1Gi}}}}",
        asks("i", "3", ""),
        asks("s", "500m", "restartPolicy: Always,"),
        asks("j", "2", ""),
        asks("a", "1", ""),
        asks("b", "250m", ""),
    ));
    assert_eq!(spec.requests("cpu"), Some(quantity("3")));
    assert_eq!(spec.requests("memory"), None);
    let resources = spec.resources.as_ref().unwrap();
    assert_eq!((resources.requests["cpu"], resources.requests["memory"]), (quantity("3"), quantity("1Gi")));
    let later = spec_of(&format!(
        "initContainers: [{}, {}], containers: [{}]",
        asks("s", "1", "restartPolicy: Always,"),
        asks("j", "2500m", ""),
        asks("a", "2", ""),
    ));
    assert_eq!(later.requests("cpu"), Some(quantity("3500m")));
}

#[test]
fn volumes_without_a_source_are_empty() {
    let spec =
        spec_of("volumes: [{name: v}, {name: m, configMap: {name: m}}], containers: [{name: a, image: a}]");
    assert!(
        matches!(spec.volumes[0].source(), Some(VolumeSource::EmptyDir(empty)) if empty.medium.is_none())
    );
    assert!(
        matches!(spec.volumes[1].source(), Some(VolumeSource::ConfigMap(map)) if map.default_mode == 0o644)
    );
}

#[test]
fn probes_have_times() {
    let spec = spec_of(
        "containers: [{name: a, image: a, livenessProbe: {httpGet: {port: 80, path: x}, timeoutSeconds: 0, failureThreshold: 0}}]",
    );
    let probe = spec.containers[0].liveness_probe.as_ref().unwrap();
    assert_eq!((probe.timeout_seconds, probe.period_seconds), (1, 10));
    assert_eq!((probe.success_threshold, probe.failure_threshold, probe.initial_delay_seconds), (1, 3, 0));
    assert_eq!(probe.http_get.as_ref().unwrap().path, "/x");
}

#[test]
fn workloads_roll() {
    let template = "selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}";
    let text =
        format!("{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: w}}, spec: {{{template}}}}}");
    let Object::Deployment(deployment) = object(&text) else { panic!("{text}") };
    let rolling = deployment.spec.strategy.unwrap().rolling_update.unwrap();
    assert_eq!((deployment.spec.replicas, deployment.spec.progress_deadline_seconds), (1, 600));
    assert_eq!(rolling.max_surge.unwrap().of(3, true), Some(1));
    assert_eq!(rolling.max_unavailable.unwrap().of(3, false), Some(0));
    let Object::DaemonSet(set) = object(&text.replace("Deployment", "DaemonSet")) else { panic!("{text}") };
    let rolling = set.spec.update_strategy.unwrap().rolling_update.unwrap();
    assert_eq!(
        (rolling.max_unavailable, rolling.max_surge),
        (Some(IntOrString::Int(1)), Some(IntOrString::Int(0)))
    );
}

#[test]
fn jobs_are_one_pod_unless_they_say_otherwise() {
    let job = |spec: &str| {
        let text = format!(
            "{{apiVersion: batch/v1, kind: Job, metadata: {{name: j}}, spec: {{{spec} template: {{spec: {{restartPolicy: Never, containers: [{{name: c, image: i}}]}}}}}}}}"
        );
        let Object::Job(job) = object(&text) else { panic!("{text}") };
        (job.spec.completions, job.spec.parallelism, job.spec.backoff_limit)
    };
    assert_eq!(job(""), (Some(1), Some(1), 6));
    assert_eq!(job("completions: 3,"), (Some(3), Some(1), 6));
    assert_eq!(job("parallelism: 3,"), (None, Some(3), 6));
}

#[test]
fn texts_of_secrets_become_bytes_and_win() {
    let text =
        "{apiVersion: v1, kind: Secret, metadata: {name: s}, data: {a: YQ==, b: Yg==}, stringData: {a: new}}";
    let Object::Secret(secret) = object(text) else { panic!("{text}") };
    assert_eq!((secret.data["a"].0.as_slice(), secret.data["b"].0.as_slice()), (&b"new"[..], &b"b"[..]));
    assert!(secret.string_data.is_empty());
    assert!(!format!("{secret:?}").contains("new"));
    assert_eq!(secret.purpose, "Opaque");
}

#[test]
fn services_have_targets() {
    let text = "{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {sessionAffinity: ClientIP, ports: [{port: 80}]}}";
    let Object::Service(service) = object(text) else { panic!("{text}") };
    assert_eq!(service.spec.ports[0].target_port, Some(IntOrString::Int(80)));
    let affinity = service.spec.session_affinity_config.unwrap().client_ip.unwrap();
    assert_eq!(affinity.timeout_seconds, 10800);
}
