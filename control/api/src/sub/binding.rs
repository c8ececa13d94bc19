//! `pods/binding`: gives a pod its node.

use kontiki_kinds::rows::check_binding;
use kontiki_model::GroupResource;
use serde_json::{Value, json};

use crate::Status;
use crate::call::{Answer, Call, Input};
use crate::codec;
use crate::object::{deleting, meta_str, metadata_mut, set_resource_version};
use crate::state::Extra;
use crate::verbs::change::{Decision, Next};
use crate::verbs::create::now;

/// Binds the pod that `call` names.
pub(crate) async fn create(call: &mut Call, input: Input) -> Result<Answer, Status> {
    let dry_run = call.params.dry_run("CreateOptions")?;
    let validation = call.params.field_validation("CreateOptions")?;
    let binding = codec::decode_object(call, input, validation)?;
    bind(call, &binding, dry_run).await
}

/// Binds by the old path, `POST …/bindings`, where only the body names the pod.
pub(crate) async fn create_by_collection(call: &mut Call, binding: &Value, dry_run: bool) -> Result<Answer, Status> {
    let pods = kontiki_kinds::find("", "v1", "pods").ok_or_else(Status::no_such_resource)?;
    let mut on_pod = call.on_object();
    on_pod.def = pods;
    on_pod.sub = pods.subresource("binding");
    on_pod.name = Some(meta_str(binding, "name").to_owned());
    bind(&on_pod, binding, dry_run).await
}

async fn bind(call: &Call, binding: &Value, dry_run: bool) -> Result<Answer, Status> {
    if meta_str(binding, "name") != call.name() {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    check(call, binding)?;
    call.change(dry_run, |_, pod| decide(call, binding, pod)).await?;
    Ok(super::created())
}

fn check(call: &Call, binding: &Value) -> Result<(), Status> {
    let errors = check_binding(binding);
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("", "Binding", call.name(), &errors)) }
}

fn decide(call: &Call, binding: &Value, current: &Value) -> Result<Decision, Status> {
    let (name, node) = (call.name(), binding["target"]["name"].as_str().unwrap_or_default());
    let refuse = |text: String| {
        let resource = GroupResource { group: "", resource: "pods/binding" };
        Status::conflict(resource, name, text)
    };
    call.check_uid(current, binding)?;
    let wanted = meta_str(binding, "resourceVersion");
    if !wanted.is_empty() && wanted != meta_str(current, "resourceVersion") {
        return Err(Status::modified(call.def.group_resource(), name));
    }
    if deleting(current) {
        return Err(refuse(format!("pod {name} is being deleted, cannot be assigned to a host")));
    }
    if let Some(bound) = current["spec"]["nodeName"].as_str().filter(|bound| !bound.is_empty()) {
        return Err(refuse(format!("pod {name} is already assigned to node \"{bound}\"")));
    }
    if current["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
        return Err(refuse(format!("pod {name} has non-empty .spec.schedulingGates")));
    }
    let mut pod = current.clone();
    set_resource_version(&mut pod, None);
    pod["spec"]["nodeName"] = node.into();
    take_annotations(&mut pod, binding);
    set_scheduled(&mut pod);
    Ok(Next::Put(pod, Extra::default()).into())
}

fn take_annotations(pod: &mut Value, binding: &Value) {
    for field in ["annotations", "labels"] {
        let Some(given) = binding["metadata"][field].as_object().filter(|given| !given.is_empty()) else { continue };
        let own = metadata_mut(pod).entry(field).or_insert_with(|| json!({}));
        if let Some(own) = own.as_object_mut() {
            own.extend(given.iter().map(|(k, v)| (k.clone(), v.clone())));
        }
    }
}

fn set_scheduled(pod: &mut Value) {
    let condition =
        json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now()});
    let conditions = pod["status"]["conditions"].take();
    let mut conditions = conditions.as_array().cloned().unwrap_or_default();
    match conditions.iter_mut().find(|c| c["type"] == "PodScheduled") {
        Some(known) if known["status"] == "True" => {}
        Some(known) => {
            let generation = known["observedGeneration"].take();
            *known = condition;
            if !generation.is_null() {
                known["observedGeneration"] = generation;
            }
        }
        None => conditions.push(condition),
    }
    pod["status"]["conditions"] = conditions.into();
}
