//! Semantic versions, as `blang/semver` takes them.

use std::cmp::Ordering;
use std::sync::Arc;

use super::extension::Extension;
use super::go::quote;
use super::table::{Row, row};
use crate::value::{EvalError, NO_OVERLOAD, Res, Value, failure};

/// A version. What it was built of plays no part in its order.
#[derive(Clone, Debug)]
pub struct Semver {
    pub numbers: [u64; 3],
    pub pre: Vec<Pre>,
}

/// A part of a pre-release. Numbers come first.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Pre {
    Number(u64),
    Text(String),
}

impl Semver {
    pub(crate) fn order(&self, other: &Self) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => self.pre.cmp(&other.pre),
        })
    }
}

const TEST: &str = "semver.(semver) -> bool";

pub(crate) static ROWS: &[Row] = &[
    row(33, "semver", "string_to_semver", "(string) -> semver", make),
    row(33, "semver", "string_bool_to_semver", "(string, bool) -> semver", make),
    row(33, "isSemver", "is_semver_string", "(string) -> bool", |args| Ok(Value::Bool(read(args)?.is_ok()))),
    row(33, "isSemver", "is_semver_string_bool", "(string, bool) -> bool", |args| Ok(Value::Bool(read(args)?.is_ok()))),
    row(33, "isGreaterThan", "semver_is_greater_than", TEST, |args| Ok(Value::Bool(order(args)?.is_gt()))),
    row(33, "isLessThan", "semver_is_less_than", TEST, |args| Ok(Value::Bool(order(args)?.is_lt()))),
    row(33, "compareTo", "semver_compare_to", "semver.(semver) -> int", |args| Ok(Value::Int(order(args)? as i64))),
    row(33, "major", "semver_major", "semver.() -> int", |args| number(args, 0)),
    row(33, "minor", "semver_minor", "semver.() -> int", |args| number(args, 1)),
    row(33, "patch", "semver_patch", "semver.() -> int", |args| number(args, 2)),
];

fn version<'v>(args: &'v [Value<'_>], at: usize) -> Result<&'v Semver, EvalError> {
    match args.get(at) {
        Some(Value::Extension(Extension::Semver(version))) => Ok(version),
        _ => Err(NO_OVERLOAD),
    }
}

fn order(args: &[Value<'_>]) -> Result<Ordering, EvalError> {
    Ok(version(args, 0)?.order(version(args, 1)?))
}

fn number<'a>(args: &[Value<'a>], at: usize) -> Res<'a> {
    Ok(Value::Int(version(args, 0)?.numbers[at] as i64))
}

fn read(args: &[Value<'_>]) -> Result<Result<Semver, String>, EvalError> {
    let text = args[0].as_str().ok_or(NO_OVERLOAD)?;
    match args.get(1) {
        Some(Value::Bool(true)) => Ok(normalized(text).and_then(|text| parse(&text))),
        Some(Value::Bool(false)) | None => Ok(parse(text)),
        Some(_) => Err(NO_OVERLOAD),
    }
}

fn make<'a>(args: &[Value<'a>]) -> Res<'a> {
    let version = read(args)?.map_err(failure)?;
    Ok(Value::Extension(Extension::Semver(Arc::new(version))))
}

/// Without `v` and leading zeros, with all three numbers.
fn normalized(text: &str) -> Result<String, String> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let mut parts: Vec<String> = text.splitn(3, '.').map(str::to_owned).collect();
    for part in parts.iter_mut().filter(|part| part.len() > 1) {
        let stripped = part.trim_start_matches('0');
        let digit = stripped.starts_with(|c: char| c.is_ascii_digit());
        *part = if digit { stripped.to_owned() } else { format!("0{stripped}") };
    }
    if parts.len() < 3 && parts.last().is_some_and(|last| last.contains(['+', '-'])) {
        return Err("short version cannot contain PreRelease/Build meta data".to_owned());
    }
    parts.resize(3, "0".to_owned());
    Ok(parts.join("."))
}

fn parse(text: &str) -> Result<Semver, String> {
    if text.is_empty() {
        return Err("Version string empty".to_owned());
    }
    let mut parts = text.splitn(3, '.');
    let (Some(major), Some(minor), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
        return Err("No Major.Minor.Patch elements found".to_owned());
    };
    let (major, minor) = (whole(major, "major", "Major")?, whole(minor, "minor", "Minor")?);
    let (rest, build) = rest.split_once('+').map_or((rest, None), |(rest, build)| (rest, Some(build)));
    let (patch, pre) = rest.split_once('-').map_or((rest, None), |(patch, pre)| (patch, Some(pre)));
    let patch = whole(patch, "patch", "Patch")?;
    let pre = pre.map_or(Ok(Vec::new()), |pre| pre.split('.').map(pre_part).collect::<Result<_, _>>())?;
    for part in build.into_iter().flat_map(|build| build.split('.')) {
        if part.is_empty() {
            return Err("Build meta data is empty".to_owned());
        }
        if !word(part) {
            return Err(format!("Invalid character(s) found in build meta data {}", quote(part)));
        }
    }
    Ok(Semver { numbers: [major, minor, patch], pre })
}

fn word(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn digits(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}

fn number_of(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| {
        let why = if text.is_empty() { "invalid syntax" } else { "value out of range" };
        format!("strconv.ParseUint: parsing {}: {why}", quote(text))
    })
}

fn whole(text: &str, name: &str, title: &str) -> Result<u64, String> {
    if !digits(text) {
        return Err(format!("Invalid character(s) found in {name} number {}", quote(text)));
    }
    if text.len() > 1 && text.starts_with('0') {
        return Err(format!("{title} number must not contain leading zeroes {}", quote(text)));
    }
    number_of(text)
}

fn pre_part(text: &str) -> Result<Pre, String> {
    if text.is_empty() {
        return Err("Prerelease is empty".to_owned());
    }
    if digits(text) {
        if text.len() > 1 && text.starts_with('0') {
            return Err(format!("Numeric PreRelease version must not contain leading zeroes {}", quote(text)));
        }
        return number_of(text).map(Pre::Number);
    }
    if word(text) {
        return Ok(Pre::Text(text.to_owned()));
    }
    Err(format!("Invalid character(s) found in prerelease {}", quote(text)))
}
