//! Values. What comes from an object is borrowed from its JSON, and read only where an expression touches it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde_json::Value as Json;

use crate::functions::extension::Extension;
use crate::functions::time::Time;
use crate::schema::{ListType, Schema};
use crate::types::Type;

/// A text: a part of the object, or made while evaluating.
#[derive(Clone)]
pub enum Text<'a> {
    Lent(&'a str),
    Own(Arc<str>),
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Lent(text) => text,
            Self::Own(text) => text,
        }
    }
}

/// Fields of an object that are worked out when they are asked for (`variables` of a policy).
pub trait Fields: Sync {
    /// The value of a field; `None` if there is none.
    fn field<'s>(&'s self, name: &str) -> Option<Result<Value<'s>, EvalError>>;
}

/// A value.
#[derive(Clone)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Text<'a>),
    Bytes(Arc<[u8]>),
    /// In nanoseconds.
    Duration(i64),
    Timestamp(Time),
    List(List<'a>),
    Map(Map<'a>),
    Optional(Option<Arc<Value<'a>>>),
    Type(Arc<str>),
    /// A URL, an address, a quantity …
    Extension(Extension),
    /// Of a field whose contents the schema does not know.
    Preserved(&'a Json),
    Lazy(&'a (dyn Fields + 'a)),
}

/// An error of an evaluation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EvalError {
    /// Upstream's words.
    Failed(Cow<'static, str>),
    /// The budget is used up.
    Budget,
}

impl fmt::Display for EvalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(text) => f.write_str(text),
            Self::Budget => f.write_str("operation cancelled: actual cost limit exceeded"),
        }
    }
}

impl std::error::Error for EvalError {}

pub(crate) type Res<'a> = Result<Value<'a>, EvalError>;

pub(crate) const fn fail(text: &'static str) -> EvalError {
    EvalError::Failed(Cow::Borrowed(text))
}

pub(crate) fn failure(text: String) -> EvalError {
    EvalError::Failed(Cow::Owned(text))
}

pub(crate) const NO_OVERLOAD: EvalError = fail("no such overload");

/// How a list compares and adds up.
#[derive(Clone, Copy, Default)]
pub(crate) enum Listing<'a> {
    #[default]
    Atomic,
    Set,
    Map(&'a [String]),
}

#[derive(Clone)]
pub struct List<'a> {
    pub(crate) items: Items<'a>,
    pub(crate) listing: Listing<'a>,
}

#[derive(Clone)]
pub(crate) enum Items<'a> {
    Json(&'a [Json], Option<&'a Schema>),
    Own(Arc<Vec<Value<'a>>>),
}

impl<'a> List<'a> {
    pub(crate) fn own(items: Vec<Value<'a>>) -> Self {
        Self { items: Items::Own(Arc::new(items)), listing: Listing::Atomic }
    }

    /// How many items there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.items {
            Items::Json(items, _) => items.len(),
            Items::Own(items) => items.len(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An item; `None` beyond the end.
    ///
    /// # Errors
    /// The item is not what its schema says.
    pub fn get(&self, index: usize) -> Option<Result<Value<'a>, EvalError>> {
        match &self.items {
            Items::Json(items, schema) => items.get(index).map(|item| read(item, *schema)),
            Items::Own(items) => items.get(index).cloned().map(Ok),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Res<'a>> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    pub(crate) fn collect(&self) -> Result<Vec<Value<'a>>, EvalError> {
        self.iter().collect()
    }

    pub(crate) fn append(&mut self, item: Value<'a>) -> Result<(), EvalError> {
        if !matches!(self.items, Items::Own(_)) {
            self.items = Items::Own(Arc::new(self.collect()?));
        }
        if let Items::Own(items) = &mut self.items {
            Arc::make_mut(items).push(item);
        }
        Ok(())
    }
}

#[derive(Clone)]
pub struct Map<'a>(pub(crate) Pairs<'a>);

#[derive(Clone)]
pub(crate) enum Pairs<'a> {
    Json(&'a serde_json::Map<String, Json>, Option<&'a Schema>),
    Own(Arc<OwnMap<'a>>),
}

/// A map that an expression made, in the order of insertion.
#[derive(Clone, Default)]
pub(crate) struct OwnMap<'a> {
    /// The object type that it is a value of.
    of: Option<Arc<str>>,
    entries: Vec<(Value<'a>, Value<'a>)>,
    index: HashMap<Key, usize>,
}

/// What a key is found by: numbers that are equal are the same key.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    Bool(bool),
    Number(i128),
    Double(u64),
    Text(Arc<str>),
}

impl Key {
    pub(crate) fn of(value: &Value<'_>) -> Option<Self> {
        Some(match value {
            Value::Bool(value) => Self::Bool(*value),
            Value::Int(value) => Self::Number(i128::from(*value)),
            Value::Uint(value) => Self::Number(i128::from(*value)),
            Value::Double(value) if value.fract() == 0.0 && value.abs() < 1.9e19 => Self::Number(*value as i128),
            Value::Double(value) => Self::Double(value.to_bits()),
            Value::String(Text::Own(text)) => Self::Text(text.clone()),
            Value::String(text) => Self::Text((&**text).into()),
            _ => return None,
        })
    }
}

