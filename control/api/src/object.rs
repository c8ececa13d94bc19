//! Objects as bytes: how they lie in the store, and how `resourceVersion` gets into an answer
//! without parsing them.
//!
//! Stored form: one JSON object that begins with `apiVersion`, `kind`, `metadata` in this order
//! and has no `metadata.resourceVersion`. [`encode`] writes it. Readers do not rely on the order:
//! bytes of another layout are scanned for their top-level `metadata`, which only costs time.

use bytes::{BufMut, Bytes, BytesMut};
use kontiki_machinery::apply::write_entries;
use kontiki_store::{Entry, Revision};
use serde_json::{Map, Value};

use crate::Status;

/// The object's stored form. `resourceVersion` is left out.
#[must_use]
pub fn encode(object: &Value) -> Bytes {
    let empty = Map::new();
    let fields = object.as_object().unwrap_or(&empty);
    let mut out = Vec::with_capacity(512);
    out.push(b'{');
    for key in ["apiVersion", "kind"] {
        if let Some(value) = fields.get(key) {
            put_field(&mut out, key, value);
        }
    }
    put_metadata(&mut out, fields.get("metadata"));
    for (key, value) in fields {
        if !matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
            put_field(&mut out, key, value);
        }
    }
    out.push(b'}');
    Bytes::from(out)
}

fn put_metadata(out: &mut Vec<u8>, metadata: Option<&Value>) {
    if out.len() > 1 {
        out.push(b',');
    }
    out.extend_from_slice(b"\"metadata\":{");
    let start = out.len();
    for (key, value) in metadata.and_then(Value::as_object).into_iter().flatten() {
        if key != "resourceVersion" {
            if out.len() > start {
                out.push(b',');
            }
            put_meta(out, key, value);
        }
    }
    out.push(b'}');
}

/// Owners are written in upstream's order, which a map does not have.
fn put_meta(out: &mut Vec<u8>, key: &str, value: &Value) {
    if key == "managedFields" {
        out.extend_from_slice(b"\"managedFields\":");
        write_entries(value, out);
    } else {
        put_pair(out, key, value);
    }
}

/// The object as a client gets it.
#[must_use]
pub fn to_json(object: &Value) -> Bytes {
    let mut out = Vec::with_capacity(512);
    let Some(fields) = object.as_object() else {
        return serde_json::to_vec(object).expect("a Value is JSON").into();
    };
    out.push(b'{');
    for (key, value) in fields {
        match value.as_object().filter(|_| key == "metadata") {
            None => put_field(&mut out, key, value),
            Some(metadata) => {
                out.extend_from_slice(if out.len() > 1 { b",\"metadata\":{" } else { b"\"metadata\":{" });
                let start = out.len();
                for (key, value) in metadata {
                    if out.len() > start {
                        out.push(b',');
                    }
                    put_meta(&mut out, key, value);
                }
                out.push(b'}');
            }
        }
    }
    out.push(b'}');
    Bytes::from(out)
}

fn put_field(out: &mut Vec<u8>, key: &str, value: &Value) {
    if out.len() > 1 {
        out.push(b',');
    }
    put_pair(out, key, value);
}

fn put_pair(out: &mut Vec<u8>, key: &str, value: &Value) {
    serde_json::to_writer(&mut *out, key).expect("a string is JSON and a Vec does not fail");
    out.push(b':');
    serde_json::to_writer(out, value).expect("a Value is JSON and a Vec does not fail");
}

/// The stored object as a value, `resourceVersion` included.
///
/// # Errors
/// 500 if the bytes are not an object: somebody else wrote them.
pub fn decode(entry: &Entry) -> Result<Value, Status> {
    decode_at(&entry.value, entry.mod_revision)
}

/// The stored bytes as a value with the given `resourceVersion`.
///
/// # Errors
/// As [`decode`].
pub fn decode_at(stored: &[u8], revision: Revision) -> Result<Value, Status> {
    let mut object: Value =
        serde_json::from_slice(stored).map_err(|e| Status::internal(format!("a stored object cannot be read: {e}")))?;
    set_resource_version(&mut object, Some(revision));
    Ok(object)
}

/// Sets or removes `metadata.resourceVersion`.
pub fn set_resource_version(object: &mut Value, revision: Option<Revision>) {
    let Some(fields) = object.as_object_mut() else { return };
    let metadata = fields.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if let Some(metadata) = metadata.as_object_mut() {
        match revision {
            Some(revision) => metadata.insert("resourceVersion".into(), Value::String(revision.to_string())),
            None => metadata.remove("resourceVersion"),
        };
    }
}

