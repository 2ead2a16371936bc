//! Which devices the processes of a cgroup may use: an eBPF program made of the specification's rules.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use hyper_sys::bpf::{attach_device_program, load_device_program};
use rustix::fs::{Mode, OFlags, open};

use crate::failure::{Attempt, Failed};
use crate::spec::DeviceRule;

/// A program in force; the cgroup holds it as well.
#[derive(Debug)]
pub(crate) struct Attached(Rc<OwnedFd>);

/// The program that nearly every container wants, "nothing but the usual devices", loaded before there is one: the
/// kernel's verifier takes its time where it runs for the first time, and a template has it behind it.
#[derive(Debug)]
pub(crate) struct Usual {
    program: Vec<u64>,
    loaded: Option<Rc<OwnedFd>>,
}

impl Usual {
    /// Loads it; where that fails, each container loads its own and says what is wrong.
    pub(crate) fn load() -> Self {
        let nothing = Rule { allow: false, kind: None, major: None, minor: None, access: ALL };
        let program = compile(&with_always(vec![nothing]));
        let loaded = load_device_program(&program).ok().map(Rc::new);
        Self { program, loaded }
    }

    fn of(&self, program: &[u64]) -> Option<Rc<OwnedFd>> {
        self.loaded.clone().filter(|_| program == self.program)
    }
}

/// `BPF_DEVCG_ACC_*` of `linux/bpf.h`.
const MKNOD: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;
const ALL: u32 = MKNOD | READ | WRITE;

/// `BPF_DEVCG_DEV_*` of `linux/bpf.h`.
const BLOCK: u32 = 1;
const CHARACTER: u32 = 2;

/// Opcodes of eBPF (`linux/bpf.h`).
const LOAD_WORD: u8 = 0x61;
const MOVE_REGISTER: u8 = 0xbc;
const MOVE: u8 = 0xb4;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const JUMP_NOT_EQUAL: u8 = 0x56;
const JUMP_EQUAL: u8 = 0x16;
const EXIT: u8 = 0x95;

/// Most rules: each takes up to seven instructions, the kernel's verifier takes a million of them.
const MAX_RULES: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    /// `None` for both kinds.
    kind: Option<u32>,
    major: Option<u32>,
    minor: Option<u32>,
    access: u32,
}

/// What every container may use, after the rules of the specification, as in runc: making any node, and the
/// devices that every container has.
const ALWAYS: [(Option<u32>, Option<u32>, u32); 10] = [
    (None, None, MKNOD),
    (Some(1), Some(3), ALL),
    (Some(1), Some(5), ALL),
    (Some(1), Some(7), ALL),
    (Some(1), Some(8), ALL),
    (Some(1), Some(9), ALL),
    (Some(5), Some(0), ALL),
    (Some(5), Some(1), ALL),
    (Some(5), Some(2), ALL),
    (Some(136), None, ALL),
];

fn rules(specified: &[DeviceRule]) -> Result<Vec<Rule>, Failed> {
    if specified.len() > MAX_RULES {
        return Err(Failed::invalid(format!("{} device rules, at most {MAX_RULES}", specified.len())));
    }
    specified.iter().map(rule).collect::<Result<Vec<_>, _>>().map(with_always)
}

/// The rules with those of every container after them. Engines specify most of these as well; nothing ever reaches the
/// first of two that are alike, so it is left out.
fn with_always(mut rules: Vec<Rule>) -> Vec<Rule> {
    let mut always: Vec<Rule> = ALWAYS
        .iter()
        .map(|&(major, minor, access)| Rule { allow: true, kind: Some(CHARACTER), major, minor, access })
        .collect();
    always.push(Rule { allow: true, kind: Some(BLOCK), major: None, minor: None, access: MKNOD });
    rules.retain(|rule| !always.contains(rule));
    rules.append(&mut always);
    rules
}

