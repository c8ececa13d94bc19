//! MutatingAdmissionPolicies in the chain, beside webhooks.

use std::sync::Arc;

use futures::FutureExt as _;
use kontiki_api::clock::System;
use kontiki_api::{Api, Outbound};
use kontiki_kinds::{backends::Services, policies, webhooks};
use kontiki_machinery::outcall::Caller;
use serde_json::{Value, json};

use crate::common::{World, admin, ask_of};
use crate::webhooks::server::{Loopback, Server, patched};

const MAPS: &str = "/api/v1/namespaces/a/configmaps";
const REGISTRATION: &str = "/apis/admissionregistration.k8s.io/v1";

fn api(world: &World) -> Api {
    let outbound = Outbound::new(world.store.clone(), Arc::new(Loopback), Arc::new(Services), Arc::new(System), None);
    let outbound: Arc<dyn Caller> = outbound;
    world.beside(|config| {
        config.admission.push(policies::mutating(&config.registry));
        config.admission.extend(webhooks::members(&config.registry, &outbound));
    })
}

async fn ask(api: &Api, method: &str, path: &str, body: Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    ask_of(api, Some(admin()), (method, path, "application/json"), body).await
}

fn rule() -> Value {
    json!({"operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]})
}

fn policy(name: &str, again: &str, expression: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "matchConstraints": {"resourceRules": [rule()]}, "reinvocationPolicy": again,
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}]}})
}

/// Makes a policy and its binding, and waits until `api` knows of them.
async fn bind(api: &Api, policy: Value) {
    let name = policy["metadata"]["name"].clone();
    let (code, made) = ask(api, "POST", &format!("{REGISTRATION}/mutatingadmissionpolicies"), policy).await;
    assert_eq!(code, 201, "{made}");
    let binding = json!({"metadata": {"name": name}, "spec": {"policyName": name}});
    let (code, made) = ask(api, "POST", &format!("{REGISTRATION}/mutatingadmissionpolicybindings"), binding).await;
    assert_eq!(code, 201, "{made}");
    api.cache().wait_for(api.store().snapshot().revision()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_come_before_webhooks_and_again_if_they_wish() {
    let world = World::new().await;
    let api = api(&world);
    let server = Server::new(|_, review| {
        async move { patched(&review, json!([{"op": "add", "path": "/data/hook", "value": "x"}])) }.boxed()
    })
    .await;
    let count = |key: &str| format!("[JSONPatch{{op: 'add', path: '/data/{key}', value: string(size(object.data))}}]");
    bind(&api, policy("a", "IfNeeded", &count("again"))).await;
    bind(&api, policy("b", "Never", &count("once"))).await;
    let hook = json!({"name": "h.example.com", "clientConfig": server.by_url("/h"), "rules": [rule()],
        "sideEffects": "None", "admissionReviewVersions": ["v1"]});
    let hooks = json!({"metadata": {"name": "h"}, "webhooks": [hook]});
    assert_eq!(ask(&api, "POST", &format!("{REGISTRATION}/mutatingwebhookconfigurations"), hooks).await.0, 201);
    api.cache().wait_for(api.store().snapshot().revision()).await;
    let (code, made) = ask(&api, "POST", MAPS, json!({"metadata": {"name": "m"}, "data": {"a": "1"}})).await;
    let seen = server.take()[0].1["request"]["object"]["data"].clone();
    assert_eq!(seen, json!({"a": "1", "again": "1", "once": "2"}), "the webhook sees what policies made");
    let data = json!({"a": "1", "again": "4", "once": "2", "hook": "x"});
    assert_eq!((code, &made["data"]), (201, &data), "{made}");
    let owned = made["metadata"]["managedFields"][0]["fieldsV1"]["f:data"].as_object().unwrap();
    let owned: Vec<&String> = owned.keys().collect();
    assert_eq!(owned, [".", "f:a"], "what policies add is nobody's");
    let (_, stored) = ask(&api, "GET", &format!("{MAPS}/m"), Value::Null).await;
    assert_eq!(stored["data"], data);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_fails_refuses_and_one_that_says_nonsense_is_not_stored() {
    let world = World::new().await;
    let api = api(&world);
    bind(&api, policy("p", "Never", "[JSONPatch{op: 'add', path: '/data/x', value: object.data.nope}]")).await;
    let (code, refused) = ask(&api, "POST", MAPS, json!({"metadata": {"name": "m"}, "data": {"a": "1"}})).await;
    let why = "policy 'p' with binding 'p' denied request: expression '[JSONPatch{op: 'add', path: '/data/x', value: object.data.nope}]' resulted in error: no such key: nope";
    assert_eq!(
        (code, &refused["reason"], refused["message"].as_str()),
        (403, &json!("Invalid"), Some(why)),
        "{refused}"
    );
    assert_eq!(ask(&api, "GET", &format!("{MAPS}/m"), Value::Null).await.0, 404);
    let (code, refused) =
        ask(&api, "POST", &format!("{REGISTRATION}/mutatingadmissionpolicies"), policy("q", "Never", "[]")).await;
    let cause = &refused["details"]["causes"][0];
    assert_eq!((code, &cause["field"]), (422, &json!("spec.mutations[0].jsonPatch.expression")), "{refused}");
    let why = "must evaluate to list(JSONPatch) but got list(dyn)";
    assert!(cause["message"].as_str().unwrap().ends_with(why), "{refused}");
}
