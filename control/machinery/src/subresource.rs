//! Subresources: parts of an object, other views of it, and what can be done to it.

use std::sync::Arc;

use serde_json::Value;

use crate::{FieldError, GroupResource, Name, Status, Verbs, admission::Lookup, schema::Schema, table::Cell};

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
    /// A POST that deletes the object if that disturbs nobody, with the options in its body.
    Evict(Schema, &'static dyn Evict),
    /// A POST that issues a token for the object.
    Token(Schema),
    /// What the object's node says.
    Node(NodeCall, &'static dyn OnNode),
    /// Any request, which goes on to what is behind the object.
    Proxy(&'static dyn Behind),
}

impl Handler {
    /// The type of its bodies, where that is not the object's.
    #[must_use]
    pub fn schema(&self) -> Option<&Schema> {
        match self {
            Self::View(view) => Some(view.schema()),
            Self::Write(schema, _) | Self::Evict(schema, _) | Self::Token(schema) => Some(schema),
            Self::Part | Self::Node(..) | Self::Proxy(_) => None,
        }
    }

    /// An earlier `apiVersion` of its bodies that is taken as well.
    #[must_use]
    pub fn earlier_version(&self) -> Option<&'static str> {
        matches!(self, Self::Evict(..)).then_some("policy/v1beta1")
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

    /// The one part of the object that the view can change, where it is one: its path in the view and in the object.
    fn part(&self) -> Option<(Vec<String>, Vec<String>)> {
        None
    }

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

/// Whether an object may be evicted, and what that costs.
pub trait Evict: Send + Sync {
    /// Decides on `obj`, which has its version.
    ///
    /// # Errors
    /// Why it has to stay.
    fn evict(&self, obj: &Value, cluster: &mut dyn Lookup) -> Result<Evicted, Status>;
}

/// An eviction that may be.
#[derive(Clone, Debug, PartialEq)]
pub struct Evicted {
    /// The object as it is while it goes.
    pub object: Value,
    /// What is written in the same transaction: resource, and the object as stored.
    pub beside: Vec<(GroupResource<'static>, Value)>,
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

/// Where requests go that are made to an object itself.
pub trait Behind: Send + Sync {
    /// The place behind `id`, the object's name as the path has it: `[scheme:]name[:port]`.
    ///
    /// # Errors
    /// There is no such object, or nothing behind it.
    fn locate(&self, id: &str, namespace: Option<&str>, cluster: &mut dyn Lookup) -> Result<Target, Status>;
}

/// A place that requests go on to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// The node from which it is reached.
    pub node: String,
    /// What is there.
    pub place: Place,
}

/// What requests go on to, as seen from a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// The node's agent itself.
    Agent,
    /// A server.
    Server {
        /// Whether it speaks TLS. Nobody can tell whose certificate it should have: any will do, as upstream.
        tls: bool,
        /// Its address.
        host: String,
        /// Its port.
        port: u16,
    },
}
