//! An Ingress shows the nodes that serve it, and says what of it is not served.

use std::time::Duration;

use crate::support::{Master, resource};
use k8s_openapi::api::core::v1::Event;
use kontiki_api::{PatchKind, Target};
use kontiki_model::ingress::CONDITION;
use serde_json::{Value, json};

const SILENCE: Duration = Duration::from_secs(2);
const GROUP: &str = "networking.k8s.io";

/// What a node's agent says of serving.
async fn say(master: &Master, node: &str, address: &str, serves: bool) {
    let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady"});
    let serving = json!({"type": CONDITION, "status": if serves { "True" } else { "False" }});
    let addresses = json!([{"type": "InternalIP", "address": address}]);
    let status = json!({"status": {"addresses": addresses, "conditions": [ready, serving]}});
    let at = Target { resource: resource("", "nodes"), namespace: None, name: node, subresource: Some("status") };
    master.client.patch(at, PatchKind::Merge, status).await.unwrap();
}

fn ingress(name: &str, class: &str, backend: Value) -> Value {
    let paths = json!([{"path": "/", "pathType": "Prefix", "backend": backend}]);
    json!({"apiVersion": format!("{GROUP}/v1"), "kind": "Ingress", "metadata": {"name": name},
           "spec": {"ingressClassName": class, "rules": [{"http": {"paths": paths}}], "tls": [{"secretName": "cert"}]}})
}

fn at(name: &str) -> Target<'_> {
    Target { resource: resource(GROUP, "ingresses"), namespace: Some("default"), name, subresource: None }
}

async fn shows(master: &Master, name: &str, expect: &[&str]) {
    master
        .until(&format!("{name} at {expect:?}"), || async {
            let found = master.client.get(at(name)).await.map_err(|status| status.message)?;
            let shown = found["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
            let ips: Vec<&str> = shown.iter().filter_map(|entry| entry["ip"].as_str()).collect();
            if ips == expect { Ok(()) } else { Err(found["status"].to_string()) }
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ingress_shows_who_serves_it() {
    let master = Master::start(&["n1", "n2"]).await;
    let service = json!({"service": {"name": "web", "port": {"number": 80}}});
    master.create(GROUP, "ingresses", Some("default"), ingress("early", "kontiki", service.clone())).await;
    let class = kontiki_kinds::bootstrap::ingress_class();
    master.create(class.group, class.plural, None, class.object).await;
    say(&master, "n1", "10.0.0.1", true).await;
    shows(&master, "early", &["10.0.0.1"]).await;
    say(&master, "n2", "10.0.0.2", true).await;
    shows(&master, "early", &["10.0.0.1", "10.0.0.2"]).await;

    let odd = json!({"resource": {"kind": "Bucket", "name": "files"}});
    master.create(GROUP, "ingresses", Some("default"), ingress("odd", "kontiki", odd)).await;
    master.create(GROUP, "ingresses", Some("default"), ingress("other", "somebody-elses", service)).await;
    shows(&master, "odd", &["10.0.0.1", "10.0.0.2"]).await;
    let wanted = ["early NoCertificate", "odd NoCertificate", "odd ResourceBackend"];
    master
        .until("the events", || async {
            let events = master.api.cache().get::<Event>().list();
            let about = |event: &Event| {
                let name = event.involved_object.name.clone().unwrap_or_default();
                format!("{name} {}", event.reason.clone().unwrap_or_default())
            };
            let mut told: Vec<String> = events.iter().map(|event| about(event)).collect();
            told.retain(|text| wanted.contains(&text.as_str()));
            told.sort();
            if told == wanted { Ok(()) } else { Err(format!("{told:?}")) }
        })
        .await;

    say(&master, "n1", "10.0.0.1", false).await;
    shows(&master, "early", &["10.0.0.2"]).await;
    shows(&master, "odd", &["10.0.0.2"]).await;
    master.silence("n2");
    shows(&master, "early", &[]).await;
    shows(&master, "odd", &[]).await;
    shows(&master, "other", &[]).await;
    master.still(SILENCE).await;
}
