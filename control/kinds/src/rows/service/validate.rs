//! Checks of a Service beside those of its addresses.

use serde_json::{Value, json};

use super::super::value::{annotation, get, has, int, list, num, some, text, texts};
use super::super::vocab::{self, Errors};
use super::{HINTS, MODE, externally_accessible, is_headless, kind, needs_health_check_port, update};
use crate::{Bad, FieldError, Path};

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

/// Checks everything but what [`super::addresses::check`] has seen.
pub fn check(service: &Value) -> Errors {
    let mut errs = Errors::new();
    let spec = get(service, "spec");
    let path = Path::new("spec");
    check_topology(&mut errs, service);
    check_type(&mut errs, &path, service);
    check_ports(&mut errs, &path.child("ports"), list(spec, "ports"));
    vocab::labels(&mut errs, &path.child("selector"), get(spec, "selector"));
    check_affinity(&mut errs, &path, spec);
    for (i, ip) in texts(spec, "externalIPs").iter().enumerate() {
        let path = path.child("externalIPs").index(i);
        let before = errs.len();
        vocab::ip(&mut errs, &path, ip);
        if errs.len() == before {
            vocab::non_special_ip(&mut errs, &path, ip);
        }
    }
    vocab::one_of(
        &mut errs,
        &path.child("type"),
        kind(service),
        &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"],
    );
    check_repeated_ports(&mut errs, &path.child("ports"), service);
    check_ranges(&mut errs, &path, service);
    let balanced = kind(service) == "LoadBalancer";
    if has(spec, "allocateLoadBalancerNodePorts") && !balanced {
        let message = "may only be used when `type` is 'LoadBalancer'";
        errs.push(FieldError::forbidden(path.child("allocateLoadBalancerNodePorts"), message));
    }
    update::check_class(&mut errs, service);
    check_traffic(&mut errs, &path, service);
    errs
}

fn check_topology(errs: &mut Errors, service: &Value) {
    if let (Some(hints), Some(mode)) = (annotation(service, HINTS), annotation(service, MODE))
        && hints != mode
    {
        let path = Path::new("metadata").child("annotations").key(MODE);
        let message = format!("must match annotations[{HINTS}] when both are specified");
        errs.push(FieldError::invalid(path, mode, message));
    }
}

fn check_type(errs: &mut Errors, path: &Path, service: &Value) {
    let spec = get(service, "spec");
    let kind = kind(service);
    if list(spec, "ports").is_empty() && !is_headless(service) && kind != "ExternalName" {
        errs.push(FieldError::required(path.child("ports"), ""));
    }
    match kind {
        "LoadBalancer" | "NodePort" if is_headless(service) => {
            let message = format!("may not be set to 'None' for {kind} services");
            errs.push(FieldError::invalid(path.child("clusterIPs").index(0), "None", message));
        }
        "ExternalName" => check_external_name(errs, path, spec),
        _ => {}
    }
}

fn check_external_name(errs: &mut Errors, path: &Path, spec: &Value) {
    for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if has(spec, field) {
            errs.push(FieldError::forbidden(path.child(field), "may not be set for ExternalName services"));
        }
    }
    let name = text(spec, "externalName");
    match name.strip_suffix('.').unwrap_or(name) {
        "" => errs.push(FieldError::required(path.child("externalName"), "")),
        name => vocab::subdomain(errs, &path.child("externalName"), name),
    }
}

fn check_ports(errs: &mut Errors, path: &Path, ports: &[Value]) {
    let mut names = Vec::new();
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        let name = text(port, "name");
        if name.is_empty() && ports.len() > 1 {
            errs.push(FieldError::required(path.child("name"), ""));
        } else if !name.is_empty() {
            vocab::label(errs, &path.child("name"), name);
            if names.contains(&name) {
                errs.push(FieldError::duplicate(path.child("name"), name));
            }
            names.push(name);
        }
        let number = num(port, "port");
        vocab::invalid(errs, &path.child("port"), number, vocab::port_errors(number));
        vocab::one_of(errs, &path.child("protocol"), text(port, "protocol"), PROTOCOLS);
        vocab::port_or_name(errs, &path.child("targetPort"), get(port, "targetPort"));
        if has(port, "appProtocol") {
            vocab::qualified_name(errs, &path.child("appProtocol"), text(port, "appProtocol"));
        }
    }
}

fn check_affinity(errs: &mut Errors, path: &Path, spec: &Value) {
    let affinity = text(spec, "sessionAffinity");
    vocab::one_of(errs, &path.child("sessionAffinity"), affinity, &["ClientIP", "None"]);
    let config = path.child("sessionAffinityConfig");
    match (affinity, some(spec, "sessionAffinityConfig")) {
        ("ClientIP", Some(given)) => {
            let seconds = num(get(given, "clientIP"), "timeoutSeconds");
            if !(1..=86400).contains(&seconds) {
                let path = config.child("clientIP").child("timeoutSeconds");
                errs.push(FieldError::invalid(path, seconds, "must be greater than 0 and less than 86400"));
            }
        }
        ("None", Some(_)) => errs.push(FieldError::forbidden(config, "must not be set when session affinity is None")),
        _ => {}
    }
}

