//! Where metrics are asked for, and what the answers say. Upstream: `metrics/client.go`, and `k8s.io/metrics/pkg/client`.

use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{CrossVersionObjectReference, MetricIdentifier, MetricSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kontiki_model::amount::Amount;
use kontiki_model::selector::{Operator, Selector};
use serde_json::Value;

use super::facts::{Numbers, Sample, Samples};

/// The window of a custom metric that does not say it.
const WINDOW: Duration = Duration::from_secs(60);
const RESOURCES: &str = "resource metrics API";
const CUSTOM: &str = "custom metrics API";
const EXTERNAL: &str = "external metrics API";

/// A path to read, and who serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// With its query.
    pub path: String,
    api: &'static str,
}

/// Where the numbers of a metric are asked for, in `namespace` and of pods that `pods` (a query's selector) selects.
///
/// `resource` gives the resource of a kind, as `deployments.apps`; `custom` is the version of `custom.metrics.k8s.io`
/// that is served.
///
/// # Errors
/// Nobody can be asked.
pub fn question(
    spec: &MetricSpec,
    (namespace, pods): (&str, &str),
    resource: impl Fn(&CrossVersionObjectReference) -> Option<String>,
    custom: Option<&str>,
) -> Result<Question, String> {
    if spec.resource.is_some() || spec.container_resource.is_some() {
        let query = query(&[("labelSelector", pods)]);
        return Ok(asked(RESOURCES, format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods{query}")));
    }
    if let Some(external) = &spec.external {
        let query = query(&[("labelSelector", &selector(&external.metric))]);
        let name = escaped(&external.metric.name);
        let path = format!("/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{name}{query}");
        return Ok(asked(EXTERNAL, path));
    }
    let version =
        custom.ok_or_else(|| unfetched(CUSTOM, "no custom metrics API (custom.metrics.k8s.io) registered"))?;
    let base = format!("/apis/custom.metrics.k8s.io/{version}/namespaces/{namespace}");
    if let Some(of) = &spec.pods {
        let query = query(&[("labelSelector", pods), ("metricLabelSelector", &selector(&of.metric))]);
        return Ok(asked(CUSTOM, format!("{base}/pods/*/{}{query}", escaped(&of.metric.name))));
    }
    let Some(of) = &spec.object else { return Err(format!("unknown metric source type \"{}\"", spec.type_)) };
    let (metric, query) = (escaped(&of.metric.name), query(&[("metricLabelSelector", &selector(&of.metric))]));
    let object = &of.described_object;
    if object.kind == "Namespace" && object.api_version.as_deref().is_none_or(|version| !version.contains('/')) {
        return Ok(asked(CUSTOM, format!("{base}/metrics/{metric}{query}")));
    }
    let unknown = || unfetched(CUSTOM, &format!("unable to map kind {} to resource", object.kind));
    let resource = resource(object).ok_or_else(unknown)?;
    Ok(asked(CUSTOM, format!("{base}/{resource}/{}/{metric}{query}", escaped(&object.name))))
}

fn asked(api: &'static str, path: String) -> Question {
    Question { path, api }
}

fn unfetched(api: &str, why: &str) -> String {
    format!("unable to fetch metrics from {api}: {why}")
}

impl Question {
    /// What an answer says of the metric that it was asked for.
    ///
    /// # Errors
    /// Why there are no numbers. `answer`: `Err` has the text of a refusal.
    pub fn read(&self, spec: &MetricSpec, answer: Result<&Value, &str>) -> Result<Numbers, String> {
        let document = answer.map_err(|why| unfetched(self.api, why))?;
        let items = document["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        let first = items.first().ok_or_else(|| format!("no metrics returned from {}", self.api))?;
        Ok(if let Some(of) = &spec.resource {
            Numbers::Pods(samples(items, |pod| sum(pod, &of.name)))
        } else if let Some(of) = &spec.container_resource {
            Numbers::Pods(samples(items, |pod| one(pod, &of.container, &of.name)))
        } else if spec.pods.is_some() {
            Numbers::Pods(items.iter().filter_map(custom).collect())
        } else if spec.object.is_some() {
            Numbers::Object(milli(&first["value"]).unwrap_or_default())
        } else {
            Numbers::External(items.iter().filter_map(|item| milli(&item["value"])).collect())
        })
    }
}

fn milli(value: &Value) -> Option<i64> {
    Amount::of(value).map(Amount::milli)
}

/// PodMetrics.
fn samples(items: &[Value], value: impl Fn(&Value) -> Option<i64>) -> Samples {
    let sample = |item: &Value| {
        let window = item["window"].as_str().and_then(duration).unwrap_or_default();
        let sample = Sample { value: value(item)?, at: time(item)?, window };
        Some((item["metadata"]["name"].as_str()?.to_owned(), sample))
    };
    items.iter().filter_map(sample).collect()
}

/// Of all containers of a pod, if each has it.
fn sum(pod: &Value, resource: &str) -> Option<i64> {
    let containers = pod["containers"].as_array().filter(|containers| !containers.is_empty())?;
    containers.iter().try_fold(0, |sum: i64, container| Some(sum.saturating_add(milli(&container["usage"][resource])?)))
}

fn one(pod: &Value, name: &str, resource: &str) -> Option<i64> {
    let found = pod["containers"].as_array()?.iter().find(|container| container["name"] == name)?;
    milli(&found["usage"][resource])
}

/// A MetricValue about a pod.
fn custom(item: &Value) -> Option<(String, Sample)> {
    let seconds = item["windowSeconds"].as_u64().or_else(|| item["window"].as_u64());
    let window = seconds.map_or(WINDOW, Duration::from_secs);
    let sample = Sample { value: milli(&item["value"])?, at: time(item)?, window };
    Some((item["describedObject"]["name"].as_str()?.to_owned(), sample))
}

fn time(item: &Value) -> Option<Timestamp> {
    item["timestamp"].as_str()?.parse().ok()
}

/// A duration as Go prints it: `1m15.02s`. `None` if it is none, or below zero.
fn duration(text: &str) -> Option<Duration> {
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| c.is_ascii_alphabetic() || c == 'µ')?);
        let (unit, after) = after.split_at(after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len()));
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        (total, rest) = (total.checked_add(part)?, after);
    }
    (!text.is_empty()).then_some(total)
}

