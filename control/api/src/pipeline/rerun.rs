//! Steps that wait for nobody and want to see an object in another version, where somebody outside converts.

use crate::Status;
use crate::convert::{ROUNDS, too_many};
use crate::pipeline::draft::Draft;

/// Runs a step until it has seen the object in all versions that it wants to see. What it did to the object before counts
/// for nothing.
pub(super) async fn run<T>(
    draft: &mut Draft<'_>,
    mut step: impl FnMut(&mut Draft<'_>) -> Result<T, Status>,
) -> Result<T, Status> {
    let call = draft.call;
    if call.def.strategy.conversion().is_none() {
        return step(draft);
    }
    let before = draft.object.clone();
    for _ in 0..ROUNDS {
        let result = step(draft);
        if !Box::pin(call.api.answer_open(&call.def, &draft.memo.conversions, call.deadline)).await? {
            return result;
        }
        draft.object = before.clone();
        draft.look_again();
    }
    Err(too_many())
}