/// Appends the object with its `resourceVersion` to `out`.
pub fn splice_into(out: &mut BytesMut, stored: &[u8], revision: Revision) {
    let Some(at) = metadata_start(stored) else {
        out.extend_from_slice(stored);
        return;
    };
    out.reserve(stored.len() + 48);
    out.extend_from_slice(&stored[..at]);
    out.extend_from_slice(b"\"resourceVersion\":\"");
    out.extend_from_slice(revision.to_string().as_bytes());
    out.put_u8(b'"');
    if stored.get(at) != Some(&b'}') {
        out.put_u8(b',');
    }
    out.extend_from_slice(&stored[at..]);
}

/// The object with its `resourceVersion`.
#[must_use]
pub fn splice(stored: &[u8], revision: Revision) -> Bytes {
    let mut out = BytesMut::with_capacity(stored.len() + 48);
    splice_into(&mut out, stored, revision);
    out.freeze()
}

/// Appends the object as a list shows it: with its `resourceVersion`, without `apiVersion` and
/// `kind`, which `head` (see [`list_item_head`]) spells as [`encode`] does.
pub fn splice_item_into(out: &mut BytesMut, stored: &[u8], revision: Revision, head: &[u8]) {
    if let Some(rest) = stored.strip_prefix(head).filter(|rest| rest.starts_with(b"\"metadata\":{")) {
        out.put_u8(b'{');
        splice_into_tail(out, rest, revision);
    } else if let Ok(Value::Object(mut fields)) = decode_at(stored, revision) {
        fields.remove("apiVersion");
        fields.remove("kind");
        out.extend_from_slice(&serde_json::to_vec(&fields).expect("a map is JSON"));
    } else {
        splice_into(out, stored, revision);
    }
}

/// Splices into `rest`, what follows `apiVersion` and `kind`. [`encode`] puts `metadata` first there.
fn splice_into_tail(out: &mut BytesMut, rest: &[u8], revision: Revision) {
    const OPEN: &[u8] = b"\"metadata\":{";
    let body = rest.strip_prefix(OPEN).unwrap_or(rest);
    out.reserve(rest.len() + 48);
    out.extend_from_slice(OPEN);
    out.extend_from_slice(b"\"resourceVersion\":\"");
    out.extend_from_slice(revision.to_string().as_bytes());
    out.put_u8(b'"');
    if body.first() != Some(&b'}') {
        out.put_u8(b',');
    }
    out.extend_from_slice(body);
}

/// Appends the object's `metadata`, with its `resourceVersion`.
pub fn splice_metadata_into(out: &mut BytesMut, stored: &[u8], revision: Revision) {
    let fields = metadata_start(stored).map_or(&b""[..], |at| &stored[at..object_end(stored, at)]);
    out.reserve(fields.len() + 48);
    out.extend_from_slice(b"{\"resourceVersion\":\"");
    out.extend_from_slice(revision.to_string().as_bytes());
    out.put_u8(b'"');
    if !fields.trim_ascii().is_empty() {
        out.put_u8(b',');
    }
    out.extend_from_slice(fields);
    out.put_u8(b'}');
}

/// How a stored object of this type begins.
#[must_use]
pub fn list_item_head(api_version: &str, kind: &str) -> Vec<u8> {
    format!("{{\"apiVersion\":\"{api_version}\",\"kind\":\"{kind}\",").into_bytes()
}

/// Offset just after the opening brace of the top-level `metadata`.
fn metadata_start(json: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"\"metadata\"";
    let (mut depth, mut at) = (0usize, 0usize);
    while at < json.len() {
        match json[at] {
            b'"' if depth == 1 && json[at..].starts_with(NAME) => {
                let after = skip_space(json, at + NAME.len());
                if json.get(after) == Some(&b':') {
                    let open = skip_space(json, after + 1);
                    return (json.get(open) == Some(&b'{')).then_some(open + 1);
                }
                at = string_end(json, at);
            }
            b'"' => at = string_end(json, at),
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                at += 1;
            }
            _ => at += 1,
        }
    }
    None
}

