//! The grammar's claims, from command lines to API JSON.

use clap::{CommandFactory, FromArgMatches};
use serde_json::{Value, json};

use super::{Cli, Command, exit_code, refuse_command, refuse_given, teach_refused, with_habits};
use crate::container;
use crate::error::Failure;

fn grammar() -> clap::Command {
    with_habits(teach_refused(Cli::command()))
}

fn parse(line: &[&str]) -> Result<Command, Failure> {
    let matches = grammar()
        .try_get_matches_from(std::iter::once(&"hyper").chain(line))
        .map_err(|error| Failure::new(error.to_string()).with_code(exit_code(error.kind())))?;
    refuse_given(&matches)?;
    Ok(Cli::from_arg_matches(&matches).unwrap().command.unwrap())
}

/// The create call's body for a command line of `run`, without its nulls.
fn body(line: &[&str]) -> Result<Value, String> {
    let Command::Run(args) = parse(line).map_err(|failure| failure.errors.join(": "))? else {
        return Err("not a run".into());
    };
    let ours = |name: &str| (name == "HAVE").then(|| "mine".to_owned());
    let request =
        container::request(args.flags(), ours, Some((24, 80))).map_err(|error| error.to_string())?;
    Ok(serde_json::to_value(request.body).unwrap())
}

#[test]
fn the_grammar_is_sound() {
    grammar().debug_assert();
}

#[test]
fn flags_after_the_image_belong_to_the_command() {
    let table: [(&[&str], Value); 6] = [
        (&["run", "img", "cmd", "-x", "--rm"], json!(["cmd", "-x", "--rm"])),
        (&["run", "img", "-i"], json!(["-i"])),
        (&["run", "--rm", "img", "sh", "-c", "exit 7"], json!(["sh", "-c", "exit 7"])),
        (&["run", "img", "--", "x"], json!(["--", "x"])),
        (&["run", "--", "img", "-x"], json!(["-x"])),
        (&["run", "img", "-v", "/x"], json!(["-v", "/x"])),
    ];
    for (line, command) in table {
        let body = body(line).unwrap();
        assert_eq!((&body["Image"], &body["Cmd"]), (&json!("img"), &command), "{line:?}");
    }
}

#[test]
fn short_flags_combine_and_switches_take_values() {
    let table: [(&[&str], bool, bool, bool); 6] = [
        (&["run", "-it", "img"], true, true, false),
        (&["run", "-itd", "img"], true, true, false),
        (&["run", "-i=false", "-t", "img"], false, true, false),
        (&["run", "--interactive=true", "--rm=1", "img"], true, false, true),
        (&["run", "--rm", "--rm=false", "img"], false, false, false),
        (&["run", "-tehello=1", "img"], false, true, false),
    ];
    for (line, stdin, tty, rm) in table {
        let body = body(line).unwrap();
        assert_eq!(
            (&body["OpenStdin"], &body["Tty"], &body["HostConfig"]["AutoRemove"]),
            (&json!(stdin), &json!(tty), &json!(rm)),
            "{line:?}"
        );
    }
}

