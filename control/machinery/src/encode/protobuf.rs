//! Kubernetes' protobuf form of objects: the magic `k8s\0`, an envelope that names the type, and the message; watch
//! events in frames. <https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding>
//!
//! Written from JSON text in one pass. A message's length stands before it: one byte is left for that, and the message
//! moved if it needs more, which is rare and cheap.
//!
//! Fields come in the order of the text, and what the text leaves out is left out, which readers take as zero. Fields of
//! embedded structs come in an embedded message each; readers merge those.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{
    EncodeError,
    plan::{Field, Form, Message},
    text::{Raw, Text},
};
use crate::{
    decode::MAX_DEPTH,
    schema::{self, time},
    wire::{MAGIC, Union},
};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
/// Number of `resourceVersion` in `ObjectMeta`.
const RESOURCE_VERSION: u32 = 6;
/// The content encoding and type of an envelope: none, as upstream writes them.
const TAIL: &[u8] = &[3 << 3 | 2, 0, 4 << 3 | 2, 0];

/// How an object of some type is written.
#[derive(Clone, Copy)]
pub struct Shape {
    message: &'static Message,
    /// Only its metadata.
    partial: bool,
}

/// A list's own metadata.
#[derive(Clone, Copy, Default)]
pub struct ListMeta<'a> {
    /// The version of the list; empty if it has none.
    pub version: &'a str,
    /// Where the next page begins; empty if there is none.
    pub continue_token: &'a str,
    /// How many objects the pages after it have.
    pub remaining: Option<i64>,
}

impl Shape {
    /// A whole object of the type called `name`; `None` if it has no protobuf form, or none for all of it.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Message::of(name).filter(|message| message.is_whole()).map(|message| Self { message, partial: false })
    }

    /// A whole object of a kind, as it names it.
    #[must_use]
    pub fn of_kind(api_version: &str, kind: &str) -> Option<Self> {
        Self::of(schema::of_kind(api_version, kind)?.name())
    }

    /// Only the metadata, as `PartialObjectMetadata`.
    #[must_use]
    pub fn partial() -> Option<Self> {
        Self::of(&format!("{META}.ObjectMeta")).map(|shape| Self { partial: true, ..shape })
    }

    /// Appends the message of an object in JSON. `version` is put into its metadata.
    ///
    /// # Errors
    /// The text is not JSON of that type. What was appended by then is of no use.
    pub fn write(&self, json: &[u8], version: Option<&str>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let mut writer = Writer { text: Text::new(json), version, out };
        if self.partial { writer.metadata_only(self.message) } else { writer.object(self.message, 0) }
    }
}

/// Appends an enveloped object, whose message `write` appends.
///
/// # Errors
/// Those of `write`.
pub fn envelope(
    (api_version, kind): (&str, &str),
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    head(api_version, kind, out);
    let raw = open(out, 2);
    write(out)?;
    close(out, raw);
    out.extend_from_slice(TAIL);
    Ok(())
}

/// What stands before the items of a list whose items take `items` bytes, keys and lengths included, and what stands
/// after them. For lists that are sent piece by piece.
#[must_use]
pub fn list_ends((api_version, kind): (&str, &str), meta: &ListMeta<'_>, items: usize) -> (Vec<u8>, &'static [u8]) {
    let (mut opening, mut metadata) = (Vec::with_capacity(128), Vec::new());
    list_meta(meta, &mut metadata);
    head(api_version, kind, &mut opening);
    key(&mut opening, 2, 2);
    varint(&mut opening, (metadata.len() + items) as u64);
    opening.extend_from_slice(&metadata);
    (opening, TAIL)
}

/// Appends an item of a list, whose message `write` appends.
///
/// # Errors
/// Those of `write`.
pub fn list_item(
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let item = open(out, 2);
    write(out)?;
    close(out, item);
    Ok(())
}

