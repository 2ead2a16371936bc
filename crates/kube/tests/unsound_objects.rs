//! Objects other than pods that Kubernetes refuses, or Hyper does, and what is told of them.

use hyper_kube::load;

/// What is told of files, without the names of the objects.
fn told(text: &str) -> Vec<String> {
    let (faults, warnings) = match load([("f", text.as_bytes())]) {
        Ok(loaded) => (Vec::new(), loaded.warnings),
        Err(faults) => (faults.faults, faults.warnings),
    };
    faults.iter().chain(&warnings).map(|fault| format!("{}: {}", fault.path, fault.problem)).collect()
}

#[track_caller]
fn same(told: Vec<String>, wanted: &[&str]) {
    assert_eq!(told, wanted, "{told:#?}");
}

/// A workload of the kind; `spec` is what its spec has besides, `pod` the spec of its pods besides a container.
fn workload(kind: &str, spec: &str, pod: &str) -> String {
    format!(
        "{{apiVersion: apps/v1, kind: {kind}, metadata: {{name: w}}, spec: {{{spec} selector: {{matchLabels: {{a: b}}}}, \
         template: {{metadata: {{labels: {{a: b}}}}, spec: {{{pod} containers: [{{name: c, image: i}}]}}}}}}}}"
    )
}

fn job(spec: &str, pod: &str) -> String {
    format!(
        "{{apiVersion: batch/v1, kind: Job, metadata: {{name: j}}, spec: {{{spec} template: {{spec: {{{pod} containers: \
         [{{name: c, image: i}}]}}}}}}}}"
    )
}

fn service(spec: &str) -> String {
    format!("{{apiVersion: v1, kind: Service, metadata: {{name: s}}, spec: {{{spec}}}}}")
}

#[test]
fn metadata_is_checked() {
    let map =
        |metadata: &str| told(&format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{{metadata}}}}}"));
    same(map(""), &["metadata.name: Required value"]);
    same(
        map("generateName: a-"),
        &[
            "metadata.generateName: not supported: an object has a name of its own, so that playing the file again finds it",
        ],
    );
    same(map("name: a, labels: {a: b, x/y: ''}, annotations: {Example.com/A: 'any text'}"), &[]);
    assert!(
        map("name: A")[0]
            .starts_with("metadata.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain must")
    );
    let labels = map("name: a, labels: {'a b': c, d: 'e f'}");
    assert!(labels[0].starts_with("metadata.labels[a b]: Invalid value: \"a b\": name part must consist of"));
    assert!(labels[1].starts_with("metadata.labels[d]: Invalid value: \"e f\": a valid label must be"));
    same(
        map("name: a, uid: x, creationTimestamp: '2020-01-01T00:00:00Z'"),
        &[
            "metadata.uid: has no effect: kept by an API server, not by a file",
            "metadata.creationTimestamp: has no effect: kept by an API server, not by a file",
        ],
    );
    let long = format!("name: a, annotations: {{a: {}}}", "x".repeat(300_000));
    same(
        map(&long),
        &["metadata.annotations: Invalid value: 300001 bytes: may not be more than 262144 bytes"],
    );
    assert!(
        told(&service("ports: [{port: 1}]").replace("name: s", "name: 1s"))[0].contains("DNS-1035 label")
    );
}

#[test]
fn an_object_is_there_once() {
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";
    let files = [
        ("one", map.as_bytes()),
        ("two", b"# a second\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"),
    ];
    let faults = load(files).unwrap_err();
    assert_eq!(
        faults.to_string(),
        "two:5:18: ConfigMap \"a\": metadata.name: Duplicate value: \"a\" is the name of the ConfigMap in one:1:1"
    );
    let other = map.replace("name: a", "name: a, namespace: b");
    assert!(load([("one", map.as_bytes()), ("two", other.as_bytes())]).is_ok());
    let secret = map.replace("ConfigMap", "Secret");
    assert!(load([("one", map.as_bytes()), ("two", secret.as_bytes())]).is_ok());
}

