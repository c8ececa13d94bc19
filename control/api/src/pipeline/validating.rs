//! Validating admission: steps judge what would be stored. Pure ones first, so that what is refused anyway makes nobody
//! wait; then those that wait, all at once. If several refuse, the first of the chain is heard.

use kontiki_machinery::admission::{Member, Phase, Step};

use crate::Status;
use crate::pipeline::ask::{Asked, ask, handles};
use crate::pipeline::draft::Draft;

pub(super) async fn run(draft: &mut Draft<'_>) -> Result<(), Status> {
    let call = draft.call;
    let mut waiting: Vec<Asked<'_>> = Vec::new();
    for (at, member) in call.api.inner.config.admission.iter().enumerate() {
        match member {
            Member::Pure(step) => validate(draft, &**step)?,
            Member::Async(step) if handles(draft, Phase::Validating, &**step) => waiting.push((at, &**step)),
            Member::Async(_) => {}
        }
    }
    if waiting.is_empty() {
        return Ok(());
    }
    // In a box: whoever asks nobody carries no room for the wait.
    for answer in Box::pin(ask(draft, Phase::Validating, &waiting)).await {
        draft.warnings.extend(answer?.warnings);
    }
    Ok(())
}

fn validate(draft: &mut Draft<'_>, step: &dyn Step) -> Result<(), Status> {
    if !step.handles(draft.operation) {
        return Ok(());
    }
    let (request, mut cluster, object) = draft.parts();
    step.validate(&request, object, &mut cluster)
}
