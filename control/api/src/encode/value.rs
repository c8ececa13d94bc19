//! Values that name their types, in every format.

use bytes::Bytes;
use kontiki_machinery::encode::{cbor, yaml};
use kontiki_machinery::{Status, schema};
use serde_json::Value;

use super::protobuf;
use crate::negotiate::{Form, Media};

/// A value that is no list. Its type is what it names.
pub(super) fn formatted(value: &Value, form: &Form) -> Result<Bytes, Status> {
    Ok(match form.media {
        Media::Yaml => yaml::to_text(value).into(),
        Media::Json if form.pretty => {
            let mut text = serde_json::to_string_pretty(value).expect("a Value is JSON");
            text.push('\n');
            text.into()
        }
        Media::Json => to_bytes(value),
        Media::Protobuf => protobuf::value(value)?,
        Media::Cbor => {
            let text = |field: &str| value[field].as_str().unwrap_or_default();
            cbor::object(value, schema::of_kind(text("apiVersion"), text("kind"))).into()
        }
    })
}

pub(super) fn to_bytes(value: &Value) -> Bytes {
    serde_json::to_vec(value).expect("a Value is JSON").into()
}
