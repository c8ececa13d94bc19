//! What is wrong with a validating policy's expressions by the types of the objects that it is meant for. Upstream:
//! `k8s.io/apiserver/pkg/admission/plugin/policy/validating/typechecking.go`.
//!
//! Invariants
//! - It is told and nothing else: a policy with warnings is in force as any other.
//! - Only kinds that rules name are looked at, not more than [`MAX_KINDS`] for a rule. A rule that means all groups or
//!   versions names none; resources that mean all, and subresources, are passed over.
//! - Of a policy's expressions only those of its validations are told of. A variable that does not check may be anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kontiki_cel::{Declaration, Env, Schema, Type, declare};
use kontiki_machinery::{ResourceDef, Table, openapi};
use serde_json::{Value, json};

use crate::{
    expressions::admission::{of_types, with_variable},
    rows::value::{get, list, some, text, texts},
};

/// How many kinds of one rule are looked at.
const MAX_KINDS: usize = 10;
/// How much is told of one policy, in bytes: it has to fit into the object.
const MAX_TOLD: usize = 128 * 1024;

/// Group, version and kind.
type Gvk<'t> = [&'t str; 3];

/// The `status.typeChecking` of a stored policy.
pub(crate) fn checked(policy: &Value, table: &Table) -> Value {
    let spec = get(policy, "spec");
    let kinds = checkers(spec, table);
    let (mut warnings, mut left) = (Vec::new(), MAX_TOLD);
    for (i, validation) in list(spec, "validations").iter().enumerate() {
        for field in ["expression", "messageExpression"] {
            let expression = text(validation, field);
            if expression.is_empty() || left == 0 {
                continue;
            }
            let found: Vec<String> = kinds.iter().filter_map(|kind| kind.warning(expression)).collect();
            let found = found.join("\n");
            let found = &found[..found.floor_char_boundary(left)];
            left -= found.len();
            if !found.is_empty() {
                warnings.push(json!({"fieldRef": format!("spec.validations[{i}].{field}"), "warning": found}));
            }
        }
    }
    if warnings.is_empty() { json!({}) } else { json!({"expressionWarnings": warnings}) }
}

/// What expressions may name where the object is of one kind.
struct Checker<'t> {
    kind: Gvk<'t>,
    env: Env,
}

impl Checker<'_> {
    fn warning(&self, expression: &str) -> Option<String> {
        let why = self.env.type_of(expression).err()?;
        let [group, version, kind] = self.kind;
        Some(format!("{group}/{version}, Kind={kind}: {why}\n"))
    }
}

fn checkers<'t>(spec: &Value, table: &'t Table) -> Vec<Checker<'t>> {
    let params = some(spec, "paramKind").and_then(kind_of_params).map(|[group, version, kind]| {
        let def = table.find_kind(group, version, kind)?;
        declared(def, 1)
    });
    let checker = |(kind, def): (Gvk<'t>, &Arc<ResourceDef>)| {
        let object = declared(def, 0);
        let mut env = of_types(object.as_ref(), params.as_ref().map(Option::as_ref));
        for variable in list(spec, "variables") {
            let ty = env.type_of(text(variable, "expression")).map_or(Type::Dyn, |ty| of_variable(&ty));
            env = with_variable(env, text(variable, "name"), ty);
        }
        Checker { kind, env }
    };
    kinds(spec, table).into_iter().map(checker).collect()
}

/// The kinds that a policy's rules name, in order.
fn kinds<'t>(spec: &Value, table: &'t Table) -> BTreeMap<Gvk<'t>, &'t Arc<ResourceDef>> {
    let mut kinds = BTreeMap::new();
    for rule in list(get(spec, "matchConstraints"), "resourceRules") {
        let named = named(rule, table);
        kinds.extend(named.iter().take(MAX_KINDS).map(|def| ([&*def.group, &*def.version, &*def.kind], *def)));
        if named.len() >= MAX_KINDS {
            // Upstream looks no further, at other rules neither.
            break;
        }
    }
    kinds
}

/// The rows that a rule names, in the order of its groups, versions and resources. The group without a name stands for any.
fn named<'t>(rule: &Value, table: &'t Table) -> Vec<&'t Arc<ResourceDef>> {
    let [groups, versions] = ["apiGroups", "apiVersions"].map(|field| texts(rule, field));
    if groups.iter().chain(&versions).any(|name| name.contains('*')) {
        return Vec::new();
    }
    let resources = texts(rule, "resources").into_iter().filter(|name| !name.contains(['*', '/']));
    let resources: BTreeSet<String> = resources.map(str::to_lowercase).collect();
    let mut found: Vec<_> = table
        .rows()
        .iter()
        .filter_map(|def| {
            let group = groups.iter().copied().filter(|group| group.is_empty() || *group == def.group).min()?;
            let version = versions.contains(&def.version.as_ref()).then_some(&def.version)?;
            let resource = [&def.plural, &def.singular].into_iter().find(|name| resources.contains::<str>(name))?;
            Some(((group, version, resource), def))
        })
        .collect();
    found.sort_by_key(|(place, _)| *place);
    found.into_iter().map(|(_, def)| def).collect()
}

/// A `paramKind`; `None` if its version cannot be read.
fn kind_of_params(param: &Value) -> Option<Gvk<'_>> {
    let (version, kind) = (text(param, "apiVersion"), text(param, "kind"));
    let known = match version.split_once('/') {
        Some((_, rest)) if rest.contains('/') => return None,
        Some((group, version)) => [group, version, kind],
        None => ["", version, kind],
    };
    known.iter().any(|part| !part.is_empty()).then_some(known)
}

/// What the type of a kind declares. The number keeps types of the same name apart.
fn declared(def: &Arc<ResourceDef>, number: u8) -> Option<Declaration> {
    declare(&Schema::from_openapi(&openapi::resolved(def)), &format!("{}{number}", def.kind), true)
}

/// How expressions see a variable of a type: what has fields of its own may be anything.
fn of_variable(ty: &Type) -> Type {
    match ty {
        Type::List(item) => Type::list(of_variable(item)),
        Type::Map(key, value) => Type::map(of_variable(key), of_variable(value)),
        Type::Null
        | Type::Bool
        | Type::Int
        | Type::Uint
        | Type::Double
        | Type::String
        | Type::Bytes
        | Type::Duration
        | Type::Timestamp => ty.clone(),
        _ => Type::Dyn,
    }
}

#[cfg(test)]
mod tests;
