//! What an evaluation may cost, by bounds on sizes. Upstream: cel-go's `checker/cost.go`,
//! `k8s.io/apiserver/pkg/cel/library/cost.go`: an API, since rules are refused by these figures.

use std::collections::HashMap;
use std::sync::Arc;

use crate::ast::{ACCUMULATOR, Call, Expr, Fold, Id, Kind, Literal};
use crate::check::{Checked, Reference};
use crate::cost::{LIST, MAP, STRUCT};
use crate::estimate_calls::Node;
use crate::types::Type;

/// A range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    pub min: u64,
    pub max: u64,
}

/// Of a cost.
pub type Estimate = Range;
/// Of a size.
pub type Size = Range;

/// Who knows bounds on sizes of what variables hold.
pub trait Sizes {
    /// The size at a path: a variable, then fields, `@items`, `@keys`, `@values`.
    fn size(&self, path: &[Arc<str>]) -> Option<Size>;
}

/// Nothing is known.
pub struct Unbounded;

impl Sizes for Unbounded {
    fn size(&self, _: &[Arc<str>]) -> Option<Size> {
        None
    }
}

impl Range {
    pub(crate) const ZERO: Self = Self::fixed(0);
    pub(crate) const ONE: Self = Self::fixed(1);
    pub(crate) const UNKNOWN: Self = Self { min: 0, max: u64::MAX };

