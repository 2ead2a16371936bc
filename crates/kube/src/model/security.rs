//! Who a container is and what it may.

use crate::read::choice;
use crate::table::{Harmless, table};

/// Why profiles of AppArmor have no effect.
const NO_APPARMOR: &str = "the guest's kernel has no AppArmor; the wall around a pod is its VM";

/// Why labels of SELinux are refused.
const NO_SELINUX: &str = "the guest's kernel has no SELinux";

/// Why what is for Windows is refused.
const NO_WINDOWS: &str = "the guest is Linux";

table! {
    /// Who a container is and what it may; what it does not say, the pod's says.
    SecurityContext {
        /// Whether its processes may become more than they are (`no_new_privs` if not).
        "allowPrivilegeEscalation" allow_privilege_escalation: Option<bool>;
        /// Capabilities, more or fewer.
        "capabilities" capabilities: Option<Capabilities>;
        /// Whether it may do all that root of its VM may.
        "privileged" privileged: Option<bool>;
        /// How `/proc` is mounted.
        "procMount" proc_mount: Option<ProcMountType>;
        /// Whether its files are read-only.
        "readOnlyRootFilesystem" read_only_root_filesystem: Option<bool>;
        /// The group.
        "runAsGroup" run_as_group: Option<i64>;
        /// Whether it must not run as root.
        "runAsNonRoot" run_as_non_root: Option<bool>;
        /// The user; else the image's.
        "runAsUser" run_as_user: Option<i64>;
        /// The system calls that it may make.
        "seccompProfile" seccomp_profile: Option<SeccompProfile>;
    }
    refused {
        "seLinuxOptions" => NO_SELINUX, unless Harmless::Empty;
        "windowsOptions" => NO_WINDOWS;
    }
    warned {
        "appArmorProfile": AppArmorProfile => NO_APPARMOR;
    }
}

table! {
    /// Who all containers of a pod are.
    PodSecurityContext {
        /// The group that volumes belong to, and every container.
        "fsGroup" fs_group: Option<i64>;
        /// When the group of a volume's files is changed.
        "fsGroupChangePolicy" fs_group_change_policy: Option<PodFSGroupChangePolicy>;
        /// The group.
        "runAsGroup" run_as_group: Option<i64>;
        /// Whether they must not run as root.
        "runAsNonRoot" run_as_non_root: Option<bool>;
        /// The user; else the images'.
        "runAsUser" run_as_user: Option<i64>;
        /// The system calls that they may make.
        "seccompProfile" seccomp_profile: Option<SeccompProfile>;
        /// More groups.
        "supplementalGroups" supplemental_groups: Vec<i64>;
        /// Whether the groups of the image's `/etc/group` are added.
        "supplementalGroupsPolicy" supplemental_groups_policy: Option<SupplementalGroupsPolicy>;
        /// Settings of the VM's kernel.
        "sysctls" sysctls: Vec<Sysctl>;
    }
    refused {
        "seLinuxChangePolicy" => NO_SELINUX;
        "seLinuxOptions" => NO_SELINUX, unless Harmless::Empty;
        "windowsOptions" => NO_WINDOWS;
    }
    warned {
        "appArmorProfile": AppArmorProfile => NO_APPARMOR;
    }
}

table! {
    /// Capabilities, more or fewer than usual.
    Capabilities {
        /// More.
        "add" add: Vec<String>;
        /// Fewer; `ALL` for none.
        "drop" drop: Vec<String>;
    }
}

choice! {
    /// How `/proc` is mounted.
    ProcMountType {
        /// With parts hidden or read-only, as usual.
        Default = "Default",
        /// As it is.
        Unmasked = "Unmasked",
    }
}

choice! {
    /// When the group of a volume's files is changed.
    PodFSGroupChangePolicy {
        /// If that of its root is another.
        OnRootMismatch = "OnRootMismatch",
        /// Always.
        Always = "Always",
    }
}

choice! {
    /// Whether the groups of the image are added.
    SupplementalGroupsPolicy {
        /// They are.
        Merge = "Merge",
        /// They are not.
        Strict = "Strict",
    }
}

table! {
    /// The system calls that a container may make.
    SeccompProfile {
        /// A file with the profile, for `Localhost`.
        "localhostProfile" localhost_profile: Option<String>;
        /// Which profile.
        "type" source: SeccompProfileType;
    }
}

choice! {
    /// Which profile of system calls.
    SeccompProfileType {
        /// One of the host's files.
        Localhost = "Localhost",
        /// The usual one.
        RuntimeDefault = "RuntimeDefault",
        /// None: all of them.
        Unconfined = "Unconfined",
    }
}

table! {
    /// A profile of AppArmor.
    AppArmorProfile {
        /// Which profile.
        "type" source: AppArmorProfileType;
    }
    refused {
        "localhostProfile" => NO_APPARMOR;
    }
}

choice! {
    /// Which profile of AppArmor.
    AppArmorProfileType {
        /// The usual one.
        RuntimeDefault = "RuntimeDefault",
        /// None.
        Unconfined = "Unconfined",
    }
    refused {
        "Localhost" => NO_APPARMOR;
    }
}

table! {
    /// A setting of the kernel.
    Sysctl {
        /// Its name, with dots or slashes.
        "name" name: String;
        /// Its value.
        "value" value: String;
    }
}
