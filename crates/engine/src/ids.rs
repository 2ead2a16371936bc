//! Ids of containers and pods, and names that people give them.

use std::fmt::Write as _;

/// Bytes of randomness in a container's or exec's id, 64 hexadecimal digits as docker has it.
const CONTAINER_ID_BYTES: usize = 32;

/// Bytes of randomness in a pod's id: short, because it is part of socket paths, which Linux limits to 107
/// bytes (`unix(7)`); the state database refuses the improbable second use.
const POD_ID_BYTES: usize = 8;

/// Most bytes of a name. Docker sets none; 255 is what a file name can have.
pub(crate) const NAME_MAX: usize = 255;

/// Digits of an id that `ps` and generated hostnames show.
const SHORT: usize = 12;

fn random_hex(bytes: usize) -> String {
    let mut buffer = [0_u8; CONTAINER_ID_BYTES];
    let buffer = &mut buffer[..bytes];
    let mut filled = 0;
    while filled < buffer.len() {
        filled += rustix::rand::getrandom(&mut buffer[filled..], rustix::rand::GetRandomFlags::empty())
            .expect("getrandom without flags fails only for bad pointers or a kernel without it");
    }
    buffer.iter().fold(String::with_capacity(bytes * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A new id for a container or an exec. Its short form always has a letter, so that it cannot be taken for
/// a number where ids become host names.
pub(crate) fn container_id() -> String {
    loop {
        let id = random_hex(CONTAINER_ID_BYTES);
        if id[..SHORT].bytes().any(|byte| byte.is_ascii_alphabetic()) {
            return id;
        }
    }
}

/// A new id for a pod.
pub(crate) fn pod_id() -> String {
    random_hex(POD_ID_BYTES)
}

/// An id that follows from a text: the same each time, 64 hexadecimal digits.
pub fn derived_id(text: &str) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(text.as_bytes()).iter().fold(String::new(), |mut id, byte| {
        let _ = write!(id, "{byte:02x}");
        id
    })
}

/// The first digits of an id.
pub fn short(id: &str) -> &str {
    id.get(..SHORT).unwrap_or(id)
}

/// Whether a container may be called `name`: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`, docker's rule.
pub(crate) fn is_name(name: &str) -> bool {
    name.len() >= 2 && is_pod_name(name)
}

/// Whether a pod may be called `name`: as a container, or with one character.
pub(crate) fn is_pod_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && name.len() <= NAME_MAX
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

const ADJECTIVES: [&str; 48] = [
    "agile", "amber", "bold", "brave", "bright", "calm", "clear", "clever", "cosmic", "crisp", "curious",
    "daring", "eager", "early", "fair", "fleet", "fresh", "gentle", "glad", "golden", "happy", "humble",
    "jolly", "keen", "kind", "light", "lively", "lucid", "merry", "mighty", "modest", "nimble", "noble",
    "patient", "plain", "proud", "quick", "quiet", "rapid", "ready", "serene", "sharp", "smart", "solid",
    "steady", "sunny", "swift", "warm",
];

const SURNAMES: [&str; 60] = [
    "abel",
    "ampere",
    "babbage",
    "bell",
    "bohr",
    "boole",
    "boyle",
    "cantor",
    "cerf",
    "church",
    "curie",
    "darwin",
    "dijkstra",
    "dirac",
    "edison",
    "einstein",
    "euclid",
    "euler",
    "faraday",
    "fermat",
    "fermi",
    "feynman",
    "galileo",
    "galois",
    "gauss",
    "germain",
    "hamilton",
    "heisenberg",
    "hertz",
    "hilbert",
    "hopper",
    "hubble",
    "huygens",
    "kepler",
    "knuth",
    "lagrange",
    "laplace",
    "leibniz",
    "liskov",
    "lovelace",
    "maxwell",
    "meitner",
    "mendel",
    "newton",
    "noether",
    "ohm",
    "pascal",
    "pasteur",
    "planck",
    "ramanujan",
    "ritchie",
    "shannon",
    "tesla",
    "thompson",
    "torvalds",
    "turing",
    "volta",
    "watt",
    "wiles",
    "wozniak",
];

/// A name that `taken` does not have, like `bright_noether`.
pub(crate) fn generate_name(taken: impl Fn(&str) -> bool) -> String {
    for attempt in 0_u32.. {
        let random = u64::from_str_radix(&random_hex(8), 16).expect("16 hexadecimal digits fit 64 bits");
        let adjective = ADJECTIVES[(random % ADJECTIVES.len() as u64) as usize];
        let surname = SURNAMES[((random >> 32) % SURNAMES.len() as u64) as usize];
        let name = match attempt {
            0..16 => format!("{adjective}_{surname}"),
            _ => format!("{adjective}_{surname}{}", random % 10_000),
        };
        if !taken(&name) {
            return name;
        }
    }
    unreachable!("the range has no end")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_dockers_length_and_a_letter_up_front() {
        let id = container_id();
        assert_eq!(id.len(), 64);
        assert!(short(&id).bytes().any(|byte| byte.is_ascii_alphabetic()));
        assert_eq!(pod_id().len(), 16);
    }

    #[test]
    fn names_follow_dockers_rule() {
        for good in ["ab", "a1", "web.1", "0_x-y"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "a", "-a", ".a", "_a", "a b", "a/b", "ä1", &"x".repeat(256)] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn pod_may_have_a_name_of_one_character() {
        assert!(is_pod_name("p") && is_pod_name("web.1"));
        for bad in ["", "-", "p/", "ä", &"x".repeat(256)] {
            assert!(!is_pod_name(bad), "{bad}");
        }
    }

    #[test]
    fn generated_names_avoid_taken_ones_and_are_valid() {
        let first = generate_name(|_| false);
        assert!(is_name(&first) && first.contains('_'));
        let second = generate_name(|name| name.bytes().all(|byte| !byte.is_ascii_digit()));
        assert!(second.bytes().any(|byte| byte.is_ascii_digit()));
    }
}
