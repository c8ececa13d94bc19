//! The checker: a type for each node, and what each name and call means. Upstream: cel-go's `checker`.

use std::sync::Arc;

use crate::ast::{Call, Entry, Expr, Field, Fold, Id, Kind, Literal, Select, operator};
use crate::env::Env;
use crate::escape::reserved;
use crate::functions::table::{Function, Overload};
use crate::parse::Tree;
use crate::source::Issues;
use crate::types::{Bindings, Type, most_general, signature};

/// What a node stands for.
#[derive(Clone)]
pub(crate) enum Reference {
    /// A variable of the environment, by its place there.
    Variable(usize),
    /// A name that a comprehension gives.
    Local,
    Type(Arc<str>),
    Call {
        function: &'static Function,
        overloads: Vec<&'static Overload>,
        /// The target is a part of the name.
        qualified: bool,
    },
}

/// An expression that has been checked.
pub(crate) struct Checked {
    pub(crate) root: Expr,
    pub(crate) places: Vec<u32>,
    types: Vec<Type>,
    references: Vec<Option<Reference>>,
}

impl Checked {
    pub(crate) fn of(&self, expr: &Expr) -> &Type {
        self.types.get(expr.id as usize).unwrap_or(&Type::Dyn)
    }

    pub(crate) fn reference(&self, expr: &Expr) -> Option<&Reference> {
        self.references.get(expr.id as usize)?.as_ref()
    }

    pub(crate) fn place(&self, id: Id) -> u32 {
        self.places.get(id as usize).copied().unwrap_or(0)
    }
}

pub(crate) fn check(env: &Env, tree: Tree, issues: &mut Issues<'_>) -> Checked {
    let count = tree.places.len();
    let mut checker = Checker {
        env,
        issues,
        places: &tree.places,
        bindings: Bindings::default(),
        types: vec![Type::Error; count],
        references: vec![None; count],
        scopes: Vec::new(),
    };
    checker.check(&tree.root);
    let types = checker.types.iter().map(|ty| checker.bindings.substitute(ty, true)).collect();
    let references = checker.references;
    Checked { root: tree.root, places: tree.places, types, references }
}

struct Checker<'c, 's> {
    env: &'c Env,
    issues: &'c mut Issues<'s>,
    places: &'c [u32],
    bindings: Bindings,
    types: Vec<Type>,
    references: Vec<Option<Reference>>,
    /// Names that comprehensions give, the innermost last.
    scopes: Vec<(Arc<str>, Type)>,
}

impl Checker<'_, '_> {
    fn report(&mut self, id: Id, message: String) {
        let place = self.places.get(id as usize).copied().unwrap_or(0);
        self.issues.report(place, message);
    }

    fn set(&mut self, expr: &Expr, ty: Type) {
        self.types[expr.id as usize] = ty;
    }

    fn get(&self, expr: &Expr) -> Type {
        self.types[expr.id as usize].clone()
    }

    fn refer(&mut self, expr: &Expr, reference: Reference) {
        self.references[expr.id as usize] = Some(reference);
    }

    fn fresh(&mut self) -> Type {
        Type::Param(self.bindings.fresh())
    }

    fn mismatch(&mut self, at: Id, expected: &Type, found: &Type) {
        self.report(at, format!("expected type '{expected}' but found '{found}'"));
    }

    fn undeclared(&mut self, expr: &Expr, name: &str) {
        self.set(expr, Type::Error);
        self.report(expr.id, format!("undeclared reference to '{name}' (in container '')"));
    }

    fn check(&mut self, expr: &Expr) {
        match &expr.kind {
            Kind::Missing => self.set(expr, Type::Error),
            Kind::Literal(literal) => self.set(expr, type_of(literal)),
            Kind::Ident(name) => self.ident(expr, name),
            Kind::Select(select) => self.select(expr, select),
            Kind::Call(call) => self.call(expr, call),
            Kind::List { items, optional } => self.list(expr, items, optional),
            Kind::Map(entries) => self.map(expr, entries),
            Kind::Struct { name, fields } => self.structure(expr, name, fields),
            Kind::Fold(fold) => self.fold(expr, fold),
        }
    }

    /// What a name means, locals first unless a dot is before it.
    fn resolve(&self, name: &str) -> Option<(Reference, Type)> {
        if let Some((_, ty)) = self.scopes.iter().rev().find(|(known, _)| **known == *name) {
            return Some((Reference::Local, ty.clone()));
        }
        self.resolve_global(name.strip_prefix('.').unwrap_or(name))
    }

