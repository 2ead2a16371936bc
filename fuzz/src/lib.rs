//! Bounded fuzzing on the stable toolchain: known good inputs, edited at random, for a given time.
//!
//! A target is a test beside the parser it is for, named `fuzz_…`. It takes its time from `HYPER_FUZZ_SECONDS`; a plain
//! `cargo test` gives it a moment only. `cargo xtask fuzz` runs all targets side by side. What is mutated is not the
//! input itself but a list of edits to one of the good inputs, so that most of it stays well-formed and the parser
//! gets far; a failure is shrunk to few edits, and the input that they make is printed.

use std::env;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use mutatis::check::{Check, CheckError};
use mutatis::mutators;
use serde_json::{Map, Value};

/// Names the seconds that each target gets.
pub const SECONDS: &str = "HYPER_FUZZ_SECONDS";

/// What a target gets in a plain `cargo test`.
const MOMENT: Duration = Duration::from_millis(300);

/// What one input may take on a busy machine; what hangs takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long mutations go on from each other.
const ROUND: Duration = Duration::from_millis(500);

/// Longest search for a smaller input that fails.
const SHRINKING: Duration = Duration::from_secs(20);

/// Most edits to one input.
const MAX_EDITS: usize = 10;

/// Bytes in a block of a tar.
const BLOCK: usize = 512;

/// Where, how, how much, and with what.
type Edit = (u16, u8, u16, Vec<u8>);

/// Which good input, and what is done to it.
type Script = (u8, Vec<Edit>);

/// Runs `property` on bytes made of the good ones. Words of `tokens` are put in here and there. A panic fails the test.
pub fn bytes(good: &[Vec<u8>], tokens: &[&[u8]], property: impl Fn(&[u8])) {
    run(|script| edited(good, tokens, script), |input| property(input));
}

/// The same for text.
pub fn text(good: &[&str], tokens: &[&str], property: impl Fn(&str)) {
    let good: Vec<Vec<u8>> = good.iter().map(|text| text.as_bytes().to_vec()).collect();
    let tokens: Vec<&[u8]> = tokens.iter().map(|token| token.as_bytes()).collect();
    run(
        |script| String::from_utf8_lossy(&edited(&good, &tokens, script)).into_owned(),
        |input| property(input),
    );
}

