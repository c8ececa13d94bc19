//! Services.
//!
//! [`needs_cluster_ip`], [`needs_node_ports`] and [`needs_health_check_port`] tell what [`allocate`] takes.

mod addresses;
mod allocate;
mod table;
mod update;
mod validate;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::cells::Cell;
use super::proxy;
use super::value::{
    annotation, child, copy, default_text, default_to, flag, get, has, int, items_mut, list, num, set, text, texts,
    unset,
};
use super::vocab::{self, Errors};
use crate::field_error::quote;
use crate::{FieldError, Path, ResourceDef, Strategy, Verbs, allocation::Pool, meta, resource::names};

pub use allocate::{DEFAULT_CIDR, Ranges, ip_claim};
pub use table::given;

/// The row of Services that take from `ranges`.
#[must_use]
pub fn def(ranges: Ranges) -> ResourceDef {
    ResourceDef {
        short: names(&["svc"]),
        categories: names(&["all"]),
        fields: names(&["spec.clusterIP", "spec.type"]),
        delete_returns_object: true,
        ..ResourceDef::new(("", "v1"), ("services", "service", "Service"), SCHEMA, Services { ranges })
    }
    .with(proxy::subresource("ServiceProxyOptions", &proxy::ServiceProxy))
    .with_part("status", Verbs::PART)
}

const SCHEMA: &str = "io.k8s.api.core.v1.Service";
const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const MODE: &str = "service.kubernetes.io/topology-mode";

fn kind(service: &Value) -> &str {
    text(get(service, "spec"), "type")
}

/// Whether it has an address in the cluster (or says that it wants none).
#[must_use]
pub fn needs_cluster_ip(service: &Value) -> bool {
    ["ClusterIP", "NodePort", "LoadBalancer"].contains(&kind(service))
}

/// Whether its ports are open on every node.
#[must_use]
pub fn needs_node_ports(service: &Value) -> bool {
    match kind(service) {
        "NodePort" => true,
        "LoadBalancer" => flag(get(service, "spec"), "allocateLoadBalancerNodePorts") != Some(false),
        _ => false,
    }
}

/// Whether a load balancer asks each node for the health of the service.
#[must_use]
pub fn needs_health_check_port(service: &Value) -> bool {
    kind(service) == "LoadBalancer" && text(get(service, "spec"), "externalTrafficPolicy") == "Local"
}

/// Whether it has no address of its own: its name stands for those of its pods.
#[must_use]
pub fn is_headless(service: &Value) -> bool {
    texts(get(service, "spec"), "clusterIPs") == ["None"]
}

fn externally_accessible(service: &Value) -> bool {
    let external = !list(get(service, "spec"), "externalIPs").is_empty();
    ["NodePort", "LoadBalancer"].contains(&kind(service)) || (kind(service) == "ClusterIP" && external)
}

struct Services {
    ranges: Ranges,
}

impl Strategy for Services {
    fn default(&self, obj: &mut Value) {
        default(obj);
    }

    fn prepare_create(&self, obj: &mut Value) {
        set(obj, "status", json!({"loadBalancer": {}}));
        let spec = child(obj, "spec");
        let ip = text(spec, "clusterIP").to_owned();
        if !ip.is_empty() && list(spec, "clusterIPs").is_empty() {
            set(spec, "clusterIPs", json!([ip]));
        }
        addresses::default_families(obj);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        if sub == Some("status") {
            copy(new, old, "spec");
            return;
        }
        copy(new, old, "status");
        update::keep_allocated(new, old);
        update::sync_addresses(new, old);
        update::drop_by_type(new, old);
        addresses::default_families(new);
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        // Upstream allocates addresses before it looks at the rest, and stops if it cannot.
        let errs = addresses::check(obj);
        if errs.is_empty() { validate::check(obj) } else { errs }
    }

