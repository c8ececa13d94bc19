//! Label and field selectors of lists and watches, with upstream's errors.

use kontiki_cache::{Filter, Term};
use kontiki_machinery::{ResourceDef, meta};
use kontiki_model::selector::{Operator, Requirement, Selector};

use crate::Status;
use crate::params::Params;

/// Reads `labelSelector` and `fieldSelector`; `name` narrows to one object.
pub(crate) fn parse(def: &ResourceDef, params: &Params, name: Option<&str>) -> Result<Filter, Status> {
    let labels = label_selector(params.raw("labelSelector").unwrap_or_default())?;
    let mut fields = field_selector(def, params.raw("fieldSelector").unwrap_or_default())?;
    if let Some(name) = name {
        fields.push(Term { path: "metadata.name".into(), value: name.to_owned(), equal: true });
    }
    Ok(Filter::new(labels, fields))
}

fn label_selector(text: &str) -> Result<Selector, Status> {
    Selector::parse_with(text, check_requirement).map_err(|e| Status::bad_request(parse_message(&e.0)))
}

/// Upstream prefixes what is wrong inside a requirement, not what is wrong between two.
fn parse_message(detail: &str) -> String {
    const NUMBER: &str = "for 'Gt', 'Lt' operators, the value must be an integer";
    if let Some(word) = detail.strip_prefix(NUMBER).and_then(|rest| rest.strip_prefix(", got ")) {
        return format!(
            "unable to parse requirement: values[0]: Invalid value: \"{}\": {NUMBER}",
            word.trim_matches('\'')
        );
    }
    if detail.ends_with("identifier after ','") || detail.ends_with("',' or 'end of string'") {
        return detail.to_owned();
    }
    format!("unable to parse requirement: {detail}")
}

fn check_requirement(requirement: &Requirement) -> Result<(), String> {
    if let Some(error) = meta::qualified_name(&requirement.key).into_iter().next() {
        return Err(format!("<nil>: Invalid value: \"{}\": {error}", requirement.key));
    }
    let number;
    let values: &[String] = match &requirement.operator {
        Operator::In(values) | Operator::NotIn(values) => values,
        // A bound is a label's value too: it cannot be negative.
        Operator::Gt(bound) | Operator::Lt(bound) => {
            number = [bound.to_string()];
            &number
        }
        _ => &[],
    };
    for (i, value) in values.iter().enumerate() {
        if let Some(error) = meta::label_value(value).into_iter().next() {
            return Err(format!("values[{i}][{}]: Invalid value: \"{value}\": {error}", requirement.key));
        }
    }
    Ok(())
}

fn field_selector(def: &ResourceDef, text: &str) -> Result<Vec<Term>, Status> {
    let mut terms = Vec::new();
    for part in split_terms(text).into_iter().filter(|part| !part.is_empty()) {
        let term = field_term(&part).map_err(Status::bad_request)?;
        let known = match term.path.as_str() {
            "metadata.name" => true,
            "metadata.namespace" => def.namespaced() || def.fields.is_empty(),
            path => def.fields.iter().any(|field| field == path),
        };
        if !known {
            return Err(Status::bad_request(unknown_field(def, &term.path)));
        }
        terms.push(term);
    }
    Ok(terms)
}

/// Upstream words it one way for kinds with selectable fields of their own, another for the rest.
fn unknown_field(def: &ResourceDef, path: &str) -> String {
    if !def.fields.is_empty() {
        return format!("field label not supported: {path}");
    }
    format!("\"{path}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
}

/// Splits at commas that are not escaped.
fn split_terms(text: &str) -> Vec<String> {
    let (mut terms, mut term, mut escaped) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        match c {
            ',' if !escaped => terms.push(std::mem::take(&mut term)),
            c => term.push(c),
        }
        escaped = c == '\\' && !escaped;
    }
    terms.push(term);
    terms
}