    fn resolve_global(&self, name: &str) -> Option<(Reference, Type)> {
        if let Some(at) = self.env.variables.iter().position(|(known, _)| **known == *name) {
            return Some((Reference::Variable(at), self.env.variables[at].1.clone()));
        }
        let ty = named_type(name, self.env.minor)
            .or_else(|| self.env.objects.contains_key(name).then(|| Type::object(name)))?;
        let runtime = ty.name().into();
        Some((Reference::Type(runtime), Type::Type(Some(Arc::new(ty)))))
    }

    fn ident(&mut self, expr: &Expr, name: &str) {
        match self.resolve(name) {
            Some((reference, ty)) => {
                self.refer(expr, reference);
                self.set(expr, ty);
            }
            None => self.undeclared(expr, name),
        }
    }

    fn select(&mut self, expr: &Expr, select: &Select) {
        // A variable or type may have a name with dots.
        if let Some(name) = qualified(expr)
            && let Some(first) = name.split('.').find(|part| !part.is_empty())
            && !self.scopes.iter().any(|(known, _)| **known == *first)
            && let Some((reference, ty)) = self.resolve_global(name.trim_start_matches('.'))
        {
            self.refer(expr, reference);
            return self.set(expr, ty);
        }
        let ty = self.field(expr, &select.operand, &select.field, false);
        let ty = if select.test { Type::Bool } else { self.bindings.substitute(&ty, false) };
        self.set(expr, ty);
    }

    fn field(&mut self, expr: &Expr, operand: &Expr, field: &str, optional: bool) -> Type {
        self.check(operand);
        let operand = self.bindings.substitute(&self.get(operand), false);
        let (target, was_optional) = operand.unwrap_optional();
        let ty = match &target {
            Type::Map(_, value) => (**value).clone(),
            Type::Object(name) => self.object_field(expr, name, field),
            Type::Param(_) => {
                self.bindings.assignable(&Type::Dyn, &target);
                Type::Dyn
            }
            Type::Dyn | Type::Error => Type::Dyn,
            other => {
                self.report(expr.id, format!("type '{other}' does not support field selection"));
                Type::Dyn
            }
        };
        if was_optional || optional { Type::optional(ty) } else { ty }
    }

    fn object_field(&mut self, expr: &Expr, object: &str, field: &str) -> Type {
        if self.env.is_open(object) {
            return Type::Dyn;
        }
        let found = self.env.objects.get(object).and_then(|fields| {
            fields.get(field).or_else(|| reserved(field).then(|| fields.get(&*format!("__{field}__"))).flatten())
        });
        match found {
            Some(ty) => ty.clone(),
            None if self.env.objects.contains_key(object) => {
                self.report(expr.id, format!("undefined field '{field}'"));
                Type::Error
            }
            None => {
                self.report(expr.id, format!("unexpected failed resolution of '{object}'"));
                Type::Error
            }
        }
    }

    fn call(&mut self, expr: &Expr, call: &Call) {
        if &*call.function == operator::OPT_SELECT {
            return self.optional_select(expr, call);
        }
        for arg in &call.args {
            self.check(arg);
        }
        let name = call.function.strip_prefix('.').unwrap_or(&call.function);
        let Some(target) = &call.target else {
            return match self.env.function(name) {
                Some(function) => self.overload(expr, function, None, &call.args, false),
                None => self.undeclared(expr, &call.function),
            };
        };
        if let Some(prefix) = qualified(target)
            && let Some(function) = self.env.function(&format!("{}.{name}", prefix.trim_start_matches('.')))
        {
            return self.overload(expr, function, None, &call.args, true);
        }
        self.check(target);
        match self.env.function(name) {
            Some(function) => self.overload(expr, function, Some(target), &call.args, false),
            None => self.undeclared(expr, &call.function),
        }
    }

    fn optional_select(&mut self, expr: &Expr, call: &Call) {
        let [operand, field] = call.args.as_slice() else { return };
        let Some(name) = field.string() else { return };
        let name = name.clone();
        let ty = self.field(expr, operand, &name, true);
        let ty = self.bindings.substitute(&ty, false);
        self.set(expr, ty);
        self.set(field, Type::String);
    }

