//! Compiles the specification's seccomp profile into a BPF program: here, because it is ten times the work where
//! processors are emulated, and guests start all day.
//!
//! The program first tells the ABI (x86-64, i386, x32) from the architecture and the call's number, then finds
//! the number by binary search over ranges of numbers with the same verdict: a profile allows most calls,
//! and neighbours collapse, so that a search is some eight comparisons deep.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper_protocol::agent::SystemCallFilter;
use hyper_sys::seccomp::{Instruction, MAX_INSTRUCTIONS};
use serde::Deserialize;
use serde_json::Value;

use crate::error::ShimError;

mod syscalls;
use syscalls::TABLE;

/// `AUDIT_ARCH_X86_64` and `AUDIT_ARCH_I386` of `linux/audit.h`.
const ARCH_X86_64: u32 = 0xc000_003e;
const ARCH_I386: u32 = 0x4000_0003;
/// `__X32_SYSCALL_BIT`: set in the numbers of x32 calls, whose architecture is that of x86-64.
const X32_BIT: u32 = 0x4000_0000;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

/// BPF operations (`linux/bpf_common.h`).
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_NOT_LESS: u16 = 0x35;
const RETURN: u16 = 0x06;

/// `SECCOMP_RET_*` of `linux/seccomp.h`.
const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;

/// `linux.seccomp` of the runtime specification.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    architectures: Vec<String>,
    flags: Vec<String>,
    listener_path: String,
    syscalls: Vec<Rule>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    args: Vec<Argument>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Argument {
    index: u32,
    value: u64,
    value_two: u64,
    op: String,
}

/// A compiled profile.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Filter {
    program: Vec<Instruction>,
    /// `SECCOMP_FILTER_FLAG_*`.
    flags: u64,
}

/// Takes the profile out of a specification and compiles it.
///
/// # Errors
/// [`ShimError::Invalid`] for what is no profile, [`ShimError::Unsupported`] for what a guest cannot do.
pub fn take(spec: &mut Value) -> Result<Option<SystemCallFilter>, ShimError> {
    let Some(mut profile) =
        spec.pointer_mut("/linux").and_then(|linux| linux.as_object_mut()?.remove("seccomp"))
    else {
        return Ok(None);
    };
    if profile.is_null() {
        return Ok(None);
    }
    drop_nulls(&mut profile);
    let profile = serde_json::from_value(profile)
        .map_err(|error| ShimError::Invalid(format!("linux.seccomp is not valid: {error}")))?;
    let filter = compile(&profile)?;
    let program: Vec<u8> = filter.program.iter().flat_map(|instruction| instruction.to_bytes()).collect();
    Ok(Some(SystemCallFilter { program: STANDARD.encode(program), flags: filter.flags }))
}

/// Go's encoder writes `null` for an empty list.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Abi {
    X86_64,
    I386,
    X32,
}

impl Abi {
    /// Calls of this ABI by name.
    fn numbers(self) -> BTreeMap<&'static str, u32> {
        let column = match self {
            Abi::X86_64 => 0,
            Abi::I386 => 1,
            Abi::X32 => 2,
        };
        TABLE
            .lines()
            .filter_map(|line| {
                let mut fields = line.split(' ');
                let name = fields.next()?;
                Some((name, fields.nth(column)?.parse().ok()?))
            })
            .collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    MaskedEqual(u64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    argument: u32,
    comparison: Comparison,
    value: u64,
}

/// What happens to a call: the first arm whose conditions all hold, else the last word.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Verdict {
    arms: Vec<(Vec<Condition>, u32)>,
    otherwise: u32,
}

fn action(name: &str, errno: Option<u32>) -> Result<u32, ShimError> {
    // EPERM is what runc answers with unless told otherwise.
    let errno_bits = errno.unwrap_or(libc_eperm()) & 0xffff;
    Ok(match name {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => KILL_PROCESS,
        "SCMP_ACT_TRAP" => TRAP,
        "SCMP_ACT_ERRNO" => ERRNO | errno_bits,
        "SCMP_ACT_TRACE" => TRACE | errno_bits,
        "SCMP_ACT_LOG" => LOG,
        "SCMP_ACT_ALLOW" => ALLOW,
        "SCMP_ACT_NOTIFY" => {
            return Err(ShimError::Unsupported(
                "not supported in a guest: SCMP_ACT_NOTIFY, whose listener is on the host".to_owned(),
            ));
        }
        _ => return Err(ShimError::Invalid(format!("unknown seccomp action {name:?}"))),
    })
}