/// A watch event in its frame: four bytes of length, then the event, which has the enveloped object inside.
///
/// # Errors
/// Those of `write`, which appends the object in its envelope.
pub fn frame(event: &str, write: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>) -> Result<Vec<u8>, EncodeError> {
    let mut out = vec![0; 4];
    bytes(&mut out, 1, event.as_bytes());
    let object = open(&mut out, 2);
    let raw = open(&mut out, 1);
    write(&mut out)?;
    close(&mut out, raw);
    close(&mut out, object);
    let length = u32::try_from(out.len() - 4).map_err(|_| EncodeError::Depth)?;
    out[..4].copy_from_slice(&length.to_be_bytes());
    Ok(out)
}

fn head(api_version: &str, kind: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(MAGIC);
    let meta = open(out, 1);
    bytes(out, 1, api_version.as_bytes());
    bytes(out, 2, kind.as_bytes());
    close(out, meta);
}

fn list_meta(meta: &ListMeta<'_>, out: &mut Vec<u8>) {
    let list = open(out, 1);
    bytes(out, 1, b"");
    bytes(out, 2, meta.version.as_bytes());
    bytes(out, 3, meta.continue_token.as_bytes());
    if let Some(remaining) = meta.remaining {
        key(out, 4, 0);
        varint(out, remaining.cast_unsigned());
    }
    close(out, list);
}

pub(super) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn key(out: &mut Vec<u8>, number: u32, wire: u32) {
    varint(out, u64::from(number << 3 | wire));
}

