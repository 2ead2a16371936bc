//! What the containers of one pod have of each other, and what not.

use hyper_e2e::command::wait_until;

use crate::case_list;
use crate::session::{Case, Session};

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    case_list![Hyper:
        a_root_container_cannot_reach_its_siblings,
        containers_of_a_pod_see_each_others_processes_by_choice,
        containers_of_a_pod_share_their_memory,
    ]
    .to_vec()
}

/// Removes a pod when it is dropped.
struct Pod<'a> {
    session: &'a Session,
    name: String,
}

impl<'a> Pod<'a> {
    fn create(session: &'a Session, flags: &[&str]) -> Self {
        let pod = Self { session, name: session.name("pod") };
        session.run(&[&["pod", "create"], flags, &[&pod.name]].concat()).ok();
        pod
    }

    /// Starts a container that sleeps, and waits for its word.
    fn background(&self, stem: &str, flags: &[&str], script: &str) -> String {
        let name = format!("{}-{stem}", self.name);
        let script = format!("{script}; echo up; exec sleep 3141");
        let head = ["run", "-d", "--pod", &self.name, "--name", &name];
        let line = ["busybox:latest", "sh", "-c", &script];
        self.session.run(&[&head[..], flags, &line].concat()).ok();
        wait_until("it is up", || self.session.run(&["logs", &name]).ok().out().ends_with("up\n"));
        name
    }

    /// What a script prints as root in another container of the pod.
    fn shell(&self, flags: &[&str], script: &str) -> String {
        let head = ["run", "--rm", "--pod", &self.name];
        let line = ["busybox:latest", "sh", "-c", script];
        self.session.run(&[&head[..], flags, &line].concat()).ok().out()
    }
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        let _ = self.session.instance.hyper(&["pod", "rm", "-f", &self.name]).run();
    }
}

fn a_root_container_cannot_reach_its_siblings(s: &Session) {
    let pod = Pod::create(s, &[]);
    let victim =
        pod.background("victim", &["--tmpfs", "/secret"], "echo mine > /secret/word; echo mine > /word");
    // Nothing of its processes is there to be seen, signalled or traced: number 1 and the asker are all.
    let seen =
        pod.shell(&[], "ps -o comm,args | grep -c '[s]leep 3141'; ls -d /proc/[0-9]* | wc -l; echo $$");
    let lines: Vec<&str> = seen.lines().collect();
    assert_eq!((lines[0], lines[2]), ("0", "1"), "{seen}");
    assert!(lines[1].parse::<usize>().is_ok_and(|processes| processes <= 4), "{seen}");
    pod.shell(&[], "kill -9 -1; for pid in $(seq 2 400); do kill -9 $pid 2> /dev/null; done; true");
    // Neither its mounts nor its files, by whatever way root has.
    let files = "grep -c secret /proc/self/mountinfo; cat /word /secret/word 2> /dev/null; true";
    assert_eq!(pod.shell(&[], files), "0\n");
    // The disks that its files are on are the guest's devices: no node of them can be made or opened.
    let disks = "while read major minor blocks name; do case $major in [0-9]*) \
                 { mknod /tmp/d b $major $minor && head -c 1 /tmp/d > /dev/null && echo opened $name; } 2> /dev/null; \
                 rm -f /tmp/d;; esac; done < /proc/partitions; echo tried $(grep -c '[0-9]' /proc/partitions)";
    let tried = pod.shell(&[], disks);
    assert!(tried.starts_with("tried ") && tried != "tried 0\n", "{tried}");
    // Nothing is mounted, remounted or entered without capabilities for it.
    let mounts = "mount -t tmpfs none /tmp 2> /dev/null && echo mounted; mount -o remount,rw /sys 2> /dev/null && echo remounted; \
                  mount -t cgroup2 none /tmp 2> /dev/null && echo cgroups; \
                  unshare -m true 2> /dev/null && echo unshared; nsenter -t 1 -m true 2> /dev/null && echo entered; true";
    assert_eq!(pod.shell(&[], mounts), "");
    // Its limits are its own, and neither seen nor changed from beside it.
    let limited = pod.background("limited", &["--memory", "64m", "--pids-limit", "50"], "true");
    let limits = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max";
    assert_eq!(s.run(&["exec", &limited, "sh", "-c", limits]).ok().out(), format!("{}\n50\n", 64 << 20));
    assert_eq!(s.run(&["exec", &victim, "sh", "-c", limits]).ok().out(), "max\nmax\n");
    let raise = "find /sys/fs/cgroup -name memory.max | wc -l; echo max 2> /dev/null > /sys/fs/cgroup/memory.max && echo raised";
    assert_eq!(
        s.run(&["exec", &limited, "sh", "-c", &format!("{{ {raise}; }} 2> /dev/null; true")]).ok().out(),
        "1\n"
    );
    // Users and capabilities.
    let who = "id -u; grep CapEff /proc/self/status";
    let user = pod.shell(&["--user", "65534", "--cap-drop", "ALL"], who);
    assert_eq!(user, "65534\nCapEff:\t0000000000000000\n");
    assert!(pod.shell(&[], who).starts_with("0\nCapEff:\t00000000a80425fb"));
    // The victim is as it was.
    s.run(&["exec", &victim, "cat", "/word", "/secret/word"]).ok().prints("mine\nmine\n");
}

