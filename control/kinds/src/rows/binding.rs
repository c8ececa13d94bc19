//! Bindings of pods to nodes.

use serde_json::{Value, json};

use super::value::{child, fields, get, has, list, set, text};
use super::vocab::Errors;
use crate::{
    FieldError, GroupResource, Handler, ResourceDef, Status, Strategy, Subresource, Verbs, resource::Creation, schema,
    subresource::Write,
};

/// The row of the old path; pods have a subresource of this kind.
#[must_use]
pub fn def() -> ResourceDef {
    ResourceDef {
        verbs: Verbs::CREATE,
        creation: Creation::OnObject("pods".into(), "binding".into()),
        ..ResourceDef::new(("", "v1"), ("bindings", "binding", "Binding"), SCHEMA, Bindings)
    }
}

const SCHEMA: &str = "io.k8s.api.core.v1.Binding";

struct Bindings;

impl Strategy for Bindings {}

/// Checks a binding.
fn check(binding: &Value) -> Errors {
    let mut errs = Errors::new();
    let target = get(binding, "target");
    let kind = text(target, "kind");
    if !["", "Node"].contains(&kind) {
        errs.push(FieldError::not_supported("target.kind", kind, &["Node", "<empty>"]));
    }
    if text(target, "name").is_empty() {
        errs.push(FieldError::required("target.name", ""));
    }
    errs
}

/// `pods/binding`: gives a pod its node.
pub(super) fn subresource() -> Subresource {
    Subresource {
        name: "binding".into(),
        group: "".into(),
        version: "v1".into(),
        kind: "Binding".into(),
        verbs: Verbs::CREATE,
        handler: Handler::Write(schema::known(SCHEMA), &Bindings),
    }
}

impl Write for Bindings {
    fn check(&self, sent: &Value) -> Vec<FieldError> {
        check(sent)
    }

    fn write(&self, obj: &Value, sent: &Value, now: &str) -> Result<Value, Status> {
        let name = text(get(obj, "metadata"), "name");
        let refuse = |text: String| {
            let resource = GroupResource { group: "", resource: "pods/binding" };
            Status::conflict(resource, name, text)
        };
        if has(get(obj, "metadata"), "deletionTimestamp") {
            return Err(refuse(format!("pod {name} is being deleted, cannot be assigned to a host")));
        }
        let spec = get(obj, "spec");
        let bound = text(spec, "nodeName");
        if !bound.is_empty() {
            return Err(refuse(format!("pod {name} is already assigned to node \"{bound}\"")));
        }
        if !list(spec, "schedulingGates").is_empty() {
            return Err(refuse(format!("pod {name} has non-empty .spec.schedulingGates")));
        }
        let mut pod = obj.clone();
        set(child(&mut pod, "spec"), "nodeName", text(get(sent, "target"), "name"));
        take_metadata(&mut pod, sent);
        set_scheduled(child(&mut pod, "status"), now);
        Ok(pod)
    }
}

fn take_metadata(pod: &mut Value, binding: &Value) {
    for field in ["annotations", "labels"] {
        let given = get(get(binding, "metadata"), field).as_object().filter(|given| !given.is_empty());
        if let Some(given) = given {
            let own = fields(child(child(pod, "metadata"), field));
            own.extend(given.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
    }
}

fn set_scheduled(status: &mut Value, now: &str) {
    let mut condition =
        json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now});
    let mut conditions = list(status, "conditions").to_vec();
    match conditions.iter_mut().find(|known| text(known, "type") == "PodScheduled") {
        Some(known) if text(known, "status") == "True" => return,
        Some(known) => {
            if has(known, "observedGeneration") {
                condition["observedGeneration"] = known["observedGeneration"].clone();
            }
            *known = condition;
        }
        None => conditions.push(condition),
    }
    set(status, "conditions", conditions);
}
