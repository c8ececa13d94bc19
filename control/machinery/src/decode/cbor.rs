//! CBOR (RFC 8949) as upstream's decoder takes it: strings as texts or bytes, bytes that are to be shown in base64, base64url
//! or hex under the tags 22, 21 and 23, times under the tags 0 and 1, other tags passed over; no NaN, no infinity, no
//! big integers, no simple values but false, true and null, no key twice.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Map, Number, Value};

use super::{DecodeError, MAX_DEPTH};
use crate::schema::time;

/// What is known of a length beforehand is not believed beyond this: bodies may lie.
const BELIEVED: usize = 1024;
const BREAK: u8 = 0xff;

/// Reads the one data item of a body.
pub(super) fn parse(body: &[u8]) -> Result<Value, DecodeError> {
    let mut reader = Reader { rest: body };
    let value = reader.item(0)?;
    if reader.rest.is_empty() { Ok(value) } else { fail(&format!("{} bytes of extraneous data", reader.rest.len())) }
}

fn fail<T>(what: &str) -> Result<T, DecodeError> {
    Err(DecodeError::new(format!("cbor: {what}")))
}

struct Reader<'a> {
    rest: &'a [u8],
}

/// Major type, additional information, argument. A length without end has no argument.
struct Head {
    major: u8,
    info: u8,
    argument: Option<u64>,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let Some((head, tail)) = self.rest.split_at_checked(count) else { return fail("unexpected EOF") };
        self.rest = tail;
        Ok(head)
    }

    fn head(&mut self) -> Result<Head, DecodeError> {
        let first = self.take(1)?[0];
        let (major, info) = (first >> 5, first & 31);
        let argument = match info {
            0..24 => Some(u64::from(info)),
            24..28 => {
                let bytes = self.take(1 << (info - 24))?;
                Some(bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
            }
            31 if (2..=5).contains(&major) => None,
            _ => return fail("invalid additional information"),
        };
        Ok(Head { major, info, argument })
    }

    fn item(&mut self, depth: usize) -> Result<Value, DecodeError> {
        if depth > MAX_DEPTH {
            return fail("exceeded max nested level");
        }
        let head = self.head()?;
        match head.major {
            0 | 1 => integer(head.major, head.argument.unwrap_or_default()),
            2 => Ok(String::from_utf8_lossy(&self.string(&head)?).into_owned().into()),
            3 => match String::from_utf8(self.string(&head)?) {
                Ok(text) => Ok(text.into()),
                Err(_) => fail("invalid UTF-8 string"),
            },
            4 => self.array(head.argument, depth),
            5 => self.map(head.argument, depth),
            6 => self.tagged(head.argument.unwrap_or_default(), depth),
            _ => simple(&head),
        }
    }

    /// The bytes of a string, which may come in pieces of its own type.
    fn string(&mut self, head: &Head) -> Result<Vec<u8>, DecodeError> {
        if let Some(length) = head.argument {
            return Ok(self.take(usize::try_from(length).unwrap_or(usize::MAX))?.to_vec());
        }
        let mut out = Vec::new();
        while !self.ended()? {
            let piece = self.head()?;
            match piece.argument {
                Some(length) if piece.major == head.major => {
                    let bytes = self.take(usize::try_from(length).unwrap_or(usize::MAX))?;
                    if head.major == 3 && std::str::from_utf8(bytes).is_err() {
                        return fail("invalid UTF-8 string");
                    }
                    out.extend_from_slice(bytes);
                }
                _ => return fail("wrong element type for indefinite-length string"),
            }
        }
        Ok(out)
    }

    /// Passes over the end of what has no length of its own.
    fn ended(&mut self) -> Result<bool, DecodeError> {
        match self.rest.first() {
            Some(&BREAK) => self.take(1).map(|_| true),
            Some(_) => Ok(false),
            None => fail("unexpected EOF"),
        }
    }

    /// Whether another item follows in a container of which `left` are to come.
    fn another(&mut self, left: &mut Option<u64>) -> Result<bool, DecodeError> {
        match left {
            None => Ok(!self.ended()?),
            Some(0) => Ok(false),
            Some(left) => {
                *left -= 1;
                Ok(true)
            }
        }
    }

    fn array(&mut self, mut left: Option<u64>, depth: usize) -> Result<Value, DecodeError> {
        let believed = usize::try_from(left.unwrap_or_default()).map_or(BELIEVED, |length| length.min(BELIEVED));
        let mut items = Vec::with_capacity(believed.min(self.rest.len()));
        while self.another(&mut left)? {
            items.push(self.item(depth + 1)?);
        }
        Ok(Value::Array(items))
    }

    fn map(&mut self, mut left: Option<u64>, depth: usize) -> Result<Value, DecodeError> {
        let mut fields = Map::new();
        while self.another(&mut left)? {
            let head = self.head()?;
            if head.major != 2 && head.major != 3 {
                return fail("a map key is not a string");
            }
            let Ok(key) = String::from_utf8(self.string(&head)?) else { return fail("invalid UTF-8 string") };
            let value = self.item(depth + 1)?;
            if let Some(before) = fields.insert(key, value) {
                drop(before);
                return fail("found duplicate map key");
            }
        }
        Ok(Value::Object(fields))
    }

    fn tagged(&mut self, tag: u64, depth: usize) -> Result<Value, DecodeError> {
        match tag {
            0 => match self.item(depth + 1)? {
                Value::String(text) if time::unix(&text).is_some() => Ok(text.into()),
                _ => fail("cannot decode tag 0 as a time"),
            },
            1 => epoch(&self.item(depth + 1)?),
            2 | 3 => fail("bignums are not supported"),
            21..=23 => {
                let head = self.head()?;
                if head.major != 2 {
                    return fail("an expected later encoding is for byte strings");
                }
                let bytes = self.string(&head)?;
                Ok(match tag {
                    21 => URL_SAFE_NO_PAD.encode(bytes),
                    22 => STANDARD.encode(bytes),
                    _ => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
                }
                .into())
            }
            _ => self.item(depth + 1),
        }
    }
}

