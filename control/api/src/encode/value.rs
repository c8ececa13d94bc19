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

fn to_bytes(value: &Value) -> Bytes {
    serde_json::to_vec(value).expect("a Value is JSON").into()
}

/// A Status. In JSON its fields are in the order of upstream's type and it ends its line: there are clients that compare
/// the text (the Python client's own tests).
pub(super) fn status(status: &Status, form: &Form) -> Result<Bytes, Status> {
    let text = match form.media {
        Media::Json if form.pretty => serde_json::to_string_pretty(status),
        Media::Json => serde_json::to_string(status),
        _ => return formatted(&serde_json::to_value(status).map_err(Status::internal)?, form),
    };
    Ok((text.map_err(Status::internal)? + "\n").into())
}

#[cfg(test)]
mod tests {
    use kontiki_model::GroupResource;

    use super::*;

    #[test]
    fn a_status_is_written_as_go_writes_it() {
        let found = Status::already_exists(GroupResource { group: "apps", resource: "deployments" }, "mock");
        let text = concat!(
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","#,
            r#""message":"deployments.apps \"mock\" already exists","reason":"AlreadyExists","#,
            r#""details":{"name":"mock","group":"apps","kind":"deployments"},"code":409}"#,
            "\n"
        );
        assert_eq!(status(&found, &Form::PLAIN).expect("bytes"), text);
        let pretty = status(&found, &Form { pretty: true, ..Form::PLAIN }).expect("bytes");
        assert!(pretty.starts_with(b"{\n  \"kind\": \"Status\",\n  \"apiVersion\"") && pretty.ends_with(b"\n}\n"));
    }
}
