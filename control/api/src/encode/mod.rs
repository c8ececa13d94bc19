//! Answers into bytes: JSON, YAML, protobuf or CBOR; whole objects, Tables or metadata only.

pub(crate) mod event;
mod list;
mod protobuf;
mod response;
mod shape;
mod value;

use axum::body::Body;
use bytes::Bytes;
use http::Response;
use http::header::RETRY_AFTER;
use kontiki_machinery::Status;
use serde_json::Value;

use self::response::with_code;
pub(crate) use self::response::{accepts_gzip, add_warnings, empty, of_bytes, sized};
pub(crate) use self::shape::include_object;
use self::shape::{shape_one, wrong_shape};
use self::value::formatted;
use crate::call::{Answer, Call, Object};
use crate::negotiate::{self, Form, Media, Offer, Shape};
use crate::params::Params;

/// The response for an answer.
pub(crate) async fn answer(call: &Call, answer: Answer, form: &Form, gzip: bool) -> Result<Response<Body>, Status> {
    match answer {
        Answer::Raw(response) => Ok(response),
        Answer::Status { code, status } => {
            Ok(with_code(of_bytes(form.media.name(), value::status(&status, form)?), code))
        }
        Answer::Object { code, object } => {
            let bytes = object_bytes(call, &object, form)?;
            Ok(with_code(sized(form.media.name(), bytes, gzip).await?, code))
        }
        Answer::List(list) => list::response(call, list, form, gzip).await,
        Answer::Made(items) => list::made(call, items, form, gzip).await,
    }
}

fn object_bytes(call: &Call, object: &Object, form: &Form) -> Result<Bytes, Status> {
    match (&form.shape, form.media) {
        (Shape::PartialList(_), _) => Err(wrong_shape(&call.def, "PartialObjectMetadataList", "not a list", "")),
        (Shape::Full, Media::Json) if !form.pretty => Ok(object.json()),
        (Shape::Full | Shape::Partial(_), Media::Protobuf) => protobuf::object(&call.def, object, &form.shape),
        (shape, _) => formatted(&shape_one(call, shape, object.value()?)?, form),
    }
}

/// A value that is no resource.
pub(crate) fn in_form(value: &Value, form: &Form) -> Result<Response<Body>, Status> {
    Ok(of_bytes(form.media.name(), formatted(value, form)?))
}

/// A document that is not a resource (discovery).
pub(crate) fn document(value: &Value, accept: Option<&str>, params: &Params) -> Result<Response<Body>, Status> {
    prettily(value, negotiate::object_form(accept, Offer::Documents)?, params)
}

/// A document that has no form but JSON.
pub(crate) fn json_document(value: &Value, accept: Option<&str>, params: &Params) -> Result<Response<Body>, Status> {
    prettily(value, negotiate::json_only(accept)?, params)
}

/// In lines, if that is asked for.
fn prettily(value: &Value, mut form: Form, params: &Params) -> Result<Response<Body>, Status> {
    form.pretty |= params.flag("pretty").unwrap_or(false);
    in_form(value, &form)
}

/// The response for a failure.
pub(crate) fn error(status: &Status, accept: Option<&str>) -> Response<Body> {
    let form = Form { media: negotiate::error_media(accept), ..Form::PLAIN };
    let (media, bytes) = match value::status(status, &form) {
        Ok(bytes) => (form.media, bytes),
        Err(_) => (Media::Json, value::status(status, &Form::PLAIN).unwrap_or_default()),
    };
    let mut response = with_code(of_bytes(media.name(), bytes), status.code);
    if let Some(seconds) = status.details.as_ref().map(|d| d.retry_after_seconds).filter(|s| *s > 0) {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}
