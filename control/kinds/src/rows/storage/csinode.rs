//! CSINodes: which drivers a node has, and what they call it.

use serde_json::{Value, json};

use super::super::cells::{self, Cell};
use super::super::value::{at, get, int, list, text, texts};
use super::super::vocab::{self, Errors};
use super::check_driver;
use crate::{Bad, FieldError, Path, ResourceDef, Scope, Strategy, meta};

/// Most bytes of what a driver calls a node.
const LONGEST: usize = 256;

/// The row.
#[must_use]
pub fn def() -> ResourceDef {
    ResourceDef {
        scope: Scope::Cluster,
        delete_returns_object: true,
        ..ResourceDef::new(super::GROUP, ("csinodes", "csinode", "CSINode"), "io.k8s.api.storage.v1.CSINode", CsiNodes)
    }
}

struct CsiNodes;

fn drivers(obj: &Value) -> &[Value] {
    list(get(obj, "spec"), "drivers")
}

impl Strategy for CsiNodes {
    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        let (path, all) = (Path::new("spec").child("drivers"), drivers(obj));
        for (i, driver) in all.iter().enumerate() {
            let (path, name) = (path.index(i), text(driver, "name"));
            check_one(&mut errs, &path, driver);
            if all[..i].iter().any(|other| text(other, "name") == name) {
                errs.push(FieldError::duplicate(path.child("name"), name));
            }
            check_keys(&mut errs, &path, &texts(driver, "topologyKeys"));
        }
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        // Upstream looks at all of it twice.
        for _ in 0..2 {
            errs.extend(meta::validate_object_meta(new, false, &|name, prefix| self.name_errors(name, prefix)));
            errs.extend(self.validate(new));
        }
        let same = |a: &Value, b: &Value| ["name", "nodeID", "topologyKeys"].iter().all(|f| get(a, f) == get(b, f));
        for before in drivers(old) {
            for driver in drivers(new).iter().filter(|driver| text(driver, "name") == text(before, "name")) {
                if !same(driver, before) {
                    errs.push(FieldError::invalid("spec.drivers", shown(driver), vocab::IMMUTABLE));
                }
            }
        }
        errs
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        vec![cells::name(obj), cells::of(drivers(obj).len()), cells::age(obj)]
    }
}

fn check_one(errs: &mut Errors, path: &Path, driver: &Value) {
    check_driver(errs, &path.child("name"), text(driver, "name"));
    let id = text(driver, "nodeID");
    if id.is_empty() {
        errs.push(FieldError::required(path.child("nodeID"), ""));
    }
    if id.len() > LONGEST {
        errs.push(FieldError::invalid(path.child("nodeID"), id, format!("must be {LONGEST} characters or less")));
    }
    if let Some(count) = int(at(driver, &["allocatable"]), "count") {
        vocab::not_negative(errs, &path.child("allocatable").child("count"), count);
    }
}

fn check_keys(errs: &mut Errors, path: &Path, keys: &[&str]) {
    for (i, key) in keys.iter().enumerate() {
        if key.is_empty() {
            errs.push(FieldError::required(path, ""));
        }
        if keys[..i].contains(key) {
            errs.push(FieldError::duplicate(path, *key));
        }
        vocab::qualified_name(errs, path, key);
    }
}

/// A driver as upstream's internal type prints it, without what may change.
fn shown(driver: &Value) -> Bad {
    Bad::Raw(format!(
        "{{\"Name\":{},\"NodeID\":{},\"TopologyKeys\":{},\"Allocatable\":null}}",
        json!(text(driver, "name")),
        json!(text(driver, "nodeID")),
        get(driver, "topologyKeys"),
    ))
}
