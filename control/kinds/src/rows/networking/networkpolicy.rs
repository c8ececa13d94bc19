//! NetworkPolicies.

use ipnet::IpNet;
use serde_json::{Value, json};

use super::super::cells::{self, Cell};
use super::super::selector;
use super::super::value::{
    child, default_text, get, has, int, items_mut, list, set, set_generation, some, spec_generation, text, texts,
};
use super::super::vocab::{self, Errors};
use crate::resource::names;
use crate::{FieldError, Path, ResourceDef, Strategy};

/// The directions: how rules and their peers are called, and the policy type.
const WAYS: [(&str, &str, &str); 2] = [("ingress", "from", "Ingress"), ("egress", "to", "Egress")];
const TYPES: &[&str] = &["Ingress", "Egress"];
/// In the order in which upstream names them here.
const PROTOCOLS: &[&str] = &["TCP", "UDP", "SCTP"];

/// The row.
#[must_use]
pub fn def() -> ResourceDef {
    ResourceDef {
        short: names(&["netpol"]),
        ..ResourceDef::new(
            super::GROUP,
            ("networkpolicies", "networkpolicy", "NetworkPolicy"),
            "io.k8s.api.networking.v1.NetworkPolicy",
            NetworkPolicies,
        )
    }
}

struct NetworkPolicies;

impl Strategy for NetworkPolicies {
    fn default(&self, obj: &mut Value) {
        let spec = child(obj, "spec");
        for (rules, _, _) in WAYS {
            for rule in items_mut(spec, rules) {
                items_mut(rule, "ports").for_each(|port| default_text(port, "protocol", "TCP"));
            }
        }
        if list(spec, "policyTypes").is_empty() {
            let both = !list(spec, "egress").is_empty();
            set(spec, "policyTypes", if both { json!(TYPES) } else { json!(["Ingress"]) });
        }
    }

    fn prepare_create(&self, obj: &mut Value) {
        set_generation(obj, 1);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, _sub: Option<&str>) {
        spec_generation(new, old);
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        check(&mut errs, &Path::new("spec"), get(obj, "spec"), &[]);
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        check(&mut errs, &Path::new("spec"), get(new, "spec"), &blocks(get(old, "spec")));
        errs
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        for (rules, peers, _) in WAYS {
            for (i, rule) in list(get(obj, "spec"), rules).iter().enumerate() {
                let path = Path::new("spec").child(rules).index(i).child(peers);
                for (j, peer) in list(rule, peers).iter().enumerate() {
                    let (block, path) = (get(peer, "ipBlock"), path.index(j).child("ipBlock"));
                    vocab::warn_cidr(&mut out, &path.child("cidr"), text(block, "cidr"));
                    for (k, except) in texts(block, "except").iter().enumerate() {
                        vocab::warn_cidr(&mut out, &path.child("except").index(k), except);
                    }
                }
            }
        }
        out
    }

    fn managed_generation(&self) -> bool {
        true
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        let pods = selector::show(get(get(obj, "spec"), "podSelector"));
        vec![cells::name(obj), cells::of(pods), cells::age(obj)]
    }
}

/// Every address block of a spec: what was stored once is not judged again.
fn blocks(spec: &Value) -> Vec<&str> {
    let rules = WAYS.iter().flat_map(|(rules, peers, _)| list(spec, rules).iter().flat_map(|rule| list(rule, peers)));
    let blocks = rules.filter_map(|peer| some(peer, "ipBlock"));
    blocks.flat_map(|block| texts(block, "except").into_iter().chain([text(block, "cidr")])).collect()
}

fn check(errs: &mut Errors, path: &Path, spec: &Value, known: &[&str]) {
    selector::check(errs, &path.child("podSelector"), get(spec, "podSelector"));
    for (rules, peers, _) in WAYS {
        for (i, rule) in list(spec, rules).iter().enumerate() {
            let path = path.child(rules).index(i);
            for (i, port) in list(rule, "ports").iter().enumerate() {
                check_port(errs, &path.child("ports").index(i), port);
            }
            for (i, peer) in list(rule, peers).iter().enumerate() {
                check_peer(errs, &path.child(peers).index(i), peer, known);
            }
        }
    }
    let (path, types) = (path.child("policyTypes"), texts(spec, "policyTypes"));
    if types.len() > TYPES.len() {
        errs.push(FieldError::invalid(path, json!(types), "may not specify more than two policyTypes"));
        return;
    }
    for (i, kind) in types.iter().enumerate() {
        vocab::known_value(errs, &path.index(i), kind, TYPES);
    }
}