impl<'a> OwnMap<'a> {
    pub(crate) fn of_type(self, name: Arc<str>) -> Self {
        Self { of: Some(name), ..self }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn get(&self, key: &Value<'_>) -> Option<&Value<'a>> {
        // A few texts are found sooner by looking at each.
        if let Value::String(wanted) = key
            && self.entries.len() <= 8
        {
            let found = self.entries.iter().find(|(key, _)| matches!(key, Value::String(key) if **key == **wanted));
            return found.map(|(_, value)| value);
        }
        self.index.get(&Key::of(key)?).map(|at| &self.entries[*at].1)
    }

    /// Sets a key's value.
    pub(crate) fn set(&mut self, key: Value<'a>, value: Value<'a>) -> Result<(), EvalError> {
        let found = Key::of(&key).ok_or_else(|| failure(format!("unsupported key type: {}", key.type_name())))?;
        match self.index.get(&found) {
            Some(at) => self.entries[*at].1 = value,
            None => {
                self.index.insert(found, self.entries.len());
                self.entries.push((key, value));
            }
        }
        Ok(())
    }
}

impl<'a> Map<'a> {
    pub(crate) fn own(map: OwnMap<'a>) -> Self {
        Self(Pairs::Own(Arc::new(map)))
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Pairs::Json(map, _) => map.len(),
            Pairs::Own(map) => map.len(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The object type whose value an expression made; `None`: it is no object.
    #[must_use]
    pub fn object_type(&self) -> Option<&str> {
        match &self.0 {
            Pairs::Own(map) => map.of.as_deref(),
            Pairs::Json(..) => None,
        }
    }

    /// The value of a key.
    ///
    /// # Errors
    /// The value is not what its schema says, or the key can be none of this map.
    pub fn get(&self, key: &Value<'_>) -> Option<Result<Value<'a>, EvalError>> {
        match &self.0 {
            Pairs::Own(map) => map.get(key).cloned().map(Ok),
            Pairs::Json(map, schema) => match key {
                Value::String(name) => get_field(map, *schema, name),
                _ if schema.is_some() => Some(Err(NO_OVERLOAD)),
                _ => None,
            },
        }
    }

    /// The value of a key that is a text.
    pub(crate) fn field(&self, name: &str) -> Option<Res<'a>> {
        match &self.0 {
            Pairs::Own(map) => map.get(&Value::String(Text::Lent(name))).cloned().map(Ok),
            Pairs::Json(map, schema) => get_field(map, *schema, name),
        }
    }

    /// All keys that expressions see.
    #[must_use]
    pub fn keys(&self) -> Vec<Value<'a>> {
        match &self.0 {
            Pairs::Own(map) => map.entries.iter().map(|(key, _)| key.clone()).collect(),
            Pairs::Json(map, None) => map.keys().map(|key| Value::String(Text::Lent(key))).collect(),
            Pairs::Json(map, Some(schema)) => map.keys().filter_map(|key| schema.key(key)).collect(),
        }
    }

    pub(crate) fn entries(&self) -> Result<Vec<(Value<'a>, Value<'a>)>, EvalError> {
        let entry = |key: Value<'a>| self.get(&key).map(|value| value.map(|value| (key, value)));
        self.keys().into_iter().filter_map(entry).collect()
    }
}

fn get_field<'a>(map: &'a serde_json::Map<String, Json>, schema: Option<&'a Schema>, name: &str) -> Option<Res<'a>> {
    let Some(schema) = schema else { return map.get(name).map(|value| Ok(Value::of_json(value))) };
    let (value, schema) = schema.field(map, name)?;
    Some(read(value, Some(schema)))
}

fn read<'a>(value: &'a Json, schema: Option<&'a Schema>) -> Res<'a> {
    match schema {
        Some(schema) => schema.read(value),
        None => Ok(Value::of_json(value)),
    }
}

impl<'a> Value<'a> {
    /// A value that no schema describes.
    #[must_use]
    pub fn of_json(value: &'a Json) -> Self {
        match value {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => match number.as_i64() {
                Some(value) => Self::Int(value),
                None => Self::Double(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Self::String(Text::Lent(text)),
            Json::Array(items) => Self::List(List { items: Items::Json(items, None), listing: Listing::Atomic }),
            Json::Object(map) => Self::Map(Map(Pairs::Json(map, None))),
        }
    }

    /// An array that a schema describes.
    pub(crate) fn of_array(items: &'a [Json], schema: &'a Schema, list_type: ListType) -> Self {
        let listing = match list_type {
            ListType::Atomic => Listing::Atomic,
            ListType::Set => Listing::Set,
            ListType::Map => Listing::Map(&schema.list_map_keys),
        };
        let schema = if schema.open { Some(schema) } else { schema.items.as_deref() };
        Self::List(List { items: Items::Json(items, schema), listing })
    }

    pub(crate) fn of_object(map: &'a serde_json::Map<String, Json>, schema: &'a Schema) -> Self {
        Self::Map(Map(Pairs::Json(map, Some(schema))))
    }

    /// A text made while evaluating.
    pub(crate) fn text(text: impl Into<Arc<str>>) -> Self {
        Self::String(Text::Own(text.into()))
    }

    pub(crate) fn list(items: Vec<Value<'a>>) -> Self {
        Self::List(List::own(items))
    }

    pub(crate) fn texts(items: impl IntoIterator<Item = String>) -> Self {
        Self::list(items.into_iter().map(Self::text).collect())
    }

    /// An optional with this value in it.
    #[must_use]
    pub fn some(self) -> Self {
        Self::Optional(Some(Arc::new(self)))
    }

    /// Whether it is `true`; `None` if it is no boolean.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The text, if it is one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The same value, as long as `self` lives: texts are not counted.
    pub(crate) fn lend<'s>(&'s self) -> Value<'s>
    where
        'a: 's,
    {
        match self {
            Self::String(Text::Own(text)) => Value::String(Text::Lent(text)),
            other => other.clone(),
        }
    }

    /// The name of its type.
    #[must_use]
    pub fn type_name(&self) -> Arc<str> {
        match self.simple_type() {
            Some(simple) => simple.name().into(),
            None => match self {
                Self::List(_) => "list".into(),
                Self::Map(map) => map.object_type().unwrap_or("map").into(),
                Self::Optional(_) => "optional_type".into(),
                Self::Extension(extension) => extension.type_name().into(),
                Self::Preserved(_) => "unknown".into(),
                _ => "kubernetes.variables".into(),
            },
        }
    }

    fn simple_type(&self) -> Option<Type> {
        Some(match self {
            Self::Null => Type::Null,
            Self::Bool(_) => Type::Bool,
            Self::Int(_) => Type::Int,
            Self::Uint(_) => Type::Uint,
            Self::Double(_) => Type::Double,
            Self::String(_) => Type::String,
            Self::Bytes(_) => Type::Bytes,
            Self::Duration(_) => Type::Duration,
            Self::Timestamp(_) => Type::Timestamp,
            Self::Type(_) => Type::Type(None),
            _ => return None,
        })
    }

    /// Whether it may be given where a function declares `wanted`.
    pub(crate) fn fits(&self, wanted: &Type) -> bool {
        match (wanted, self) {
            (Type::Dyn | Type::Param(_), _) => true,
            (Type::List(item), Self::List(list)) => match list.get(0) {
                Some(Ok(first)) => first.fits(item),
                Some(Err(_)) => false,
                None => true,
            },
            (Type::Object(name), Self::Map(map)) => map.object_type() == Some(name),
            (Type::Map(key, value), Self::Map(map)) => match map.keys().first() {
                Some(first) if !first.fits(key) => false,
                Some(first) => map.get(first).is_none_or(|found| found.is_ok_and(|found| found.fits(value))),
                None => true,
            },
            (Type::Optional(_), Self::Optional(_)) | (Type::Type(_), Self::Type(_)) => true,
            (Type::Object(name) | Type::Opaque(name), Self::Extension(extension)) => **name == *extension.type_name(),
            (wanted, value) => value.simple_type().is_some_and(|simple| simple == *wanted),
        }
    }

    /// How much of it there is: characters, bytes, items; 1 of anything else. What costs are counted by.
    pub(crate) fn size(&self) -> u64 {
        self.length().unwrap_or_else(|| match self {
            Self::Optional(Some(inner)) => inner.size(),
            Self::Extension(extension) => extension.size(),
            _ => 1,
        })
    }

    /// What `size()` answers.
    pub(crate) fn length(&self) -> Option<u64> {
        let length = match self {
            Self::String(text) => length(text),
            Self::Bytes(bytes) => bytes.len(),
            Self::List(list) => list.len(),
            Self::Map(map) => map.len(),
            _ => return None,
        };
        Some(length as u64)
    }

    /// Whether it is what its type begins with: 0, "", [].
    pub(crate) fn is_zero(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Bool(value) => !value,
            Self::Int(value) | Self::Duration(value) => *value == 0,
            Self::Uint(value) => *value == 0,
            Self::Double(value) => *value == 0.0,
            Self::String(text) => text.is_empty(),
            Self::Bytes(bytes) => bytes.is_empty(),
            Self::List(List { items: Items::Own(items), .. }) => items.is_empty(),
            Self::Map(Map(Pairs::Own(map))) => map.len() == 0,
            Self::List(List { items: Items::Json(items, None), .. }) => items.is_empty(),
            Self::Map(Map(Pairs::Json(map, None))) => map.is_empty(),
            Self::Timestamp(time) => time.is_zero(),
            _ => false,
        }
    }
}

/// Characters of a text.
pub(crate) fn length(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.chars().count() }
}
