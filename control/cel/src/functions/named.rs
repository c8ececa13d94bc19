//! Formats by name, and what they refuse.

use base64::Engine as _;

use super::extension::Extension;
use super::re2;
use super::table::{Row, row};
use super::{time, url};
use crate::value::{NO_OVERLOAD, Res, Value};

/// A format of texts.
pub struct Format {
    pub(crate) name: &'static str,
    /// Upstream's name of it, by which formats compare.
    pub(crate) title: &'static str,
    /// What its pattern counts in costs.
    pub(crate) pattern_size: u64,
    check: fn(&str) -> Vec<String>,
}

static FORMATS: [Format; 13] = [
    Format { name: "dns1123Label", title: "DNS1123Label", pattern_size: 30, check: label },
    Format { name: "dns1123Subdomain", title: "DNS1123Subdomain", pattern_size: 60, check: subdomain },
    Format { name: "dns1035Label", title: "DNS1035Label", pattern_size: 30, check: label_1035 },
    Format { name: "qualifiedName", title: "QualifiedName", pattern_size: 60, check: label_key },
    Format {
        name: "dns1123LabelPrefix",
        title: "DNS1123LabelPrefix",
        pattern_size: 30,
        check: |text| label(&masked(text)),
    },
    Format {
        name: "dns1123SubdomainPrefix",
        title: "DNS1123SubdomainPrefix",
        pattern_size: 60,
        check: |text| subdomain(&masked(text)),
    },
    Format {
        name: "dns1035LabelPrefix",
        title: "DNS1035LabelPrefix",
        pattern_size: 30,
        check: |text| label_1035(&masked(text)),
    },
    Format { name: "labelValue", title: "LabelValue", pattern_size: 40, check: label_value },
    Format {
        name: "uri",
        title: "URI",
        pattern_size: 1103,
        check: |text| url::parse(text, true).err().into_iter().collect(),
    },
    Format {
        name: "uuid",
        title: "uuid",
        pattern_size: 70,
        check: |text| refuse(is_uuid(text), "does not match the UUID format"),
    },
    Format {
        name: "byte",
        title: "byte",
        pattern_size: 84,
        check: |text| {
            let decoded = base64::engine::general_purpose::STANDARD.decode(text);
            refuse(!text.is_empty() && decoded.is_ok(), "invalid base64")
        },
    },
    Format {
        name: "date",
        title: "date",
        pattern_size: DATE_TIME,
        check: |text| refuse(time::date(text).is_some(), "invalid date"),
    },
    Format {
        name: "datetime",
        title: "datetime",
        pattern_size: DATE_TIME,
        check: |text| refuse(is_date_time(text), "invalid datetime"),
    },
];

/// The length of upstream's pattern.
const DATE_TIME: u64 = 71;

pub(crate) static ROWS: &[Row] = &[
    row(31, "validate", "format-validate", "format.(string) -> opt(list(string))", |args| {
        let (Value::Extension(Extension::Format(format)), Value::String(text)) = (&args[0], &args[1]) else {
            return Err(NO_OVERLOAD);
        };
        let refused = (format.check)(text);
        Ok(if refused.is_empty() { Value::Optional(None) } else { Value::texts(refused).some() })
    }),
    row(31, "format.named", "format-named", "(string) -> opt(format)", |args| {
        let name = args[0].as_str().ok_or(NO_OVERLOAD)?;
        Ok(FORMATS
            .iter()
            .find(|format| format.name == name)
            .map_or(Value::Optional(None), |format| Value::Extension(Extension::Format(format)).some()))
    }),
    row(31, "format.dns1123Label", "format.dns1123Label", MAKE, |_| named(0)),
    row(31, "format.dns1123Subdomain", "format.dns1123Subdomain", MAKE, |_| named(1)),
    row(31, "format.dns1035Label", "format.dns1035Label", MAKE, |_| named(2)),
    row(31, "format.qualifiedName", "format.qualifiedName", MAKE, |_| named(3)),
    row(31, "format.dns1123LabelPrefix", "format.dns1123LabelPrefix", MAKE, |_| named(4)),
    row(31, "format.dns1123SubdomainPrefix", "format.dns1123SubdomainPrefix", MAKE, |_| named(5)),
    row(31, "format.dns1035LabelPrefix", "format.dns1035LabelPrefix", MAKE, |_| named(6)),
    row(31, "format.labelValue", "format.labelValue", MAKE, |_| named(7)),
    row(31, "format.uri", "format.uri", MAKE, |_| named(8)),
    row(31, "format.uuid", "format.uuid", MAKE, |_| named(9)),
    row(31, "format.byte", "format.byte", MAKE, |_| named(10)),
    row(31, "format.date", "format.date", MAKE, |_| named(11)),
    row(31, "format.datetime", "format.datetime", MAKE, |_| named(12)),
];

