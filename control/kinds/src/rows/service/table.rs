//! The service table.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::cells::{self, NONE};
use super::super::selector;
use super::super::value::{get, list, num, text, texts};
use super::kind;

/// The cells of a Service.
#[must_use]
pub fn row(service: &Value, now: Timestamp) -> Vec<Value> {
    let spec = get(service, "spec");
    vec![
        cells::name(service),
        json!(kind(service)),
        json!(texts(spec, "clusterIPs").first().copied().unwrap_or(NONE)),
        json!(external(service)),
        json!(ports(spec)),
        cells::age(service, now),
        json!(selector::show_map(spec, "selector")),
    ]
}

fn external(service: &Value) -> String {
    let spec = get(service, "spec");
    let own = texts(spec, "externalIPs");
    match kind(service) {
        "ClusterIP" | "NodePort" if own.is_empty() => NONE.into(),
        "ClusterIP" | "NodePort" => own.join(","),
        "LoadBalancer" => {
            let mut given = balanced(service);
            given.extend(own);
            if given.is_empty() { "<pending>".into() } else { given.join(",") }
        }
        "ExternalName" => text(spec, "externalName").into(),
        _ => "<unknown>".into(),
    }
}

fn balanced(service: &Value) -> Vec<&str> {
    let ingress = list(get(get(service, "status"), "loadBalancer"), "ingress");
    let mut out: Vec<&str> = ingress
        .iter()
        .map(|entry| if text(entry, "ip").is_empty() { text(entry, "hostname") } else { text(entry, "ip") })
        .filter(|address| !address.is_empty())
        .collect();
    out.sort_unstable();
    out.dedup();
    out
}

fn ports(spec: &Value) -> String {
    let shown: Vec<String> = list(spec, "ports")
        .iter()
        .map(|port| match num(port, "nodePort") {
            0 => format!("{}/{}", num(port, "port"), text(port, "protocol")),
            node => format!("{}:{node}/{}", num(port, "port"), text(port, "protocol")),
        })
        .collect();
    if shown.is_empty() { NONE.into() } else { shown.join(",") }
}
