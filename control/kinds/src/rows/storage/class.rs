//! StorageClasses, and the VolumeAttributesClasses beside them (KEP-3751).

use serde_json::Value;

use super::super::cells::{self, Cell};
use super::super::template::warnings;
use super::super::value::{annotation, default_text, get, list, on, text, texts};
use super::super::vocab::{self, Errors};
use super::{check_parameters, check_provisioner, fixed};
use crate::resource::names;
use crate::{FieldError, Path, ResourceDef, Scope, Strategy, meta};

const RECLAIM: &[&str] = &["Delete", "Retain"];
const BINDING: &[&str] = &["Immediate", "WaitForFirstConsumer"];
/// Marks the class of claims that name none.
pub const DEFAULT: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

/// The row of StorageClasses.
#[must_use]
pub fn def() -> ResourceDef {
    ResourceDef {
        scope: Scope::Cluster,
        short: names(&["sc"]),
        delete_returns_object: true,
        ..ResourceDef::new(
            super::GROUP,
            ("storageclasses", "storageclass", "StorageClass"),
            "io.k8s.api.storage.v1.StorageClass",
            StorageClasses,
        )
    }
}

/// The row of VolumeAttributesClasses.
#[must_use]
pub fn attributes() -> ResourceDef {
    ResourceDef {
        scope: Scope::Cluster,
        short: names(&["vac"]),
        delete_returns_object: true,
        ..ResourceDef::new(
            super::GROUP,
            ("volumeattributesclasses", "volumeattributesclass", "VolumeAttributesClass"),
            "io.k8s.api.storage.v1.VolumeAttributesClass",
            AttributesClasses,
        )
    }
}

struct StorageClasses;

impl Strategy for StorageClasses {
    fn default(&self, obj: &mut Value) {
        default_text(obj, "reclaimPolicy", "Delete");
        default_text(obj, "volumeBindingMode", "Immediate");
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        for (i, term) in list(obj, "allowedTopologies").iter().enumerate() {
            for (j, expression) in list(term, "matchLabelExpressions").iter().enumerate() {
                if let Some(message) = warnings::deprecated_label(text(expression, "key")) {
                    out.push(format!("allowedTopologies[{i}].matchLabelExpressions[{j}].key: {message}"));
                }
            }
        }
        out
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        check_provisioner(&mut errs, &Path::new("provisioner"), text(obj, "provisioner"));
        check_parameters(&mut errs, &Path::new("parameters"), obj, false);
        vocab::known_value(&mut errs, &Path::new("reclaimPolicy"), text(obj, "reclaimPolicy"), RECLAIM);
        vocab::known_value(&mut errs, &Path::new("volumeBindingMode"), text(obj, "volumeBindingMode"), BINDING);
        check_topologies(&mut errs, &Path::new("allowedTopologies"), list(obj, "allowedTopologies"));
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = meta::validate_object_meta(new, false, &|name, prefix| self.name_errors(name, prefix));
        errs.extend(self.validate(new));
        for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
            fixed(&mut errs, field, new, old);
        }
        errs
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        let default = DEFAULT.iter().any(|key| annotation(obj, key) == Some("true"));
        let name = text(get(obj, "metadata"), "name");
        vec![
            cells::of(if default { format!("{name} (default)") } else { name.to_owned() }),
            cells::of(text(obj, "provisioner")),
            cells::of(text(obj, "reclaimPolicy")),
            cells::of(text(obj, "volumeBindingMode")),
            cells::of(on(obj, "allowVolumeExpansion")),
            cells::age(obj),
        ]
    }
}

fn check_topologies(errs: &mut Errors, path: &Path, terms: &[Value]) {
    for (i, term) in terms.iter().enumerate() {
        let path = path.index(i).child("matchLabelExpressions");
        let expressions = list(term, "matchLabelExpressions");
        for (i, expression) in expressions.iter().enumerate() {
            let (path, key) = (path.index(i), text(expression, "key"));
            check_values(errs, &path.child("values"), &texts(expression, "values"));
            vocab::qualified_name(errs, &path.child("key"), key);
            if expressions[..i].iter().any(|other| text(other, "key") == key) {
                errs.push(FieldError::duplicate(path.child("key"), key));
            }
        }
        if terms[..i].contains(term) {
            errs.push(FieldError::duplicate(&path, ""));
        }
    }
}

fn check_values(errs: &mut Errors, path: &Path, values: &[&str]) {
    if values.is_empty() {
        errs.push(FieldError::required(path, ""));
    }
    for (i, value) in values.iter().enumerate() {
        if values[..i].contains(value) {
            errs.push(FieldError::duplicate(path.index(i), *value));
        }
    }
}

struct AttributesClasses;

impl Strategy for AttributesClasses {
    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        check_provisioner(&mut errs, &Path::new("driverName"), text(obj, "driverName"));
        check_parameters(&mut errs, &Path::new("parameters"), obj, true);
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        for field in ["driverName", "parameters"] {
            if get(new, field) != get(old, field) {
                errs.push(FieldError::forbidden(field, format!("updates to {field} are forbidden.")));
            }
        }
        errs.extend(meta::validate_object_meta(new, false, &|name, prefix| self.name_errors(name, prefix)));
        errs.extend(self.validate(new));
        errs
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        vec![cells::name(obj), cells::of(text(obj, "driverName")), cells::age(obj)]
    }
}
