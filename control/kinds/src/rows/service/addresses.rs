//! Cluster addresses of a Service and their families, in a cluster with one family: IPv4.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::super::value::{child, default_to, get, list, set, text, texts};
use super::super::vocab::{self, Errors};
use super::{is_headless, kind};
use crate::{FieldError, Path};

/// Fills in the families that a client left open. A headless service without selector may have
/// endpoints of any family; all others have the one of the cluster.
pub fn default_families(service: &mut Value) {
    if !super::needs_cluster_ip(service) {
        return;
    }
    let any = is_headless(service) && list_is_empty(service, "selector");
    let spec = child(service, "spec");
    default_to(spec, "ipFamilyPolicy", if any { "RequireDualStack" } else { "SingleStack" });
    if list(spec, "ipFamilies").is_empty() {
        set(spec, "ipFamilies", if any { json!(["IPv4", "IPv6"]) } else { json!(["IPv4"]) });
    }
}

fn list_is_empty(service: &Value, field: &str) -> bool {
    get(get(service, "spec"), field).as_object().is_none_or(serde_json::Map::is_empty)
}

/// Checks addresses and families.
#[must_use]
pub fn check(service: &Value) -> Errors {
    let mut errs = Errors::new();
    if kind(service) == "ExternalName" {
        return errs;
    }
    let spec = get(service, "spec");
    let path = Path::new("spec");
    let at = path.child("clusterIPs");
    let ips = texts(spec, "clusterIPs");
    check_first(&mut errs, &at, spec, &ips);
    check_families(&mut errs, &path, spec);
    let before = errs.len();
    check_each(&mut errs, &at, spec, &ips);
    let all_good = errs.len() == before;
    if ips.len() > 2 {
        errs.push(FieldError::invalid(&at, get(spec, "clusterIPs").clone(), "may only hold up to 2 values"));
    }
    if all_good {
        check_pairs(&mut errs, &at, service, &ips);
    }
    if errs.is_empty() {
        check_cluster(&mut errs, &path, service);
    }
    errs
}

fn check_first(errs: &mut Errors, path: &Path, spec: &Value, ips: &[&str]) {
    let ip = text(spec, "clusterIP");
    let message = match (ip, ips.first()) {
        ("", None) => return,
        ("", Some(_)) => "must be empty when `clusterIP` is not specified",
        (_, None) => {
            errs.push(FieldError::required(path, ""));
            return;
        }
        (ip, Some(first)) if ip != *first => "first value must match `clusterIP`",
        _ => return,
    };
    errs.push(FieldError::invalid(path, get(spec, "clusterIPs").clone(), message));
}

fn check_families(errs: &mut Errors, path: &Path, spec: &Value) {
    let families = texts(spec, "ipFamilies");
    for (i, family) in families.iter().enumerate() {
        let path = path.child("ipFamilies").index(i);
        vocab::known_value(errs, &path, family, &["IPv4", "IPv6"]);
        if families[..i].contains(family) {
            errs.push(FieldError::duplicate(&path, *family));
        }
    }
    let policy = text(spec, "ipFamilyPolicy");
    if !policy.is_empty() {
        let known = &["PreferDualStack", "RequireDualStack", "SingleStack"];
        vocab::known_value(errs, &path.child("ipFamilyPolicy"), policy, known);
    }
}

fn check_each(errs: &mut Errors, path: &Path, spec: &Value, ips: &[&str]) {
    for (i, ip) in ips.iter().enumerate() {
        if i > 0 || *ip != "None" {
            vocab::ip(errs, &path.index(i), ip);
        } else if ips.len() > 1 {
            let message = "'None' must be the first and only value";
            errs.push(FieldError::invalid(path, get(spec, "clusterIPs").clone(), message));
        }
    }
}

fn check_pairs(errs: &mut Errors, path: &Path, service: &Value, ips: &[&str]) {
    let spec = get(service, "spec");
    let parsed: Vec<IpAddr> = ips.iter().filter_map(|ip| ip.parse().ok()).collect();
    let dual = parsed.iter().any(IpAddr::is_ipv4) && parsed.iter().any(IpAddr::is_ipv6);
    if ips.len() > 1 && !dual {
        let message = "may specify no more than one IP for each IP family";
        errs.push(FieldError::invalid(path, get(spec, "clusterIPs").clone(), message));
    }
    if is_headless(service) {
        return;
    }
    for (i, (ip, family)) in parsed.iter().zip(texts(spec, "ipFamilies")).enumerate() {
        if (family == "IPv6") != ip.is_ipv6() {
            let message = format!("expected an {family} value as indicated by `ipFamilies[{i}]`");
            errs.push(FieldError::invalid(path.index(i), ips[i], message));
        }
    }
}

/// What this cluster cannot give.
fn check_cluster(errs: &mut Errors, path: &Path, service: &Value) {
    let spec = get(service, "spec");
    if is_headless(service) && list_is_empty(service, "selector") {
        return;
    }
    if text(spec, "ipFamilyPolicy") == "RequireDualStack" {
        let message = "this cluster is not configured for dual-stack services";
        errs.push(FieldError::invalid(path.child("ipFamilyPolicy"), "RequireDualStack", message));
        return;
    }
    for (i, family) in texts(spec, "ipFamilies").iter().enumerate() {
        if *family != "IPv4" {
            let message = "not configured on this cluster";
            errs.push(FieldError::invalid(path.child("ipFamilies").index(i), *family, message));
        }
    }
}
