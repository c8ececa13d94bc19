//! A pod's RuntimeClass must exist. None is served yet, so none can be named.

use kontiki_machinery::admission::{Lookup, Request, Step};
use kontiki_model::resource::PODS;
use serde_json::Value;

use crate::Status;

pub(super) struct RuntimeClass;

impl Step for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn admit(&self, request: &Request<'_>, pod: &mut Value, _cluster: &mut dyn Lookup) -> Result<(), Status> {
        if !(request.is(PODS) && request.creates()) {
            return Ok(());
        }
        if let Some(name) = pod["spec"]["runtimeClassName"].as_str() {
            return Err(request.forbid(pod, format!("pod rejected: RuntimeClass \"{name}\" not found")));
        }
        if pod["spec"]["overhead"].as_object().is_some_and(|overhead| !overhead.is_empty()) {
            let text = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
            return Err(request.forbid(pod, text));
        }
        Ok(())
    }
}
