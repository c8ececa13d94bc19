//! Each metric of a spec: how many replicas it asks for, its status, or what is wrong. In upstream's words.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, CrossVersionObjectReference, ExternalMetricSource, ExternalMetricStatus,
    MetricIdentifier, MetricSpec, MetricStatus, MetricTarget, MetricValueStatus, ObjectMetricSource,
    ObjectMetricStatus, PodsMetricSource, PodsMetricStatus, ResourceMetricStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kontiki_model::amount::{self, Amount};

use super::calculator::{Per, Pods, Proposal, Tolerances, by_average, by_pods, by_value};
use super::facts::{Numbers, Samples, Scale};

/// What metrics are judged by.
pub(super) struct Judge<'a> {
    pub namespace: &'a str,
    pub scale: &'a Scale,
    pub pods: Pods<'a>,
    pub tolerances: Tolerances,
    pub now: Timestamp,
}

/// What a metric says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Found {
    pub replicas: i32,
    /// What it is called.
    pub name: String,
    pub status: MetricStatus,
}

/// Why a metric says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    /// Of condition and event.
    pub reason: &'static str,
    /// Of condition and event.
    pub message: String,
    /// What it is part of a longer text as.
    pub within: String,
}

type Answer<'a> = Result<&'a Numbers, &'a str>;

/// What one metric says; `answer`: its numbers, or why there are none.
pub(super) fn judge(judge: &Judge<'_>, spec: &MetricSpec, answer: Answer<'_>) -> Result<Found, Trouble> {
    if let Some(of) = &spec.resource {
        let outcome = judge.resource(&of.target, &of.name, None, answer);
        let trouble = |message: String| {
            let within = format!("failed to get {} resource metric value: {message}", of.name);
            Trouble { reason: "FailedGetResourceMetric", message, within }
        };
        let (replicas, name, current) = outcome.map_err(trouble)?;
        let status = ResourceMetricStatus { name: of.name.clone(), current };
        return Ok(found(replicas, name, spec, |into| into.resource = Some(status)));
    }
    if let Some(of) = &spec.container_resource {
        let outcome = judge.resource(&of.target, &of.name, Some(&of.container), answer);
        let trouble = |message: String| {
            let within = format!("failed to get {} container metric value: {message}", of.container);
            Trouble { reason: "FailedGetContainerResourceMetric", message, within }
        };
        let (replicas, name, current) = outcome.map_err(trouble)?;
        let (container, resource) = (of.container.clone(), of.name.clone());
        let status = ContainerResourceMetricStatus { container, current, name: resource };
        return Ok(found(replicas, name, spec, |into| into.container_resource = Some(status)));
    }
    if let Some(of) = &spec.pods {
        return judge.of_pods(spec, of, answer);
    }
    if let Some(of) = &spec.object {
        return judge.of_object(spec, of, answer);
    }
    if let Some(of) = &spec.external {
        return judge.of_external(spec, of, answer);
    }
    let message = format!("unknown metric source type \"{}\"", spec.type_);
    Err(Trouble { reason: "InvalidMetricSourceType", within: message.clone(), message })
}

fn found(replicas: i32, name: String, spec: &MetricSpec, fill: impl FnOnce(&mut MetricStatus)) -> Found {
    let mut status = MetricStatus { type_: spec.type_.clone(), ..MetricStatus::default() };
    fill(&mut status);
    Found { replicas, name, status }
}

