//! Endpoints, the older form of EndpointSlices.

use serde_json::Value;

use super::cells::{self, Cell};
use super::value::{at, default_text, has, items_mut, list, num, text};
use super::vocab::{self, Errors};
use crate::{FieldError, Path, ResourceDef, Strategy, meta, resource::names};

/// The row.
#[must_use]
pub fn def() -> ResourceDef {
    ResourceDef {
        short: names(&["ep"]),
        deprecation: Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".into()),
        ..ResourceDef::new(("", "v1"), ("endpoints", "endpoints", "Endpoints"), SCHEMA, Endpoints)
    }
}

const SCHEMA: &str = "io.k8s.api.core.v1.Endpoints";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
/// Protocols of ports.
pub const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

struct Endpoints;

impl Strategy for Endpoints {
    fn default(&self, obj: &mut Value) {
        for subset in items_mut(obj, "subsets") {
            items_mut(subset, "ports").for_each(|port| default_text(port, "protocol", "TCP"));
        }
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        for (i, subset) in list(obj, "subsets").iter().enumerate() {
            check_subset(&mut errs, &Path::new("subsets").index(i), subset);
        }
        errs
    }

    fn validate_update(&self, new: &Value, _old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = meta::validate_object_meta(new, true, &|name, prefix| self.name_errors(name, prefix));
        errs.extend(self.validate(new));
        errs
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        // What the controller writes is in order.
        if text(at(obj, &["metadata", "labels"]), MANAGED_BY) == "endpoint-controller" {
            return out;
        }
        for (i, subset) in list(obj, "subsets").iter().enumerate() {
            for field in ["addresses", "notReadyAddresses"] {
                let path = Path::new("subsets").index(i).child(field);
                for (j, address) in list(subset, field).iter().enumerate() {
                    vocab::warn_ip(&mut out, &path.index(j).child("ip"), text(address, "ip"));
                }
            }
        }
        out
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        vec![cells::name(obj), cells::of(show(list(obj, "subsets"))), cells::age(obj)]
    }
}

fn check_subset(errs: &mut Errors, path: &Path, subset: &Value) {
    if list(subset, "addresses").is_empty() && list(subset, "notReadyAddresses").is_empty() {
        errs.push(FieldError::required(path, "must specify `addresses` or `notReadyAddresses`"));
    }
    for field in ["addresses", "notReadyAddresses"] {
        for (i, address) in list(subset, field).iter().enumerate() {
            check_address(errs, &path.child(field).index(i), address);
        }
    }
    let ports = list(subset, "ports");
    for (i, port) in ports.iter().enumerate() {
        check_port(errs, &path.child("ports").index(i), port, ports.len() > 1);
    }
}

fn check_address(errs: &mut Errors, path: &Path, address: &Value) {
    let ip = text(address, "ip");
    vocab::ip(errs, &path.child("ip"), ip);
    let hostname = text(address, "hostname");
    if !hostname.is_empty() {
        vocab::label(errs, &path.child("hostname"), hostname);
    }
    if has(address, "nodeName") {
        vocab::subdomain(errs, &path.child("nodeName"), text(address, "nodeName"));
    }
    vocab::non_special_ip(errs, &path.child("ip"), ip);
}

fn check_port(errs: &mut Errors, path: &Path, port: &Value, needs_name: bool) {
    match text(port, "name") {
        "" if needs_name => errs.push(FieldError::required(path.child("name"), "")),
        "" => {}
        name => vocab::label(errs, &path.child("name"), name),
    }
    let number = num(port, "port");
    vocab::invalid(errs, &path.child("port"), number, vocab::port_errors(number));
    vocab::one_of(errs, &path.child("protocol"), text(port, "protocol"), PROTOCOLS);
    if has(port, "appProtocol") {
        vocab::qualified_name(errs, &path.child("appProtocol"), text(port, "appProtocol"));
    }
}

fn show(subsets: &[Value]) -> String {
    let mut all = Vec::new();
    for subset in subsets {
        let addresses = list(subset, "addresses").iter().map(|address| text(address, "ip"));
        let ports = list(subset, "ports");
        if ports.is_empty() {
            all.extend(addresses.map(str::to_owned));
            continue;
        }
        for port in ports {
            for ip in addresses.clone() {
                let ip = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
                all.push(format!("{ip}:{}", num(port, "port")));
            }
        }
    }
    first_three(&all, cells::NONE)
}

/// The first three of a list, and how many more there are.
pub fn first_three(all: &[String], none: &str) -> String {
    match all.len() {
        0 => none.to_owned(),
        1..=3 => all.join(","),
        n => format!("{} + {} more...", all[..3].join(","), n - 3),
    }
}
