//! Volumes, claims to them, and the kinds of `storage.k8s.io`; beside them the words that several of these share.

mod attachment;
mod capacity;
pub mod claim;
pub mod class;
mod csidriver;
mod csinode;
mod source;
pub mod volume;

use serde_json::Value;

use super::value::{annotation, get, num, some, text, text_entries};
use super::vocab::{self, Errors};
use crate::schema::quantity::Amount;
use crate::{FieldError, Path, ResourceDef};

const GROUP: (&str, &str) = ("storage.k8s.io", "v1");
/// The annotation that named a class before there was a field for it.
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const CLASS_DEPRECATED: &str = "deprecated since v1.8; use \"storageClassName\" attribute instead";
const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];
/// Most bytes and most entries of a class's parameters.
const PARAMETERS: (usize, usize) = (256 << 10, 512);

/// The rows of the group.
#[must_use]
pub fn defs() -> Vec<ResourceDef> {
    vec![csidriver::def(), csinode::def(), capacity::def(), class::def(), attachment::def(), class::attributes()]
}

/// The class that a volume or claim asks for, by whichever of the two ways; `None` if by neither.
#[must_use]
pub fn class_of(obj: &Value) -> Option<&str> {
    annotation(obj, CLASS).or_else(|| some(get(obj, "spec"), "storageClassName").and_then(Value::as_str))
}

fn check_access_modes(errs: &mut Errors, path: &Path, modes: &[&str]) {
    for mode in modes {
        vocab::known_value(errs, path, mode, ACCESS_MODES);
    }
    let alone = |mode: &&&str| **mode == "ReadWriteOncePod";
    if modes.iter().any(|mode| alone(&mode)) && modes.iter().any(|mode| !alone(&mode) && ACCESS_MODES.contains(mode)) {
        errs.push(FieldError::forbidden(path, "may not use ReadWriteOncePod with other access modes"));
    }
}

/// Access modes as tables show them: each once, in a fixed order.
fn show_access_modes(modes: &[&str]) -> String {
    let short =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let shown: Vec<&str> = short.iter().filter(|(mode, _)| modes.contains(mode)).map(|(_, short)| *short).collect();
    shown.join(",")
}

/// An amount of storage that is not negative.
fn check_amount(errs: &mut Errors, path: &Path, amount: Amount) {
    if amount.whole() < 0 {
        errs.push(FieldError::invalid(path, amount.whole(), "must be a valid resource quantity"));
    }
}

/// The name of a CSI driver.
pub fn check_driver(errs: &mut Errors, path: &Path, driver: &str) {
    if driver.is_empty() {
        errs.push(FieldError::required(path, ""));
        return;
    }
    if driver.len() > 63 {
        errs.push(FieldError::too_long(path, 63));
    }
    vocab::invalid(errs, path, driver, vocab::subdomain_errors(&driver.to_lowercase()));
}

/// Who provisions volumes of a class.
fn check_provisioner(errs: &mut Errors, path: &Path, provisioner: &str) {
    match provisioner {
        "" => errs.push(FieldError::required(path, "")),
        name => vocab::qualified_name(errs, path, &name.to_lowercase()),
    }
}

fn check_parameters(errs: &mut Errors, path: &Path, owner: &Value, needed: bool) {
    let all: Vec<(&str, &str)> = text_entries(owner, "parameters").collect();
    if all.len() > PARAMETERS.1 {
        errs.push(FieldError::too_long(path, PARAMETERS.1));
        return;
    }
    if all.iter().any(|(key, _)| key.is_empty()) {
        errs.push(FieldError::invalid(path, "", "field can not be empty."));
    }
    if all.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > PARAMETERS.0 {
        errs.push(FieldError::too_long(path, PARAMETERS.0));
    }
    if needed && all.is_empty() {
        errs.push(FieldError::required(path, "must contain at least one key/value pair"));
    }
}

/// Requests for tokens of a pod's account.
fn check_token_requests(errs: &mut Errors, path: &Path, requests: &[Value]) {
    for (i, request) in requests.iter().enumerate() {
        let (path, audience) = (path.index(i), text(request, "audience"));
        if requests[..i].iter().any(|other| text(other, "audience") == audience) {
            errs.push(FieldError::duplicate(path.child("audience"), audience));
            continue;
        }
        if some(request, "expirationSeconds").is_some() {
            check_expiry(errs, &path.child("expirationSeconds"), num(request, "expirationSeconds"));
        }
    }
}

fn check_expiry(errs: &mut Errors, path: &Path, seconds: i64) {
    if seconds < 600 {
        errs.push(FieldError::invalid(path, seconds, "may not specify a duration less than 10 minutes"));
    }
    if seconds > 1 << 32 {
        errs.push(FieldError::invalid(path, seconds, "may not specify a duration larger than 2^32 seconds"));
    }
}

/// Adds a finding where a field changed that may not.
fn fixed(errs: &mut Errors, field: &str, new: &Value, old: &Value) {
    vocab::immutable(errs, field, get(new, field), get(old, field));
}