pub(super) fn bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    key(out, number, 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// Begins a length-delimited field; [`close`] ends it.
pub(super) fn open(out: &mut Vec<u8>, number: u32) -> usize {
    key(out, number, 2);
    out.push(0);
    out.len()
}

pub(super) fn close(out: &mut Vec<u8>, start: usize) {
    let length = out.len() - start;
    if length < 0x80 {
        out[start - 1] = length as u8;
        return;
    }
    let more = length.ilog2() as usize / 7;
    out.resize(out.len() + more, 0);
    out.copy_within(start..start + length, start + more);
    let mut value = length;
    for at in 0..more {
        out[start - 1 + at] = value as u8 | 0x80;
        value >>= 7;
    }
    out[start - 1 + more] = value as u8;
}

struct Writer<'a, 'o> {
    text: Text<'a>,
    /// Goes into the metadata of the object.
    version: Option<&'a str>,
    out: &'o mut Vec<u8>,
}

impl Writer<'_, '_> {
    /// Only the field `metadata`, as the first field of a message.
    fn metadata_only(&mut self, message: &'static Message) -> Result<(), EncodeError> {
        self.text.expect(b'{')?;
        if self.text.eat(b'}') {
            return Ok(());
        }
        loop {
            if self.text.key()?.bytes == b"metadata" && self.text.peek() == Some(b'{') {
                let metadata = open(self.out, 1);
                self.object(message, 1)?;
                self.put_version();
                close(self.out, metadata);
            } else {
                self.text.value()?;
            }
            if !self.text.another(b'}')? {
                return Ok(());
            }
        }
    }

    fn put_version(&mut self) {
        if let Some(version) = self.version {
            bytes(self.out, RESOURCE_VERSION, version.as_bytes());
        }
    }

    /// The fields of an object, without key and length.
    fn object(&mut self, message: &'static Message, depth: usize) -> Result<(), EncodeError> {
        if depth > MAX_DEPTH {
            return Err(EncodeError::Depth);
        }
        self.text.expect(b'{')?;
        if self.text.eat(b'}') {
            return Ok(());
        }
        let (fields, mut next) = (message.fields(), 0);
        loop {
            let name = self.text.key()?.bytes;
            match find(fields, name, &mut next) {
                None => drop(self.text.value()?),
                Some(_) if self.text.null() => {}
                Some(field) => self.field(field, depth)?,
            }
            if !self.text.another(b'}')? {
                return Ok(());
            }
        }
    }

    fn field(&mut self, field: &Field, depth: usize) -> Result<(), EncodeError> {
        let starts: Vec<usize> = field.within.iter().map(|number| open(self.out, *number)).collect();
        let own = depth == 0 && &*field.name == b"metadata";
        match &field.form {
            Form::Message(message) if own => {
                let metadata = open(self.out, field.number);
                self.object(message, 1)?;
                self.put_version();
                close(self.out, metadata);
            }
            form => self.value(field.number, form, depth)?,
        }
        starts.iter().rev().for_each(|start| close(self.out, *start));
        Ok(())
    }

    /// A field with all its occurrences.
    fn value(&mut self, number: u32, form: &Form, depth: usize) -> Result<(), EncodeError> {
        match form {
            Form::List(item) => self.list(number, item, depth),
            Form::Map(item) => self.map(number, item, depth),
            Form::Wrapped(list) => {
                let wrapped = open(self.out, number);
                self.value(1, list, depth)?;
                close(self.out, wrapped);
                Ok(())
            }
            Form::Message(message) => {
                let inner = open(self.out, number);
                self.object(message, depth + 1)?;
                close(self.out, inner);
                Ok(())
            }
            Form::Union(kind, schema) => self.union(number, *kind, schema, depth),
            Form::Bool => {
                let set = self.text.word() == b"true";
                key(self.out, number, 0);
                self.out.push(u8::from(set));
                Ok(())
            }
            Form::Int => {
                let value = self.int()?;
                key(self.out, number, 0);
                varint(self.out, value.cast_unsigned());
                Ok(())
            }
            Form::Double => {
                let value: f64 = self.number()?;
                key(self.out, number, 1);
                self.out.extend_from_slice(&value.to_le_bytes());
                Ok(())
            }
            other => self.delimited(number, other),
        }
    }

    /// A JSON schema or something else.
    fn union(&mut self, number: u32, kind: Union, schema: &'static Message, depth: usize) -> Result<(), EncodeError> {
        let start = open(self.out, number);
        match (kind, self.text.peek()) {
            (Union::Schemas, Some(b'[')) => self.list(2, &Form::Message(schema), depth + 1)?,
            (Union::Strings, Some(b'[')) => self.list(2, &Form::String, depth + 1)?,
            (Union::Allows, Some(b'{')) => {
                // Who has a schema allows what it does.
                key(self.out, 1, 0);
                self.out.push(1);
                self.value(2, &Form::Message(schema), depth + 1)?;
            }
            (Union::Allows, _) => self.value(1, &Form::Bool, depth)?,
            _ => self.value(1, &Form::Message(schema), depth + 1)?,
        }
        close(self.out, start);
        Ok(())
    }

    fn list(&mut self, number: u32, item: &Form, depth: usize) -> Result<(), EncodeError> {
        self.text.expect(b'[')?;
        if self.text.eat(b']') {
            return Ok(());
        }
        loop {
            // An item of a list is there even if it says nothing.
            if self.text.null() {
                empty(self.out, number, item);
            } else {
                self.value(number, item, depth)?;
            }
            if !self.text.another(b']')? {
                return Ok(());
            }
        }
    }

    fn map(&mut self, number: u32, item: &Form, depth: usize) -> Result<(), EncodeError> {
        self.text.expect(b'{')?;
        if self.text.eat(b'}') {
            return Ok(());
        }
        loop {
            let entry = open(self.out, number);
            let name = self.text.key()?;
            self.string(1, &name)?;
            if self.text.null() {
                empty(self.out, 2, item);
            } else {
                self.value(2, item, depth)?;
            }
            close(self.out, entry);
            if !self.text.another(b'}')? {
                return Ok(());
            }
        }
    }

    fn string(&mut self, number: u32, raw: &Raw<'_>) -> Result<(), EncodeError> {
        if !raw.escaped {
            bytes(self.out, number, raw.bytes);
            return Ok(());
        }
        let start = open(self.out, number);
        raw.write(self.out)?;
        close(self.out, start);
        Ok(())
    }

    /// What is neither a number nor has occurrences.
    fn delimited(&mut self, number: u32, form: &Form) -> Result<(), EncodeError> {
        if matches!(form, Form::String) {
            let raw = self.text.string()?;
            return self.string(number, &raw);
        }
        let start = open(self.out, number);
        match form {
            Form::Bytes => self.base64()?,
            Form::Time | Form::MicroTime => self.time(matches!(form, Form::MicroTime))?,
            Form::Quantity => {
                let quantity = self.quantity()?;
                bytes(self.out, 1, quantity.as_bytes());
            }
            Form::IntOrString => self.int_or_string()?,
            _ => {
                let json = self.text.value()?;
                bytes(self.out, 1, json);
            }
        }
        close(self.out, start);
        Ok(())
    }

    fn base64(&mut self) -> Result<(), EncodeError> {
        let raw = self.text.string()?;
        let (at, wrong) = (self.out.len(), EncodeError::Type("bytes"));
        let text = raw.text()?;
        self.out.resize(at + base64::decoded_len_estimate(text.len()), 0);
        let length = STANDARD.decode_slice(text.as_bytes(), &mut self.out[at..]).map_err(|_| wrong)?;
        self.out.truncate(at + length);
        Ok(())
    }

    /// Whole seconds, or microseconds as nanoseconds.
    fn time(&mut self, micro: bool) -> Result<(), EncodeError> {
        let text = self.text.string()?.text()?;
        let (seconds, nanos) = time::unix(&text).ok_or(EncodeError::Type("time"))?;
        key(self.out, 1, 0);
        varint(self.out, seconds.cast_unsigned());
        key(self.out, 2, 0);
        varint(self.out, if micro { u64::from(nanos / 1000 * 1000) } else { 0 });
        Ok(())
    }

    fn quantity(&mut self) -> Result<String, EncodeError> {
        if self.text.peek() == Some(b'"') {
            return self.text.string()?.text();
        }
        Ok(String::from_utf8_lossy(self.text.word()).into_owned())
    }

    /// The kind (0: a number), the number, the text.
    fn int_or_string(&mut self) -> Result<(), EncodeError> {
        let is_string = self.text.peek() == Some(b'"');
        key(self.out, 1, 0);
        self.out.push(u8::from(is_string));
        let number = if is_string { 0 } else { self.int()? };
        key(self.out, 2, 0);
        varint(self.out, number.cast_unsigned());
        if is_string {
            let raw = self.text.string()?;
            return self.string(3, &raw);
        }
        bytes(self.out, 3, b"");
        Ok(())
    }

    fn int(&mut self) -> Result<i64, EncodeError> {
        self.number()
    }

    fn number<T: std::str::FromStr>(&mut self) -> Result<T, EncodeError> {
        let word = self.text.word();
        let number = std::str::from_utf8(word).ok().and_then(|word| word.parse().ok());
        number.ok_or(EncodeError::Type("number"))
    }
}

/// The field called `name`. Stored objects have their fields in this order, so it is the next one or close to it.
fn find<'f>(fields: &'f [Field], name: &[u8], next: &mut usize) -> Option<&'f Field> {
    let (before, after) = fields.split_at((*next).min(fields.len()));
    let at = after.iter().position(|field| *field.name == *name).map(|at| at + before.len());
    let at = at.or_else(|| before.iter().position(|field| *field.name == *name))?;
    *next = at + 1;
    fields.get(at)
}

