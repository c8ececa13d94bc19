//! Environment variables and what they refer to.

use serde_json::Value;

use super::super::value::{get, list, some, text};
use super::super::vocab::{self, Errors};
use crate::schema::quantity::Amount;
use crate::{FieldError, Path};

const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const VOLUME_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
/// What the downward API can name at all, before the place of use narrows it down.
const ANY_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const SIZES: &[&str] = &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

/// Where a reference to a field of the pod stands.
#[derive(Clone, Copy, PartialEq)]
pub enum Use {
    /// In a variable.
    Variable,
    /// In a file of a volume.
    File,
}

/// Checks a list of variables.
pub fn check(errs: &mut Errors, path: &Path, variables: &[Value]) {
    for (i, variable) in variables.iter().enumerate() {
        let path = path.index(i);
        match text(variable, "name") {
            "" => errs.push(FieldError::required(path.child("name"), "")),
            name => vocab::invalid(errs, &path.child("name"), name, vocab::env_name_errors(name)),
        }
        if let Some(from) = some(variable, "valueFrom") {
            check_source(errs, &path.child("valueFrom"), from, text(variable, "value"));
        }
    }
}

fn check_source(errs: &mut Errors, path: &Path, from: &Value, value: &str) {
    let mut sources = 0;
    for name in ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"] {
        let Some(source) = some(from, name) else { continue };
        sources += 1;
        let path = path.child(name);
        match name {
            "fieldRef" => check_field(errs, &path, source, Use::Variable),
            "resourceFieldRef" => check_resource(errs, &path, source, Use::Variable),
            "fileKeyRef" => check_file_key(errs, &path, source),
            _ => check_key(errs, &path, source),
        }
    }
    let message = match sources {
        0 => "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        _ if !value.is_empty() => "may not be specified when `value` is not empty",
        1 => return,
        _ => "may not have more than one field specified at a time",
    };
    errs.push(FieldError::invalid(path, "", message));
}

fn check_key(errs: &mut Errors, path: &Path, source: &Value) {
    let name = text(source, "name");
    vocab::subdomain(errs, &path.child("name"), name);
    match text(source, "key") {
        "" => errs.push(FieldError::required(path.child("key"), "")),
        key => vocab::invalid(errs, &path.child("key"), key, vocab::config_key_errors(key)),
    }
}

fn check_file_key(errs: &mut Errors, path: &Path, source: &Value) {
    match text(source, "key") {
        "" => errs.push(FieldError::required(path.child("key"), "")),
        key => vocab::invalid(errs, &path.child("key"), key, vocab::env_name_errors(key)),
    }
    match text(source, "volumeName") {
        "" => errs.push(FieldError::required(path.child("volumeName"), "")),
        name => vocab::label(errs, &path.child("volumeName"), name),
    }
    match text(source, "path") {
        "" => errs.push(FieldError::required(path.child("path"), "")),
        file => super::mounts::non_reserved_path(errs, &path.child("path"), file),
    }
}

/// Checks a reference to a field of the pod.
pub fn check_field(errs: &mut Errors, path: &Path, source: &Value, place: Use) {
    for name in ["apiVersion", "fieldPath"] {
        if text(source, name).is_empty() {
            errs.push(FieldError::required(path.child(name), ""));
            return;
        }
    }
    let field = text(source, "fieldPath");
    let (base, subscript) = split_subscript(field);
    let known = match subscript {
        Some(_) => ["metadata.annotations", "metadata.labels"].contains(&base),
        None => ANY_FIELDS.contains(&base) || base == "spec.host",
    };
    if !known {
        let message = format!("error converting fieldPath: field label not supported: {field}");
        errs.push(FieldError::invalid(path.child("fieldPath"), field, message));
        return;
    }
    match subscript {
        Some(key) if base == "metadata.annotations" => vocab::qualified_name(errs, path, &key.to_lowercase()),
        Some(key) => vocab::qualified_name(errs, path, key),
        None => {
            let allowed = if place == Use::Variable { ENV_FIELDS } else { VOLUME_FIELDS };
            let base = if base == "spec.host" { "spec.nodeName" } else { base };
            vocab::known_value(errs, &path.child("fieldPath"), base, allowed);
        }
    }
}

