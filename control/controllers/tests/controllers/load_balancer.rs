//! A load balancer's life: it waits for a pool, gets its address and a node, changes the node, and gives all back.

use std::time::Duration;

use crate::support::{Master, resource};
use k8s_openapi::api::core::v1::Event;
use kontiki_api::{DeleteOptions, PatchKind, Target};
use serde_json::{Value, json};

const SILENCE: Duration = Duration::from_secs(2);

fn at(name: &str) -> Target<'_> {
    Target { resource: resource("", "services"), namespace: Some("default"), name, subresource: None }
}

async fn make(master: &Master, name: &str) {
    let spec = json!({"type": "LoadBalancer", "selector": {"app": name}, "ports": [{"port": 80}],
                      "allocateLoadBalancerNodePorts": false});
    let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec});
    master.create("", "services", Some("default"), object).await;
}

/// Waits until a Service looks as `good` wants it.
async fn until(master: &Master, name: &str, what: &str, good: impl Fn(&Value) -> bool) -> Value {
    master
        .until(what, || async {
            let found = master.client.get(at(name)).await.map_err(|status| status.message)?;
            if good(&found) { Ok(found) } else { Err(found.to_string()) }
        })
        .await
}

async fn has(master: &Master, name: &str, address: &str) -> Value {
    let node = |found: &Value| found["metadata"]["annotations"]["kontiki.dev/announced-by"].is_string();
    let shown = json!([{"ip": address, "ipMode": "VIP"}]);
    until(master, name, "an address and a node", |found| {
        found["status"]["loadBalancer"]["ingress"] == shown && node(found)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_balancer_gets_an_address_and_a_node() {
    let master = Master::start(&["n1", "n2"]).await;
    let definition = kontiki_kinds::bootstrap::address_pools();
    let name = definition.object["metadata"]["name"].as_str().unwrap().to_owned();
    master.create(definition.group, definition.plural, None, definition.object).await;
    let definition = Target {
        resource: resource(definition.group, definition.plural),
        namespace: None,
        name: &name,
        subresource: None,
    };
    master
        .until("the definition", || async {
            let found = master.client.get(definition).await.map_err(|status| status.message)?;
            let conditions = found["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let is = |c: &Value| c["type"] == "Established" && c["status"] == "True";
            if conditions.iter().any(is) { Ok(()) } else { Err(json!(conditions).to_string()) }
        })
        .await;

    make(&master, "a").await;
    master
        .until("the event", || async {
            let events = master.api.cache().get::<Event>().list();
            let reasons: Vec<_> = events.iter().filter_map(|event| event.reason.clone()).collect();
            if reasons.iter().any(|reason| reason == "NoAddress") { Ok(()) } else { Err(format!("{reasons:?}")) }
        })
        .await;
    master.still(SILENCE).await;
    let pool = |addresses: Value| {
        json!({"apiVersion": "kontiki.dev/v1", "kind": "AddressPool",
        "metadata": {"name": "main"}, "spec": {"addresses": addresses}})
    };
    let pools = resource("kontiki.dev", "addresspools");
    for bad in [json!(["10.0.0"]), json!([]), json!(["10.0.0.1-fd00::1"]), json!(["10.0.0.1-2-3"])] {
        let refused = master.client.create(pools, None, pool(bad.clone())).await;
        assert!(refused.is_err_and(|status| status.code == 422), "{bad}");
    }
    let made = master
        .client
        .create(pools, None, pool(json!(["127.0.0.1", "10.244.3.1", "10.1.2.1", "192.0.2.9-192.0.2.8"])))
        .await
        .unwrap();
    assert_eq!(made["spec"]["autoAssign"], true);

    let a = has(&master, "a", "192.0.2.8").await;
    assert_eq!(a["metadata"]["finalizers"], json!(["service.kubernetes.io/load-balancer-cleanup"]));
    assert_eq!(a["spec"]["ports"][0]["nodePort"], Value::Null);
    make(&master, "b").await;
    make(&master, "c").await;
    let took = async |name: &'static str| {
        let found = master.client.get(at(name)).await.unwrap();
        found["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().map(str::to_owned)
    };
    master
        .until("one of two to get the last address", || async {
            let both = (took("b").await, took("c").await);
            if both.0.is_some() || both.1.is_some() { Ok(()) } else { Err(format!("{both:?}")) }
        })
        .await;
    master.still(SILENCE).await;
    let both = [took("b").await, took("c").await];
    assert_eq!(both.iter().flatten().collect::<Vec<_>>(), ["192.0.2.9"], "{both:?}");
    let waiting = if both[0].is_none() { "b" } else { "c" };

    let by = |found: &Value| found["metadata"]["annotations"]["kontiki.dev/announced-by"].as_str().map(str::to_owned);
    let before = by(&a).unwrap();
    master.silence(&before);
    let moved = until(&master, "a", "another node", |found| by(found).is_some_and(|node| node != before)).await;
    assert_eq!(moved["status"], a["status"], "the address stays");

    let another_type = json!({"spec": {"type": "ClusterIP", "allocateLoadBalancerNodePorts": null}});
    master.client.patch(at("a"), PatchKind::Merge, another_type).await.unwrap();
    has(&master, waiting, "192.0.2.8").await;
    let bare = until(&master, "a", "nothing to be left", |found| found["metadata"]["finalizers"].is_null()).await;
    assert_eq!(bare["status"]["loadBalancer"], json!({}));
    assert!(bare["metadata"]["annotations"].as_object().is_none_or(serde_json::Map::is_empty), "{bare}");
    for name in ["a", "b", "c"] {
        master.client.delete(at(name), DeleteOptions::default()).await.unwrap();
        let gone = || async {
            if master.client.get(at(name)).await.is_err() { Ok(()) } else { Err(format!("{name} is there")) }
        };
        master.until("the Service to go", gone).await;
    }
}
