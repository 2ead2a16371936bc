//! Probes and hooks of containers.

use super::ALPHA;
use crate::read::choice;
use crate::table::{Harmless, table};
use crate::value::IntOrString;

table! {
    /// What finds out about a container: one of the four actions, again and again.
    Probe {
        /// A program that has to end with 0.
        "exec" exec: Option<ExecAction>;
        /// Failures in a row that count.
        "failureThreshold" failure_threshold: i32 = 3;
        /// A service of gRPC's health checking.
        "grpc" grpc: Option<GRPCAction>;
        /// A request that has to be answered with 200 to 399.
        "httpGet" http_get: Option<HTTPGetAction>;
        /// Seconds between the container's start and the first time.
        "initialDelaySeconds" initial_delay_seconds: i32 = 0;
        /// Seconds between two times.
        "periodSeconds" period_seconds: i32 = 10;
        /// Successes in a row that count.
        "successThreshold" success_threshold: i32 = 1;
        /// A port that has to be open.
        "tcpSocket" tcp_socket: Option<TCPSocketAction>;
        /// Seconds to end in when the probe failed; else the pod's.
        "terminationGracePeriodSeconds" termination_grace_period_seconds: Option<i64>;
        /// Seconds that it may take.
        "timeoutSeconds" timeout_seconds: i32 = 1;
    }
}

table! {
    /// A program in the container.
    ExecAction {
        /// The program and what it is given; no shell.
        "command" command: Vec<String>;
    }
}

table! {
    /// A request over HTTP.
    HTTPGetAction {
        /// Where to; else the pod.
        "host" host: Option<String>;
        /// Headers.
        "httpHeaders" http_headers: Vec<HTTPHeader>;
        /// The path.
        "path" path: String = String::from("/");
        /// The port, by number or name.
        "port" port: IntOrString;
        /// With or without TLS; no certificate is checked.
        "scheme" scheme: UriScheme = UriScheme::Http;
    }
    refused {
        "protocol" => ALPHA;
    }
}

choice! {
    /// With or without TLS.
    UriScheme {
        /// Without.
        Http = "HTTP",
        /// With.
        Https = "HTTPS",
    }
}

table! {
    /// A header of a request.
    HTTPHeader {
        /// Its name.
        "name" name: String;
        /// Its value.
        "value" value: String = String::new();
    }
}

table! {
    /// A connection over TCP.
    TCPSocketAction {
        /// Where to; else the pod.
        "host" host: Option<String>;
        /// The port, by number or name.
        "port" port: IntOrString;
    }
}

table! {
    /// A question by gRPC's health checking.
    GRPCAction {
        /// The port.
        "port" port: i32;
        /// The service that is asked for.
        "service" service: Option<String>;
    }
    refused {
        "mode" => ALPHA, unless Harmless::Text("Plaintext");
    }
}

table! {
    /// What is done at a container's start and end.
    Lifecycle {
        /// Right after the start, beside the container's own program.
        "postStart" post_start: Option<LifecycleHandler>;
        /// Before it is asked to end.
        "preStop" pre_stop: Option<LifecycleHandler>;
        /// The signal that asks it to end; else the image's.
        "stopSignal" stop_signal: Option<String>;
    }
}

table! {
    /// What is done: one of these.
    LifecycleHandler {
        /// A program in the container.
        "exec" exec: Option<ExecAction>;
        /// A request over HTTP.
        "httpGet" http_get: Option<HTTPGetAction>;
        /// Nothing, for a while.
        "sleep" sleep: Option<SleepAction>;
    }
    refused {
        "tcpSocket" => "Kubernetes has never done it: such a hook fails when it is due";
    }
}

table! {
    /// Nothing, for a while.
    SleepAction {
        /// So many seconds.
        "seconds" seconds: i64;
    }
}
