//! From a bare kernel to a machine that runs containers, and the end of it.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use hyper_link::GuestLink;
use rustix::fs::Mode;
use rustix::mount::{MountFlags, mount, mount_bind, mount_move};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::system::{RebootCommand, reboot};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use crate::agent::{Agent, Places};
use crate::disks::Sysfs;
use crate::failure::{Attempt, Failed};
use crate::port::Port;
use crate::{cgroup, console, network, session, steps};

/// Where the initial root is moved aside to; a directory of the initramfs.
const ASIDE: &str = "/run";

/// Answers the host until the machine is to be powered off.
///
/// # Errors
/// The machine cannot be made ready: a mount fails or the link's port does not appear.
pub fn run() -> Result<(), Failed> {
    let start = steps::now();
    steps::add("kernel", 0, start);
    rustix::process::umask(Mode::from_raw_mode(0o022));
    mount_all()?;
    // Whatever runs out of memory, it must not be the one who tells of it.
    fs::write("/proc/self/oom_score_adj", "-1000").attempt(|| "protect the agent".to_owned())?;
    raise_limits()?;
    hurry_grace_periods();
    watch_for_disks();
    network::bring_up_loopback()?;
    let places = Places::default();
    cgroup::enable_controllers(&places.cgroups)?;
    fs::create_dir_all(&places.run).attempt(|| "make the agent's directory".to_owned())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .attempt(|| "start the runtime".to_owned())?;
    LocalSet::new().block_on(&runtime, async {
        let agent = Agent::new(places, Box::new(Sysfs), true)?;
        let mut terminate =
            signal(SignalKind::terminate()).attempt(|| "listen for the signal to end".to_owned())?;
        let start = steps::since("set up guest", start);
        let port = Port::open().await?;
        steps::since("open link", start);
        tokio::select! {
            failed = answer(&agent, &port) => failed.map(|never| match never {}),
            () = agent.powered_off() => Ok(()),
            _ = terminate.recv() => {
                agent.shut_down().await;
                Ok(())
            }
        }
    })
}

/// Session after session.
async fn answer(agent: &std::rc::Rc<Agent>, port: &Port) -> Result<Infallible, Failed> {
    loop {
        port.connected().await.attempt(|| "wait for the host".to_owned())?;
        match GuestLink::accept(port.clone()).await {
            Ok(link) => session::serve(agent, link).await,
            Err(error) => {
                console::say(format_args!("no session: {error}"));
                // A host that speaks nonsense must not keep the guest busy.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// Ends the machine.
pub fn power_off() -> ! {
    rustix::fs::sync();
    // Without ACPI nothing can cut the power, and the kernel would halt for ever; then a restart ends the machine,
    // for VMMs are told not to restart.
    let command = if Path::new("/sys/firmware/acpi").exists() {
        RebootCommand::PowerOff
    } else {
        RebootCommand::Restart
    };
    let error = reboot(command);
    console::say(format_args!("cannot end the machine: {error:?}"));
    loop {
        std::thread::park();
    }
}

fn mount_all() -> Result<(), Failed> {
    leave_initial_root()?;
    let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let mounts = [
        ("proc", "/proc", plain, None),
        ("sysfs", "/sys", plain, None),
        ("devtmpfs", "/dev", MountFlags::NOSUID, None),
        ("devpts", "/dev/pts", MountFlags::NOSUID | MountFlags::NOEXEC, Some(c"mode=0600,ptmxmode=0666")),
        ("tmpfs", "/dev/shm", plain, Some(c"mode=1777,size=64m")),
        ("tmpfs", "/run", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=0755")),
        ("cgroup2", "/sys/fs/cgroup", plain, Some(c"nsdelegate,memory_recursiveprot")),
        ("mqueue", "/dev/mqueue", plain, None),
    ];
    for (kind, target, flags, options) in mounts {
        if let Err(error) = fs::create_dir_all(target)
            && !Path::new(target).is_dir()
        {
            return Err(error).attempt(|| format!("make {target}"));
        }
        match mount(kind, target, kind, flags, options) {
            Ok(()) => {}
            // A kernel may mount devtmpfs by itself.
            Err(rustix::io::Errno::BUSY) => {}
            Err(error) => return Err(error).attempt(|| format!("mount {kind} on {target}")),
        }
    }
    Ok(())
}

/// Lets the kernel look at disks that announce themselves. `scsi_mod.scan=manual` on its command line spares it the
/// search of an empty bus at boot (256 targets, 100 ms under emulation), yet without this it would look at none.
fn watch_for_disks() {
    let parameter = Path::new("/sys/module/scsi_mod/parameters/scan");
    if parameter.exists()
        && let Err(error) = fs::write(parameter, "sync")
    {
        // Then disks are found when their bus is asked, which takes longer.
        console::say(format_args!("cannot watch for disks: {error}"));
    }
}

/// Has the kernel wait actively for what it must wait for before it moves a process into a cgroup or takes a mount or an
/// interface away: a wait of some timer ticks otherwise, several of them in the start of a container.
fn hurry_grace_periods() {
    if let Err(error) = fs::write("/sys/kernel/rcu_expedited", "1") {
        // All the same is done, later.
        console::say(format_args!("cannot hurry grace periods: {error}"));
    }
}

/// What a machine full of containers needs more of than the kernel gives by default, and less of. Processes inherit the limits
/// unless their specification has others; they are those of Docker's service.
fn raise_limits() -> Result<(), Failed> {
    let limit = |resource, value: Option<u64>| {
        setrlimit(resource, Rlimit { current: value, maximum: value })
            .attempt(|| "raise the limits of processes".to_owned())
    };
    // `fs.nr_open` allows no more.
    limit(Resource::Nofile, Some(1 << 20))?;
    limit(Resource::Nproc, None)?;
    let parameters = [
        // Search engines and databases map more than 65530 files.
        ("vm/max_map_count", "1048576"),
        ("fs/inotify/max_user_instances", "8192"),
        // An idle guest is woken for this twice a second, and for the next one as often.
        ("vm/compaction_proactiveness", "0"),
        // In seconds; what is not counted meanwhile is some hundred pages of each processor.
        ("vm/stat_interval", "30"),
    ];
    for (name, value) in parameters {
        match fs::write(Path::new("/proc/sys").join(name), value) {
            // Not every kernel has each of them.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                console::say(format_args!("cannot set {name}: {error}"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Puts a mount over the initial root, which the kernel lets nobody pivot away from: containers need to.
fn leave_initial_root() -> Result<(), Failed> {
    let failed = || "leave the initial root".to_owned();
    fs::create_dir_all(ASIDE).attempt(failed)?;
    mount_bind("/", ASIDE).attempt(failed)?;
    let steps = || -> io::Result<()> {
        rustix::process::chdir(ASIDE)?;
        mount_move(".", "/")?;
        rustix::process::chroot(".")?;
        rustix::process::chdir("/")?;
        Ok(())
    };
    steps().attempt(failed)
}
