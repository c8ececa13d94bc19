//! Objects are made only in a namespace that exists and is not on its way out.

use kontiki_machinery::admission::{Guard, Lookup, Request, Step};
use kontiki_model::resource::NAMESPACES;
use serde_json::Value;

use crate::{Status, status::StatusCause};

pub(super) struct NamespaceLifecycle;

impl Step for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn admit(&self, request: &Request<'_>, object: &mut Value, cluster: &mut dyn Lookup) -> Result<(), Status> {
        let Some(namespace) = request.namespace.filter(|_| request.creates()) else { return Ok(()) };
        match cluster.object(NAMESPACES, None, namespace, Guard::Unchanged)? {
            None => Err(Status::not_found(NAMESPACES, namespace)),
            Some(found) if is_terminating(&found) => Err(refusal(request, object, namespace)),
            Some(_) => Ok(()),
        }
    }
}

fn is_terminating(namespace: &Value) -> bool {
    namespace["metadata"]["deletionTimestamp"].is_string() || namespace["status"]["phase"] == "Terminating"
}

fn refusal(request: &Request<'_>, object: &Value, namespace: &str) -> Status {
    let text = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let mut status = request.forbid(object, text);
    if let Some(details) = &mut status.details {
        details.causes.push(StatusCause {
            reason: "NamespaceTerminating".into(),
            message: format!("namespace {namespace} is being terminated"),
            field: "metadata.namespace".into(),
        });
    }
    status
}
