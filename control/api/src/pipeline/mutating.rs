//! Mutating admission: each step in turn may change the object. If one that waits did, the chain runs once more, as
//! upstream's reinvocation: the pure steps all, of those that wait those that want it and find the object changed since
//! they saw it.

use kontiki_machinery::admission::{AsyncStep, Member, Phase, Step};
use kontiki_machinery::meta;
use kontiki_machinery::patch::json_patch;
use serde_json::Value;

use crate::Status;
use crate::codec;
use crate::object::set_resource_version;
use crate::pipeline::ask::{ask, handles};
use crate::pipeline::draft::Draft;

/// The object as steps that want to be asked again left it, by their place in the chain.
type Left = Vec<(usize, Value)>;

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
            Member::Pure(step) => admit(draft, &**step)?,
            Member::Async(step) => {
                if (!again || changed_since(draft, left, at)) && handles(draft, Phase::Mutating, &**step) {
                    // In a box: whoever asks nobody carries no room for the wait.
                    changed |= Box::pin(mutate(draft, at, &**step)).await?;
                    remember(draft, left, at, &**step);
                }
            }
        }
    }
    Ok(changed)
}

fn admit(draft: &mut Draft<'_>, step: &dyn Step) -> Result<(), Status> {
    if !step.handles(draft.operation) {
        return Ok(());
    }
    let (request, mut cluster, object) = draft.parts();
    step.admit(&request, object, &mut cluster)
}

fn changed_since(draft: &Draft<'_>, left: &Left, at: usize) -> bool {
    left.iter().any(|(member, object)| *member == at && *object != draft.object)
}

fn remember(draft: &Draft<'_>, left: &mut Left, at: usize, step: &dyn AsyncStep) {
    if step.reinvocable() {
        left.retain(|(member, _)| *member != at);
        left.push((at, draft.object.clone()));
    }
}

/// Asks a step; whether it changed the object.
async fn mutate(draft: &mut Draft<'_>, at: usize, step: &dyn AsyncStep) -> Result<bool, Status> {
    let mut changed = false;
    for answer in ask(draft, Phase::Mutating, &[(at, step)]).await {
        let verdict = answer?;
        draft.warnings.extend(verdict.warnings);
        if let Some(patch) = verdict.patch {
            let object = patched(draft, step, &patch)?;
            changed |= object != draft.object;
            draft.object = object;
        }
    }
    Ok(changed)
}

/// The object with a step's patch, as good as one that a client sent.
fn patched(draft: &Draft<'_>, step: &dyn AsyncStep, patch: &Value) -> Result<Value, Status> {
    let (call, name) = (draft.call, step.name());
    if draft.object.is_null() {
        let why = "attempted to modify the object, which is not supported for this operation";
        return Err(Status::internal(format!("admission step \"{name}\" {why}")));
    }
    let failed = |why: String| Status::internal(format!("the patch of admission step \"{name}\" failed: {why}"));
    let mut object = draft.object.clone();
    json_patch(&mut object, patch).map_err(|error| failed(error.status().message))?;
    codec::settle_own(&call.def, &mut object).map_err(|error| failed(error.to_string()))?;
    call.fit_namespace(&mut object)?;
    if let Some(old) = draft.old {
        set_resource_version(&mut object, None);
        meta::keep_system_fields(&mut object, old);
    }
    Ok(object)
}
