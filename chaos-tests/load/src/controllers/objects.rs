//! What controllers are given to do.

use serde_json::{Value, json};

use crate::objects::{NAME, Template};

/// The label by which everything finds its own.
pub const APP: &str = "app";

/// A set's Pods, named alike.
fn template(app: &str, restart: &str) -> Value {
    json!({
        "metadata": { "labels": { APP: app } },
        "spec": {
            "schedulerName": "nobody",
            "restartPolicy": restart,
            "terminationGracePeriodSeconds": 0,
            // A node that has never been ready has taints, and DaemonSets leave it out.
            "tolerations": [{ "operator": "Exists" }],
            "containers": [{
                "name": "app",
                "image": "registry.test/shop/app:1.24.3",
                "resources": { "requests": { "cpu": "100m", "memory": "128Mi" } },
            }],
        },
    })
}

fn set(version: &str, kind: &str, name: &str, mut spec: Value) -> Value {
    spec["selector"] = json!({ "matchLabels": { APP: name } });
    spec["template"] = template(name, "Always");
    json!({ "apiVersion": version, "kind": kind, "metadata": { "name": name }, "spec": spec })
}

pub fn deployment(name: &str, replicas: usize) -> Value {
    set("apps/v1", "Deployment", name, json!({ "replicas": replicas }))
}

pub fn replica_set(name: &str) -> Value {
    set("apps/v1", "ReplicaSet", name, json!({ "replicas": 1 }))
}

pub fn daemon_set(name: &str) -> Value {
    set("apps/v1", "DaemonSet", name, json!({}))
}

pub fn stateful_set(name: &str) -> Value {
    set("apps/v1", "StatefulSet", name, json!({ "replicas": 1, "serviceName": name }))
}

fn job_spec(name: &str, pods: usize) -> Value {
    json!({ "completions": pods, "parallelism": pods, "template": template(name, "Never") })
}

pub fn job(name: &str, pods: usize) -> Value {
    json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name }, "spec": job_spec(name, pods) })
}

/// Of one Pod a Job, due when the schedule says.
pub fn cron_job(name: &str, schedule: &str) -> Value {
    json!({
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": { "name": name },
        "spec": { "schedule": schedule, "timeZone": "UTC", "jobTemplate": { "spec": job_spec(name, 1) } },
    })
}

/// A Service that selects nothing: controllers keep an empty EndpointSlice of it.
pub fn service(name: &str) -> Value {
    let spec = json!({ "selector": { APP: name }, "ports": [{ "port": 80 }] });
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name }, "spec": spec })
}

/// The same object, called [`NAME`], under many names.
pub fn named(object: &Value) -> Template {
    Template::new(&object.to_string(), &[NAME])
}

/// A change of what a Deployment's Pods are.
pub const ROLL: &str = r#"{"spec":{"template":{"metadata":{"labels":{"turn":"2"}}}}}"#;

/// Whether a Deployment is as it is wanted, all Pods of the newest template and available.
pub fn rolled_out(deployment: &Value) -> bool {
    let (status, wanted) = (&deployment["status"], deployment["spec"]["replicas"].as_u64());
    let is = |key: &str| status[key].as_u64() == wanted;
    status["observedGeneration"].as_u64() >= deployment["metadata"]["generation"].as_u64()
        && ["replicas", "updatedReplicas", "availableReplicas"].into_iter().all(is)
}

pub fn complete(job: &Value) -> bool {
    let mut conditions = job["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|one| one["type"] == "Complete" && one["status"] == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_is_rolled_out_when_all_pods_are_new_and_none_is_left() {
        // Generation and the observed one; replicas, updated and available ones.
        for (name, generation, observed, [replicas, updated, available], expected) in [
            ("done", 2, 2, [3, 3, 3], true),
            ("not seen yet", 2, 1, [3, 3, 3], false),
            ("old ones are left", 2, 2, [4, 3, 3], false),
            ("some are old", 2, 2, [3, 2, 3], false),
            ("some are not ready", 2, 2, [3, 3, 2], false),
        ] {
            let status = json!({
                "observedGeneration": observed,
                "replicas": replicas,
                "updatedReplicas": updated,
                "availableReplicas": available,
            });
            let metadata = json!({ "generation": generation });
            let deployment = json!({ "metadata": metadata, "spec": { "replicas": 3 }, "status": status });
            assert_eq!(rolled_out(&deployment), expected, "{name}");
        }
        assert!(!rolled_out(&json!({ "metadata": { "generation": 1 }, "spec": { "replicas": 3 } })));
    }

    #[test]
    fn a_job_is_complete_when_it_says_so() {
        for (kind, status, expected) in
            [("Complete", "True", true), ("Complete", "False", false), ("SuccessCriteriaMet", "True", false)]
        {
            let conditions = json!([{ "type": "Suspended", "status": "False" }, { "type": kind, "status": status }]);
            assert_eq!(complete(&json!({ "status": { "conditions": conditions } })), expected, "{kind} {status}");
        }
        assert!(!complete(&json!({})));
    }
}
