//! Jobs, CronJobs and disruption budgets, against real controllers, scheduler, API and store.

use std::time::Duration;

use crate::support::{Master, resource};
use kontiki_api::{PatchKind, Target};
use kontiki_plan::pod;
use serde_json::{Value, json};

const SILENCE: Duration = Duration::from_secs(2);

fn at<'a>(group: &'static str, plural: &'static str, name: &'a str) -> Target<'a> {
    Target { resource: resource(group, plural), namespace: Some("default"), name, subresource: None }
}

async fn ready(master: &Master) {
    let account = at("", "serviceaccounts", "default");
    master.until("the account", || async { master.client.get(account).await.map_err(|s| s.message) }).await;
}

fn template() -> Value {
    json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}})
}

fn job(name: &str, spec: Value) -> Value {
    let mut job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec});
    job["spec"]["template"] = template();
    job
}

/// Ends all pods that run.
async fn end_pods(master: &Master, phase: &str) {
    for pod in master.pods().iter().filter(|pod| pod::active(pod) && pod::ready(pod)) {
        let name = pod.metadata.name.as_deref().unwrap();
        let target = Target { subresource: Some("status"), ..at("", "pods", name) };
        let status = json!({"status": {"phase": phase, "conditions": [{"type": "Ready", "status": "False"}]}});
        master.client.patch(target, PatchKind::Merge, status).await.unwrap();
    }
}

async fn until_status(master: &Master, target: Target<'_>, what: &str, good: impl Fn(&Value) -> bool) -> Value {
    master
        .until(what, || async {
            let found = master.client.get(target).await.map_err(|status| status.message)?;
            if good(&found["status"]) { Ok(found) } else { Err(found["status"].to_string()) }
        })
        .await
}

fn holds(status: &Value, kind: &str) -> bool {
    let conditions = status["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == kind && condition["status"] == "True")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_indexed_job_counts_each_index_and_rests() {
    let master = Master::start(&["n1"]).await;
    ready(&master).await;
    let spec = json!({"completions": 3, "parallelism": 2, "completionMode": "Indexed"});
    master.create("batch", "jobs", Some("default"), job("sum", spec)).await;
    let sum = at("batch", "jobs", "sum");
    until_status(&master, sum, "two pods", |status| status["ready"] == 2).await;
    end_pods(&master, "Succeeded").await;
    until_status(&master, sum, "the third pod", |status| status["ready"] == 1 && status["succeeded"] == 2).await;
    end_pods(&master, "Succeeded").await;
    let done = until_status(&master, sum, "the end", |status| holds(status, "Complete")).await;
    assert_eq!((&done["status"]["completedIndexes"], &done["status"]["succeeded"]), (&json!("0-2"), &json!(3)));
    assert!(done["status"]["completionTime"].is_string() && holds(&done["status"], "SuccessCriteriaMet"));
    assert!(master.pods().iter().all(|pod| pod.metadata.finalizers.is_none()), "no pod waits to be counted");
    master.still(SILENCE).await;
    assert_eq!(master.pods().len(), 3, "no index twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_may_not_fail_fails_and_goes_when_its_time_is_over() {
    let master = Master::start(&["n1"]).await;
    ready(&master).await;
    let spec = json!({"backoffLimit": 0, "ttlSecondsAfterFinished": 3});
    master.create("batch", "jobs", Some("default"), job("once", spec)).await;
    let once = at("batch", "jobs", "once");
    until_status(&master, once, "its pod", |status| status["ready"] == 1).await;
    end_pods(&master, "Failed").await;
    let failed = until_status(&master, once, "the failure", |status| holds(status, "Failed")).await;
    assert_eq!(failed["status"]["failed"], 1);
    master
        .until("its end", || async {
            match master.client.get(once).await {
                Err(status) if status.is_not_found() && master.pods().is_empty() => Ok(()),
                other => Err(format!("{other:?}, {} pods", master.pods().len())),
            }
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cronjob_makes_its_job_and_notes_that_it_succeeded() {
    let master = Master::start(&["n1"]).await;
    ready(&master).await;
    let cron = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "tick"}, "spec": {
        "schedule": "@every 2s", "concurrencyPolicy": "Forbid", "jobTemplate": {"spec": {"template": template()}}}});
    master.create("batch", "cronjobs", Some("default"), cron).await;
    let tick = at("batch", "cronjobs", "tick");
    until_status(&master, tick, "its job", |status| status["active"].as_array().is_some_and(|jobs| jobs.len() == 1))
        .await;
    let suspend = json!({"spec": {"suspend": true}});
    master.client.patch(tick, PatchKind::Merge, suspend).await.unwrap();
    master
        .until("its pod", || async {
            let running = master.pods().iter().filter(|pod| pod::ready(pod)).count();
            if running == 1 { Ok(()) } else { Err(format!("{running} run")) }
        })
        .await;
    end_pods(&master, "Succeeded").await;
    let done = until_status(&master, tick, "the success", |status| status["lastSuccessfulTime"].is_string()).await;
    assert!(done["status"]["lastScheduleTime"].is_string());
    until_status(&master, tick, "the end", |status| status["active"].is_null()).await;
    master.still(SILENCE).await;
}

async fn evict(master: &Master) -> Result<String, u16> {
    let pods = master.pods();
    let pod = pods.iter().find(|pod| pod::active(pod) && pod::ready(pod)).unwrap();
    let name = pod.metadata.name.clone().unwrap();
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
    let target = Target { subresource: Some("eviction"), ..at("", "pods", &name) };
    master.client.create_sub(target, eviction).await.map(|_| name.clone()).map_err(|status| status.code)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evictions_wait_for_the_budget() {
    let master = Master::start(&["n1"]).await;
    ready(&master).await;
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
        "replicas": 2, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    master.create("apps", "deployments", Some("default"), deployment).await;
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"},
                        "spec": {"maxUnavailable": 0, "selector": {"matchLabels": {"app": "web"}}}});
    master.create("policy", "poddisruptionbudgets", Some("default"), budget).await;
    let web = at("policy", "poddisruptionbudgets", "web");
    let healthy = |status: &Value| status["currentHealthy"] == 2 && status["expectedPods"] == 2;
    until_status(&master, web, "two healthy pods", healthy).await;
    assert_eq!(evict(&master).await, Err(429));
    let one = json!({"spec": {"maxUnavailable": 1}});
    master.client.patch(web, PatchKind::Merge, one).await.unwrap();
    until_status(&master, web, "a budget", |status| status["disruptionsAllowed"] == 1).await;
    let gone = evict(&master).await.unwrap();
    let spent =
        |status: &Value| status["disruptionsAllowed"] == 1 && healthy(status) && status["disruptedPods"].is_null();
    until_status(&master, web, "the pod's successor", spent).await;
    assert!(master.pods().iter().all(|pod| pod.metadata.name.as_deref() != Some(&gone)));
    master.still(SILENCE).await;
}
