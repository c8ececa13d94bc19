//! Label selectors in specs: checks, and the text form of tables and Scale.

use kontiki_model::selector::{Operator, Requirement, Selector};
use serde_json::{Value, json};

use super::value::{entries, get, has, list, text, text_entries, texts};
use super::vocab::{self, Errors};
use crate::{Bad, FieldError, Path};

/// Checks a selector; absent is fine.
pub fn check(errs: &mut Errors, path: &Path, selector: &Value) {
    check_but(errs, path, selector, false);
}

/// Checks a selector, but not the values of its expressions if those were wrong before.
pub fn check_but(errs: &mut Errors, path: &Path, selector: &Value, any_value: bool) {
    vocab::labels(errs, &path.child("matchLabels"), get(selector, "matchLabels"));
    for (i, expression) in list(selector, "matchExpressions").iter().enumerate() {
        check_expression(errs, &path.child("matchExpressions").index(i), expression, any_value);
    }
}

fn check_expression(errs: &mut Errors, path: &Path, expression: &Value, any_value: bool) {
    let values = texts(expression, "values");
    match text(expression, "operator") {
        "In" | "NotIn" if values.is_empty() => {
            let message = "must be specified when `operator` is 'In' or 'NotIn'";
            errs.push(FieldError::required(path.child("values"), message));
        }
        "In" | "NotIn" => {}
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let message = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errs.push(FieldError::forbidden(path.child("values"), message));
        }
        "Exists" | "DoesNotExist" => {}
        other => errs.push(FieldError::invalid(path.child("operator"), other, "not a valid selector operator")),
    }
    vocab::qualified_name(errs, &path.child("key"), text(expression, "key"));
    for (i, value) in values.iter().enumerate().filter(|_| !any_value) {
        vocab::invalid(errs, &path.child("values").index(i), *value, vocab::label_value_errors(value));
    }
}

/// The selector, if upstream could use it: known operators, legal keys and values.
#[must_use]
pub fn parse(selector: &Value) -> Option<Selector> {
    let mut errs = Errors::new();
    check(&mut errs, &Path::new(""), selector);
    if !errs.is_empty() {
        return None;
    }
    let mut requirements: Vec<Requirement> = text_entries(selector, "matchLabels")
        .map(|(key, value)| Requirement { key: key.to_owned(), operator: Operator::In(vec![value.to_owned()]) })
        .collect();
    for expression in list(selector, "matchExpressions") {
        let mut values: Vec<String> = texts(expression, "values").into_iter().map(str::to_owned).collect();
        values.sort();
        let operator = match text(expression, "operator") {
            "In" => Operator::In(values),
            "NotIn" => Operator::NotIn(values),
            "Exists" => Operator::Exists,
            _ => Operator::DoesNotExist,
        };
        requirements.push(Requirement { key: text(expression, "key").to_owned(), operator });
    }
    Some(Selector { requirements })
}

/// Whether nothing is asked for.
#[must_use]
pub fn is_empty(selector: &Value) -> bool {
    entries(selector, "matchLabels").next().is_none() && list(selector, "matchExpressions").is_empty()
}

/// Whether `labels`, a map of texts, meet the selector.
#[must_use]
pub fn matches(selector: &Selector, labels: &Value) -> bool {
    selector.matches_with(|key| labels.get(key).and_then(Value::as_str))
}

/// As tables show it: `app=x,tier in (a,b)`; `<none>` if empty, `<error>` if unusable.
#[must_use]
pub fn show(selector: &Value) -> String {
    let Some(mut parsed) = parse(selector) else { return "<error>".into() };
    if parsed.requirements.is_empty() {
        return "<none>".into();
    }
    // `FormatLabelSelector` sorts the requirements by key.
    parsed.requirements.sort_by(|a, b| a.key.cmp(&b.key));
    parsed.requirements.iter().map(show_requirement).collect::<Vec<_>>().join(",")
}

/// As `Scale` shows it: empty if nothing is asked for.
#[must_use]
pub fn show_plain(selector: &Value) -> String {
    if is_empty(selector) { String::new() } else { show(selector) }
}

/// A map selector as tables show it: `a=b,c=d`; `<none>` if empty.
#[must_use]
pub fn show_map(owner: &Value, field: &str) -> String {
    let shown: Vec<String> = text_entries(owner, field).map(|(key, value)| format!("{key}={value}")).collect();
    if shown.is_empty() { "<none>".into() } else { shown.join(",") }
}

fn show_requirement(requirement: &Requirement) -> String {
    let key = &requirement.key;
    match &requirement.operator {
        Operator::In(values) if values.len() == 1 => format!("{key}={}", values[0]),
        Operator::In(values) => format!("{key} in ({})", values.join(",")),
        Operator::NotIn(values) => format!("{key} notin ({})", values.join(",")),
        Operator::Exists => key.clone(),
        Operator::DoesNotExist => format!("!{key}"),
        Operator::Gt(bound) => format!("{key}>{bound}"),
        Operator::Lt(bound) => format!("{key}<{bound}"),
    }
}

/// As Go prints the type, which some tables show.
#[must_use]
pub fn show_go(selector: &Value) -> String {
    let labels: String = text_entries(selector, "matchLabels").map(|(key, value)| format!("{key}: {value},")).collect();
    let expression = |e: &Value| {
        let (key, operator) = (text(e, "key"), text(e, "operator"));
        format!("LabelSelectorRequirement{{Key:{key},Operator:{operator},Values:[{}],}},", texts(e, "values").join(" "))
    };
    let expressions: String = list(selector, "matchExpressions").iter().map(expression).collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
}

/// The selector as messages print it: the field order of upstream's type.
#[must_use]
pub fn bad(selector: &Value) -> Bad {
    if selector.is_null() {
        return Bad::Raw("null".into());
    }
    let mut parts = Vec::new();
    if has(selector, "matchLabels") {
        parts.push(format!("\"matchLabels\":{}", selector["matchLabels"]));
    }
    let expressions: Vec<String> = list(selector, "matchExpressions").iter().map(bad_expression).collect();
    if !expressions.is_empty() {
        parts.push(format!("\"matchExpressions\":[{}]", expressions.join(",")));
    }
    Bad::Raw(format!("{{{}}}", parts.join(",")))
}

fn bad_expression(expression: &Value) -> String {
    let mut out =
        format!("{{\"key\":{},\"operator\":{}", json!(text(expression, "key")), json!(text(expression, "operator")));
    if has(expression, "values") {
        out.push_str(&format!(",\"values\":{}", expression["values"]));
    }
    out.push('}');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_kubectl_shows() {
        for (selector, expect) in [
            (json!({}), "<none>"),
            (json!({"matchLabels": {"app": "x"}}), "app=x"),
            (
                json!({"matchLabels": {"app": "x"}, "matchExpressions": [
                    {"key": "tier", "operator": "In", "values": ["b", "a"]}, {"key": "old", "operator": "DoesNotExist"}]}),
                "app=x,!old,tier in (a,b)",
            ),
            (json!({"matchExpressions": [{"key": "a", "operator": "Like"}]}), "<error>"),
        ] {
            assert_eq!(show(&selector), expect);
        }
    }
}
