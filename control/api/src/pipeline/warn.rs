//! What is legal and unwise.

use crate::pipeline::draft::Draft;

pub(super) fn run(draft: &mut Draft<'_>) {
    // A part of an object is no occasion to talk about the rest.
    if draft.call.sub.is_none() {
        draft.warnings.extend(draft.call.def.strategy.warnings(&draft.object, draft.old));
    }
}
