//! Types as the checker knows them, and how they are spelled.

use std::fmt;
use std::sync::Arc;

/// A type. `Object` is a type with named fields, which the environment knows by this name.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Type {
    Dyn,
    /// Of an expression that did not check.
    Error,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Duration,
    Timestamp,
    List(Arc<Type>),
    Map(Arc<Type>, Arc<Type>),
    Optional(Arc<Type>),
    /// The type of a type.
    Type(Option<Arc<Type>>),
    Object(Arc<str>),
    /// A type without fields that is not built in (`net.IP`).
    Opaque(Arc<str>),
    /// A type that is not known yet.
    Param(u32),
}

impl Type {
    /// `list(item)`
    #[must_use]
    pub fn list(item: Type) -> Self {
        Self::List(Arc::new(item))
    }

    /// `map(key, value)`
    #[must_use]
    pub fn map(key: Type, value: Type) -> Self {
        Self::Map(Arc::new(key), Arc::new(value))
    }

    /// `optional_type(inner)`
    #[must_use]
    pub fn optional(inner: Type) -> Self {
        Self::Optional(Arc::new(inner))
    }

    /// An object type by its name.
    #[must_use]
    pub fn object(name: &str) -> Self {
        Self::Object(name.into())
    }

    pub(crate) fn is_dyn(&self) -> bool {
        matches!(self, Self::Dyn)
    }

    pub(crate) fn is_dyn_or_error(&self) -> bool {
        matches!(self, Self::Dyn | Self::Error)
    }

    /// The inner type of an optional one, and whether it was one.
    pub(crate) fn unwrap_optional(&self) -> (Type, bool) {
        match self {
            Self::Optional(inner) => ((**inner).clone(), true),
            other => (other.clone(), false),
        }
    }

    /// Whether a value of it has always the same size.
    pub(crate) fn is_scalar(&self) -> bool {
        match self {
            Self::Bool | Self::Double | Self::Duration | Self::Int | Self::Timestamp | Self::Uint => true,
            Self::Optional(inner) => inner.is_scalar(),
            _ => false,
        }
    }

    /// The name of values' type at run time, without parameters.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Dyn => "dyn",
            Self::Error => "error",
            Self::Null => "null_type",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Double => "double",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::Duration => "google.protobuf.Duration",
            Self::Timestamp => "google.protobuf.Timestamp",
            Self::List(_) => "list",
            Self::Map(..) => "map",
            Self::Optional(_) => "optional_type",
            Self::Type(_) => "type",
            Self::Object(name) | Self::Opaque(name) => name,
            Self::Param(_) => "param",
        }
    }

    pub(crate) fn parameters(&self) -> Vec<&Type> {
        match self {
            Self::List(item) | Self::Optional(item) => vec![item],
            Self::Map(key, value) => vec![key, value],
            Self::Type(Some(inner)) => vec![inner],
            _ => Vec::new(),
        }
    }

    fn spelled(&self, f: &mut fmt::Formatter<'_>, name: &str, inner: fn(&Type) -> String) -> fmt::Result {
        let parameters = self.parameters();
        if parameters.is_empty() {
            return f.write_str(name);
        }
        let parameters: Vec<_> = parameters.into_iter().map(inner).collect();
        write!(f, "{name}({})", parameters.join(", "))
    }

    /// Spelled with the full names of the well-known types, as upstream's `Type.String`.
    #[must_use]
    pub fn full(&self) -> String {
        Full(self).to_string()
    }
}

struct Full<'a>(&'a Type);

impl fmt::Display for Full<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Type::Param(id) => write!(f, "<_var{id}>"),
            other => other.spelled(f, other.name(), Type::full),
        }
    }
}

/// As the checker's messages spell types.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Duration => f.write_str("duration"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Error => f.write_str("!error!"),
            Self::Null => f.write_str("null"),
            Self::Param(id) => write!(f, "_var{id}"),
            other => other.spelled(f, other.name(), ToString::to_string),
        }
    }
}

/// A signature's arguments: `(int, string)`, or `string.(int)` of a member.
pub(crate) fn signature(arguments: &[Type], member: bool) -> String {
    let (target, arguments) = match arguments.split_first() {
        Some((target, rest)) if member => (format!("{target}."), rest),
        _ => (String::new(), arguments),
    };
    let arguments: Vec<_> = arguments.iter().map(ToString::to_string).collect();
    format!("{target}({})", arguments.join(", "))
}

/// Bindings of type parameters, with a trail by which a failed attempt is undone.
#[derive(Default)]
pub(crate) struct Bindings {
    bound: Vec<Option<Type>>,
    trail: Vec<(u32, Option<Type>)>,
}

