//! Validating admission: steps judge what would be stored. Pure ones first, so that what is refused anyway makes nobody
//! wait; then those that wait, all at once. If several refuse, the first of the chain is heard.

use std::sync::Arc;

use kontiki_machinery::admission::{Member, Need, Phase, Step, Verdict};

use crate::Status;
use crate::pipeline::ask::{Asked, ask, handles};
use crate::pipeline::draft::Draft;
use crate::pipeline::rerun;

pub(super) async fn run(draft: &mut Draft<'_>) -> Result<(), Status> {
    let call = draft.call;
    let mut waiting: Vec<Asked> = Vec::new();
    for (at, member) in call.api.inner.config.admission.iter().enumerate() {
        match member {
            Member::Pure(step) => validate(draft, &**step).await?,
            Member::Async(step) => join(draft, &mut waiting, (at, Arc::clone(step))).await?,
            Member::Many(source) => {
                for step in source.steps(Phase::Validating, &draft.request()) {
                    join(draft, &mut waiting, (at, step)).await?;
                }
            }
            Member::Mutators(_) => {}
        }
    }
    if waiting.is_empty() {
        return Ok(());
    }
    // In a box: whoever asks nobody carries no room for the wait.
    let mut ended = Ok(());
    for answer in Box::pin(ask(draft, Phase::Validating, &waiting)).await {
        ended = ended.and(match answer {
            Ok(Verdict { warnings, annotations, refusal, .. }) => {
                draft.warnings.extend(warnings);
                draft.memo.annotate(annotations, 0);
                refusal.map_or(Ok(()), |status| Err(*status))
            }
            Err(status) => Err(status),
        });
    }
    ended
}

async fn join(draft: &mut Draft<'_>, waiting: &mut Vec<Asked>, asked: Asked) -> Result<(), Status> {
    if rerun::run(draft, |draft| handles(draft, Phase::Validating, &*asked.1)).await? {
        waiting.push(asked);
    }
    Ok(())
}

async fn validate(draft: &mut Draft<'_>, step: &dyn Step) -> Result<(), Status> {
    if step.charges() || !step.handles(draft.operation) {
        return Ok(());
    }
    let needs = step.needs(&draft.request(), &draft.object);
    if !needs.is_empty() {
        Box::pin(permit(draft, needs)).await?;
    }
    let (judged, warnings) = rerun::run(draft, |draft| {
        let (request, mut cluster, object) = draft.parts();
        let judged = step.validate(&request, object, &mut cluster);
        if judged.is_err() && !step.warns_whom_it_refuses() {
            return Ok((judged, Vec::new()));
        }
        let warnings = step.warn(&request, object, &mut cluster)?;
        Ok((judged, warnings))
    })
    .await?;
    draft.warnings.extend(warnings);
    judged
}

/// Whether the user may do what a step asks for besides.
async fn permit(draft: &mut Draft<'_>, needs: Vec<Need>) -> Result<(), Status> {
    let call = draft.call;
    for need in needs {
        let mut allowed = false;
        for question in &need.any_of {
            allowed = allowed || call.api.allowed(&call.user, &question.attributes(), call.deadline).await?;
        }
        if !allowed {
            return Err(need.refusal);
        }
    }
    draft.look_again(); // an authorizer may have made us wait
    Ok(())
}
