//! What is wrong with a value, in the words of kube-openapi's validator (`pkg/validation/validate`) and of
//! apiextensions-apiserver's `validation.go` and `schema/listtype`.
//!
//! Of an update, what is as it was before is not held against it (KEP-4008): a value that differs from what a schema
//! demands passes where it equals the one at the same place of the old object.

use serde_json::{Map, Value, json};

use super::format;
use super::node::{Additional, Bounds, Limits, Lists, Node};
use crate::{Bad, FieldError, field_error::quote};

/// What was found.
#[derive(Default)]
struct Findings {
    /// What is wrong.
    errors: Vec<FieldError>,
    /// How much was right: of several choices that do not fit, the one with most explains itself.
    matched: usize,
}

impl Findings {
    fn merge(&mut self, other: Self) {
        self.errors.extend(other.errors);
        self.matched += other.matched;
    }
}

/// Judges a value. `at`: the path of the field that it is in, empty for an object; `old`: what was there before.
#[must_use]
pub fn judge(node: &Node, value: &Value, old: Option<&Value>, at: &str) -> Vec<FieldError> {
    let mut judge = Judge { at, path: String::new() };
    judge.ratchet(node, value, old).errors
}

struct Judge<'a> {
    /// Path of the field in which everything is. It is no part of what messages call a value.
    at: &'a str,
    /// Path from there.
    path: String,
}

fn bad(value: &Value) -> Bad {
    Bad::Json(value.clone())
}

/// How Go calls the type of a JSON value.
fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_i64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn is_whole(number: f64) -> bool {
    number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_991.0
}

