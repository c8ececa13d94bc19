//! Writes through another view of the object.

use kontiki_machinery::subresource::View;
use kontiki_store::Snapshot;
use serde_json::Value;

use crate::Status;
use crate::call::Call;
use crate::verbs::change::Decision;

/// What becomes of the object if a client wants its view to be `sent`.
pub(crate) fn decide(
    call: &Call,
    view: &dyn View,
    state: &Snapshot,
    current: &Value,
    sent: &Value,
) -> Result<Decision, Status> {
    let errors = view.check(sent);
    if let (false, Some(sub)) = (errors.is_empty(), &call.sub) {
        return Err(Status::invalid(&sub.group, &sub.kind, call.name(), &errors));
    }
    let mut new = current.clone();
    // What the client does not say is no precondition.
    crate::object::set_resource_version(&mut new, None);
    view.apply(&mut new, sent);
    call.on_object().decide_update(state, current, new)
}