fn libc_eperm() -> u32 {
    rustix::io::Errno::PERM.raw_os_error().cast_unsigned()
}

fn conditions(arguments: &[Argument]) -> Result<Vec<Condition>, ShimError> {
    arguments
        .iter()
        .map(|argument| {
            if argument.index > 5 {
                return Err(ShimError::Invalid(format!("seccomp: no argument {}", argument.index)));
            }
            let (comparison, value) = match argument.op.as_str() {
                "SCMP_CMP_EQ" => (Comparison::Equal, argument.value),
                "SCMP_CMP_NE" => (Comparison::NotEqual, argument.value),
                "SCMP_CMP_LT" => (Comparison::Less, argument.value),
                "SCMP_CMP_LE" => (Comparison::LessOrEqual, argument.value),
                "SCMP_CMP_GT" => (Comparison::Greater, argument.value),
                "SCMP_CMP_GE" => (Comparison::GreaterOrEqual, argument.value),
                "SCMP_CMP_MASKED_EQ" => (Comparison::MaskedEqual(argument.value), argument.value_two),
                op => return Err(ShimError::Invalid(format!("unknown seccomp comparison {op:?}"))),
            };
            Ok(Condition { argument: argument.index, comparison, value })
        })
        .collect()
}

/// Conditions that must hold together; several on one argument stand for alternatives, as in runc.
fn alternatives(conditions: Vec<Condition>) -> Vec<Vec<Condition>> {
    let repeated = (0..6).any(|i| conditions.iter().filter(|c| c.argument == i).count() > 1);
    if repeated { conditions.into_iter().map(|c| vec![c]).collect() } else { vec![conditions] }
}

fn flags(names: &[String]) -> Result<u64, ShimError> {
    names.iter().try_fold(0, |flags, name| match name.as_str() {
        "SECCOMP_FILTER_FLAG_TSYNC" => Ok(flags | 1),
        "SECCOMP_FILTER_FLAG_LOG" => Ok(flags | 2),
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => Ok(flags | 4),
        _ => Err(ShimError::Unsupported(format!("not supported in a guest: seccomp flag {name:?}"))),
    })
}

/// Compiles a profile. Names that no ABI knows are skipped, as runc does: profiles name the calls of all
/// architectures and of newer kernels.
fn compile(profile: &Profile) -> Result<Filter, ShimError> {
    if !profile.listener_path.is_empty() {
        return Err(ShimError::Unsupported("not supported in a guest: seccomp.listenerPath".to_owned()));
    }
    let default = action(&profile.default_action, profile.default_errno_ret)?;
    let mut abis = vec![Abi::X86_64];
    for architecture in &profile.architectures {
        match architecture.as_str() {
            "SCMP_ARCH_X86" => abis.push(Abi::I386),
            "SCMP_ARCH_X32" => abis.push(Abi::X32),
            name if name.starts_with("SCMP_ARCH_") => {}
            name => return Err(ShimError::Invalid(format!("unknown seccomp architecture {name:?}"))),
        }
    }
    let mut assembler = Assembler::default();
    assembler.load(ARCH);
    let other = assembler.jump_unless(JUMP_EQUAL, ARCH_X86_64);
    assembler.load(NUMBER);
    let native = assembler.jump_unless(JUMP_NOT_LESS, X32_BIT);
    if abis.contains(&Abi::X32) {
        assembler.search(&ranges(profile, Abi::X32, default)?, X32_BIT);
    } else {
        assembler.give(KILL_THREAD);
    }
    assembler.land(native);
    assembler.search(&ranges(profile, Abi::X86_64, default)?, 0);
    assembler.land(other);
    if abis.contains(&Abi::I386) {
        let foreign = assembler.jump_unless(JUMP_EQUAL, ARCH_I386);
        assembler.load(NUMBER);
        assembler.search(&ranges(profile, Abi::I386, default)?, 0);
        assembler.land(foreign);
    }
    assembler.give(KILL_THREAD);
    let program = assembler.code;
    if program.len() > MAX_INSTRUCTIONS {
        return Err(ShimError::Invalid(format!(
            "the seccomp profile needs {} instructions, the kernel takes {MAX_INSTRUCTIONS}",
            program.len()
        )));
    }
    Ok(Filter { program, flags: flags(&profile.flags)? })
}