fn check_port(errs: &mut Errors, path: &Path, port: &Value) {
    if has(port, "protocol") {
        vocab::known_value(errs, &path.child("protocol"), text(port, "protocol"), PROTOCOLS);
    }
    let (at, end) = (path.child("endPort"), int(port, "endPort"));
    let first = get(port, "port");
    let problem = match (first, end) {
        (Value::Null, Some(_)) => Some("may not be specified when `port` is not specified"),
        (Value::String(_), Some(_)) => Some("may not be specified when `port` is non-numeric"),
        _ => None,
    };
    if let (Some(message), Some(end)) = (problem, end) {
        errs.push(FieldError::invalid(&at, end, message));
    }
    if first.is_null() {
        return;
    }
    vocab::port_or_name(errs, &path.child("port"), first);
    if let (Some(first), Some(end)) = (first.as_i64(), end) {
        if end < first {
            errs.push(FieldError::invalid(&at, first, "must be greater than or equal to `port`"));
        }
        vocab::invalid(errs, &at, end, vocab::port_errors(end));
    }
}

fn check_peer(errs: &mut Errors, path: &Path, peer: &Value, known: &[&str]) {
    let selectors = ["podSelector", "namespaceSelector"];
    for name in selectors {
        selector::check(errs, &path.child(name), get(peer, name));
    }
    let selects = selectors.iter().any(|name| has(peer, name));
    match (some(peer, "ipBlock"), selects) {
        (None, false) => errs.push(FieldError::required(path, "must specify a peer")),
        (None, true) => {}
        (Some(block), _) => {
            check_block(errs, &path.child("ipBlock"), block, known);
            if selects {
                errs.push(FieldError::forbidden(path, "may not specify both ipBlock and another peer"));
            }
        }
    }
}

fn check_block(errs: &mut Errors, path: &Path, block: &Value, known: &[&str]) {
    let whole = text(block, "cidr");
    if whole.is_empty() {
        errs.push(FieldError::required(path.child("cidr"), ""));
        return;
    }
    let mut judge = |path: &Path, text: &str| {
        if !known.contains(&text) {
            vocab::cidr(errs, path, text);
        }
        text.parse::<IpNet>().ok()
    };
    let Some(net) = judge(&path.child("cidr"), whole) else { return };
    let mut outside = Vec::new();
    for (i, text) in texts(block, "except").into_iter().enumerate() {
        let path = path.child("except").index(i);
        let parsed = judge(&path, text);
        if parsed.is_some_and(|part| !net.contains(&part.network()) || net.prefix_len() >= part.prefix_len()) {
            outside.push((path, text));
        }
    }
    for (path, text) in outside {
        errs.push(FieldError::invalid(path, text, "must be a strict subset of `cidr`"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stored_once_is_not_judged_again() {
        let policy = |block: &str| json!({"spec": {"egress": [{"to": [{"ipBlock": {"cidr": block}}]}]}});
        let found = |old: &str| NetworkPolicies.validate_update(&policy("10.0.0.1/8"), &policy(old), None).len();
        assert_eq!((found("10.0.0.0/8"), found("10.0.0.1/8")), (1, 0));
        assert_eq!(NetworkPolicies.validate(&policy("10.0.0.1/8")).len(), 1);
    }

    #[test]
    fn a_policy_without_types_is_about_what_it_has_rules_for() {
        for (mut policy, types) in [
            (json!({"spec": {}}), json!(["Ingress"])),
            (json!({"spec": {"egress": [{}]}}), json!(["Ingress", "Egress"])),
            (json!({"spec": {"egress": [{}], "policyTypes": ["Egress"]}}), json!(["Egress"])),
        ] {
            NetworkPolicies.default(&mut policy);
            assert_eq!(policy["spec"]["policyTypes"], types);
        }
    }
}