impl Judge<'_> {
    fn by_pods(&self, samples: &Samples, per: &Per<'_>, cpu: bool) -> Result<Proposal, String> {
        by_pods(&self.pods, samples, per, cpu, self.tolerances, self.now)
    }

    /// Replicas, the metric's name, and what it is.
    fn resource(
        &self,
        target: &MetricTarget,
        resource: &str,
        container: Option<&str>,
        answer: Answer<'_>,
    ) -> Result<(i32, String, MetricValueStatus), String> {
        let nothing = BTreeMap::new();
        let samples = answer.map(|numbers| if let Numbers::Pods(samples) = numbers { samples } else { &nothing });
        let samples = samples.map_err(|why| format!("unable to get metrics for resource {resource}: {why}"));
        let judge = |per: &Per<'_>| self.by_pods(samples.clone()?, per, resource == "cpu");
        if let Some(amount) = target.average_value.as_ref().map(milli) {
            let proposal =
                judge(&Per::Amount(amount)).map_err(|why| format!("failed to get {resource} usage: {why}"))?;
            let current =
                MetricValueStatus { average_value: Some(quantity(resource, proposal.usage)), ..Default::default() };
            return Ok((proposal.replicas, format!("{resource} resource"), current));
        }
        let Some(percent) = target.average_utilization else {
            let text = "neither an average utilization target nor an average value (usage) target was set";
            return Err(format!("invalid resource metric source: {text}"));
        };
        let proposal = judge(&Per::Request { percent, resource, container })
            .map_err(|why| format!("failed to get {resource} utilization: {why}"))?;
        let of = if container.is_some() { "container resource" } else { "resource" };
        let current = MetricValueStatus {
            average_utilization: proposal.utilization,
            average_value: Some(quantity(resource, proposal.usage)),
            value: None,
        };
        Ok((proposal.replicas, format!("{resource} {of} utilization (percentage of request)"), current))
    }

    fn of_pods(&self, spec: &MetricSpec, of: &PodsMetricSource, answer: Answer<'_>) -> Result<Found, Trouble> {
        let name = &of.metric.name;
        let trouble = |message: String| {
            let within = format!("failed to get pods metric value: {message}");
            Trouble { reason: "FailedGetPodsMetric", message, within }
        };
        let samples = match answer {
            Ok(Numbers::Pods(samples)) => samples,
            Ok(_) => return Err(trouble(format!("unable to get metric {name}: it is of no pods"))),
            Err(why) => return Err(trouble(format!("unable to get metric {name}: {why}"))),
        };
        let target = of.target.average_value.as_ref().map_or(0, milli);
        let proposal = self.by_pods(samples, &Per::Amount(target), false).map_err(trouble)?;
        let status = PodsMetricStatus { current: average(proposal.usage), metric: of.metric.clone() };
        Ok(found(proposal.replicas, format!("pods metric {name}"), spec, |into| into.pods = Some(status)))
    }

    fn of_object(&self, spec: &MetricSpec, of: &ObjectMetricSource, answer: Answer<'_>) -> Result<Found, Trouble> {
        let (object, metric) = (&of.described_object, &of.metric);
        let trouble = |message: String, within: String| {
            let within = format!("failed to get object metric value: {within}");
            Trouble { reason: "FailedGetObjectMetric", message, within }
        };
        let value = match answer {
            Ok(Numbers::Object(value)) => Ok(*value),
            Ok(_) => Err("it is of no object"),
            Err(why) => Err(why),
        };
        let value = value.map_err(|why| self.unable(metric, object, why));
        let (proposal, name, current) = match (of.target.type_.as_str(), &of.target.value, &of.target.average_value) {
            ("Value", Some(target), _) => {
                let judged = value.and_then(|value| by_value(&self.pods, value, milli(target), self.tolerances));
                let proposal = judged.map_err(|why| trouble(why.clone(), why))?;
                let name = format!("{} metric {}", object.kind, metric.name);
                (proposal, name, whole(proposal.usage))
            }
            ("AverageValue", _, Some(target)) => {
                let value = value.map_err(|why| {
                    let within = format!("failed to get {} object metric: {why}", metric.name);
                    trouble(why, within)
                })?;
                let proposal = by_average(self.scale.present, value, milli(target), self.tolerances);
                (proposal, external_name(metric), average(proposal.usage))
            }
            _ => {
                let text = "invalid object metric source: neither a value target nor an average value target was set";
                return Err(trouble(text.to_owned(), text.to_owned()));
            }
        };
        let status = ObjectMetricStatus { current, described_object: object.clone(), metric: metric.clone() };
        Ok(found(proposal.replicas, name, spec, |into| into.object = Some(status)))
    }

    fn unable(&self, metric: &MetricIdentifier, object: &CrossVersionObjectReference, why: &str) -> String {
        let (kind, name) = (&object.kind, &object.name);
        format!("unable to get metric {} on {kind} {}/{name}: {why}", metric.name, self.namespace)
    }

    fn of_external(&self, spec: &MetricSpec, of: &ExternalMetricSource, answer: Answer<'_>) -> Result<Found, Trouble> {
        let (metric, each) = (&of.metric, of.target.average_value.is_some());
        let trouble = |message: String| {
            let (name, before) = (&metric.name, "failed to get");
            let inner = if each { format!("{name} external metric") } else { format!("external metric {name}") };
            let within = format!("{before} {name} external metric value: {before} {inner}: {message}");
            Trouble { reason: "FailedGetExternalMetric", message, within }
        };
        let value = match answer {
            // It stands still at what fits.
            Ok(Numbers::External(values)) => Ok(values.iter().fold(0, |sum: i64, value| sum.saturating_add(*value))),
            Ok(_) => Err("it is of the cluster"),
            Err(why) => Err(why),
        };
        let selector = show_selector(metric.selector.as_ref());
        let place = format!("{}/{}/{selector}", self.namespace, metric.name);
        let value = value.map_err(|why| trouble(format!("unable to get external metric {place}: {why}")))?;
        let (proposal, current) = match (&of.target.average_value, &of.target.value) {
            (Some(target), _) => {
                let proposal = by_average(self.scale.present, value, milli(target), self.tolerances);
                (proposal, average(proposal.usage))
            }
            (None, Some(target)) => {
                let judged = by_value(&self.pods, value, milli(target), self.tolerances);
                let proposal = judged.map_err(trouble)?;
                (proposal, whole(proposal.usage))
            }
            (None, None) => {
                let text = "invalid external metric source: neither a value target nor an average value target was set";
                return Err(trouble(text.to_owned()));
            }
        };
        let status = ExternalMetricStatus { current, metric: metric.clone() };
        Ok(found(proposal.replicas, external_name(metric), spec, |into| into.external = Some(status)))
    }
}

