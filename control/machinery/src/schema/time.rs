//! Times as upstream reads and prints them: RFC 3339 in, UTC with whole seconds or with exactly six
//! decimals out.

use jiff::{Timestamp, tz::TimeZone};

/// The canonical form of a `Time`.
///
/// # Errors
/// Upstream's sentence when the text is not RFC 3339.
pub fn seconds(text: &str) -> Result<String, String> {
    let time = parse(text).ok_or_else(|| refusal(text, "2006-01-02T15:04:05Z07:00"))?;
    Ok(time.to_zoned(TimeZone::UTC).strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// The canonical form of a `MicroTime`.
///
/// # Errors
/// Upstream's sentence when the text is not RFC 3339 with exactly six decimals.
pub fn micros(text: &str) -> Result<String, String> {
    let wrong = || refusal(text, "2006-01-02T15:04:05.000000Z07:00");
    let fraction = text.as_bytes().get(19..).unwrap_or_default();
    let digits = fraction.iter().skip(1).take_while(|byte| byte.is_ascii_digit()).count();
    if fraction.first() != Some(&b'.') || digits != 6 {
        return Err(wrong());
    }
    Ok(print_micros(parse(text).ok_or_else(wrong)?))
}

/// A time as a `Time` prints it.
#[must_use]
pub fn print_seconds(time: Timestamp) -> String {
    time.to_zoned(TimeZone::UTC).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A time as a `MicroTime` prints it.
#[must_use]
pub fn print_micros(time: Timestamp) -> String {
    time.to_zoned(TimeZone::UTC).strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

fn refusal(text: &str, layout: &str) -> String {
    let quoted = crate::field_error::quote(text);
    format!("parsing time {quoted} as {layout:?}: cannot parse {quoted} as \"2006\"")
}

/// RFC 3339 and nothing looser: jiff alone would take more.
#[must_use]
pub fn parse(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let shape = b"dddd-dd-ddTdd:dd:dd";
    let fits = |part: &[u8], shape: &[u8]| {
        part.len() == shape.len()
            && part
                .iter()
                .zip(shape)
                .all(|(byte, want)| if *want == b'd' { byte.is_ascii_digit() } else { byte == want })
    };
    if bytes.len() < shape.len() || !fits(&bytes[..shape.len()], shape) {
        return None;
    }
    let mut rest = &bytes[shape.len()..];
    if let [b'.', fraction @ ..] = rest {
        let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 || digits > 9 {
            return None;
        }
        rest = &fraction[digits..];
    }
    let zoned = rest == b"Z" || fits(rest, b"+dd:dd") || fits(rest, b"-dd:dd");
    // A leap second is no time for Go; jiff would round it.
    if !zoned || &bytes[17..19] == b"60" { None } else { text.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rfc_3339_is_a_time() {
        for (text, seconds_form) in [
            ("2001-02-03T04:05:06Z", Some("2001-02-03T04:05:06Z")),
            ("2001-02-03T04:05:06.999999999Z", Some("2001-02-03T04:05:06Z")),
            ("2001-02-03T04:05:06-01:30", Some("2001-02-03T05:35:06Z")),
            ("0001-01-01T00:00:00Z", Some("0001-01-01T00:00:00Z")),
            ("2001-02-03", None),
            ("2001-02-03 04:05:06Z", None),
            ("2001-02-03t04:05:06z", None),
            ("2001-02-30T04:05:06Z", None),
            ("2001-02-03T04:05:60Z", None),
            ("", None),
            ("é", None),
            ("2001-02-03T04:05:06.Z", None),
        ] {
            assert_eq!(seconds(text).ok().as_deref(), seconds_form, "{text}");
        }
        assert_eq!(micros("2001-02-03T04:05:06.000007+01:00").as_deref(), Ok("2001-02-03T03:05:06.000007Z"));
        for text in ["2001-02-03T04:05:06Z", "2001-02-03T04:05:06.1Z", "2001-02-03T04:05:06.0000001Z"] {
            assert!(micros(text).is_err(), "{text}");
        }
    }
}
