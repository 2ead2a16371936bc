//! Status codes and headers of the API as dockerd's, beyond bodies and names that make no sense (`api_input`).
//!
//! Every status here is dockerd 26.1's, asked for the same things, but those that are said to be none.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;

use crate::case_list;
use crate::session::{Case, Session};

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    case_list![Hyper:
        what_is_wrong_has_dockers_status,
        paths_are_cleaned_as_docker_does,
        bodies_must_say_that_they_are_json,
        a_push_without_credentials_is_refused_and_unreadable_ones_are_none,
        containers_are_found_by_their_volumes,
    ]
    .to_vec()
}

/// An answer: its status, its headers as they came, its body.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn message(&self) -> String {
        let answer = serde_json::from_str::<Value>(&self.body).unwrap_or_default();
        answer["message"].as_str().unwrap_or_default().to_owned()
    }
}

/// One request as it is written: `more` are lines of the head, each with its end.
fn ask(s: &Session, method: &str, path: &str, more: &str, body: &str) -> Answer {
    let mut stream = UnixStream::connect(s.instance.host().trim_start_matches("unix://")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n{more}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

const JSON: &str = "Content-Type: application/json\r\n";

fn what_is_wrong_has_dockers_status(s: &Session) {
    let container = s.background(&[], "busybox:latest", &["sleep", "1000"]);
    let (idle, running) = (s.name("status-idle"), container.name.clone());
    s.run(&["create", "--name", &idle, "busybox:latest", "true"]).ok();
    let no_number = "strconv.Atoi: parsing \"x\": invalid syntax";
    let mut wrong = Vec::new();
    for (method, path, body, status, message) in [
        ("GET", "/containers/json?limit=x", "", 500, no_number),
        ("GET", "/containers/json?limit=99999999999999999999", "", 500, "value out of range"),
        ("GET", "/containers/json?limit=%zz", "", 400, "invalid URL escape \"%zz\""),
        (
            "GET",
            "/containers/json?filters={%22publish%22:[%22x%22]}",
            "",
            500,
            "error while looking up for publish x",
        ),
        ("POST", "/containers/IDLE/stop?t=x", "", 500, no_number),
        ("POST", "/containers/RUNNING/restart?t=x", "", 500, no_number),
        ("POST", "/containers/nobody/stop?t=x", "", 500, no_number),
        ("POST", "/containers/RUNNING/stop?signal=BOGUS", "", 500, "invalid signal: BOGUS"),
        ("POST", "/containers/RUNNING/kill?signal=BOGUS", "", 400, "invalid signal: BOGUS"),
        ("POST", "/containers/RUNNING/resize?h=x&w=1", "", 400, no_number),
        ("POST", "/containers/RUNNING/resize", "", 400, "strconv.Atoi: parsing \"\": invalid syntax"),
        ("POST", "/containers/RUNNING/resize?h=10&w=10", "", 200, ""),
        ("GET", "/containers/RUNNING/logs?stdout=1&since=x", "", 500, "strconv.ParseInt: parsing \"x\""),
        ("GET", "/events?since=x&until=1", "", 500, "strconv.ParseInt: parsing \"x\""),
        ("GET", "/events?since=5&until=1", "", 400, "`since` time (5) cannot be after `until` time (1)"),
        // Not docker's: it answers as if there were no such filter, with events that nobody asked for.
        ("GET", "/events?until=1&filters={%22bogus%22:[%22x%22]}", "", 400, "invalid filter 'bogus'"),
        ("POST", "/containers/IDLE/unpause", "", 500, "is not paused"),
        ("POST", "/containers/RUNNING/unpause", "", 500, "is not paused"),
        ("POST", "/containers/nobody/unpause", "", 404, "No such container: nobody"),
        ("POST", "/commit", "{}", 400, "invalid name or ID supplied: \"\""),
        ("POST", "/commit?container=nobody", "{", 400, "invalid JSON: unexpected EOF"),
        ("POST", "/commit?container=IDLE", "[]", 400, "invalid JSON"),
        ("DELETE", "/containers/", "", 400, "invalid name or ID supplied: \"\""),
        ("DELETE", "/images/", "", 400, "image name cannot be blank"),
        ("DELETE", "/volumes/", "", 404, "get: no such volume"),
        ("DELETE", "/networks/", "", 400, "network  is ambiguous"),
        ("GET", "/networks/", "", 200, ""),
        ("GET", "/info/", "", 404, "page not found"),
        ("OPTIONS", "/anything", "", 200, ""),
        ("DELETE", "/containers/IDLE?link=1", "", 500, "cannot remove the default link name"),
        (
            "POST",
            "/containers/RUNNING/exec",
            "{\"Cmd\":[\"x\"],\"DetachKeys\":\"bogus-key\"}",
            500,
            "keys (bogus-key)",
        ),
        ("POST", "/exec/nobody/start", "{", 400, "invalid JSON: unexpected EOF"),
        ("POST", "/exec/nobody/start", "{}", 404, "No such exec instance: nobody"),
        ("POST", "/containers/create", "{}{}", 400, "unexpected content after JSON"),
        ("POST", "/containers/RUNNING/update", " ", 400, "invalid JSON: got EOF while reading request body"),
        ("POST", "/containers/RUNNING/update", "", 200, ""),
        (
            "PUT",
            "/containers/RUNNING/archive?path=/bin/busybox",
            "",
            500,
            "extraction point is not a directory",
        ),
        ("PUT", "/containers/RUNNING/archive?path=/tmp", "garbage", 500, ""),
        (
            "POST",
            "/networks/create",
            "{\"Name\":\"x\",\"Driver\":\"bogus\"}",
            404,
            "plugin \"bogus\" not found",
        ),
        (
            "POST",
            "/networks/create",
            "{\"Name\":\"x\",\"Driver\":\"host\"}",
            403,
            "only one instance of \"host\"",
        ),
        ("POST", "/networks/create", "{\"Name\":\"x\",\"Driver\":\"overlay\"}", 403, "not a swarm manager"),
        ("POST", "/networks/create", "{\"Name\":\"x\",\"Scope\":\"swarm\"}", 403, "swarm is not active"),
        (
            "POST",
            "/networks/create",
            "{\"Name\":\"x\",\"IPAM\":{\"Driver\":\"bogus\"}}",
            404,
            "plugin \"bogus\" not found",
        ),
        // Not docker's: it makes a network that the option does nothing to.
        (
            "POST",
            "/networks/create",
            "{\"Name\":\"x\",\"Options\":{\"bogus\":\"x\"}}",
            501,
            "network option bogus",
        ),
        ("GET", "/networks?filters={%22type%22:[%22x%22]}", "", 500, "invalid filter: 'type'='x'"),
        ("GET", "/networks/bridge?verbose=x", "", 400, "invalid value for verbose"),
        ("GET", "/networks/bridge?scope=swarm", "", 404, "network bridge not found"),
        ("POST", "/networks/host/connect", "{\"Container\":\"RUNNING\"}", 400, "host network"),
        (
            "POST",
            "/networks/host/disconnect",
            "{\"Container\":\"RUNNING\"}",
            500,
            "is not connected to network host",
        ),
        ("POST", "/networks/bridge/connect", "{}", 400, "invalid name or ID supplied: \"\""),
        ("PUT", "/volumes/x", "{}", 503, "cluster volumes"),
        (
            "GET",
            "/images/json?filters={%22until%22:[%22x%22]}",
            "",
            500,
            "failed to parse value as time or duration",
        ),
        ("GET", "/images/get?names=UP", "", 500, "must be lowercase"),
        // Not docker's: it answers with an archive in which nothing is.
        ("GET", "/images/get", "", 400, "no image named"),
        ("POST", "/images/UP/tag?repo=a", "", 404, "must be lowercase"),
        // Not docker's: it says that it has tagged something.
        ("POST", "/images/busybox:latest/tag", "", 400, "invalid reference format"),
        ("GET", "/plugins?filters=x", "", 400, "invalid filter"),
        ("POST", "/build/prune?filters=x", "", 400, "invalid filter"),
        ("GET", "/containers/json?filters=null", "", 200, ""),
        ("POST", "/auth", "{", 500, "unexpected EOF"),
    ] {
        let [path, body] = [path, body].map(|text| text.replace("IDLE", &idle).replace("RUNNING", &running));
        let kind = if path.contains("archive") { "Content-Type: application/x-tar\r\n" } else { JSON };
        let answer = ask(s, method, &format!("/v1.44{path}"), kind, &body);
        if answer.status != status || !answer.message().contains(message) {
            wrong.push(format!("{method} {path} {body}: {} not {status}: {}", answer.status, answer.body));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    s.run(&["rm", "-f", &idle, &running]).ok();
}

fn paths_are_cleaned_as_docker_does(s: &Session) {
    for (path, clean) in [
        ("//info", "/info"),
        ("/v1.44//containers//json?all=1", "/v1.44/containers/json?all=1"),
        ("/v1.44/x/../info", "/v1.44/info"),
        ("/v1.44/containers/%2e%2e/json", "/v1.44/json"),
    ] {
        let answer = ask(s, "GET", path, "", "");
        let place = format!("location: {clean}");
        let found = answer.head.lines().any(|line| line.eq_ignore_ascii_case(&place));
        assert!(answer.status == 301 && found, "{path}: {}", answer.head);
    }
    for (path, status) in [
        ("/v1/info", 400),
        ("/v2.0/info", 400),
        ("/v1.x/info", 404),
        ("/v01.044/_ping", 200),
        ("/info%zz", 400),
        ("info", 400),
    ] {
        assert_eq!(ask(s, "GET", path, "", "").status, status, "{path}");
    }
}

fn bodies_must_say_that_they_are_json(s: &Session) {
    let body = "{\"Image\": \"nobody/has-this\", \"Cmd\": [\"x\"]}";
    let create = |more: &str, body: &str| {
        let answer = ask(s, "POST", "/v1.44/containers/create", more, body);
        (answer.status, answer.message())
    };
    let refused = |message: &str| (400, message.to_owned());
    // These are read, and find no such image.
    for kind in ["application/json", "application/json; charset=utf-8", "APPLICATION/JSON"] {
        assert_eq!(create(&format!("Content-Type: {kind}\r\n"), body).0, 404, "{kind}");
    }
    assert_eq!(
        create("Content-Type: text/plain\r\n", body),
        refused("unsupported Content-Type header (text/plain): must be 'application/json'")
    );
    assert_eq!(create("", body), refused("malformed Content-Type header (): mime: no media type"));
    assert_eq!(create("", ""), refused("invalid JSON: got EOF while reading request body"));
    // Those that docker reads whatever they say they are.
    let started = ask(s, "POST", "/v1.44/containers/nobody/start", "Content-Type: text/plain\r\n", "");
    assert_eq!(started.status, 404);
}

fn a_push_without_credentials_is_refused_and_unreadable_ones_are_none(s: &Session) {
    let push =
        |more: &str, body: &str| ask(s, "POST", "/v1.44/images/localhost:1/nobody/push?tag=x", more, body);
    let missing = push("", "");
    let message = missing.message();
    assert!(
        missing.status == 400 && message.starts_with("bad parameters and missing X-Registry-Auth"),
        "{message}"
    );
    assert_eq!(push("", "{").status, 400);
    // What is told in the stream is that there is no such image.
    for (more, body) in [("X-Registry-Auth: x\r\n", ""), ("X-Registry-Auth: e30=\r\n", ""), ("", "{}")] {
        let answer = push(more, body);
        assert!(answer.status == 200 && answer.body.contains("does not exist locally"), "{}", answer.body);
    }
    let pull = "/v1.44/images/create?fromImage=localhost:1/nobody&tag=x";
    let pulled = ask(s, "POST", pull, "X-Registry-Auth: x\r\n", "");
    assert!(pulled.status == 500 && pulled.message().contains("localhost:1"), "{}", pulled.body);
}

fn containers_are_found_by_their_volumes(s: &Session) {
    let (name, volume) = (s.name("has-volume"), s.name("filtered"));
    s.run(&["create", "--name", &name, "-v", &format!("{volume}:/data"), "busybox:latest", "true"]).ok();
    for (wanted, found) in [(volume.as_str(), true), ("/data", true), ("nobody", false)] {
        let filter = format!("volume={wanted}");
        let shown = s.run(&["ps", "-a", "--filter", &filter, "--format", "{{.Names}}"]).ok();
        assert_eq!(shown.out().lines().any(|line| line == name), found, "{wanted}");
    }
    s.run(&["rm", "-v", &name]).ok();
    s.run(&["volume", "rm", &volume]).ok();
}
