//! Kubernetes' protobuf form of objects, in which kubectl's typed commands (`create`, `auth can-i`,
//! `drain`) send their bodies: the magic `k8s\0`, an envelope that names the type, and the message.
//!
//! Field numbers come from [`crate::wire`]; everything else from the schema registry.
//!
//! Invariants
//! - Never panics; nesting is bounded; memory is bounded by the body's size.
//! - Unknown field numbers are skipped, as protobuf wants it.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Number, Value};

use super::{DecodeError, MAX_DEPTH};
use crate::schema::{self, Schema, Type, time};
use crate::wire::{MAGIC, Meaning, Union, numbers, union_of};

fn fail<T>(what: &str) -> Result<T, DecodeError> {
    Err(DecodeError::new(format!("proto: {what}")))
}

/// Reads one enveloped object. Of a type that is not known here only `apiVersion` and `kind` are read.
pub(super) fn parse(body: &[u8]) -> Result<Value, DecodeError> {
    let Some(envelope) = body.strip_prefix(MAGIC) else {
        return fail("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]");
    };
    let (mut version, mut kind, mut raw, mut encoding) = (String::new(), String::new(), &[][..], String::new());
    for field in Fields::new(envelope) {
        match field? {
            (1, Wire::Bytes(meta)) => {
                for field in Fields::new(meta) {
                    match field? {
                        (1, Wire::Bytes(text)) => version = lossy(text),
                        (2, Wire::Bytes(text)) => kind = lossy(text),
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(message)) => raw = message,
            (3, Wire::Bytes(text)) => encoding = lossy(text),
            _ => {}
        }
    }
    if !encoding.is_empty() {
        return fail(&format!("unsupported content encoding {encoding:?}"));
    }
    let mut object = match schema::of_kind(&version, &kind) {
        Some(schema) => message(raw, schema, schema.name(), 0)?,
        None => Map::new(),
    };
    object.insert("apiVersion".into(), version.into());
    object.insert("kind".into(), kind.into());
    Ok(Value::Object(object))
}

/// A message of type `schema`, its numbers those of `table` (another name for embedded ones).
fn message(bytes: &[u8], schema: &Schema, table: &str, depth: usize) -> Result<Map<String, Value>, DecodeError> {
    if depth > MAX_DEPTH {
        return fail("exceeded max depth");
    }
    let Some(numbers) = numbers(table) else { return fail(&format!("no field numbers are known for {table}")) };
    let mut out = Map::new();
    for field in Fields::new(bytes) {
        let (number, wire) = field?;
        match numbers.get(&number) {
            None => {}
            Some(Meaning::Embedded(table)) => {
                let Wire::Bytes(inner) = wire else { return fail("wrong wire type of an embedded message") };
                out.extend(message(inner, schema, table, depth + 1)?);
            }
            Some(Meaning::Field(name)) => {
                let Some(field) = schema.field(name) else { continue };
                match (union_of(table, name), &field.ty) {
                    (None, ty) => insert(&mut out, name, ty, wire, depth)?,
                    (Some(kind), Type::Map(_)) => {
                        let Value::Object(map) = out.entry(name).or_insert_with(|| Value::Object(Map::new())) else {
                            continue;
                        };
                        let (key, value) = entry(wire, |wire| union(&wire, kind, schema, depth))?;
                        map.insert(key, value);
                    }
                    (Some(kind), _) => drop(out.insert(name.clone(), union(&wire, kind, schema, depth)?)),
                }
            }
        }
    }
    Ok(out)
}

/// Adds one occurrence of a field: lists and maps grow, anything else is replaced.
fn insert(
    out: &mut Map<String, Value>,
    name: &str,
    ty: &Type,
    wire: Wire<'_>,
    depth: usize,
) -> Result<(), DecodeError> {
    match ty {
        Type::List(item) => {
            let Value::Array(items) = out.entry(name).or_insert_with(|| Value::Array(Vec::new())) else {
                return Ok(());
            };
            match (&wire, &**item) {
                (Wire::Bytes(packed), Type::Int32 | Type::Int64 | Type::Bool) => {
                    let mut rest = *packed;
                    while !rest.is_empty() {
                        items.push(scalar(&Wire::Varint(varint(&mut rest)?), item, depth)?);
                    }
                }
                _ => items.push(scalar(&wire, item, depth)?),
            }
        }
        Type::Map(item) => {
            let Value::Object(map) = out.entry(name).or_insert_with(|| Value::Object(Map::new())) else {
                return Ok(());
            };
            let (key, value) = entry(wire, |wire| map_value(&wire, item, depth))?;
            map.insert(key, value);
        }
        _ => {
            out.insert(name.to_owned(), scalar(&wire, ty, depth)?);
        }
    }
    Ok(())
}

/// A map's key and value.
fn entry<'a>(
    wire: Wire<'a>,
    read: impl Fn(Wire<'a>) -> Result<Value, DecodeError>,
) -> Result<(String, Value), DecodeError> {
    let Wire::Bytes(entry) = wire else { return fail("wrong wire type of a map") };
    let (mut key, mut value) = (String::new(), None);
    for field in Fields::new(entry) {
        match field? {
            (1, Wire::Bytes(text)) => key = lossy(text),
            (2, wire) => value = Some(read(wire)?),
            _ => {}
        }
    }
    Ok((key, value.unwrap_or_default()))
}

/// A JSON schema or something else, as upstream's types print what they have read.
fn union(wire: &Wire<'_>, kind: Union, schema: &Schema, depth: usize) -> Result<Value, DecodeError> {
    let Wire::Bytes(bytes) = wire else { return fail("wrong wire type of a union") };
    let (mut one, mut many, mut allows) = (Value::Null, Vec::new(), false);
    let read = |bytes| Ok::<_, DecodeError>(Value::Object(message(bytes, schema, schema.name(), depth + 1)?));
    for field in Fields::new(bytes) {
        match (kind, field?) {
            (Union::Allows, (1, Wire::Varint(value))) => allows = value != 0,
            (Union::Allows, (2, Wire::Bytes(bytes))) | (_, (1, Wire::Bytes(bytes))) => one = read(bytes)?,
            (Union::Schemas, (2, Wire::Bytes(bytes))) => many.push(read(bytes)?),
            (Union::Strings, (2, Wire::Bytes(text))) => many.push(lossy(text).into()),
            _ => {}
        }
    }
    Ok(match (one, many.is_empty()) {
        (Value::Null, true) if kind == Union::Allows => allows.into(),
        (one, true) => one,
        (_, false) => many.into(),
    })
}

/// A map's value. Lists cannot be one in protobuf: upstream wraps them (`ExtraValue.items`).
fn map_value(wire: &Wire<'_>, ty: &Type, depth: usize) -> Result<Value, DecodeError> {
    match (wire, ty) {
        (Wire::Bytes(wrapped), Type::List(item)) => {
            let mut items = Vec::new();
            for field in Fields::new(wrapped) {
                if let (1, wire) = field? {
                    items.push(scalar(&wire, item, depth)?);
                }
            }
            Ok(Value::Array(items))
        }
        _ => scalar(wire, ty, depth),
    }
}

fn scalar(wire: &Wire<'_>, ty: &Type, depth: usize) -> Result<Value, DecodeError> {
    Ok(match (wire, ty) {
        (Wire::Varint(value), Type::Bool) => (*value != 0).into(),
        // Negative numbers are sign-extended to 64 bits; the cast takes that back.
        (Wire::Varint(value), Type::Int32 | Type::Int64) => value.cast_signed().into(),
        (Wire::Fixed64(value), Type::Float) => {
            Number::from_f64(f64::from_bits(*value)).map_or(Value::Null, Value::Number)
        }
        (Wire::Bytes(text), Type::String) => lossy(text).into(),
        (Wire::Bytes(bytes), Type::Bytes) => STANDARD.encode(bytes).into(),
        (Wire::Bytes(bytes), Type::Time | Type::MicroTime) => timestamp(bytes, matches!(ty, Type::MicroTime))?,
        (Wire::Bytes(bytes), Type::Quantity) => quantity(bytes)?,
        (Wire::Bytes(bytes), Type::IntOrString) => int_or_string(bytes)?,
        (Wire::Bytes(bytes), Type::Any) => embedded_json(bytes)?,
        (Wire::Bytes(bytes), Type::Struct(schema)) => Value::Object(message(bytes, schema, schema.name(), depth + 1)?),
        _ => return fail(&format!("wrong wire type for {ty:?}")),
    })
}

/// An empty message is no time at all.
fn timestamp(bytes: &[u8], micro: bool) -> Result<Value, DecodeError> {
    let (mut seconds, mut nanos) = (None, 0);
    for field in Fields::new(bytes) {
        match field? {
            (1, Wire::Varint(value)) => seconds = Some(value.cast_signed()),
            (2, Wire::Varint(value)) => nanos = i32::try_from(value.cast_signed()).unwrap_or(0),
            _ => {}
        }
    }
    let Some(seconds) = seconds else { return Ok(Value::Null) };
    let micros = micro.then(|| u32::try_from(nanos / 1000).unwrap_or_default());
    time::print_unix(seconds, micros).map_or_else(|| fail("time out of range"), |text| Ok(text.into()))
}

fn quantity(bytes: &[u8]) -> Result<Value, DecodeError> {
    let mut out = Value::from("0");
    for field in Fields::new(bytes) {
        if let (1, Wire::Bytes(text)) = field? {
            out = lossy(text).into();
        }
    }
    Ok(out)
}

fn int_or_string(bytes: &[u8]) -> Result<Value, DecodeError> {
    let (mut is_string, mut number, mut text) = (false, 0, String::new());
    for field in Fields::new(bytes) {
        match field? {
            (1, Wire::Varint(kind)) => is_string = kind == 1,
            (2, Wire::Varint(value)) => number = value.cast_signed(),
            (3, Wire::Bytes(value)) => text = lossy(value),
            _ => {}
        }
    }
    Ok(if is_string { text.into() } else { number.into() })
}

/// Free-form parts (`FieldsV1`, `RawExtension`) are JSON inside.
fn embedded_json(bytes: &[u8]) -> Result<Value, DecodeError> {
    for field in Fields::new(bytes) {
        if let (1, Wire::Bytes(text)) = field? {
            return Ok(super::json::parse(text)?.into_value(&super::json::Place::Root, &mut super::Repeats::default()));
        }
    }
    Ok(Value::Null)
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A value as it is on the wire.
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32,
    Bytes(&'a [u8]),
}

/// The fields of a message, in the order of the wire. Ends after the first error.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let Some((head, tail)) = self.0.split_at_checked(count) else { return fail("unexpected EOF") };
        self.0 = tail;
        Ok(head)
    }

    fn read(&mut self) -> Result<(u64, Wire<'a>), DecodeError> {
        let tag = varint(&mut self.0)?;
        let wire = match tag & 7 {
            0 => Wire::Varint(varint(&mut self.0)?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().unwrap_or_default())),
            2 => {
                let length = varint(&mut self.0)?;
                Wire::Bytes(self.take(usize::try_from(length).unwrap_or(usize::MAX))?)
            }
            5 => {
                self.take(4)?;
                Wire::Fixed32
            }
            other => return fail(&format!("illegal wireType {other}")),
        };
        Ok((tag >> 3, wire))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Wire<'a>), DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

fn varint(bytes: &mut &[u8]) -> Result<u64, DecodeError> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let Some((byte, rest)) = bytes.split_first() else { return fail("unexpected EOF") };
        *bytes = rest;
        if shift < 64 {
            value |= u64::from(byte & 0x7f) << shift;
        }
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    fail("integer overflow")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// A length-delimited field.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let length = u8::try_from(bytes.len()).expect("short in tests");
        [&[number << 3 | 2, length], bytes].concat()
    }

    fn envelope(version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [field(1, version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &meta), field(2, raw)].concat()
    }

    /// Go's generated code writes strings and flags that are empty, JSON may say them: `id: ""` of a schema is none, wherever
    /// the schema is.
    #[test]
    fn what_is_empty_in_a_union_is_not_there() {
        let schema = schema::get(crate::wire::JSON_SCHEMA).expect("a known type");
        // id, type, exclusiveMaximum and minLength.
        let inner = [field(1, b""), field(5, b"string"), vec![10 << 3, 0], vec![14 << 3, 0]].concat();
        let said = json!({"id": "", "type": "string", "exclusiveMaximum": false, "minLength": 0});
        let meant = json!({"type": "string", "minLength": 0});
        let all = |value: &Value| json!([value]);
        let of = |key: &str, value: Value| json!({key: value});
        let allowed = [vec![8, 1], field(2, &inner)].concat();
        let depends = |on: &[u8]| [field(1, b"a"), field(2, on)].concat();
        for (name, number, form, said, meant) in [
            ("items", 24_u16, field(1, &inner), said.clone(), meant.clone()),
            ("items", 24, field(2, &inner), all(&said), all(&meant)),
            ("additionalProperties", 30, allowed, said.clone(), meant.clone()),
            ("additionalProperties", 30, vec![8, 0], json!(false), json!(false)),
            ("dependencies", 32, depends(&field(1, &inner)), of("a", said.clone()), of("a", meant.clone())),
            ("dependencies", 32, depends(&field(2, b"b")), json!({"a": ["b"]}), json!({"a": ["b"]})),
        ] {
            let ([low, high], length) =
                ((number << 3 | 2).to_le_bytes(), u8::try_from(form.len()).expect("it is short"));
            let body = [vec![low | 0x80, high << 1 | low >> 7, length], form].concat();
            let read = Value::Object(message(&body, schema, schema.name(), 0).expect("a schema"));
            let (said, meant) = (of(name, said), of(name, meant));
            assert_eq!(read, said);
            for (mut way, meant) in
                [(read, &meant), (said.clone(), &meant), (of("items", said), &of("items", meant.clone()))]
            {
                schema.normalize(&mut way);
                assert_eq!(way, *meant);
            }
        }
    }

    #[test]
    fn objects_read_as_their_json() {
        let metadata = field(
            1,
            &[field(1, b"one"), field(8, &[]), field(11, &[field(1, b"l"), field(2, b"v")].concat())].concat(),
        );
        let data = field(2, &[field(1, b"k"), field(2, b"v")].concat());
        let body = envelope("v1", "ConfigMap", &[metadata, data, vec![4 << 3, 1], vec![0x7a, 0]].concat());
        assert_eq!(
            parse(&body).expect("protobuf"),
            json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"k": "v"}, "immutable": true,
                   "metadata": {"name": "one", "creationTimestamp": null, "labels": {"l": "v"}}})
        );
        // A volume's source is a message of its own whose fields stand beside the name.
        let volume = [field(1, b"v"), field(2, &field(2, &field(1, b"Memory")))].concat();
        let probe = field(
            10,
            &[field(1, &field(2, &field(2, &[vec![8, 1], field(3, b"web")].concat()))), vec![2 << 3, 5]].concat(),
        );
        let limits = field(8, &field(1, &[field(1, b"cpu"), field(2, &field(1, b"100m"))].concat()));
        let container = [field(1, b"a"), probe, limits].concat();
        let spec = [field(1, &volume), field(2, &container)].concat();
        assert_eq!(
            parse(&envelope("v1", "Pod", &field(2, &spec))).expect("protobuf")["spec"],
            json!({"volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}], "containers": [{
                "name": "a", "livenessProbe": {"httpGet": {"port": "web"}, "initialDelaySeconds": 5}, "resources": {"limits": {"cpu": "100m"}}}]})
        );
    }

    #[test]
    fn malformed_bodies_are_errors() {
        for body in [
            &b"{}"[..],
            b"",
            b"k8s\0\x0a\xff",
            &envelope("v1", "ConfigMap", &[0x0a, 0x7f]),
            &envelope("v1", "ConfigMap", &[0x0b]),
        ] {
            assert!(parse(body).is_err(), "{body:?}");
        }
        assert_eq!(parse(&envelope("x/v1", "Y", &[])), Ok(json!({"apiVersion": "x/v1", "kind": "Y"})));
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..120), kind in "(Pod|ConfigMap|Node|Event)") {
            let _ = parse(&bytes);
            let _ = parse(&envelope("v1", &kind, &bytes));
        }
    }
}
