//! The rules of one schema (`x-kubernetes-validations`, KEP-2876), compiled. Upstream: apiextensions-apiserver's
//! `schema/cel/compilation.go`.

use kontiki_cel::{Bounds, CompileError, Declaration, Env, Program, Schema, Type, declare};
use serde_json::Value;

use super::{Age, paths};

/// The field of a schema in which its rules are.
pub(crate) const FIELD: &str = "x-kubernetes-validations";
/// A variable: the value as it was.
pub(crate) const OLD: &str = "oldSelf";
/// A variable: the value.
pub(crate) const OWN: &str = "self";

/// A rule.
pub(crate) struct Rule {
    /// What it says; `None`: nothing. The error is in upstream's words.
    pub program: Result<Option<Program>, String>,
    /// What its message is worked out by.
    pub message: Result<Option<Program>, String>,
    /// Whether it compares with the value before.
    pub uses_old: bool,
    /// Whether it is asked of a value that was not there before, too.
    pub optional: bool,
    /// The most that one evaluation may cost, of the rule and of the message.
    pub costs: [u64; 2],
    /// Where its findings are, from the schema's value on; empty: right there.
    pub place: String,
}

/// The rules of a schema, and how a value of it is read.
pub(crate) struct Compiled {
    pub schema: Schema,
    pub rules: Vec<Rule>,
    /// How often at most a value of it can occur in one object.
    pub cardinality: u64,
}

/// Compiles the rules of a schema. `root`: its values are objects with type and metadata. `age`: of an expression.
/// `None`: expressions do not see values of it.
pub(crate) fn compile(schema: &Value, root: bool, age: &dyn Fn(&str) -> Age) -> Option<Compiled> {
    let own = Schema::from_openapi(schema);
    let declared = declare(&own, "selfType", root)?;
    let rules = schema[FIELD].as_array().into_iter().flatten();
    let rules = rules.map(|rule| one(rule, schema, &declared, age)).collect();
    let cardinality = declared.bounds.max_cardinality();
    Some(Compiled { schema: if root { own.with_type_and_meta() } else { own }, rules, cardinality })
}

fn one(rule: &Value, schema: &Value, declared: &Declaration, age: &dyn Fn(&str) -> Age) -> Rule {
    let text = |field: &str| rule[field].as_str().unwrap_or_default();
    let optional = rule["optionalOldSelf"] == true;
    let env = |text: &str| {
        let env = Env::new(age(text).minor()).declared(OWN, declared).declared(OLD, declared);
        if optional { env.variable(OLD, Type::optional(declared.ty.clone())) } else { env }
    };
    let place = paths::follow(schema, text("fieldPath"), true).map(|(place, _)| place).unwrap_or_default();
    let mut made = Rule { program: Ok(None), message: Ok(None), uses_old: false, optional, costs: [0; 2], place };
    let expression = text("rule");
    if expression.trim().is_empty() {
        return made;
    }
    made.program = condition(&env(expression), expression).map(Some);
    let Ok(Some(program)) = &made.program else { return made };
    made.uses_old = program.uses(OLD);
    let message = text("messageExpression");
    made.costs[0] = most(program, &declared.bounds);
    if !message.is_empty() {
        made.message = said(&env(message), message).map(Some);
    }
    if let Ok(Some(message)) = &made.message {
        made.costs[1] = most(message, &declared.bounds);
    }
    made
}

fn most(program: &Program, bounds: &Bounds) -> u64 {
    program.estimate(bounds).max
}

fn condition(env: &Env, text: &str) -> Result<Program, String> {
    let program = env.compile(text).map_err(|why| why.to_string())?;
    match program.result_type() {
        Type::Bool => Ok(program),
        _ => Err("cel expression must evaluate to a bool".to_owned()),
    }
}

fn said(env: &Env, text: &str) -> Result<Program, String> {
    let program = env.compile(text).map_err(|why| match why {
        CompileError::Issues { text, .. } => format!("messageExpression compilation failed: {text}"),
        CompileError::Program(text) => format!("messageExpression instantiation failed: {text}"),
    })?;
    match program.result_type() {
        Type::String => Ok(program),
        _ => Err("messageExpression must evaluate to a string".to_owned()),
    }
}
