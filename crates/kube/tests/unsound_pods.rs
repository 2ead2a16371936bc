//! Pods that Kubernetes refuses, or Hyper does, and what is told of them.

mod pods;

use pods::{container, same, told};

#[test]
fn sound_pods_are_told_nothing_of() {
    for spec in [
        "  hostNetwork: false",
        "  hostUsers: true",
        "  nodeSelector: {}",
        "  affinity: {}",
        "  tolerations: []",
        "  serviceAccountName: default",
        "  schedulerName: default-scheduler",
        "  ephemeralContainers: []",
        "  automountServiceAccountToken: false",
        "  terminationGracePeriodSeconds: -1",
        "  terminationGracePeriodSeconds: 1e2",
        "  restartPolicy: ''",
        "  os: {name: linux}",
        "  imagePullSecrets: [{name: a}]",
        "  dnsConfig: {searches: [., a_b.example.com, example.com.]}",
        "  volumes: [{name: a, emptyDir: {}}, {name: b, emptyDir: {medium: ''}}]",
    ] {
        same(told(spec), &[]);
    }
}

#[test]
fn containers_have_names_and_images() {
    same(told("  containers: []"), &["spec.containers: Required value"]);
    same(
        told("  containers: [{name: A, image: a}, {name: b}, {image: c}]"),
        &["spec.containers[2].name: Required value"],
    );
    same(
        told(
            "  containers: [{name: a, image: a}, {name: b}, {name: a, image: ' a'}]\n  initContainers: [{name: b, image: b}]",
        ),
        &[
            "spec.containers[1].image: Required value",
            "spec.containers[2].name: Duplicate value: \"a\"",
            "spec.containers[2].image: Invalid value: \" a\": must not have leading or trailing whitespace",
            "spec.initContainers[0].name: Duplicate value: \"b\"",
        ],
    );
    let told = told("  containers: [{name: A.b, image: a}]");
    assert!(
        told[0]
            .starts_with("spec.containers[0].name: Invalid value: \"A.b\": a lowercase RFC 1123 label must")
    );
}

