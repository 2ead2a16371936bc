//! What takes room, and what is removed that nobody uses.

use hyper_e2e::{Instance, Options};
use serde_json::Value;

use crate::case_list;
use crate::session::{Case, Session};

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    let mut cases = case_list![Both: disk_usage_is_counted].to_vec();
    cases.extend(case_list![Own: a_system_prune_removes_what_nobody_uses_and_nothing_else]);
    cases
}

fn disk_usage_is_counted(s: &Session) {
    let running = s.background(&[], "busybox:latest", &["sleep", "1000"]);
    let table = s.run(&["system", "df"]).ok().out();
    assert!(table.starts_with("TYPE            TOTAL     ACTIVE    SIZE"), "{table}");
    let format = ["system", "df", "--format", "{{.Type}}|{{.TotalCount}}|{{.Active}}|{{.Reclaimable}}"];
    let rows = s.run(&format).ok().out();
    let kinds: Vec<&str> = rows.lines().map(|line| line.split('|').next().unwrap()).collect();
    assert_eq!(kinds, ["Images", "Containers", "Local Volumes", "Build Cache"]);
    let details = s.run(&["system", "df", "-v"]).ok().out();
    for part in ["Images space usage:", "SHARED SIZE", "Containers space usage:", "Build cache usage: 0B"] {
        assert!(details.contains(part), "{part} is not in {details}");
    }
    assert!(details.contains(&running.name));
}

fn a_system_prune_removes_what_nobody_uses_and_nothing_else() {
    let engine =
        Instance::start(Options { images: vec!["busybox:latest", "debian:12"], ..Options::default() });
    let hyper = |arguments: &[&str]| engine.hyper(arguments).run();
    hyper(&["run", "-d", "--name", "lives", "busybox:latest", "sleep", "1000"]).ok();
    hyper(&["run", "--name", "ended", "--label", "keep=1", "busybox:latest", "true"]).ok();
    hyper(&["run", "--name", "other", "busybox:latest", "true"]).ok();
    // Only a yes is a yes.
    let asked = engine.hyper(&["system", "prune"]).stdin("n\n").run().ok().out();
    assert!(asked.starts_with("WARNING! This will remove:\n  - all stopped containers\n"), "{asked}");
    let kept = hyper(&["container", "prune", "-f", "--filter", "label!=keep"]).ok().out();
    assert!(kept.starts_with("Deleted Containers:\n") && kept.contains("Total reclaimed space: "), "{kept}");
    assert_eq!(hyper(&["ps", "-aq"]).ok().out().lines().count(), 2);
    hyper(&["container", "prune", "-f", "--filter", "until=1h"]).ok().prints("Total reclaimed space: 0B\n");
    let pruned = hyper(&["system", "prune", "-a", "-f"]).ok().out();
    assert!(pruned.contains("Deleted Containers:\n") && pruned.contains("Deleted Images:\n"), "{pruned}");
    assert!(pruned.contains("untagged: debian:12"), "{pruned}");
    assert_eq!(hyper(&["ps", "-a", "--format", "{{.Names}}"]).ok().out(), "lives\n");
    hyper(&["exec", "lives", "echo", "alive"]).ok().prints("alive\n");
    hyper(&["restart", "-t", "0", "lives"]).ok();
    // Until a moment in the future, so that the last second counts as well.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let until = (now.as_secs() + 2).to_string();
    let events =
        ["events", "--since", "10m", "--until", &until, "--filter", "type=image", "--format", "json"];
    let events: Vec<Value> =
        hyper(&events).ok().out().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(events.iter().any(|event| event["Action"] == "delete"), "{events:?}");
    assert_eq!(engine.finish(), Vec::<String>::new());
}
