//! Steps of admission that write other objects along: asked when everybody else has agreed.

use kontiki_machinery::admission::{Member, Step};

use crate::Status;
use crate::ledger::Tips;
use crate::pipeline::draft::Draft;

/// Charges the draft, on top of what is under way if that is given.
pub(crate) fn run(draft: &mut Draft<'_>, tips: Option<&Tips>) -> Result<(), Status> {
    draft.extra.along.clear();
    for member in &draft.call.api.inner.config.admission {
        match member {
            Member::Pure(step) if step.charges() && step.handles(draft.operation) => ask(draft, &**step, tips)?,
            _ => {}
        }
    }
    Ok(())
}

fn ask(draft: &mut Draft<'_>, step: &dyn Step, tips: Option<&Tips>) -> Result<(), Status> {
    let (request, mut cluster, object) = draft.parts();
    cluster.tips = tips;
    step.validate(&request, object, &mut cluster)
}
