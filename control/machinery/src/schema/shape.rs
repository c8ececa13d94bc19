//! Which forms a value may have, and how it is divided among those who own parts of it.
//!
//! A [`Shape`] is what server-side apply needs of a type, and all that it needs: a built-in type has one
//! ([`Schema::shape`]), and whatever else describes types can make one of these parts.
//!
//! Invariants
//! - A shape with several forms (free-form values) is narrowed by the value that is looked at.
//! - Fields are worked out when they are first asked for: types may refer to each other in circles.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, LazyLock, OnceLock},
};

use serde_json::Value;

use super::{Field, Presence, Schema, Topology, Type};

/// What a value may be. Cheap to clone.
#[derive(Clone)]
pub struct Shape(Arc<Forms>);

/// The forms of a shape. None at all: nothing fits.
#[derive(Default)]
pub struct Forms {
    /// A scalar of this kind.
    pub scalar: Option<Scalar>,
    /// A list.
    pub list: Option<ListShape>,
    /// A map or a struct.
    pub map: Option<MapShape>,
}

/// Kinds of scalars.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scalar {
    /// A string.
    String,
    /// A number.
    Numeric,
    /// A boolean.
    Boolean,
    /// Any of them.
    Untyped,
}

/// How a list is divided.
#[derive(Clone, PartialEq, Debug)]
pub enum Relation {
    /// Not at all.
    Atomic,
    /// By its items, which are scalars.
    Set,
    /// By what its items have at these keys.
    Keyed(Vec<Key>),
}

/// A key of a list's items.
#[derive(Clone, PartialEq, Debug)]
pub struct Key {
    /// Name of the field.
    pub name: String,
    /// What it is when it is not there.
    pub default: Option<Value>,
}

/// The shape of items or values.
enum Item {
    None,
    Of(Shape),
    /// Anything.
    Free,
    /// Anything, within what is one value.
    Undivided,
}

impl Item {
    fn get(&self) -> Option<&Shape> {
        match self {
            Self::None => None,
            Self::Of(shape) => Some(shape),
            Self::Free => Some(Shape::free()),
            Self::Undivided => Some(undivided()),
        }
    }
}

impl From<Option<Shape>> for Item {
    fn from(shape: Option<Shape>) -> Self {
        shape.map_or(Self::None, Self::Of)
    }
}

/// A list.
pub struct ListShape {
    /// How it is divided.
    pub relation: Relation,
    item: Item,
}

impl ListShape {
    /// Of its items.
    #[must_use]
    pub fn item(&self) -> Option<&Shape> {
        self.item.get()
    }
}

type Fields = BTreeMap<String, Shape>;

/// A map or a struct.
pub struct MapShape {
    /// Whether it is not divided.
    pub atomic: bool,
    item: Item,
    fields: LazyLock<Fields, Box<dyn FnOnce() -> Fields + Send>>,
}

impl MapShape {
    fn new(atomic: bool, item: Item, fields: impl FnOnce() -> Fields + Send + 'static) -> Self {
        Self { atomic, item, fields: LazyLock::new(Box::new(fields)) }
    }

    /// Its fields by name.
    #[must_use]
    pub fn fields(&self) -> &BTreeMap<String, Shape> {
        &self.fields
    }

    /// Of values at keys that are no fields. `None`: there are none.
    #[must_use]
    pub fn item(&self) -> Option<&Shape> {
        self.item.get()
    }

    /// Of what lies at `key`.
    #[must_use]
    pub fn at(&self, key: &str) -> Option<&Shape> {
        self.fields().get(key).or_else(|| self.item())
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Forms { scalar, list, map } = self.forms();
        let list = list.as_ref().map(|list| &list.relation);
        f.debug_tuple("Shape").field(scalar).field(&list).field(&map.as_ref().map(|map| map.atomic)).finish()
    }
}

impl Shape {
    /// Its forms.
    #[must_use]
    pub fn forms(&self) -> &Forms {
        &self.0
    }

    /// A scalar.
    #[must_use]
    pub fn scalar(scalar: Scalar) -> Self {
        Self::new(Forms { scalar: Some(scalar), ..Forms::default() })
    }

    /// A list.
    #[must_use]
    pub fn list(item: Self, relation: Relation) -> Self {
        Self::new(Forms { list: Some(ListShape { item: Item::Of(item), relation }), ..Forms::default() })
    }

