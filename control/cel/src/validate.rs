//! What is refused although it checks: literals that no evaluation could convert, formats that do not fit their
//! arguments, lists of mixed types.

use crate::ast::{Call, Expr, Id, Kind, Literal};
use crate::check::Checked;
use crate::env::Env;
use crate::functions::format::{self, Clause, Piece};
use crate::functions::{convert, re2};
use crate::plan::literal;
use crate::source::Issues;
use crate::types::Type;
use crate::value::{Res, Value, failure};

pub(crate) fn validate(env: &Env, checked: &Checked, issues: &mut Issues<'_>) {
    homogeneous(checked, &checked.root, issues);
    if env.minor < 29 {
        return;
    }
    let convertible = |name: &'static str, run: for<'a> fn(&[Value<'a>]) -> Res<'a>| {
        move |function: &str, arg: &Literal| function != name || run(&[literal(arg)]).is_ok()
    };
    literals(checked, issues, "duration", &convertible("duration", convert::to_duration));
    literals(checked, issues, "timestamp", &convertible("timestamp", convert::to_timestamp));
    literals(checked, issues, "matches", &|_, arg| match arg {
        Literal::String(pattern) => re2::compile(pattern).is_ok(),
        _ => true,
    });
    checked.root.walk(&mut |expr| formats(checked, expr, issues));
}

/// Looks at the first argument of each call of a function, if it is a literal.
fn literals(checked: &Checked, issues: &mut Issues<'_>, name: &str, good: &dyn Fn(&str, &Literal) -> bool) {
    checked.root.walk(&mut |expr| {
        if let Kind::Call(call) = &expr.kind
            && &*call.function == name
            && let Some(Expr { id, kind: Kind::Literal(literal) }) = call.args.first()
            && !good(name, literal)
        {
            issues.report(checked.place(*id), format!("invalid {name} argument"));
        }
    });
}

/// Items of a list, keys and values of a map are of one type, but for arguments of `format`.
fn homogeneous(checked: &Checked, expr: &Expr, issues: &mut Issues<'_>) {
    if matches!(&expr.kind, Kind::Call(call) if &*call.function == "format") {
        return;
    }
    match &expr.kind {
        Kind::List { items, optional } => {
            let items = items.iter().zip(optional).map(|(item, optional)| (item, *optional));
            one_type(checked, items, true, issues);
        }
        Kind::Map(entries) => {
            one_type(checked, entries.iter().map(|entry| (&entry.key, false)), false, issues);
            one_type(checked, entries.iter().map(|entry| (&entry.value, entry.optional)), false, issues);
        }
        _ => {}
    }
    for child in children(expr) {
        homogeneous(checked, child, issues);
    }
}

fn one_type<'e>(
    checked: &Checked,
    items: impl Iterator<Item = (&'e Expr, bool)>,
    first_only: bool,
    issues: &mut Issues<'_>,
) {
    let mut expected: Option<Type> = None;
    for (item, optional) in items {
        let ty = checked.of(item);
        let ty = if optional { ty.unwrap_optional().0 } else { ty.clone() };
        let Some(expected) = &expected else {
            expected = Some(ty);
            continue;
        };
        if *expected != ty {
            issues.report(checked.place(item.id), format!("expected type '{expected}' but found '{ty}'"));
            if first_only {
                return;
            }
        }
    }
}

fn children(expr: &Expr) -> Vec<&Expr> {
    match &expr.kind {
        Kind::Missing | Kind::Literal(_) | Kind::Ident(_) => Vec::new(),
        Kind::Select(select) => vec![&select.operand],
        Kind::Call(call) => call.target.iter().chain(&call.args).collect(),
        Kind::List { items, .. } => items.iter().collect(),
        Kind::Map(entries) => entries.iter().flat_map(|entry| [&entry.key, &entry.value]).collect(),
        Kind::Struct { fields, .. } => fields.iter().map(|field| &field.value).collect(),
        Kind::Fold(fold) => vec![&fold.range, &fold.init, &fold.condition, &fold.step, &fold.result],
    }
}

/// A format that is a literal is held against a list of arguments that is one.
fn formats(checked: &Checked, expr: &Expr, issues: &mut Issues<'_>) {
    let Kind::Call(call) = &expr.kind else { return };
    let Call { function, target: Some(target), args } = &**call else { return };
    let (Some(text), [Expr { kind: Kind::List { items, .. }, .. }]) = (target.string(), args.as_slice()) else {
        return;
    };
    if &**function != "format" {
        return;
    }
    let mut at = 0;
    let mut blamed = None;
    let read = format::pieces(text, items.len(), &mut |piece| {
        let Piece::Clause(clause) = piece else { return Ok(()) };
        let item = &items[at];
        at += 1;
        refused(checked, clause, item).map_or(Ok(()), |(id, why)| {
            blamed = Some(id);
            Err(failure(format!("error during formatting: {why}")))
        })
    });
    match read {
        Err(error) => issues.report(checked.place(blamed.unwrap_or(expr.id)), error.to_string()),
        Ok(used) if items.len() > used => issues.report(
            checked.place(expr.id),
            format!("too many arguments supplied to string.format (expected {used}, got {})", items.len()),
        ),
        Ok(_) => {}
    }
}

/// Which node a clause does not take, and why.
fn refused(checked: &Checked, clause: Clause, item: &Expr) -> Option<(Id, String)> {
    let ty = checked.of(item);
    let good = match clause {
        Clause::String => return unprintable(checked, item),
        Clause::Decimal | Clause::Octal => matches!(ty, Type::Int | Type::Uint),
        Clause::Fixed(_) | Clause::Scientific(_) => matches!(ty, Type::Double | Type::String),
        Clause::Binary => matches!(ty, Type::Int | Type::Uint | Type::Bool),
        Clause::Hex { .. } => matches!(ty, Type::Int | Type::Uint | Type::String | Type::Bytes),
    };
    (!good && !ty.is_dyn()).then(|| (item.id, format::refusal(clause, ty.name())))
}

fn unprintable(checked: &Checked, item: &Expr) -> Option<(Id, String)> {
    let ty = checked.of(item);
    if matches!(ty, Type::Optional(_) | Type::Object(_) | Type::Opaque(_) | Type::Error) {
        return Some((item.id, format::refusal(Clause::String, ty.name())));
    }
    match &item.kind {
        Kind::List { .. } | Kind::Map(_) => children(item).into_iter().find_map(|child| unprintable(checked, child)),
        _ => None,
    }
}
