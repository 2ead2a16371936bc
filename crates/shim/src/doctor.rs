//! `doctor`: what can be said of the hypervisors on this machine, as a list of checks in JSON.

use anyhow::Context as _;
use hyper_vm::qemu::Qemu;
use hyper_vm::{Abilities, Accelerator, Health, Hypervisor, kvm};
use serde::Serialize;

use crate::share::Program;

/// One look at the machine.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Check {
    /// What was looked at.
    name: String,
    /// `ok`, `warn` or `fail`.
    status: &'static str,
    /// What was found.
    detail: String,
    /// What to do about it; empty when nothing.
    hint: String,
}

/// Prints the checks.
pub fn doctor() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let checks = runtime.context("cannot start the runtime")?.block_on(async {
        let driver = Qemu::new(kvm::probe());
        let mut all = checks(driver.name(), &driver.health().await, &driver.abilities());
        all.push(shares());
        all
    });
    println!("{}", serde_json::to_string(&checks).context("cannot encode the checks")?);
    Ok(())
}

fn checks(name: &str, health: &Health, abilities: &Abilities) -> Vec<Check> {
    let fatal = health.remarks.iter().find(|remark| remark.fatal);
    let slow = health.remarks.iter().find(|remark| !remark.fatal);
    let program = health.program.clone().unwrap_or_default();
    let hypervisor = match fatal {
        None => check(format!("hypervisor {name}"), "ok", program, ""),
        Some(remark) => check(format!("hypervisor {name}"), "fail", remark.problem.clone(), &remark.remedy),
    };
    let status = if health.accelerator == Accelerator::Kvm { "ok" } else { "warn" };
    let how = format!("{}: {}", health.accelerator, health.reason);
    let remedy = slow.map_or("", |remark| remark.remedy.as_str());
    let table = abilities.rows().map(|ability| match (ability.available, ability.most) {
        (true, Some(most)) => format!("{} yes (up to {most})", ability.name),
        (true, None) => format!("{} yes", ability.name),
        (false, _) => format!("{} no", ability.name),
    });
    vec![
        hypervisor,
        check("accelerator".to_owned(), status, how, remedy),
        check(format!("abilities of {name}"), "ok", table.join(", "), ""),
    ]
}

/// Whether directories of the host can be shared.
fn shares() -> Check {
    let name = "volumes and bind mounts".to_owned();
    match Program::find() {
        Some(program) => check(name, "ok", program.path().display().to_string(), ""),
        None => check(name, "warn", "not possible: there is no virtiofsd".to_owned(), Program::REMEDY),
    }
}

fn check(name: String, status: &'static str, detail: String, hint: &str) -> Check {
    Check { name, status, detail, hint: hint.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper_vm::Remark;

    const ABILITIES: Abilities = Abilities {
        disk_plug: Some(9),
        disk_files: None,
        nic_plug: None,
        pause: true,
        snapshot: false,
        memory_resize: false,
        vcpu_resize: false,
        share: false,
        balloon: false,
    };

    #[test]
    fn missing_program_is_a_failure_with_its_remedy() {
        let remark = |problem: &str, remedy: &str, fatal| Remark {
            problem: problem.to_owned(),
            remedy: remedy.to_owned(),
            fatal,
        };
        let health = Health {
            usable: false,
            program: None,
            accelerator: Accelerator::Tcg,
            reason: "no KVM".into(),
            remarks: vec![remark("not there", "install it", true), remark("slow", "buy another", false)],
        };
        let found = checks("qemu", &health, &ABILITIES);
        assert_eq!((found[0].status, found[0].hint.as_str()), ("fail", "install it"));
        assert_eq!((found[1].status, found[1].detail.as_str()), ("warn", "tcg: no KVM"));
        assert!(
            found[2]
                .detail
                .starts_with("disk plug yes (up to 9), disk of several files no, nic plug no, pause yes")
        );
    }
}
