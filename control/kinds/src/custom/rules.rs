//! Rules that a schema sets for its values (`x-kubernetes-validations`, KEP-2876), asked of an object. Upstream:
//! apiextensions-apiserver's `schema/cel/validation.go`.
//!
//! Invariants
//! - All rules together may cost [`BUDGET`] for one object; beyond that nothing more is asked, and the object is refused.
//! - What is as it was before is not held against an update (KEP-4008), except by rules that compare with it.

use std::collections::BTreeMap;

use kontiki_cel::{Activation, EvalError, PER_CALL_LIMIT, Program, Value as Known};
use kontiki_machinery::schema::structural::Structural;
use serde_json::Value;

use crate::{
    Bad, FieldError,
    expressions::{
        Age,
        rules::{self, Compiled, FIELD, OLD, OWN, Rule},
    },
    field_error::quote,
    rows::value::{get, list, on, text, texts},
};

/// The most that all rules may cost for one object.
const BUDGET: u64 = 10_000_000;
/// The longest message that is worked out, in bytes.
const MAX_MESSAGE: usize = 5 * 1024;
const EXCEEDED: &str = "validation failed due to running out of cost budget, no further validation rules will be run";

/// The rules of a schema and of those below it.
pub(super) struct Rules {
    kind: String,
    own: Option<Compiled>,
    /// The rules as they are written.
    said: Vec<Value>,
    properties: BTreeMap<String, Self>,
    additional: Option<Box<Self>>,
    items: Option<Box<Self>>,
    /// What the items of a list are told apart by; `None`: their place says nothing of what was before.
    keys: Option<Vec<String>>,
}

/// Compiles the rules of a schema; `None`: it has none.
pub(super) fn compile(schema: &Structural) -> Option<Rules> {
    of(&schema.source(), true)
}

fn of(schema: &Value, root: bool) -> Option<Rules> {
    let below = |inner: &Value| of(inner, on(inner, "x-kubernetes-embedded-resource"));
    let inner = |field: &str| Some(get(schema, field)).filter(|it| it.is_object()).and_then(below).map(Box::new);
    let properties = get(schema, "properties").as_object().into_iter().flatten();
    let said = list(schema, FIELD).to_vec();
    let rules = Rules {
        kind: text(schema, "type").to_owned(),
        own: if said.is_empty() { None } else { rules::compile(schema, root, &|_| Age::Stored) },
        said,
        properties: properties.filter_map(|(name, inner)| Some((name.clone(), below(inner)?))).collect(),
        additional: inner("additionalProperties"),
        items: inner("items"),
        keys: (text(schema, "x-kubernetes-list-type") == "map")
            .then(|| texts(schema, "x-kubernetes-list-map-keys").into_iter().map(str::to_owned).collect()),
    };
    let any =
        rules.own.is_some() || !rules.properties.is_empty() || rules.additional.is_some() || rules.items.is_some();
    any.then_some(rules)
}

/// What there was before.
#[derive(Clone, Copy)]
struct Before<'v> {
    /// Of this very value.
    own: Option<&'v Value>,
    /// The nearest value around it of which something was there, now and then.
    around: Option<(&'v Value, &'v Value)>,
}

impl<'v> Before<'v> {
    fn below(self, value: &'v Value, own: Option<&'v Value>) -> Self {
        let own = own.filter(|old| !old.is_null());
        Self { own, around: self.own.map(|old| (value, old)).or(self.around) }
    }

    /// Whether `value`, or what it is in, is as it was.
    fn is_same(self, value: &Value) -> bool {
        match (self.own, self.around) {
            (Some(old), _) => old == value,
            (None, Some((now, then))) => now == then,
            (None, None) => false,
        }
    }
}

/// What was found so far.
struct Findings {
    errors: Vec<FieldError>,
    /// What rules may still cost.
    left: u64,
}

/// Nothing more is to be asked.
struct Stop;