fn check_repeated_ports(errs: &mut Errors, path: &Path, service: &Value) {
    let ports = list(get(service, "spec"), "ports");
    let node = |port: &Value| int(port, "nodePort").filter(|number| *number != 0);
    if kind(service) == "ClusterIP" {
        for (i, _) in ports.iter().enumerate().filter(|(_, port)| node(port).is_some()) {
            let message = "may not be used when `type` is 'ClusterIP'";
            errs.push(FieldError::forbidden(path.index(i).child("nodePort"), message));
        }
    }
    let protocol = |port: &Value| text(port, "protocol").to_owned();
    for (i, port) in ports.iter().enumerate() {
        let Some(number) = node(port) else { continue };
        if ports[..i].iter().any(|other| node(other) == Some(number) && protocol(other) == protocol(port)) {
            errs.push(FieldError::duplicate(path.index(i).child("nodePort"), number));
        }
    }
    for (i, port) in ports.iter().enumerate() {
        let number = num(port, "port");
        if ports[..i].iter().any(|other| num(other, "port") == number && protocol(other) == protocol(port)) {
            let shown = format!(
                "{{\"Name\":\"\",\"Protocol\":{},\"AppProtocol\":null,\"Port\":{number},\"TargetPort\":0,\"NodePort\":0}}",
                json!(protocol(port))
            );
            errs.push(FieldError::duplicate(path.index(i), Bad::Raw(shown)));
        }
    }
}

fn check_ranges(errs: &mut Errors, path: &Path, service: &Value) {
    const MESSAGE: &str = "may only be used when `type` is 'LoadBalancer'";
    let balanced = kind(service) == "LoadBalancer";
    let ranges = texts(get(service, "spec"), "loadBalancerSourceRanges");
    if !ranges.is_empty() {
        // Upstream spells the path in its own way.
        let path = path.child("LoadBalancerSourceRanges");
        if !balanced {
            errs.push(FieldError::forbidden(&path, MESSAGE));
        }
        for (i, range) in ranges.iter().enumerate() {
            vocab::cidr(errs, &path.index(i), range.trim());
        }
    } else if let Some(ranges) = annotation(service, RANGES) {
        let path = Path::new("metadata").child("annotations").key(RANGES);
        if !balanced {
            errs.push(FieldError::forbidden(&path, MESSAGE));
        }
        for range in ranges.split(',').map(str::trim).filter(|_| !ranges.trim().is_empty()) {
            vocab::cidr(errs, &path, range);
        }
    }
}

fn check_traffic(errs: &mut Errors, path: &Path, service: &Value) {
    let spec = get(service, "spec");
    let external = text(spec, "externalTrafficPolicy");
    let at = path.child("externalTrafficPolicy");
    if externally_accessible(service) {
        vocab::one_of(errs, &at, external, &["Cluster", "Local"]);
    } else if !external.is_empty() {
        errs.push(FieldError::invalid(at, external, "may only be set for externally-accessible services"));
    }
    let port = num(spec, "healthCheckNodePort");
    let at = path.child("healthCheckNodePort");
    if needs_health_check_port(service) && port != 0 {
        vocab::invalid(errs, &at, port, vocab::port_errors(port));
    } else if port != 0 {
        let message = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errs.push(FieldError::invalid(at, port, message));
    }
    if has(spec, "internalTrafficPolicy") {
        let policy = text(spec, "internalTrafficPolicy");
        vocab::known_value(errs, &path.child("internalTrafficPolicy"), policy, &["Cluster", "Local"]);
    }
    if has(spec, "trafficDistribution") {
        let wanted = text(spec, "trafficDistribution");
        let known = &["PreferClose", "PreferSameZone", "PreferSameNode"];
        vocab::known_value(errs, &path.child("trafficDistribution"), wanted, known);
    }
}

/// Checks the status.
pub fn check_status(errs: &mut Errors, service: &Value) {
    let balancer = get(get(service, "status"), "loadBalancer");
    let path = Path::new("status").child("loadBalancer").child("ingress");
    let ingress = list(balancer, "ingress");
    if kind(service) != "LoadBalancer" && !ingress.is_empty() {
        errs.push(FieldError::forbidden(path, "may only be used when `spec.type` is 'LoadBalancer'"));
        return;
    }
    for (i, entry) in ingress.iter().enumerate() {
        check_ingress(errs, &path.index(i), entry);
    }
}

fn check_ingress(errs: &mut Errors, path: &Path, entry: &Value) {
    let (ip, hostname) = (text(entry, "ip"), text(entry, "hostname"));
    if !ip.is_empty() {
        vocab::ip(errs, &path.child("ip"), ip);
    }
    match (some(entry, "ipMode").and_then(Value::as_str), ip) {
        (None, "") => {}
        (None, _) => errs.push(FieldError::required(path.child("ipMode"), "must be specified when `ip` is set")),
        (Some(_), "") => {
            errs.push(FieldError::forbidden(path.child("ipMode"), "may not be specified when `ip` is not set"))
        }
        (Some(mode), _) => vocab::known_value(errs, &path.child("ipMode"), mode, &["Proxy", "VIP"]),
    }
    if !hostname.is_empty() {
        vocab::host_name(errs, &path.child("hostname"), hostname);
    }
}
