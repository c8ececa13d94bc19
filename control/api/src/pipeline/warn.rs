//! What is legal and unwise.

use crate::pipeline::draft::Draft;

pub(super) fn run(draft: &mut Draft<'_>) {
    let strategy = &draft.call.def.strategy;
    // A part of an object is no occasion to talk about the rest.
    let said = match draft.call.sub_name() {
        None => strategy.warnings(&draft.object, draft.old),
        Some("status") => strategy.status_warnings(&draft.object),
        Some(_) => return,
    };
    draft.warnings.extend(said);
}
