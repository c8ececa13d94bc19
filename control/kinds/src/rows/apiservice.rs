//! APIServices: who serves a group and version.

use serde_json::{Value, json};

use super::cells::{self, Cell};
use super::clients;
use super::value::{
    child, copy, default_text, default_to, get, has, int, items_mut, list, on, set, some, some_mut, text,
};
use super::vocab::{self, Errors};
use crate::{
    FieldError, Path, ResourceDef, Scope, Strategy, Verbs, meta,
    resource::{Author, names},
};

/// The row.
#[must_use]
pub fn def() -> ResourceDef {
    ResourceDef {
        scope: Scope::Cluster,
        categories: names(&["api-extensions"]),
        ..ResourceDef::new(
            ("apiregistration.k8s.io", "v1"),
            ("apiservices", "apiservice", "APIService"),
            "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIService",
            ApiServices,
        )
    }
    .with_part("status", Verbs::PART)
}

struct ApiServices;

impl Strategy for ApiServices {
    fn any_finalizers(&self) -> bool {
        true
    }

    fn default(&self, obj: &mut Value) {
        if let Some(service) = some_mut(child(obj, "spec"), "service") {
            default_to(service, "port", 443);
        }
    }

    fn prepare_create(&self, obj: &mut Value) {
        set(obj, "status", json!({}));
        if !has(get(obj, "spec"), "service") {
            let condition = json!({
                "type": "Available", "status": "True", "reason": "Local",
                "message": "Local APIServices are always available",
            });
            set(child(obj, "status"), "conditions", json!([condition]));
        }
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        if sub != Some("status") {
            copy(new, old, "status");
            return;
        }
        copy(new, old, "spec");
        for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
            copy(child(new, "metadata"), get(old, "metadata"), field);
        }
    }

    fn stamp(&self, obj: &mut Value, old: Option<&Value>, _sub: Option<&str>, by: Author<'_>) {
        if old.is_none() {
            let conditions = items_mut(child(obj, "status"), "conditions");
            conditions.for_each(|condition| default_text(condition, "lastTransitionTime", by.now));
        }
    }

    /// The spec has a say in it: see [`check_name`].
    fn name_errors(&self, name: &str, prefix: bool) -> Vec<String> {
        meta::name_is_path_segment(name, prefix)
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        check(&mut errs, obj);
        errs
    }

    fn validate_update(&self, new: &Value, _old: &Value, sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        if sub == Some("status") {
            for (i, condition) in list(get(new, "status"), "conditions").iter().enumerate() {
                let path = Path::new("status").child("conditions").index(i).child("status");
                vocab::known_value(&mut errs, &path, text(condition, "status"), &["True", "False", "Unknown"]);
            }
            return errs;
        }
        errs.extend(meta::validate_generic_meta(new, false, &|name, prefix| self.name_errors(name, prefix)));
        check(&mut errs, new);
        errs
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        let service = some(get(obj, "spec"), "service").map_or_else(|| "Local".to_owned(), clients::show);
        let available = list(get(obj, "status"), "conditions").iter().find(|c| text(c, "type") == "Available");
        let state = available.map_or("Unknown".to_owned(), |condition| {
            match (text(condition, "status"), text(condition, "reason")) {
                (status @ "True", _) | (status, "") => status.to_owned(),
                (status, reason) => format!("{status} ({reason})"),
            }
        });
        vec![cells::name(obj), cells::of(service), cells::of(state), cells::age(obj)]
    }
}

fn check_name(errs: &mut Errors, obj: &Value) {
    let (spec, metadata) = (get(obj, "spec"), get(obj, "metadata"));
    let wanted = format!("{}.{}", text(spec, "version"), text(spec, "group"));
    for field in ["generateName", "name"] {
        let name = text(metadata, field);
        if !name.is_empty() && name != wanted && meta::name_is_path_segment(name, false).is_empty() {
            let message = format!("must be `spec.version+\".\"+spec.group`: \"{wanted}\"");
            errs.push(FieldError::invalid(Path::new("metadata").child(field), name, message));
        }
    }
}

fn check(errs: &mut Errors, obj: &Value) {
    check_name(errs, obj);
    let (spec, path) = (get(obj, "spec"), Path::new("spec"));
    let (group, version) = (text(spec, "group"), text(spec, "version"));
    if group.is_empty() && version != "v1" {
        let message = "only v1 may have an empty group and it better be legacy kube";
        errs.push(FieldError::required(path.child("group"), message));
    }
    if !group.is_empty() {
        vocab::subdomain(errs, &path.child("group"), group);
    }
    vocab::invalid(errs, &path.child("version"), version, meta::dns1035_label(version));
    for (field, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
        let priority = int(spec, field).unwrap_or(0);
        if !(1..=most).contains(&priority) {
            let message = format!("must be positive and less than {most}");
            errs.push(FieldError::invalid(path.child(field), priority, message));
        }
    }
    check_service(errs, &path, spec);
}

fn check_service(errs: &mut Errors, path: &Path, spec: &Value) {
    let (bundle, insecure) = (text(spec, "caBundle"), on(spec, "insecureSkipTLSVerify"));
    let at = path.child("insecureSkipTLSVerify");
    let Some(service) = some(spec, "service") else {
        if !bundle.is_empty() {
            let bytes = bundle.trim_end_matches('=').len() * 3 / 4;
            let message = "local APIServices may not have a caBundle";
            errs.push(FieldError::invalid(path.child("caBundle"), format!("{bytes} bytes"), message));
        }
        if insecure {
            errs.push(FieldError::invalid(at, true, "local APIServices may not have insecureSkipTLSVerify"));
        }
        return;
    };
    let path = path.child("service");
    for field in ["namespace", "name"] {
        if text(service, field).is_empty() {
            errs.push(FieldError::required(path.child(field), ""));
        }
    }
    clients::check_port(errs, &path.child("port"), int(service, "port").unwrap_or(0));
    if insecure && !bundle.is_empty() {
        errs.push(FieldError::invalid(at, true, "may not be true if caBundle is present"));
    }
}
