//! Ingresses.

use serde_json::{Value, json};

use super::super::cells::{self, Cell, NONE};
use super::super::service::given;
use super::super::value::{
    annotation, carry_generation, copy, get, has, list, num, set, set_generation, some, spec_generation, text,
};
use super::super::vocab::{self, Errors};
use crate::field_error::quote;
use crate::resource::names;
use crate::{FieldError, Path, ResourceDef, Strategy, Verbs, meta};

/// The annotation that named a class before there was a field for it.
pub const CLASS: &str = "kubernetes.io/ingress.class";
const TYPES: &[&str] = &["Exact", "ImplementationSpecific", "Prefix"];
/// What must not be in a path that is compared.
const SEQUENCES: &[&str] = &["//", "/./", "/../", "%2f", "%2F"];
const SUFFIXES: &[&str] = &["/..", "/."];

/// The row.
#[must_use]
pub fn def() -> ResourceDef {
    ResourceDef {
        short: names(&["ing"]),
        ..ResourceDef::new(
            super::GROUP,
            ("ingresses", "ingress", "Ingress"),
            "io.k8s.api.networking.v1.Ingress",
            Ingresses,
        )
    }
    .with_part("status", Verbs::PART)
}

struct Ingresses;

impl Ingresses {
    fn check(&self, ingress: &Value) -> Errors {
        let mut errs = Errors::new();
        check_spec(&mut errs, &Path::new("spec"), get(ingress, "spec"));
        errs
    }
}

impl Strategy for Ingresses {
    fn prepare_create(&self, obj: &mut Value) {
        set(obj, "status", json!({"loadBalancer": {}}));
        set_generation(obj, 1);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        if sub == Some("status") {
            copy(new, old, "spec");
            carry_generation(new, old, false);
        } else {
            copy(new, old, "status");
            spec_generation(new, old);
        }
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let old_style = annotation(obj, CLASS).is_some() && !has(get(obj, "spec"), "ingressClassName");
        if old.is_some() || !old_style {
            return Vec::new();
        }
        vec![format!("annotation {} is deprecated, please use 'spec.ingressClassName' instead", quote(CLASS))]
    }

    fn status_warnings(&self, obj: &Value) -> Vec<String> {
        vocab::warn_balanced(obj)
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = self.check(obj);
        if let (Some(named), Some(class)) = (annotation(obj, CLASS), some(get(obj, "spec"), "ingressClassName"))
            && class != named
        {
            let path = Path::new("annotations").child(CLASS);
            errs.push(FieldError::invalid(path, named, "must match `ingressClassName` when both are specified"));
        }
        errs
    }

    fn validate_update(&self, new: &Value, _old: &Value, sub: Option<&str>) -> Vec<FieldError> {
        if sub == Some("status") {
            return check_status(new);
        }
        let mut errs = meta::validate_object_meta(new, true, &|name, prefix| self.name_errors(name, prefix));
        errs.extend(self.check(new));
        errs
    }

    fn managed_generation(&self) -> bool {
        true
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        let spec = get(obj, "spec");
        vec![
            cells::name(obj),
            cells::of(some(spec, "ingressClassName").and_then(Value::as_str).unwrap_or(NONE)),
            cells::of(hosts(list(spec, "rules"))),
            cells::of(given(obj).join(",")),
            cells::of(if list(spec, "tls").is_empty() { "80" } else { "80, 443" }),
            cells::age(obj),
        ]
    }
}

fn hosts(rules: &[Value]) -> String {
    const SHOWN: usize = 3;
    let named: Vec<&str> = rules.iter().map(|rule| text(rule, "host")).filter(|host| !host.is_empty()).collect();
    match named.len() {
        0 => "*".into(),
        count if count <= SHOWN => named.join(","),
        _ => format!("{} + {} more...", named[..SHOWN].join(","), rules.len() - SHOWN),
    }
}

fn check_spec(errs: &mut Errors, path: &Path, spec: &Value) {
    let rules = list(spec, "rules");
    if rules.is_empty() && !has(spec, "defaultBackend") {
        let message = "either `defaultBackend` or `rules` must be specified";
        errs.push(FieldError::invalid(path, get(spec, "rules").clone(), message));
    }
    if let Some(backend) = some(spec, "defaultBackend") {
        check_backend(errs, &path.child("defaultBackend"), backend);
    }
    for (i, rule) in rules.iter().enumerate() {
        check_rule(errs, &path.child("rules").index(i), rule);
    }
    for (i, tls) in list(spec, "tls").iter().enumerate() {
        check_tls(errs, &path.child("tls").index(i), tls);
    }
    if let Some(class) = some(spec, "ingressClassName").and_then(Value::as_str) {
        vocab::subdomain(errs, &path.child("ingressClassName"), class);
    }
}

fn host_errors(host: &str) -> Vec<String> {
    if host.contains('*') { vocab::wildcard_errors(host) } else { vocab::subdomain_errors(host) }
}

fn check_rule(errs: &mut Errors, path: &Path, rule: &Value) {
    let host = text(rule, "host");
    if !host.is_empty() {
        let at = path.child("host");
        if vocab::loose_ip(host).is_some() {
            errs.push(FieldError::invalid(&at, host, "must be a DNS name, not an IP address"));
        }
        vocab::invalid(errs, &at, host, host_errors(host));
    }
    let Some(http) = some(rule, "http") else { return };
    let (path, paths) = (path.child("http").child("paths"), list(http, "paths"));
    if paths.is_empty() {
        errs.push(FieldError::required(&path, ""));
    }
    for (i, entry) in paths.iter().enumerate() {
        check_path(errs, &path.index(i), entry);
    }
}

