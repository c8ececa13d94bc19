//! What a schema declares to the checker: a type, the object types within it, and bounds on sizes for estimates.
//! Upstream: `k8s.io/apiserver/pkg/cel/common/schemas.go`.

use std::collections::HashMap;
use std::sync::Arc;

use crate::escape::escape;
use crate::estimate::{Size, Sizes};
use crate::schema::{Kind, Schema};
use crate::types::Type;

/// The largest request that is accepted, in bytes.
const MAX_REQUEST: i64 = 3 * 1024 * 1024;

/// An object type: its fields by their identifiers.
pub type Fields = HashMap<Arc<str>, Type>;

/// What a schema declares.
#[derive(Clone, Debug)]
pub struct Declaration {
    pub ty: Type,
    /// By name.
    pub objects: Vec<(Arc<str>, Fields)>,
    pub bounds: Bounds,
}

/// Bounds on the sizes within a value.
#[derive(Clone, Debug, Default)]
pub struct Bounds {
    /// Items, characters or bytes at most.
    pub max: u64,
    /// The shortest that it can be written, in bytes.
    pub min_size: i64,
    fields: HashMap<Arc<str>, Bounds>,
    keys: bool,
    items: Option<Box<Bounds>>,
}

impl Bounds {
    fn scalar(min_size: i64, max: i64) -> Self {
        Self { max: max.max(0).unsigned_abs(), min_size, ..Self::default() }
    }

    fn at(&self, step: &str) -> Option<&Self> {
        match step {
            "@items" | "@values" => self.items.as_deref(),
            _ => self.fields.get(step),
        }
    }

    /// How often at most such a value can occur in one object.
    #[must_use]
    pub fn max_cardinality(&self) -> u64 {
        u64::try_from(MAX_REQUEST / (self.min_size + 1)).unwrap_or(0)
    }
}

/// Paths begin with the variable (`self`, `oldSelf`), which is this value.
impl Sizes for Bounds {
    fn size(&self, path: &[Arc<str>]) -> Option<Size> {
        let mut bounds = self;
        for step in path.get(1..)? {
            if &**step == "@keys" {
                // Keys are texts without a bound.
                return bounds.keys.then_some(Size { min: 0, max: 0 });
            }
            bounds = bounds.at(step)?;
        }
        Some(Size { min: 0, max: bounds.max })
    }
}

/// What `schema` declares under `name`; `root`: it is a resource. `None`: expressions do not see it.
#[must_use]
pub fn declare(schema: &Schema, name: &str, root: bool) -> Option<Declaration> {
    let mut objects = Vec::new();
    let (ty, bounds) = of(schema, name, root, &mut objects)?;
    Some(Declaration { ty, objects, bounds })
}

type Objects = Vec<(Arc<str>, Fields)>;

fn of(schema: &Schema, name: &str, root: bool, objects: &mut Objects) -> Option<(Type, Bounds)> {
    if schema.int_or_string {
        let max = schema.max_length.map_or(MAX_REQUEST - 2, |length| length.max(0).saturating_mul(4));
        return Some((Type::Dyn, Bounds::scalar(1, max)));
    }
    if root {
        return object(&schema.clone().with_type_and_meta(), name, objects);
    }
    match schema.kind {
        Kind::Array => array(schema, name, objects),
        Kind::Object => object(schema, name, objects),
        Kind::String => Some(text(schema)),
        Kind::Boolean => Some((Type::Bool, Bounds::scalar(4, 0))),
        Kind::Number => Some((Type::Double, Bounds::scalar(1, 0))),
        Kind::Integer => Some((Type::Int, Bounds::scalar(1, 0))),
        Kind::Unset => None,
    }
}

fn array(schema: &Schema, name: &str, objects: &mut Objects) -> Option<(Type, Bounds)> {
    let items = schema.items.as_deref()?;
    let (item, inner) = of(items, &format!("{name}.@idx"), items.embedded, objects)?;
    let max = schema.max_items.unwrap_or_else(|| (MAX_REQUEST - 2) / (inner.min_size + 1));
    let bounds = Bounds { items: Some(Box::new(inner)), ..Bounds::scalar(2, max) };
    Some((Type::list(item), bounds))
}

fn object(schema: &Schema, name: &str, objects: &mut Objects) -> Option<(Type, Bounds)> {
    if let Some(additional) = schema.additional.as_deref() {
        let (value, inner) = of(additional, &format!("{name}.@elem"), additional.embedded, objects)?;
        let max = schema.max_properties.unwrap_or_else(|| (MAX_REQUEST - 2) / (inner.min_size + 6));
        let bounds = Bounds { items: Some(Box::new(inner)), keys: true, ..Bounds::scalar(2, max) };
        return Some((Type::map(Type::String, value), bounds));
    }
    let (mut fields, mut bounds) = (Fields::new(), Bounds::scalar(2, 0));
    for (property, inner) in schema.properties.iter().flatten() {
        let Some(field) = escape(property) else { continue };
        let Some((ty, of)) = of(inner, &format!("{name}.{field}"), inner.embedded, objects) else { continue };
        if schema.required.contains(property) && !inner.has_default {
            bounds.min_size += i64::try_from(property.len()).unwrap_or(0) + of.min_size + 4;
        }
        let field: Arc<str> = field.into();
        fields.insert(field.clone(), ty);
        bounds.fields.insert(field, of);
    }
    let name: Arc<str> = name.into();
    objects.push((name.clone(), fields));
    Some((Type::Object(name), bounds))
}

fn text(schema: &Schema) -> (Type, Bounds) {
    let longest = |otherwise: i64| schema.max_length.map_or(otherwise, |length| length.max(0));
    match schema.format.as_str() {
        "byte" => (Type::Bytes, Bounds::scalar(2, longest(MAX_REQUEST - 2))),
        "duration" => (Type::Duration, Bounds::scalar(3, 32)),
        "date" => (Type::Timestamp, Bounds::scalar(12, 12)),
        "date-time" => (Type::Timestamp, Bounds::scalar(21, 32)),
        _ => {
            let max = match (schema.max_length, schema.longest_enum) {
                (Some(length), _) => length.max(0).saturating_mul(4),
                (None, Some(longest)) => i64::try_from(longest).unwrap_or(i64::MAX),
                (None, None) => MAX_REQUEST - 2,
            };
            (Type::String, Bounds::scalar(2, max))
        }
    }
}
