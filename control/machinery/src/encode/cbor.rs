//! CBOR (RFC 8949) as upstream writes it: deterministic (shortest heads, keys in bytewise order, floats as short as they
//! stay exact), strings as byte strings, binary data under tag 22, all under the tag of self-described CBOR.
//! KEP-4222; upstream's `serializer/cbor`.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Number, Value};

use crate::{
    decode::half,
    schema::{Schema, Type},
};

/// Tag 55799: what follows is CBOR.
const SELF_DESCRIBED: &[u8] = &[0xd9, 0xd9, 0xf7];
/// Tag 22: shown in base64 where bytes have no place.
const LATER_BASE64: u64 = 22;

/// An object of a type, or of none that is known.
#[must_use]
pub fn object(value: &Value, schema: Option<&Schema>) -> Vec<u8> {
    let mut out = SELF_DESCRIBED.to_vec();
    item(&mut out, value, &schema.map_or(Type::Any, |schema| Type::Struct(schema.clone())));
    out
}

/// A list whose `items` are of a type.
#[must_use]
pub fn list(value: &Value, schema: &Schema) -> Vec<u8> {
    let (mut out, empty) = (SELF_DESCRIBED.to_vec(), Map::new());
    let items = Type::List(Box::new(Type::Struct(schema.clone())));
    let ty = |key: &str| if key == "items" { &items } else { &Type::Any };
    fields(&mut out, value.as_object().unwrap_or(&empty), ty);
    out
}

/// A watch event about an encoded object.
#[must_use]
pub fn event(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut out = SELF_DESCRIBED.to_vec();
    head(&mut out, 5, 2);
    string(&mut out, b"type");
    string(&mut out, kind.as_bytes());
    string(&mut out, b"object");
    out.extend_from_slice(object);
    out
}

/// Major type and argument.
fn head(out: &mut Vec<u8>, major: u8, argument: u64) {
    let bytes = argument.to_be_bytes();
    let (info, used) = match argument {
        0..24 => (bytes[7], 0),
        24..0x100 => (24, 1),
        0x100..0x1_0000 => (25, 2),
        0x1_0000..0x1_0000_0000 => (26, 4),
        _ => (27, 8),
    };
    out.push(major << 5 | info);
    out.extend_from_slice(&bytes[8 - used..]);
}

fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    head(out, 2, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Keys are in the order of their encoded bytes: shorter ones first.
fn fields<'t>(out: &mut Vec<u8>, map: &Map<String, Value>, ty: impl Fn(&str) -> &'t Type) {
    let mut sorted: Vec<(&String, &Value)> = map.iter().collect();
    sorted.sort_by(|(a, _), (b, _)| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
    head(out, 5, sorted.len() as u64);
    for (key, value) in sorted {
        string(out, key.as_bytes());
        item(out, value, ty(key));
    }
}

fn item(out: &mut Vec<u8>, value: &Value, ty: &Type) {
    match (value, ty) {
        (Value::Null, _) => out.push(0xf6),
        (Value::Bool(set), _) => out.push(0xf4 + u8::from(*set)),
        (Value::Number(number), Type::Float) => float(out, number.as_f64().unwrap_or_default()),
        (Value::Number(number), _) => integer(out, number),
        (Value::String(text), Type::Bytes) => match STANDARD.decode(text) {
            Ok(bytes) => {
                head(out, 6, LATER_BASE64);
                string(out, &bytes);
            }
            Err(_) => string(out, text.as_bytes()),
        },
        (Value::String(text), _) => string(out, text.as_bytes()),
        (Value::Array(items), ty) => {
            let of = if let Type::List(of) = ty { of } else { &Type::Any };
            head(out, 4, items.len() as u64);
            items.iter().for_each(|value| item(out, value, of));
        }
        (Value::Object(map), Type::Struct(schema)) => {
            fields(out, map, |key| schema.field(key).map_or(&Type::Any, |field| &field.ty));
        }
        (Value::Object(map), Type::Map(of)) => fields(out, map, |_| &**of),
        (Value::Object(map), _) => fields(out, map, |_| &Type::Any),
    }
}

fn integer(out: &mut Vec<u8>, number: &Number) {
    match (number.as_u64(), number.as_i64()) {
        (Some(value), _) => head(out, 0, value),
        (None, Some(value)) => head(out, 1, !value.cast_unsigned()),
        (None, None) => float(out, number.as_f64().unwrap_or_default()),
    }
}

/// As short as it stays exact.
fn float(out: &mut Vec<u8>, value: f64) {
    let single = value as f32;
    if f64::from(single) != value {
        out.push(0xfb);
        out.extend_from_slice(&value.to_be_bytes());
    } else if let Some(bits) = half_of(single).filter(|bits| half(*bits) == value) {
        out.push(0xf9);
        out.extend_from_slice(&bits.to_be_bytes());
    } else {
        out.push(0xfa);
        out.extend_from_slice(&single.to_be_bytes());
    }
}

/// What is left of a float in 16 bits; `None` beyond their range.
fn half_of(value: f32) -> Option<u16> {
    let bits = value.to_bits();
    let sign = (bits >> 16 & 0x8000) as u16;
    let (exponent, mantissa) = ((bits >> 23 & 255) as i32 - 127, bits & 0x7f_ffff);
    match exponent {
        -127 => Some(sign),
        -14..=15 => Some(sign | ((exponent + 15) as u16) << 10 | (mantissa >> 13) as u16),
        -24..=-15 => Some(sign | ((mantissa | 0x80_0000) >> (-1 - exponent)) as u16),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::{decode::decode_cbor, schema};

    #[test]
    fn items_have_upstreams_bytes() {
        for (value, bytes) in [
            (json!({"b": 1, "aa": "x"}), &b"\xa2Ab\x01BaaAx"[..]),
            (json!([-1, 24, 1.5, 1.0, 0.1, 65536.0, 5.960_464_477_539_063e-8]),
             b"\x87\x20\x18\x18\xf9\x3e\x00\xf9\x3c\x00\xfb\x3f\xb9\x99\x99\x99\x99\x99\x9a\xfa\x47\x80\x00\x00\xf9\x00\x01"),
            (json!([null, true, u64::MAX]), b"\x83\xf6\xf5\x1b\xff\xff\xff\xff\xff\xff\xff\xff"),
        ] {
            assert_eq!(object(&value, None), [SELF_DESCRIBED, bytes].concat(), "{value}");
        }
        let secret = json!({"data": {"k": "AAEC"}});
        let expected = [SELF_DESCRIBED, b"\xa1Ddata\xa1Ak\xd6C\x00\x01\x02"].concat();
        assert_eq!(object(&secret, schema::get("io.k8s.api.core.v1.Secret")), expected);
        assert_eq!(event("ADDED", &object(&json!(1), None)), b"\xd9\xd9\xf7\xa2DtypeEADDEDFobject\xd9\xd9\xf7\x01");
    }

    #[test]
    fn lists_know_the_type_of_their_items() {
        let secrets = json!({"kind": "SecretList", "items": [{"data": {"k": "AAEC"}}]});
        let bytes = list(&secrets, &schema::known("io.k8s.api.core.v1.Secret"));
        assert_eq!(decode_cbor(&bytes).map(|decoded| decoded.value), Ok(secrets));
        assert!(bytes.windows(5).any(|part| part == b"\xd6C\x00\x01\x02"));
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_filter_map("finite", |f| Number::from_f64(f).map(Value::Number)),
            any::<f32>().prop_filter_map("finite", |f| Number::from_f64(f.into()).map(Value::Number)),
            (0u16..0x7c00).prop_filter_map("finite", |bits| Number::from_f64(half(bits)).map(Value::Number)),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::btree_map("[a-z]{0,30}", inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(value in value()) {
            prop_assert_eq!(decode_cbor(&object(&value, None)).map(|decoded| decoded.value), Ok(value));
        }
    }
}