impl Judge<'_> {
    /// The path as causes show it.
    fn shown(&self) -> String {
        match (self.at, self.path.as_str()) {
            ("", "") => "<nil>".to_owned(),
            ("", path) => path.to_owned(),
            (at, "") => at.to_owned(),
            (at, path) => format!("{at}.{path}"),
        }
    }

    fn invalid(&self, value: impl Into<Bad>, what: &str) -> FieldError {
        FieldError::invalid(self.shown(), value, format!("{} in body {what}", self.path))
    }

    /// What upstream says of no field.
    fn general(&self, what: String) -> FieldError {
        FieldError::invalid(if self.at.is_empty() { "<nil>" } else { self.at }, "", what)
    }

    fn wrong_type(&self, wanted: &str, found: &str) -> FieldError {
        let what = format!("{} in body must be of type {wanted}: {}", self.path, quote(found));
        FieldError::type_invalid(self.shown(), found, what)
    }

    fn within<R>(&mut self, name: &str, run: impl FnOnce(&mut Self) -> R) -> R {
        let keep = self.path.len();
        if keep > 0 && !name.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(name);
        let result = run(self);
        self.path.truncate(keep);
        result
    }

    /// Judges a value beside the one that was there before.
    fn ratchet(&mut self, node: &Node, value: &Value, old: Option<&Value>) -> Findings {
        let mut found = self.value(node, value, old);
        if !found.errors.is_empty() && old.is_some_and(|old| old == value) {
            found.errors.clear();
        }
        found
    }

    fn value(&mut self, node: &Node, value: &Value, old: Option<&Value>) -> Findings {
        let mut found = Findings::default();
        found.merge(self.types(node, value));
        let limits = node.limits.as_deref();
        if value.is_null() {
            found.merge(self.enumeration(limits, value));
            return found;
        }
        if let Some(limits) = limits {
            found.merge(self.logic(limits, value));
        }
        match value {
            Value::String(text) => found.merge(self.text(limits, text)),
            Value::Number(number) => found.merge(self.number(node, limits, number)),
            Value::Array(items) => found.merge(self.list(node, limits, items, old)),
            _ => {}
        }
        found.merge(self.enumeration(limits, value));
        if let Value::Object(map) = value {
            found.merge(self.object(node, limits, map, old));
        }
        found
    }

    fn types(&self, node: &Node, value: &Value) -> Findings {
        let format = node.limits.as_deref().map_or("", |limits| &limits.format);
        let found = type_of(value);
        let one = |error| Findings { errors: vec![error], matched: 0 };
        if node.types.is_empty() || (value.is_null() && node.nullable) {
            return Findings { errors: Vec::new(), matched: 1 };
        }
        let has = |word: &str| node.types.has(word);
        let fits = has(found)
            || value.as_f64().is_some_and(|number| found == "number" && has("integer") && is_whole(number))
            || (found == "integer" && has("number"));
        let text = matches!(found, "string" | "array");
        if !fits && !format.is_empty() && found == "number" {
            return one(self.wrong_type(format, "float64"));
        }
        // As upstream: whether a text with a format is a text at all is not asked.
        let lenient = text && !format.is_empty() && !has("number") && !has("integer");
        match fits || lenient {
            true => Findings { errors: Vec::new(), matched: 1 },
            false => one(self.wrong_type(&node.types.text(), found)),
        }
    }

    fn enumeration(&self, limits: Option<&Limits>, value: &Value) -> Findings {
        let values = limits.map(|limits| &limits.one_of_values[..]).unwrap_or_default();
        let same = |known: &Value| match (known.as_f64(), value.as_f64()) {
            #[allow(clippy::float_cmp, reason = "as upstream compares them")]
            (Some(known), Some(value)) => known == value,
            _ => known == value,
        };
        let mut found = Findings { errors: Vec::new(), matched: 1 };
        if !values.is_empty() && !values.iter().any(same) {
            let text = |known: &Value| known.as_str().map_or_else(|| known.to_string(), str::to_owned);
            let known: Vec<String> = values.iter().map(text).collect();
            found = Findings { errors: vec![FieldError::not_supported(self.shown(), bad(value), &known)], matched: 0 };
        }
        found
    }

    fn logic(&mut self, limits: &Limits, value: &Value) -> Findings {
        let mut found = Findings { errors: Vec::new(), matched: 1 };
        self.any_of(limits, value, &mut found);
        self.one_of(limits, value, &mut found);
        let (mut passed, path) = (0, quote(&self.path));
        for inner in &limits.all_of {
            let result = self.value(inner, value, None);
            passed += usize::from(result.errors.is_empty());
            found.merge(result);
        }
        if passed < limits.all_of.len() {
            let none = if passed == 0 { ". None validated" } else { "" };
            found.errors.push(self.general(format!("{path} must validate all the schemas (allOf){none}")));
        }
        if let Some(inner) = &limits.not
            && self.value(inner, value, None).errors.is_empty()
        {
            found.errors.push(self.general(format!("{path} must not validate the schema (not)")));
        }
        found
    }

    fn any_of(&mut self, limits: &Limits, value: &Value, found: &mut Findings) {
        let mut best: Option<Findings> = None;
        for inner in &limits.any_of {
            let result = self.value(inner, value, None);
            if result.errors.is_empty() {
                return found.merge(result);
            }
            if best.as_ref().is_none_or(|best| result.matched > best.matched) {
                best = Some(result);
            }
        }
        let Some(best) = best else { return };
        found.errors.push(self.general(format!("{} must validate at least one schema (anyOf)", quote(&self.path))));
        found.merge(best);
    }

    fn one_of(&mut self, limits: &Limits, value: &Value, found: &mut Findings) {
        if limits.one_of.is_empty() {
            return;
        }
        let (mut passed, mut best): (usize, Option<Findings>) = (0, None);
        for inner in &limits.one_of {
            let result = self.value(inner, value, None);
            if result.errors.is_empty() {
                passed += 1;
                best = None;
            } else if passed == 0 && best.as_ref().is_none_or(|best| result.matched > best.matched) {
                best = Some(result);
            }
        }
        if passed != 1 {
            let said = match passed {
                0 => "Found none valid".to_owned(),
                _ => format!("Found {passed} valid alternatives"),
            };
            let what = format!("{} must validate one and only one schema (oneOf). {said}", quote(&self.path));
            found.errors.push(self.general(what));
            best.into_iter().for_each(|best| found.merge(best));
        }
    }

    fn text(&self, limits: Option<&Limits>, text: &str) -> Findings {
        let mut found = Findings { errors: Vec::new(), matched: 1 };
        let Some(limits) = limits else { return found };
        let Bounds { least, most } = limits.length;
        let length = if least.or(most).is_some() { text.chars().count() as u64 } else { 0 };
        let wrong = match &limits.pattern {
            _ if most.is_some_and(|most| length > most) => Some(FieldError::too_long(
                self.shown(),
                usize::try_from(most.unwrap_or_default()).unwrap_or(usize::MAX),
            )),
            _ if least.is_some_and(|least| length < least) => {
                let what = format!("should be at least {} chars long", least.unwrap_or_default());
                Some(self.invalid(text, &what))
            }
            Some(pattern) => match pattern.regex() {
                Ok(regex) if regex.is_match(text) => None,
                Ok(_) => Some(self.invalid(text, &format!("should match '{}'", pattern.text))),
                Err(why) => {
                    Some(self.invalid(text, &format!("should match '{}, but pattern is invalid: {why}'", pattern.text)))
                }
            },
            None => None,
        };
        found.errors.extend(wrong);
        if !limits.format.is_empty() && !format::fits(&limits.format, text) {
            let what = format!("{} in body must be of type {}: {}", self.path, limits.format, quote(text));
            found.errors.push(FieldError::type_invalid(self.shown(), text, what));
        }
        found
    }

    fn number(&self, node: &Node, limits: Option<&Limits>, number: &serde_json::Number) -> Findings {
        let mut found = Findings { errors: Vec::new(), matched: 1 };
        let format = limits.map_or("", |limits| &limits.format);
        if !in_range(number, node.types.only().unwrap_or_default(), format) {
            let kind = node.types.only().unwrap_or_default();
            let format =
                if format.is_empty() { "(default format)".to_owned() } else { format!("with format {format}") };
            found.errors.push(self.general(format!("Checked value must be of type {kind} {format} in {}", self.path)));
        }
        let (Some(limits), Some(value)) = (limits, number.as_f64()) else { return found };
        let shown = || Bad::Raw(number.to_string());
        if let Some(factor) = limits.multiple_of.filter(|factor| !is_multiple(value, *factor)) {
            found.errors.push(self.invalid(shown(), &format!("should be a multiple of {factor}")));
        }
        if let Some(least) = limits.minimum.filter(|least| value < *least || (limits.above && value <= *least)) {
            let or = if limits.above { "" } else { "or equal to " };
            found.errors.push(self.invalid(shown(), &format!("should be greater than {or}{least}")));
        }
        if let Some(most) = limits.maximum.filter(|most| value > *most || (limits.below && value >= *most)) {
            let or = if limits.below { "" } else { "or equal to " };
            found.errors.push(self.invalid(shown(), &format!("should be less than {or}{most}")));
        }
        found
    }

    fn list(&mut self, node: &Node, limits: Option<&Limits>, items: &[Value], old: Option<&Value>) -> Findings {
        let mut found = Findings { errors: Vec::new(), matched: 1 };
        let before = old.and_then(Value::as_array).map(Vec::as_slice);
        if let Some(inner) = &node.items {
            for (i, item) in items.iter().enumerate() {
                let old = before.and_then(|before| correlated(&node.lists, before, i, item));
                let result = self.within(&format!("[{i}]"), |judge| judge.ratchet(inner, item, old));
                found.merge(result);
            }
        }
        let Some(limits) = limits else { return found };
        let count = items.len();
        if let Some(least) = limits.items.least.filter(|least| (count as u64) < *least) {
            found.errors.push(self.invalid(count, &format!("should have at least {least} items")));
        }
        if let Some(most) = limits.items.most.filter(|most| count as u64 > *most) {
            found.errors.push(FieldError::too_many(self.shown(), count, usize::try_from(most).unwrap_or(usize::MAX)));
        }
        if limits.unique && !repeats(items.iter().map(Value::to_string)).is_empty() {
            found.errors.push(self.invalid("", "shouldn't contain duplicates"));
        }
        found
    }

    fn object(
        &mut self,
        node: &Node,
        limits: Option<&Limits>,
        map: &Map<String, Value>,
        old: Option<&Value>,
    ) -> Findings {
        let mut found = Findings { errors: Vec::new(), matched: 1 };
        if let Some(error) = limits.and_then(|limits| self.count(limits.properties, map.len())) {
            return Findings { errors: vec![error], matched: 0 };
        }
        let old = |name: &str| old.and_then(|old| old.get(name));
        let other = |name: &&String| node.property(name).is_none();
        match &node.additional {
            Additional::Allowed(false) => {
                for name in map.keys().filter(other) {
                    let what = format!("{}.{name} in body is a forbidden property", self.path);
                    found.errors.push(FieldError::invalid(self.shown(), name.as_str(), what));
                }
            }
            Additional::Of(inner) => {
                for (name, value) in map.iter().filter(|(name, _)| other(name)) {
                    let result = self.within(name, |judge| judge.ratchet(inner, value, old(name)));
                    found.merge(result);
                }
            }
            Additional::Allowed(true) | Additional::Unsaid => {}
        }
        for (name, inner) in node.properties() {
            if let Some(value) = map.get(name) {
                let result = self.within(name, |judge| judge.ratchet(inner, value, old(name)));
                found.merge(result);
            }
        }
        for name in limits.iter().flat_map(|limits| &limits.required).filter(|name| !map.contains_key(name.as_ref())) {
            found.errors.push(self.within(name, |judge| FieldError::required(judge.shown(), "")));
        }
        found
    }

    fn count(&self, Bounds { least, most }: Bounds, count: usize) -> Option<FieldError> {
        if let Some(least) = least.filter(|least| (count as u64) < *least) {
            return Some(self.invalid(least, &format!("should have at least {least} properties")));
        }
        let most = usize::try_from(most?).unwrap_or(usize::MAX);
        (count > most).then(|| FieldError::too_many(self.shown(), count, most))
    }
}

