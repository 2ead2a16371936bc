//! Jobs: pods that come to an end.

use super::workload::objects;
use super::{LATER, ObjectMeta, PodTemplateSpec, SERVER};
use crate::read::{Anything, choice};
use crate::table::{Harmless, table};
use crate::value::Schedule;

objects! {
    /// Pods that run until enough of them have succeeded.
    Job: JobSpec;
    /// Jobs at given times.
    CronJob: CronJobSpec;
}

table! {
    /// What a Job is to be.
    JobSpec {
        /// Seconds after which it is ended and has failed.
        "activeDeadlineSeconds" active_deadline_seconds: Option<i64>;
        /// Failures after which it has failed.
        "backoffLimit" backoff_limit: i32 = 6;
        /// Whether the pods are numbered.
        "completionMode" completion_mode: CompletionMode = CompletionMode::NonIndexed;
        /// How many pods have to succeed; if neither this nor `parallelism` is given, one.
        "completions" completions: Option<i32>;
        /// How many run at a time; one by default.
        "parallelism" parallelism: Option<i32>;
        /// When a pod that failed is replaced.
        "podReplacementPolicy" pod_replacement_policy: PodReplacementPolicy = PodReplacementPolicy::TerminatingOrFailed;
        /// Whether it waits.
        "suspend" suspend: bool = false;
        /// What the pods look like.
        "template" template: PodTemplateSpec;
        /// Seconds after its end that it is removed.
        "ttlSecondsAfterFinished" ttl_seconds_after_finished: Option<i32>;
    }
    refused {
        "backoffLimitPerIndex" => LATER;
        "managedBy" => "there are no other controllers", unless Harmless::Text("kubernetes.io/job-controller");
        "manualSelector" => "the pods of a job are found without it", unless Harmless::Is(false);
        "maxFailedIndexes" => LATER;
        "podFailurePolicy" => LATER;
        "scheduling" => "there is no cluster and no scheduler: everything runs on this host";
        "selector" => "Kubernetes makes it, and refuses one without `manualSelector`";
        "successPolicy" => LATER;
    }
}

choice! {
    /// Whether the pods of a Job are numbered.
    CompletionMode {
        /// Each is as good as another.
        NonIndexed = "NonIndexed",
        /// One for each number has to succeed.
        Indexed = "Indexed",
    }
}

choice! {
    /// When a pod of a Job is replaced.
    PodReplacementPolicy {
        /// As soon as it is ending.
        TerminatingOrFailed = "TerminatingOrFailed",
        /// When it has ended.
        Failed = "Failed",
    }
}

table! {
    /// What a CronJob is to be.
    CronJobSpec {
        /// What happens when the last job still runs.
        "concurrencyPolicy" concurrency_policy: ConcurrencyPolicy = ConcurrencyPolicy::Allow;
        /// How many jobs that failed are kept.
        "failedJobsHistoryLimit" failed_jobs_history_limit: i32 = 1;
        /// What the jobs look like.
        "jobTemplate" job_template: JobTemplateSpec;
        /// When they start.
        "schedule" schedule: Schedule;
        /// Seconds that a start may be late.
        "startingDeadlineSeconds" starting_deadline_seconds: Option<i64>;
        /// How many jobs that succeeded are kept.
        "successfulJobsHistoryLimit" successful_jobs_history_limit: i32 = 3;
        /// Whether it waits.
        "suspend" suspend: bool = false;
        /// Where the schedule's times are; else the host's.
        "timeZone" time_zone: Option<String>;
    }
}

choice! {
    /// What happens when the last job still runs.
    ConcurrencyPolicy {
        /// Both run.
        Allow = "Allow",
        /// The new one does not.
        Forbid = "Forbid",
        /// The old one is ended.
        Replace = "Replace",
    }
}

table! {
    /// What the jobs of a CronJob look like.
    JobTemplateSpec {
        /// Their labels and annotations.
        "metadata" metadata: Option<ObjectMeta>;
        /// What they are to be.
        "spec" spec: JobSpec;
    }
}
