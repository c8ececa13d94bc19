//! What is told of policies: once for each of their generations, by the types that are served then.

use std::time::Duration;

use crate::support::{Master, resource};
use kontiki_api::{PatchKind, Target};
use serde_json::{Value, json};

const SILENCE: Duration = Duration::from_secs(2);
const GROUP: &str = "admissionregistration.k8s.io";
const PLURAL: &str = "validatingadmissionpolicies";

fn policy(name: &str, (group, plural): (&str, &str), validations: Value) -> Value {
    let rule = json!({"operations": ["CREATE"], "apiGroups": [group], "apiVersions": ["v1"], "resources": [plural]});
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": name},
           "spec": {"matchConstraints": {"resourceRules": [rule]}, "validations": validations}})
}

fn at(name: &str) -> Target<'_> {
    Target { resource: resource(GROUP, PLURAL), namespace: None, name, subresource: None }
}

/// What is told of a generation of a policy.
async fn told(master: &Master, name: &str, generation: i64) -> Value {
    master
        .until("the types to be checked", || async {
            let found = master.client.get(at(name)).await.map_err(|status| status.message)?;
            let status = &found["status"];
            let done = status["observedGeneration"] == generation && status["typeChecking"].is_object();
            if done { Ok(status["typeChecking"].clone()) } else { Err(found.to_string()) }
        })
        .await
}

/// The places of warnings, and their first lines.
fn lines(told: &Value) -> Vec<(&str, &str)> {
    let warnings = told["expressionWarnings"].as_array().map(Vec::as_slice).unwrap_or_default();
    warnings
        .iter()
        .map(|it| {
            let line = it["warning"].as_str().and_then(|text| text.lines().next());
            (it["fieldRef"].as_str().unwrap_or_default(), line.unwrap_or_default())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_is_told_of_its_types() {
    let master = Master::start(&[]).await;
    let right = policy("right", ("apps", "deployments"), json!([{"expression": "object.spec.replicas > 1"}]));
    let wrong =
        json!([{"expression": "object.spec.replicas > '1'", "messageExpression": "'got ' + object.spec.replicas"}]);
    let wrong = policy("wrong", ("apps", "deployments"), wrong);
    for object in [right, wrong] {
        master.create(GROUP, PLURAL, None, object).await;
    }
    assert_eq!(told(&master, "right", 1).await, json!({}));
    let overload = "found no matching overload for";
    let more = format!("apps/v1, Kind=Deployment: ERROR: <input>:1:22: {overload} '_>_' applied to '(int, string)'");
    let plus = format!("apps/v1, Kind=Deployment: ERROR: <input>:1:8: {overload} '_+_' applied to '(string, int)'");
    let found = told(&master, "wrong", 1).await;
    let expect = [("spec.validations[0].expression", &*more), ("spec.validations[0].messageExpression", &*plus)];
    assert_eq!(lines(&found), expect);
    master.still(SILENCE).await;

    let mend = json!({"spec": {"validations": [{"expression": "object.spec.replicas > 1"}]}});
    master.client.patch(at("wrong"), PatchKind::Merge, mend).await.unwrap();
    assert_eq!(told(&master, "wrong", 2).await, json!({}));
    let label = json!({"metadata": {"labels": {"touched": "yes"}}});
    master.client.patch(at("wrong"), PatchKind::Merge, label).await.unwrap();
    master.still(SILENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_is_told_of_kinds_that_were_there_before_it() {
    let master = Master::start(&[]).await;
    let spec = json!({"type": "object", "properties": {"replicas": {"type": "integer"}}});
    let schema = json!({"type": "object", "properties": {"spec": spec}});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "crontabs.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "crontabs", "kind": "CronTab"},
                 "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]},
    });
    let definitions = resource("apiextensions.k8s.io", "customresourcedefinitions");
    master.client.create(definitions, None, definition).await.unwrap();
    let at = Target { resource: definitions, namespace: None, name: "crontabs.example.com", subresource: None };
    master
        .until("the kind", || async {
            let found = master.client.get(at).await.map_err(|status| status.message)?;
            let conditions = found["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let there = conditions.iter().any(|it| it["type"] == "Established" && it["status"] == "True");
            if there { Ok(()) } else { Err(found.to_string()) }
        })
        .await;
    let validations = json!([
        {"expression": "object.spec.replicas > '1'"}, {"expression": "object.spec.maxRetries < 10"},
        {"expression": "object.spec.replicas > 1"},
    ]);
    master.create(GROUP, PLURAL, None, policy("custom", ("example.com", "crontabs"), validations)).await;
    let found = told(&master, "custom", 1).await;
    let of = |text: &str| format!("example.com/v1, Kind=CronTab: ERROR: <input>:1:{text}");
    let first = of("22: found no matching overload for '_>_' applied to '(int, string)'");
    let second = of("12: undefined field 'maxRetries'");
    let expect = [("spec.validations[0].expression", &*first), ("spec.validations[1].expression", &*second)];
    assert_eq!(lines(&found), expect);
    master.still(SILENCE).await;
}
