//! Structural schemas (KEP-1693): the types of kinds that came at run time.
//!
//! ```text
//! format, regex    texts: named formats, patterns in Go's language
//!    │
//! node             a schema, compiled
//!    │
//! fit, judge, embedded, shape    what a value becomes, what is wrong with it, how it is divided
//! ```
//!
//! Invariants
//! - A schema is compiled when it is first used, without what only documents need; patterns when they are first asked.
//! - Work on a value is bounded by the value and the schema: no step follows a reference, patterns run in linear time.
//! - Whatever JSON a schema is made of, compiling it does not fail: what is not understood restricts nothing.

mod embedded;
mod fit;
mod format;
mod judge;
mod node;
mod shape;

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

pub use embedded::judge_embedded;
pub use judge::{judge, judge_lists};
pub use node::{Additional, Limits, Lists, Node, Types};
use serde_json::Value;

use super::conform::Problems;
use super::shape::Shape;
use crate::FieldError;

/// What is wrong with a default, by the schema (as JSON) that it stands in. `at`: the path of the default.
#[must_use]
pub fn judge_default(schema: &Value, default: &Value, at: &str) -> Vec<FieldError> {
    let node = Node::of(schema);
    if fit::is_pruned(&node, default) {
        return judge(&node, default, None, at);
    }
    vec![FieldError::invalid(at, default.clone(), "must be pruned")]
}

/// Gives a schema as JSON (`JSONSchemaProps` of apiextensions v1), each time it is asked.
pub type Source = Arc<dyn Fn() -> Value + Send + Sync>;

/// A structural schema that is compiled when it is first used.
#[derive(Clone)]
pub struct Structural(Arc<Lazy>);

struct Lazy {
    source: Source,
    node: OnceLock<Node>,
    shape: OnceLock<Shape>,
}

impl fmt::Debug for Structural {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Structural")
    }
}

impl Structural {
    /// The schema that `source` gives.
    #[must_use]
    pub fn new(source: Source) -> Self {
        Self(Arc::new(Lazy { source, node: OnceLock::new(), shape: OnceLock::new() }))
    }

    /// It, compiled.
    #[must_use]
    pub fn node(&self) -> &Node {
        self.0.node.get_or_init(|| Node::of(&(self.0.source)()))
    }

    /// It, as it was written.
    #[must_use]
    pub fn source(&self) -> Value {
        (self.0.source)()
    }

    pub(super) fn shape(&self) -> &Shape {
        self.0.shape.get_or_init(|| shape::of_root(self.clone()))
    }

    pub(super) fn check(&self, value: &Value) -> Problems {
        fit::check(self.node(), value)
    }

    /// See [`super::Schema::normalize`].
    pub fn normalize(&self, value: &mut Value) {
        fit::normalize(self.node(), value);
    }

    /// Gives an object its defaults.
    pub fn default(&self, value: &mut Value) {
        fit::default(self.node(), value);
    }
}