impl Rules {
    /// What they say of an object. `old`: as it was before an update.
    pub fn judge(&self, value: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut found = Findings { errors: Vec::new(), left: BUDGET };
        // Whoever stops has said why.
        let _ = self.look(&mut found, "", value, Before { own: old, around: None });
        found.errors
    }

    fn look(&self, found: &mut Findings, path: &str, value: &Value, before: Before<'_>) -> Result<(), Stop> {
        if value.is_null() {
            return Ok(());
        }
        self.ask(found, path, value, before)?;
        match value {
            Value::Array(items) => self.look_at_items(found, path, (value, items), before),
            Value::Object(map) => {
                let dot = if path.is_empty() { "" } else { "." };
                for (name, inner) in map {
                    let old = before.own.and_then(|old| old.get(name));
                    let below = before.below(value, old);
                    if let Some(rules) = &self.additional {
                        rules.look(found, &format!("{path}[{name}]"), inner, below)?;
                    }
                    if let Some(rules) = self.properties.get(name) {
                        rules.look(found, &format!("{path}{dot}{name}"), inner, below)?;
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn look_at_items(
        &self,
        found: &mut Findings,
        path: &str,
        (value, items): (&Value, &[Value]),
        before: Before<'_>,
    ) -> Result<(), Stop> {
        let Some(rules) = &self.items else { return Ok(()) };
        let then = before.own.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        for (i, item) in items.iter().enumerate() {
            let same = |old: &&Value| self.keys.iter().flatten().all(|key| old.get(key) == item.get(key));
            let old = self.keys.as_ref().and_then(|_| then.iter().find(same));
            rules.look(found, &format!("{path}[{i}]"), item, before.below(value, old))?;
        }
        Ok(())
    }

    fn ask(&self, found: &mut Findings, path: &str, value: &Value, before: Before<'_>) -> Result<(), Stop> {
        let Some(own) = &self.own else { return Ok(()) };
        let place = Place { path, kind: &self.kind, value, same: &|| before.is_same(value) };
        if found.left == 0 {
            return found.exceeded(&place);
        }
        for (rule, said) in own.rules.iter().zip(&self.said) {
            let program = match &rule.program {
                Ok(None) => continue,
                Err(why) => {
                    found.errors.push(place.wrong(format!("rule compile error: {why}")));
                    continue;
                }
                Ok(Some(program)) => program,
            };
            if rule.uses_old && before.own.is_none() && !rule.optional {
                continue;
            }
            let activation = activation(own, rule, value, before.own);
            match found.evaluate(program, &activation) {
                None => return found.exceeded(&place),
                Some(Ok(holds)) if holds.as_bool() == Some(true) => {}
                Some(Ok(_)) => found.refuse(&place, (rule, said), &activation)?,
                Some(Err(why)) => {
                    found.errors.push(place.wrong(failed(&why, said)));
                    if why == EvalError::Budget {
                        return Err(Stop);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Of what rules are asked.
struct Place<'p> {
    path: &'p str,
    kind: &'p str,
    value: &'p Value,
    /// Whether it is as it was.
    same: &'p dyn Fn() -> bool,
}

impl Place<'_> {
    /// A rule could not be asked.
    fn wrong(&self, why: impl Into<String>) -> FieldError {
        FieldError::invalid(self.at(""), self.kind, why)
    }

    /// The path of a field of it.
    fn at(&self, field: &str) -> String {
        match (self.path, field) {
            ("", "") => "<nil>".to_owned(),
            ("", field) => field.to_owned(),
            (path, "") => path.to_owned(),
            (path, field) => format!("{path}.{field}"),
        }
    }

    /// A rule does not hold.
    fn broken(&self, field: &str, reason: &str, why: String) -> FieldError {
        let whole = ["object", "array"].contains(&self.kind);
        let bad = if whole { Bad::Omitted } else { Bad::Json(self.value.clone()) };
        match reason {
            "FieldValueForbidden" => FieldError::forbidden(self.at(field), why),
            "FieldValueRequired" => FieldError::required(self.at(field), why),
            "FieldValueDuplicate" => FieldError::duplicate(self.at(field), bad),
            _ => FieldError::invalid(self.at(field), bad, why),
        }
    }
}

impl Findings {
    fn exceeded(&mut self, place: &Place<'_>) -> Result<(), Stop> {
        self.errors.push(place.wrong(EXCEEDED));
        Err(Stop)
    }

    /// What an expression gives; `None`: all of them together cost too much.
    fn evaluate<'a>(
        &mut self,
        program: &'a Program,
        activation: &Activation<'a>,
    ) -> Option<Result<Known<'a>, EvalError>> {
        let (result, cost) = program.evaluate(activation, PER_CALL_LIMIT);
        self.left = self.left.checked_sub(cost)?;
        Some(result)
    }

    fn refuse<'a>(
        &mut self,
        place: &Place<'_>,
        (rule, said): (&'a Rule, &Value),
        activation: &Activation<'a>,
    ) -> Result<(), Stop> {
        let message = match &rule.message {
            Ok(Some(message)) => self.message(message, text(said, "messageExpression"), activation),
            _ => Ok(None),
        };
        let (error, end) = match message {
            Ok(message) => {
                let why = message.unwrap_or_else(|| usual(said));
                (place.broken(&rule.place, text(said, "reason"), why), Ok(()))
            }
            Err(why) => (FieldError::invalid(place.at(&rule.place), place.kind, why), Err(Stop)),
        };
        if rule.uses_old || !(place.same)() {
            self.errors.push(error);
        }
        end
    }

    /// A message that is worked out; `None`: it is none that can be shown. The error ends all asking.
    fn message<'a>(
        &mut self,
        program: &'a Program,
        text: &str,
        activation: &Activation<'a>,
    ) -> Result<Option<String>, String> {
        const COSTS: &str = "messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run";
        match self.evaluate(program, activation).ok_or(COSTS)? {
            Err(EvalError::Budget) => Err(format!(
                "no further validation rules will be run due to call cost exceeds limit for messageExpression: {}",
                quote(text)
            )),
            Err(_) => Ok(None),
            Ok(said) => {
                let said = said.as_str().unwrap_or_default().trim();
                let good = !said.is_empty() && said.len() <= MAX_MESSAGE && !said.contains('\n');
                Ok(good.then(|| said.to_owned()))
            }
        }
    }
}

fn activation<'a>(own: &'a Compiled, rule: &Rule, value: &'a Value, old: Option<&'a Value>) -> Activation<'a> {
    let activation = Activation::new().json(OWN, value, Some(&own.schema));
    match (rule.optional, old) {
        (false, None) => activation,
        (false, Some(old)) => activation.json(OLD, old, Some(&own.schema)),
        (true, None) => activation.with(OLD, Known::Optional(None)),
        (true, Some(old)) => match own.schema.read(old) {
            Ok(old) => activation.with(OLD, old.some()),
            Err(_) => activation.json(OLD, old, Some(&own.schema)),
        },
    }
}

/// What findings call a rule.
fn name(said: &Value) -> &str {
    let message = text(said, "message");
    if message.is_empty() { text(said, "rule").trim() } else { message.trim() }
}

fn usual(said: &Value) -> String {
    let message = text(said, "message");
    if message.is_empty() { format!("failed rule: {}", name(said)) } else { message.trim().to_owned() }
}

/// Why a rule gave no answer.
fn failed(why: &EvalError, said: &Value) -> String {
    let (shown, name) = (why.to_string(), name(said));
    if *why == EvalError::Budget {
        let what = "no further validation rules will be run due to call cost exceeds limit for rule";
        format!("'{shown}': {what}: {name}")
    } else if shown.starts_with("no such overload") {
        let what = "call arguments did not match a supported operator, function or macro signature for rule";
        format!("'{shown}': {what}: {name}")
    } else {
        format!("{shown} evaluating rule: {name}")
    }
}
