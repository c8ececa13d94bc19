//! Macros: calls that stand for comprehensions and tests of presence. They are expanded while the text is read.

use std::sync::Arc;

use crate::ast::{ACCUMULATOR, Call, Entry, Expr, Field, Fold, Id, Kind, Literal, Select, UNUSED, operator};
use crate::parse::Parser;

/// Nodes of an expression whose macros repeat a part of it.
const MAX_NODES: usize = 300_000;
const SORT_INPUT: &str = "@__sortBy_input__";

/// An argument that does not fit, and why.
struct Wrong(Id, String);
type Expanded = Result<Expr, Wrong>;

/// A call at `place`, or what it stands for.
pub(crate) fn expand(
    parser: &mut Parser<'_, '_, '_>,
    place: u32,
    function: &str,
    target: Option<Expr>,
    args: Vec<Expr>,
) -> Expr {
    let Some(expander) = find(function, args.len(), target.is_some(), parser.minor) else {
        let id = parser.places.add(place);
        return Expr { id, kind: Kind::Call(Box::new(Call { function: function.into(), target, args })) };
    };
    let mut maker = Maker { parser, place };
    let expanded = match (expander, target) {
        (Macro::Has, _) => has(&mut maker, args),
        (Macro::Receiver(expander), Some(target)) => expander(&mut maker, target, args),
        (Macro::Receiver(_), None) => return maker.node(Kind::Missing),
    };
    expanded.unwrap_or_else(|Wrong(id, message)| {
        let at = maker.parser.places.of(id);
        maker.parser.issues.report(at, message);
        maker.node(Kind::Missing)
    })
}

enum Macro {
    Has,
    Receiver(fn(&mut Maker<'_, '_, '_, '_>, Expr, Vec<Expr>) -> Expanded),
}

fn find(function: &str, args: usize, receiver: bool, minor: u8) -> Option<Macro> {
    if !receiver {
        return (function == "has" && args == 1).then_some(Macro::Has);
    }
    Some(Macro::Receiver(match (function, args) {
        ("all", 2) => |maker, target, args| quantifier(maker, Quantifier::All, target, args),
        ("exists", 2) => |maker, target, args| quantifier(maker, Quantifier::Exists, target, args),
        ("exists_one", 2) => |maker, target, args| quantifier(maker, Quantifier::One, target, args),
        ("map", 2 | 3) => map,
        ("filter", 2) => filter,
        ("optMap", 2) if minor >= 28 => |maker, target, args| optional_map(maker, target, args, false),
        ("optFlatMap", 2) if minor >= 28 => |maker, target, args| optional_map(maker, target, args, true),
        ("sortBy", 2) if minor >= 34 => sort_by,
        ("all", 3) if minor >= 32 => |maker, target, args| quantifier(maker, Quantifier::All, target, args),
        ("exists", 3) if minor >= 32 => |maker, target, args| quantifier(maker, Quantifier::Exists, target, args),
        ("exists_one" | "existsOne", 3) if minor >= 32 => {
            |maker, target, args| quantifier(maker, Quantifier::One, target, args)
        }
        ("transformList", 3 | 4) if minor >= 32 => |maker, target, args| transform(maker, To::List, target, args),
        ("transformMap", 3 | 4) if minor >= 32 => |maker, target, args| transform(maker, To::Map, target, args),
        ("transformMapEntry", 3 | 4) if minor >= 32 => |maker, target, args| transform(maker, To::Entry, target, args),
        _ => return None,
    }))
}

struct Maker<'p, 'c, 'i, 's> {
    parser: &'p mut Parser<'c, 'i, 's>,
    place: u32,
}

impl Maker<'_, '_, '_, '_> {
    fn node(&mut self, kind: Kind) -> Expr {
        Expr { id: self.parser.places.add(self.place), kind }
    }

    fn literal(&mut self, literal: Literal) -> Expr {
        self.node(Kind::Literal(literal))
    }

