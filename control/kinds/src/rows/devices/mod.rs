//! `resource.k8s.io`: devices, who offers them and who asks for them (dynamic resource allocation).
//!
//! Deviation: expressions that select devices are not compiled yet.

mod claim;
mod class;
mod device;
mod slice;
mod taint_rule;

use serde_json::Value;

use crate::{
    Bad, FieldError, Path, ResourceDef, meta,
    rows::{
        value::{get, has, list, some, text, texts},
        vocab::{self, Errors},
    },
};

const GROUP: (&str, &str) = ("resource.k8s.io", "v1");

/// The rows.
#[must_use]
pub fn defs() -> [ResourceDef; 5] {
    [class::def(), taint_rule::def(), claim::def(), claim::template(), slice::def()]
}

/// The longest name of a driver, in bytes.
const MAX_DRIVER: usize = 63;
const MAX_SELECTORS: usize = 32;
const MAX_CONFIGS: usize = 32;
/// The longest expression, and the longest parameters, in bytes.
const MAX_TEXT: usize = 10 * 1024;
const MAX_IDENTIFIER: usize = 32;

fn check_driver(errs: &mut Errors, path: &Path, driver: &str) {
    if driver.is_empty() {
        errs.push(FieldError::required(path, ""));
        return;
    }
    if driver.len() > MAX_DRIVER {
        errs.push(FieldError::too_long(path, MAX_DRIVER));
    }
    vocab::invalid(errs, path, driver, vocab::subdomain_errors(&driver.to_lowercase()));
}

fn check_pool(errs: &mut Errors, path: &Path, pool: &str) {
    if pool.is_empty() {
        errs.push(FieldError::required(path, ""));
        return;
    }
    if pool.len() > 253 {
        errs.push(FieldError::too_long(path, 253));
    }
    pool.split('/').for_each(|part| vocab::subdomain(errs, path, part));
}

fn check_uid(errs: &mut Errors, path: &Path, uid: &str) {
    let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    let dashes = [8, 13, 18, 23];
    let shaped = |lower: &str| {
        lower.len() == 36
            && lower.bytes().enumerate().all(|(i, c)| if dashes.contains(&i) { c == b'-' } else { hex(c) })
    };
    if !shaped(&uid.to_lowercase()) {
        let why = if [32, 36, 38, 45].contains(&uid.len()) {
            "invalid UUID format".to_owned()
        } else {
            format!("invalid UUID length: {}", uid.len())
        };
        errs.push(FieldError::invalid(path, uid, format!("error validating uid: {why}")));
    } else if !shaped(uid) {
        let message = "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters";
        errs.push(FieldError::invalid(path, uid, message));
    }
}

fn check_identifier(errs: &mut Errors, path: &Path, id: &str) {
    if id.len() > MAX_IDENTIFIER {
        errs.push(FieldError::too_long(path, MAX_IDENTIFIER));
    }
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    if !id.bytes().next().is_some_and(|c| word(c) && !c.is_ascii_digit()) || !id.bytes().all(word) {
        let rule = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'";
        let why = meta::regex_rule(rule, "[A-Za-z_][A-Za-z0-9_]*", &["my_name", "MY_NAME", "MyName"]);
        errs.push(FieldError::invalid(path, id, why));
    }
}

/// The name of an attribute or capacity: an identifier, perhaps with a domain.
fn check_qualified(errs: &mut Errors, path: &Path, name: &str) {
    match name.split('/').collect::<Vec<_>>().as_slice() {
        [id] => check_identifier(errs, path, id),
        [domain, id] => {
            match *domain {
                "" => errs.push(FieldError::invalid(path, "", "the domain must not be empty")),
                domain => check_driver(errs, path, domain),
            }
            match *id {
                "" => errs.push(FieldError::invalid(path, "", "the name must not be empty")),
                id => check_identifier(errs, path, id),
            }
        }
        // Upstream lets more than one slash pass.
        _ => {}
    }
}

fn check_fully_qualified(errs: &mut Errors, path: &Path, name: &str) {
    check_qualified(errs, path, name);
    if !name.contains('/') {
        let message = "a fully qualified name must be a domain and a name separated by a slash";
        errs.push(FieldError::invalid(path, name, message));
    }
}

