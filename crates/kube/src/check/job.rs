//! Jobs and CronJobs.

use super::{meta, workload};
use crate::fault::Report;
use crate::model::{CompletionMode, CronJobSpec, JobSpec, RestartPolicy};
use crate::place::At;

/// Most pods of a numbered job at a time.
const MOST_PARALLEL: i32 = 100_000;

/// A Job.
pub(super) fn job(spec: &JobSpec, at: &At, report: &mut Report) {
    for (field, number) in [
        ("parallelism", spec.parallelism.map(i64::from)),
        ("completions", spec.completions.map(i64::from)),
        ("activeDeadlineSeconds", spec.active_deadline_seconds),
        ("backoffLimit", Some(spec.backoff_limit.into())),
        ("ttlSecondsAfterFinished", spec.ttl_seconds_after_finished.map(i64::from)),
    ] {
        if let Some(number) = number {
            report.not_negative(&at.field(field), number);
        }
    }
    if spec.completion_mode == CompletionMode::Indexed {
        if spec.completions.is_none() {
            report.required(&at.field("completions"), "when completion mode is Indexed");
        }
        if let Some(parallelism) = spec.parallelism.filter(|number| *number > MOST_PARALLEL) {
            let why =
                format!("must be less than or equal to {MOST_PARALLEL} when completion mode is Indexed");
            report.invalid(&at.field("parallelism"), parallelism, why);
        }
    }
    let template_at = at.field("template");
    workload::template(&spec.template, &template_at, report);
    if spec.template.spec.restart_policy == RestartPolicy::Always {
        let at = template_at.field("spec").field("restartPolicy");
        report.unsupported(&at, "Always", &["OnFailure", "Never"]);
    }
}

/// A CronJob.
pub(super) fn cron_job(spec: &CronJobSpec, at: &At, report: &mut Report) {
    for (field, number) in [
        ("startingDeadlineSeconds", spec.starting_deadline_seconds),
        ("successfulJobsHistoryLimit", Some(spec.successful_jobs_history_limit.into())),
        ("failedJobsHistoryLimit", Some(spec.failed_jobs_history_limit.into())),
    ] {
        if let Some(number) = number {
            report.not_negative(&at.field(field), number);
        }
    }
    if let Some(zone) = &spec.time_zone {
        let sound = zone.split('/').all(|part| {
            let known = |one: char| one.is_ascii_alphanumeric() || "._+-".contains(one);
            !part.is_empty()
                && !part.starts_with('-')
                && part != "."
                && part != ".."
                && part.chars().all(known)
        });
        if !sound || zone.eq_ignore_ascii_case("local") {
            report.invalid_text(
                &at.field("timeZone"),
                zone,
                ["must be an explicit time zone as defined in https://www.iana.org/time-zones"],
            );
        }
    }
    let template_at = at.field("jobTemplate");
    if let Some(metadata) = &spec.job_template.metadata {
        meta::labelled(metadata, &template_at.field("metadata"), report);
    }
    job(&spec.job_template.spec, &template_at.field("spec"), report);
}