/// The item of before that an item is compared with.
fn correlated<'v>(lists: &Lists, before: &'v [Value], i: usize, item: &Value) -> Option<&'v Value> {
    match lists {
        Lists::Unsaid => before.get(i),
        Lists::Atomic | Lists::Set => None,
        Lists::Map(keys) => {
            before.iter().find(|old| keys.iter().all(|key| old.get(key.as_ref()) == item.get(key.as_ref())))
        }
    }
}

fn in_range(number: &serde_json::Number, kind: &str, format: &str) -> bool {
    let whole = number.as_i64().or_else(|| {
        #[allow(clippy::cast_possible_truncation, reason = "it is whole and small enough")]
        number.as_f64().filter(|value| is_whole(*value)).map(|value| value as i64)
    });
    match (kind, format) {
        ("integer", "int32") => whole.is_some_and(|whole| i32::try_from(whole).is_ok()),
        ("integer", _) => whole.is_some(),
        (_, "float" | "float32") => number.as_f64().is_some_and(|value| value.abs() <= f64::from(f32::MAX)),
        _ => true,
    }
}

/// As later versions of upstream: up to the precision of floats.
fn is_multiple(value: f64, factor: f64) -> bool {
    let times = if factor.abs() < 1.0 { (1.0 / factor) * value } else { value / factor };
    let nearest = times.round();
    (times - nearest).abs() <= 1e-9 * times.abs().max(1.0)
}