/// First numbers of ranges with one verdict each, from 0 on.
fn ranges(profile: &Profile, abi: Abi, default: u32) -> Result<Vec<(u32, Verdict)>, ShimError> {
    let plain = |otherwise| Verdict { arms: Vec::new(), otherwise };
    let numbers = abi.numbers();
    let mut verdicts: BTreeMap<u32, Verdict> = BTreeMap::new();
    let mut settled = std::collections::BTreeSet::new();
    let mut greatest = 0;
    for rule in &profile.syscalls {
        let action = action(&rule.action, rule.errno_ret)?;
        let arms = alternatives(conditions(&rule.args)?);
        for number in rule.names.iter().filter_map(|name| numbers.get(name.as_str()).copied()) {
            greatest = greatest.max(number);
            let verdict = verdicts.entry(number).or_insert_with(|| plain(default));
            if rule.args.is_empty() {
                // A rule without conditions is the widest: the first one wins over all others.
                if settled.insert(number) {
                    *verdict = plain(action);
                }
            } else if !settled.contains(&number) {
                verdict.arms.extend(arms.iter().map(|conditions| (conditions.clone(), action)));
            }
        }
    }
    // Calls younger than the profile are "not implemented" rather than "not permitted", so that programs fall
    // back to older ones; runc does the same.
    let unknown = if default & 0xffff_0000 == ERRNO { ERRNO | NOT_IMPLEMENTED } else { default };
    let mut ranges: Vec<(u32, Verdict)> = Vec::new();
    for number in 0..=greatest {
        let verdict = verdicts.remove(&number).unwrap_or_else(|| plain(default));
        if ranges.last().is_none_or(|(_, last)| *last != verdict) {
            ranges.push((number, verdict));
        }
    }
    ranges.push((greatest + 1, plain(unknown)));
    Ok(ranges)
}

/// `ENOSYS`.
const NOT_IMPLEMENTED: u32 = 38;

/// Emits instructions. Conditional jumps reach only 255 instructions, so each is a short one around a long,
/// unconditional one whose target is filled in by [`Assembler::land`].
#[derive(Default)]
struct Assembler {
    code: Vec<Instruction>,
}

/// A long jump whose target is still open: its index.
struct Pending(usize);

impl Assembler {
    fn emit(&mut self, code: u16, operand: u32) {
        self.code.push(Instruction { code, jump_true: 0, jump_false: 0, operand });
    }

    fn load(&mut self, offset: u32) {
        self.emit(LOAD, offset);
    }

    fn give(&mut self, verdict: u32) {
        self.emit(RETURN, verdict);
    }

    /// Goes on when the comparison with `operand` holds, else jumps.
    fn jump_unless(&mut self, comparison: u16, operand: u32) -> Pending {
        self.code.push(Instruction { code: comparison, jump_true: 1, jump_false: 0, operand });
        self.emit(JUMP, 0);
        Pending(self.code.len() - 1)
    }

    /// Goes on when the comparison with `operand` does not hold, else jumps.
    fn jump_if(&mut self, comparison: u16, operand: u32) -> Pending {
        self.code.push(Instruction { code: comparison, jump_true: 0, jump_false: 1, operand });
        self.emit(JUMP, 0);
        Pending(self.code.len() - 1)
    }

    /// Makes the next instruction the target of a jump.
    fn land(&mut self, jump: Pending) {
        self.code[jump.0].operand = (self.code.len() - jump.0 - 1) as u32;
    }

    /// Binary search of the number in the accumulator, to which `bias` has been added.
    fn search(&mut self, ranges: &[(u32, Verdict)], bias: u32) {
        if let [(_, verdict)] = ranges {
            self.verdict(verdict);
            return;
        }
        let (low, high) = ranges.split_at(ranges.len() / 2);
        let below = self.jump_unless(JUMP_NOT_LESS, high[0].0 + bias);
        self.search(high, bias);
        self.land(below);
        self.search(low, bias);
    }

    fn verdict(&mut self, verdict: &Verdict) {
        for (conditions, action) in &verdict.arms {
            let mut failing = Vec::new();
            for condition in conditions {
                self.condition(condition, &mut failing);
            }
            self.give(*action);
            for jump in failing {
                self.land(jump);
            }
        }
        self.give(verdict.otherwise);
    }

