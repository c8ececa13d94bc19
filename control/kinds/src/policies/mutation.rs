//! One MutatingAdmissionPolicy, compiled, and what it makes of an object. Upstream: `policy/mutating/patch`.
//!
//! Invariant: a mutation changes an object to one of its type or not at all.

use kontiki_cel::{Program, Value as Known};
use kontiki_machinery::{
    ResourceDef, Status,
    admission::{Lookup, Request},
    apply, meta,
    patch::{PatchError, json_patch},
    schema::{
        Schema,
        shape::{Relation, Shape},
    },
};
use serde_json::{Map, Value, json};

use super::{
    known::{Compiled, Head},
    policy::BUDGET,
};
use crate::{
    expressions::admission::{Composed, EvalFailure, Returns, Run, SPENT, Scope, Slot, Subject, resulted},
    rows::value::{get, list, text},
};

/// A policy.
pub(super) struct Mutating {
    head: Head,
    pub mutations: Vec<Mutation>,
    /// Whether it is asked again when others have changed the object since.
    pub again: bool,
}

/// One of its mutations.
pub(super) struct Mutation {
    text: String,
    returns: Returns,
    program: Result<Program, String>,
}

/// Why a mutation came to nothing.
pub(super) enum Wrong {
    /// The failure policy says what that means.
    Policy(String),
    /// The request fails, whatever the policy says.
    Request(Box<Status>),
}

impl From<String> for Wrong {
    fn from(why: String) -> Self {
        Self::Policy(why)
    }
}

impl Compiled for Mutating {
    fn of(stored: &Value) -> Self {
        let spec = get(stored, "spec");
        let (head, scope) = Head::of(stored);
        let scope = Scope { patches: true, ..scope };
        let mutation = |it: &Value| {
            let (field, returns) = match text(it, "patchType") {
                "JSONPatch" => ("jsonPatch", Returns::Patch),
                _ => ("applyConfiguration", Returns::Configuration),
            };
            let text = text(get(it, field), "expression").to_owned();
            Mutation { program: scope.compile(&text, returns), text, returns }
        };
        let mutations = list(spec, "mutations").iter().map(mutation).collect();
        Self { head, mutations, again: text(spec, "reinvocationPolicy") == "IfNeeded" }
    }

    fn head(&self) -> &Head {
        &self.head
    }
}

impl Mutating {
    /// What a mutation makes of the subject's object, which is one of `def`.
    pub fn mutated(
        &self,
        mutation: &Mutation,
        (subject, def): (&Subject, &ResourceDef),
        request: &Request<'_>,
        cluster: &dyn Lookup,
    ) -> Result<Value, Wrong> {
        let own_type = request.sub.and_then(|sub| def.subresource(sub)?.handler.schema());
        let schema = own_type.unwrap_or(&def.schema);
        let wanted = Run::with((subject, request.user, BUDGET), cluster, |run| self.wanted(mutation, run))?;
        let mut object = subject.object.clone();
        match mutation.returns {
            Returns::Patch => {
                match json_patch(&mut object, &wanted) {
                    Ok(()) => {}
                    Err(why) if why.is_failed_test() => return Ok(subject.object.clone()),
                    Err(why) => return Err(Wrong::Policy(format!("JSON Patch: {}", said(&why)))),
                }
                check(schema, &object)?;
            }
            _ => object = applied(&object, wanted, schema).map_err(|why| format!("error applying patch: {why}"))?,
        }
        schema.normalize(&mut object);
        if own_type.is_none() {
            object["apiVersion"] = def.api_version().into();
            object["kind"] = def.kind.as_ref().into();
            def.strategy.default(&mut object);
        }
        if let Some(old) = request.old {
            meta::keep_system_fields(&mut object, old);
        }
        Ok(object)
    }