/// The places of those that were there before, the second of each only.
fn repeats(items: impl Iterator<Item = String>) -> Vec<usize> {
    let mut seen = std::collections::HashMap::new();
    let mut out = Vec::new();
    for (i, item) in items.enumerate() {
        let times = seen.entry(item).or_insert(0_usize);
        *times += 1;
        if *times == 2 {
            out.push(i);
        }
    }
    out
}

/// What is there twice in lists that are sets or maps.
#[must_use]
pub fn judge_lists(node: &Node, value: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    lists(&mut errors, node, value, "");
    errors
}

fn lists(errors: &mut Vec<FieldError>, node: &Node, value: &Value, path: &str) {
    match value {
        Value::Object(map) => {
            let dot = if path.is_empty() { "" } else { "." };
            for (name, inner) in map {
                if let Some(below) = node.property(name) {
                    lists(errors, below, inner, &format!("{path}{dot}{name}"));
                } else if let Some(below) = node.other() {
                    lists(errors, below, inner, &format!("{path}[{name}]"));
                }
            }
        }
        Value::Array(items) => {
            list(errors, node, items, path);
            if let Some(below) = &node.items {
                for (i, item) in items.iter().enumerate() {
                    lists(errors, below, item, &format!("{path}[{i}]"));
                }
            }
        }
        _ => {}
    }
}

fn list(errors: &mut Vec<FieldError>, node: &Node, items: &[Value], path: &str) {
    match &node.lists {
        Lists::Unsaid | Lists::Atomic => {}
        Lists::Set => {
            for i in repeats(items.iter().map(Value::to_string)) {
                errors.push(FieldError::duplicate(format!("{path}[{i}]"), bad(&items[i])));
            }
        }
        Lists::Map(keys) => {
            if let Some(i) = items.iter().position(|item| !item.is_object() && !item.is_null()) {
                let what = "must be an object for an array of list-type map";
                errors.push(FieldError::invalid(format!("{path}[{i}]"), bad(&items[i]), what));
                return;
            }
            let key = |item: &Value| -> Value {
                let said = keys.iter().filter_map(|key| Some((key.to_string(), item.get(key.as_ref())?.clone())));
                Value::Object(said.collect())
            };
            for i in repeats(items.iter().map(|item| key(item).to_string())) {
                errors.push(FieldError::duplicate(format!("{path}[{i}]"), json!(key(&items[i]))));
            }
        }
    }
}
