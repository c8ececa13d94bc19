//! `pods/eviction`: a delete that a disruption budget may refuse. Budgets are not a kind yet, so
//! none refuses.

use serde_json::Value;

use crate::Status;
use crate::call::{Answer, Call, Input};
use crate::codec;
use crate::object::meta_str;
use crate::verbs::delete::request_of;

/// Evicts the pod that `call` names.
pub(crate) async fn create(call: &mut Call, input: Input) -> Result<Answer, Status> {
    let dry_run = call.params.dry_run("CreateOptions")?;
    let validation = call.params.field_validation("CreateOptions")?;
    let eviction = codec::decode_object(call, input, validation)?;
    if meta_str(&eviction, "name") != call.name() {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let options = match &eviction["deleteOptions"] {
        Value::Null => Value::Object(Default::default()),
        options => options.clone(),
    };
    let mut request = request_of(&options)?;
    request.dry_run |= dry_run;
    let mut pod = call.on_object();
    pod.delete(&request).await?;
    Ok(super::created())
}
