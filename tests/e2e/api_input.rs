//! Bad input to the API, endpoint by endpoint: docker's status, an error as `{"message": …}`, and a daemon that goes on.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use hyper_e2e::command::wait_until;
use serde_json::{Value, json};

use crate::case_list;
use crate::session::{Case, Session};

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    case_list![Hyper:
        every_endpoint_refuses_nonsense_as_docker_does,
        an_ambiguous_beginning_of_an_id_is_refused,
        huge_and_endless_bodies_are_bounded,
        archives_that_reach_out_stay_inside,
        clients_that_stall_or_vanish_hold_nothing_up,
    ]
    .to_vec()
}

fn connect(s: &Session) -> UnixStream {
    let stream = UnixStream::connect(s.instance.host().trim_start_matches("unix://")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

/// Status and body of a request; the connection closes after it.
fn ask(s: &Session, method: &str, path: &str, body: &[u8]) -> (u16, String) {
    let kind = if path.contains("archive") || path.contains("/images/") {
        "application/x-tar"
    } else {
        "application/json"
    };
    let mut stream = connect(s);
    let head = format!(
        "{method} /v1.44{path} HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    // It may be refused before it is read.
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned()))
}

/// What is asked, and the status that dockerd 26.1 answers as well, unless it says otherwise.
fn table(name: &str) -> Vec<(&'static str, String, String, u16)> {
    let image = "busybox:latest";
    let create = |more: Value| {
        let mut body = json!({"Image": image, "Cmd": ["true"]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ("POST", "/containers/create".to_owned(), body.to_string(), 400)
    };
    let plain = |method, path: &str, status| (method, path.to_owned(), String::new(), status);
    let with = |method, path: &str, body: &str, status| (method, path.to_owned(), body.to_owned(), status);
    let mut table = vec![
        with("POST", "/containers/create", "", 400),
        with("POST", "/containers/create", "{", 400),
        with("POST", "/containers/create", "[]", 400),
        with("POST", "/containers/create", "null", 400),
        with("POST", "/containers/create", "\"x\"", 400),
        with("POST", "/containers/create", "{\"Image\": \"x\"} {}", 400),
        with("POST", "/containers/create", "\u{0}", 400),
        with(
            "POST",
            "/containers/create",
            &json!({"Image": "nobody/has-this", "Cmd": ["x"]}).to_string(),
            404,
        ),
        with("POST", "/containers/create", &json!({"Image": "UPPER", "Cmd": ["x"]}).to_string(), 400),
        with("POST", "/containers/create", &json!({"Image": "../x", "Cmd": ["x"]}).to_string(), 400),
        create(json!({"Cmd": 5})),
        create(json!({"Cmd": ["x", 5]})),
        create(json!({"Env": {"a": "b"}})),
        create(json!({"Labels": ["a"]})),
        create(json!({"HostConfig": []})),
        create(json!({"HostConfig": {"Memory": "1g"}})),
        create(json!({"HostConfig": {"Memory": 1e30}})),
        create(json!({"HostConfig": {"Memory": -5}})),
        create(json!({"HostConfig": {"NanoCpus": -5}})),
        create(json!({"HostConfig": {"Binds": ["a:b:c:d"]}})),
        create(json!({"HostConfig": {"Binds": ["/x:relative"]}})),
        create(json!({"HostConfig": {"PortBindings": {"x/tcp": [{}]}}})),
        create(json!({"HostConfig": {"PortBindings": {"80/xyz": [{}]}}})),
        create(json!({"HostConfig": {"RestartPolicy": {"Name": "sometimes"}}})),
        create(json!({"HostConfig": {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 3}}})),
        create(json!({"HostConfig": {"LogConfig": {"Type": "nobody"}}})),
        create(json!({"StopSignal": "SIGNOBODY"})),
        create(json!({"WorkingDir": "relative"})),
        // Docker passes over a field that it does not know; here it could change the meaning.
        create(json!({"FieldOfTomorrow": 1})),
        create(json!({"HostConfig": {"FieldOfTomorrow": 1}})),
        with(
            "POST",
            &format!("/containers/create?name={name}"),
            &json!({"Image": image, "Cmd": ["x"]}).to_string(),
            409,
        ),
        plain("GET", "/containers/nobody/json", 404),
        plain("GET", "/containers/%C3%A4/json", 404),
        plain("GET", "/containers/json?filters=x", 400),
        plain("GET", "/containers/json?filters=%7B%22bogus%22:[%22x%22]%7D", 400),
        plain("GET", "/containers/json?filters=%7B%22status%22:[%22bogus%22]%7D", 400),
        plain("GET", "/containers/nobody/logs?stdout=1", 404),
        plain("GET", "/containers/NAME/logs", 400),
        plain("GET", "/containers/nobody/top", 404),
        plain("GET", "/containers/NAME/top", 409),
        plain("GET", "/containers/nobody/stats", 404),
        plain("POST", "/containers/nobody/start", 404),
        plain("POST", "/containers/nobody/stop", 404),
        plain("POST", "/containers/NAME/stop", 304),
        plain("POST", "/containers/nobody/kill", 404),
        plain("POST", "/containers/NAME/kill", 409),
        plain("POST", "/containers/NAME/kill?signal=BOGUS", 400),
        plain("POST", "/containers/NAME/pause", 409),
        plain("POST", "/containers/nobody/wait", 404),
        plain("POST", "/containers/NAME/wait?condition=bogus", 400),
        plain("POST", "/containers/NAME/rename", 400),
        plain("POST", "/containers/NAME/rename?name=a%2Fb", 400),
        plain("POST", "/containers/nobody/rename?name=xyz", 404),
        plain("POST", "/containers/NAME/resize?h=x&w=1", 400),
        plain("POST", "/containers/NAME/resize?h=1&w=1", 409),
        with("POST", "/containers/NAME/update", "{", 400),
        with("POST", "/containers/NAME/update", "[]", 400),
        with("POST", "/containers/NAME/update", "{\"Memory\": \"x\"}", 400),
        with("POST", "/containers/nobody/update", "{}", 404),
        with("POST", "/containers/nobody/exec", "{\"Cmd\": [\"x\"]}", 404),
        with("POST", "/containers/NAME/exec", "{\"Cmd\": [\"x\"]}", 409),
        with("POST", "/containers/NAME/exec", "{", 400),
        with("POST", "/containers/NAME/exec", "{\"Cmd\": 5}", 400),
        with("POST", "/exec/nobody/start", "{}", 404),
        plain("GET", "/exec/nobody/json", 404),
        plain("POST", "/containers/nobody/attach?stream=1&stdout=1", 404),
        plain("GET", "/containers/nobody/changes", 404),
        plain("GET", "/containers/nobody/export", 404),
        plain("GET", "/containers/nobody/archive?path=/", 404),
        plain("GET", "/containers/NAME/archive", 400),
        with("PUT", "/containers/nobody/archive?path=/", "x", 404),
        with("PUT", "/containers/NAME/archive", "x", 400),
        plain("DELETE", "/containers/nobody", 404),
        plain("POST", "/containers/prune?filters=x", 400),
        plain("GET", "/images/nobody/json", 404),
        plain("GET", "/images/UP/json", 400),
        plain("GET", "/images/json?filters=%7B%22bogus%22:[%22x%22]%7D", 400),
        plain("GET", "/images/nobody/history", 404),
        plain("POST", "/images/nobody/tag?repo=x", 404),
        plain("POST", "/images/busybox:latest/tag?repo=UP", 400),
        plain("DELETE", "/images/nobody", 404),
        plain("POST", "/images/create?fromImage=UP", 400),
        plain("POST", "/images/create?fromImage=x&platform=a/b/c/d", 400),
        with("POST", "/images/create?fromSrc=-&repo=UP", "x", 400),
        plain("GET", "/images/nobody/get", 404),
        plain("GET", "/images/get?names=nobody", 404),
        plain("POST", "/images/prune?filters=x", 400),
        plain("POST", "/images/UP/push?tag=x", 400),
        plain("POST", "/images/x/push?tag=x!", 400),
        with("POST", "/commit?container=nobody", "{}", 404),
        with("POST", "/commit?container=NAME&repo=UP", "{}", 400),
        with("POST", "/commit?container=NAME&changes=BOGUS", "{}", 400),
        plain("GET", "/events?filters=x&until=1", 400),
        with("POST", "/volumes/create", "{", 400),
        with("POST", "/volumes/create", "[]", 400),
        with("POST", "/volumes/create", "{\"Name\": \"a/b\"}", 400),
        with("POST", "/volumes/create", "{\"Name\": 5}", 400),
        plain("GET", "/volumes/nobody", 404),
        plain("DELETE", "/volumes/nobody", 404),
        plain("GET", "/volumes?filters=x", 400),
        with("POST", "/networks/create", "{", 400),
        with("POST", "/networks/create", "{}", 400),
        plain("GET", "/networks/nobody", 404),
        plain("DELETE", "/networks/nobody", 404),
        plain("GET", "/system/df?type=bogus", 400),
        plain("GET", "/bogus", 404),
        plain("POST", "/info", 404),
        plain("GET", "/swarm", 503),
    ];
    for bad in ["a%2Fb", "%C3%A4", "a", "-x", "x%00y", "..%2Fx"] {
        let body = json!({"Image": image, "Cmd": ["x"]}).to_string();
        table.push(("POST", format!("/containers/create?name={bad}"), body, 400));
    }
    table
}

fn every_endpoint_refuses_nonsense_as_docker_does(s: &Session) {
    let name = s.name("never-runs");
    s.run(&["create", "--name", &name, "busybox:latest", "true"]).ok();
    let mut wrong = Vec::new();
    for (method, path, body, expected) in table(&name) {
        let path = path.replace("NAME", &name);
        let (status, answer) = ask(s, method, &path, body.as_bytes());
        let message = serde_json::from_str::<Value>(&answer).ok();
        let message = message.and_then(|answer| Some(answer["message"].as_str()?.to_owned()));
        let told = status == 304 || message.is_some_and(|message| !message.is_empty());
        if status != expected || !told {
            wrong.push(format!("{method} {path} {body}: {status} instead of {expected}, {answer}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    s.run(&["start", &name]).ok();
    s.run(&["rm", "-f", &name]).ok();
}

fn an_ambiguous_beginning_of_an_id_is_refused(s: &Session) {
    // Among 17 ids two begin alike.
    let names: Vec<String> = (0..17).map(|_| s.name("many")).collect();
    let ids: Vec<String> = names
        .iter()
        .map(|name| s.run(&["create", "--name", name, "busybox:latest", "true"]).ok().out().trim().to_owned())
        .collect();
    let twice = ids.iter().find(|id| ids.iter().filter(|other| other[..1] == id[..1]).count() > 1).unwrap();
    let (status, answer) = ask(s, "GET", &format!("/containers/{}/json", &twice[..1]), b"");
    assert!(status == 400 && answer.contains("multiple IDs found with provided prefix"), "{status} {answer}");
    let (status, answer) = ask(s, "GET", &format!("/containers/{twice}/json"), b"");
    assert_eq!(status, 200, "{answer}");
    s.run(&[&["rm"], names.iter().map(String::as_str).collect::<Vec<_>>().as_slice()].concat()).ok();
}

fn huge_and_endless_bodies_are_bounded(s: &Session) {
    let huge = format!("{{\"Image\": \"{}\"}}", "x".repeat(32 << 20));
    let (status, answer) = ask(s, "POST", "/containers/create", huge.as_bytes());
    assert!(status == 400 || status == 413 || status == 0, "{status} {answer}");
    let deep = "[".repeat(100_000);
    let (status, answer) = ask(s, "POST", "/containers/create", deep.as_bytes());
    assert_eq!(status, 400, "{answer}");
    // A head without end is cut off.
    let mut stream = connect(s);
    let _ = stream.write_all(b"GET /info HTTP/1.1\r\nX: ");
    let piece = vec![b'x'; 64 << 10];
    let written = (0..256).take_while(|_| stream.write_all(&piece).is_ok()).count();
    assert!(written < 256, "a head of 16 MiB is read");
    // Pieces without end of a body that nobody wants.
    let mut stream = connect(s);
    stream.write_all(b"POST /v1.44/containers/prune?filters=x HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    let _ = stream.set_write_timeout(Some(Duration::from_secs(5)));
    let chunk = [b"10000\r\n".as_slice(), &vec![b'x'; 0x10000], b"\r\n"].concat();
    let _ = (0..64).take_while(|_| stream.write_all(&chunk).is_ok()).count();
    s.run(&["ps"]).ok();
}

/// A tar of one entry: a path, its kind and where it links.
fn entry(path: &str, kind: u8, link: &str) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..path.len()].copy_from_slice(path.as_bytes());
    block[100..107].copy_from_slice(b"0000644");
    block[124..135].copy_from_slice(b"00000000000");
    block[136..147].copy_from_slice(b"00000000001");
    block[156] = kind;
    block[157..157 + link.len()].copy_from_slice(link.as_bytes());
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[329..336].copy_from_slice(b"0000001");
    block[337..344].copy_from_slice(b"0000003");
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn archives_that_reach_out_stay_inside(s: &Session) {
    let end = vec![0; 1024];
    let marker = format!("/hyper-e2e-{}", s.name("escaped"));
    // As an image of layers: absolute paths, links out and devices arrive inside, or are refused.
    let tar = [
        entry(&marker, b'0', ""),
        entry(&format!("../../../..{marker}"), b'0', ""),
        entry("out", b'2', "/"),
        entry(&format!("out{marker}"), b'0', ""),
        entry("device", b'3', ""),
        end.clone(),
    ]
    .concat();
    let (status, answer) = ask(s, "POST", "/images/create?fromSrc=-&repo=reaches/out", &tar);
    assert_eq!(status, 200, "{answer}");
    // As an image archive.
    let (status, answer) = ask(s, "POST", "/images/load", &tar);
    assert!(status == 200 && answer.contains("errorDetail"), "{status} {answer}");
    // Into a container that runs.
    let container = s.background(&[], "busybox:latest", &["sleep", "1000"]);
    let path = format!("/containers/{}/archive?path=/tmp", container.name);
    let (status, answer) = ask(s, "PUT", &path, &tar);
    assert!(matches!(status, 200 | 400 | 403 | 500), "{status} {answer}");
    assert!(!std::path::Path::new(&marker).exists(), "{marker} has come out");
    s.run(&["exec", &container.name, "true"]).ok();
    s.run(&["rmi", "reaches/out"]);
}

fn clients_that_stall_or_vanish_hold_nothing_up(s: &Session) {
    let container = s.background(&[], "busybox:latest", &["sh", "-c", "while :; do echo line; done"]);
    let name = &container.name;
    let request = |method: &str, path: &str, more: &str| {
        let mut stream = connect(s);
        let head = format!("{method} /v1.44{path} HTTP/1.1\r\nHost: d\r\n{more}\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    let streams = |round: usize| {
        vec![
            request(
                "POST",
                &format!("/containers/{name}/attach?stream=1&stdout=1"),
                "Connection: Upgrade\r\nUpgrade: tcp\r\n",
            ),
            request("GET", &format!("/containers/{name}/logs?stdout=1&follow=1"), ""),
            request("GET", &format!("/containers/{name}/stats"), ""),
            request("GET", "/events", ""),
            request("POST", &format!("/containers/{name}/wait"), ""),
            request("GET", &format!("/containers/{name}/archive?path=/bin"), ""),
            request("PUT", &format!("/containers/{name}/archive?path=/tmp"), "Content-Length: 100000\r\n"),
            request("POST", &format!("/images/create?fromImage=localhost:1/x&tag={round}"), ""),
            request("POST", "/images/load", "Content-Length: 100000\r\n"),
            request("GET", "/images/busybox:latest/get", ""),
            request("POST", "/containers/create", "Content-Length: 50\r\nContent-Type: application/json\r\n"),
        ]
    };
    // Nobody reads these.
    let stalled = streams(0);
    for round in 1..6 {
        // And these are gone in the middle.
        let mut gone = streams(round);
        for stream in &mut gone {
            stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            let _ = stream.read(&mut [0; 100]);
        }
    }
    s.run(&["ps"]).ok();
    let pid = s.instance.daemon_pid().unwrap();
    let descriptors = || std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(usize::MAX, Iterator::count);
    drop(stalled);
    s.run(&["rm", "-f", name]).ok();
    let busy = || {
        std::fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten()
            .filter(|fd| {
                std::fs::read_link(fd.path()).is_ok_and(|link| link.to_string_lossy().starts_with("socket:"))
            })
            .count()
    };
    wait_until("nothing of them is left", || busy() < 20);
    assert!(descriptors() < 200);
    assert_eq!(s.instance.daemon_pid(), Some(pid), "the daemon has ended");
}
