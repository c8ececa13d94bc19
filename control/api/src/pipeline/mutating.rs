//! Mutating admission: each step in turn may change the object. If one that waits or a mutator did, the chain runs once
//! more, as upstream's reinvocation: the pure steps all, of the others those that want it and find the object changed since
//! they saw it.

use std::sync::Arc;

use kontiki_machinery::admission::{Member, Mutator, Mutators, Operation, Phase, Step, Verdict};
use kontiki_machinery::patch::json_patch;
use kontiki_machinery::{apply, meta};
use serde_json::Value;

use crate::Status;
use crate::codec;
use crate::object::set_resource_version;
use crate::pipeline::ask::{Asked, ask, handles};
use crate::pipeline::draft::Draft;
use crate::pipeline::rerun;

/// The object as steps that want to be asked again left it, by their place in the chain and their name.
type Left = Vec<(usize, String, Value)>;

pub(super) async fn run(draft: &mut Draft<'_>) -> Result<(), Status> {
    let mut left = Left::new();
    if pass(draft, &mut left, false).await? {
        pass(draft, &mut left, true).await?;
    }
    Ok(())
}

/// Runs the chain once; whether a step that waits changed the object.
async fn pass(draft: &mut Draft<'_>, left: &mut Left, again: bool) -> Result<bool, Status> {
    let (call, mut changed) = (draft.call, false);
    for (at, member) in call.api.inner.config.admission.iter().enumerate() {
        match member {
            Member::Pure(step) => rerun::run(draft, |draft| admit(draft, &**step)).await?,
            Member::Async(step) => changed |= turn(draft, left, again, (at, Arc::clone(step))).await?,
            Member::Many(source) => {
                for step in source.steps(Phase::Mutating, &draft.request()) {
                    changed |= turn(draft, left, again, (at, step)).await?;
                }
            }
            Member::Mutators(source) => {
                for mutator in mutators(draft, &**source).await? {
                    changed |= change(draft, left, again, (at, &*mutator)).await?;
                }
            }
        }
    }
    Ok(changed)
}

/// The turn of a step that waits; whether it changed the object.
async fn turn(draft: &mut Draft<'_>, left: &mut Left, again: bool, asked: Asked) -> Result<bool, Status> {
    if again && !changed_since(draft, left, (asked.0, asked.1.name())) {
        return Ok(false);
    }
    if !rerun::run(draft, |draft| handles(draft, Phase::Mutating, &*asked.1)).await? {
        return Ok(false);
    }
    // In a box: whoever asks nobody carries no room for the wait.
    let changed = Box::pin(mutate(draft, &asked, u8::from(again))).await?;
    if asked.1.reinvocable() {
        remember(draft, left, (asked.0, asked.1.name()));
    }
    Ok(changed)
}

async fn mutators(draft: &mut Draft<'_>, source: &dyn Mutators) -> Result<Vec<Arc<dyn Mutator>>, Status> {
    rerun::run(draft, |draft| {
        let (request, cluster, object) = draft.parts();
        source.mutators(&request, object, &cluster)
    })
    .await
}

/// The turn of one that changes the object at once; whether it did.
async fn change(
    draft: &mut Draft<'_>,
    left: &mut Left,
    again: bool,
    (at, mutator): (usize, &dyn Mutator),
) -> Result<bool, Status> {
    if again && !changed_since(draft, left, (at, mutator.name())) {
        return Ok(false);
    }
    let before = draft.object.clone();
    rerun::run(draft, |draft| {
        let (request, mut cluster, object) = draft.parts();
        mutator.mutate(&request, object, &mut cluster)
    })
    .await?;
    if mutator.reinvocable() {
        remember(draft, left, (at, mutator.name()));
    }
    Ok(draft.object != before)
}

fn admit(draft: &mut Draft<'_>, step: &dyn Step) -> Result<(), Status> {
    if !step.handles(draft.operation) {
        return Ok(());
    }
    let (request, mut cluster, object) = draft.parts();
    step.admit(&request, object, &mut cluster)
}

fn changed_since(draft: &Draft<'_>, left: &Left, (at, step): (usize, &str)) -> bool {
    left.iter().any(|(place, name, object)| *place == at && name == step && *object != draft.object)
}

fn remember(draft: &Draft<'_>, left: &mut Left, (at, step): (usize, &str)) {
    left.retain(|(place, name, _)| *place != at || name != step);
    left.push((at, step.to_owned(), draft.object.clone()));
}

/// Asks a step; whether it changed the object.
async fn mutate(draft: &mut Draft<'_>, asked: &Asked, round: u8) -> Result<bool, Status> {
    let mut changed = false;
    for answer in ask(draft, Phase::Mutating, std::slice::from_ref(asked)).await {
        let Verdict { patch, object, warnings, annotations, refusal } = answer?;
        draft.warnings.extend(warnings);
        draft.memo.annotate(annotations, round);
        if let Some(status) = refusal {
            return Err(*status);
        }
        let wanted = match (object, patch) {
            (Some(object), _) => Some(object),
            (None, Some(patch)) => Some(patched(draft, asked.1.name(), &patch)?),
            (None, None) => None,
        };
        if let Some(wanted) = wanted {
            let object = settled(draft, asked.1.name(), wanted)?;
            changed |= object != draft.object;
            draft.object = object;
        }
    }
    Ok(changed)
}

fn failed(step: &str, why: impl std::fmt::Display) -> Status {
    Status::internal(format!("the patch of admission step \"{step}\" failed: {why}"))
}

/// The object with a step's patch.
fn patched(draft: &Draft<'_>, step: &str, patch: &Value) -> Result<Value, Status> {
    if draft.object.is_null() {
        let why = "attempted to modify the object, which is not supported for this operation";
        return Err(Status::internal(format!("admission step \"{step}\" {why}")));
    }
    let mut object = draft.object.clone();
    json_patch(&mut object, patch).map_err(|error| failed(step, error.status().message))?;
    Ok(object)
}

/// What a step made of the object, as good as one that a client sent.
fn settled(draft: &mut Draft<'_>, step: &str, mut object: Value) -> Result<Value, Status> {
    let call = draft.call;
    if draft.operation == Operation::Connect {
        return Ok(object);
    }
    codec::settle_sent(call, &mut object).map_err(|error| failed(step, error))?;
    call.fit_namespace(&mut object)?;
    if let Some(old) = draft.old {
        set_resource_version(&mut object, None);
        meta::keep_system_fields(&mut object, old);
    }
    if let Err(why) = apply::decode(&object["metadata"]["managedFields"]) {
        draft.warnings.push(format!(
            ".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated \
             mutating admission controller; please fix your requests: {why}"
        ));
        object["metadata"]["managedFields"] = draft.object["metadata"]["managedFields"].clone();
    }
    Ok(object)
}
