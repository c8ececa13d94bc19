//! CSIStorageCapacities: how much of a class a driver has for some nodes.

use serde_json::Value;

use super::super::cells::{self, Cell};
use super::super::selector;
use super::super::template::warnings;
use super::super::value::{entries, get, some, text};
use super::super::vocab::{self, Errors};
use crate::schema::quantity::Amount;
use crate::{FieldError, Path, ResourceDef, Strategy};

/// The row.
#[must_use]
pub fn def() -> ResourceDef {
    ResourceDef::new(
        super::GROUP,
        ("csistoragecapacities", "csistoragecapacity", "CSIStorageCapacity"),
        "io.k8s.api.storage.v1.CSIStorageCapacity",
        Capacities,
    )
}

struct Capacities;

impl Strategy for Capacities {
    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        let (mut out, path, topology) = (Vec::new(), Path::new("nodeTopology"), get(obj, "nodeTopology"));
        warnings::expressions(&mut out, &path, topology);
        for (key, _) in entries(topology, "matchLabels") {
            if let Some(message) = warnings::deprecated_label(key) {
                out.push(format!("{path}.matchLabels.{key}: {message}"));
            }
        }
        out
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        selector::check(&mut errs, &Path::new("nodeTopology"), get(obj, "nodeTopology"));
        vocab::subdomain(&mut errs, &Path::new("storageClassName"), text(obj, "storageClassName"));
        if let Some(amount) = some(obj, "capacity").and_then(Amount::of).filter(|amount| amount.negative()) {
            errs.push(FieldError::invalid("capacity", amount.to_string(), vocab::NOT_NEGATIVE));
        }
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        let topology = get(new, "nodeTopology");
        if topology != get(old, "nodeTopology") {
            errs.push(FieldError::invalid("nodeTopology", selector::bad(topology), vocab::IMMUTABLE));
        }
        super::fixed(&mut errs, "storageClassName", new, old);
        errs
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        vec![cells::name(obj), cells::of(text(get(obj, "metadata"), "creationTimestamp"))]
    }
}