/// An occurrence of an item that says nothing.
fn empty(out: &mut Vec<u8>, number: u32, form: &Form) {
    match form {
        Form::Bool | Form::Int => {
            key(out, number, 0);
            out.push(0);
        }
        Form::Double => {
            key(out, number, 1);
            out.extend_from_slice(&[0; 8]);
        }
        _ => bytes(out, number, b""),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::decode::decode_protobuf;

    fn enveloped(name: &str, object: &Value, version: Option<&str>) -> Vec<u8> {
        let (api_version, kind) = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
        let shape = Shape::of(name).unwrap();
        let mut out = Vec::new();
        envelope((api_version, kind), &mut out, |out| shape.write(object.to_string().as_bytes(), version, out))
            .unwrap();
        out
    }

    #[test]
    fn objects_come_back_as_they_were() {
        for (name, object) in [
            (
                "io.k8s.api.core.v1.ConfigMap",
                json!({"apiVersion": "v1", "kind": "ConfigMap", "immutable": true, "data": {"k": "v", "\"e\\s\u{1}": "é😀\n"},
                       "binaryData": {"b": "AAEC"},
                       "metadata": {"name": "one", "creationTimestamp": "2026-01-02T03:04:05Z", "labels": {"l": ""},
                                    "managedFields": [{"manager": "m", "fieldsV1": {"f:data": {".": {}}}}]}}),
            ),
            (
                "io.k8s.api.core.v1.Pod",
                json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
                    "volumes": [{"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}, {"name": "w", "secret": {"secretName": "s"}}],
                    "containers": [{"name": "a", "args": ["x".repeat(20_000), ""], "resources": {"limits": {"cpu": "100m"}},
                        "livenessProbe": {"httpGet": {"port": "web"}, "initialDelaySeconds": 5},
                        "ports": [{"containerPort": 80}], "securityContext": {"runAsUser": -1, "privileged": false}}],
                    "ephemeralContainers": [{"name": "d", "image": "i", "targetContainerName": "a", "args": ["b"]}]},
                    "status": {"startTime": "1960-01-02T03:04:05Z"}}),
            ),
            (
                "io.k8s.api.coordination.v1.Lease",
                json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {},
                       "spec": {"renewTime": "2026-01-02T03:04:05.678901Z", "leaseDurationSeconds": 40}}),
            ),
            (
                "io.k8s.api.authorization.v1.SubjectAccessReview",
                json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {},
                       "spec": {"extra": {"a": ["b", "c"], "d": []}}, "status": {"allowed": true}}),
            ),
            (
                "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
                json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {},
                       "spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": {
                           "type": "object", "default": {"a": [1, null]}, "enum": [1, "x", null], "maximum": 1.5,
                           "items": {"type": "string"}, "additionalProperties": {"additionalProperties": true},
                           "additionalItems": false, "allOf": [{"items": [{"$ref": "#"}, {}]}],
                           "dependencies": {"a": ["b", "c"], "d": {"type": "object"}}, "properties": {"p": {"minLength": 1}},
                           "x-kubernetes-validations": [{"rule": "true"}]}}}]}}),
            ),
        ] {
            let bytes = enveloped(name, &object, None);
            assert_eq!(decode_protobuf(&bytes).map(|decoded| decoded.value), Ok(object), "{name}");
        }
    }

    /// The bytes are those of upstream's Go types.
    #[test]
    fn a_schema_or_something_else_is_a_message_of_its_own() {
        let shape = Shape::of("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps").unwrap();
        for (json, expected) in [
            (r#"{"items":{"id":"a"}}"#, &b"\xc2\x01\x05\x0a\x03\x0a\x01a"[..]),
            (r#"{"items":[{"id":"a"}]}"#, b"\xc2\x01\x05\x12\x03\x0a\x01a"),
            (r#"{"additionalProperties":true}"#, b"\xf2\x01\x02\x08\x01"),
            (r#"{"additionalProperties":false}"#, b"\xf2\x01\x02\x08\x00"),
            (r#"{"additionalProperties":{"id":"a"}}"#, b"\xf2\x01\x07\x08\x01\x12\x03\x0a\x01a"),
            (r#"{"dependencies":{"k":["a"]}}"#, b"\x82\x02\x08\x0a\x01k\x12\x03\x12\x01a"),
        ] {
            let mut out = Vec::new();
            shape.write(json.as_bytes(), None, &mut out).unwrap();
            assert_eq!(out, expected, "{json}");
        }
    }

    #[test]
    fn a_version_goes_into_the_metadata_alone() {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
        let read = decode_protobuf(&enveloped("io.k8s.api.core.v1.ConfigMap", &object, Some("7"))).expect("protobuf");
        assert_eq!(read.value["metadata"], json!({"name": "a", "resourceVersion": "7"}));
        let template =
            json!({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {}, "template": {"metadata": {"name": "x"}}});
        let read =
            decode_protobuf(&enveloped("io.k8s.api.core.v1.PodTemplate", &template, Some("7"))).expect("protobuf");
        assert_eq!(read.value["template"]["metadata"], json!({"name": "x"}));
    }

    #[test]
    fn bytes_are_those_of_the_format() {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "labels": {"k": "v"}}});
        let bytes = enveloped("io.k8s.api.core.v1.ConfigMap", &object, Some("12"));
        let message = b"\x0a\x0f\x5a\x06\x0a\x01k\x12\x01v\x0a\x01a\x32\x0212";
        let expected =
            [b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x11", &message[..], b"\x1a\x00\x22\x00"].concat();
        assert_eq!(bytes, expected);
        let framed = frame("ADDED", |out| {
            out.extend_from_slice(b"x");
            Ok(())
        });
        assert_eq!(framed.as_deref(), Ok(&b"\0\0\0\x0c\x0a\x05ADDED\x12\x03\x0a\x01x"[..]));
        let meta = ListMeta { version: "9", continue_token: "c", remaining: Some(3) };
        let (opening, tail) = list_ends(("v1", "ConfigMapList"), &meta, 5);
        let expected =
            b"k8s\0\x0a\x13\x0a\x02v1\x12\x0dConfigMapList\x12\x11\x0a\x0a\x0a\x00\x12\x019\x1a\x01c\x20\x03";
        assert_eq!((opening.as_slice(), tail), (&expected[..], &b"\x1a\x00\x22\x00"[..]));
    }

    #[test]
    fn only_metadata_is_written_of_a_partial_object() {
        let mut out = Vec::new();
        let json = br#"{"a":[{"metadata":{"name":"no"}}],"metadata":{"name":"a"},"spec":{"metadata":{}}}"#;
        Shape::partial().unwrap().write(json, Some("1"), &mut out).unwrap();
        assert_eq!(out, b"\x0a\x06\x0a\x01a\x32\x011");
    }

    #[test]
    fn a_type_that_would_lose_something_has_no_form() {
        assert!(Shape::of("io.k8s.apimachinery.pkg.version.Info").is_none(), "it has no numbers");
        for kind in [
            "io.k8s.api.core.v1.Pod",
            "io.k8s.apimachinery.pkg.apis.meta.v1.Status",
            "io.k8s.api.apps.v1.StatefulSet",
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
        ] {
            assert!(Shape::of(kind).is_some(), "{kind}");
        }
    }

    #[test]
    fn text_that_does_not_fit_is_refused() {
        let shape = Shape::of("io.k8s.api.core.v1.ConfigMap").unwrap();
        for text in [
            "",
            "[",
            "{",
            "{\"metadata\"",
            "{\"metadata\":{\"name\":1}}",
            "{\"immutable\":1",
            "{\"data\":[]}",
            "{\"binaryData\":{\"a\":\"!\"}}",
            "{\"x\":}}",
            "{\"data\":{\"a\":\"\\q\"}}",
            "{\"metadata\":{\"generation\":\"x\"}}",
        ] {
            assert!(shape.write(text.as_bytes(), None, &mut Vec::new()).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "[{}\\[\\]\",:a-z\\\\0-9 ]{0,80}", rest in "(metadata|data|spec)") {
            for name in ["io.k8s.api.core.v1.ConfigMap", "io.k8s.api.core.v1.Pod"] {
                let shape = Shape::of(name).unwrap();
                let _ = shape.write(text.as_bytes(), None, &mut Vec::new());
                let _ = shape.write(format!("{{\"{rest}\":{text}}}").as_bytes(), Some("1"), &mut Vec::new());
            }
        }

        #[test]
        fn lengths_are_right_at_every_size(size in 0usize..70_000) {
            let mut out = vec![9];
            let start = open(&mut out, 1);
            out.resize(out.len() + size, 7);
            close(&mut out, start);
            let mut expected = vec![9];
            bytes(&mut expected, 1, &vec![7; size]);
            prop_assert_eq!(out, expected);
        }
    }
}