fn integer(major: u8, argument: u64) -> Result<Value, DecodeError> {
    match i64::try_from(argument) {
        Ok(value) if major == 0 => Ok(value.into()),
        Ok(value) => Ok((-1 - value).into()),
        Err(_) => fail("an integer overflows 64 bits"),
    }
}

/// Seconds since 1970.
fn epoch(value: &Value) -> Result<Value, DecodeError> {
    let (seconds, micros) = match value.as_i64() {
        Some(seconds) => (seconds, None),
        None => {
            let Some(float) = value.as_f64() else { return fail("cannot decode tag 1 as a time") };
            let micros = (float.rem_euclid(1.0) * 1e6) as u32;
            (float.floor() as i64, (micros > 0).then_some(micros))
        }
    };
    time::print_unix(seconds, micros).map_or_else(|| fail("a time is out of range"), |text| Ok(text.into()))
}

fn simple(head: &Head) -> Result<Value, DecodeError> {
    let argument = head.argument.unwrap_or_default();
    let float = match head.info {
        20 => return Ok(false.into()),
        21 => return Ok(true.into()),
        22 => return Ok(Value::Null),
        25 => half(argument as u16),
        26 => f64::from(f32::from_bits(argument as u32)),
        27 => f64::from_bits(argument),
        _ => return fail("a simple value is neither false, true nor null"),
    };
    Number::from_f64(float).map_or_else(|| fail("a float is not a finite number"), |number| Ok(number.into()))
}

/// A float of 16 bits.
pub(crate) fn half(bits: u16) -> f64 {
    let (exponent, mantissa) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    let value = match exponent {
        0 => mantissa * f64::powi(2.0, -24),
        31 if mantissa == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (mantissa + 1024.0) * f64::powi(2.0, exponent - 25),
    };
    if bits >> 15 == 1 { -value } else { value }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    /// RFC 8949, appendix A, where JSON has such a value, and upstream's decoder takes it.
    #[test]
    fn the_examples_of_the_rfc() {
        for (item, value) in [
            ("00", json!(0)),
            ("1818", json!(24)),
            ("1b000000e8d4a51000", json!(1_000_000_000_000i64)),
            ("3903e7", json!(-1000)),
            ("f90001", json!(5.960_464_477_539_063e-8)),
            ("f93c00", json!(1.0)),
            ("f97bff", json!(65504.0)),
            ("fa47c35000", json!(100_000.0)),
            ("fbc010666666666666", json!(-4.1)),
            ("f4", json!(false)),
            ("f6", json!(null)),
            ("c074323031332d30332d32315432303a30343a30305a", json!("2013-03-21T20:04:00Z")),
            ("c11a514b67b0", json!("2013-03-21T20:04:00Z")),
            ("c1fb41d452d9ec200000", json!("2013-03-21T20:04:00.500000Z")),
            ("d74401020304", json!("01020304")),
            ("d64401020304", json!("AQIDBA==")),
            ("d818456449455446", json!("dIETF")),
            ("4401020304", json!("\u{1}\u{2}\u{3}\u{4}")),
            ("62c3bc", json!("ü")),
            ("826161a161626163", json!(["a", {"b": "c"}])),
            ("9f018202039f0405ffff", json!([1, [2, 3], [4, 5]])),
            ("bf61610161629f0203ffff", json!({"a": 1, "b": [2, 3]})),
            ("7f657374726561646d696e67ff", json!("streaming")),
            ("d9d9f7a1416101", json!({"a": 1})),
        ] {
            assert_eq!(parse(&hex(item)), Ok(value), "{item}");
        }
    }

    #[test]
    fn what_json_cannot_hold_is_refused() {
        for item in [
            "",
            "1bffffffffffffffff",
            "c249010000000000000000",
            "3bffffffffffffffff",
            "f97e00",
            "f97c00",
            "f7",
            "f0",
            "f8ff",
            "a10102",
            "a2616101616102",
            "0000",
            "62c328",
            "ff",
            "9f",
            "5f6161ff",
            "1c",
            "c000",
            "d66161",
            "fc",
            "9bffffffffffffffff",
            "5bffffffffffffffff",
            "a141ff01",
        ] {
            assert!(parse(&hex(item)).is_err(), "{item}");
        }
        for opening in [[0x81u8], [0x9f], [0xc6]] {
            assert!(parse(&opening.repeat(1_000_000)).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
