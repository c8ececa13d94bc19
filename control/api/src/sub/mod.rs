//! Subresources that are more than a part of the object or another view of it: what is done to it, and the streams to
//! its node. The row's handler says which serves which.

pub(crate) mod evict;
pub(crate) mod log;
pub(crate) mod stream;
pub(crate) mod token;
pub(crate) mod write;

use serde_json::Value;

use crate::Status;
use crate::call::{Answer, Call, Input};
use crate::codec;
use crate::object::meta_str;

/// `201` with no more than a Success.
fn created() -> Answer {
    let status = Status { code: 201, ..Status::success(None) };
    Answer::Status { code: 201, status }
}

/// The body of a POST to a subresource, and whether nothing is to be done.
fn decoded(call: &mut Call, input: Input) -> Result<(Value, bool), Status> {
    let dry_run = call.params.dry_run("CreateOptions")?;
    let validation = call.params.field_validation("CreateOptions")?;
    Ok((codec::decode_object(call, input, validation)?, dry_run))
}

/// The name in what is sent to a subresource is that of the object.
fn check_name(call: &Call, sent: &Value) -> Result<(), Status> {
    if meta_str(sent, "name") == call.name() {
        return Ok(());
    }
    let kind = call.sub.as_ref().map_or("", |sub| &sub.kind);
    Err(Status::bad_request(format!("name in URL does not match name in {kind} object")))
}
