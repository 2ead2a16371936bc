//! Which system calls a container may make.
//!
//! The default is what docker's default profile comes to on x86-64; a profile in docker's format
//! (`--security-opt seccomp=FILE`) is brought down to the runtime specification's in the same way.

use serde_json::{Value, json};

use crate::error::{EngineError, Result};
use crate::options::Seccomp;

/// Most rules of a profile given by a caller: docker's own has about 30.
const RULES_MAX: usize = 4096;

/// `AF_VSOCK`: would reach the host's side of the VM.
const AF_VSOCK: u64 = 40;

/// The flags of `clone(2)` that make namespaces (`CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC |
/// CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET`, `linux/sched.h`): none may be set.
const NAMESPACE_FLAGS: u64 = 0x7E02_0000;

/// Values of `personality(2)` that change nothing dangerous: `PER_LINUX`, `PER_LINUX32`, both with `UNAME26`, and the
/// query.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x0002_0000, 0x0002_0008, 0xffff_ffff];

/// `ENOSYS`: libraries then fall back from `clone3` to `clone`, whose flags can be looked at.
const ENOSYS: u64 = 38;

/// Calls that every container may make.
const ALLOWED: &str = "\
    _llseek _newselect accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir \
    chmod chown chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime \
    clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range \
    creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 \
    epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 \
    fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 \
    fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat \
    fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 \
    futex_wait futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu getcwd getdents \
    getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer \
    getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid \
    getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getuid32 \
    getxattr inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy \
    io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set ipc \
    kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr \
    link linkat listen listxattr llistxattr lremovexattr lseek lsetxattr lstat lstat64 madvise \
    map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock \
    mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive \
    mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap msgctl msgget msgrcv \
    msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat open openat openat2 \
    pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll \
    ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64 \
    pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg \
    recvmmsg_time64 recvmsg remap_file_pages removexattr rename renameat renameat2 restart_syscall \
    rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend \
    rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max \
    sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler \
    sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam \
    sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 send \
    sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address \
    setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid \
    setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 \
    setrlimit setsid setsockopt setuid setuid32 setxattr shmat shmctl shmdt shmget shutdown sigaltstack \
    signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64 \
    statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create \
    timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 \
    timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill \
    truncate truncate64 ugetrlimit umask uname unlink unlinkat utime utimensat utimensat_time64 utimes \
    vfork vmsplice wait4 waitid waitpid write writev";

/// Calls that need a capability, by that capability.
const BY_CAPABILITY: [(&str, &str); 14] = [
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr \
         move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount \
         umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module init_module finit_module"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    ("CAP_SYS_RAWIO", "iopl ioperm"),
    ("CAP_SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_BPF", "bpf"),
    ("CAP_PERFMON", "perf_event_open"),
];

/// The `linux.seccomp` object for a container with these capabilities; `None` for no filter.
///
/// # Errors
/// A profile of the caller's has another form than docker's.
pub(crate) fn filter(choice: &Seccomp, capabilities: &[String]) -> Result<Option<Value>> {
    match choice {
        Seccomp::Unconfined => Ok(None),
        Seccomp::Default => Ok(Some(default_filter(capabilities))),
        Seccomp::Profile(profile) => convert(profile, capabilities).map(Some),
    }
}

fn default_filter(capabilities: &[String]) -> Value {
    let has = |capability: &str| capabilities.iter().any(|held| held == capability);
    let names = |names: &str| names.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let allow = |list: &str| json!({"names": names(list), "action": "SCMP_ACT_ALLOW"});
    let allow_if = |name: &str, value: u64, op: &str| {
        json!({
            "names": [name],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": value, "op": op}],
        })
    };
    let mut rules = vec![
        allow(ALLOWED),
        allow("process_vm_readv process_vm_writev ptrace arch_prctl modify_ldt"),
        allow_if("socket", AF_VSOCK, "SCMP_CMP_NE"),
    ];
    rules.extend(PERSONALITIES.iter().map(|&value| allow_if("personality", value, "SCMP_CMP_EQ")));
    rules.extend(BY_CAPABILITY.iter().filter(|(cap, _)| has(cap)).map(|(_, list)| allow(list)));
    if !has("CAP_SYS_ADMIN") {
        rules.push(json!({
            "names": ["clone"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": NAMESPACE_FLAGS, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
        }));
        rules.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS}));
    }
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": rules,
    })
}

