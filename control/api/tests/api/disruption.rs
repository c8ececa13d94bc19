//! Evictions beside budgets, second views of one store, and what a delete warns of.

use crate::common::{World, admin};
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/a/pods";
const BUDGETS: &str = "/apis/policy/v1/namespaces/a/poddisruptionbudgets";
const SECOND: &str = "/apis/autoscaling/v2/namespaces/a/horizontalpodautoscalers";
const FIRST: &str = "/apis/autoscaling/v1/namespaces/a/horizontalpodautoscalers";

async fn running(world: &World, name: &str) {
    let spec = json!({"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]});
    world.post(PODS, json!({"metadata": {"name": name, "labels": {"a": "b"}}, "spec": spec})).await;
    let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    assert_eq!(world.merge(&format!("{PODS}/{name}/status"), status).await.0, 200);
}

async fn evict(world: &World, name: &str, query: &str) -> (u16, Value) {
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
    world.ask("POST", &format!("{PODS}/{name}/eviction{query}"), eviction).await
}

async fn allow(world: &World, disruptions: i64) {
    let counts = json!({"observedGeneration": 1, "disruptionsAllowed": disruptions, "currentHealthy": 2, "desiredHealthy": 1,
                        "expectedPods": 2, "disruptedPods": null, "conditions": null});
    let (code, body) = world.merge(&format!("{BUDGETS}/web/status"), json!({"status": counts})).await;
    assert_eq!(code, 200, "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_eviction_is_charged_to_the_budget_or_refused() {
    let world = World::new().await;
    for name in ["one", "two"] {
        running(&world, name).await;
    }
    let budget = json!({"metadata": {"name": "web"}, "spec": {"selector": {"matchLabels": {"a": "b"}}}});
    world.post(BUDGETS, budget.clone()).await;
    let (code, unseen) = evict(&world, "one", "").await;
    assert_eq!((code, &unseen["details"]["retryAfterSeconds"]), (429, &json!(10)));
    allow(&world, 0).await;
    let (code, refused) = evict(&world, "one", "").await;
    let cause = &refused["details"]["causes"][0];
    assert_eq!(
        (code, &refused["reason"], &cause["reason"]),
        (429, &json!("TooManyRequests"), &json!("DisruptionBudget"))
    );
    assert_eq!(cause["message"], "The disruption budget web needs 1 healthy pods and has 2 currently");
    assert_eq!(world.get(&format!("{PODS}/one")).await.1["metadata"]["deletionTimestamp"], Value::Null);

    allow(&world, 1).await;
    assert_eq!(evict(&world, "one", "?dryRun=All").await.0, 201);
    assert_eq!(world.get(&format!("{BUDGETS}/web")).await.1["status"]["disruptionsAllowed"], 1, "nothing was written");
    // Two at once: one budget.
    let both = futures::join!(evict(&world, "one", ""), evict(&world, "two", ""));
    let mut codes = [both.0.0, both.1.0];
    codes.sort_unstable();
    assert_eq!(codes, [201, 429]);
    let status = world.get(&format!("{BUDGETS}/web")).await.1["status"].clone();
    assert_eq!((&status["disruptionsAllowed"], status["disruptedPods"].as_object().unwrap().len()), (&json!(0), 1));
    assert_eq!(status["conditions"][0]["reason"], "InsufficientPods");
    let gone = if both.0.0 == 201 { "one" } else { "two" };
    let pod = world.get(&format!("{PODS}/{gone}")).await.1;
    let marks = pod["status"]["conditions"].as_array().unwrap();
    assert!(marks.iter().any(|mark| mark["type"] == "DisruptionTarget" && mark["reason"] == "EvictionByEvictionAPI"));
    assert!(pod["metadata"]["deletionTimestamp"].is_string());

    let mut another = budget;
    another["metadata"]["name"] = "other".into();
    world.post(BUDGETS, another).await;
    let left = if gone == "one" { "two" } else { "one" };
    let (code, several) = evict(&world, left, "").await;
    assert_eq!(code, 500);
    assert!(several["message"].as_str().unwrap().starts_with("This pod has more than one PodDisruptionBudget"));
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_of_an_autoscaler_are_one_object() {
    let world = World::new().await;
    let target = json!({"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"});
    let metric = json!({"type": "Pods", "pods": {"metric": {"name": "rps"}, "target": {"type": "AverageValue", "averageValue": "1k"}}});
    let spec = json!({"maxReplicas": 3, "scaleTargetRef": target, "metrics": [metric]});
    world.post(SECOND, json!({"metadata": {"name": "web"}, "spec": spec})).await;
    let (code, first) = world.get(&format!("{FIRST}/web")).await;
    assert_eq!((code, &first["apiVersion"]), (200, &json!("autoscaling/v1")));
    let told = first["metadata"]["annotations"]["autoscaling.alpha.kubernetes.io/metrics"].as_str().unwrap();
    assert_eq!(told, r#"[{"type":"Pods","pods":{"metricName":"rps","targetAverageValue":"1k"}}]"#);
    let cpu = json!({"spec": {"targetCPUUtilizationPercentage": 70, "maxReplicas": 4}});
    assert_eq!(world.merge(&format!("{FIRST}/web"), cpu).await.0, 200);
    let second = world.get(&format!("{SECOND}/web")).await.1;
    assert_eq!(second["spec"]["maxReplicas"], 4);
    assert_eq!(second["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 70);
    assert_eq!(second["spec"]["metrics"][1], metric, "what v1 cannot say is kept");
    assert_eq!(second["metadata"]["annotations"], Value::Null);
    let event = world.first_event(&format!("{FIRST}?watch=1&resourceVersion=0")).await;
    assert_eq!(event["object"]["apiVersion"], "autoscaling/v1");
    let (_, group) = world.get("/apis/autoscaling").await;
    let versions: Vec<&str> =
        group["versions"].as_array().unwrap().iter().filter_map(|v| v["version"].as_str()).collect();
    assert_eq!((versions, &group["preferredVersion"]["version"]), (vec!["v2", "v1"], &json!("v2")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_deleted_without_a_policy_warns_that_its_pods_stay() {
    let world = World::new().await;
    let jobs = "/apis/batch/v1/namespaces/a/jobs";
    let pod = json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}});
    for (name, query, warned) in [
        ("one", "", true),
        ("two", "?propagationPolicy=Background", false),
        ("three", "?propagationPolicy=Orphan", false),
    ] {
        world.post(jobs, json!({"metadata": {"name": name}, "spec": {"template": pod}})).await;
        let request = http::Request::delete(format!("{jobs}/{name}{query}")).body(axum::body::Body::empty()).unwrap();
        let response = world.api.answer(Some(admin()), request).await;
        let warnings: Vec<_> = response.headers().get_all("warning").iter().collect();
        let found = warnings.iter().any(|text| text.to_str().unwrap().contains("child pods are preserved by default"));
        assert_eq!(found, warned, "{name}: {warnings:?}");
    }
}