    /// Finds out which overloads of a function a call may mean.
    fn overload(
        &mut self,
        expr: &Expr,
        function: &'static Function,
        target: Option<&Expr>,
        args: &[Expr],
        qualified: bool,
    ) {
        let given: Vec<Type> = target.into_iter().chain(args).map(|arg| self.get(arg)).collect();
        if matches!(function.name, operator::AND | operator::OR) {
            return self.logical(expr, function, args, &given);
        }
        let mut found = Vec::new();
        let mut result: Option<Type> = None;
        for overload in function.declared(self.env.minor) {
            if overload.member != target.is_some() {
                continue;
            }
            let (wanted, returned) = self.instance(overload);
            if !self.bindings.all_assignable(&given, &wanted) {
                continue;
            }
            found.push(overload);
            let returned = self.bindings.substitute(&returned, false);
            result = Some(match result {
                Some(known) if !known.is_dyn() && known != returned => Type::Dyn,
                Some(known) => known,
                None => returned,
            });
        }
        match result {
            Some(result) => {
                self.refer(expr, Reference::Call { function, overloads: found, qualified });
                self.set(expr, result);
            }
            None => {
                let given: Vec<Type> = given.iter().map(|ty| self.bindings.substitute(ty, true)).collect();
                let given = signature(&given, target.is_some());
                self.set(expr, Type::Error);
                self.report(
                    expr.id,
                    format!("found no matching overload for '{}' applied to '{given}'", function.name),
                );
            }
        }
    }

    fn logical(&mut self, expr: &Expr, function: &'static Function, args: &[Expr], given: &[Type]) {
        let mut good = true;
        for (arg, given) in args.iter().zip(given) {
            if !self.bindings.assignable(given, &Type::Bool) {
                let found = given.clone();
                self.mismatch(arg.id, &Type::Bool, &found);
                good = false;
            }
        }
        let overloads = function.overloads.iter().collect();
        self.refer(expr, Reference::Call { function, overloads, qualified: false });
        self.set(expr, if good { Type::Bool } else { Type::Error });
    }

    /// An overload's types with parameters of their own.
    fn instance(&mut self, overload: &'static Overload) -> (Vec<Type>, Type) {
        if overload.parameters == 0 {
            return (overload.args.clone(), overload.result.clone());
        }
        let fresh: Vec<u32> = (0..overload.parameters).map(|_| self.bindings.fresh()).collect();
        let args = overload.args.iter().map(|ty| renamed(ty, &fresh)).collect();
        (args, renamed(&overload.result, &fresh))
    }

    fn join(&mut self, before: Option<Type>, next: Type) -> Type {
        let Some(before) = before else { return next };
        if self.bindings.assignable(&before, &next) {
            return most_general(before, next);
        }
        // Mixed types are refused where literals are looked at, but for arguments of `format`.
        Type::Dyn
    }

    /// The type within, where an entry is marked as optional.
    fn entry_type(&mut self, expr: &Expr, optional: bool) -> Type {
        let ty = self.get(expr);
        if !optional {
            return ty;
        }
        let (inner, is_optional) = ty.unwrap_optional();
        if !is_optional && !inner.is_dyn() {
            self.mismatch(expr.id, &Type::optional(inner.clone()), &inner);
        }
        inner
    }

    fn list(&mut self, expr: &Expr, items: &[Expr], optional: &[bool]) {
        let mut all = None;
        for (at, item) in items.iter().enumerate() {
            self.check(item);
            let ty = self.entry_type(item, optional.get(at).copied().unwrap_or_default());
            all = Some(self.join(all, ty));
        }
        let all = all.unwrap_or_else(|| self.fresh());
        self.set(expr, Type::list(all));
    }

    fn map(&mut self, expr: &Expr, entries: &[Entry]) {
        let (mut keys, mut values) = (None, None);
        for entry in entries {
            self.check(&entry.key);
            let key = self.get(&entry.key);
            keys = Some(self.join(keys, key));
            self.check(&entry.value);
            let value = self.entry_type(&entry.value, entry.optional);
            values = Some(self.join(values, value));
        }
        let keys = keys.unwrap_or_else(|| self.fresh());
        let values = values.unwrap_or_else(|| self.fresh());
        self.set(expr, Type::map(keys, values));
    }