const MAKE: &str = "() -> format";

fn named<'a>(at: usize) -> Res<'a> {
    Ok(Value::Extension(Extension::Format(&FORMATS[at])))
}

fn refuse(good: bool, why: &str) -> Vec<String> {
    if good { Vec::new() } else { vec![why.to_owned()] }
}

/// A prefix of a name may end in a dash.
fn masked(text: &str) -> String {
    match text.strip_suffix('-') {
        Some(start) if !start.is_empty() => format!("{}a", &start[..start.len() - 1]),
        _ => text.to_owned(),
    }
}

fn wrong(message: &str, pattern: &str, examples: &[&str]) -> String {
    let examples: Vec<String> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{pattern}')", examples.join(" or "))
}

fn too_long(most: usize) -> String {
    format!("must be no more than {most} bytes")
}

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const KEY: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const KEY_MESSAGE: &str =
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

fn dashed(text: &str, first: fn(u8) -> bool) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(|b| first(*b))
        && bytes.last().is_some_and(|b| alphanumeric(*b))
        && bytes.iter().all(|b| alphanumeric(*b) || *b == b'-')
}

fn is_label(text: &str) -> bool {
    dashed(text, |b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

fn label(text: &str) -> Vec<String> {
    let mut refused = Vec::new();
    if text.len() > 63 {
        refused.push(too_long(63));
    }
    if !is_label(text) {
        refused.push(if is_subdomain(text) {
            "must not contain dots".to_owned()
        } else {
            let message = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
            wrong(message, LABEL, &["my-name", "123-abc"])
        });
    }
    refused
}

fn subdomain(text: &str) -> Vec<String> {
    let mut refused = Vec::new();
    if text.len() > 253 {
        refused.push(too_long(253));
    }
    if !is_subdomain(text) {
        let message = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
        refused.push(wrong(message, SUBDOMAIN, &["example.com"]));
    }
    refused
}

fn label_1035(text: &str) -> Vec<String> {
    let mut refused = Vec::new();
    if text.len() > 63 {
        refused.push(too_long(63));
    }
    if !dashed(text, |b| b.is_ascii_lowercase()) {
        let message = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character";
        refused.push(wrong(message, "[a-z]([-a-z0-9]*[a-z0-9])?", &["my-name", "abc-123"]));
    }
    refused
}

fn is_key(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

fn label_key(text: &str) -> Vec<String> {
    let key_wrong = || wrong(KEY_MESSAGE, KEY, &["MyName", "my.name", "123-abc"]);
    let mut refused = Vec::new();
    let parts: Vec<&str> = text.split('/').collect();
    let name = match parts.as_slice() {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                refused.push("prefix part must be non-empty".to_owned());
            } else {
                refused.extend(subdomain(prefix).into_iter().map(|why| format!("prefix part {why}")));
            }
            name
        }
        _ => {
            return vec![format!(
                "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                key_wrong()
            )];
        }
    };
    if name.is_empty() {
        refused.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        refused.push(format!("name part {}", too_long(63)));
    }
    if !is_key(name) {
        refused.push(format!("name part {}", key_wrong()));
    }
    refused
}

fn label_value(text: &str) -> Vec<String> {
    let mut refused = Vec::new();
    if text.len() > 63 {
        refused.push(too_long(63));
    }
    if !text.is_empty() && !is_key(text) {
        let message =
            format!("a valid label must be an empty string or {}", KEY_MESSAGE.replacen("must consist", "consist", 1));
        refused.push(wrong(&message, &format!("({KEY})?"), &["MyValue", "my_value", "12345"]));
    }
    refused
}

fn is_uuid(text: &str) -> bool {
    let pattern = "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$";
    re2::compile(pattern).is_ok_and(|pattern| pattern.is_match(text))
}

/// A date, `t`, and a time with a zone.
fn is_date_time(text: &str) -> bool {
    let lower = text.to_lowercase();
    let Some((date, clock)) = lower.split_once('t') else { return false };
    let pattern = "^([0-9]{2}):([0-9]{2}):([0-9]{2})(.[0-9]+)?(z|([+-][0-9]{2}:[0-9]{2}))$";
    let clock_fits = re2::compile(pattern).is_ok_and(|pattern| pattern.is_match(clock));
    let number = |at: usize| clock.get(at..at + 2).and_then(|digits| digits.parse::<u8>().ok()).unwrap_or(u8::MAX);
    time::date(date).is_some() && clock_fits && number(0) <= 23 && number(3) <= 59 && number(6) <= 59
}

/// Whether a text is a name as most kinds have them.
pub(crate) fn is_subdomain_name(text: &str) -> bool {
    subdomain(text).is_empty()
}

/// Whether a text is a name as namespaces have them.
pub(crate) fn is_label_name(text: &str) -> bool {
    label(text).is_empty()
}
