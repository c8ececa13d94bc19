//! Leases.

use serde_json::Value;

use super::cells::{self, Cell};
use super::value::{get, has, int, text};
use super::vocab::{self, Errors};
use crate::{FieldError, Path, ResourceDef, Strategy};

/// The row.
#[must_use]
pub fn def() -> ResourceDef {
    ResourceDef::new(("coordination.k8s.io", "v1"), ("leases", "lease", "Lease"), SCHEMA, Leases)
}

const SCHEMA: &str = "io.k8s.api.coordination.v1.Lease";

struct Leases;

impl Strategy for Leases {
    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        let spec = get(obj, "spec");
        let path = Path::new("spec");
        if let Some(seconds) = int(spec, "leaseDurationSeconds").filter(|seconds| *seconds <= 0) {
            errs.push(FieldError::invalid(path.child("leaseDurationSeconds"), seconds, "must be greater than 0"));
        }
        if let Some(count) = int(spec, "leaseTransitions") {
            vocab::not_negative(&mut errs, &path.child("leaseTransitions"), count);
        }
        if has(spec, "strategy") {
            check_strategy(&mut errs, &path.child("strategy").child("strategy"), text(spec, "strategy"));
        }
        if !text(spec, "preferredHolder").is_empty() && text(spec, "strategy").is_empty() {
            let message = "may only be specified if `strategy` is defined";
            errs.push(FieldError::forbidden(path.child("preferredHolder"), message));
        }
        errs
    }

    fn validate_update(&self, new: &Value, _old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        self.validate(new)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        vec![cells::name(obj), cells::of(text(get(obj, "spec"), "holderIdentity")), cells::age(obj)]
    }
}

fn check_strategy(errs: &mut Errors, path: &Path, strategy: &str) {
    if strategy.contains('/') {
        vocab::qualified_name(errs, path, strategy);
    } else {
        vocab::known_value(errs, path, strategy, &["OldestEmulationVersion"]);
    }
}