    fn structure(&mut self, expr: &Expr, name: &str, fields: &[Field]) {
        let object = name.strip_prefix('.').unwrap_or(name);
        if !self.env.objects.contains_key(object) && !self.env.is_open(object) {
            return match named_type(object, self.env.minor) {
                Some(other) => {
                    self.set(expr, Type::Error);
                    self.report(expr.id, format!("'{other}' is not a message type"));
                    for field in fields {
                        self.report(field.id, format!("unexpected failed resolution of '{object}'"));
                    }
                }
                None => self.undeclared(expr, name),
            };
        }
        self.set(expr, Type::object(object));
        for field in fields {
            self.check(&field.value);
            let at = Expr { id: field.id, kind: Kind::Missing };
            let declared = self.object_field(&at, object, &field.name);
            let given = self.entry_type(&field.value, field.optional);
            if !self.bindings.assignable(&declared, &given) {
                let message =
                    format!("expected type of field '{}' is '{declared}' but provided type is '{given}'", field.name);
                self.report(field.id, message);
            }
        }
    }

    fn fold(&mut self, expr: &Expr, fold: &Fold) {
        self.check(&fold.range);
        self.check(&fold.init);
        let range = self.bindings.substitute(&self.get(&fold.range), false);
        let accu = self.get(&fold.init);
        self.scopes.push((fold.accu.clone(), accu.clone()));
        let (first, second) = self.iterated(fold, &range);
        self.scopes.push((fold.var.clone(), first));
        if let Some(var2) = &fold.var2 {
            self.scopes.push((var2.clone(), second));
        }
        self.check(&fold.condition);
        self.assert(&fold.condition, &Type::Bool);
        self.check(&fold.step);
        self.assert(&fold.step, &accu);
        let inner = 1 + usize::from(fold.var2.is_some());
        self.scopes.truncate(self.scopes.len() - inner);
        self.check(&fold.result);
        self.scopes.pop();
        let result = self.bindings.substitute(&self.get(&fold.result), false);
        self.set(expr, result);
    }

    /// The types of a comprehension's variables.
    fn iterated(&mut self, fold: &Fold, range: &Type) -> (Type, Type) {
        let two = fold.var2.is_some();
        match range {
            Type::List(item) if two => (Type::Int, (**item).clone()),
            Type::List(item) => ((**item).clone(), Type::Dyn),
            Type::Map(key, value) => ((**key).clone(), (**value).clone()),
            Type::Dyn | Type::Error | Type::Param(_) => {
                self.bindings.assignable(&Type::Dyn, range);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                self.report(
                    fold.range.id,
                    format!(
                        "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                    ),
                );
                (Type::Error, Type::Error)
            }
        }
    }

    fn assert(&mut self, expr: &Expr, wanted: &Type) {
        let found = self.get(expr);
        if !self.bindings.assignable(wanted, &found) {
            self.mismatch(expr.id, wanted, &found);
        }
    }
}

fn type_of(literal: &Literal) -> Type {
    match literal {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::String(_) => Type::String,
        Literal::Bytes(_) => Type::Bytes,
    }
}

/// `a.b.c`, if an expression is no more than that.
fn qualified(expr: &Expr) -> Option<String> {
    match &expr.kind {
        Kind::Ident(name) => Some(name.to_string()),
        Kind::Select(select) if !select.test => Some(format!("{}.{}", qualified(&select.operand)?, select.field)),
        _ => None,
    }
}

/// Types that have names.
fn named_type(name: &str, minor: u8) -> Option<Type> {
    Some(match name {
        "bool" => Type::Bool,
        "bytes" => Type::Bytes,
        "double" => Type::Double,
        "google.protobuf.Duration" => Type::Duration,
        "int" => Type::Int,
        "list" => Type::list(Type::Dyn),
        "map" => Type::map(Type::Dyn, Type::Dyn),
        "null_type" => Type::Null,
        "string" => Type::String,
        "google.protobuf.Timestamp" => Type::Timestamp,
        "type" => Type::Type(None),
        "uint" => Type::Uint,
        "optional_type" if minor >= 28 => Type::optional(Type::Dyn),
        "net.IP" | "net.CIDR" if minor >= 30 => Type::Opaque(name.into()),
        _ => return None,
    })
}

/// A declared type with other parameters.
fn renamed(ty: &Type, to: &[u32]) -> Type {
    let inner = |ty: &Arc<Type>| Arc::new(renamed(ty, to));
    match ty {
        Type::Param(at) => Type::Param(to.get(*at as usize).copied().unwrap_or(*at)),
        Type::List(item) => Type::List(inner(item)),
        Type::Optional(item) => Type::Optional(inner(item)),
        Type::Map(key, value) => Type::Map(inner(key), inner(value)),
        Type::Type(Some(of)) => Type::Type(Some(inner(of))),
        other => other.clone(),
    }
}
