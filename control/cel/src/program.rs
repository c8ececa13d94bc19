//! Compiled expressions.

use std::sync::Arc;

use crate::ast::{Expr, Kind, operator};
use crate::check::Checked;
use crate::estimate::{self, Estimate, Sizes};
use crate::eval;
use crate::plan::Plan;
use crate::schema::Schema;
use crate::types::Type;
use crate::value::{EvalError, Value};

/// The most that one evaluation may cost, upstream's `PerCallLimit`.
pub const PER_CALL_LIMIT: u64 = 1_000_000;

/// Values of variables for one evaluation.
#[derive(Clone, Default)]
pub struct Activation<'a> {
    values: Vec<(&'a str, Result<Value<'a>, EvalError>)>,
}

impl<'a> Activation<'a> {
    /// Without variables.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With a value.
    #[must_use]
    pub fn with(mut self, name: &'a str, value: Value<'a>) -> Self {
        self.values.push((name, Ok(value)));
        self
    }

    /// With a part of an object, which a schema describes or none does.
    #[must_use]
    pub fn json(mut self, name: &'a str, value: &'a serde_json::Value, schema: Option<&'a Schema>) -> Self {
        let value = match schema {
            Some(schema) => schema.read(value),
            None => Ok(Value::of_json(value)),
        };
        self.values.push((name, value));
        self
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Result<Value<'a>, EvalError>> {
        self.values.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| value)
    }
}

/// An expression that can be evaluated, any number of times at once.
pub struct Program {
    checked: Checked,
    plan: Plan,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").field("result", self.result_type()).finish_non_exhaustive()
    }
}

impl Program {
    pub(crate) fn new(checked: Checked, plan: Plan) -> Self {
        Self { checked, plan }
    }

    /// The type of the result.
    #[must_use]
    pub fn result_type(&self) -> &Type {
        self.checked.of(&self.checked.root)
    }

    /// Whether the expression looks at a variable.
    #[must_use]
    pub fn uses(&self, variable: &str) -> bool {
        self.plan.variables.iter().any(|(_, name)| **name == *variable)
    }

    /// Whether the expression names a field of a variable anywhere, `variable.field` or `variable.?field`.
    #[must_use]
    pub fn selects(&self, variable: &str, field: &str) -> bool {
        let of_variable = |expr: &Expr| matches!(&expr.kind, Kind::Ident(name) if **name == *variable);
        let mut found = false;
        self.checked.root.walk(&mut |expr| {
            found |= match &expr.kind {
                Kind::Select(select) => of_variable(&select.operand) && *select.field == *field,
                Kind::Call(call) => match &call.args[..] {
                    [operand, named] if *call.function == *operator::OPT_SELECT => {
                        of_variable(operand) && named.string().is_some_and(|named| **named == *field)
                    }
                    _ => false,
                },
                _ => false,
            };
        });
        found
    }

    /// The least and the most that an evaluation may cost.
    #[must_use]
    pub fn estimate(&self, sizes: &dyn Sizes) -> Estimate {
        estimate::estimate(&self.checked, sizes)
    }

    /// The value for these variables, and what it cost. The cost is also that of an evaluation that failed.
    pub fn evaluate<'a>(&'a self, activation: &Activation<'a>, budget: u64) -> (Result<Value<'a>, EvalError>, u64) {
        eval::evaluate(&self.plan, activation, budget)
    }

    /// Names of the variables that the expression looks at.
    pub fn variables(&self) -> impl Iterator<Item = &Arc<str>> {
        self.plan.variables.iter().map(|(_, name)| name)
    }
}
