//! Prometheus metrics: `GET /metrics` on an address of its own. What docker's daemon counts too has its name.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_engine::{Engine, EventStream, Filters, ListQuery};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder,
};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::http::{Reply, Request as ApiRequest};
use crate::server::{App, HEAD_TIMEOUT};

/// Scrapes at a time.
const CONNECTIONS_MAX: usize = 16;

/// What is done to containers, by the last part of the request's path.
const ACTIONS: [&str; 12] = [
    "create", "start", "stop", "restart", "kill", "pause", "unpause", "rename", "update", "exec", "prune",
    "wait",
];

/// Upper bounds of durations in seconds: a start of a clone takes a few tenths.
const BUCKETS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

/// What is counted from the daemon's start on.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    actions: HistogramVec,
    requests: IntCounterVec,
    events: IntCounter,
    changes: IntCounterVec,
    containers: IntGaugeVec,
    pods: IntGaugeVec,
    pool: IntGaugeVec,
    health: IntGaugeVec,
}

impl Metrics {
    /// With everything at zero.
    ///
    /// # Errors
    /// Never with the names here.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let registry = Registry::new();
        let seconds = HistogramOpts::new(
            "engine_daemon_container_actions_seconds",
            "The number of seconds it takes to process each container action",
        );
        let gauge = |name: &str, help: &str, label: &str| -> anyhow::Result<IntGaugeVec> {
            let gauge = IntGaugeVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let counter = |name: &str, help: &str, labels: &[&str]| -> anyhow::Result<IntCounterVec> {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let metrics = Self {
            actions: HistogramVec::new(seconds.buckets(BUCKETS.to_vec()), &["action"])?,
            requests: counter("hyper_api_requests_total", "Requests answered", &["method", "code"])?,
            events: IntCounter::new("engine_daemon_events_total", "The number of events logged")?,
            changes: counter("hyper_container_events_total", "What happened to containers", &["action"])?,
            containers: gauge(
                "engine_daemon_container_states_containers",
                "The count of containers in various states",
                "state",
            )?,
            pods: gauge("hyper_pods", "Pods, and those of them with a running VM", "state")?,
            pool: gauge("hyper_pool_vms", "VMs kept ready for the next starts", "state")?,
            health: gauge(
                "hyper_container_health",
                "Running containers by what their health checks say",
                "status",
            )?,
            registry: registry.clone(),
        };
        registry.register(Box::new(metrics.actions.clone()))?;
        registry.register(Box::new(metrics.events.clone()))?;
        let info = gauge("engine_daemon_engine_info", "The information related to the engine", "version")?;
        info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let number = prometheus::IntGauge::new(
            "engine_daemon_engine_cpus_cpus",
            "The number of cpus that the host system of the engine has",
        )?;
        number.set(i64::try_from(cpus).unwrap_or(i64::MAX));
        registry.register(Box::new(number))?;
        Ok(metrics)
    }

    /// Counts a request that was answered.
    fn answered(&self, method: &Method, action: Option<&str>, began: Instant, status: StatusCode) {
        let method = match method.as_str() {
            known @ ("GET" | "HEAD" | "POST" | "PUT" | "DELETE") => known,
            _ => "other",
        };
        self.requests.with_label_values(&[method, status.as_str()]).inc();
        if let Some(action) = action.filter(|_| status.is_success()) {
            self.actions.with_label_values(&[action]).observe(began.elapsed().as_secs_f64());
        }
    }

    /// Counts events for ever.
    async fn count(&self, mut events: EventStream) {
        while let Some(event) = events.next().await {
            self.events.inc();
            if event.kind == "container" {
                // What is executed in containers is written behind a colon.
                let action = event.action.split(':').next().unwrap_or_default();
                self.changes.with_label_values(&[action]).inc();
            }
        }
    }

    async fn text(&self, engine: &Engine) -> anyhow::Result<String> {
        let query = ListQuery { all: true, ..ListQuery::default() };
        let containers = engine.list(&query).await.map_err(|error| anyhow::anyhow!(error.report()))?;
        let with = |test: &dyn Fn(&str) -> bool| {
            let count = containers.iter().filter(|info| test(info.record.state.status())).count();
            i64::try_from(count).unwrap_or(i64::MAX)
        };
        // Docker's three: whatever is neither running nor paused is stopped.
        let (running, paused) = (with(&|status| status == "running"), with(&|status| status == "paused"));
        let all = with(&|_| true);
        for (state, count) in [("running", running), ("paused", paused), ("stopped", all - running - paused)]
        {
            self.containers.with_label_values(&[state]).set(count);
        }
        for status in ["starting", "healthy", "unhealthy"] {
            let count = containers
                .iter()
                .filter(|info| info.record.state.is_running())
                .filter(|info| info.health.as_ref().is_some_and(|health| health.status.word() == status))
                .count();
            self.health.with_label_values(&[status]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let pods = engine.list_pods().await;
        let live = pods.iter().filter(|pod| pod.vm.is_some()).count();
        let pool = engine.pool().await;
        for (gauge, label, count) in [
            (&self.pods, "all", pods.len()),
            (&self.pods, "running", live),
            (&self.pool, "wanted", pool.wanted),
            (&self.pool, "ready", pool.ready),
        ] {
            gauge.with_label_values(&[label]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        Ok(TextEncoder::new().encode_to_string(&self.registry.gather())?)
    }
}

/// What is done to a container by a request; `None` for what is not counted.
fn action(method: &Method, path: &str) -> Option<&'static str> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let at = parts.iter().position(|part| *part == "containers").filter(|at| *at <= 1)?;
    match (method.as_str(), &parts[at + 1..]) {
        ("DELETE", [_]) => Some("delete"),
        ("POST", [verb @ ("create" | "prune")] | [_, verb]) => {
            ACTIONS.into_iter().find(|known| known == verb).filter(|known| *known != "wait")
        }
        _ => None,
    }
}

/// Answers a request of the API, counted where somebody looks.
pub(crate) async fn observed(app: Arc<App>, request: ApiRequest) -> Reply {
    let Some(metrics) = app.metrics.clone() else { return crate::route::handle(app, request).await };
    let (method, action) = (request.method().clone(), action(request.method(), request.uri().path()));
    let began = Instant::now();
    let reply = crate::route::handle(app, request).await;
    metrics.answered(&method, action, began, reply.status());
    reply
}

/// Serves the metrics on `address` until the daemon ends.
///
/// # Errors
/// The address cannot be listened on.
pub(crate) async fn serve(address: SocketAddr, app: Arc<App>) -> anyhow::Result<()> {
    let Some(metrics) = app.metrics.clone() else { return Ok(()) };
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("cannot serve metrics on {address}"))?;
    tracing::info!(%address, "serving metrics");
    let events = app.engine.events(None, Filters::default());
    let counting = metrics.clone();
    tokio::spawn(async move { counting.count(events).await });
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    tokio::spawn(async move {
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            };
            let (app, metrics) = (app.clone(), metrics.clone());
            tokio::spawn(async move {
                let answer = service_fn(move |request: Request<Incoming>| {
                    let (app, metrics) = (app.clone(), metrics.clone());
                    async move { Ok::<_, std::convert::Infallible>(scrape(&request, &app, &metrics).await) }
                });
                let served = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), answer)
                    .await;
                if let Err(error) = served {
                    tracing::debug!(%error, "a scrape ended early");
                }
                drop(slot);
            });
        }
    });
    Ok(())
}

