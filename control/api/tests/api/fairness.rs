//! Who waits and who is refused when there are more requests than seats, over HTTP.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::{World, admin};
use axum::body::Body;
use http::{HeaderMap, Request};
use kontiki_api::fairness::Limits;
use kontiki_api::{Api, User};
use kontiki_machinery::access::{self, AsyncAuthorizer, Attributes, Decision, Said, When};
use kontiki_machinery::admission::{AsyncStep, Lookup, Member, Phase, Request as Asked, Verdict, Waiting};
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/a/configmaps";

/// Everybody may do everything.
struct Anybody;

impl AsyncAuthorizer for Anybody {
    fn authorize<'a>(&'a self, _: &'a User, _: &'a Attributes<'a>, _: When) -> Waiting<'a, Said> {
        Box::pin(std::future::ready(Decision::Allow.into()))
    }
}

/// Never answers.
struct Hangs;

impl AsyncStep for Hangs {
    fn name(&self) -> &'static str {
        "Hangs"
    }

    fn handles(
        &self,
        phase: Phase,
        asked: &Asked<'_>,
        _: &Value,
        _: &mut dyn Lookup,
    ) -> Result<bool, kontiki_api::Status> {
        Ok(phase == Phase::Mutating && asked.creates())
    }

    fn mutate<'a>(
        &'a self,
        _: &'a Asked<'a>,
        _: &'a Value,
        _: Instant,
    ) -> Waiting<'a, Result<Verdict, kontiki_api::Status>> {
        Box::pin(std::future::pending())
    }
}

async fn ask(api: &Api, user: User, method: &str, path: &str) -> (u16, HeaderMap) {
    let body = if method == "POST" { json!({"metadata": {"name": "m"}}).to_string() } else { String::new() };
    let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    let response = api.answer(Some(user), request.body(Body::from(body)).unwrap()).await;
    (response.status().as_u16(), response.headers().clone())
}

fn person(name: &str) -> User {
    User::new(name, &["system:authenticated"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_seat_refuses_and_lets_through_what_is_exempt() {
    let world = World::new().await;
    let api = world.beside(|config| {
        config.limits = Limits { max_requests_inflight: 1, max_mutating_requests_inflight: 0, ..Limits::default() };
        config.authorizers.push(access::Member::Async(Arc::new(Anybody)));
        config.admission.push(Member::Async(Arc::new(Hangs)));
    });
    let busy = {
        let api = api.clone();
        tokio::spawn(async move { ask(&api, person("noisy"), "POST", &format!("{MAPS}?timeout=20s")).await })
    };
    let in_use = "apiserver_flowcontrol_current_executing_requests{priority_level=\"global-default\",flow_schema=\"global-default\"} 1";
    while !metrics(&api).await.lines().any(|line| line == in_use) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (code, headers) = ask(&api, person("quiet"), "GET", &format!("{MAPS}?timeout=200ms")).await;
    assert_eq!((code, headers.get("retry-after").map(|value| value.to_str().unwrap())), (429, Some("1")));
    for (user, path) in [(admin(), MAPS), (person("quiet"), "/livez"), (person("quiet"), "/readyz")] {
        assert_eq!(ask(&api, user, "GET", path).await.0, 200, "{path}");
    }
    // The client goes away: its seat is free.
    busy.abort();
    assert_eq!(ask(&api, person("quiet"), "GET", MAPS).await.0, 200);
}

async fn metrics(api: &Api) -> String {
    let request = Request::get("/metrics").body(Body::empty()).unwrap();
    let response = api.answer(Some(admin()), request).await;
    let bytes = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_says_in_which_flow_the_request_was() {
    let world = World::new().await;
    let level = json!({"metadata": {"name": "own", "uid": "level-uid"}, "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 10}}});
    let schema = json!({"metadata": {"name": "own", "uid": "schema-uid"}, "spec": {"matchingPrecedence": 2, "priorityLevelConfiguration": {"name": "own"},
        "rules": [{"subjects": [{"kind": "User", "user": {"name": "somebody"}}], "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}]}]}});
    world.api.fairness().configure(&[schema], &[level]);
    for path in ["/version", MAPS] {
        // Refused by authorization, which comes after.
        let (_, headers) = ask(&world.api, person("somebody"), "GET", path).await;
        let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(header("x-kubernetes-pf-flowschema-uid").as_deref(), Some("schema-uid"), "{path}");
        assert_eq!(header("x-kubernetes-pf-prioritylevel-uid").as_deref(), Some("level-uid"), "{path}");
    }
}
