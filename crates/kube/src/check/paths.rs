//! Paths, addresses and ports.

use std::net::IpAddr;

use crate::fault::Report;
use crate::place::At;
use crate::value::{IntOrString, port_name};

/// Modes of files.
pub(super) fn mode(mode: i32, at: &At, report: &mut Report) {
    if !(0..=0o777).contains(&mode) {
        report.invalid(at, mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

/// A path that leads down from where it is used.
pub(super) fn descending(path: &str, at: &At, report: &mut Report) {
    if path.starts_with('/') {
        report.invalid_text(at, path, ["must be a relative path"]);
    }
    without_backsteps(path, at, report);
}

/// A path without `..`.
pub(super) fn without_backsteps(path: &str, at: &At, report: &mut Report) {
    if path.split('/').any(|part| part == "..") {
        report.invalid_text(at, path, ["must not contain '..'"]);
    }
}

/// The path of a file in a volume that Kubernetes fills; names with two dots are its own.
pub(super) fn of_file(path: &str, at: &At, report: &mut Report) {
    descending(path, at, report);
    if path.starts_with("..") && !path.starts_with("../") && path != ".." {
        report.invalid_text(at, path, ["must not start with '..'"]);
    }
}

/// A path from the root.
pub(super) fn absolute(path: &str, at: &At, report: &mut Report) {
    if !path.starts_with('/') {
        report.invalid_text(at, path, ["must be an absolute path"]);
    }
}

/// An address.
pub(super) fn address(text: &str, at: &At, report: &mut Report) {
    if text.parse::<IpAddr>().is_err() {
        report.invalid_text(at, text, ["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"]);
    }
}

/// The number of a port.
pub(super) fn port(port: i32, at: &At, report: &mut Report) {
    report.in_range(at, port, 1, 65535);
}

/// A port by number or name.
pub(super) fn port_or_name(value: &IntOrString, at: &At, report: &mut Report) {
    match value {
        IntOrString::Int(number) => port(*number, at, report),
        IntOrString::String(name) => report.invalid_text(at, name, port_name(name)),
    }
}
