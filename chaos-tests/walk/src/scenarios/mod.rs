//! What happens while leaders die: a dozen or two of writes each, and what has come of them when nothing moves any more.

mod collection;
mod jobs;
mod network;
mod nodes;
mod policy;
mod rollouts;
mod sets;
mod volumes;

use anyhow::Result;
use futures::future::LocalBoxFuture;
use serde_json::{Value, json};

use crate::cluster::Cluster;

/// One of them.
pub struct Scenario {
    /// For people and the environment.
    pub name: &'static str,
    /// What is done to a cluster at rest.
    pub(crate) play: for<'a> fn(&'a Cluster) -> LocalBoxFuture<'a, Result<()>>,
}

macro_rules! scenario {
    ($name:literal, $play:path) => {
        Scenario { name: $name, play: |cluster| Box::pin($play(cluster)) }
    };
}

/// All of them.
pub static SCENARIOS: &[Scenario] = &[
    scenario!("deployment", sets::deployment),
    scenario!("canary", rollouts::canary),
    scenario!("canary-metric", rollouts::measured),
    scenario!("blue-green", rollouts::blue_green),
    scenario!("statefulset", sets::stateful_set),
    scenario!("daemonset", sets::daemon_set),
    scenario!("adoption", sets::adoption),
    scenario!("job-indexed", jobs::indexed),
    scenario!("job-counted", jobs::counted),
    scenario!("job-ttl", jobs::finished),
    scenario!("cronjob", jobs::cron),
    scenario!("collection", collection::owners),
    scenario!("namespace", collection::namespace),
    scenario!("service", network::service),
    scenario!("mirror", network::mirrored),
    scenario!("budget", network::budget),
    scenario!("volumes", volumes::claimed),
    scenario!("ephemeral", volumes::ephemeral),
    scenario!("quota", policy::quota),
    scenario!("odds", policy::odds),
    scenario!("taints", nodes::taints),
    scenario!("new-node", nodes::new),
    scenario!("lost-node", nodes::lost),
];

/// A template of pods that `app` is told by, with annotations.
fn template(app: &str, image: &str, annotations: Value) -> Value {
    json!({
        "metadata": {"labels": {"app": app}, "annotations": annotations},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": image}]},
    })
}

/// An object with a selector for `app` and a template.
fn workload(kind: &str, app: &str, spec: Value) -> Value {
    let mut object = json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": app}, "spec": spec});
    object["spec"]["selector"] = json!({"matchLabels": {"app": app}});
    object["spec"]["template"] = template(app, "one", json!({}));
    object
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
}

/// Whether a pod is ready and was made from this image.
fn runs(image: &'static str) -> impl Fn(&Value) -> bool {
    move |pod| is_ready(pod) && pod["spec"]["containers"][0]["image"] == image
}

fn holds(object: &Value, condition: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|c| c["type"] == condition && c["status"] == "True"))
}