/// Offset of the brace that closes the object whose inside begins at `at`.
fn object_end(json: &[u8], mut at: usize) -> usize {
    let mut depth = 0usize;
    while at < json.len() {
        match json[at] {
            b'"' => {
                at = string_end(json, at);
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 0 => return at,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
    json.len()
}

fn skip_space(json: &[u8], mut at: usize) -> usize {
    while json.get(at).is_some_and(u8::is_ascii_whitespace) {
        at += 1;
    }
    at
}

/// Offset after the string that begins at `at`.
fn string_end(json: &[u8], at: usize) -> usize {
    let mut i = at + 1;
    while i < json.len() {
        match json[i] {
            b'\\' => i += 2,
            b'"' => return i + 1,
            _ => i += 1,
        }
    }
    json.len()
}

/// `metadata.<field>` as text; empty where missing.
#[must_use]
pub fn meta_str<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// The object's metadata, made if missing.
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let fields = object.as_object_mut().expect("made one just above");
    let metadata = fields.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if !metadata.is_object() {
        *metadata = Value::Object(Map::new());
    }
    metadata.as_object_mut().expect("made one just above")
}

/// The texts of a list; what is not text, or no list, is passed over.
pub(crate) fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The texts of `metadata.finalizers`.
#[must_use]
pub fn finalizers(object: &Value) -> Vec<&str> {
    object["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Whether the object is on its way out.
#[must_use]
pub fn deleting(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn stored_bytes_begin_with_type_and_metadata() {
        let object = json!({"data": {"a": "b"}, "kind": "ConfigMap", "apiVersion": "v1",
                            "metadata": {"name": "x", "resourceVersion": "7"}});
        let stored = encode(&object);
        assert_eq!(stored, &br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"data":{"a":"b"}}"#[..]);
    }

    #[test]
    fn owners_are_written_in_their_order() {
        let fields = r#"{"f:ports":{".":{},"k:{\"port\":80}":{},"k:{\"port\":443}":{}}}"#;
        let entries = format!(r#"[{{"fieldsV1":{fields},"manager":"m"}}]"#);
        let metadata = format!(r#"{{"managedFields":{entries},"name":"x"}}"#);
        let object: Value = serde_json::from_str(&format!(r#"{{"metadata":{metadata},"a":[1]}}"#)).expect("JSON");
        assert_eq!(encode(&object), format!(r#"{{"metadata":{metadata},"a":[1]}}"#));
        assert_eq!(to_json(&object), format!(r#"{{"a":[1],"metadata":{metadata}}}"#));
        assert_eq!(to_json(&json!([1])), "[1]");
    }

    #[test]
    fn a_version_is_spliced_in_whatever_the_layout() {
        for stored in [
            r#"{"apiVersion":"v1","kind":"A","metadata":{"name":"x"},"data":{}}"#,
            r#"{"a":{"metadata":{"b":1}},"s":"\"metadata\":{","metadata" : {"name":"x"}}"#,
            r#"{"metadata":{}}"#,
        ] {
            let mut want: Value = serde_json::from_str(stored).expect("the case is JSON");
            set_resource_version(&mut want, Some(Revision(9)));
            let got: Value = serde_json::from_slice(&splice(stored.as_bytes(), Revision(9))).expect("still JSON");
            assert_eq!(got, want, "{stored}");
        }
    }

    #[test]
    fn metadata_is_cut_out_whatever_the_layout() {
        for stored in [
            r#"{"apiVersion":"v1","kind":"A","metadata":{"name":"x","a":{"b":["}","]\""]}},"data":{}}"#,
            r#"{"a":{"metadata":{"b":1}},"metadata" : {"name":"x" } }"#,
            r#"{"metadata":{ }}"#,
            r#"{"data":{}}"#,
        ] {
            let mut want: Value = serde_json::from_str(stored).expect("the case is JSON");
            set_resource_version(&mut want, Some(Revision(9)));
            let mut out = BytesMut::new();
            splice_metadata_into(&mut out, stored.as_bytes(), Revision(9));
            assert_eq!(serde_json::from_slice::<Value>(&out).expect("still JSON"), want["metadata"], "{stored}");
        }
    }

    #[test]
    fn list_items_have_no_type() {
        let head = list_item_head("v1", "A");
        for stored in [
            r#"{"apiVersion":"v1","kind":"A","metadata":{"name":"x"},"d":1}"#,
            r#"{"d":1,"kind":"A","metadata":{"name":"x"},"apiVersion":"v1"}"#,
        ] {
            let mut out = BytesMut::new();
            splice_item_into(&mut out, stored.as_bytes(), Revision(3), &head);
            let got: Value = serde_json::from_slice(&out).expect("JSON");
            assert_eq!(got, json!({"metadata": {"name": "x", "resourceVersion": "3"}, "d": 1}), "{stored}");
        }
    }
}
