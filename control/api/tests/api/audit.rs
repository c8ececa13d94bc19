//! What is recorded of requests.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use futures::FutureExt as _;
use http::Request;
use kontiki_api::audit::Sink;
use kontiki_api::clock::System;
use kontiki_api::{Api, Outbound};
use kontiki_kinds::{backends::Services, policies, webhooks};
use kontiki_machinery::audit::Policy;
use kontiki_machinery::outcall::Caller;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::common::{World, admin, ask_of};
use crate::webhooks::server::{Loopback, Reply, Server, allowed, patched};

const MAPS: &str = "/api/v1/namespaces/a/configmaps";

#[derive(Default)]
struct Records(Mutex<Vec<Value>>);

impl Sink for Records {
    fn record(&self, event: &Value) {
        self.0.lock().push(event.clone());
    }
}

impl Records {
    /// Level, stage, verb and code of those made so far, which are forgotten.
    fn take(&self) -> Vec<String> {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let show = |event: Value| {
            let code = &event["responseStatus"]["code"];
            [&event["level"], &event["stage"], &event["verb"], code].map(text).join(" ")
        };
        self.0.lock().drain(..).map(show).collect()
    }
}

fn audited(world: &World, rules: Value) -> (Api, Arc<Records>) {
    let (api, records) = (world.beside(|_| {}), Arc::new(Records::default()));
    let policy = json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules});
    api.audit(Policy::read(policy).unwrap(), records.clone());
    (api, records)
}

