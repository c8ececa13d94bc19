//! Objects of a kind that came at run time are made only while its definition stands: a definition that goes first empties
//! its kind, and nothing may come after that.
//!
//! Invariant: what a create is decided on is the definition as of the transaction that makes the object, whatever rows the
//! master that decides had.

use bytes::Bytes;
use kontiki_machinery::admission::{Lookup, Request, Step};
use serde_json::Value;

use crate::{Status, custom::DEFINITIONS};

pub(super) struct CustomKinds;

impl Step for CustomKinds {
    fn name(&self) -> &'static str {
        "CustomResourceLifecycle"
    }

    fn admit(&self, request: &Request<'_>, _: &mut Value, cluster: &mut dyn Lookup) -> Result<(), Status> {
        let Some((name, known)) = request.def.strategy.defined_by().filter(|_| request.creates()) else {
            return Ok(());
        };
        match cluster.stored(DEFINITIONS, None, name)? {
            Some(found) if found == known || !is_terminating(&found) => Ok(()),
            Some(_) => Err(refusal()),
            None => Err(Status::no_such_resource()),
        }
    }
}

fn is_terminating(definition: &Bytes) -> bool {
    let definition: Value = serde_json::from_slice(definition).unwrap_or_default();
    definition["metadata"]["deletionTimestamp"].is_string()
}

fn refusal() -> Status {
    Status::failure(405, "MethodNotAllowed", "create not allowed while custom resource definition is terminating")
        .with_details(Default::default())
}