/// The selector of a metric as a query has it; empty if it has none.
fn selector(metric: &MetricIdentifier) -> String {
    metric.selector.as_ref().map(as_query).unwrap_or_default()
}

fn as_query(selector: &LabelSelector) -> String {
    let mut requirements = Selector::from_spec(selector).unwrap_or_default().requirements;
    requirements.sort_by(|a, b| a.key.cmp(&b.key));
    let show = |key: &str, operator: &Operator| match operator {
        Operator::In(values) if values.len() == 1 => format!("{key}={}", values[0]),
        Operator::In(values) => format!("{key} in ({})", values.join(",")),
        Operator::NotIn(values) => format!("{key} notin ({})", values.join(",")),
        Operator::Exists => key.to_owned(),
        Operator::DoesNotExist => format!("!{key}"),
        Operator::Gt(bound) => format!("{key}>{bound}"),
        Operator::Lt(bound) => format!("{key}<{bound}"),
    };
    requirements.iter().map(|one| show(&one.key, &one.operator)).collect::<Vec<_>>().join(",")
}

/// `?a=b&c=d`, without what is empty.
fn query(terms: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (name, value) in terms.iter().filter(|(_, value)| !value.is_empty()) {
        let before = if out.is_empty() { '?' } else { '&' };
        let _ = write!(out, "{before}{name}={}", escaped(value));
    }
    out
}

