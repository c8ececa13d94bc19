//! The service table.

use serde_json::Value;

use super::super::cells::{self, Cell, NONE};
use super::super::selector;
use super::super::value::{get, list, num, text, texts};
use super::kind;

/// The cells of a Service.
#[must_use]
pub fn row(service: &Value) -> Vec<Cell> {
    let spec = get(service, "spec");
    vec![
        cells::name(service),
        cells::of(kind(service)),
        cells::of(texts(spec, "clusterIPs").first().copied().unwrap_or(NONE)),
        cells::of(external(service)),
        cells::of(ports(spec)),
        cells::age(service),
        cells::of(selector::show_map(spec, "selector")),
    ]
}

fn external(service: &Value) -> String {
    let spec = get(service, "spec");
    let own = texts(spec, "externalIPs");
    match kind(service) {
        "ClusterIP" | "NodePort" if own.is_empty() => NONE.into(),
        "ClusterIP" | "NodePort" => own.join(","),
        "LoadBalancer" => {
            let mut all = given(service);
            all.extend(own);
            if all.is_empty() { "<pending>".into() } else { all.join(",") }
        }
        "ExternalName" => text(spec, "externalName").into(),
        _ => "<unknown>".into(),
    }
}

/// Where the load balancers of a Service or Ingress answer, as its status has it.
#[must_use]
pub fn given(object: &Value) -> Vec<&str> {
    let ingress = list(get(get(object, "status"), "loadBalancer"), "ingress");
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
