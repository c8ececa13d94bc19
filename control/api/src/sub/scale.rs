//! `scale`: the replicas of an object, in the shape of `autoscaling/v1` Scale.

use kontiki_kinds::rows::scale;
use kontiki_store::Snapshot;
use serde_json::Value;

use crate::Status;
use crate::call::Call;
use crate::verbs::change::Decision;

/// The Scale of an object.
pub(crate) fn scale_of(object: &Value) -> Value {
    scale::of(object)
}

/// What becomes of the object if a client wants its Scale to be `sent`.
pub(crate) fn decide(call: &Call, state: &Snapshot, current: &Value, sent: &Value) -> Result<Decision, Status> {
    let errors = scale::check(sent);
    if !errors.is_empty() {
        return Err(Status::invalid("autoscaling", "Scale", call.name(), &errors));
    }
    let mut new = current.clone();
    // What the client does not say is no precondition.
    crate::object::set_resource_version(&mut new, None);
    scale::apply(&mut new, sent);
    call.on_object().decide_update(state, current, new)
}