    /// A map with free keys.
    #[must_use]
    pub fn map(item: Self, atomic: bool) -> Self {
        Self::new(Forms { map: Some(MapShape::new(atomic, Item::Of(item), Fields::new)), ..Forms::default() })
    }

    /// A struct, and a map with free keys beside its fields if there is an `item`.
    #[must_use]
    pub fn fields(
        atomic: bool,
        item: Option<Self>,
        fields: impl FnOnce() -> BTreeMap<String, Self> + Send + 'static,
    ) -> Self {
        Self::new(Forms { map: Some(MapShape::new(atomic, item.into(), fields)), ..Forms::default() })
    }

    /// Anything: maps are divided, lists are not.
    #[must_use]
    pub fn free() -> &'static Self {
        static FREE: OnceLock<Shape> = OnceLock::new();
        FREE.get_or_init(|| anything(false, Item::Free))
    }

    /// Whether it is [`Self::free`]: what is there says nothing about how it is divided.
    #[must_use]
    pub fn is_free(&self) -> bool {
        Arc::ptr_eq(&self.0, &Self::free().0)
    }

    fn new(forms: Forms) -> Self {
        Self(Arc::new(forms))
    }
}

/// Anything, within what is one value.
fn undivided() -> &'static Shape {
    static UNDIVIDED: OnceLock<Shape> = OnceLock::new();
    UNDIVIDED.get_or_init(|| anything(true, Item::Undivided))
}

fn anything(atomic: bool, item: Item) -> Shape {
    Shape::new(Forms {
        scalar: Some(Scalar::Untyped),
        list: Some(ListShape { item: Item::Undivided, relation: Relation::Atomic }),
        map: Some(MapShape::new(atomic, item, Fields::new)),
    })
}

/// The shape of a built-in type.
pub(super) fn of_schema(schema: &Schema) -> Shape {
    of_struct(schema, schema.is_atomic())
}

fn of_struct(schema: &Schema, atomic: bool) -> Shape {
    let schema = schema.clone();
    Shape::fields(atomic, None, move || {
        schema.fields().iter().map(|(name, field)| (name.clone(), of_field(field))).collect()
    })
}

fn of_field(field: &Field) -> Shape {
    let atomic = field.topology == Topology::Atomic;
    match &field.ty {
        Type::Struct(schema) if atomic => of_struct(schema, true),
        Type::Map(item) => Shape::map(of_type(item), atomic),
        Type::List(item) => Shape::list(of_type(item), relation(&field.topology, item)),
        other => of_type(other),
    }
}

fn of_type(ty: &Type) -> Shape {
    match ty {
        Type::Any => Shape::free().clone(),
        Type::Bool => Shape::scalar(Scalar::Boolean),
        Type::Int32 | Type::Int64 | Type::Float => Shape::scalar(Scalar::Numeric),
        Type::String | Type::Bytes => Shape::scalar(Scalar::String),
        Type::Time | Type::MicroTime | Type::Quantity | Type::IntOrString => Shape::scalar(Scalar::Untyped),
        Type::List(item) => Shape::list(of_type(item), Relation::Atomic),
        Type::Map(item) => Shape::map(of_type(item), false),
        Type::Struct(schema) => schema.shape().clone(),
    }
}

fn relation(topology: &Topology, item: &Type) -> Relation {
    let field = |name: &str| match item {
        Type::Struct(schema) => schema.field(name),
        _ => None,
    };
    match topology {
        Topology::Plain | Topology::Atomic => Relation::Atomic,
        Topology::Set => Relation::Set,
        Topology::Keyed(keys) => {
            let key = |name: &String| Key { name: name.clone(), default: field(name).and_then(default) };
            Relation::Keyed(keys.iter().map(key).collect())
        }
    }
}

/// What a key is when it is not there: what the type says, or the zero value of what is always printed.
fn default(field: &Field) -> Option<Value> {
    let zero = || match field.ty {
        Type::String => Some(Value::from("")),
        Type::Int32 | Type::Int64 | Type::Float => Some(Value::from(0)),
        Type::Bool => Some(Value::from(false)),
        _ => None,
    };
    match &field.default {
        Some(text) => Some(text.as_str().into()),
        None if field.presence == Presence::Always || field.required => zero(),
        None => None,
    }
}