    fn validate_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        if sub == Some("status") {
            validate::check_status(&mut errs, new);
            return errs;
        }
        errs = addresses::check(new);
        if !errs.is_empty() {
            return errs;
        }
        update::check(&mut errs, new, old);
        errs.extend(meta::validate_object_meta(new, true, &|name, prefix| self.name_errors(name, prefix)));
        errs.extend(validate::check(new));
        errs
    }

    fn name_errors(&self, name: &str, prefix: bool) -> Vec<String> {
        meta::name_is_dns_label(name, prefix)
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        warnings(obj)
    }

    fn status_warnings(&self, obj: &Value) -> Vec<String> {
        vocab::warn_balanced(obj)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        table::row(obj)
    }

    fn claims(&self, obj: &Value) -> BTreeSet<String> {
        allocate::claims(obj)
    }

    fn allocate(&self, obj: &mut Value, pool: &mut Pool<'_>) -> Result<(), Vec<FieldError>> {
        allocate::allocate(obj, &self.ranges, pool).map_err(|error| vec![error])
    }
}

fn default(obj: &mut Value) {
    let spec = child(obj, "spec");
    default_text(spec, "sessionAffinity", "None");
    match text(spec, "sessionAffinity") {
        "None" => unset(spec, "sessionAffinityConfig"),
        "ClientIP" => {
            let client = get(get(spec, "sessionAffinityConfig"), "clientIP");
            if int(client, "timeoutSeconds").is_none() {
                set(spec, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 10800}}));
            }
        }
        _ => {}
    }
    default_text(spec, "type", "ClusterIP");
    for port in items_mut(spec, "ports") {
        default_text(port, "protocol", "TCP");
        let target = get(port, "targetPort");
        if target.is_null() || target.as_i64() == Some(0) || target.as_str() == Some("") {
            let number = num(port, "port");
            set(port, "targetPort", number);
        }
    }
    if externally_accessible(obj) {
        default_text(child(obj, "spec"), "externalTrafficPolicy", "Cluster");
    }
    if needs_cluster_ip(obj) {
        default_to(child(obj, "spec"), "internalTrafficPolicy", "Cluster");
    }
    if kind(obj) == "LoadBalancer" {
        default_to(child(obj, "spec"), "allocateLoadBalancerNodePorts", true);
        for ingress in items_mut(child(child(obj, "status"), "loadBalancer"), "ingress") {
            if has(ingress, "ip") {
                default_to(ingress, "ipMode", "VIP");
            }
        }
    }
}

/// Warns of addresses in spellings of their own.
fn addresses(out: &mut Vec<String>, spec: &Value, field: &str) {
    for (i, address) in texts(spec, field).iter().enumerate() {
        vocab::warn_ip(out, &Path::new("spec").child(field).index(i), address);
    }
}

fn warnings(service: &Value) -> Vec<String> {
    let spec = get(service, "spec");
    let external = !list(spec, "externalIPs").is_empty();
    let headless = kind(service) == "ClusterIP" && text(spec, "clusterIP") == "None";
    let named = kind(service) == "ExternalName";
    let mut out = Vec::new();
    if annotation(service, HINTS).is_some() {
        out.push(format!("annotation {HINTS} is deprecated, please use {MODE} instead"));
    }
    addresses(&mut out, spec, "clusterIPs");
    for (wrong, what) in [
        (has(spec, "loadBalancerIP"), "loadBalancerIP"),
        (external, "externalIPs"),
        (text(spec, "sessionAffinity") != "None", "SessionAffinity"),
    ] {
        if headless && wrong {
            out.push(format!("spec.{what} is ignored for headless services"));
        }
    }
    addresses(&mut out, spec, "externalIPs");
    if external && !headless && !named {
        out.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".into());
    }
    let path = Path::new("spec");
    vocab::warn_ip(&mut out, &path.child("loadBalancerIP"), text(spec, "loadBalancerIP"));
    for (i, range) in texts(spec, "loadBalancerSourceRanges").iter().enumerate() {
        vocab::warn_cidr(&mut out, &path.child("loadBalancerSourceRanges").index(i), range);
    }
    if external && named {
        out.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".into());
    }
    if !named && has(spec, "externalName") {
        out.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".into());
    }
    if text(spec, "trafficDistribution") == "PreferClose" {
        let (old, new) = (quote("PreferClose"), quote("PreferSameZone"));
        out.push(format!("spec.trafficDistribution: {old} is deprecated; use {new}"));
    }
    out
}
