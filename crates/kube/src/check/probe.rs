//! Probes and hooks.

use super::paths;
use crate::fault::Report;
use crate::model::{ExecAction, HTTPGetAction, Lifecycle, LifecycleHandler, Probe};
use crate::place::At;
use crate::value::header_name;

/// A probe.
pub(super) fn probe(probe: &Probe, at: &At, report: &mut Report) {
    if let Some(exec) = &probe.exec {
        program(exec, &at.field("exec"), report);
    }
    if let Some(get) = &probe.http_get {
        request(get, &at.field("httpGet"), report);
    }
    if let Some(tcp) = &probe.tcp_socket {
        paths::port_or_name(&tcp.port, &at.field("tcpSocket").field("port"), report);
    }
    if let Some(grpc) = &probe.grpc {
        paths::port(grpc.port, &at.field("grpc").field("port"), report);
    }
    let actions = [
        ("exec", probe.exec.is_some()),
        ("httpGet", probe.http_get.is_some()),
        ("tcpSocket", probe.tcp_socket.is_some()),
        ("grpc", probe.grpc.is_some()),
    ];
    one(&actions, at, report);
    for (field, number) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        report.not_negative(&at.field(field), number);
    }
    if let Some(seconds) = probe.termination_grace_period_seconds.filter(|seconds| *seconds <= 0) {
        report.invalid(&at.field("terminationGracePeriodSeconds"), seconds, "must be greater than 0");
    }
}

/// Hooks.
pub(super) fn hooks(lifecycle: &Lifecycle, grace: i64, at: &At, report: &mut Report) {
    for (field, hook) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
        if let Some(hook) = hook {
            handler(hook, grace, &at.field(field), report);
        }
    }
}

fn handler(handler: &LifecycleHandler, grace: i64, at: &At, report: &mut Report) {
    if let Some(exec) = &handler.exec {
        program(exec, &at.field("exec"), report);
    }
    if let Some(get) = &handler.http_get {
        request(get, &at.field("httpGet"), report);
    }
    for sleep in handler.sleep.iter().filter(|sleep| !(0..=grace).contains(&sleep.seconds)) {
        let why = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        report.invalid(&at.field("sleep"), sleep.seconds, why);
    }
    let actions = [
        ("exec", handler.exec.is_some()),
        ("httpGet", handler.http_get.is_some()),
        ("sleep", handler.sleep.is_some()),
    ];
    one(&actions, at, report);
}

/// One action, and not two.
fn one(actions: &[(&'static str, bool)], at: &At, report: &mut Report) {
    let mut there = actions.iter().filter(|(_, is_set)| *is_set);
    if there.next().is_none() {
        report.required(at, "must specify a handler type");
    }
    for (field, _) in there {
        report.forbidden(&at.field(field), "may not specify more than 1 handler type");
    }
}

fn program(exec: &ExecAction, at: &At, report: &mut Report) {
    if exec.command.is_empty() {
        report.required(&at.field("command"), "");
    }
}

fn request(get: &HTTPGetAction, at: &At, report: &mut Report) {
    paths::port_or_name(&get.port, &at.field("port"), report);
    for (index, header) in get.http_headers.iter().enumerate() {
        let at = at.field("httpHeaders").index(index).field("name");
        report.invalid_text(&at, &header.name, header_name(&header.name));
    }
}