    /// Goes on when the condition holds, else takes a jump of `failing`. Arguments have 64 bits, the accumulator
    /// 32: high and low half are compared in turn.
    fn condition(&mut self, condition: &Condition, failing: &mut Vec<Pending>) {
        let low = ARGUMENTS + 8 * condition.argument;
        let high = low + 4;
        let (value_high, value_low) = ((condition.value >> 32) as u32, condition.value as u32);
        match condition.comparison {
            Comparison::Equal | Comparison::MaskedEqual(_) => {
                let mask = match condition.comparison {
                    Comparison::MaskedEqual(mask) => mask,
                    _ => u64::MAX,
                };
                for (offset, mask, value) in
                    [(high, (mask >> 32) as u32, value_high), (low, mask as u32, value_low)]
                {
                    self.load(offset);
                    if mask != u32::MAX {
                        self.emit(AND, mask);
                    }
                    failing.push(self.jump_unless(JUMP_EQUAL, value));
                }
            }
            Comparison::NotEqual => {
                self.load(high);
                let differs = self.jump_unless(JUMP_EQUAL, value_high);
                self.load(low);
                failing.push(self.jump_if(JUMP_EQUAL, value_low));
                self.land(differs);
            }
            Comparison::Greater | Comparison::GreaterOrEqual => {
                let last =
                    if condition.comparison == Comparison::Greater { JUMP_GREATER } else { JUMP_NOT_LESS };
                self.load(high);
                let greater = self.jump_if(JUMP_GREATER, value_high);
                failing.push(self.jump_unless(JUMP_EQUAL, value_high));
                self.load(low);
                failing.push(self.jump_unless(last, value_low));
                self.land(greater);
            }
            Comparison::Less | Comparison::LessOrEqual => {
                let last =
                    if condition.comparison == Comparison::Less { JUMP_NOT_LESS } else { JUMP_GREATER };
                self.load(high);
                failing.push(self.jump_if(JUMP_GREATER, value_high));
                let less = self.jump_unless(JUMP_EQUAL, value_high);
                self.load(low);
                failing.push(self.jump_if(last, value_low));
                self.land(less);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// Runs a program as the kernel would.
    fn run(program: &[Instruction], arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let (mut accumulator, mut at) = (0, 0);
        loop {
            let i = program[at];
            at += 1;
            let taken = match i.code {
                RETURN => return i.operand,
                LOAD => {
                    accumulator = match i.operand {
                        NUMBER => number,
                        ARCH => arch,
                        offset => {
                            let offset = offset - ARGUMENTS;
                            (arguments[(offset / 8) as usize] >> (offset % 8 * 8)) as u32
                        }
                    };
                    continue;
                }
                AND => {
                    accumulator &= i.operand;
                    continue;
                }
                JUMP => {
                    at += i.operand as usize;
                    continue;
                }
                JUMP_EQUAL => accumulator == i.operand,
                JUMP_GREATER => accumulator > i.operand,
                JUMP_NOT_LESS => accumulator >= i.operand,
                code => panic!("operation {code:#x}"),
            };
            at += usize::from(if taken { i.jump_true } else { i.jump_false });
        }
    }

    fn filter(profile: serde_json::Value) -> Filter {
        compile(&serde_json::from_value(profile).unwrap()).unwrap()
    }

    #[test]
    fn calls_get_the_verdict_of_their_rule_in_every_abi() {
        let filter = filter(json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "syscalls": [
                {"names": ["read", "write", "open", "nosuchcall", "mseal"], "action": "SCMP_ACT_ALLOW"},
                {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
                {"names": ["kexec_load"], "action": "SCMP_ACT_KILL_PROCESS"},
            ],
        }));
        let verdict = |arch, number| run(&filter.program, arch, number, [0; 6]);
        assert_eq!(verdict(ARCH_X86_64, 0), ALLOW, "read");
        assert_eq!(verdict(ARCH_X86_64, 2), ALLOW, "open");
        assert_eq!(verdict(ARCH_X86_64, 3), ERRNO | 1, "close");
        assert_eq!(verdict(ARCH_X86_64, 435), ERRNO | 38, "clone3");
        assert_eq!(verdict(ARCH_X86_64, 246), KILL_PROCESS, "kexec_load");
        assert_eq!(verdict(ARCH_X86_64, 463), ERRNO | 38, "younger than the profile");
        assert_eq!(verdict(ARCH_I386, 3), ALLOW, "read on i386");
        assert_eq!(verdict(ARCH_I386, 6), ERRNO | 1, "close on i386");
        assert_eq!(verdict(ARCH_X86_64, X32_BIT), KILL_THREAD, "x32 is not allowed");
        assert_eq!(verdict(0xc000_00b7, 0), KILL_THREAD, "another architecture");
    }

    #[test]
    fn what_cannot_be_compiled_is_refused() {
        for profile in [
            json!({"defaultAction": "SCMP_ACT_NOTIFY"}),
            json!({"defaultAction": "nonsense"}),
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"}),
            json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["x"]}),
            json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["x"]}),
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                {"names": ["read"], "action": "SCMP_ACT_KILL", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}),
        ] {
            assert!(compile(&serde_json::from_value(profile.clone()).unwrap()).is_err(), "{profile}");
        }
    }

    #[test]
    fn several_conditions_on_one_argument_are_alternatives() {
        let filter = filter(json!({"defaultAction": "SCMP_ACT_KILL", "syscalls": [
            {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]}]}));
        let verdict = |value| run(&filter.program, ARCH_X86_64, 135, [value, 0, 0, 0, 0, 0]);
        assert_eq!([verdict(0), verdict(8), verdict(1)], [ALLOW, ALLOW, KILL_THREAD]);
    }

    #[test]
    fn profile_leaves_the_specification_and_nulls_are_nothing() {
        let mut spec = json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "flags": null,
            "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": null}]}}});
        let filter = take(&mut spec).unwrap().unwrap();
        assert_eq!(STANDARD.decode(filter.program).unwrap().len() % 8, 0);
        assert_eq!(spec, json!({"linux": {}}));
        assert_eq!(take(&mut spec).unwrap(), None);
        for bad in [json!([]), json!({"defaultAction": 1}), json!("x")] {
            assert!(matches!(take(&mut json!({"linux": {"seccomp": bad}})), Err(ShimError::Invalid(_))));
        }
    }

    #[test]
    fn kernel_takes_a_profile_as_long_as_they_come() {
        let names: Vec<&str> = TABLE
            .lines()
            .filter_map(|line| Some(line.split_once(' ')?.0))
            .filter(|name| !["mkdir", "mkdirat"].contains(name))
            .collect();
        assert!(names.len() > 450, "{}", names.len());
        let filter = filter(json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 95,
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [
                {"names": names, "action": "SCMP_ACT_ALLOW"},
                {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
                 "args": [{"index": 0, "value": 2_114_060_288, "op": "SCMP_CMP_MASKED_EQ"}]},
            ],
        }));
        // A filter binds the thread that installs it.
        let made = std::thread::spawn(move || {
            rustix::thread::set_no_new_privs(true).unwrap();
            hyper_sys::seccomp::install(&filter.program, filter.flags).unwrap();
            std::fs::create_dir("/nosuch/directory").unwrap_err().raw_os_error()
        });
        assert_eq!(made.join().unwrap(), Some(95));
    }

    fn interesting() -> impl Strategy<Value = u64> {
        prop_oneof![any::<u64>(), 0_u64..4, (0_u64..4, 0_u64..4).prop_map(|(h, l)| h << 32 | l)]
    }

    proptest! {
        #[test]
        fn comparisons_mean_what_they_say(op in 0_usize..7, value in interesting(), two in interesting(), given in interesting()) {
            let (name, expected) = [
                ("SCMP_CMP_EQ", given == value),
                ("SCMP_CMP_NE", given != value),
                ("SCMP_CMP_LT", given < value),
                ("SCMP_CMP_LE", given <= value),
                ("SCMP_CMP_GT", given > value),
                ("SCMP_CMP_GE", given >= value),
                ("SCMP_CMP_MASKED_EQ", given & value == two),
            ][op];
            let filter = filter(json!({"defaultAction": "SCMP_ACT_KILL", "syscalls": [
                {"names": ["socket"], "action": "SCMP_ACT_ALLOW",
                 "args": [{"index": 1, "value": value, "valueTwo": two, "op": name}]}]}));
            let verdict = run(&filter.program, ARCH_X86_64, 41, [0, given, 0, 0, 0, 0]);
            prop_assert_eq!(verdict == ALLOW, expected);
        }
    }
}
