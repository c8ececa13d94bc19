//! What of an object goes out: all of it, its row in a Table, its metadata.

use jiff::Timestamp;
use kontiki_machinery::{ResourceDef, Status, table};
use serde_json::{Value, json};

use crate::call::Call;
use crate::negotiate::Shape;
use crate::params::Params;

pub(crate) use kontiki_machinery::table::IncludeObject as Include;

pub(crate) fn include_object(params: &Params) -> Result<Include, Status> {
    let text = params.raw("includeObject").unwrap_or_default();
    Include::parse(text).ok_or_else(|| {
        Status::bad_request(format!(
            "Unable to convert to Table as requested: includeObject: Invalid value: \"{text}\": must be 'Metadata', 'Object', 'None', or empty"
        ))
    })
}

pub(super) fn shape_one(call: &Call, shape: &Shape, value: Value) -> Result<Value, Status> {
    Ok(match shape {
        Shape::Full | Shape::PartialList(_) => value,
        Shape::Partial(version) => partial(version, &value),
        Shape::Table(version) => {
            let include = include_object(&call.params)?;
            let metadata = list_metadata(value["metadata"]["resourceVersion"].as_str(), "", None);
            let mut shown = table::table(
                &call.def,
                vec![row(&call.def, version, include, &value, call.api.now())],
                metadata,
                version,
                true,
            );
            if let Some(view) = call.view() {
                shown["columnDefinitions"] = view.columns();
                let now = call.api.now();
                shown["rows"][0]["cells"] = view.row(&value).iter().map(|cell| cell.at(now)).collect();
            }
            shown
        }
    })
}

pub(super) fn wrong_shape(def: &ResourceDef, asked: &str, is: &str, suffix: &str) -> Status {
    let package = if def.group.is_empty() { "core" } else { def.group.split('.').next().unwrap_or_default() };
    let text = format!("you requested {asked}, but the requested object is {is} (*{package}.{}{suffix})", def.kind);
    Status::failure(406, "NotAcceptable", text)
}

pub(super) fn meta_version(version: &str) -> String {
    format!("meta.k8s.io/{version}")
}

pub(super) fn partial(version: &str, object: &Value) -> Value {
    table::partial(object, &meta_version(version))
}

pub(super) fn row(def: &ResourceDef, version: &str, include: Include, object: &Value, now: Timestamp) -> Value {
    let mut row = table::row(def, object, include, now);
    if include == Include::Metadata {
        row["object"]["apiVersion"] = meta_version(version).into();
    }
    row
}

pub(super) fn list_metadata(version: Option<&str>, continue_token: &str, remaining: Option<i64>) -> Value {
    let mut metadata = json!({});
    if let Some(version) = version {
        metadata["resourceVersion"] = version.into();
    }
    if !continue_token.is_empty() {
        metadata["continue"] = continue_token.into();
    }
    if let Some(remaining) = remaining {
        metadata["remainingItemCount"] = remaining.into();
    }
    metadata
}
