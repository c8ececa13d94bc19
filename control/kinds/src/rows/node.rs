//! Nodes.

use std::collections::BTreeSet;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::cells::{self, Cell, NONE, or_none};
use super::proxy;
use super::template::resources;
use super::template::scheduling::EFFECTS;
use super::value::{annotation, child, copy, entries, get, has, list, on, set, text, text_entries, texts, unset};
use super::vocab::{self, Errors};
use crate::{Bad, FieldError, Path, ResourceDef, Scope, Strategy, Verbs, resource::names};

/// The row.
#[must_use]
pub fn def() -> ResourceDef {
    ResourceDef {
        scope: Scope::Cluster,
        short: names(&["no"]),
        fields: names(&["spec.unschedulable"]),
        ..ResourceDef::new(("", "v1"), ("nodes", "node", "Node"), SCHEMA, Nodes)
    }
    .with(proxy::subresource("NodeProxyOptions", &proxy::NodeProxy))
    .with_part("status", Verbs::PART)
}

const SCHEMA: &str = "io.k8s.api.core.v1.Node";
const AVOID: &str = "scheduler.alpha.kubernetes.io/preferAvoidPods";

struct Nodes;

impl Strategy for Nodes {
    fn default(&self, obj: &mut Value) {
        pod_cidrs(child(obj, "spec"));
        let status = child(obj, "status");
        if !has(status, "allocatable") {
            let capacity = status.clone();
            if has(&capacity, "capacity") {
                set(status, "allocatable", capacity["capacity"].clone());
            }
        }
    }

    fn prepare_create(&self, obj: &mut Value) {
        // Dynamic kubelet configuration is gone; the field is accepted and ignored.
        unset(child(obj, "spec"), "configSource");
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        match sub {
            Some("status") => copy(new, old, "spec"),
            _ => {
                copy(new, old, "status");
                copy(child(new, "spec"), get(old, "spec"), "configSource");
            }
        }
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        check_annotations(&mut errs, obj);
        check_taints(&mut errs, list(get(obj, "spec"), "taints"));
        check_amounts(&mut errs, obj);
        check_cidrs(&mut errs, get(obj, "spec"));
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        check_annotations(&mut errs, new);
        check_amounts(&mut errs, new);
        check_addresses(&mut errs, list(get(new, "status"), "addresses"));
        let (spec, before) = (get(new, "spec"), get(old, "spec"));
        let path = Path::new("spec");
        if has(before, "podCIDRs") && spec.get("podCIDRs") != before.get("podCIDRs") {
            let message = "node updates may not change podCIDR except from \"\" to valid";
            errs.push(FieldError::forbidden(path.child("podCIDRs"), message));
        }
        if has(before, "providerID") && spec.get("providerID") != before.get("providerID") {
            let message = "node updates may not change providerID except from \"\" to valid";
            errs.push(FieldError::forbidden(path.child("providerID"), message));
        }
        check_taints(&mut errs, list(spec, "taints"));
        if text(spec, "externalID") != text(before, "externalID") {
            errs.push(FieldError::forbidden(path.child("externalID"), "may not be updated"));
        }
        errs
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        for (field, message) in [
            ("configSource", "the feature is removed"),
            ("externalID", "this field is deprecated, and is unused by Kubernetes"),
        ] {
            if has(get(obj, "spec"), field) {
                out.push(format!("spec.{field}: {message}"));
            }
        }
        for (i, block) in texts(get(obj, "spec"), "podCIDRs").iter().enumerate() {
            vocab::warn_cidr(&mut out, &Path::new("spec").child("podCIDRs").index(i), block);
        }
        out
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        row(obj)
    }

    fn field(&self, obj: &Value, _path: &str) -> String {
        on(get(obj, "spec"), "unschedulable").to_string()
    }
}

/// `podCIDR` is an old name of the first of `podCIDRs`: it wins where they disagree.
fn pod_cidrs(spec: &mut Value) {
    let first = texts(spec, "podCIDRs").first().map(|cidr| (*cidr).to_owned());
    let cidr = text(spec, "podCIDR").to_owned();
    if !cidr.is_empty() && first.as_deref() != Some(cidr.as_str()) {
        set(spec, "podCIDRs", json!([cidr]));
    } else if let (true, Some(first)) = (cidr.is_empty(), first) {
        set(spec, "podCIDR", first);
    }
}

fn check_annotations(errs: &mut Errors, obj: &Value) {
    let Some(avoid) = annotation(obj, AVOID).filter(|avoid| !avoid.is_empty()) else { return };
    let problem = match serde_json::from_str::<Value>(avoid) {
        Ok(value) if value.is_object() => return,
        Ok(_) => "json: cannot unmarshal value into Go value of type v1.AvoidPods".to_owned(),
        Err(_) => match avoid.trim_start().chars().next() {
            Some('{') | None => "unexpected end of JSON input".to_owned(),
            Some(c) => format!("invalid character '{c}' looking for beginning of value"),
        },
    };
    errs.push(FieldError::invalid(Path::new("metadata").child("annotations").child("AvoidPods"), AVOID, problem));
}