fn check_path(errs: &mut Errors, path: &Path, entry: &Value) {
    let Some(kind) = some(entry, "pathType").and_then(Value::as_str) else {
        errs.push(FieldError::required(path.child("pathType"), "pathType must be specified"));
        return;
    };
    let (at, target) = (path.child("path"), text(entry, "path"));
    let mut no = |message: String| errs.push(FieldError::invalid(&at, target, message));
    match kind {
        "Exact" | "Prefix" => {
            if !target.starts_with('/') {
                no("must be an absolute path".into());
            }
            SEQUENCES
                .iter()
                .filter(|bad| target.contains(**bad))
                .for_each(|bad| no(format!("must not contain '{bad}'")));
            SUFFIXES
                .iter()
                .filter(|bad| target.ends_with(**bad))
                .for_each(|bad| no(format!("cannot end with '{bad}'")));
        }
        "ImplementationSpecific" => {
            if !target.is_empty() && !target.starts_with('/') {
                no("must be an absolute path".into());
            }
        }
        other => errs.push(FieldError::not_supported(path.child("pathType"), other, TYPES)),
    }
    check_backend(errs, &path.child("backend"), get(entry, "backend"));
}

fn check_backend(errs: &mut Errors, path: &Path, backend: &Value) {
    match (some(backend, "resource"), some(backend, "service")) {
        (Some(_), Some(_)) => {
            errs.push(FieldError::invalid(path, "", "cannot set both resource and service backends"));
        }
        (Some(resource), None) => check_reference(errs, &path.child("resource"), resource),
        (None, Some(service)) => check_service(errs, path, service),
        (None, None) => errs.push(FieldError::invalid(path, "", "resource or service backend is required")),
    }
}

fn check_service(errs: &mut Errors, path: &Path, service: &Value) {
    let at = path.child("service");
    match text(service, "name") {
        "" => errs.push(FieldError::required(at.child("name"), "")),
        name => vocab::label(errs, &at.child("name"), name),
    }
    let port = get(service, "port");
    let (name, number) = (text(port, "name"), num(port, "number"));
    match (name.is_empty(), number == 0) {
        (false, false) => errs.push(FieldError::invalid(path, "", "cannot set both port name & port number")),
        (false, true) => vocab::port_or_name(errs, &at.child("port").child("name"), get(port, "name")),
        (true, false) => vocab::port_or_name(errs, &at.child("port").child("number"), get(port, "number")),
        (true, true) => errs.push(FieldError::required(path, "port name or number is required")),
    }
}

/// Checks what names another object in a group: its kind and its name.
pub fn check_reference(errs: &mut Errors, path: &Path, target: &Value) {
    if let Some(group) = some(target, "apiGroup").and_then(Value::as_str) {
        vocab::subdomain(errs, &path.child("apiGroup"), group);
    }
    for field in ["kind", "name"] {
        match text(target, field) {
            "" => errs.push(FieldError::required(path.child(field), "")),
            name => vocab::path_segment(errs, &path.child(field), name),
        }
    }
}

fn check_tls(errs: &mut Errors, path: &Path, tls: &Value) {
    for (i, host) in list(tls, "hosts").iter().enumerate() {
        let host = host.as_str().unwrap_or("");
        vocab::invalid(errs, &path.child("hosts").index(i), host, host_errors(host));
    }
    let secret = text(tls, "secretName");
    if !secret.is_empty() {
        vocab::subdomain(errs, &path.child("secretName"), secret);
    }
}

fn check_status(ingress: &Value) -> Errors {
    let mut errs = Errors::new();
    let path = Path::new("status").child("loadBalancer").child("ingress");
    for (i, entry) in list(get(get(ingress, "status"), "loadBalancer"), "ingress").iter().enumerate() {
        let (path, ip, hostname) = (path.index(i), text(entry, "ip"), text(entry, "hostname"));
        if !ip.is_empty() {
            vocab::ip(&mut errs, &path.child("ip"), ip);
        }
        if !hostname.is_empty() {
            vocab::host_name(&mut errs, &path.child("hostname"), hostname);
        }
    }
    errs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_backends_are_judged() {
        let service = json!({"service": {"name": "s", "port": {"number": 80}}});
        for (kind, path, backend, expect) in [
            ("Exact", "/a", &service, vec![]),
            ("Exact", "a", &service, vec!["must be an absolute path"]),
            ("Prefix", "/a/../b/.", &service, vec!["must not contain '/../'", "cannot end with '/.'"]),
            ("Prefix", "", &service, vec!["must be an absolute path"]),
            ("ImplementationSpecific", "", &service, vec![]),
            ("ImplementationSpecific", "//x%2f", &service, vec![]),
            ("Exact", "/", &json!({"service": {"name": "s", "port": {}}}), vec!["port name or number is required"]),
            ("Exact", "/", &json!({"resource": {"kind": "K", "name": "a/b"}}), vec!["may not contain '/'"]),
        ] {
            let mut errs = Errors::new();
            check_path(&mut errs, &Path::new("p"), &json!({"pathType": kind, "path": path, "backend": backend}));
            let found: Vec<&str> = errs.iter().map(|error| error.detail.as_str()).collect();
            assert_eq!(found, expect, "{kind} {path}");
        }
    }

    #[test]
    fn three_hosts_are_shown() {
        let rules = |names: &[&str]| names.iter().map(|name| json!({"host": name})).collect::<Vec<_>>();
        for (names, expect) in [
            (vec![], "*"),
            (vec![""], "*"),
            (vec!["a", "", "b"], "a,b"),
            (vec!["a", "b", "c"], "a,b,c"),
            (vec!["a", "b", "c", "d", "e"], "a,b,c + 2 more..."),
        ] {
            assert_eq!(hosts(&rules(&names)), expect);
        }
    }
}
