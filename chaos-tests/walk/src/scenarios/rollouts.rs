//! Rollouts that stop at steps, and go back by themselves.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{runs, template, workload};
use crate::cluster::{Cluster, at};

const STATE: &str = "rollout.kontiki.dev/state";

fn web(replicas: usize, surge: Value, deadline: u32, annotations: Value) -> Value {
    let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": 0}});
    let spec = json!({"replicas": replicas, "strategy": rolling, "progressDeadlineSeconds": deadline});
    let mut web = workload("Deployment", "web", spec);
    web["metadata"]["annotations"] = annotations;
    web
}

fn image(image: &str) -> Value {
    json!({"spec": {"template": template("web", image, json!({}))}})
}

/// The rollout has ended like this, and all pods are ready and of one image.
fn ended(cluster: &Cluster, replicas: usize, state: &str, image: &'static str) -> Result<()> {
    let (_, web) = cluster.objects("deployments").remove(0);
    let said = web["metadata"]["annotations"][STATE].as_str().unwrap_or_default().to_owned();
    ensure!(said.starts_with(state), "{said}, not {state}");
    let is_web = |pod: &Value| pod["metadata"]["labels"]["app"] == "web";
    cluster.expect("pods", replicas, |pod| is_web(pod) && runs(image)(pod))?;
    cluster.expect("pods", replicas, is_web)
}

/// By readiness: one template passes, the next has pods that never come up; both to their end.
pub async fn canary(cluster: &Cluster) -> Result<()> {
    let settings = json!({"rollout.kontiki.dev/steps": "1, 2", "rollout.kontiki.dev/pause": "5s"});
    cluster.create(web(3, json!(1), 30, settings)).await?;
    cluster.settle().await?;
    ended(cluster, 3, "passed", "one")?;
    cluster.patch(at("apps", "deployments", "web"), image("two")).await?;
    cluster.settle().await?;
    ended(cluster, 3, "passed", "two")?;
    // No node fits.
    let mut stuck = image("three");
    stuck["spec"]["template"]["spec"]["nodeSelector"] = json!({"no": "node"});
    cluster.patch(at("apps", "deployments", "web"), stuck).await?;
    cluster.rest(std::time::Duration::from_secs(45)).await?;
    ended(cluster, 3, "refused: at step 1 of 3, it did not pass within 30 s", "two")?;
    cluster.expect("replicasets", 3, |_| true)
}

/// By a metric that a pod serves: one template passes; the metric turns bad, and the next goes back.
pub async fn measured(cluster: &Cluster) -> Result<()> {
    let mut metrics = template("metrics", "m", json!({}));
    metrics["apiVersion"] = "v1".into();
    metrics["kind"] = "Pod".into();
    metrics["metadata"]["name"] = "metrics".into();
    cluster.create(metrics).await?;
    cluster.settle().await?;
    let ports = json!([{"port": 9090}]);
    cluster
        .create(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "metrics"},
            "spec": {"selector": {"app": "metrics"}, "ports": ports}}))
        .await?;
    let rbac = "rbac.authorization.k8s.io";
    let rules = json!([{"apiGroups": [""], "resources": ["services/proxy"], "verbs": ["get"]}]);
    let role =
        json!({"apiVersion": format!("{rbac}/v1"), "kind": "Role", "metadata": {"name": "judge"}, "rules": rules});
    cluster.create(role).await?;
    let binding = json!({"apiVersion": format!("{rbac}/v1"), "kind": "RoleBinding", "metadata": {"name": "judge"},
        "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "judge"},
        "subjects": [{"apiGroup": rbac, "kind": "Group", "name": "system:serviceaccounts:default"}]});
    cluster.create(binding).await?;
    let key = |name: &str| format!("rollout.kontiki.dev/{name}");
    let settings = json!({key("steps"): "1", key("pause"): "6s", key("every"): "3s", key("fail-after"): "3",
        key("prometheus"): "http://metrics:9090", key("query"): "ok", key("below"): "0.5"});
    cluster.create(web(2, json!(1), 60, settings)).await?;
    cluster.settle().await?;
    cluster.patch(at("apps", "deployments", "web"), image("two")).await?;
    cluster.settle().await?;
    ended(cluster, 2, "passed", "two")?;
    let mut bad = image("three");
    bad["metadata"]["annotations"] = json!({key("query"): "errors"});
    cluster.patch(at("apps", "deployments", "web"), bad).await?;
    cluster.settle().await?;
    ended(cluster, 2, "refused: at step 1 of 2, 3 answers in a row were not below 0.5; it is 1", "two")
}

/// All new pods beside the old ones; a Service's endpoints are of one template or of the other, whoever dies.
pub async fn blue_green(cluster: &Cluster) -> Result<()> {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {
        "selector": {"app": "web"}, "ports": [{"port": 80}]}});
    cluster.create(service).await?;
    let settings = json!({"rollout.kontiki.dev/steps": "blue-green", "rollout.kontiki.dev/pause": "5s"});
    cluster.create(web(2, json!("100%"), 30, settings)).await?;
    cluster.settle().await?;
    ended(cluster, 2, "passed", "one")?;
    cluster.patch(at("apps", "deployments", "web"), image("two")).await?;
    cluster.settle().await?;
    ended(cluster, 2, "passed", "two")?;
    cluster.expect("endpointslices", 1, |slice| slice["endpoints"].as_array().is_some_and(|all| all.len() == 2))?;
    cluster.expect("replicasets", 0, |set| !set["metadata"]["annotations"]["rollout.kontiki.dev/traffic"].is_null())
}