async fn scrape(request: &Request<Incoming>, app: &App, metrics: &Metrics) -> Response<Full<Bytes>> {
    let plain = |status: StatusCode, text: String| {
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    };
    if request.method() != Method::GET || request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "page not found\n".to_owned());
    }
    match metrics.text(&app.engine).await {
        Ok(text) => plain(StatusCode::OK, text),
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "cannot gather metrics");
            plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_done_to_containers_is_timed() {
        for (method, path, expected) in [
            (Method::POST, "/v1.47/containers/create", Some("create")),
            (Method::POST, "/containers/abc/start", Some("start")),
            (Method::DELETE, "/v1.47/containers/abc", Some("delete")),
            (Method::POST, "/v1.47/containers/abc/wait", None),
            (Method::POST, "/v1.47/containers/abc/nosuch", None),
            (Method::GET, "/v1.47/containers/abc/json", None),
            (Method::POST, "/v1.47/images/create", None),
        ] {
            assert_eq!(action(&method, path), expected, "{path}");
        }
    }

    #[test]
    fn counters_appear_in_prometheus_text() {
        let metrics = Metrics::new().unwrap();
        metrics.answered(&Method::POST, Some("start"), Instant::now(), StatusCode::NO_CONTENT);
        metrics.answered(&Method::POST, Some("start"), Instant::now(), StatusCode::NOT_FOUND);
        let text = TextEncoder::new().encode_to_string(&metrics.registry.gather()).unwrap();
        assert!(text.contains("engine_daemon_container_actions_seconds_count{action=\"start\"} 1"), "{text}");
        assert!(text.contains("hyper_api_requests_total{code=\"404\",method=\"POST\"} 1"), "{text}");
    }
}