    fn ident(&mut self, name: &str) -> Expr {
        self.node(Kind::Ident(name.into()))
    }

    fn accu(&mut self) -> Expr {
        self.ident(ACCUMULATOR)
    }

    fn list(&mut self, items: Vec<Expr>) -> Expr {
        let optional = vec![false; items.len()];
        self.node(Kind::List { items, optional })
    }

    fn call(&mut self, function: &str, args: Vec<Expr>) -> Expr {
        self.node(Kind::Call(Box::new(Call { function: function.into(), target: None, args })))
    }

    fn method(&mut self, function: &str, target: Expr, args: Vec<Expr>) -> Expr {
        self.node(Kind::Call(Box::new(Call { function: function.into(), target: Some(target), args })))
    }

    fn fold(&mut self, range: Expr, vars: Vars, init: Expr, condition: Expr, step: Expr, result: Expr) -> Expr {
        let accu = ACCUMULATOR.into();
        let fold = Fold { range, var: vars.0, var2: vars.1, accu, init, condition, step, result };
        self.node(Kind::Fold(Box::new(fold)))
    }

    /// A name for a value within `result`.
    fn bind(&mut self, name: &str, value: Expr, result: Expr) -> Expr {
        let (range, condition) = (self.list(Vec::new()), self.literal(Literal::Bool(false)));
        let step = self.ident(name);
        let (var, accu) = (UNUSED.into(), name.into());
        let fold = Fold { range, var, var2: None, accu, init: value, condition, step, result };
        self.node(Kind::Fold(Box::new(fold)))
    }

    /// The step, where `filter` holds; else the accumulator as it is.
    fn filtered(&mut self, filter: Option<Expr>, step: Expr) -> Expr {
        let Some(filter) = filter else { return step };
        let accu = self.accu();
        self.call(operator::CONDITIONAL, vec![filter, step, accu])
    }

    /// The same tree with numbers of its own. Copies of copies double each time, so they have an end.
    fn copy(&mut self, of: &Expr) -> Expr {
        if self.parser.places.count() >= MAX_NODES {
            if self.parser.places.count() == MAX_NODES {
                self.parser.issues.report_nowhere(format!("expression has more than {MAX_NODES} nodes"));
            }
            return self.node(Kind::Missing);
        }
        let id = self.parser.places.add(self.parser.places.of(of.id));
        let kind = match &of.kind {
            Kind::Missing => Kind::Missing,
            Kind::Literal(literal) => Kind::Literal(literal.clone()),
            Kind::Ident(name) => Kind::Ident(name.clone()),
            Kind::Select(select) => Kind::Select(Box::new(Select {
                operand: self.copy(&select.operand),
                field: select.field.clone(),
                test: select.test,
            })),
            Kind::Call(call) => Kind::Call(Box::new(Call {
                function: call.function.clone(),
                target: call.target.as_ref().map(|target| self.copy(target)),
                args: call.args.iter().map(|arg| self.copy(arg)).collect(),
            })),
            Kind::List { items, optional } => {
                Kind::List { items: items.iter().map(|item| self.copy(item)).collect(), optional: optional.clone() }
            }
            Kind::Map(entries) => Kind::Map(
                entries
                    .iter()
                    .map(|entry| Entry {
                        key: self.copy(&entry.key),
                        value: self.copy(&entry.value),
                        optional: entry.optional,
                    })
                    .collect(),
            ),
            Kind::Struct { name, fields } => {
                Kind::Struct { name: name.clone(), fields: fields.iter().map(|field| self.copy_field(field)).collect() }
            }
            Kind::Fold(fold) => Kind::Fold(Box::new(self.copy_fold(fold))),
        };
        Expr { id, kind }
    }

    fn copy_field(&mut self, field: &Field) -> Field {
        let id = self.parser.places.add(self.place);
        Field { id, name: field.name.clone(), value: self.copy(&field.value), optional: field.optional }
    }