fn external_name(metric: &MetricIdentifier) -> String {
    format!("external metric {}({})", metric.name, show_selector(metric.selector.as_ref()))
}

/// A selector as Go prints it.
fn show_selector(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else { return "nil".to_owned() };
    let labels: String =
        selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}: {value},")).collect();
    let expressions: String = selector
        .match_expressions
        .iter()
        .flatten()
        .map(|one| {
            let values = one.values.iter().flatten().map(String::as_str).collect::<Vec<_>>().join(" ");
            format!("LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},", one.key, one.operator)
        })
        .collect();
    let expressions = format!("[]LabelSelectorRequirement{{{expressions}}}");
    format!("&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:{expressions},}}")
}

fn milli(quantity: &Quantity) -> i64 {
    Amount::parse(&quantity.0).map_or(0, Amount::milli)
}

fn average(milli: i64) -> MetricValueStatus {
    MetricValueStatus { average_value: Some(decimal(milli)), ..MetricValueStatus::default() }
}

fn whole(milli: i64) -> MetricValueStatus {
    MetricValueStatus { value: Some(decimal(milli)), ..MetricValueStatus::default() }
}

fn decimal(milli: i64) -> Quantity {
    let text = format!("{milli}m");
    Quantity(amount::canonical(&text).unwrap_or(text))
}

/// An amount of a resource: memory with binary suffixes, as metrics-server shows it.
fn quantity(resource: &str, milli: i64) -> Quantity {
    let bytes = milli / 1000;
    if resource != "memory" || milli % 1000 != 0 || bytes.abs() < 1024 {
        return decimal(milli);
    }
    if bytes % 1024 != 0 {
        return Quantity(bytes.to_string());
    }
    let text = format!("{}Ki", bytes / 1024);
    Quantity(amount::canonical(&text).unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_spelled_as_upstream_spells_them() {
        for (resource, milli, expect) in [
            ("cpu", 0, "0"),
            ("cpu", 250, "250m"),
            ("cpu", 2000, "2"),
            ("memory", 100 * (1000 << 20), "100Mi"),
            ("memory", 1025 * 1000, "1025"),
            ("memory", 1_048_576_500, "1048576500m"),
            ("memory", 512_000, "512"),
            ("other", 1_024_000, "1024"),
        ] {
            assert_eq!(quantity(resource, milli).0, expect, "{resource} {milli}");
        }
    }

    #[test]
    fn a_selector_is_shown_as_go_does() {
        let selector = LabelSelector { match_labels: Some([("a".into(), "b".into())].into()), ..Default::default() };
        let expect =
            "&LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:[]LabelSelectorRequirement{},}";
        assert_eq!(show_selector(Some(&selector)), expect);
        assert_eq!(show_selector(None), "nil");
    }
}