impl Bindings {
    pub(crate) fn fresh(&mut self) -> u32 {
        self.bound.push(None);
        u32::try_from(self.bound.len() - 1).unwrap_or(u32::MAX)
    }

    fn find(&self, id: u32) -> Option<&Type> {
        self.bound.get(id as usize)?.as_ref()
    }

    fn bind(&mut self, id: u32, to: Type) {
        let before = self.bound[id as usize].replace(to);
        self.trail.push((id, before));
    }

    fn attempt(&mut self, what: impl FnOnce(&mut Self) -> bool) -> bool {
        let mark = self.trail.len();
        if what(self) {
            return true;
        }
        while self.trail.len() > mark {
            if let Some((id, before)) = self.trail.pop() {
                self.bound[id as usize] = before;
            }
        }
        false
    }

    /// Whether a value of `from` may stand where `to` is wanted; binds parameters if so.
    pub(crate) fn assignable(&mut self, from: &Type, to: &Type) -> bool {
        self.attempt(|this| this.assign(from, to))
    }

    /// [`Bindings::assignable`] of each pair, or of none.
    pub(crate) fn all_assignable(&mut self, from: &[Type], to: &[Type]) -> bool {
        from.len() == to.len() && self.attempt(|this| from.iter().zip(to).all(|(from, to)| this.assign(from, to)))
    }

    fn assign(&mut self, from: &Type, to: &Type) -> bool {
        if let Type::Param(id) = to {
            let (valid, bound) = self.substitutes(from, *id);
            if valid || bound {
                return valid;
            }
        }
        if let Type::Param(id) = from {
            return self.substitutes(to, *id).0;
        }
        match (from, to) {
            (a, b) if a.is_dyn_or_error() || b.is_dyn_or_error() => true,
            (Type::Null, other) | (other, Type::Null) => nullable(other),
            (Type::Type(_), Type::Type(_)) => true,
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => self.assign(a, b),
            (Type::Map(a, b), Type::Map(c, d)) => self.assign(a, c) && self.assign(b, d),
            (a, b) => a == b,
        }
    }

    /// Whether `other` may be what parameter `id` stands for, and whether the parameter stood for something.
    fn substitutes(&mut self, other: &Type, id: u32) -> (bool, bool) {
        let param = Type::Param(id);
        if *other == param {
            return (true, true);
        }
        if let Some(bound) = self.find(id).cloned() {
            if *other == bound {
                return (true, true);
            }
            if !self.assign(other, &bound) {
                return (false, true);
            }
            let general = most_general(other.clone(), bound);
            if !self.occurs(id, &general) {
                self.bind(id, general);
            }
            return (true, true);
        }
        if self.occurs(id, other) {
            return (false, false);
        }
        self.bind(id, other.clone());
        (true, false)
    }

    fn occurs(&self, id: u32, within: &Type) -> bool {
        match within {
            Type::Param(other) if *other == id => true,
            Type::Param(other) => self.find(*other).is_some_and(|bound| self.occurs(id, bound)),
            other => other.parameters().into_iter().any(|inner| self.occurs(id, inner)),
        }
    }

    /// The type with what its parameters are known to be; `to_dyn`: and with `dyn` for those that nobody knows.
    pub(crate) fn substitute(&self, of: &Type, to_dyn: bool) -> Type {
        let inner = |inner: &Arc<Type>| Arc::new(self.substitute(inner, to_dyn));
        match of {
            Type::Param(id) => match self.find(*id) {
                Some(bound) => self.substitute(bound, to_dyn),
                None if to_dyn => Type::Dyn,
                None => of.clone(),
            },
            Type::List(item) => Type::List(inner(item)),
            Type::Optional(item) => Type::Optional(inner(item)),
            Type::Map(key, value) => Type::Map(inner(key), inner(value)),
            Type::Type(Some(of)) => Type::Type(Some(inner(of))),
            other => other.clone(),
        }
    }
}

fn nullable(of: &Type) -> bool {
    matches!(of, Type::Null | Type::Opaque(_) | Type::Object(_) | Type::Optional(_) | Type::Duration | Type::Timestamp)
}

/// The more general of two types that go together.
pub(crate) fn most_general(a: Type, b: Type) -> Type {
    if less_specific(&a, &b) { a } else { b }
}

fn less_specific(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Dyn | Type::Param(_), _) | (Type::Type(_), Type::Type(_)) => true,
        (_, Type::Dyn | Type::Param(_)) => false,
        (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => less_specific(a, b),
        (Type::Map(a, b), Type::Map(c, d)) => less_specific(a, c) && less_specific(b, d),
        (a, b) => a == b,
    }
}