/// The same for tars: checksums are made right again, so that a header counts whatever became of it.
pub fn tars(good: &[Vec<u8>], tokens: &[&[u8]], property: impl Fn(&[u8])) {
    let make = |script: &Script| {
        let mut tar = edited(good, tokens, script);
        for block in tar.chunks_exact_mut(BLOCK).filter(|block| &block[257..262] == b"ustar") {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        tar
    };
    run(make, |input| property(input));
}

/// The same for JSON: values are replaced by others, moved, removed and named anew; it stays JSON.
pub fn json(good: &[Value], property: impl Fn(&Value)) {
    let make = |script: &Script| {
        let mut value = good[usize::from(script.0) % good.len()].clone();
        for (place, how, which, text) in newest(&script.1) {
            let other = &good[usize::from(*which) % good.len()];
            edit(&mut value, usize::from(*place), *how, *which, text, other);
        }
        value
    };
    run(make, |input| property(input));
}

/// The time of one target.
fn budget() -> Duration {
    let seconds = env::var(SECONDS).ok().and_then(|text| text.parse().ok());
    seconds.map_or(MOMENT, Duration::from_secs)
}

fn run<T: Debug>(make: impl Fn(&Script) -> T, property: impl Fn(&T)) {
    let began = Instant::now();
    let mut tried = 0_u64;
    // What is mutated wanders ever further away; so it begins anew every now and then.
    while began.elapsed() < budget() {
        let corpus: Vec<Script> = (0..16).map(|which| (which, Vec::new())).collect();
        let mut check = Check::new();
        check.min_iters(0).max_iters(usize::MAX).min_duration(Duration::ZERO);
        check.max_duration(ROUND.min(budget())).max_shrink_duration(SHRINKING);
        let result = check.run_with(mutators::default::<Script>(), corpus, |script| {
            tried += 1;
            let input = make(script);
            let began = Instant::now();
            catch_unwind(AssertUnwindSafe(|| property(&input))).map_err(|_| "it panicked")?;
            if began.elapsed() < PATIENCE { Ok(()) } else { Err("it took too long") }
        });
        match result {
            Ok(()) => {}
            Err(CheckError::Failed(failure)) => panic!("{} on {:?}", failure.message, make(&failure.value)),
            Err(error) => panic!("the fuzzer fails: {error}"),
        }
    }
    println!("{tried} inputs");
}

/// The edits that count: the newest.
fn newest(edits: &[Edit]) -> &[Edit] {
    &edits[edits.len().saturating_sub(MAX_EDITS)..]
}

/// A good input after its edits.
fn edited(good: &[Vec<u8>], tokens: &[&[u8]], (which, edits): &Script) -> Vec<u8> {
    let mut bytes = good[usize::from(*which) % good.len()].clone();
    for (place, how, length, piece) in newest(edits) {
        // Near the beginning there is more to go wrong.
        let scale = [64, 1024, usize::MAX][usize::from(*how >> 6) % 3].min(bytes.len()).max(1);
        let at = (usize::from(*place) * scale / usize::from(u16::MAX)).min(bytes.len());
        let end = (at + usize::from(*length) % 600).min(bytes.len());
        let token = tokens.get(usize::from(*length) % tokens.len().max(1)).copied().unwrap_or_default();
        match how % 8 {
            0 => drop(bytes.splice(at..end, piece.iter().copied())),
            1 => drop(bytes.splice(at..at, piece.iter().copied())),
            2 => drop(bytes.drain(at..end)),
            3 => drop(bytes.splice(at..at, token.iter().copied())),
            4 => drop(bytes.splice(at..(at + token.len()).min(bytes.len()), token.iter().copied())),
            5 => {
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            6 => {
                let other = &good[usize::from(*length) % good.len()];
                let from = at.min(other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => bytes[at..end].iter_mut().for_each(|byte| *byte = byte.wrapping_add(*length as u8 | 1)),
        }
    }
    bytes
}

/// Changes the `place`-th value of a document.
fn edit(document: &mut Value, place: usize, how: u8, which: u16, text: &[u8], other: &Value) {
    let count = values(document);
    let Some(value) = nth(document, &mut (place % count)) else { return };
    let text = String::from_utf8_lossy(text).into_owned();
    match how % 16 {
        0 => *value = Value::Null,
        1 => *value = Value::Bool(which.is_multiple_of(2)),
        2 => *value = Value::from(i64::from(which) - 1000),
        3 => *value = Value::from([i64::MIN, i64::MAX, -1, 0, 1 << 53, 1 << 32][usize::from(which) % 6]),
        4 => *value = Value::from(u64::MAX),
        5 => *value = Value::from([1e300, -1e300, 0.5, 1e19][usize::from(which) % 4]),
        6 => *value = Value::String(text),
        7 => *value = Value::String(which.to_string()),
        8 => *value = Value::Array(vec![value.clone(); usize::from(which) % 4]),
        9 => *value = Value::Object(Map::from_iter([(text, value.clone())])),
        10 | 11 => {
            let mut other = other.clone();
            let from = usize::from(which) % values(&other);
            if let Some(found) = nth(&mut other, &mut { from }) {
                *value = found.take();
            }
        }
        _ => match value {
            Value::Array(list) if !list.is_empty() => {
                let at = usize::from(which) % list.len();
                let copy = list[at].clone();
                if how.is_multiple_of(2) { drop(list.remove(at)) } else { list.push(copy) }
            }
            Value::Object(map) if !map.is_empty() => {
                let name = map.keys().nth(usize::from(which) % map.len()).cloned().unwrap_or_default();
                let found = map.remove(&name).unwrap_or_default();
                if how.is_multiple_of(2) {
                    map.insert(text, found);
                }
            }
            Value::String(known) => known.push_str(&text),
            _ => *value = Value::String(text),
        },
    }
}

/// How many values a document has, itself included.
fn values(document: &Value) -> usize {
    1 + match document {
        Value::Array(list) => list.iter().map(values).sum(),
        Value::Object(map) => map.values().map(values).sum(),
        _ => 0,
    }
}

/// The value with that number.
fn nth<'a>(document: &'a mut Value, left: &mut usize) -> Option<&'a mut Value> {
    if *left == 0 {
        return Some(document);
    }
    *left -= 1;
    match document {
        Value::Array(list) => list.iter_mut().find_map(|value| nth(value, left)),
        Value::Object(map) => map.values_mut().find_map(|value| nth(value, left)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_can_be_reached() {
        let mut document = serde_json::json!({"a": [1, {"b": 2}], "c": "d"});
        assert_eq!(values(&document), 6);
        for place in 0..6 {
            assert!(nth(&mut document, &mut { place }).is_some(), "{place}");
        }
        assert!(nth(&mut document, &mut 6).is_none());
    }

    #[test]
    #[should_panic(expected = "it panicked")]
    fn a_panic_is_found() {
        text(&["{{.Name}}"], &["}}"], |input| assert!(!input.contains("}}}}")));
    }
}