    fn copy_fold(&mut self, fold: &Fold) -> Fold {
        Fold {
            range: self.copy(&fold.range),
            var: fold.var.clone(),
            var2: fold.var2.clone(),
            accu: fold.accu.clone(),
            init: self.copy(&fold.init),
            condition: self.copy(&fold.condition),
            step: self.copy(&fold.step),
            result: self.copy(&fold.result),
        }
    }
}

type Vars = (Arc<str>, Option<Arc<str>>);

fn name(arg: &Expr, otherwise: &str) -> Result<Arc<str>, Wrong> {
    match &arg.kind {
        Kind::Ident(name) if &**name == "__result__" => {
            Err(Wrong(arg.id, "iteration variable overwrites accumulator variable".to_owned()))
        }
        Kind::Ident(name) => Ok(name.clone()),
        _ => Err(Wrong(arg.id, otherwise.to_owned())),
    }
}

fn names(first: &Expr, second: &Expr) -> Result<Vars, Wrong> {
    let simple = "argument must be a simple name";
    let ident = |arg: &Expr| match &arg.kind {
        Kind::Ident(name) => Ok(name.clone()),
        _ => Err(Wrong(arg.id, simple.to_owned())),
    };
    let (a, b) = (ident(first)?, ident(second)?);
    if a == b {
        return Err(Wrong(second.id, format!("duplicate variable name: {a}")));
    }
    Ok((name(first, simple)?, Some(name(second, simple)?)))
}

fn has(maker: &mut Maker<'_, '_, '_, '_>, args: Vec<Expr>) -> Expanded {
    let Some(arg) = args.into_iter().next() else { return Ok(maker.node(Kind::Missing)) };
    match arg.kind {
        Kind::Select(select) => {
            let Select { operand, field, .. } = *select;
            Ok(maker.node(Kind::Select(Box::new(Select { operand, field, test: true }))))
        }
        _ => Err(Wrong(arg.id, "invalid argument to has() macro".to_owned())),
    }
}

enum Quantifier {
    All,
    Exists,
    One,
}

fn quantifier(maker: &mut Maker<'_, '_, '_, '_>, kind: Quantifier, target: Expr, mut args: Vec<Expr>) -> Expanded {
    let vars = match args.as_slice() {
        [first, second, _] => names(first, second)?,
        args => (name(&args[0], "argument must be a simple name")?, None),
    };
    let Some(predicate) = args.pop() else { return Ok(target) };
    let mut result = maker.accu();
    let (init, condition, step);
    match kind {
        Quantifier::All => {
            init = maker.literal(Literal::Bool(true));
            let accu = maker.accu();
            condition = maker.call(operator::NOT_STRICTLY_FALSE, vec![accu]);
            let accu = maker.accu();
            step = maker.call(operator::AND, vec![accu, predicate]);
        }
        Quantifier::Exists => {
            init = maker.literal(Literal::Bool(false));
            let accu = maker.accu();
            let not = maker.call(operator::NOT, vec![accu]);
            condition = maker.call(operator::NOT_STRICTLY_FALSE, vec![not]);
            let accu = maker.accu();
            step = maker.call(operator::OR, vec![accu, predicate]);
        }
        Quantifier::One => {
            init = maker.literal(Literal::Int(0));
            condition = maker.literal(Literal::Bool(true));
            let (accu, one) = (maker.accu(), maker.literal(Literal::Int(1)));
            let more = maker.call(operator::ADD, vec![accu, one]);
            step = maker.filtered(Some(predicate), more);
            let one = maker.literal(Literal::Int(1));
            result = maker.call(operator::EQUALS, vec![result, one]);
        }
    }
    Ok(maker.fold(target, vars, init, condition, step, result))
}

