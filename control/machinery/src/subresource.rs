//! Subresources: parts of an object, other views of it, and what can be done to it.

use std::sync::Arc;

use serde_json::Value;

use crate::{FieldError, Name, Status, Verbs, schema::Schema, table::Cell};

/// A subresource, as discovery shows it, with what serves it.
#[derive(Clone)]
pub struct Subresource {
    /// Name, e.g. `status`.
    pub name: Name,
    /// Group of its kind.
    pub group: Name,
    /// Version of its kind.
    pub version: Name,
    /// Its kind, e.g. `Scale`; the object's own for a part.
    pub kind: Name,
    /// Its verbs.
    pub verbs: Verbs,
    /// What serves it.
    pub handler: Handler,
}

/// What serves a subresource.
#[derive(Clone)]
pub enum Handler {
    /// A part of the object, of the object's own type: the strategy says what an update of it may change.
    Part,
    /// The object in another shape.
    View(Arc<dyn View>),
    /// A POST that writes the object anew.
    Write(Schema, &'static dyn Write),
    /// A POST that deletes the object, with the options in its body.
    Evict(Schema),
    /// A POST that issues a token for the object.
    Token(Schema),
    /// What the object's node says.
    Node(NodeCall, &'static dyn OnNode),
}

impl Handler {
    /// The type of its bodies, where that is not the object's.
    #[must_use]
    pub fn schema(&self) -> Option<&Schema> {
        match self {
            Self::View(view) => Some(view.schema()),
            Self::Write(schema, _) | Self::Evict(schema) | Self::Token(schema) => Some(schema),
            Self::Part | Self::Node(..) => None,
        }
    }

    /// An earlier `apiVersion` of its bodies that is taken as well.
    #[must_use]
    pub fn earlier_version(&self) -> Option<&'static str> {
        matches!(self, Self::Evict(_)).then_some("policy/v1beta1")
    }
}

/// The object in another shape, which can be read and written.
pub trait View: Send + Sync {
    /// Type of the view.
    fn schema(&self) -> &Schema;

    /// The object's view.
    fn of(&self, obj: &Value) -> Value;

    /// Checks a sent view, in upstream's words and order.
    fn check(&self, sent: &Value) -> Vec<FieldError>;

    /// Takes what a view says over into the object. Version and uid of the view are preconditions.
    fn apply(&self, obj: &mut Value, sent: &Value);

    /// Column definitions of its Table.
    fn columns(&self) -> Value;

    /// The cells of its Table.
    fn row(&self, view: &Value) -> Vec<Cell>;
}

/// Writes an object anew from what a POST to a subresource says.
pub trait Write: Send + Sync {
    /// Checks what was sent. Findings are answered as of the sent kind.
    fn check(&self, sent: &Value) -> Vec<FieldError>;

    /// The object as it is to be; `obj` has its version.
    ///
    /// # Errors
    /// Why it may not be so.
    fn write(&self, obj: &Value, sent: &Value, now: &str) -> Result<Value, Status>;
}

/// What a node can be asked about an object on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NodeCall {
    /// Text of a container.
    Log,
    /// An upgraded stream: a command in a container, its main process, or ports. The subresource's name says which.
    Stream,
}

/// Where an object runs.
pub trait OnNode: Send + Sync {
    /// Name of its node; empty if it has none.
    fn node<'a>(&self, obj: &'a Value) -> &'a str;

    /// The container that is meant by `wanted`, which may be empty.
    ///
    /// # Errors
    /// There is no such container, or more than one could be meant.
    fn container(&self, obj: &Value, wanted: &str) -> Result<String, Status>;
}
