//! What a pod mounts and what its containers are told, that Kubernetes refuses, or Hyper does.

mod pods;

use pods::{container, same, told};

#[test]
fn variables_have_one_source() {
    same(
        container("    env: [{name: A=B}, {name: C, value: yes}]"),
        &[
            "env[1].value: expected a string, got a boolean (unquoted, words like true, yes, on and y are; put it into quotes)",
        ],
    );
    same(
        container("    env: [{name: A=B}]"),
        &[
            "env[0].name: Invalid value: \"A=B\": a valid environment variable name must consist only of printable ASCII characters other than '='",
        ],
    );
    same(
        container("    env: [{name: A, value: a, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]"),
        &["env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty"],
    );
    same(
        container("    env: [{name: A, valueFrom: {}}]"),
        &[
            "env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
        ],
    );
    same(
        container("    env: [{name: A, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['a']\"}}}]"),
        &[],
    );
    let fields = container("    env: [{name: A, valueFrom: {fieldRef: {fieldPath: spec.hostname}}}]");
    assert!(
        fields[0].starts_with("env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"spec.hostname\"")
    );
    same(
        container(
            "    env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 1Ki}}}]",
        ),
        &[
            "env[0].valueFrom.resourceFieldRef.divisor: Invalid value: 1Ki: only divisor's values 1m, 1 are supported with the cpu resource",
        ],
    );
    same(
        container("    envFrom: [{prefix: A}, {configMapRef: {name: a}, secretRef: {name: B}}]"),
        &[
            "envFrom[0]: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
            "envFrom[1].secretRef.name: Invalid value: \"B\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com')",
            "envFrom[1]: Invalid value: \"\": may not have more than one field specified at a time",
        ],
    );
}

#[test]
fn mounts_are_of_volumes_and_at_places_of_their_own() {
    same(
        container(
            "    volumeMounts: [{name: w, mountPath: /a}, {name: v, mountPath: /b}, {name: v, mountPath: /b}]",
        ),
        &[
            "volumeMounts[0].name: Not found: \"w\"",
            "volumeMounts[2].mountPath: Invalid value: \"/b\": must be unique",
        ],
    );
    same(
        container(
            "    volumeMounts: [{name: v, mountPath: /a, subPath: ../b}, {name: v, mountPath: /b, subPath: /c}]",
        ),
        &[
            "volumeMounts[0].subPath: Invalid value: \"../b\": must not contain '..'",
            "volumeMounts[1].subPath: Invalid value: \"/c\": must be a relative path",
        ],
    );
    same(
        container(
            "    env: [{name: A, value: a}]\n    volumeMounts: [{name: v, mountPath: /a, subPathExpr: $(A)/$$(B)}, {name: v, mountPath: /b, subPathExpr: $(B), subPath: b}]",
        ),
        &[
            "volumeMounts[1].subPathExpr: Invalid value: \"$(B)\": subPathExpr and subPath are mutually exclusive",
            "volumeMounts[1].subPathExpr: \"B\" is no variable of the container, which will not start",
        ],
    );
    same(
        container("    volumeMounts: [{name: v, mountPath: /a, mountPropagation: Bidirectional}]"),
        &[
            "volumeMounts[0].mountPropagation: not supported: \"Bidirectional\": a pod is a virtual machine: what is the host's stays outside of it",
        ],
    );
    same(
        container("    volumeMounts: [{name: v, mountPath: /a, recursiveReadOnly: Enabled}]"),
        &["volumeMounts[0].recursiveReadOnly: Forbidden: may only be specified when readOnly is true"],
    );
    same(
        container(
            "    volumeDevices: [{name: v, devicePath: /dev/a}, {name: c, devicePath: /dev/a}]\n    volumeMounts: [{name: c, mountPath: /c}]",
        ),
        &[
            "volumeMounts[0].name: Invalid value: \"c\": must not already exist in volumeDevices",
            "volumeDevices[0].name: Invalid value: \"v\": can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
            "volumeDevices[1].devicePath: Invalid value: \"/dev/a\": must be unique",
            "volumeDevices[1].name: Invalid value: \"c\": must not already exist in volumeMounts",
        ],
    );
}

#[test]
fn volumes_have_one_source_that_is_sound() {
    same(
        told("  volumes: [{name: a}, {name: a}, {name: b, emptyDir: {}, hostPath: {path: /}}]"),
        &[
            "spec.volumes[1].name: Duplicate value: \"a\"",
            "spec.volumes[2].hostPath: Forbidden: may not specify more than 1 volume type",
        ],
    );
    same(
        told("  volumes: [{name: a, hostPath: {path: b/../c, type: Dir}}]"),
        &[
            "spec.volumes[0].hostPath.type: Unsupported value: \"Dir\": supported values: \"DirectoryOrCreate\", \"Directory\", \"FileOrCreate\", \"File\", \"Socket\", \"CharDevice\", \"BlockDevice\"",
        ],
    );
    same(
        told("  volumes: [{name: a, hostPath: {path: b/../c}}]"),
        &[
            "spec.volumes[0].hostPath.path: Invalid value: \"b/../c\": must be an absolute path",
            "spec.volumes[0].hostPath.path: Invalid value: \"b/../c\": must not contain '..'",
        ],
    );
    same(
        told("  volumes: [{name: a, configMap: {name: a, defaultMode: 1000, items: [{key: ., path: ..a}]}}]"),
        &[
            "spec.volumes[0].configMap.defaultMode: Invalid value: 1000: must be a number between 0 and 0777 (octal), both inclusive",
            "spec.volumes[0].configMap.items[0].key: Invalid value: \".\": must not be '.'",
            "spec.volumes[0].configMap.items[0].path: Invalid value: \"..a\": must not start with '..'",
        ],
    );
    same(
        told(
            "  volumes: [{name: a, projected: {sources: [{}, {secret: {name: s, items: [{key: k, path: p}]}}, {configMap: {name: s, items: [{key: k, path: p}]}}]}}]",
        ),
        &[
            "spec.volumes[0].projected.sources[0]: Required value: must specify one of: `secret`, `downwardAPI`, `configMap`",
            "spec.volumes[0].projected.sources[2]: Invalid value: \"p\": conflicting duplicate paths",
        ],
    );
    same(
        told("  volumes: [{name: a, gitRepo: {repository: x}}, {name: b, ephemeral: {}}]"),
        &[
            "spec.volumes[0].gitRepo: not supported: gone from Kubernetes: an init container clones into an emptyDir",
            "spec.volumes[1].ephemeral: not supported: not built yet",
        ],
    );
    same(
        told(
            "  volumes: [{name: a, emptyDir: {sizeLimit: -1}}, {name: b, downwardAPI: {items: [{path: a}]}}]",
        ),
        &[
            "spec.volumes[0].emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid resource quantity",
            "spec.volumes[1].downwardAPI.items[0]: Required value: one of fieldRef and resourceFieldRef is required",
        ],
    );
}
