//! What may change in a stored Service, and what a change of type does to its fields.

use serde_json::{Value, json};

use super::super::value::{child, copy, get, has, int, items_mut, list, num, set, text, texts, unset};
use super::super::vocab::{self, Errors};
use super::{externally_accessible, is_headless, kind, needs_cluster_ip, needs_health_check_port, needs_node_ports};
use crate::{FieldError, Path};

fn node_ports(service: &Value) -> Vec<i64> {
    list(get(service, "spec"), "ports")
        .iter()
        .filter_map(|port| int(port, "nodePort"))
        .filter(|port| *port != 0)
        .collect()
}

/// Gives back the allocated values that a client did not send: a PUT of the original manifest
/// must not lose them.
pub fn keep_allocated(new: &mut Value, old: &Value) {
    let before = get(old, "spec");
    if needs_cluster_ip(old) && needs_cluster_ip(new) {
        let spec = child(new, "spec");
        if text(spec, "clusterIP").is_empty() {
            copy(spec, before, "clusterIP");
        }
        if list(spec, "clusterIPs").is_empty() && text(spec, "clusterIP") == text(before, "clusterIP") {
            copy(spec, before, "clusterIPs");
        }
    }
    if needs_node_ports(old) && needs_node_ports(new) {
        keep_node_ports(new, old);
    }
    if needs_health_check_port(old) && needs_health_check_port(new) && num(get(new, "spec"), "healthCheckNodePort") == 0
    {
        copy(child(new, "spec"), before, "healthCheckNodePort");
    }
}

/// By name of the port; a number that another port claims is left to it.
fn keep_node_ports(new: &mut Value, old: &Value) {
    let sent = node_ports(new);
    let taken: Vec<i64> = node_ports(old).into_iter().filter(|port| sent.contains(port)).collect();
    for port in items_mut(child(new, "spec"), "ports") {
        if num(port, "nodePort") != 0 {
            continue;
        }
        let same = list(get(old, "spec"), "ports").iter().rev().find(|other| text(other, "name") == text(port, "name"));
        let number =
            same.and_then(|other| int(other, "nodePort")).filter(|number| *number != 0 && !taken.contains(number));
        if let Some(number) = number {
            set(port, "nodePort", number);
        }
    }
}

/// `clusterIP` is an old name of the first of `clusterIPs`: a change of one alone moves the other.
pub fn sync_addresses(new: &mut Value, old: &Value) {
    let before = get(old, "spec");
    let spec = child(new, "spec");
    let (ip, old_ip) = (text(spec, "clusterIP").to_owned(), text(before, "clusterIP"));
    let same_list = texts(spec, "clusterIPs") == texts(before, "clusterIPs");
    if ip != old_ip && ip.is_empty() && same_list {
        unset(spec, "clusterIPs");
    } else if ip != old_ip && !ip.is_empty() && (same_list || list(spec, "clusterIPs").is_empty()) {
        set(spec, "clusterIPs", json!([ip]));
    }
}

/// Takes away what the old type needed, the new one does not, and the client left as it was.
pub fn drop_by_type(new: &mut Value, old: &Value) {
    let before = get(old, "spec");
    let lost = |needs: fn(&Value) -> bool, new: &Value| needs(old) && !needs(new);
    let mut drop = Vec::new();
    let named = |service: &Value| kind(service) == "ExternalName";
    let balanced = |service: &Value| kind(service) == "LoadBalancer";
    for (lost, fields) in [
        (lost(named, new), &["externalName"][..]),
        (
            lost(needs_cluster_ip, new),
            &["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"],
        ),
        (lost(needs_health_check_port, new), &["healthCheckNodePort"]),
        (lost(balanced, new), &["allocateLoadBalancerNodePorts", "loadBalancerClass"]),
        (lost(externally_accessible, new), &["externalTrafficPolicy"]),
    ] {
        drop.extend(fields.iter().filter(|_| lost));
    }
    let ports_too = lost(needs_node_ports, new) && node_ports(new) == node_ports(old);
    let spec = child(new, "spec");
    for field in drop {
        if get(spec, field) == get(before, field) {
            unset(spec, field);
        }
    }
    if ports_too {
        items_mut(spec, "ports").for_each(|port| unset(port, "nodePort"));
    }
}