/// Takes `metadata.labels['key']` apart.
fn split_subscript(field: &str) -> (&str, Option<&str>) {
    let inner = field.strip_suffix("']").and_then(|rest| rest.split_once("['"));
    match inner {
        Some((base, key)) if !base.is_empty() => (base, Some(key)),
        _ => (field, None),
    }
}

/// Checks a reference to a container's resources.
pub fn check_resource(errs: &mut Errors, path: &Path, source: &Value, place: Use) {
    let resource = text(source, "resource");
    let huge = resource.starts_with("requests.hugepages-") || resource.starts_with("limits.hugepages-");
    if place == Use::File && text(source, "containerName").is_empty() {
        errs.push(FieldError::required(path.child("containerName"), ""));
    } else if resource.is_empty() {
        errs.push(FieldError::required(path.child("resource"), ""));
    } else if !huge {
        vocab::known_value(errs, &path.child("resource"), resource, RESOURCES);
    }
    check_divisor(errs, &path.child("divisor"), resource, get(source, "divisor"));
}

fn check_divisor(errs: &mut Errors, path: &Path, resource: &str, divisor: &Value) {
    let Some(amount) = Amount::of(divisor).filter(|amount| !amount.is_zero()) else { return };
    let kind = resource.split_once('.').map_or("", |(_, kind)| kind);
    let (known, called): (&[&str], _) = match kind {
        "cpu" => (&["1m", "1"], "cpu"),
        "memory" => (SIZES, "memory"),
        "ephemeral-storage" => (SIZES, "local ephemeral storage"),
        _ if kind.starts_with("hugepages-") => (SIZES, "hugepages"),
        _ => return,
    };
    if !known.contains(&amount.to_string().as_str()) {
        let list = if called == "cpu" { "1m and 1".to_owned() } else { SIZES.join(", ") };
        let message = format!("only divisor's values {list} are supported with the {called} resource");
        errs.push(FieldError::invalid(path, resource, message));
    }
}

/// Checks the sources whose keys all become variables.
pub fn check_from(errs: &mut Errors, path: &Path, sources: &[Value]) {
    for (i, source) in sources.iter().enumerate() {
        let item = path.index(i);
        let prefix = text(source, "prefix");
        if !prefix.is_empty() {
            vocab::invalid(errs, &item.child("prefix"), prefix, vocab::env_name_errors(prefix));
        }
        let mut count = 0;
        for name in ["configMapRef", "secretRef"] {
            let Some(reference) = some(source, name) else { continue };
            count += 1;
            let path = item.child(name).child("name");
            match text(reference, "name") {
                "" => errs.push(FieldError::required(path, "")),
                text => vocab::invalid(errs, &path, text, crate::meta::name_is_dns_subdomain(text, true)),
            }
        }
        match count {
            0 => errs.push(FieldError::invalid(path, "", "must specify one of: `configMapRef` or `secretRef`")),
            1 => {}
            _ => errs.push(FieldError::invalid(path, "", "may not have more than one field specified at a time")),
        }
    }
}

/// Checks one file of a downward-API volume. All findings carry the path of the volume: upstream
/// does not say which file.
pub fn check_file(errs: &mut Errors, path: &Path, file: &Value) {
    let name = text(file, "path");
    if name.is_empty() {
        errs.push(FieldError::required(path.child("path"), ""));
    }
    super::mounts::non_reserved_path(errs, &path.child("path"), name);
    match (some(file, "fieldRef"), some(file, "resourceFieldRef")) {
        (Some(field), other) => {
            check_field(errs, &path.child("fieldRef"), field, Use::File);
            if other.is_some() {
                let message = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errs.push(FieldError::invalid(path, "resource", message));
            }
        }
        (None, Some(resource)) => check_resource(errs, &path.child("resourceFieldRef"), resource, Use::File),
        (None, None) => errs.push(FieldError::required(path, "one of fieldRef and resourceFieldRef is required")),
    }
    vocab::file_mode(errs, &path.child("mode"), file.get("mode").and_then(Value::as_i64));
}

/// Checks the files of a downward-API source.
pub fn check_files(errs: &mut Errors, path: &Path, source: &Value) {
    for file in list(source, "items") {
        check_file(errs, path, file);
    }
}