    /// The value of a mutation's expression.
    fn wanted(&self, mutation: &Mutation, run: &Run<'_>) -> Result<Value, String> {
        let slots = Slot::of(&self.head.variables);
        let composed = Composed { run, slots: &slots };
        let program = mutation.program.as_ref().map_err(Clone::clone)?;
        let value = run.evaluate(program, Some(&composed)).map_err(|why| match why {
            EvalFailure::Spent => SPENT.to_owned(),
            EvalFailure::Failed(why) => resulted(&mutation.text, &why),
        })?;
        match (mutation.returns, &value) {
            (Returns::Patch, Known::List(list)) => {
                let operations = (0..list.len()).filter_map(|at| list.get(at));
                let operations = operations.map(|item| operation_of(&item.map_err(|why| why.to_string())?));
                operations.collect::<Result<Vec<_>, String>>().map(Value::Array)
            }
            (Returns::Patch, _) => Err("type mismatch: JSONPatchType.expression should evaluate to array".to_owned()),
            _ => {
                value.check_types().map_err(mismatch)?;
                value.to_json().map_err(|why| why.to_string())
            }
        }
    }
}

fn mismatch(why: String) -> String {
    format!("type mismatch: {why}")
}

/// Why a patch does not apply, in the words of the library that upstream uses.
fn said(why: &PatchError) -> String {
    match why {
        PatchError::Rejected(why) => why.clone(),
        other => other.to_string(),
    }
}

/// An operation of a patch, of a `JSONPatch{}`.
fn operation_of(value: &Known<'_>) -> Result<Value, String> {
    let Known::Map(fields) = value else {
        return Err("type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch".to_owned());
    };
    let mut operation = json!({"op": "", "path": ""});
    for name in ["op", "path", "from", "value"] {
        let Some(field) = fields.get(&Known::String(kontiki_cel::Text::Lent(name))) else { continue };
        let field = field.map_err(|why| why.to_string())?;
        if name == "value" {
            field.check_types().map_err(mismatch)?;
        }
        operation[name] = field.to_json().map_err(|why| {
            format!("JSONPath valueExpression evaluated to a type that could not marshal to JSON: {why}")
        })?;
    }
    Ok(operation)
}

/// Upstream reads what a patch made strictly, but for kinds that came at run time.
fn check(schema: &Schema, object: &Value) -> Result<(), Wrong> {
    let refuse = |why: String| Wrong::Request(Box::new(Status::internal(why)));
    if let Some(error) = schema.check(object).error {
        return Err(refuse(error.to_string()));
    }
    let unknown = schema.unknown_fields(object);
    if unknown.is_empty() || schema.structural().is_some() {
        return Ok(());
    }
    Err(refuse(format!("strict decoding error: {}", unknown.join(", "))))
}

/// The object with a configuration merged into it. Nobody owns more or less by that.
fn applied(object: &Value, configuration: Value, schema: &Schema) -> Result<Value, String> {
    let Value::Object(fields) = configuration else { return Err("it is no object".to_owned()) };
    let mut wanted = Map::new();
    for field in ["apiVersion", "kind"] {
        wanted.insert(field.to_owned(), object[field].clone());
    }
    wanted.extend(fields.into_iter().filter(|(name, _)| !["apiVersion", "kind"].contains(&name.as_str())));
    let (wanted, shape) = (Value::Object(wanted), schema.shape());
    apply::validate(&wanted, shape, false)
        .map_err(|why| format!("failed to convert patch object to typed object: {why}"))?;
    let mut whole = Vec::new();
    find_atomic(&wanted, shape, "", &mut whole);
    if !whole.is_empty() {
        let places = whole.join(", ");
        return Err(format!("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {places}"));
    }
    apply::merge(object, &wanted, shape).map_err(|why| format!("failed to merge patch: {why}"))
}

/// Where a value sets something that is one as a whole: what is not said there would be lost.
fn find_atomic(value: &Value, shape: &Shape, place: &str, found: &mut Vec<String>) {
    match (value, &shape.forms().map, &shape.forms().list) {
        (Value::Object(fields), Some(map), _) => {
            if map.atomic {
                found.push(place.to_owned());
            }
            for (name, inner) in fields {
                if let Some(shape) = map.fields().get(name) {
                    find_atomic(inner, shape, &format!("{place}.{name}"), found);
                }
            }
        }
        (Value::Array(items), _, Some(list)) => {
            if list.relation == Relation::Atomic {
                found.push(place.to_owned());
            }
            for (at, item) in items.iter().enumerate() {
                if let Some(shape) = list.item() {
                    find_atomic(item, shape, &format!("{place}[{at}]"), found);
                }
            }
        }
        _ => {}
    }
}