/// A comprehension that adds `item` to a list.
fn collect(maker: &mut Maker<'_, '_, '_, '_>, target: Expr, vars: Vars, filter: Option<Expr>, item: Expr) -> Expr {
    let init = maker.list(Vec::new());
    let condition = maker.literal(Literal::Bool(true));
    let (accu, item) = (maker.accu(), maker.list(vec![item]));
    let step = maker.call(operator::ADD, vec![accu, item]);
    let step = maker.filtered(filter, step);
    let result = maker.accu();
    maker.fold(target, vars, init, condition, step, result)
}

fn map(maker: &mut Maker<'_, '_, '_, '_>, target: Expr, mut args: Vec<Expr>) -> Expanded {
    let var = name(&args[0], "argument is not an identifier")?;
    let Some(item) = args.pop() else { return Ok(target) };
    let filter = if args.len() == 2 { args.pop() } else { None };
    Ok(collect(maker, target, (var, None), filter, item))
}

fn filter(maker: &mut Maker<'_, '_, '_, '_>, target: Expr, mut args: Vec<Expr>) -> Expanded {
    let var = name(&args[0], "argument is not an identifier")?;
    let filter = args.pop();
    let Some(item) = args.pop() else { return Ok(target) };
    Ok(collect(maker, target, (var, None), filter, item))
}

enum To {
    List,
    Map,
    Entry,
}

fn transform(maker: &mut Maker<'_, '_, '_, '_>, to: To, target: Expr, mut args: Vec<Expr>) -> Expanded {
    let vars = names(&args[0], &args[1])?;
    let Some(item) = args.pop() else { return Ok(target) };
    let filter = if args.len() == 3 { args.pop() } else { None };
    let accu = maker.accu();
    let step = match to {
        To::List => return Ok(collect(maker, target, vars, filter, item)),
        To::Map => {
            let key = maker.ident(&vars.0.clone());
            maker.call(operator::MAP_INSERT, vec![accu, key, item])
        }
        To::Entry => maker.call(operator::MAP_INSERT, vec![accu, item]),
    };
    let step = maker.filtered(filter, step);
    let (init, condition) = (maker.node(Kind::Map(Vec::new())), maker.literal(Literal::Bool(true)));
    let result = maker.accu();
    Ok(maker.fold(target, vars, init, condition, step, result))
}

fn optional_map(maker: &mut Maker<'_, '_, '_, '_>, target: Expr, mut args: Vec<Expr>, flat: bool) -> Expanded {
    let Kind::Ident(var) = &args[0].kind else {
        let which = if flat { "optFlatMap" } else { "optMap" };
        return Err(Wrong(args[0].id, format!("{which}() variable name must be a simple identifier")));
    };
    let var = var.clone();
    let Some(body) = args.pop() else { return Ok(target) };
    let copy = maker.copy(&target);
    let value = maker.method("value", copy, Vec::new());
    let bound = maker.bind(&var, value, body);
    let yes = if flat { bound } else { maker.call("optional.of", vec![bound]) };
    let (present, none) = (maker.method("hasValue", target, Vec::new()), maker.call("optional.none", Vec::new()));
    Ok(maker.call(operator::CONDITIONAL, vec![present, yes, none]))
}

fn sort_by(maker: &mut Maker<'_, '_, '_, '_>, target: Expr, args: Vec<Expr>) -> Expanded {
    let sortable =
        matches!(target.kind, Kind::List { .. } | Kind::Select(_) | Kind::Ident(_) | Kind::Fold(_) | Kind::Call(_));
    if !sortable {
        let message = "sortBy can only be applied to a list, identifier, comprehension, call or select expression";
        return Err(Wrong(target.id, message.to_owned()));
    }
    let input = maker.ident(SORT_INPUT);
    let keys = map(maker, input, args)?;
    let input = maker.ident(SORT_INPUT);
    let sorted = maker.method(operator::SORT_BY_KEYS, input, vec![keys]);
    Ok(maker.bind(SORT_INPUT, target, sorted))
}
