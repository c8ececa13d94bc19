//! ConfigMaps.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::cells::{self, Cell};
use super::value::{count, get, has, on, text_entries};
use super::vocab::{self, Errors};
use crate::{FieldError, Path, ResourceDef, Strategy, meta, resource::names};

/// The row.
#[must_use]
pub fn def() -> ResourceDef {
    ResourceDef {
        short: names(&["cm"]),
        ..ResourceDef::new(("", "v1"), ("configmaps", "configmap", "ConfigMap"), SCHEMA, ConfigMaps)
    }
}

const SCHEMA: &str = "io.k8s.api.core.v1.ConfigMap";
/// Most bytes of all values together, of a ConfigMap or a Secret.
pub const MAX_SIZE: usize = 1_048_576;
/// Message for a change of what is sealed.
pub const SEALED: &str = "field is immutable when `immutable` is set";

/// Length of what a base64 text stands for.
pub fn decoded(text: &str) -> Vec<u8> {
    STANDARD.decode(text).unwrap_or_default()
}

/// Checks that a sealed object stays as it is.
pub fn check_sealed(errs: &mut Errors, new: &Value, old: &Value, fields: &[&str]) {
    if !on(old, "immutable") {
        return;
    }
    if !on(new, "immutable") {
        errs.push(FieldError::forbidden("immutable", SEALED));
    }
    for field in fields {
        if new.get(field) != old.get(field) {
            errs.push(FieldError::forbidden(field, SEALED));
        }
    }
}

struct ConfigMaps;

impl Strategy for ConfigMaps {
    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        let mut size = 0;
        for (key, value) in text_entries(obj, "data") {
            let path = Path::new("data").key(key);
            vocab::invalid(&mut errs, &path, key, vocab::config_key_errors(key));
            if has(get(obj, "binaryData"), key) {
                errs.push(FieldError::invalid(&path, key, "duplicate of key present in binaryData"));
            }
            size += value.len();
        }
        for (key, value) in text_entries(obj, "binaryData") {
            vocab::invalid(&mut errs, &Path::new("binaryData").key(key), key, vocab::config_key_errors(key));
            size += decoded(value).len();
        }
        if size > MAX_SIZE {
            // The path of the whole object, as upstream prints an empty one.
            errs.push(FieldError::too_long("[]", MAX_SIZE));
        }
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        check_sealed(&mut errs, new, old, &["data", "binaryData"]);
        errs.extend(meta::validate_object_meta(new, true, &|name, prefix| self.name_errors(name, prefix)));
        errs.extend(self.validate(new));
        errs
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        vec![cells::name(obj), cells::of(count(obj, "data") + count(obj, "binaryData")), cells::age(obj)]
    }
}
