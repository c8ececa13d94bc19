//! Objects are made only in a namespace that exists and is not on its way out.

use kontiki_kinds::status::StatusCause;
use kontiki_model::{GroupResource, ObjectKey};
use kontiki_store::Compare;
use serde_json::Value;

use super::Operation;
use crate::Status;
use crate::object::deleting;
use crate::state::Extra;

const NAMESPACES: GroupResource<'static> = GroupResource { group: "", resource: "namespaces" };

pub(super) fn lifecycle(operation: &Operation<'_>, object: &mut Value) -> Result<Extra, Status> {
    let Some(namespace) = operation.call.namespace().filter(|_| operation.creates()) else {
        return Ok(Extra::default());
    };
    let key = ObjectKey::new(NAMESPACES, None, namespace).encode();
    let Some(entry) = operation.state.get(&key) else { return Err(Status::not_found(NAMESPACES, namespace)) };
    let found: Value = serde_json::from_slice(&entry.value).map_err(Status::internal)?;
    if deleting(&found) || found["status"]["phase"] == "Terminating" {
        return Err(terminating(operation, object, namespace));
    }
    Ok(Extra { compares: vec![Compare::unchanged(key, entry.mod_revision)], ops: Vec::new() })
}

fn terminating(operation: &Operation<'_>, object: &Value, namespace: &str) -> Status {
    let text = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let mut status = operation.forbid(object, text);
    if let Some(details) = &mut status.details {
        details.causes.push(StatusCause {
            reason: "NamespaceTerminating".into(),
            message: format!("namespace {namespace} is being terminated"),
            field: "metadata.namespace".into(),
        });
    }
    status
}
