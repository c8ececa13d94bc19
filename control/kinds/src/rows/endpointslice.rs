//! EndpointSlices.

use std::collections::BTreeSet;

use serde_json::Value;

use super::cells::{self, Cell};
use super::endpoints::{PROTOCOLS, first_three};
use super::value::{
    at, carry_generation, default_to, get, has, int, items_mut, list, set_generation, some, text, texts, unset,
};
use super::vocab::{self, Errors};
use crate::{FieldError, Path, ResourceDef, Strategy, meta};

/// The row.
#[must_use]
pub fn def() -> ResourceDef {
    ResourceDef::new(("discovery.k8s.io", "v1"), ("endpointslices", "endpointslice", "EndpointSlice"), SCHEMA, Slices)
}

const SCHEMA: &str = "io.k8s.api.discovery.v1.EndpointSlice";
const UNSET: &str = "<unset>";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const CONTROLLERS: [&str; 2] = ["endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"];

struct Slices;

impl Strategy for Slices {
    fn default(&self, obj: &mut Value) {
        for port in items_mut(obj, "ports") {
            default_to(port, "name", "");
            default_to(port, "protocol", "TCP");
        }
    }

    fn prepare_create(&self, obj: &mut Value) {
        set_generation(obj, 1);
        drop_topology(obj);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, _sub: Option<&str>) {
        drop_topology(new);
        let moved = ["addressType", "endpoints", "ports"].iter().any(|field| get(new, field) != get(old, field));
        let labelled = get(get(new, "metadata"), "labels") != get(get(old, "metadata"), "labels");
        carry_generation(new, old, moved || labelled);
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        check(obj, &["FQDN", "IPv4", "IPv6"])
    }

    fn validate_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = meta::validate_object_meta(new, true, &|name, prefix| self.name_errors(name, prefix));
        let kind = get(new, "addressType");
        if kind == get(old, "addressType") {
            errs.extend(check(new, &["FQDN", "IP", "IPv4", "IPv6"]));
        } else {
            // Addresses of the old type are no news beside this.
            vocab::immutable(&mut errs, "addressType", kind, get(old, "addressType"));
        }
        errs
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        if old.is_none() && text(obj, "addressType") == "FQDN" {
            out.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
        }
        // What controllers write is in order.
        if CONTROLLERS.contains(&text(at(obj, &["metadata", "labels"]), MANAGED_BY)) {
            return out;
        }
        for (i, endpoint) in list(obj, "endpoints").iter().enumerate() {
            let path = Path::new("endpoints").index(i).child("addresses");
            for (j, address) in texts(endpoint, "addresses").iter().enumerate() {
                vocab::warn_ip(&mut out, &path.index(j), address);
            }
        }
        out
    }

    fn managed_generation(&self) -> bool {
        true
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        let ports: Vec<String> = list(obj, "ports")
            .iter()
            .map(|port| int(port, "port").map_or_else(|| "*".to_owned(), |n| n.to_string()))
            .collect();
        let addresses: Vec<String> = list(obj, "endpoints")
            .iter()
            .flat_map(|endpoint| texts(endpoint, "addresses"))
            .map(str::to_owned)
            .collect();
        vec![
            cells::name(obj),
            cells::of(text(obj, "addressType")),
            cells::of(first_three(&ports, UNSET)),
            cells::of(first_three(&addresses, UNSET)),
            cells::age(obj),
        ]
    }
}

/// The topology map of older versions cannot be set through v1.
fn drop_topology(obj: &mut Value) {
    items_mut(obj, "endpoints").for_each(|endpoint| unset(endpoint, "deprecatedTopology"));
}

fn check(obj: &Value, known: &[&str]) -> Errors {
    let mut errs = Errors::new();
    let kind = text(obj, "addressType");
    vocab::one_of(&mut errs, &Path::new("addressType"), kind, known);
    let endpoints = list(obj, "endpoints");
    if endpoints.len() > 1000 {
        errs.push(FieldError::too_many("endpoints", endpoints.len(), 1000));
    } else {
        for (i, endpoint) in endpoints.iter().enumerate() {
            check_endpoint(&mut errs, &Path::new("endpoints").index(i), endpoint, kind);
        }
    }
    let ports = list(obj, "ports");
    if ports.len() > 20_000 {
        errs.push(FieldError::too_many("ports", ports.len(), 20_000));
    } else {
        check_ports(&mut errs, &Path::new("ports"), ports);
    }
    errs
}

fn check_endpoint(errs: &mut Errors, path: &Path, endpoint: &Value, kind: &str) {
    let addresses = texts(endpoint, "addresses");
    let at = path.child("addresses");
    if addresses.is_empty() {
        errs.push(FieldError::required(&at, "must contain at least 1 address"));
    } else if addresses.len() > 100 {
        errs.push(FieldError::too_many(&at, addresses.len(), 100));
    }
    for (i, address) in addresses.iter().enumerate() {
        check_address(errs, &at.index(i), address, kind);
    }
    if has(endpoint, "nodeName") {
        vocab::subdomain(errs, &path.child("nodeName"), text(endpoint, "nodeName"));
    }
    if has(endpoint, "hostname") {
        vocab::label(errs, &path.child("hostname"), text(endpoint, "hostname"));
    }
    if let Some(hints) = some(endpoint, "hints") {
        for field in ["forZones", "forNodes"] {
            check_hints(errs, &path.child("hints").child(field), list(hints, field));
        }
    }
}

fn check_address(errs: &mut Errors, path: &Path, address: &str, kind: &str) {
    let before = errs.len();
    match kind {
        "FQDN" => {
            vocab::subdomain(errs, path, address);
            if errs.len() == before && !address.contains('.') {
                errs.push(FieldError::invalid(
                    path,
                    address,
                    "should be a domain with at least two segments separated by dots",
                ));
            }
        }
        "IP" | "IPv4" | "IPv6" => {
            vocab::ip(errs, path, address);
            if errs.len() > before {
                return;
            }
            match (kind, address.contains(':')) {
                ("IPv4", true) => errs.push(FieldError::invalid(path, address, "must be an IPv4 address")),
                ("IPv6", false) => errs.push(FieldError::invalid(path, address, "must be an IPv6 address")),
                _ => vocab::non_special_ip(errs, path, address),
            }
        }
        _ => {}
    }
}

fn check_hints(errs: &mut Errors, path: &Path, hints: &[Value]) {
    if hints.len() > 8 {
        errs.push(FieldError::too_many(path, hints.len(), 8));
        return;
    }
    let mut seen = BTreeSet::new();
    for (i, hint) in hints.iter().enumerate() {
        let name = text(hint, "name");
        if !seen.insert(name) {
            errs.push(FieldError::duplicate(path.index(i).child("name"), name));
        }
    }
}

fn check_ports(errs: &mut Errors, path: &Path, ports: &[Value]) {
    let mut seen = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        let name = text(port, "name");
        if !name.is_empty() {
            vocab::label(errs, &path.child("name"), name);
        }
        if !seen.insert(name) {
            errs.push(FieldError::duplicate(path.child("name"), name));
        }
        vocab::one_of(errs, &path.child("protocol"), text(port, "protocol"), PROTOCOLS);
        if has(port, "appProtocol") {
            vocab::qualified_name(errs, &path.child("appProtocol"), text(port, "appProtocol"));
        }
    }
}