fn rule(specified: &DeviceRule) -> Result<Rule, Failed> {
    let bad = || Failed::invalid(format!("device rule that makes no sense: {specified:?}"));
    let kind = match specified.kind.as_str() {
        "" | "a" => None,
        "b" => Some(BLOCK),
        "c" | "u" => Some(CHARACTER),
        _ => return Err(bad()),
    };
    let number = |n: Option<i64>| match n {
        None | Some(-1) => Ok(None),
        Some(n) => u32::try_from(n).map(Some).map_err(|_| bad()),
    };
    let access = if specified.access.is_empty() { "rwm" } else { &specified.access };
    let access = access.bytes().try_fold(0, |access, letter| match letter {
        b'r' => Ok(access | READ),
        b'w' => Ok(access | WRITE),
        b'm' => Ok(access | MKNOD),
        _ => Err(bad()),
    })?;
    let (major, minor) = (number(specified.major)?, number(specified.minor)?);
    Ok(Rule { allow: specified.allow, kind, major, minor, access })
}

/// One instruction: opcode, destination and source register, jump offset, operand.
fn instruction(code: u8, destination: u8, source: u8, offset: i16, operand: u32) -> u64 {
    let registers = destination | source << 4;
    u64::from(code)
        | u64::from(registers) << 8
        | u64::from(offset.cast_unsigned()) << 16
        | u64::from(operand) << 32
}

/// The program: the last rule that matches decides, so they are tried from the end; nothing is allowed otherwise.
/// Registers: 1 the kernel's argument, 2 kind, 3 access wanted, 4 major, 5 minor, 6 scratch.
fn compile(rules: &[Rule]) -> Vec<u64> {
    let mut program = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(MOVE_REGISTER, 3, 2, 0, 0),
        instruction(AND, 2, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, 3, 0, 0, 16),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let mut tests: Vec<Vec<u64>> = Vec::new();
        let mut test = |code, register, operand| tests.push(vec![instruction(code, register, 0, 0, operand)]);
        if let Some(kind) = rule.kind {
            test(JUMP_NOT_EQUAL, 2, kind);
        }
        if let Some(major) = rule.major {
            test(JUMP_NOT_EQUAL, 4, major);
        }
        if let Some(minor) = rule.minor {
            test(JUMP_NOT_EQUAL, 5, minor);
        }
        if rule.access != ALL {
            // An allowing rule must cover all that is wanted, a denying one any of it.
            let (mask, code) =
                if rule.allow { (ALL & !rule.access, JUMP_NOT_EQUAL) } else { (rule.access, JUMP_EQUAL) };
            tests.push(vec![
                instruction(MOVE_REGISTER, 6, 3, 0, 0),
                instruction(AND, 6, 0, 0, mask),
                instruction(code, 6, 0, 0, 0),
            ]);
        }
        let verdict = [instruction(MOVE, 0, 0, 0, u32::from(rule.allow)), instruction(EXIT, 0, 0, 0, 0)];
        let mut body: Vec<u64> = tests.concat();
        let jumps: Vec<usize> = tests
            .iter()
            .scan(0, |at, t| {
                *at += t.len();
                Some(*at - 1)
            })
            .collect();
        let end = body.len() + verdict.len();
        for jump in jumps {
            body[jump] |= ((end - jump - 1) as u64) << 16;
        }
        let last = body.is_empty();
        program.extend(body);
        program.extend(verdict);
        if last {
            // It matches everything; the verifier refuses instructions that nothing leads to.
            return program;
        }
    }
    program.extend([instruction(MOVE, 0, 0, 0, 0), instruction(EXIT, 0, 0, 0, 0)]);
    program
}