/// Escaped for a path or query (RFC 3986).
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::autoscaling::v2::MetricSpec;
    use serde_json::json;

    use super::*;

    fn spec(value: Value) -> MetricSpec {
        serde_json::from_value(value).unwrap()
    }

    fn path(value: Value) -> Result<String, String> {
        let known = |object: &CrossVersionObjectReference| (object.kind == "Ingress").then(|| "ingresses.x".to_owned());
        question(&spec(value), ("ns", "app=a,b in (c)"), known, Some("v1beta2")).map(|question| question.path)
    }

    #[test]
    fn each_source_has_its_place() {
        let target = json!({"type": "Value", "value": "1"});
        let metric = json!({"name": "a/b", "selector": {"matchLabels": {"x": "y"}, "matchExpressions": [
            {"key": "k", "operator": "In", "values": ["1", "2"]}, {"key": "l", "operator": "DoesNotExist"}]}});
        let labels = "labelSelector=app%3Da%2Cb%20in%20%28c%29";
        let named = "k%20in%20%281%2C2%29%2C%21l%2Cx%3Dy";
        let object = |kind: &str| {
            let described = json!({"kind": kind, "name": "o"});
            json!({"type": "Object", "object": {"describedObject": described, "metric": {"name": "m"}, "target": target}})
        };
        let custom = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/ns";
        for (value, expect) in [
            (
                json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}),
                Ok(format!("/apis/metrics.k8s.io/v1beta1/namespaces/ns/pods?{labels}")),
            ),
            (
                json!({"type": "Pods", "pods": {"metric": metric, "target": target}}),
                Ok(format!("{custom}/pods/*/a%2Fb?{labels}&metricLabelSelector={named}")),
            ),
            (object("Ingress"), Ok(format!("{custom}/ingresses.x/o/m"))),
            (object("Namespace"), Ok(format!("{custom}/metrics/m"))),
            (
                object("Odd"),
                Err("unable to fetch metrics from custom metrics API: unable to map kind Odd to resource".to_owned()),
            ),
            (
                json!({"type": "External", "external": {"metric": metric, "target": target}}),
                Ok(format!("/apis/external.metrics.k8s.io/v1beta1/namespaces/ns/a%2Fb?labelSelector={named}")),
            ),
        ] {
            assert_eq!(path(value.clone()), expect, "{value}");
        }
    }

    #[test]
    fn answers_become_numbers() {
        let target = json!({"type": "Value", "value": "1"});
        let pod = |name: &str, usage: Value| {
            json!({"metadata": {"name": name}, "timestamp": "1970-01-01T00:00:09Z", "window": "1m0.5s",
                "containers": [{"name": "a", "usage": {"cpu": "250m"}}, {"name": "b", "usage": usage}]})
        };
        let list = json!({"items": [pod("p", json!({"cpu": "1500u"})), pod("q", json!({})), {"odd": 1}]});
        let read = |value: Value, document: &Value| {
            let spec = spec(value);
            let question = question(&spec, ("ns", ""), |_| Some("x".to_owned()), Some("v1")).unwrap();
            question.read(&spec, Ok(document))
        };
        let at = Timestamp::from_second(9).unwrap();
        let sample = |value| Sample { value, at, window: Duration::from_millis(60_500) };
        let whole = json!({"type": "Resource", "resource": {"name": "cpu", "target": target}});
        // Rounded up; the pod of which a container is not measured is missing.
        assert_eq!(read(whole.clone(), &list), Ok(Numbers::Pods([("p".to_owned(), sample(252))].into())));
        let part = json!({"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "a", "target": target}});
        let both = [("p".to_owned(), sample(250)), ("q".to_owned(), sample(250))];
        assert_eq!(read(part, &list), Ok(Numbers::Pods(both.into())));
        let custom =
            json!({"items": [{"describedObject": {"name": "p"}, "timestamp": "1970-01-01T00:00:09Z", "value": "7"}]});
        let pods = json!({"type": "Pods", "pods": {"metric": {"name": "m"}, "target": target}});
        let minute = Sample { value: 7000, at, window: WINDOW };
        assert_eq!(read(pods, &custom), Ok(Numbers::Pods([("p".to_owned(), minute)].into())));
        let external = json!({"type": "External", "external": {"metric": {"name": "m"}, "target": target}});
        assert_eq!(
            read(external, &json!({"items": [{"value": "1"}, {"value": "5m"}]})),
            Ok(Numbers::External(vec![1000, 5]))
        );
        let none = Err("no metrics returned from resource metrics API".to_owned());
        assert_eq!(read(whole, &json!({"items": []})), none);
    }

    #[test]
    fn windows_are_read_as_go_prints_them() {
        for (text, expect) in [
            ("15s", Some(15_000)),
            ("1h2m3.5s", Some(3_723_500)),
            ("250ms", Some(250)),
            ("", None),
            ("15", None),
            ("1x", None),
            ("-1s", None),
        ] {
            assert_eq!(duration(text), expect.map(Duration::from_millis), "{text}");
        }
    }
}