fn field_term(text: &str) -> Result<Term, String> {
    let at = text.char_indices().find(|(i, c)| *c == '=' || (*c == '!' && text[i + 1..].starts_with('=')));
    let Some((at, _)) = at else { return Err(format!("invalid selector: '{text}'; can't understand '{text}'")) };
    let (path, rest) = text.split_at(at);
    let (equal, value) = match rest.strip_prefix("!=") {
        Some(value) => (false, value),
        None => (true, rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')).unwrap_or_default()),
    };
    Ok(Term { path: path.to_owned(), value: unescape(value)?, equal })
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                Some(c) => return Err(format!("invalid field selector: invalid escape sequence: \\{c}")),
                None => return Err("invalid field selector: invalid escape sequence: \\".to_owned()),
            },
            ',' | '=' => return Err(format!("invalid field selector: unescaped character in value: {c}")),
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
#[allow(dead_code)]
#[path = "../../../chaos-tests/src/ratchet.rs"]
mod ratchet;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use kontiki_kinds::Settings;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// The recorded cases of a library: what is read, what it is held against, and what upstream says.
    fn recorded(name: &str) -> Vec<(String, String, String)> {
        let here = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo test runs this"));
        let dir = ratchet::recorded(&here.join("../..")).unwrap_or_else(|missing| panic!("{missing}"));
        let Some(dir) = dir else { return Vec::new() };
        let text = std::fs::read_to_string(dir.join("libraries").join(format!("{name}.jsonl"))).expect("a file");
        let case = |line: &str| {
            let case: Value = serde_json::from_str(line).expect("JSON");
            let text = |field: &str| case[field].as_str().unwrap_or_default().to_owned();
            (text("in"), text("text"), text("upstream"))
        };
        text.lines().map(case).collect()
    }

    /// Upstream's error, or whether it matches; how it prints a selector is nothing that we show.
    fn verdict(upstream: &str) -> Result<bool, String> {
        match upstream.strip_prefix("ERR ") {
            Some(error) => Err(error.to_owned()),
            None => Ok(upstream.ends_with(" true")),
        }
    }

    #[test]
    fn label_selectors_are_judged_as_upstream_does() {
        for (text, labels, upstream) in recorded("label") {
            let labels = labels.split(',').filter_map(|pair| pair.split_once('='));
            let labels: BTreeMap<String, String> = labels.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
            let found = label_selector(&text).map(|selector| selector.matches(&labels));
            assert_eq!(found.map_err(|status| status.message), verdict(&upstream), "{text:?}");
        }
    }

    #[test]
    fn field_selectors_are_judged_as_upstream_does() {
        let services = kontiki_kinds::rows::service::Ranges {
            addresses: "10.96.0.0/28".parse().expect("a range"),
            node_ports: 30000..=30003,
        };
        let table = kontiki_kinds::registry(&Settings { services }).table();
        let pods = table.find("", "v1", "pods").expect("pods are served");
        for (text, value, upstream) in recorded("field") {
            let found = field_selector(pods, &text).map(|terms| {
                terms.iter().all(|term| (term.path == "metadata.name" && term.value == value) == term.equal)
            });
            assert_eq!(found.map_err(|status| status.message), verdict(&upstream), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "([a-c.,=!<>()/\\\\ -]|in|notin|\\PC){0,24}") {
            let answers = [label_selector(&text).err(), split_terms(&text).iter().find_map(|term| {
                field_term(term).err().map(Status::bad_request)
            })];
            prop_assert!(answers.into_iter().flatten().all(|status| status.code == 400));
        }
    }

    #[test]
    fn field_terms_read_as_upstream_does() {
        for (text, path, value, equal) in [
            ("a=b", "a", "b", true),
            ("a==b", "a", "b", true),
            ("a!=b", "a", "b", false),
            ("a=", "a", "", true),
            ("a=b\\,c", "a", "b,c", true),
            ("a = b", "a ", " b", true),
        ] {
            assert_eq!(field_term(text), Ok(Term { path: path.into(), value: value.into(), equal }), "{text}");
        }
        for text in ["a", "a=b\\x", "a=b=c", "a=\\"] {
            assert!(field_term(text).is_err(), "{text}");
        }
        assert_eq!(split_terms("a=b,c=d\\,e"), ["a=b", "c=d\\,e"]);
    }
}