    /// Just so much.
    #[must_use]
    pub const fn fixed(value: u64) -> Self {
        Self { min: value, max: value }
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    pub(crate) fn times(self, other: Self) -> Self {
        Self { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    /// Rounded up.
    pub(crate) fn scaled(self, factor: f64) -> Self {
        let scale = |value: u64| {
            let product = (value as f64 * factor).ceil();
            if product >= 18_446_744_073_709_551_616.0 { u64::MAX } else { product as u64 }
        };
        Self { min: scale(self.min), max: scale(self.max) }
    }

    pub(crate) fn or(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// Sizes of what is in a list or map.
#[derive(Clone, Copy)]
pub(crate) struct EntrySize {
    list: bool,
    key: Size,
    value: Size,
}

impl EntrySize {
    fn or(self, other: Self) -> Self {
        Self { list: self.list, key: self.key.or(other.key), value: self.value.or(other.value) }
    }
}

type Path = Vec<Arc<str>>;

#[derive(Clone)]
struct Local {
    name: Arc<str>,
    path: Path,
    size: Option<Size>,
    entry: Option<EntrySize>,
}

pub(crate) struct Estimator<'e> {
    pub(crate) checked: &'e Checked,
    pub(crate) sizes: &'e dyn Sizes,
    paths: HashMap<Id, Path>,
    locals: Vec<Local>,
    computed: HashMap<Id, Size>,
    entries: HashMap<Id, EntrySize>,
}

pub(crate) fn estimate(checked: &Checked, sizes: &dyn Sizes) -> Estimate {
    let mut estimator = Estimator {
        checked,
        sizes,
        paths: HashMap::new(),
        locals: Vec::new(),
        computed: HashMap::new(),
        entries: HashMap::new(),
    };
    estimator.cost(&checked.root)
}

impl Estimator<'_> {
    fn cost(&mut self, expr: &Expr) -> Estimate {
        match &expr.kind {
            Kind::Missing | Kind::Literal(_) => Range::ZERO,
            Kind::Ident(name) => {
                let path = self.local(name).map_or_else(|| vec![name.clone()], |local| local.path.clone());
                self.paths.insert(expr.id, path);
                Range::ONE
            }
            Kind::Select(_) => self.select(expr),
            Kind::Call(call) => self.call(expr, call),
            Kind::List { items, .. } => self.list(expr, items),
            Kind::Map(entries) => {
                let pairs: Vec<(&Expr, &Expr)> = entries.iter().map(|entry| (&entry.key, &entry.value)).collect();
                self.map(expr, &pairs)
            }
            Kind::Struct { fields, .. } => {
                let sum = fields.iter().fold(Range::ZERO, |sum, field| sum.plus(self.cost(&field.value)));
                sum.plus(Range::fixed(STRUCT))
            }
            Kind::Fold(fold) if fold.is_bind() && *fold.accu != *ACCUMULATOR => self.bind(expr, fold),
            Kind::Fold(fold) => self.fold(expr, fold),
        }
    }

    fn local(&self, name: &str) -> Option<&Local> {
        self.locals.iter().rev().find(|local| *local.name == *name)
    }

    fn path(&self, expr: &Expr) -> Path {
        if let Kind::Ident(name) = &expr.kind
            && let Some(local) = self.local(name)
        {
            return local.path.clone();
        }
        self.paths.get(&expr.id).cloned().unwrap_or_default()
    }

    fn select(&mut self, expr: &Expr) -> Estimate {
        let Kind::Select(select) = &expr.kind else { return Range::ZERO };
        if let Some(Reference::Variable(_)) = self.checked.reference(expr) {
            // A variable whose name has a dot.
            return Range::ONE;
        }
        let mut sum = self.cost(&select.operand);
        if select.test {
            return sum;
        }
        if matches!(self.checked.of(&select.operand), Type::Map(..) | Type::Object(_) | Type::Param(_)) {
            sum = sum.plus(Range::ONE);
        }
        let mut path = self.path(&select.operand);
        path.push(select.field.clone());
        self.paths.insert(expr.id, path);
        sum
    }

    /// A node as estimates of calls look at it.
    fn node<'n>(&mut self, expr: &'n Expr) -> Node<'n> {
        let mut path = self.path(expr);
        if path.first().is_some_and(|first| **first == *ACCUMULATOR || **first == *"__result__") {
            path.clear();
        }
        Node { path, ty: self.checked.of(expr).clone(), expr: Some(expr), computed: self.size(expr) }
    }

    fn call(&mut self, expr: &Expr, call: &Call) -> Estimate {
        if &*call.function == "dyn"
            && let [arg] = call.args.as_slice()
        {
            let cost = self.cost(arg);
            self.copy_sizes(expr, arg);
            return cost.plus(Range::ONE);
        }
        let mut costs = Vec::with_capacity(call.args.len());
        let mut nodes = Vec::with_capacity(call.args.len());
        for arg in &call.args {
            costs.push(self.cost(arg));
            nodes.push(self.node(arg));
        }
        let Some(Reference::Call { function, overloads, qualified }) = self.checked.reference(expr) else {
            // `.?field` is known by its name alone.
            return self.optional_select(call, &costs);
        };
        let mut sum = Range::ZERO;
        let mut target = None;
        if let Some(of) = call.target.as_ref().filter(|_| !qualified) {
            sum = self.cost(of);
            target = Some(self.node(of));
        }
        let mut all = Range { min: u64::MAX, max: 0 };
        let mut result: Option<Size> = None;
        for overload in overloads {
            let (cost, size) = self.overload(expr, function.name, overload.id, target.as_ref(), &nodes, &costs);
            all = all.or(cost);
            result = match (result, size) {
                (Some(known), Some(size)) => Some(known.or(size)),
                (known, size) => known.or(size),
            };
            let step = match overload.id {
                "index_list" => Some("@items"),
                "index_map" => Some("@values"),
                _ => None,
            };
            if let (Some(step), Some(of)) = (step, call.args.first()) {
                result = self.entry(of).map(|entry| entry.value);
                let mut path = self.path(of);
                path.push(step.into());
                self.paths.insert(expr.id, path);
            }
            if result.is_none() {
                result = self.size(expr);
            }
        }
        if let Some(result) = result {
            self.computed.insert(expr.id, result);
        }
        sum.plus(all)
    }

    fn optional_select(&mut self, call: &Call, costs: &[Estimate]) -> Estimate {
        if &*call.function != crate::ast::operator::OPT_SELECT {
            return Range::ZERO;
        }
        costs.iter().fold(Range::ONE, |sum, cost| sum.plus(*cost))
    }

    fn list(&mut self, expr: &Expr, items: &[Expr]) -> Estimate {
        let mut sum = Range::fixed(LIST);
        let mut value = Range { min: if items.is_empty() { 0 } else { u64::MAX }, max: 0 };
        for item in items {
            sum = sum.plus(self.cost(item));
            value = value.or(self.size(item).unwrap_or(Range::UNKNOWN));
        }
        self.entries.insert(expr.id, EntrySize { list: true, key: Range::ONE, value });
        sum
    }

    fn map(&mut self, expr: &Expr, entries: &[(&Expr, &Expr)]) -> Estimate {
        let mut sum = Range::fixed(MAP);
        let none = Range { min: if entries.is_empty() { 0 } else { u64::MAX }, max: 0 };
        let (mut key, mut value) = (none, none);
        for (of_key, of_value) in entries {
            sum = sum.plus(self.cost(of_key)).plus(self.cost(of_value));
            key = key.or(self.size(of_key).unwrap_or(Range::UNKNOWN));
            value = value.or(self.size(of_value).unwrap_or(Range::UNKNOWN));
        }
        self.entries.insert(expr.id, EntrySize { list: false, key, value });
        sum
    }

    fn push(&mut self, name: &Arc<str>, path: Path, size: Option<Size>, entry: Option<EntrySize>) {
        self.locals.push(Local { name: name.clone(), path, size, entry });
    }

    fn bind_to(&mut self, name: &Arc<str>, value: &Expr) {
        let (path, size, entry) = (self.path(value), self.size(value), self.entry(value));
        self.push(name, path, size, entry);
    }

    fn bind(&mut self, expr: &Expr, fold: &Fold) -> Estimate {
        let sum = self.cost(&fold.range).plus(self.cost(&fold.init));
        self.bind_to(&fold.accu, &fold.init);
        let sum = sum.plus(self.cost(&fold.result));
        self.locals.pop();
        self.copy_sizes(expr, &fold.result);
        sum
    }

    fn fold(&mut self, expr: &Expr, fold: &Fold) -> Estimate {
        let mut sum = self.cost(&fold.range).plus(self.cost(&fold.init));
        self.bind_to(&fold.accu, &fold.init);
        let pushed = self.iterate(fold);
        let turn = self.cost(&fold.condition).plus(self.cost(&fold.step));
        self.locals.truncate(self.locals.len() - pushed);
        sum = sum.plus(self.cost(&fold.result));
        self.locals.pop();
        let count = self.size(&fold.range).unwrap_or(Range::UNKNOWN);
        sum = sum.plus(count.times(turn));
        match &fold.init.kind {
            Kind::Literal(_) => {
                if let Some(size) = self.size(&fold.init) {
                    self.computed.insert(expr.id, size);
                }
            }
            Kind::List { .. } | Kind::Map(_) => {
                self.computed.insert(expr.id, count);
                if let Some(entry) = self.entry(&fold.step) {
                    self.entries.insert(expr.id, entry);
                }
            }
            _ => {}
        }
        sum
    }

    /// Gives a comprehension's variables their paths and sizes; how many there are.
    fn iterate(&mut self, fold: &Fold) -> usize {
        let entry = self.entry(&fold.range);
        let list = entry.map_or_else(|| matches!(self.checked.of(&fold.range), Type::List(_)), |entry| entry.list);
        let path = self.path(&fold.range);
        let at = |step: &str| {
            let mut path = path.clone();
            path.push(step.into());
            path
        };
        let (key, value) = (entry.map(|entry| entry.key), entry.map(|entry| entry.value));
        match &fold.var2 {
            Some(var2) => {
                self.push(&fold.var, at(if list { "@indices" } else { "@keys" }), key, None);
                self.push(var2, at(if list { "@items" } else { "@values" }), value, None);
                2
            }
            None if list => {
                self.push(&fold.var, at("@items"), value, None);
                1
            }
            None => {
                self.push(&fold.var, at("@keys"), key, None);
                1
            }
        }
    }

    fn copy_sizes(&mut self, to: &Expr, from: &Expr) {
        if let Some(size) = self.size(from) {
            self.computed.insert(to.id, size);
        }
        if let Some(entry) = self.entry(from) {
            self.entries.insert(to.id, entry);
        }
    }

    pub(crate) fn size(&mut self, expr: &Expr) -> Option<Size> {
        if let Some(size) = self.computed.get(&expr.id) {
            return Some(*size);
        }
        if let Some(size) = literal_size(expr) {
            return Some(Range::fixed(size));
        }
        let path = self.path(expr);
        if !path.is_empty()
            && let Some(size) = self.sizes.size(&path)
        {
            self.computed.insert(expr.id, size);
            return Some(size);
        }
        if self.checked.of(expr).is_scalar() {
            return Some(Range::ONE);
        }
        match &expr.kind {
            Kind::Ident(name) => self.local(name)?.size,
            _ => None,
        }
    }

    pub(crate) fn entry(&self, expr: &Expr) -> Option<EntrySize> {
        if let Some(entry) = self.entries.get(&expr.id) {
            return Some(*entry);
        }
        match &expr.kind {
            Kind::Ident(name) => self.local(name)?.entry,
            _ => None,
        }
    }

    /// Notes what is in the result of a call that is made of two others.
    pub(crate) fn merge_entries(&mut self, of: &Expr, a: &Expr, b: &Expr) {
        if let (Some(a), Some(b)) = (self.entry(a), self.entry(b)) {
            self.entries.insert(of.id, a.or(b));
        }
    }
}

/// The size of what is written down.
fn literal_size(expr: &Expr) -> Option<u64> {
    Some(match &expr.kind {
        Kind::Literal(Literal::String(text)) => text.chars().count() as u64,
        Kind::Literal(Literal::Bytes(bytes)) => bytes.len() as u64,
        Kind::Literal(_) => 1,
        Kind::List { items, .. } => items.len() as u64,
        Kind::Map(entries) => entries.len() as u64,
        _ => return None,
    })
}
