//! Subresources that are more than a part of the object or another view of it: what is done to it, and the streams to
//! its node. The row's handler says which serves which.

mod channels;
pub(crate) mod evict;
mod html;
pub(crate) mod log;
mod page;
pub(crate) mod proxy;
mod rewrite;
pub(crate) mod stream;
pub(crate) mod token;
mod tunnel_io;
pub(crate) mod write;

use serde_json::Value;

use crate::Status;
use crate::call::{Answer, Call, Input};
use crate::codec;
use crate::object::meta_str;
use crate::pipeline::{self, Draft, Memo};

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

/// What was sent to a subresource, as admission leaves it.
async fn admitted(call: &mut Call, sent: Value, dry_run: bool) -> Result<Value, Status> {
    let mut memo = Memo::new(call.api.now());
    let mut draft = Draft::create(call, call.api.backend().snapshot(), sent, dry_run, &mut memo);
    pipeline::run(&mut draft, &pipeline::ADMISSION).await?;
    let (sent, warnings) = (draft.object, draft.warnings);
    call.warnings.extend(warnings);
    Ok(sent)
}

/// Asks admission whether a stream may be opened for what `options` ask.
pub(crate) async fn admit_connect(call: &mut Call, options: Value) -> Result<(), Status> {
    let mut memo = Memo::new(call.api.now());
    let mut draft = Draft::connect(call, call.api.backend().snapshot(), options, &mut memo);
    pipeline::run(&mut draft, &pipeline::ADMISSION).await?;
    let warnings = draft.warnings;
    call.warnings.extend(warnings);
    Ok(())
}

/// The name in what is sent to a subresource is that of the object.
fn check_name(call: &Call, sent: &Value) -> Result<(), Status> {
    if meta_str(sent, "name") == call.name() {
        return Ok(());
    }
    let kind = call.sub.as_ref().map_or("", |sub| &sub.kind);
    Err(Status::bad_request(format!("name in URL does not match name in {kind} object")))
}