/// A list of no more than `max` items, each of which is judged.
fn check_each<'a, T: 'a>(
    errs: &mut Errors,
    path: &Path,
    items: &'a [T],
    max: usize,
    mut judge: impl FnMut(&mut Errors, &Path, &'a T),
) {
    if items.len() > max {
        errs.push(FieldError::too_many(path, items.len(), max));
        return;
    }
    for (i, item) in items.iter().enumerate() {
        judge(errs, &path.index(i), item);
    }
}

/// As [`check_each`], and no two items may have the same key.
fn check_set<'a, T: 'a>(
    errs: &mut Errors,
    path: &Path,
    items: &'a [T],
    max: usize,
    judge: impl FnMut(&mut Errors, &Path, &'a T),
    key: impl Fn(&'a T) -> String,
) {
    check_each(errs, path, items, max, judge);
    if items.len() > max {
        return;
    }
    let keys: Vec<String> = items.iter().map(key).collect();
    let again = keys.iter().enumerate().filter(|(i, key)| keys[..*i].contains(key));
    errs.extend(again.map(|(i, key)| FieldError::duplicate(path.index(i), key.as_str())));
}

/// `stored`: they are what they were.
fn check_selectors(errs: &mut Errors, path: &Path, selectors: &[Value], stored: bool) {
    check_each(errs, path, selectors, MAX_SELECTORS, |errs, path, selector| match some(selector, "cel") {
        None => errs.push(FieldError::required(path.child("cel"), "")),
        Some(cel) => {
            check_expression(errs, &path.child("cel").child("expression"), text(cel, "expression"), stored);
        }
    });
}

fn check_expression(errs: &mut Errors, path: &Path, expression: &str, stored: bool) {
    if stored {
        return;
    }
    if expression.len() > MAX_TEXT {
        errs.push(FieldError::too_long(path, MAX_TEXT));
    }
}

fn check_config(errs: &mut Errors, path: &Path, config: &Value, stored: bool) {
    let Some(opaque) = some(config, "opaque") else {
        errs.push(FieldError::required(path.child("opaque"), ""));
        return;
    };
    let path = path.child("opaque");
    check_driver(errs, &path.child("driver"), text(opaque, "driver"));
    check_object(errs, &path.child("parameters"), get(opaque, "parameters"), stored);
}

/// A free-form object that is not too long.
fn check_object(errs: &mut Errors, path: &Path, value: &Value, stored: bool) {
    match value {
        Value::Null => errs.push(FieldError::required(path, "")),
        value if !stored && value.to_string().len() > MAX_TEXT => errs.push(FieldError::too_long(path, MAX_TEXT)),
        Value::Object(_) => {}
        _ => errs.push(FieldError::invalid(path, "<value omitted>", "must be a valid JSON object")),
    }
}

const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "None"];

fn check_taint(errs: &mut Errors, path: &Path, taint: &Value, old: Option<&Value>) {
    vocab::qualified_name(errs, &path.child("key"), text(taint, "key"));
    let value = text(taint, "value");
    vocab::invalid(errs, &path.child("value"), value, vocab::label_value_errors(value));
    let effect = text(taint, "effect");
    if old.is_none_or(|old| text(old, "effect") != effect) {
        vocab::one_of(errs, &path.child("effect"), effect, EFFECTS);
    }
}

fn check_toleration(errs: &mut Errors, path: &Path, toleration: &Value) {
    let (key, value, effect) = (text(toleration, "key"), text(toleration, "value"), text(toleration, "effect"));
    if !key.is_empty() {
        vocab::qualified_name(errs, &path.child("key"), key);
    }
    match text(toleration, "operator") {
        "Exists" if !value.is_empty() => {
            errs.push(FieldError::invalid(path.child("value"), value, "must be empty for operator `Exists`"));
        }
        "Exists" => {}
        "Equal" => vocab::invalid(errs, &path.child("value"), value, vocab::label_value_errors(value)),
        other => vocab::one_of(errs, &path.child("operator"), other, &["Equal", "Exists"]),
    }
    if !effect.is_empty() {
        vocab::known_value(errs, &path.child("effect"), effect, EFFECTS);
    }
}

fn check_tolerations(errs: &mut Errors, path: &Path, owner: &Value) {
    for (i, toleration) in list(owner, "tolerations").iter().enumerate() {
        check_toleration(errs, &path.child("tolerations").index(i), toleration);
    }
}

/// Conditions that binding a pod waits for, and those that end the wait.
fn check_binding(errs: &mut Errors, path: &Path, owner: &Value) {
    const MAX: usize = 4;
    let fields = ["bindingConditions", "bindingFailureConditions"];
    let [wanted, failed] = fields.map(|field| texts(owner, field));
    let name = |errs: &mut Errors, path: &Path, name: &&str| vocab::qualified_name(errs, path, name);
    check_each(errs, &path.child(fields[0]), &wanted, MAX, name);
    check_each(errs, &path.child(fields[1]), &failed, MAX, name);
    for (i, condition) in wanted.iter().enumerate().filter(|(i, condition)| wanted[..*i].contains(condition)) {
        errs.push(FieldError::duplicate(path.child(fields[0]).index(i), *condition));
    }
    for (i, condition) in failed.iter().enumerate() {
        let path = path.child(fields[1]).index(i);
        if failed[..i].contains(condition) {
            errs.push(FieldError::duplicate(&path, *condition));
        }
        if wanted.contains(condition) {
            let message = "bindingFailureConditions must not overlap with bindingConditions";
            errs.push(FieldError::invalid(path, *condition, message));
        }
    }
    if wanted.is_empty() != failed.is_empty() {
        let (missing, there) = if wanted.is_empty() { (fields[0], fields[1]) } else { (fields[1], fields[0]) };
        errs.push(FieldError::invalid(
            path.child(missing),
            Value::Null,
            format!("{missing} are required to use {there}"),
        ));
    }
}

/// What of a node's part may be skipped.
fn check_skipped(errs: &mut Errors, path: &Path, owner: &Value) {
    let skipped = texts(owner, "skipNodeOperations");
    let has = |operation: &str| skipped.contains(&operation);
    if has("NodePrepareResources") && !has("NodeUnprepareResources") && !has("*") {
        let message = "NodePrepareResources cannot be skipped unless NodeUnprepareResources is also skipped";
        let shown = get(owner, "skipNodeOperations").clone();
        errs.push(FieldError::invalid(path.child("skipNodeOperations"), shown, message));
    }
}

/// The fields of which one is set, as messages show them: `` {`a`, `b`} ``.
fn shown(fields: &[&str]) -> Bad {
    let fields: Vec<String> = fields.iter().map(|field| format!("`{field}`")).collect();
    Bad::from(format!("{{{}}}", fields.join(", ")))
}

/// Which of some flags are set. One that is there and not set is wrong.
fn flags<'a>(errs: &mut Errors, path: &Path, owner: &Value, fields: &[&'a str]) -> Vec<&'a str> {
    let mut set = Vec::new();
    for field in fields.iter().filter(|field| has(owner, field)) {
        if get(owner, field) == true {
            set.push(*field);
        } else {
            errs.push(FieldError::invalid(path.child(field), false, "must be either unset or set to true"));
        }
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_attributes_may_have_a_domain() {
        for (name, count) in [("a", 0), ("example.com/a", 0), ("1a", 1), ("/a", 1), ("example.com/", 1), ("a b", 1)] {
            let mut errs = Errors::new();
            check_qualified(&mut errs, &Path::new("p"), name);
            assert_eq!(errs.len(), count, "{name}: {errs:?}");
        }
    }

    #[test]
    fn uids_are_normal() {
        for (uid, expect) in [
            ("550e8400-e29b-41d4-a716-446655440000", ""),
            ("550E8400-e29b-41d4-a716-446655440000", "normalized form"),
            ("x", "invalid UUID length: 1"),
        ] {
            let mut errs = Errors::new();
            check_uid(&mut errs, &Path::new("p"), uid);
            let found = errs.first().map(ToString::to_string).unwrap_or_default();
            assert!(found.contains(expect) && found.is_empty() == expect.is_empty(), "{uid}: {found}");
        }
    }
}