/// Upstream reports taints under `metadata`.
fn check_taints(errs: &mut Errors, taints: &[Value]) {
    let mut seen = BTreeSet::new();
    for (i, taint) in taints.iter().enumerate() {
        let path = Path::new("metadata").child("taints").index(i);
        let (key, value, effect) = (text(taint, "key"), text(taint, "value"), text(taint, "effect"));
        vocab::qualified_name(errs, &path.child("key"), key);
        let messages = vocab::label_value_errors(value);
        if !messages.is_empty() {
            errs.push(FieldError::invalid(path.child("value"), value, messages.join(";")));
        }
        vocab::one_of(errs, &path.child("effect"), effect, EFFECTS);
        if !seen.insert((effect, key)) {
            let shown = format!(
                "{{\"Key\":{},\"Value\":{},\"Effect\":{},\"TimeAdded\":{}}}",
                json!(key),
                json!(value),
                json!(effect),
                get(taint, "timeAdded")
            );
            let mut error = FieldError::duplicate(&path, Bad::Raw(shown));
            error.detail = "taints must be unique by key and effect pair".into();
            errs.push(error);
        }
    }
}

fn check_amounts(errs: &mut Errors, obj: &Value) {
    for field in ["capacity", "allocatable"] {
        for (name, amount) in entries(get(obj, "status"), field) {
            resources::check_amount(errs, &Path::new("status").child(field).child(name), name, amount);
        }
    }
}

fn check_addresses(errs: &mut Errors, addresses: &[Value]) {
    for (i, address) in addresses.iter().enumerate() {
        if addresses[..i].contains(address) {
            let shown = format!("{{\"Type\":{},\"Address\":{}}}", get(address, "type"), get(address, "address"));
            errs.push(FieldError::duplicate(Path::new("status").child("addresses").index(i), Bad::Raw(shown)));
        }
    }
}

fn check_cidrs(errs: &mut Errors, spec: &Value) {
    let path = Path::new("spec").child("podCIDRs");
    let cidrs = texts(spec, "podCIDRs");
    for (i, cidr) in cidrs.iter().enumerate() {
        vocab::cidr(errs, &path.index(i), cidr);
    }
    let parsed: Vec<IpNet> = cidrs.iter().filter_map(|cidr| cidr.parse().ok()).collect();
    let dual =
        parsed.iter().any(|net| matches!(net, IpNet::V4(_))) && parsed.iter().any(|net| matches!(net, IpNet::V6(_)));
    if cidrs.len() > 1 && (!dual || cidrs.len() > 2) {
        let message = "may specify no more than one CIDR for each IP family";
        errs.push(FieldError::invalid(&path, get(spec, "podCIDRs").clone(), message));
    }
    for (i, cidr) in cidrs.iter().enumerate() {
        if cidrs[..i].contains(cidr) {
            errs.push(FieldError::duplicate(path.index(i), *cidr));
        }
    }
}

fn row(obj: &Value) -> Vec<Cell> {
    let (spec, status) = (get(obj, "spec"), get(obj, "status"));
    let ready = list(status, "conditions").iter().find(|condition| text(condition, "type") == "Ready");
    let state = match ready.map(|condition| text(condition, "status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let cordoned = if on(spec, "unschedulable") { ",SchedulingDisabled" } else { "" };
    let info = get(status, "nodeInfo");
    let known = |text: &str| if text.is_empty() { cells::of("<unknown>") } else { cells::of(text) };
    let address = |kind: &str| {
        let found = list(status, "addresses").iter().find(|address| text(address, "type") == kind);
        or_none(found.map_or("", |address| text(address, "address")))
    };
    let kernel = match (text(info, "kernelVersion"), text(info, "architecture")) {
        ("", _) => String::new(),
        (kernel, "") => kernel.to_owned(),
        (kernel, architecture) => format!("{kernel} ({architecture})"),
    };
    vec![
        cells::name(obj),
        cells::of(format!("{state}{cordoned}")),
        cells::of(roles(obj)),
        cells::age(obj),
        cells::of(text(info, "kubeletVersion")),
        address("InternalIP"),
        address("ExternalIP"),
        known(text(info, "osImage")),
        known(&kernel),
        known(text(info, "containerRuntimeVersion")),
    ]
}

fn roles(obj: &Value) -> String {
    let mut roles = BTreeSet::new();
    for (key, value) in text_entries(get(obj, "metadata"), "labels") {
        match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => roles.insert(role),
            _ if key == "kubernetes.io/role" && !value.is_empty() => roles.insert(value),
            _ => continue,
        };
    }
    if roles.is_empty() { NONE.into() } else { roles.into_iter().collect::<Vec<_>>().join(",") }
}
