//! Waiting for containers by the API's conditions, and the filters of events.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use hyper_e2e::Output;
use hyper_e2e::command::wait_until;

use crate::case_list;
use crate::session::{Case, Session};

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    let mut cases = case_list![Both: events_are_filtered, events_go_on_until_their_time].to_vec();
    cases.extend(case_list![Hyper:
        a_wait_has_its_condition,
        a_wait_for_removal_tells_the_exit_code,
        a_filter_that_is_none_is_refused,
    ]);
    cases
}

/// `POST /containers/NAME/wait`; it has begun when the answer's head is there.
fn wait(s: &Session, name: &str, condition: &str) -> UnixStream {
    let mut stream = UnixStream::connect(s.instance.host().trim_start_matches("unix://")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(90))).unwrap();
    let head = format!(
        "POST /v1.44/containers/{name}/wait?condition={condition} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head);
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    stream
}

/// Whether it goes on.
fn goes_on(stream: &UnixStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let nothing =
        (&*stream).read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    stream.set_nonblocking(false).unwrap();
    nothing
}

#[track_caller]
fn says(stream: &mut UnixStream, code: i32) {
    let mut body = String::new();
    stream.read_to_string(&mut body).unwrap();
    assert!(body.contains(&format!("{{\"StatusCode\":{code}}}")), "{body:?}");
}

fn a_wait_has_its_condition(s: &Session) {
    let name = s.name("waited");
    let script = "read line; test $line = one || exit 4; exit 3";
    s.run(&["create", "-i", "--name", &name, "busybox:latest", "sh", "-c", script]).ok();
    // One that was never started does not run.
    says(&mut wait(s, &name, "not-running"), 0);
    says(&mut wait(s, &name, ""), 0);
    let mut next = wait(s, &name, "next-exit");
    s.cmd(&["start", "-a", "-i", &name]).stdin("one\n").run().exits(3);
    says(&mut next, 3);
    says(&mut wait(s, &name, "not-running"), 3);
    // It has ended, and is waited for to end again.
    let mut next = wait(s, &name, "next-exit");
    let mut removed = wait(s, &name, "removed");
    assert!(goes_on(&next));
    s.cmd(&["start", "-a", "-i", &name]).stdin("two\n").run().exits(4);
    says(&mut next, 4);
    assert!(goes_on(&removed));
    s.run(&["rm", &name]).ok();
    says(&mut removed, 4);
    for (path, status) in [(format!("{name}/wait"), "404"), ("x/wait?condition=sometime".to_owned(), "400")] {
        let socket = s.instance.host().trim_start_matches("unix://").to_owned();
        let line = format!(
            "curl -sS -o /dev/null -w '%{{http_code}}' -X POST --unix-socket {socket} 'http://d/v1.44/containers/{path}'"
        );
        s.instance.sh(&line).run().ok().prints(status);
    }
}

fn a_wait_for_removal_tells_the_exit_code(s: &Session) {
    let name = s.name("removed");
    s.run(&["create", "--rm", "--name", &name, "busybox:latest", "sh", "-c", "exit 5"]).ok();
    let mut removed = wait(s, &name, "removed");
    s.run(&["start", &name]).ok();
    says(&mut removed, 5);
    s.run(&["inspect", &name]).exits(1);
}

/// The actions that a filter lets through.
fn events(s: &Session, filters: &[&str]) -> Output {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    // Until a moment in the future, so that the last second counts as well.
    let until = (now.as_secs() + 1).to_string();
    let filters: Vec<&str> = filters.iter().flat_map(|filter| ["--filter", filter]).collect();
    let format = ["--format", "{{.Type}} {{.Action}}"];
    s.run(&[&["events", "--since", "10m", "--until", &until][..], &format, &filters].concat()).ok()
}

fn events_are_filtered(s: &Session) {
    let (name, other) = (s.name("watched"), s.name("unwatched"));
    let label = format!("watch={name}");
    s.run(&["run", "--name", &name, "--label", &label, "busybox:latest", "true"]).ok();
    s.run(&["run", "--name", &other, "--label", "watch=other", "busybox:latest", "true"]).ok();
    s.run(&["rm", &name, &other]).ok();
    let tag = format!("{}:1", s.name("tagged"));
    s.run(&["tag", "busybox:latest", &tag]).ok();
    s.run(&["rmi", &tag]).ok();
    let volume = s.name("volume");
    s.run(&["volume", "create", &volume]).ok();
    s.run(&["volume", "rm", &volume]).ok();
    let only = |filters: &[&str], expected: &[&str]| {
        let output = events(s, filters);
        let text = output.out();
        // A start attaches to nothing when nobody looks; networks are not what this is about.
        let found: Vec<&str> =
            text.lines().filter(|line| !line.ends_with(" attach") && !line.starts_with("network ")).collect();
        assert_eq!(found, expected, "{filters:?}: {output}");
    };
    let container = format!("container={name}");
    only(&[&container, "event=create", "event=die"], &["container create", "container die"]);
    only(&[&container, "type=container", "event=destroy"], &["container destroy"]);
    only(&[&format!("label={label}"), "event=start"], &["container start"]);
    only(&["label=watch", &format!("label={label}"), "event=start"], &["container start"]);
    only(&["label=nobody-has-this"], &[]);
    only(&[&container, "type=image"], &[]);
    let both = [container.as_str(), &format!("container={other}"), "event=create"];
    only(&both, &["container create", "container create"]);
    only(&[&format!("volume={volume}")], &["volume create", "volume destroy"]);
    only(&[&container, "image=busybox:latest", "event=create"], &["container create"]);
    only(&[&container, "image=nobody-has-this", "event=create"], &[]);
    s.run(&["events", "--until", "0s", "--filter", "bogus"]).exits(125);
}

fn a_filter_that_is_none_is_refused(s: &Session) {
    s.run(&["events", "--until", "0s", "--filter", "bogus=x"]).exits(1).complains(&["invalid filter"]);
}

fn events_go_on_until_their_time(s: &Session) {
    let name = s.name("live");
    let filter = format!("container={name}");
    let mut following = s.cmd(&["events", "--filter", &filter, "--format", "{{.Action}}"]).spawn();
    let tell = || s.run(&["ps"]).ok();
    tell();
    // The first one may come before the stream is there; the second one cannot be missed.
    wait_until("an event is heard", || {
        s.run(&["create", "--name", &name, "busybox:latest", "true"]).ok();
        s.run(&["rm", &name]).ok();
        following.so_far().contains("destroy")
    });
    assert!(!following.has_ended());
    drop(following);
}
