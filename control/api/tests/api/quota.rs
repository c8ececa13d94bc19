//! Steps of admission that change other objects along with the one that is written, over a real store.

use std::collections::BTreeMap;

use crate::common::{World, admin, ask_of};
use kontiki_api::Api;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/a/configmaps";
const QUOTAS: &str = "/api/v1/namespaces/a/resourcequotas";
const SERVICES: &str = "/api/v1/namespaces/a/services";

/// A quota whose status says that nothing is taken yet.
async fn quota(world: &World, name: &str, hard: Value) {
    let none: BTreeMap<&String, &str> = hard.as_object().unwrap().keys().map(|name| (name, "0")).collect();
    world.post(QUOTAS, json!({"metadata": {"name": name}, "spec": {"hard": hard}})).await;
    let status = json!({"status": {"hard": hard, "used": none}});
    let (code, answer) = world.merge(&format!("{QUOTAS}/{name}/status"), status).await;
    assert_eq!(code, 200, "{answer}");
}

async fn create(api: &Api, path: &str, object: Value) -> (u16, Value) {
    ask_of(api, Some(admin()), ("POST", path, "application/json"), object.to_string()).await
}

async fn used(world: &World, name: &str) -> Value {
    world.get(&format!("{QUOTAS}/{name}")).await.1["status"]["used"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_creates_through_all_masters_leave_exactly_what_the_quota_allows() {
    let world = World::new().await;
    quota(&world, "q", json!({"count/configmaps": "50"})).await;
    // Each has chains of its own, as a master has.
    let masters = [world.api.clone(), world.beside(|_| ()), world.beside(|_| ())];
    let mut creates = Vec::new();
    for number in 0..200 {
        let api = masters[number % masters.len()].clone();
        // Some want the same name: what fails in the middle of a chain breaks it.
        let name = format!("m{}", if number % 10 == 9 { number - 1 } else { number });
        creates.push(tokio::spawn(async move { create(&api, MAPS, json!({"metadata": {"name": name}})).await }));
    }
    let mut codes: BTreeMap<u16, usize> = BTreeMap::new();
    for create in creates {
        let (code, answer) = create.await.unwrap();
        *codes.entry(code).or_default() += 1;
        match code {
            403 => {
                let why = "exceeded quota: q, requested: count/configmaps=1, used: count/configmaps=50, limited: count/configmaps=50";
                assert!(answer["message"].as_str().unwrap().ends_with(why), "{answer}");
            }
            201 | 409 => {}
            _ => panic!("{code}: {answer}"),
        }
    }
    assert_eq!(codes[&201], 50, "{codes:?}");
    assert_eq!(used(&world, "q").await, json!({"count/configmaps": "50"}));
    assert_eq!(world.get(MAPS).await.1["items"].as_array().map(Vec::len), Some(50));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_written_is_not_charged() {
    let world = World::new().await;
    quota(&world, "q", json!({"count/configmaps": "5", "services": "1", "services.nodeports": "1"})).await;
    world.post(MAPS, json!({"metadata": {"name": "one"}})).await;
    for (path, code) in [(format!("{MAPS}?dryRun=All"), 201), (MAPS.to_owned(), 409)] {
        let name = if code == 201 { "two" } else { "one" };
        let (found, answer) = create(&world.api, &path, json!({"metadata": {"name": name}})).await;
        assert_eq!(found, code, "{answer}");
    }
    assert_eq!(used(&world, "q").await["count/configmaps"], "1");
    world.post(SERVICES, json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}})).await;
    assert_eq!(used(&world, "q").await["services.nodeports"], "0");
    let one = format!("{SERVICES}/s");
    let (code, answer) = world.merge(&one, json!({"spec": {"type": "NodePort"}})).await;
    assert_eq!((code, &used(&world, "q").await["services.nodeports"]), (200, &json!("1")), "{answer}");
    let more = json!({"spec": {"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "b"}]}});
    let (code, answer) = world.merge(&one, more).await;
    assert_eq!(code, 403, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_quotas_are_charged_together_or_not_at_all() {
    let world = World::new().await;
    quota(&world, "p", json!({"count/configmaps": "9"})).await;
    quota(&world, "q", json!({"count/configmaps": "1"})).await;
    world.post(MAPS, json!({"metadata": {"name": "one"}})).await;
    let (code, answer) = create(&world.api, MAPS, json!({"metadata": {"name": "two"}})).await;
    assert_eq!(code, 403, "{answer}");
    assert_eq!(used(&world, "p").await, used(&world, "q").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_given_limits_and_judged_by_what_they_then_say() {
    let world = World::new().await;
    let item =
        json!({"type": "Container", "default": {"cpu": "2"}, "defaultRequest": {"cpu": "1"}, "max": {"cpu": "3"}});
    world
        .post("/api/v1/namespaces/a/limitranges", json!({"metadata": {"name": "l"}, "spec": {"limits": [item]}}))
        .await;
    quota(&world, "q", json!({"requests.cpu": "1500m"})).await;
    let pods = "/api/v1/namespaces/a/pods";
    let pod = |name: &str, needs: Value| {
        let container = json!({"name": "c", "image": "i", "resources": needs});
        json!({"metadata": {"name": name}, "spec": {"containers": [container]}})
    };
    let made = world.post(pods, pod("one", json!({}))).await;
    let container = &made["spec"]["containers"][0]["resources"];
    assert_eq!(container, &json!({"limits": {"cpu": "2"}, "requests": {"cpu": "1"}}));
    assert_eq!(made["status"]["qosClass"], "Burstable");
    assert_eq!(used(&world, "q").await, json!({"requests.cpu": "1"}));
    for (needs, why) in [
        (json!({"limits": {"cpu": "4"}}), "maximum cpu usage per Container is 3, but limit is 4"),
        (json!({}), "exceeded quota: q, requested: requests.cpu=1, used: requests.cpu=1, limited: requests.cpu=1500m"),
    ] {
        let (code, answer) = create(&world.api, pods, pod("two", needs)).await;
        let expect = format!("pods \"two\" is forbidden: {why}");
        assert_eq!((code, answer["message"].as_str()), (403, Some(expect.as_str())));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_say_which_pods_they_refuse_and_warn_of() {
    let world = World::new().await;
    let namespace = "/api/v1/namespaces/a";
    let labels = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}});
    assert_eq!(world.merge(namespace, labels).await.0, 200);
    let bad = json!({"metadata": {"labels": {"pod-security.kubernetes.io/warn": "odd"}}});
    let (code, answer) = world.merge(namespace, bad).await;
    assert_eq!((code, answer["reason"].as_str()), (422, Some("Invalid")), "{answer}");
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"hostNetwork": true, "containers": [{"name": "c", "image": "i"}]}});
    let (code, answer) = create(&world.api, &format!("{namespace}/pods"), pod).await;
    let why = "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)";
    assert_eq!((code, answer["message"].as_str()), (403, Some(why)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_brings_the_place_of_its_node() {
    let world = World::new().await;
    let zone = json!({"topology.kubernetes.io/zone": "z", "other": "o"});
    world.post("/api/v1/nodes", json!({"metadata": {"name": "n", "labels": zone}})).await;
    let pods = "/api/v1/namespaces/a/pods";
    let spec = json!({"containers": [{"name": "c", "image": "i"}]});
    world.post(pods, json!({"metadata": {"name": "p", "labels": {"a": "b"}}, "spec": spec})).await;
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    world.post(&format!("{pods}/p/binding"), binding).await;
    let (_, pod) = world.get(&format!("{pods}/p")).await;
    assert_eq!(pod["metadata"]["labels"], json!({"a": "b", "topology.kubernetes.io/zone": "z"}));
    assert_eq!(pod["spec"]["nodeName"], "n");
}