/// Puts rules in force on a cgroup, in the place of others if there are any.
pub(crate) fn attach(
    cgroup: &Path,
    specified: &[DeviceRule],
    usual: &Usual,
    replaced: Option<&Attached>,
) -> Result<Attached, Failed> {
    let failed = || "restrict the container's devices".to_owned();
    let program = compile(&rules(specified)?);
    let program = match usual.of(&program) {
        // The kernel refuses to replace a program by itself.
        Some(loaded) if replaced.is_some_and(|attached| Rc::ptr_eq(&attached.0, &loaded)) => {
            return Ok(Attached(loaded));
        }
        Some(loaded) => loaded,
        None => Rc::new(load_device_program(&program).attempt(failed)?),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = open(cgroup, flags, Mode::empty()).attempt(failed)?;
    let old = replaced.map(|attached| attached.0.as_fd());
    attach_device_program(directory.as_fd(), program.as_fd(), old).attempt(failed)?;
    Ok(Attached(program))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would.
    fn run(program: &[u64], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let argument = [kind | access << 16, major, minor];
        let mut registers = [0_u32; 11];
        let mut at = 0;
        loop {
            let word = program[at];
            let (code, operand) = (word as u8, (word >> 32) as u32);
            let (to, from) = ((word >> 8 & 15) as usize, (word >> 12 & 15) as usize);
            let offset = (word >> 16) as u16;
            at += 1;
            match code {
                LOAD_WORD => registers[to] = argument[usize::from(offset) / 4],
                MOVE_REGISTER => registers[to] = registers[from],
                MOVE => registers[to] = operand,
                AND => registers[to] &= operand,
                SHIFT_RIGHT => registers[to] >>= operand,
                JUMP_NOT_EQUAL if registers[to] != operand => at += usize::from(offset),
                JUMP_EQUAL if registers[to] == operand => at += usize::from(offset),
                JUMP_NOT_EQUAL | JUMP_EQUAL => {}
                EXIT => return registers[0] != 0,
                code => panic!("opcode {code:#x}"),
            }
        }
    }

    fn program(specified: serde_json::Value) -> Vec<u64> {
        let specified: Vec<DeviceRule> = serde_json::from_value(specified).unwrap();
        compile(&rules(&specified).unwrap())
    }

    #[test]
    fn dockers_rules_allow_the_usual_devices_and_no_disk() {
        let program = program(serde_json::json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "r"},
        ]));
        assert!(run(&program, CHARACTER, READ | WRITE, 1, 3), "null");
        assert!(run(&program, CHARACTER, READ | WRITE, 136, 7), "a terminal");
        assert!(run(&program, BLOCK, MKNOD, 8, 0), "making a node of a disk");
        assert!(!run(&program, BLOCK, READ, 8, 0), "reading a disk");
        assert!(run(&program, CHARACTER, READ, 10, 229));
        assert!(!run(&program, CHARACTER, READ | WRITE, 10, 229), "more than the rule allows");
    }

    #[test]
    fn dockers_rules_are_the_usual_program() {
        let mut specified = vec![serde_json::json!({"allow": false, "access": "rwm"})];
        for (kind, major, minor, access) in [
            ("c", None, None, "m"),
            ("b", None, None, "m"),
            ("c", Some(1), Some(3), "rwm"),
            ("c", Some(5), Some(2), "rwm"),
            ("c", Some(136), None, "rwm"),
        ] {
            let mut rule = serde_json::json!({"allow": true, "type": kind, "access": access});
            for (name, number) in [("major", major), ("minor", minor)] {
                if let Some(number) = number {
                    rule[name] = number.into();
                }
            }
            specified.push(rule);
        }
        assert_eq!(program(specified.into()), Usual::load().program);
        let other = serde_json::json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"},
        ]);
        assert_ne!(program(other), Usual::load().program);
    }

    #[test]
    fn later_rules_win() {
        let program = program(serde_json::json!([
            {"allow": true, "access": "rwm"},
            {"allow": false, "type": "b", "major": 8, "access": "w"},
        ]));
        assert!(run(&program, BLOCK, READ, 8, 0));
        assert!(!run(&program, BLOCK, READ | WRITE, 8, 0));
        assert!(run(&program, BLOCK, READ | WRITE, 9, 0));
    }

    #[test]
    fn rules_that_make_no_sense_are_refused() {
        for bad in [
            DeviceRule { kind: "x".to_owned(), ..DeviceRule::default() },
            DeviceRule { access: "q".to_owned(), ..DeviceRule::default() },
            DeviceRule { major: Some(-7), ..DeviceRule::default() },
        ] {
            assert!(rule(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn kernel_takes_the_program() {
        let program = program(serde_json::json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "r"},
            {"allow": false, "type": "b", "major": 8, "access": "w"},
        ]));
        match load_device_program(&program) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                eprintln!("skipped: no right to load eBPF programs");
            }
            Err(error) => panic!("{error}"),
        }
    }
}
