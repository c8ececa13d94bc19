//! IngressClasses.

use serde_json::Value;

use super::super::cells::{self, Cell, NONE};
use super::super::value::{at, default_text, get, has, set_generation, some, some_mut, spec_generation, text};
use super::super::vocab::{self, Errors};
use super::ingress::check_reference;
use crate::meta::regex_rule;
use crate::{FieldError, Path, ResourceDef, Scope, Strategy, meta};

/// Most bytes of a controller's name.
const LONGEST: usize = 250;
const SCOPES: &[&str] = &["Cluster", "Namespace"];
const PATH: &str = "[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+";

/// The row.
#[must_use]
pub fn def() -> ResourceDef {
    ResourceDef {
        scope: Scope::Cluster,
        ..ResourceDef::new(
            super::GROUP,
            ("ingressclasses", "ingressclass", "IngressClass"),
            "io.k8s.api.networking.v1.IngressClass",
            IngressClasses,
        )
    }
}

struct IngressClasses;

impl Strategy for IngressClasses {
    fn default(&self, obj: &mut Value) {
        if let Some(parameters) = obj.get_mut("spec").and_then(|spec| some_mut(spec, "parameters")) {
            default_text(parameters, "scope", "Cluster");
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
        let (path, spec) = (Path::new("spec"), get(obj, "spec"));
        check_controller(&mut errs, &path.child("controller"), text(spec, "controller"));
        if let Some(parameters) = some(spec, "parameters") {
            check_parameters(&mut errs, &path.child("parameters"), parameters);
        }
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        let controller = |obj| at(obj, &["spec", "controller"]);
        vocab::immutable(&mut errs, "spec.controller", controller(new), controller(old));
        errs.extend(meta::validate_object_meta(new, false, &|name, prefix| self.name_errors(name, prefix)));
        errs.extend(self.validate(new));
        errs
    }

    fn managed_generation(&self) -> bool {
        true
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        let spec = get(obj, "spec");
        let parameters = some(spec, "parameters").map_or_else(|| NONE.to_owned(), show_parameters);
        vec![cells::name(obj), cells::of(text(spec, "controller")), cells::of(parameters), cells::age(obj)]
    }
}

fn show_parameters(parameters: &Value) -> String {
    let kind = match some(parameters, "apiGroup").and_then(Value::as_str) {
        Some(group) => format!("{}.{group}", text(parameters, "kind")),
        None => text(parameters, "kind").to_owned(),
    };
    format!("{kind}/{}", text(parameters, "name"))
}

fn check_controller(errs: &mut Errors, path: &Path, controller: &str) {
    if controller.is_empty() {
        errs.push(FieldError::required(path, ""));
        return;
    }
    if controller.len() > LONGEST {
        errs.push(FieldError::too_long(path, LONGEST));
    }
    match controller.split_once('/') {
        Some((host, rest)) if !host.is_empty() && !rest.is_empty() => {
            vocab::subdomain(errs, path, host);
            let good = |c: u8| c.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&c);
            if !rest.bytes().all(good) {
                errs.push(FieldError::invalid(path, rest, regex_rule("Invalid path", PATH, &[])));
            }
        }
        _ => {
            let message = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            errs.push(FieldError::invalid(path, controller, message));
        }
    }
}

fn check_parameters(errs: &mut Errors, path: &Path, parameters: &Value) {
    check_reference(errs, path, parameters);
    let at = path.child("namespace");
    let namespace = some(parameters, "namespace").and_then(Value::as_str);
    match (text(parameters, "scope"), namespace) {
        ("", _) if !has(parameters, "scope") => errs.push(FieldError::required(path.child("scope"), "")),
        ("Namespace", None) => {
            errs.push(FieldError::required(at, "`parameters.scope` is set to 'Namespace'"));
        }
        ("Namespace", Some(namespace)) => vocab::label(errs, &at, namespace),
        ("Cluster", Some(_)) => errs.push(FieldError::forbidden(at, "`parameters.scope` is set to 'Cluster'")),
        (scope, _) => vocab::known_value(errs, &path.child("scope"), scope, SCOPES),
    }
}