fn containers_of_a_pod_see_each_others_processes_by_choice(s: &Session) {
    let pod = Pod::create(s, &["--share", "pid"]);
    let first = pod.background("first", &[], "true");
    let second = pod.background("second", &["--user", "65534"], "true");
    assert_eq!(
        pod.shell(&[], "ps -o args | grep -c '[s]leep 3141'; [ $$ != 1 ] && echo beside"),
        "2\nbeside\n"
    );
    let inspected =
        s.run(&["pod", "inspect", "--format", "{{.ShareProcessNamespace}}", &pod.name]).ok().out();
    assert_eq!(inspected, "true\n");
    // The process that holds it all together can be neither ended nor looked into.
    let holder = "kill -9 1; cat /proc/1/comm; ls /proc/1/root/ > /dev/null 2>&1 || echo closed";
    assert_eq!(pod.shell(&[], holder), "pod-pids\nclosed\n");
    // Users are told apart: one that is not root does nothing to root's.
    let as_user = "for pid in $(pidof sleep); do kill -9 $pid 2> /dev/null && echo killed; ls /proc/$pid/root/ 2> /dev/null; done";
    let script = format!("{as_user}; true");
    assert_eq!(pod.shell(&["--user", "1000"], &script), "");
    // The end of one is the end of all of its processes, and of no other's.
    s.run(&["exec", "-d", &first, "sleep", "2718"]).ok();
    wait_until("it is there", || pod.shell(&[], "pidof sleep | wc -w").starts_with('3'));
    s.run(&["kill", &first]).ok();
    s.run(&["wait", &first]).ok().prints("137\n");
    let left = || pod.shell(&[], "ps -o args | grep '[s]leep'");
    wait_until("its processes are gone, and no others", || left() == "sleep 3141\n");
    s.run(&["start", &first]).ok();
    s.run(&["exec", &second, "sh", "-c", "ps -o args | grep -c '[s]leep 3141'"]).ok().prints("2\n");
    let refused = s.run(&["pod", "create", "--share", "cgroup", "never"]).exits(125);
    refused.complains(&["share net, ipc and uts, and pid by choice"]);
}

fn containers_of_a_pod_share_their_memory(s: &Session) {
    let pod = Pod::create(s, &[]);
    pod.background("first", &["--shm-size", "32m"], "echo shared > /dev/shm/word");
    assert_eq!(
        pod.shell(&["--shm-size", "96m"], "cat /dev/shm/word; df -m /dev/shm | tail -1 | awk '{print $2}'"),
        "shared\n96\n"
    );
    // A label is a way into a pod as good as any, unless it is another pod's.
    let label = format!("io.hyper.pod={}", pod.name);
    let read = ["busybox:latest", "cat", "/dev/shm/word"];
    s.run(&[&["run", "--rm", "--label", &label][..], &read].concat()).ok().prints("shared\n");
    let both = ["run", "--rm", "--label", "io.hyper.pod=other", "--pod", &pod.name];
    s.run(&[&both[..], &read].concat()).exits(125).complains(&["conflicting options: label"]);
    // Not beyond the pod.
    assert_eq!(s.shell("ls /dev/shm").ok().out(), "");
}
