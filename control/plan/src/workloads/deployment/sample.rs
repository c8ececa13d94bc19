//! What a Prometheus server says of a rollout: when it is asked, how, and what its answer is worth.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use kontiki_model::rollout::{Bound, Metric, PASSED, PREFIX, REFUSED, VERDICT};
use serde_json::Value;
use std::sync::Arc;

use super::gate::{At, settings, stages};
use super::{replicas, set};
use crate::autoscaling::escaped;
use crate::object::{annotation, namespace, time, uid};

/// Longest part of an error that is told.
const TOLD: usize = 200;

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// What was asked, and about what.
    pub about: String,
    /// When, in whole seconds.
    pub at: Timestamp,
    /// What it is worth.
    pub verdict: Verdict,
}

/// What an answer is worth; each with what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All values are as they should be.
    Good(String),
    /// One is not.
    Bad(String),
    /// There was no value.
    Unknown(String),
}

/// What is to be asked now.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// Path and query, at this API.
    pub path: String,
    /// The ServiceAccount that asks, that of the pods: its name, in the deployment's namespace.
    pub account: String,
    about: String,
    bound: Bound,
}

/// Whether a metric has a say in the deployment's rollouts.
#[must_use]
pub fn is_measured(deployment: &Deployment) -> bool {
    let annotations = deployment.metadata.annotations.as_ref();
    annotations.is_some_and(|all| all.keys().any(|key| key.strip_prefix(PREFIX) == Some("query")))
}

/// What tells a question from others.
pub(super) fn about(set: &str, step: usize, metric: &Metric) -> String {
    format!("{set} {step} {:?} {} {}", metric.server, metric.bound, metric.query)
}

/// What to ask about a deployment, if it is time for that; `known` is the last answer.
#[must_use]
pub fn question(
    deployment: &Deployment,
    sets: &[Arc<ReplicaSet>],
    known: Option<&Sample>,
    now: Timestamp,
) -> Option<Question> {
    let spec = &deployment.spec;
    let settings = settings(deployment).ok()??;
    let metric = settings.metric.as_ref()?;
    let set = sets.iter().find(|set| set::same_template(spec, set))?;
    let said = |key: &str| annotation(&set.metadata, key).map(str::to_owned);
    if spec.paused == Some(true) || said(VERDICT).is_some_and(|verdict| [PASSED, REFUSED].contains(&verdict.as_str())) {
        return None;
    }
    let stages = stages(&settings, replicas(spec));
    let at = At::of(said, &stages).filter(|at| stages[at.step - 1].measured)?;
    let about = about(uid(&set.metadata), at.step, metric);
    let last = known.filter(|known| known.about == about).map(|known| known.at);
    let due = at.due(last, metric)? <= now;
    let account = spec.template.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
    let account = account.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".to_owned());
    due.then(|| Question { path: path(namespace(&deployment.metadata), metric), account, about, bound: metric.bound })
}

fn path(own: &str, metric: &Metric) -> String {
    let server = &metric.server;
    let space = server.namespace.as_deref().unwrap_or(own);
    let scheme = if server.tls { "https" } else { "http" };
    let (name, port, prefix) = (&server.name, server.port, &server.prefix);
    let service = format!("/api/v1/namespaces/{space}/services/{scheme}:{name}:{port}/proxy");
    format!("{service}{prefix}/api/v1/query?query={}", escaped(&metric.query))
}

impl Question {
    /// What the answer that came at `now` is worth.
    #[must_use]
    pub fn sample(self, answer: Result<&Value, &str>, now: Timestamp) -> Sample {
        let verdict = match answer {
            Ok(document) => judged(document, self.bound),
            Err(why) => Verdict::Unknown(short(why)),
        };
        Sample { about: self.about, at: time(now).0, verdict }
    }
}

fn short(why: &str) -> String {
    why.chars().filter(|c| !c.is_control()).take(TOLD).collect()
}

/// The answer of `/api/v1/query`: a number, or some with labels, which all have to be good.
fn judged(document: &Value, bound: Bound) -> Verdict {
    let data = &document["data"];
    let values: Option<Vec<f64>> = match data["resultType"].as_str() {
        Some("scalar") => value(&data["result"]).map(|value| vec![value]),
        Some("vector") => {
            data["result"].as_array().and_then(|all| all.iter().map(|one| value(&one["value"])).collect())
        }
        _ => None,
    };
    let Some(values) = values else {
        let said = document["error"].as_str().unwrap_or("the answer is no number of Prometheus' HTTP API");
        return Verdict::Unknown(short(said));
    };
    if values.is_empty() || values.iter().any(|value| value.is_nan()) {
        return Verdict::Unknown("there is no value".to_owned());
    }
    match values.iter().find(|value| !bound.holds(**value)) {
        Some(bad) => Verdict::Bad(format!("it is {bad}")),
        None => Verdict::Good(format!("it is {}", values[0])),
    }
}

/// `[time, "value"]`.
fn value(pair: &Value) -> Option<f64> {
    match pair[1].as_str()? {
        "+Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        text => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_are_worth_something_or_nothing() {
        let vector = |values: &[&str]| {
            let all: Vec<Value> = values.iter().map(|value| json!({"metric": {}, "value": [1.5, value]})).collect();
            json!({"status": "success", "data": {"resultType": "vector", "result": all}})
        };
        let scalar = json!({"status": "success", "data": {"resultType": "scalar", "result": [1, "0.1"]}});
        for (document, expect) in [
            (vector(&["0.01"]), Verdict::Good("it is 0.01".into())),
            (vector(&["0.01", "0.9"]), Verdict::Bad("it is 0.9".into())),
            (vector(&["+Inf"]), Verdict::Bad("it is inf".into())),
            (vector(&["0.5"]), Verdict::Bad("it is 0.5".into())),
            (vector(&[]), Verdict::Unknown("there is no value".into())),
            (vector(&["NaN"]), Verdict::Unknown("there is no value".into())),
            (scalar, Verdict::Good("it is 0.1".into())),
            (json!({"status": "error", "error": "odd\nquery"}), Verdict::Unknown("oddquery".into())),
            (json!([1, 2]), Verdict::Unknown("the answer is no number of Prometheus' HTTP API".into())),
        ] {
            assert_eq!(judged(&document, Bound::Below(0.5)), expect, "{document}");
        }
    }
}