#[test]
fn init_containers_have_no_probes_unless_they_are_sidecars() {
    let probe = "livenessProbe: {tcpSocket: {port: 80}}";
    same(
        told(&format!("  initContainers: [{{name: i, image: i, {probe}}}]")),
        &[
            "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
        ],
    );
    same(told(&format!("  initContainers: [{{name: i, image: i, restartPolicy: Always, {probe}}}]")), &[]);
    same(
        told("  initContainers: [{name: i, image: i, restartPolicy: Never}]"),
        &["spec.initContainers[0].restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""],
    );
    same(
        container("    restartPolicy: Always"),
        &["restartPolicy: Forbidden: may not be set for non-init containers"],
    );
}

#[test]
fn ports_are_numbers_of_ports_and_published_once() {
    same(
        container(
            "    ports: [{containerPort: 0}, {containerPort: 80, hostPort: 70000}, {containerPort: 65536}]",
        ),
        &[
            "ports[0].containerPort: Invalid value: 0: must be between 1 and 65535, inclusive",
            "ports[1].hostPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            "ports[2].containerPort: Invalid value: 65536: must be between 1 and 65535, inclusive",
        ],
    );
    same(
        container(
            "    ports: [{name: a, containerPort: 1, hostPort: 1}, {name: a, containerPort: 2, hostPort: 1}]",
        ),
        &["ports[1].name: Duplicate value: \"a\"", "ports[1].hostPort: Duplicate value: \"TCP//1\""],
    );
    same(
        container(
            "    ports: [{containerPort: 1, hostPort: 1}, {containerPort: 1, hostPort: 1, protocol: UDP}]",
        ),
        &[],
    );
    same(
        container("    ports: [{containerPort: 1, protocol: SCTP}]"),
        &["ports[0].protocol: not supported: \"SCTP\": ports are those of TCP and UDP"],
    );
    same(
        container("    ports: [{containerPort: 1, hostIP: here, protocol: tcp}]"),
        &["ports[0].protocol: Unsupported value: \"tcp\": supported values: \"TCP\", \"UDP\""],
    );
    same(
        container("    ports: [{containerPort: 1, hostIP: here}]"),
        &[
            "ports[0].hostIP: Invalid value: \"here\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ],
    );
}

#[test]
fn probes_do_one_thing() {
    same(container("    livenessProbe: {}"), &["livenessProbe: Required value: must specify a handler type"]);
    same(
        container(
            "    readinessProbe: {exec: {command: []}, tcpSocket: {port: 0}, terminationGracePeriodSeconds: 1}",
        ),
        &[
            "readinessProbe.exec.command: Required value",
            "readinessProbe.tcpSocket.port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "readinessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
            "readinessProbe.terminationGracePeriodSeconds: Invalid value: 1: must not be set for readinessProbes",
        ],
    );
    same(
        container(
            "    startupProbe: {httpGet: {port: Web, httpHeaders: [{name: 'a b', value: ''}]}, successThreshold: 2, periodSeconds: -1}",
        ),
        &[
            "startupProbe.httpGet.port: Invalid value: \"Web\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
            "startupProbe.httpGet.httpHeaders[0].name: Invalid value: \"a b\": a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name')",
            "startupProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
            "startupProbe.successThreshold: Invalid value: 2: must be 1",
        ],
    );
    same(
        container("    lifecycle: {preStop: {sleep: {seconds: 31}}, postStart: {}, stopSignal: SIGTERM}"),
        &[
            "lifecycle.stopSignal: Forbidden: may not be set for containers of pods without `spec.os.name`",
            "lifecycle.postStart: Required value: must specify a handler type",
            "lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)",
        ],
    );
}

#[test]
fn requests_are_within_limits() {
    same(
        container("    resources: {requests: {cpu: 2, memory: 1Gi}, limits: {cpu: 1500m, memory: 1G}}"),
        &[
            "resources.requests[cpu]: Invalid value: \"2\": must be less than or equal to cpu limit of 1500m",
            "resources.requests[memory]: Invalid value: \"1Gi\": must be less than or equal to memory limit of 1G",
        ],
    );
    same(
        container("    resources: {limits: {cpu: -1, gpu: 1, example.com/gpu: 1, hugepages-2Mi: 1}}"),
        &[
            "resources.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
            "resources.limits[example.com/gpu]: not supported: there are no device plugins that would offer it",
            "resources.limits[gpu]: Invalid value: \"gpu\": must be a standard resource for containers",
            "resources.limits[hugepages-2Mi]: not supported: the guest has no huge pages",
        ],
    );
    same(
        container("    resources: {limits: {memory: 512m}}"),
        &["resources.limits[memory]: \"512m\" is a part of a byte (a suffix like M or Mi is likely meant)"],
    );
    same(
        told(
            "  resources: {requests: {cpu: 1}, limits: {cpu: 2}}\n  containers: [{name: a, image: a, resources: {limits: {cpu: 3}, requests: {cpu: 1500m}}}]",
        ),
        &[
            "spec.resources.requests[cpu]: Invalid value: \"1\": must be greater than or equal to aggregate container requests of 1500m",
            "spec.containers[0].resources.limits[cpu]: Invalid value: \"3\": must be less than or equal to pod limits of 2",
        ],
    );
}

#[test]
fn security_contexts_do_not_contradict_themselves() {
    same(
        container("    securityContext: {runAsUser: -1, privileged: true, allowPrivilegeEscalation: false}"),
        &[
            "securityContext.runAsUser: Invalid value: -1: must be between 0 and 4294967295, inclusive",
            "securityContext.allowPrivilegeEscalation: Invalid value: false: cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
        ],
    );
    same(
        told("  securityContext: {seccompProfile: {type: Localhost}, sysctls: [{name: a.b, value: '1'}, {name: a/b, value: '1'}, {name: A, value: '1'}]}"),
        &[
            "spec.securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
            "spec.securityContext.sysctls[1].name: Duplicate value: \"a/b\"",
            "spec.securityContext.sysctls[2].name: Invalid value: \"A\": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"
                .replace("\\\\", "\\")
                .as_str(),
        ],
    );
    same(
        container(
            "    securityContext: {appArmorProfile: {type: Localhost, localhostProfile: a}, seLinuxOptions: {level: s0}}",
        ),
        &[
            "securityContext.seLinuxOptions: not supported: the guest's kernel has no SELinux",
            "securityContext.appArmorProfile.localhostProfile: not supported: the guest's kernel has no AppArmor; the wall around a pod is its VM",
            "securityContext.appArmorProfile.type: not supported: \"Localhost\": the guest's kernel has no AppArmor; the wall around a pod is its VM",
            "securityContext.appArmorProfile: has no effect: the guest's kernel has no AppArmor; the wall around a pod is its VM",
        ],
    );
}

#[test]
fn names_and_servers_are_sound() {
    same(
        told("  dnsPolicy: None"),
        &["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"],
    );
    same(
        told("  dnsPolicy: None\n  dnsConfig: {nameservers: []}"),
        &[
            "spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when `dnsPolicy` is None",
        ],
    );
    same(
        told("  dnsConfig: {nameservers: [1.1.1.1, 2.2.2.2, 3.3.3.3, x]}"),
        &[
            "spec.dnsConfig.nameservers: Invalid value: 4: must not have more than 3 nameservers",
            "spec.dnsConfig.nameservers[3]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ],
    );
    same(
        told("  hostname: a.b\n  hostnameOverride: a\n  setHostnameAsFQDN: true\n  activeDeadlineSeconds: 0"),
        &[
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
            "spec.hostname: Invalid value: \"a.b\": must not contain dots",
            "spec.hostnameOverride: Forbidden: may not be specified when `setHostnameAsFQDN` is true",
        ],
    );
    same(
        told("  hostAliases: [{ip: 1.2.3, hostnames: [ok]}]"),
        &[
            "spec.hostAliases[0].ip: Invalid value: \"1.2.3\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ],
    );
}

#[test]
fn what_is_a_clusters_is_refused_or_warned_of() {
    let told = told(
        "  hostNetwork: true\n  nodeName: here\n  serviceAccountName: robot\n  tolerations: [{operator: Exists}]\n  affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: []}}}",
    );
    same(
        told,
        &[
            "spec.hostNetwork: not supported: a pod is a virtual machine: what is the host's stays outside of it",
            "spec.nodeName: not supported: there is no cluster and no scheduler: everything runs on this host",
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution: not supported: there is no cluster and no scheduler: everything runs on this host",
            "spec.serviceAccountName: has no effect: there is no API server that an account could be for",
            "spec.tolerations: has no effect: there is no cluster and no scheduler: everything runs on this host",
            "spec.affinity: has no effect: there is no cluster and no scheduler: everything runs on this host",
            "spec.affinity.nodeAffinity: has no effect: there is no cluster and no scheduler: everything runs on this host",
        ],
    );
}
