//! A delete that a disruption budget may refuse. Budgets are not served yet, so none refuses.

use serde_json::{Value, json};

use crate::Status;
use crate::call::{Answer, Call, Input};
use crate::verbs::delete::request_of;

/// Evicts the object that `call` names.
pub(crate) async fn create(call: &mut Call, input: Input) -> Result<Answer, Status> {
    let (eviction, dry_run) = super::decoded(call, input)?;
    super::check_name(call, &eviction)?;
    let options = match &eviction["deleteOptions"] {
        Value::Null => json!({}),
        options => options.clone(),
    };
    let mut request = request_of(&options)?;
    request.dry_run |= dry_run;
    call.on_object().delete(&request).await?;
    Ok(super::created())
}