#[test]
fn flags_become_the_apis_fields() {
    let table: [(&[&str], &str, Value); 53] = [
        (&["-e", "A=1", "-e", "HAVE", "-e", "NOPE"], "/Env", json!(["A=1", "HAVE=mine", "NOPE"])),
        (&["-w", "/srv"], "/WorkingDir", json!("/srv")),
        (&["-u", "www-data"], "/User", json!("www-data")),
        (&["--group-add", "5", "--group-add", "x"], "/HostConfig/GroupAdd", json!(["5", "x"])),
        (&["--cpus", "1.5"], "/HostConfig/NanoCpus", json!(1_500_000_000)),
        (&["-m", "512m"], "/HostConfig/Memory", json!(512 << 20)),
        (&["-c", "5"], "/HostConfig/CpuShares", json!(5)),
        (&["--memory-swap", "-1"], "/HostConfig/MemorySwap", json!(-1)),
        (&["--cpuset-cpus", "0,1"], "/HostConfig/CpusetCpus", json!("0,1")),
        (&["--memory-swappiness", "40"], "/HostConfig/MemorySwappiness", json!(40)),
        (
            &["--device", "/dev/vdb:r", "--device", "/dev/vdc:/dev/x"],
            "/HostConfig/Devices",
            json!([
                {"PathOnHost": "/dev/vdb", "PathInContainer": "/dev/vdb", "CgroupPermissions": "r"},
                {"PathOnHost": "/dev/vdc", "PathInContainer": "/dev/x", "CgroupPermissions": "rwm"},
            ]),
        ),
        (&["--device-cgroup-rule", "c 7:128 rwm"], "/HostConfig/DeviceCgroupRules", json!(["c 7:128 rwm"])),
        (&["--pid", "container:x"], "/HostConfig/PidMode", json!("container:x")),
        (&["--storage-opt", "size=1G"], "/HostConfig/StorageOpt", json!({"size": "1G"})),
        (&["--expose", "80-81"], "/ExposedPorts", json!({"80/tcp": {}, "81/tcp": {}})),
        (&["-p", "8080:80"], "/ExposedPorts", json!({"80/tcp": {}})),
        (
            &["-p", "127.0.0.1:8080:80/udp"],
            "/HostConfig/PortBindings",
            json!({"80/udp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]}),
        ),
        (&["-P"], "/HostConfig/PublishAllPorts", json!(true)),
        (&["--mount", "type=tmpfs,target=/x"], "/HostConfig/Mounts/0/Target", json!("/x")),
        (&["-h", "web"], "/Hostname", json!("web")),
        (&["--hostname=web"], "/Hostname", json!("web")),
        (&["--domainname", "d"], "/Domainname", json!("d")),
        (&["--entrypoint", "/bin/sh"], "/Entrypoint", json!(["/bin/sh"])),
        (&["--entrypoint", ""], "/Entrypoint", json!([""])),
        (&["-l", "a=b", "--label", "c"], "/Labels", json!({"a": "b", "c": ""})),
        (&["--cap-add", "net_admin"], "/HostConfig/CapAdd", json!(["net_admin"])),
        (&["--cap-drop", "ALL"], "/HostConfig/CapDrop", json!(["ALL"])),
        (&["--privileged"], "/HostConfig/Privileged", json!(true)),
        (&["--read-only"], "/HostConfig/ReadonlyRootfs", json!(true)),
        (
            &["--ulimit", "nofile=1024:2048"],
            "/HostConfig/Ulimits",
            json!([{"Name": "nofile", "Soft": 1024, "Hard": 2048}]),
        ),
        (&["--sysctl", "net.a=b"], "/HostConfig/Sysctls", json!({"net.a": "b"})),
        (
            &["--tmpfs", "/x:size=1m", "--tmpfs", "/y"],
            "/HostConfig/Tmpfs",
            json!({"/x": "size=1m", "/y": ""}),
        ),
        (&["--shm-size", "1m"], "/HostConfig/ShmSize", json!(1 << 20)),
        (&["--init"], "/HostConfig/Init", json!(true)),
        (&["--stop-signal", "USR1"], "/StopSignal", json!("USR1")),
        (&["--stop-timeout", "-1"], "/StopTimeout", json!(-1)),
        (&["--add-host", "h=1.2.3.4"], "/HostConfig/ExtraHosts", json!(["h:1.2.3.4"])),
        (&["--dns", "1.1.1.1"], "/HostConfig/Dns", json!(["1.1.1.1"])),
        (&["--dns-search", "s", "--dns-opt", "o"], "/HostConfig/DnsOptions", json!(["o"])),
        (&[], "/HostConfig/NetworkMode", json!("default")),
        (&["--net", "container:x"], "/HostConfig/NetworkMode", json!("container:x")),
        (
            &["--mac-address", "02:42:ac:11:00:02"],
            "/NetworkingConfig/EndpointsConfig/default/MacAddress",
            json!("02:42:ac:11:00:02"),
        ),
        (&["--network", "name=n,alias=a,alias=b"], "/HostConfig/NetworkMode", json!("n")),
        (
            &["--network", "name=n,alias=a,ip=10.0.0.9", "--network", "m"],
            "/NetworkingConfig/EndpointsConfig/n/IPAMConfig/IPv4Address",
            json!("10.0.0.9"),
        ),
        (&["--pids-limit", "-1"], "/HostConfig/PidsLimit", json!(-1)),
        (&["--oom-score-adj", "-500"], "/HostConfig/OomScoreAdj", json!(-500)),
        (&["--security-opt", "seccomp=unconfined"], "/HostConfig/SecurityOpt", json!(["seccomp=unconfined"])),
        (&["-i", "-a", "stdin", "-a", "STDERR"], "/AttachStdout", json!(false)),
        (&["-i"], "/StdinOnce", json!(true)),
        (&["--log-driver", "none"], "/HostConfig/LogConfig/Type", json!("none")),
        (&["--log-opt", "max-size=1m"], "/HostConfig/LogConfig/Config", json!({"max-size": "1m"})),
        (&["--restart", "no"], "/HostConfig/RestartPolicy/Name", json!("no")),
        (
            &["--pod", "p", "--hypervisor", "qemu", "--kernel", "/proc/version", "--template=never"],
            "/HostConfig/Annotations",
            json!({
                "io.hyper.pod": "p", "io.hyper.hypervisor": "qemu", "io.hyper.kernel": "/proc/version",
                "io.hyper.template": "never",
            }),
        ),
    ];
    for (flags, at, expected) in table {
        let line = [&["run"], flags, &["img"]].concat();
        let body = body(&line).unwrap();
        assert_eq!(body.pointer(at), Some(&expected), "{line:?}: {body}");
    }
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let table: [(&[&str], &str); 17] = [
        (&["-p", "80:x"], "--publish"),
        (&["--device", "/dev/vdb:x"], "--device"),
        (&["--gpus", "all"], "--gpus"),
        (&["--network", "host"], "--network"),
        (&["--uts", "host"], "--uts"),
        (&["--isolation", "hyperv"], "--isolation"),
        (&["--security-opt", "seccomp="], "--security-opt"),
        (&["--memory-swappiness", "101"], "--memory-swappiness"),
        (&["--oom-kill-disable"], "--oom-kill-disable"),
        (&["--memory", "x"], "--memory"),
        (&["--cpus", "-1"], "--cpus"),
        (&["--tmpfs", "rel"], "--tmpfs"),
        (&["--kernel", "/nonexistent"], "--kernel"),
        (&["--mac-address", "02:42:ac:11:00:02", "--network", "none"], "--mac-address"),
        (&["--network", "alias=a"], "name/target is not set"),
        (&["--network", "name=n,gw-priority=1"], "gw-priority is not supported"),
        (&["--network", "name=n,ip=10.0.0.9", "--ip", "10.0.0.8"], "cannot specify both --ip"),
    ];
    for (flags, name) in table {
        let line = [&["run"], flags, &["img"]].concat();
        let error = body(&line).unwrap_err();
        assert!(error.contains(name), "{line:?}: {error}");
    }
    assert!(body(&["run", "--oom-kill-disable=false", "img"]).is_ok());
}

#[test]
fn wrong_command_lines_have_dockers_exit_codes() {
    let table: [(&[&str], i32); 7] = [
        (&["run"], 1),
        (&["run", "--nope", "img"], 125),
        (&["ps", "--nope"], 125),
        (&["exec", "x"], 1),
        (&["rm"], 1),
        (&["run", "--stop-timeout", "x", "img"], 125),
        (&["run", "--gpus", "all", "img"], 125),
    ];
    for (line, code) in table {
        assert_eq!(parse(line).map(|_| ()).unwrap_err().code, code, "{line:?}");
    }
}

#[test]
fn dockers_other_commands_are_known_and_refused() {
    for name in ["build", "compose", "swarm"] {
        let Ok(Command::Other(words)) = parse(&[name, "--flag", "x"]) else { panic!("{name} is a command") };
        let failure = refuse_command("", &words[0].to_string_lossy());
        assert_eq!((failure.code, failure.errors[0].ends_with("is not supported yet")), (1, true), "{name}");
    }
    let failure = refuse_command("", "foo");
    assert_eq!(failure.errors, ["unknown command: hyper foo"]);
    assert_eq!(refuse_command("image ", "build").errors, ["`hyper image build` is not supported yet"]);
}

#[test]
fn top_and_exec_leave_their_commands_flags_alone() {
    assert!(matches!(parse(&["top", "web", "-ef"]), Ok(Command::Top(_))));
    assert!(matches!(parse(&["exec", "-it", "web", "ls", "-l", "--color"]), Ok(Command::Exec(_))));
    assert!(matches!(parse(&["rm", "-fv", "web"]), Ok(Command::Rm(_))));
    assert!(matches!(parse(&["ps", "-aqn", "3"]), Ok(Command::Ps(_))));
}
