//! What other clients of the API send than the command lines do.

use serde_json::{Value, json};

use crate::case_list;
use crate::session::{Case, Session};

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    case_list![Hyper: the_start_of_an_exec_says_how_its_output_comes, the_case_of_a_fields_name_is_nothing]
        .to_vec()
}

impl Session {
    /// Posts JSON as no command line would; the answer's bytes.
    fn post(&self, path: &str, body: &Value) -> Vec<u8> {
        let socket = self.instance.run_directory().join("hyper.sock");
        let line = format!(
            "curl -sS --unix-socket {} -H 'Content-Type: application/json' --data @- http://d/v1.47{path}",
            socket.display()
        );
        self.instance.sh(&line).stdin(body.to_string()).run().ok().stdout
    }

    /// The same, of an answer in JSON.
    fn post_json(&self, path: &str, body: &Value) -> Value {
        let answer = self.post(path, body);
        serde_json::from_slice(&answer)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&answer)))
    }

    fn exec(&self, container: &str, create: Value, start: &Value) -> Vec<u8> {
        let made = self.post_json(&format!("/containers/{container}/exec"), &create);
        let id = made["Id"].as_str().unwrap_or_else(|| panic!("no exec: {made}"));
        self.post(&format!("/exec/{id}/start"), start)
    }
}

fn the_start_of_an_exec_says_how_its_output_comes(s: &Session) {
    let c = s.background(&[], "busybox:latest", &["sleep", "1000"]);
    let process = |terminal: bool| {
        let script = "echo out; echo err >&2";
        json!({"Cmd": ["sh", "-c", script], "AttachStdout": true, "AttachStderr": true, "Tty": terminal})
    };
    let plain = |answer: Vec<u8>| String::from_utf8(answer).unwrap();
    // A terminal's output in frames of standard output, however it is cut.
    let mut framed = s.exec(&c.name, process(true), &json!({"Tty": false}));
    let mut text = Vec::new();
    while !framed.is_empty() {
        assert_eq!(framed[..4], [1, 0, 0, 0]);
        let length = u32::from_be_bytes(framed[4..8].try_into().unwrap()) as usize;
        text.extend(framed.drain(..8 + length).skip(8));
    }
    assert_eq!(plain(text), "out\r\nerr\r\n");
    assert_eq!(plain(s.exec(&c.name, process(true), &json!({"Tty": true}))), "out\r\nerr\r\n");
    // Standard error has no place in plain bytes.
    assert_eq!(plain(s.exec(&c.name, process(false), &json!({"Tty": true}))), "out\n");
    let framed = plain(s.exec(&c.name, process(false), &json!({})));
    assert!(framed.contains("\x01\0\0\0\0\0\0\x04out\n"), "{framed:?}");
    assert!(framed.contains("\x02\0\0\0\0\0\0\x04err\n"), "{framed:?}");
    let nothing = json!({"Cmd": ["nosuch"], "AttachStdout": true});
    let told = plain(s.exec(&c.name, nothing, &json!({"Tty": true})));
    assert!(told.starts_with("OCI runtime exec failed") && told.ends_with("\r\n"), "{told:?}");
}

fn the_case_of_a_fields_name_is_nothing(s: &Session) {
    let c = s.background(&[], "busybox:latest", &["sleep", "1000"]);
    let create = json!({"cmd": ["echo", "hi"], "attachStdout": true, "detachKeys": "ctrl-a"});
    assert_eq!(s.exec(&c.name, create, &json!({"tty": true})), b"hi\n");
    let twice = s.post_json("/containers/create", &json!({"Image": "busybox", "image": "debian"}));
    assert_eq!(twice["message"], "invalid JSON: image is there twice");
}