async fn ask(api: &Api, method: &str, path: &str, body: Value) -> u16 {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    ask_of(api, Some(admin()), (method, path, "application/json"), body).await.0
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_recorded_as_the_policy_says() {
    let world = World::new().await;
    let (api, records) = audited(
        &world,
        json!([
            {"level": "None", "nonResourceURLs": ["/livez*"]},
            {"level": "RequestResponse", "verbs": ["create"], "resources": [{"group": "", "resources": ["configmaps"]}]},
            {"level": "Metadata", "omitStages": ["RequestReceived"]},
        ]),
    );
    assert_eq!(ask(&api, "GET", "/livez", Value::Null).await, 200);
    assert!(records.take().is_empty(), "what is left out");
    assert_eq!(ask(&api, "POST", MAPS, json!({"metadata": {"name": "m"}, "data": {"a": "b"}})).await, 201);
    let made = records.0.lock().last().cloned().unwrap();
    assert_eq!(
        (&made["requestObject"]["data"], &made["responseObject"]["data"]),
        (&json!({"a": "b"}), &json!({"a": "b"}))
    );
    assert_eq!((&made["user"]["username"], &made["objectRef"]["resource"]), (&json!("admin"), &json!("configmaps")));
    assert_eq!(
        records.take(),
        ["RequestResponse RequestReceived create null", "RequestResponse ResponseComplete create 201"]
    );
    for (method, path, expect) in [
        ("GET", format!("{MAPS}/m"), "Metadata ResponseComplete get 200"),
        ("GET", format!("{MAPS}/absent"), "Metadata ResponseComplete get 404"),
        ("GET", MAPS.to_owned(), "Metadata ResponseComplete list 200"),
        ("GET", "/version".to_owned(), "Metadata ResponseComplete get 200"),
        ("DELETE", format!("{MAPS}/m"), "Metadata ResponseComplete delete 200"),
    ] {
        ask(&api, method, &path, Value::Null).await;
        assert_eq!(records.take(), [expect], "{method} {path}");
    }
    assert_eq!(ask(&api, "POST", MAPS, json!({"metadata": {"name": "No"}})).await, 422);
    let refused = records.0.lock().last().cloned().unwrap();
    assert_eq!(
        (&refused["responseStatus"]["reason"], &refused["responseStatus"]["code"]),
        (&json!("Invalid"), &json!(422))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_is_recorded_when_it_begins_and_when_its_client_goes() {
    let world = World::new().await;
    let (api, records) = audited(&world, json!([{"level": "Metadata", "omitStages": ["RequestReceived"]}]));
    let request = Request::get(format!("{MAPS}?watch=true")).header("audit-id", "given").body(Body::empty()).unwrap();
    let watch = api.answer(Some(admin()), request).await;
    assert_eq!(watch.headers().get("audit-id").map(|id| id.as_bytes()), Some(&b"given"[..]));
    assert_eq!(records.0.lock().last().map(|event| event["auditID"].clone()), Some(json!("given")));
    assert_eq!(records.take(), ["Metadata ResponseStarted watch 200"]);
    drop(watch);
    while records.0.lock().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(records.take(), ["Metadata ResponseComplete watch 200"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_tell_what_admission_has_to_say() {
    let world = World::new().await;
    let server = Server::new(|path, review| {
        async move {
            let change = json!([{"op": "add", "path": "/data/b", "value": "x"}]);
            match path.split('?').next().unwrap_or_default() {
                "/mutate" => patched(&review, change),
                "/gone" => Reply::Plain(500, ""),
                _ => allowed(&review, json!({"auditAnnotations": {"k": "v"}})),
            }
        }
        .boxed()
    })
    .await;
    let outbound = Outbound::new(world.store.clone(), Arc::new(Loopback), Arc::new(Services), Arc::new(System), None);
    let outbound: Arc<dyn Caller> = outbound;
    let records = Arc::new(Records::default());
    let api = world.beside(|config| {
        config.admission.push(policies::mutating(&config.registry));
        config.admission.push(policies::member(&config.registry));
        config.admission.extend(webhooks::members(&config.registry, &outbound));
    });
    let rules = json!([
        {"level": "None", "resources": [{"group": "admissionregistration.k8s.io"}]},
        {"level": "Request", "verbs": ["create"], "omitStages": ["RequestReceived"]},
        {"level": "Metadata", "omitStages": ["RequestReceived"]}]);
    let policy = json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules});
    api.audit(Policy::read(policy).unwrap(), records.clone());

    let rule = json!({"operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]});
    let hook = |path: &str| {
        json!({"name": format!("{path}.example.com"), "clientConfig": server.by_url(&format!("/{path}")), "rules": [rule],
            "sideEffects": "None", "admissionReviewVersions": ["v1"], "failurePolicy": "Ignore"})
    };
    let hooks = |paths: &[&str]| json!({"metadata": {"name": "h"}, "webhooks": paths.iter().map(|path| hook(path)).collect::<Vec<_>>()});
    let registration = "/apis/admissionregistration.k8s.io/v1";
    let judged = json!({"metadata": {"name": "p"}, "spec": {"matchConstraints": {"resourceRules": [rule]},
        "validations": [{"expression": "!('bad' in object.data)", "message": "no bad"}],
        "auditAnnotations": [{"key": "count", "valueExpression": "string(size(object.data))"}, {"key": "none", "valueExpression": "null"}]}});
    let bound = json!({"metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": ["Audit"]}});
    for (resource, object) in [
        ("mutatingwebhookconfigurations", hooks(&["gone", "mutate"])),
        ("validatingwebhookconfigurations", hooks(&["judge"])),
        ("validatingadmissionpolicies", judged),
        ("validatingadmissionpolicybindings", bound),
    ] {
        assert_eq!(ask(&api, "POST", &format!("{registration}/{resource}"), object).await, 201, "{resource}");
    }
    api.cache().wait_for(api.store().snapshot().revision()).await;
    let map = |name: &str| json!({"metadata": {"name": name}, "data": {"bad": "1"}});
    assert_eq!(ask(&api, "POST", MAPS, map("m")).await, 201);
    let annotations = records.0.lock().last().unwrap()["annotations"].clone();
    let turn =
        |name: &str, what: &str| format!("{{\"configuration\":\"h\",\"webhook\":\"{name}.example.com\",{what}}}");
    let patch = "\"patch\":[{\"op\":\"add\",\"path\":\"/data/b\",\"value\":\"x\"}],\"patchType\":\"JSONPatch\"";
    let failure = "[{\"message\":\"no bad\",\"policy\":\"p\",\"binding\":\"b\",\"expressionIndex\":0,\"validationActions\":[\"Audit\"]}]";
    let expect = json!({
        "failed-open.mutation.webhook.admission.k8s.io/round_0_index_0": "gone.example.com",
        "judge.example.com/k": "v",
        "mutation.webhook.admission.k8s.io/round_0_index_0": turn("gone", "\"mutated\":false"),
        "mutation.webhook.admission.k8s.io/round_0_index_1": turn("mutate", "\"mutated\":true"),
        "p/count": "2",
        "patch.webhook.admission.k8s.io/round_0_index_1": turn("mutate", patch),
        "validation.policy.admission.k8s.io/validation_failure": failure,
    });
    assert_eq!(annotations, expect);
    records.take();
    assert_eq!(ask(&api, "PUT", &format!("{MAPS}/m"), map("m")).await, 200);
    let annotations = records.0.lock().last().unwrap()["annotations"].clone();
    let patches = annotations.as_object().unwrap().keys().filter(|key| key.starts_with("patch.")).count();
    assert_eq!((patches, &annotations["p/count"]), (0, &json!("2")), "patches hold parts of objects: {annotations}");
}
