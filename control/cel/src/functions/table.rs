//! The table of functions: each library gives its rows, the environment picks those of its version.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use crate::types::Type;
use crate::value::{Res, Value};

/// What runs. Receivers are the first argument.
pub(crate) type Func = for<'a> fn(&[Value<'a>]) -> Res<'a>;

/// An overload as a library declares it: `receiver.(argument, …)` of a method.
pub(crate) struct Row {
    /// Kubernetes' minor version, from which on it is there, and that from which on it is gone.
    pub(crate) since: u8,
    pub(crate) function: &'static str,
    pub(crate) id: &'static str,
    /// `string.(int) -> list(A)`
    pub(crate) signature: &'static str,
    pub(crate) run: Func,
}

pub(crate) const fn row(
    since: u8,
    function: &'static str,
    id: &'static str,
    signature: &'static str,
    run: Func,
) -> Row {
    Row { since, function, id, signature, run }
}

pub(crate) struct Overload {
    pub(crate) since: u8,
    pub(crate) id: &'static str,
    pub(crate) member: bool,
    pub(crate) args: Vec<Type>,
    pub(crate) result: Type,
    /// How many parameters its types have.
    pub(crate) parameters: u32,
    pub(crate) run: Func,
}

pub(crate) struct Function {
    pub(crate) name: &'static str,
    pub(crate) overloads: Vec<Overload>,
    /// All overloads run the same, which itself looks at what it gets.
    pub(crate) shared: bool,
}

impl Function {
    pub(crate) fn declared(&self, minor: u8) -> impl Iterator<Item = &Overload> {
        self.overloads.iter().filter(move |overload| overload.since <= minor)
    }
}

static FUNCTIONS: LazyLock<HashMap<&'static str, Function>> = LazyLock::new(|| {
    let mut functions: HashMap<&'static str, Function> = HashMap::new();
    let comparisons = super::standard::COMPARISONS.iter().map(|rows| (rows.as_slice(), true));
    let libraries = [
        (super::standard::SHARED, true),
        (super::standard::ROWS, false),
        (super::times::ROWS, false),
        (super::strings::ROWS, false),
        (super::lists::ROWS, false),
        (super::lists::SHARED, true),
        (super::kubernetes::ROWS, false),
        (super::net::ROWS, false),
        (super::url::ROWS, false),
        (super::semver::ROWS, false),
        (super::named::ROWS, false),
        (super::authz::ROWS, false),
    ];
    for (rows, shared) in libraries.into_iter().chain(comparisons) {
        for row in rows {
            let entry = functions.entry(row.function);
            let function = entry.or_insert(Function { name: row.function, overloads: Vec::new(), shared });
            function.overloads.push(overload(row));
        }
    }
    functions
});

/// A function that a version of Kubernetes knows.
pub(crate) fn function(name: &str, minor: u8) -> Option<&'static Function> {
    FUNCTIONS.get(name).filter(|function| function.declared(minor).next().is_some())
}

fn overload(row: &Row) -> Overload {
    let mut reader = Signature { rest: row.signature, parameters: Vec::new() };
    let mut args = Vec::new();
    let member = !row.signature.starts_with('(');
    if member {
        args.push(reader.ty());
        reader.skip(".");
    }
    reader.skip("(");
    while !reader.rest.starts_with(')') {
        args.push(reader.ty());
        reader.skip(", ");
    }
    reader.skip(") -> ");
    let result = reader.ty();
    let parameters = u32::try_from(reader.parameters.len()).unwrap_or(0);
    Overload { since: row.since, id: row.id, member, args, result, parameters, run: row.run }
}

struct Signature {
    rest: &'static str,
    parameters: Vec<char>,
}

impl Signature {
    fn skip(&mut self, text: &str) {
        self.rest = self.rest.strip_prefix(text).unwrap_or(self.rest);
    }

    fn ty(&mut self) -> Type {
        let name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (word, rest) = self.rest.split_at(self.rest.find(|c| !name(c)).unwrap_or(self.rest.len()));
        self.rest = rest;
        let object = |name: &str| Type::Object(name.into());
        match word {
            "list" => Type::List(self.inner()),
            "opt" => Type::Optional(self.inner()),
            "type" => Type::Type(Some(self.inner())),
            "map" => {
                self.skip("(");
                let key = Arc::new(self.ty());
                self.skip(", ");
                let value = Arc::new(self.ty());
                self.skip(")");
                Type::Map(key, value)
            }
            "bool" => Type::Bool,
            "int" => Type::Int,
            "uint" => Type::Uint,
            "double" => Type::Double,
            "string" => Type::String,
            "bytes" => Type::Bytes,
            "duration" => Type::Duration,
            "timestamp" => Type::Timestamp,
            "dyn" => Type::Dyn,
            "ip" => Type::Opaque("net.IP".into()),
            "cidr" => Type::Opaque("net.CIDR".into()),
            "url" => object("kubernetes.URL"),
            "quantity" => object("kubernetes.Quantity"),
            "semver" => object("kubernetes.Semver"),
            "format" => object("kubernetes.NamedFormat"),
            "authorizer" => object("kubernetes.authorization.Authorizer"),
            "path" => object("kubernetes.authorization.PathCheck"),
            "group" => object("kubernetes.authorization.GroupCheck"),
            "resource" => object("kubernetes.authorization.ResourceCheck"),
            "decision" => object("kubernetes.authorization.Decision"),
            parameter => {
                let letter = parameter.chars().next().unwrap_or('?');
                let known = self.parameters.iter().position(|known| *known == letter);
                let at = known.unwrap_or_else(|| {
                    self.parameters.push(letter);
                    self.parameters.len() - 1
                });
                Type::Param(u32::try_from(at).unwrap_or(0))
            }
        }
    }

    fn inner(&mut self) -> Arc<Type> {
        self.skip("(");
        let inner = self.ty();
        self.skip(")");
        Arc::new(inner)
    }
}

/// A run for what the evaluator does itself.
pub(crate) fn never<'a>(_: &[Value<'a>]) -> Res<'a> {
    Err(crate::value::NO_OVERLOAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_read() {
        for (name, index, expect) in [
            ("split", 1, "string.(string, int) -> list(string)"),
            ("sets.contains", 0, "(list(_var0), list(_var0)) -> bool"),
            ("getQuery", 0, "kubernetes.URL.() -> map(string, list(string))"),
            ("type", 0, "(_var0) -> type(_var0)"),
            ("optional.none", 0, "() -> optional_type(_var0)"),
        ] {
            let function = function(name, 37).unwrap();
            let overload = &function.overloads[index];
            let text = crate::types::signature(&overload.args, overload.member);
            assert_eq!(format!("{text} -> {}", overload.result), expect);
        }
        assert!(function("includes", 36).is_none());
        assert!(function("cel.bind", 37).is_none());
    }
}