/// Decides the conditions of a profile in docker's format for this architecture and these capabilities.
fn convert(profile: &Value, capabilities: &[String]) -> Result<Value> {
    let invalid = |what: &str| EngineError::invalid(format!("Decoding seccomp profile failed: {what}"));
    let default_action =
        profile.get("defaultAction").and_then(Value::as_str).ok_or_else(|| invalid("no defaultAction"))?;
    let mut architectures: Vec<Value> = match profile.get("architectures") {
        Some(Value::Array(list)) => list.clone(),
        None | Some(Value::Null) => Vec::new(),
        Some(_) => return Err(invalid("architectures is no list")),
    };
    if let Some(Value::Array(map)) = profile.get("archMap") {
        for entry in map.iter().filter(|entry| entry.get("architecture") == Some(&json!("SCMP_ARCH_X86_64")))
        {
            architectures.push(json!("SCMP_ARCH_X86_64"));
            architectures.extend(
                entry.get("subArchitectures").and_then(Value::as_array).into_iter().flatten().cloned(),
            );
        }
    }
    let rules = match profile.get("syscalls") {
        Some(Value::Array(rules)) if rules.len() <= RULES_MAX => rules.as_slice(),
        None | Some(Value::Null) => &[],
        Some(Value::Array(_)) => return Err(invalid("too many rules")),
        Some(_) => return Err(invalid("syscalls is no list")),
    };
    let mut syscalls = Vec::new();
    for rule in rules {
        if let Some(rule) = convert_rule(rule, capabilities).map_err(|what| invalid(&what))? {
            syscalls.push(rule);
        }
    }
    let mut filter = json!({"defaultAction": default_action, "syscalls": syscalls});
    if !architectures.is_empty() {
        filter["architectures"] = Value::Array(architectures);
    }
    for name in ["defaultErrnoRet", "flags"] {
        if let Some(value) = profile.get(name) {
            filter[name] = value.clone();
        }
    }
    Ok(filter)
}

fn convert_rule(rule: &Value, capabilities: &[String]) -> Result<Option<Value>, String> {
    let strings = |value: Option<&Value>| -> Vec<String> {
        value
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    let action = rule.get("action").and_then(Value::as_str).ok_or("a rule has no action")?;
    let mut names = strings(rule.get("names"));
    names.extend(rule.get("name").and_then(Value::as_str).map(str::to_owned));
    if names.is_empty() {
        return Err("a rule has no names".to_owned());
    }
    let condition = |key: &str, kind: &str| strings(rule.get(key).and_then(|part| part.get(kind)));
    let has = |capability: &String| capabilities.contains(capability);
    let ours = |arch: &String| arch == "amd64" || arch == "x86_64";
    let included = condition("includes", "caps").iter().all(has)
        && (condition("includes", "arches").is_empty() || condition("includes", "arches").iter().any(ours));
    let excluded =
        condition("excludes", "caps").iter().any(has) || condition("excludes", "arches").iter().any(ours);
    if !included || excluded {
        return Ok(None);
    }
    let mut converted = json!({"names": names, "action": action});
    for name in ["args", "errnoRet"] {
        if let Some(value) = rule.get(name).filter(|value| !value.is_null()) {
            converted[name] = value.clone();
        }
    }
    Ok(Some(converted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(filter: &Value, name: &str) -> bool {
        filter["syscalls"].as_array().unwrap().iter().any(|rule| {
            rule["action"] == "SCMP_ACT_ALLOW"
                && rule.get("args").is_none()
                && rule["names"].as_array().unwrap().contains(&json!(name))
        })
    }

    #[test]
    fn mount_needs_sys_admin_and_chroot_its_capability() {
        let plain = default_filter(&["CAP_SYS_CHROOT".to_owned()]);
        assert!(allows(&plain, "chroot") && allows(&plain, "openat") && allows(&plain, "ptrace"));
        assert!(!allows(&plain, "mount") && !allows(&plain, "clone") && !allows(&plain, "io_uring_setup"));
        let admin = default_filter(&["CAP_SYS_ADMIN".to_owned()]);
        assert!(allows(&admin, "mount") && allows(&admin, "clone3"));
        assert!(!allows(&admin, "chroot"));
    }

    #[test]
    fn profile_conditions_are_decided_here() {
        let profile = json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
            "syscalls": [
                {"names": ["a"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_BPF"]}},
                {"names": ["b"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["s390"]}},
                {"names": ["c"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm"]}},
            ],
        });
        let filter = filter(&Seccomp::Profile(profile), &[]).unwrap().unwrap();
        assert_eq!(filter["syscalls"], json!([{"names": ["b"], "action": "SCMP_ACT_ALLOW"}]));
        assert_eq!(filter["architectures"], json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]));
    }

    #[test]
    fn malformed_profiles_are_refused() {
        for profile in [json!({}), json!({"defaultAction": "x", "syscalls": [{}]}), json!([])] {
            assert!(filter(&Seccomp::Profile(profile), &[]).is_err());
        }
    }
}
