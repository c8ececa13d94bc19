//! Kinds whose pods come to an end.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::{holds, template};
use crate::cluster::{Cluster, at};

/// Longer than a Job waits after pods of it failed.
const BACKOFF: Duration = Duration::from_secs(60);

fn spec(mut spec: Value, annotations: Value) -> Value {
    spec["template"] = template("job", "one", annotations);
    spec["template"]["spec"]["restartPolicy"] = "Never".into();
    spec
}

fn job(spec: Value) -> Value {
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "sum"}, "spec": spec})
}

fn is_held(pod: &Value) -> bool {
    !pod["metadata"]["finalizers"].is_null()
}

/// Of three indexes one fails once, and another as often as it may.
pub async fn indexed(cluster: &Cluster) -> Result<()> {
    let fails = json!({"walk/seconds": "2", "walk/failing": "1", "walk/fails": "1"});
    let wanted = json!({"completions": 3, "parallelism": 2, "completionMode": "Indexed", "backoffLimitPerIndex": 1});
    cluster.create(job(spec(wanted, fails))).await?;
    cluster.rest(BACKOFF).await?;
    cluster.expect("jobs", 1, |job| holds(job, "Complete") && job["status"]["completedIndexes"] == "0-2")?;
    let fails = json!({"walk/seconds": "2", "walk/failing": "1", "walk/fails": "9"});
    let wanted = json!({"completions": 2, "parallelism": 2, "completionMode": "Indexed", "backoffLimitPerIndex": 0});
    let mut other = job(spec(wanted, fails));
    other["metadata"]["name"] = "some".into();
    cluster.create(other).await?;
    cluster.rest(BACKOFF).await?;
    cluster.expect("jobs", 1, |job| holds(job, "Failed") && job["status"]["failedIndexes"] == "1")?;
    cluster.expect("pods", 0, is_held)
}

/// Three pods succeed, after one that failed.
pub async fn counted(cluster: &Cluster) -> Result<()> {
    let fails = json!({"walk/seconds": "2", "walk/fails": "1"});
    cluster.create(job(spec(json!({"completions": 3, "parallelism": 2, "backoffLimit": 3}), fails))).await?;
    cluster.rest(BACKOFF).await?;
    cluster.expect("jobs", 1, |job| {
        holds(job, "Complete") && job["status"]["succeeded"] == 3 && job["status"]["failed"] == 1
    })?;
    cluster.expect("pods", 4, |_| true)?;
    cluster.expect("pods", 0, is_held)
}

/// A Job goes some time after its end, and its pod with it; another goes in the midst of its work.
pub async fn finished(cluster: &Cluster) -> Result<()> {
    let ends = json!({"walk/seconds": "2"});
    cluster.create(job(spec(json!({"ttlSecondsAfterFinished": 20}), ends))).await?;
    cluster.rest(Duration::from_secs(40)).await?;
    cluster.expect("jobs", 0, |_| true)?;
    cluster.expect("pods", 0, |_| true)?;
    cluster.create(job(spec(json!({"parallelism": 2, "completions": 2}), json!({})))).await?;
    cluster.settle().await?;
    cluster.expect("pods", 2, is_held)?;
    cluster.delete(at("batch", "jobs", "sum"), Some(kontiki_api::Propagation::Background)).await?;
    cluster.settle().await?;
    cluster.expect("pods", 0, |_| true)
}

/// Two runs, each longer than a minute, one after the other.
pub async fn cron(cluster: &Cluster) -> Result<()> {
    let template = json!({"spec": spec(json!({}), json!({"walk/seconds": "70"}))});
    let cron = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "tick"}, "spec": {
        "schedule": "* * * * *", "concurrencyPolicy": "Forbid", "jobTemplate": template}});
    cluster.create(cron).await?;
    // The first run lasts beyond the second minute; the second begins then, ten seconds late, and lasts beyond the third.
    cluster.until(165).await;
    cluster.patch(at("batch", "cronjobs", "tick"), json!({"spec": {"suspend": true}})).await?;
    cluster.rest(Duration::from_secs(90)).await?;
    cluster.expect("jobs", 2, |job| holds(job, "Complete"))?;
    cluster.expect("jobs", 2, |_| true)?;
    cluster.expect("cronjobs", 1, |cron| cron["status"]["active"].is_null())
}