#[test]
fn selectors_select_the_templates() {
    for kind in ["Deployment", "ReplicaSet", "StatefulSet", "DaemonSet"] {
        same(told(&workload(kind, "", "")), &[]);
        same(
            told(&workload(kind, "", "").replace("labels: {a: b}", "labels: {a: c}")),
            &[
                "spec.template.metadata.labels: Invalid value: \"a=c\": `selector` does not match template `labels`",
            ],
        );
        same(
            told(&workload(kind, "", "").replace("{matchLabels: {a: b}}", "{}")),
            &[&format!(
                "spec.selector: Invalid value: {{}}: empty selector is invalid for {}",
                kind.to_lowercase()
            )],
        );
        same(
            told(&workload(kind, "", "restartPolicy: Never, activeDeadlineSeconds: 5,")),
            &[
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
                &format!(
                    "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in {kind} is not Supported"
                ),
            ],
        );
        same(
            told(&workload(kind, "minReadySeconds: -1,", "")),
            &["spec.minReadySeconds: Invalid value: -1: must be greater than or equal to 0"],
        );
    }
    same(
        told(&workload("ReplicaSet", "", "").replace(
            "{matchLabels: {a: b}}",
            "{matchExpressions: [{key: a, operator: In}, {key: a, operator: Exists, values: [b]}, {key: a, operator: Is}]}",
        )),
        &["spec.selector.matchExpressions[2].operator: Unsupported value: \"Is\": supported values: \"In\", \"NotIn\", \"Exists\", \"DoesNotExist\""],
    );
    let expressions = "{matchLabels: {a: b}, matchExpressions: [{key: a, operator: NotIn}, {key: a, operator: Exists, values: [b]}]}";
    same(
        told(&workload("ReplicaSet", "", "").replace("{matchLabels: {a: b}}", expressions)),
        &[
            "spec.selector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
            "spec.selector.matchExpressions[1].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        ],
    );
}

#[test]
fn rollouts_get_somewhere() {
    let with = |spec: &str| told(&workload("Deployment", spec, ""));
    same(with("replicas: -1,"), &["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]);
    same(
        with("minReadySeconds: 600,"),
        &["spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds"],
    );
    same(
        with("strategy: {type: Recreate, rollingUpdate: {maxSurge: 1}},"),
        &["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"],
    );
    same(
        with("strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 0%}},"),
        &["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0%: may not be 0 when `maxSurge` is 0"],
    );
    same(
        with("strategy: {rollingUpdate: {maxSurge: 200%, maxUnavailable: 101%}},"),
        &[
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%",
        ],
    );
    assert!(
        with("strategy: {rollingUpdate: {maxSurge: half}},")[0].contains("a valid percent string must be")
    );
    same(
        told(&workload(
            "StatefulSet",
            "updateStrategy: {type: OnDelete, rollingUpdate: {partition: -1}}, ordinals: {start: -1},",
            "",
        )),
        &[
            "spec.ordinals.start: Invalid value: -1: must be greater than or equal to 0",
            "spec.updateStrategy.rollingUpdate: Invalid value: {…}: only allowed for updateStrategy 'RollingUpdate'",
            "spec.updateStrategy.rollingUpdate.partition: Invalid value: -1: must be greater than or equal to 0",
        ],
    );
    same(
        told(&workload("StatefulSet", "volumeClaimTemplates: [{metadata: {}, spec: {}}],", "")),
        &[
            "spec.volumeClaimTemplates[0].metadata.name: Required value",
            "spec.volumeClaimTemplates[0].spec.accessModes: Required value: at least 1 access mode is required",
            "spec.volumeClaimTemplates[0].spec.resources.requests[storage]: Required value",
        ],
    );
    same(
        told(&workload("DaemonSet", "updateStrategy: {rollingUpdate: {maxSurge: 1}},", "")),
        &[
            "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero",
        ],
    );
}

#[test]
fn jobs_come_to_an_end() {
    same(told(&job("", "restartPolicy: Never,")), &[]);
    same(
        told(&job("", "")),
        &[
            "spec.template.spec.restartPolicy: Unsupported value: \"Always\": supported values: \"OnFailure\", \"Never\"",
        ],
    );
    same(
        told(&job(
            "completionMode: Indexed, parallelism: 100001, backoffLimit: -1,",
            "restartPolicy: Never,",
        )),
        &[
            "spec.backoffLimit: Invalid value: -1: must be greater than or equal to 0",
            "spec.completions: Required value: when completion mode is Indexed",
            "spec.parallelism: Invalid value: 100001: must be less than or equal to 100000 when completion mode is Indexed",
        ],
    );
    same(
        told(&job("selector: {matchLabels: {a: b}},", "restartPolicy: Never,")),
        &["spec.selector: not supported: Kubernetes makes it, and refuses one without `manualSelector`"],
    );
    let cron = |spec: &str, name: &str| {
        let template = "jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}}";
        told(&format!(
            "{{apiVersion: batch/v1, kind: CronJob, metadata: {{name: {name}}}, spec: {{{spec} {template}}}}}"
        ))
    };
    same(cron("schedule: '@daily',", "a"), &[]);
    same(cron("", "a"), &["spec.schedule: Required value"]);
    same(
        cron("schedule: '61 * * * *',", "a"),
        &["spec.schedule: Invalid value: \"61 * * * *\": end of range above maximum: \"61\""],
    );
    same(
        cron("schedule: '@daily', timeZone: Local, startingDeadlineSeconds: -1,", &"a".repeat(53)),
        &[
            &format!(
                "metadata.name: Invalid value: \"{}\": must be no more than 52 characters",
                "a".repeat(53)
            ),
            "spec.startingDeadlineSeconds: Invalid value: -1: must be greater than or equal to 0",
            "spec.timeZone: Invalid value: \"Local\": must be an explicit time zone as defined in https://www.iana.org/time-zones",
        ],
    );
}

#[test]
fn services_have_ports_of_their_own() {
    same(told(&service("")), &["spec.ports: Required value"]);
    same(told(&service("clusterIP: None")), &[]);
    same(
        told(&service("ports: [{port: 80}, {port: 80, name: b}, {port: 0, name: b}]")),
        &[
            "spec.ports[0].name: Required value",
            "spec.ports[1]: Duplicate value: \"TCP/80\"",
            "spec.ports[2].name: Duplicate value: \"b\"",
            "spec.ports[2].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.ports[2].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
        ],
    );
    same(
        told(&service("ports: [{port: 80, nodePort: 30000}]")),
        &["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
    );
    same(
        told(&service("type: NodePort, clusterIP: None, ports: [{port: 80, nodePort: 80}]")),
        &[
            "spec.clusterIP: Invalid value: \"None\": may not be set to 'None' for NodePort services",
            "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767",
        ],
    );
    same(
        told(&service("type: LoadBalancer, ports: [{port: 80}]")),
        &[
            "spec.type: not supported: \"LoadBalancer\": there is no load balancer outside; NodePort publishes ports on the host",
        ],
    );
    same(
        told(&service(
            "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}, ports: [{port: 1}]",
        )),
        &[
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 0: must be greater than 0 and less than 86400",
        ],
    );
    same(
        told(&service(
            "clusterIP: x, clusterIPs: [10.0.0.1], ipFamilies: [IPv4, IPv4], ports: [{port: 1, targetPort: A}]",
        )),
        &[
            "spec.clusterIP: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            "spec.clusterIPs: Invalid value: \"10.0.0.1\": first value must match `clusterIP`",
            "spec.ipFamilies[1]: Duplicate value: \"IPv4\"",
            "spec.ports[0].targetPort: Invalid value: \"A\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
            "spec.ports[0].targetPort: Invalid value: \"A\": must contain at least one letter (a-z)",
        ],
    );
}

#[test]
fn settings_and_claims_are_sound() {
    same(
        told("{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {a: b, c: 5}}"),
        &["data[c]: expected a string, got an integer (put it into quotes)"],
    );
    same(
        told(
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {a: b, ..: c}, binaryData: {a: YQ==}}",
        ),
        &[
            "data[..]: Invalid value: \"..\": must not be '..'",
            "data[a]: Invalid value: \"a\": duplicate of key present in binaryData",
        ],
    );
    let large = format!(
        "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: a}}, data: {{a: {}}}}}",
        "x".repeat((1 << 20) + 1)
    );
    same(told(&large), &["data: Invalid value: 1048577 bytes: may not be more than 1048576 bytes"]);
    let secret =
        |rest: &str| told(&format!("{{apiVersion: v1, kind: Secret, metadata: {{name: a}}, {rest}}}"));
    same(secret("data: {a: '%'}"), &["data[a]: expected base64 data, got a string that is none"]);
    same(secret("type: kubernetes.io/tls, stringData: {tls.crt: a}"), &["data[tls.key]: Required value"]);
    same(
        secret("type: kubernetes.io/dockerconfigjson, stringData: {.dockerconfigjson: hunter2}"),
        &["data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": must be JSON"],
    );
    same(secret("type: mine, stringData: {a: b}"), &[]);
    let claim = |spec: &str| {
        told(&format!(
            "{{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {{name: a}}, spec: {{{spec}}}}}"
        ))
    };
    same(claim("accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}"), &[]);
    same(
        claim(
            "accessModes: [ReadWriteOncePod, ReadWriteOnce], resources: {requests: {storage: 0}}, storageClassName: A",
        ),
        &[
            "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
            "spec.resources.requests[storage]: Invalid value: \"0\": must be greater than zero",
            "spec.storageClassName: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com')",
        ],
    );
}

#[test]
fn lists_hold_objects() {
    same(told("{apiVersion: v1, kind: List, items: []}"), &[]);
    same(told("{apiVersion: v1, kind: List, item: []}"), &["item: unknown field, did you mean \"items\"?"]);
    same(
        told("{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: List, items: []}]}"),
        &["items[0].kind: Forbidden: a list within a list"],
    );
    same(told("{apiVersion: v1, kind: PodList, items: 5}"), &["items: expected a list, got an integer"]);
    same(
        told("{apiVersion: v1, kind: List, items: [5, {apiVersion: v1, kind: ConfigMap, metadata: {name: A_}}]}").into_iter().map(|line| line.chars().take(40).collect()).collect(),
        &[": expected a map, got an integer", "metadata.name: Invalid value: \"A_\": a lo"],
    );
}

#[test]
fn faults_are_told_up_to_a_number() {
    let env: String = (0..150).map(|_| "{name: ''},").collect();
    let text = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: a}}, spec: {{containers: [{{name: a, image: a, env: [{env}]}}]}}}}"
    );
    let told = told(&text);
    assert_eq!((told.len(), told[100].as_str()), (101, ": and 50 more"));
}