/// Checks an update beside what holds for any Service.
pub fn check(errs: &mut Errors, new: &Value, old: &Value) {
    let path = Path::new("spec");
    let (spec, before) = (get(new, "spec"), get(old, "spec"));
    if kind(new) != "ExternalName" && kind(old) != "ExternalName" {
        check_addresses(errs, &path, new, old);
        check_families(errs, &path, new, old);
    }
    let balanced = kind(new) == "LoadBalancer" && kind(old) == "LoadBalancer";
    if balanced && get(spec, "loadBalancerClass") != get(before, "loadBalancerClass") {
        let class = get(spec, "loadBalancerClass").clone();
        errs.push(FieldError::invalid(path.child("loadBalancerClass"), class, "may not change once set"));
    }
    check_class(errs, new);
    let both = needs_health_check_port(old) && needs_health_check_port(new);
    if both && num(spec, "healthCheckNodePort") != num(before, "healthCheckNodePort") {
        errs.push(FieldError::forbidden(path.child("healthCheckNodePort"), vocab::IMMUTABLE));
    }
}

/// Checks the class of the load balancer.
pub fn check_class(errs: &mut Errors, service: &Value) {
    let spec = get(service, "spec");
    if !has(spec, "loadBalancerClass") {
        return;
    }
    let path = Path::new("spec").child("loadBalancerClass");
    if kind(service) == "LoadBalancer" {
        vocab::qualified_name(errs, &path, text(spec, "loadBalancerClass"));
    } else {
        errs.push(FieldError::forbidden(path, "may only be used when `type` is 'LoadBalancer'"));
    }
}

fn check_addresses(errs: &mut Errors, path: &Path, new: &Value, old: &Value) {
    if is_headless(new) && is_headless(old) {
        return;
    }
    let (spec, before) = (get(new, "spec"), get(old, "spec"));
    let (now, then) = (texts(spec, "clusterIPs"), texts(before, "clusterIPs"));
    let at = path.child("clusterIPs");
    let shown = get(spec, "clusterIPs").clone();
    if now.is_empty() && !then.is_empty() {
        errs.push(FieldError::invalid(at.index(0), shown, "primary clusterIP can not be unset"));
        return;
    }
    let compared = if now.len() == then.len() { now.len() } else { 1.min(then.len()) };
    for i in 0..compared {
        if now[i] != then[i] {
            errs.push(FieldError::invalid(at.index(i), shown.clone(), "may not change once set"));
        }
    }
    if then.len() > 1 && now.len() == 1 && text(spec, "ipFamilyPolicy") != "SingleStack" {
        let message = "must be set to 'SingleStack' when releasing the secondary clusterIP";
        errs.push(FieldError::invalid(path.child("ipFamilyPolicy"), get(spec, "ipFamilyPolicy").clone(), message));
    }
}

fn check_families(errs: &mut Errors, path: &Path, new: &Value, old: &Value) {
    if is_headless(new) || is_headless(old) {
        return;
    }
    let spec = get(new, "spec");
    let (now, then) = (texts(spec, "ipFamilies"), texts(get(old, "spec"), "ipFamilies"));
    if let (Some(first), Some(before)) = (now.first(), then.first())
        && first != before
    {
        let shown = get(spec, "ipFamilies").clone();
        errs.push(FieldError::invalid(path.child("ipFamilies").index(0), shown, "may not change once set"));
    }
    if then.len() > 1 && now.len() == 1 && text(spec, "ipFamilyPolicy") != "SingleStack" {
        let message = "must be set to 'SingleStack' when releasing the secondary ipFamily";
        errs.push(FieldError::invalid(path.child("ipFamilyPolicy"), get(spec, "ipFamilyPolicy").clone(), message));
    }
}
