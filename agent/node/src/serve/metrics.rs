//! The summary of usage as Prometheus text, under the names of kubelet's `/metrics/resource` and `/metrics/cadvisor`.

use jiff::Timestamp;
use kontiki_model::metrics::{Kind, heading, sample};
use serde_json::Value;

/// A metric: its name, what it means, where its number is in the summary, and what that is divided by.
struct Metric {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    path: &'static str,
    divisor: f64,
}

const fn metric(name: &'static str, kind: Kind, help: &'static str, path: &'static str, divisor: f64) -> Metric {
    Metric { name, kind, help, path, divisor }
}

const NANOS: f64 = 1e9;
const CPU: &str = "/cpu/usageCoreNanoSeconds";
const WORKING_SET: &str = "/memory/workingSetBytes";

const NODE: &[Metric] = &[
    metric("node_cpu_usage_seconds_total", Kind::Counter, "CPU time of the node in seconds", CPU, NANOS),
    metric("node_memory_working_set_bytes", Kind::Gauge, "Working set of the node in bytes", WORKING_SET, 1.0),
];
const POD: &[Metric] = &[
    metric("pod_cpu_usage_seconds_total", Kind::Counter, "CPU time of the pod in seconds", CPU, NANOS),
    metric("pod_memory_working_set_bytes", Kind::Gauge, "Working set of the pod in bytes", WORKING_SET, 1.0),
];
const CONTAINER: &[Metric] = &[
    metric("container_cpu_usage_seconds_total", Kind::Counter, "CPU time of the container in seconds", CPU, NANOS),
    metric(
        "container_memory_working_set_bytes",
        Kind::Gauge,
        "Working set of the container in bytes",
        WORKING_SET,
        1.0,
    ),
];
const MORE: &[Metric] = &[
    metric("container_memory_usage_bytes", Kind::Gauge, "Memory with caches in bytes", "/memory/usageBytes", 1.0),
    metric("container_memory_rss", Kind::Gauge, "Anonymous memory in bytes", "/memory/rssBytes", 1.0),
    metric("container_fs_usage_bytes", Kind::Gauge, "Bytes written to the container's layer", "/rootfs/usedBytes", 1.0),
    metric("container_fs_inodes_total", Kind::Gauge, "Inodes of the container's layer", "/rootfs/inodesUsed", 1.0),
];

/// `/metrics/resource`: what schedulers and autoscalers of the cluster need.
pub(super) fn resource(summary: &Value) -> String {
    let mut out = String::new();
    for metric in NODE {
        heading(&mut out, metric.name, metric.kind, metric.help);
        write(&mut out, metric, &[], &summary["node"]);
    }
    for metric in POD {
        heading(&mut out, metric.name, metric.kind, metric.help);
        for pod in list(&summary["pods"]) {
            write(&mut out, metric, &names(pod), pod);
        }
    }
    containers(&mut out, CONTAINER, summary);
    started(&mut out, summary);
    heading(&mut out, "resource_scrape_error", Kind::Gauge, "1 if something could not be read, 0 otherwise");
    sample(&mut out, "resource_scrape_error", &[], 0);
    out
}

/// `/metrics/cadvisor`: more of each container.
pub(super) fn cadvisor(summary: &Value) -> String {
    let mut out = String::new();
    containers(&mut out, CONTAINER, summary);
    containers(&mut out, MORE, summary);
    started(&mut out, summary);
    out
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn names(pod: &Value) -> [(&'static str, &str); 2] {
    [("namespace", text(&pod["podRef"], "namespace")), ("pod", text(&pod["podRef"], "name"))]
}

fn containers(out: &mut String, metrics: &[Metric], summary: &Value) {
    for metric in metrics {
        heading(out, metric.name, metric.kind, metric.help);
        each(summary, |labels, container| write(out, metric, labels, container));
    }
}

fn each(summary: &Value, mut with: impl FnMut(&[(&str, &str)], &Value)) {
    for pod in list(&summary["pods"]) {
        let [namespace, name] = names(pod);
        for container in list(&pod["containers"]) {
            with(&[("container", text(container, "name")), namespace, name], container);
        }
    }
}

fn started(out: &mut String, summary: &Value) {
    const NAME: &str = "container_start_time_seconds";
    heading(out, NAME, Kind::Gauge, "When the container was started, in seconds since 1970");
    each(summary, |labels, container| {
        if let Ok(started) = text(container, "startTime").parse::<Timestamp>() {
            sample(out, NAME, labels, started.as_second());
        }
    });
}

/// One number with the time it is of, if it is there.
fn write(out: &mut String, metric: &Metric, labels: &[(&str, &str)], of: &Value) {
    let Some(value) = of.pointer(metric.path).and_then(Value::as_f64) else { return };
    let value = value / metric.divisor;
    let time = metric.path.rsplit_once('/').and_then(|(part, _)| of.pointer(&format!("{part}/time"))?.as_str());
    match time.and_then(|time| time.parse::<Timestamp>().ok()) {
        Some(time) => sample(out, metric.name, labels, format!("{value} {}", time.as_millisecond())),
        None => sample(out, metric.name, labels, value),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_of_the_summary_become_series() {
        let summary = json!({
            "node": {"cpu": {"time": "1970-01-01T00:00:02Z", "usageCoreNanoSeconds": 2_500_000_000_u64}},
            "pods": [{
                "podRef": {"name": "p\"", "namespace": "a"},
                "memory": {"workingSetBytes": 9},
                "containers": [{
                    "name": "c", "startTime": "1970-01-01T00:00:05Z",
                    "cpu": {"time": "1970-01-01T00:00:01Z", "usageCoreNanoSeconds": 1_000_000_000},
                    "rootfs": {"usedBytes": 4096},
                }],
            }],
        });
        let series =
            |text: &str| text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(
            series(&resource(&summary)),
            [
                "node_cpu_usage_seconds_total 2.5 2000",
                r#"pod_memory_working_set_bytes{namespace="a",pod="p\""} 9"#,
                r#"container_cpu_usage_seconds_total{container="c",namespace="a",pod="p\""} 1 1000"#,
                r#"container_start_time_seconds{container="c",namespace="a",pod="p\""} 5"#,
                "resource_scrape_error 0",
            ]
        );
        let more = cadvisor(&summary);
        assert!(more.contains(r#"container_fs_usage_bytes{container="c",namespace="a",pod="p\""} 4096"#), "{more}");
        assert!(!series(&resource(&json!({}))).is_empty());
    }
}
