//! CEL as Kubernetes 1.37 has it: parse, check, estimate, evaluate within a budget.
//!
//! ```text
//! text ─ lex, parse ─► tree ─ check ─► types and meanings ─ plan ─► nodes ─ eval ─► value, cost
//!              macros ┘                       └─ validate        └─ estimate ─► bounds of the cost
//! ```
//!
//! Invariants
//! - Messages, places and costs are upstream's (cel-go 0.29, `k8s.io/apiserver/pkg/cel`): rules are stored and refused by
//!   them.
//! - Nothing here panics on what a user wrote: nesting, length and cost are bounded before work is done.
//! - No clock, no I/O, no state: what an expression sees is its activation.
//!
//! Not here: which variables a policy or a rule has, what is done with a result.

mod ast;
mod check;
mod cost;
mod declare;
mod env;
mod equal;
mod escape;
mod estimate;
mod estimate_calls;
mod eval;
mod functions;
mod json;
mod lex;
mod macros;
mod parse;
mod plan;
mod program;
mod schema;
mod show;
mod source;
mod types;
mod unescape;
mod validate;
mod value;

pub use declare::{Bounds, Declaration, Fields as ObjectFields, declare};
pub use env::{CURRENT, Env};
pub use escape::{escape, reserved, unescape};
pub use estimate::{Estimate, Range, Size, Sizes, Unbounded};
pub use functions::authz::{
    Attributes, Authorizer, Decision, authorizer_types, authorizer_value, request_resource_value,
};
pub use functions::extension::{Cidr, Extension, Quantity};
pub use functions::re2;
pub use functions::time::Time;
pub use program::{Activation, PER_CALL_LIMIT, Program};
pub use schema::{Kind, ListType, Schema};
pub use source::{CompileError, Issue};
pub use types::Type;
pub use value::{EvalError, Fields, List, Map, Text, Value};
