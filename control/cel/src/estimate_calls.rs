//! Estimates of single calls.

use std::sync::Arc;

use crate::ast::{Expr, Kind, Literal};
use crate::cost::{CHECK, LIST, STRUCT};
use crate::estimate::{Estimate, Estimator, Range, Size};
use crate::types::Type;

/// A part of a call.
pub(crate) struct Node<'n> {
    pub(crate) path: Vec<Arc<str>>,
    pub(crate) ty: Type,
    pub(crate) expr: Option<&'n Expr>,
    pub(crate) computed: Option<Size>,
}

/// What reading a text once costs of its length, and what a pattern costs of its own.
const TEXT: f64 = 0.1;
const PATTERN: f64 = 0.25;
/// What the longest pattern of a named format counts, and the longest format.
const FORMAT_PATTERN: f64 = 128.0;
const FORMAT: u64 = 64;

type Call = (Estimate, Option<Size>);

fn only(cost: Estimate) -> Option<Call> {
    Some((cost, None))
}

impl Estimator<'_> {
    /// A call of one overload: its cost with that of its arguments, and the size of its result.
    pub(crate) fn overload(
        &mut self,
        expr: &Expr,
        function: &str,
        id: &str,
        target: Option<&Node<'_>>,
        args: &[Node<'_>],
        costs: &[Estimate],
    ) -> Call {
        let sum = costs.iter().fold(Range::ZERO, |sum, cost| sum.plus(*cost));
        if let Some((cost, size)) =
            self.of_list(id, target, args).or_else(|| self.of_library(function, id, target, args))
        {
            return (cost.plus(sum), size);
        }
        match id {
            "logical_or" | "logical_and" => {
                let (left, right) = (costs[0], costs[1]);
                (Range { min: left.min, max: left.plus(right).max }, None)
            }
            "conditional" => {
                let size = unknown(args[1].computed).or(unknown(args[2].computed));
                if let (Some(yes), Some(no)) = (args[1].expr, args[2].expr) {
                    self.merge_entries(expr, yes, no);
                }
                (costs[0].plus(costs[1].or(costs[2])), Some(size))
            }
            _ => {
                let (cost, size) = self.standard(expr, id, target, args).unwrap_or((Range::ONE, None));
                (cost.plus(sum), size)
            }
        }
    }

    fn standard(&mut self, expr: &Expr, id: &str, target: Option<&Node<'_>>, args: &[Node<'_>]) -> Option<Call> {
        let size = |at: usize| unknown(args.get(at).and_then(|arg| arg.computed));
        let of_target = || unknown(target.and_then(|target| target.computed));
        match id {
            "string_format" => only(of_target().scaled(TEXT)),
            "string_to_bytes" => {
                let of = size(0);
                Some((of.scaled(TEXT), Some(Range { min: of.min, max: of.max.wrapping_mul(4) })))
            }
            "bytes_to_string" => {
                let of = size(0);
                Some((of.scaled(TEXT), Some(Range { min: of.min / 4, max: of.max })))
            }
            "strings_quote" => {
                let of = size(0);
                let result = Range { min: of.min.wrapping_add(2), max: of.max.wrapping_mul(2).wrapping_add(2) };
                Some((of.scaled(TEXT), Some(result)))
            }
            "starts_with_string" | "ends_with_string" => only(size(0).scaled(TEXT)),
            "in_list" => only(size(1)),
            "matches" => only(pattern(size(0), size(1))),
            "matches_string" => only(pattern(of_target(), size(0))),
            "contains_string" => only(of_target().scaled(TEXT).times(size(0).scaled(TEXT))),
            "add_string" | "add_bytes" | "add_list" => {
                let result = size(0).plus(size(1));
                if let (Some(a), Some(b)) = (args[0].expr, args[1].expr) {
                    self.merge_entries(expr, a, b);
                }
                let cost = if id == "add_list" { Range::ONE } else { result.scaled(TEXT) };
                Some((cost, Some(result)))
            }
            "less_string"
            | "greater_string"
            | "less_equals_string"
            | "greater_equals_string"
            | "less_bytes"
            | "greater_bytes"
            | "less_equals_bytes"
            | "greater_equals_bytes"
            | "equals"
            | "not_equals" => {
                let max = size(0).max.min(size(1).max);
                only(Range { min: u64::from(max > 0), max }.scaled(TEXT))
            }
            _ => None,
        }
    }

    /// A size that someone knows.
    fn known(&self, node: &Node<'_>) -> Size {
        let asked = || (!node.path.is_empty()).then(|| self.sizes.size(&node.path)).flatten();
        unknown(node.computed.or_else(asked))
    }

    /// cel-go's lists and sets.
    fn of_list(&self, id: &str, target: Option<&Node<'_>>, args: &[Node<'_>]) -> Option<Call> {
        let made = |factor: f64, size: Size| Some((size.scaled(factor).plus(Range::fixed(1 + LIST)), Some(size)));
        let of_target = || target.map(|target| self.known(target));
        let square = |size: Size| size.times(size);
        match id {
            "list_slice" => {
                let end = number(&args[1]).unwrap_or(of_target()?.max);
                made(1.0, Range::fixed(end.wrapping_sub(number(&args[0]).unwrap_or(0))))
            }
            "lists_range" => made(1.0, Range::fixed(number(&args[0]).unwrap_or(u64::MAX))),
            "list_reverse" => made(1.0, of_target()?),
            "list_flatten" => made(1.0, of_target()?),
            "list_flatten_int" => made(number(&args[0]).unwrap_or(u64::MAX) as f64, of_target()?),
            "list_distinct" => made(2.0, square(of_target()?)),
            "list_sets_contains_list" | "list_sets_intersects_list" | "list_sets_equivalent_list" => {
                let factor = if id == "list_sets_equivalent_list" { 2.0 } else { 1.0 };
                only(self.known(&args[0]).times(self.known(&args[1])).scaled(factor).plus(Range::ONE))
            }
            _ => {
                let text = id.starts_with("list_string_") || id.starts_with("list_bytes_");
                let factor = if text { 2.1 } else { 2.0 };
                if id.ends_with("_sort") {
                    made(factor, square(of_target()?))
                } else if id.ends_with("_sortByAssociatedKeys") {
                    made(factor, square(self.known(&args[0])))
                } else {
                    None
                }
            }
        }
    }

    /// Kubernetes' libraries, by name: so are some functions of the same names.
    fn of_library(&self, function: &str, id: &str, target: Option<&Node<'_>>, args: &[Node<'_>]) -> Option<Call> {
        let known = |at: usize| args.get(at).map(|arg| self.known(arg));
        let of_target = || target.map(|target| self.known(target));
        match function {
            "check" => only(Range::fixed(CHECK)),
            "fieldSelector" | "labelSelector" => only(selector(known(0)?)),
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" | "includes" => {
                only(self.traversal(function, target?))
            }
            "url" | "jsonpatch.escapeKey" => {
                let size = known(0)?;
                Some((size.scaled(TEXT), Some(size)))
            }
            "lowerAscii" | "upperAscii" | "substring" | "trim" => {
                let size = of_target()?;
                Some((size.scaled(TEXT), Some(size)))
            }
            "replace" => {
                let (of, old, new) = (of_target()?, known(0)?, known(1)?);
                Some((of.scaled(2.0 * TEXT), Some(replaced(of, old, new))))
            }
            "split" => {
                let of = of_target()?;
                let max = args.get(1).and_then(number_signed).map_or(of.max, |most| most as u64);
                Some((of.scaled(2.0 * TEXT), Some(Range { min: 0, max })))
            }
            "join" => {
                let size = self.joined(target?, args);
                Some((size.scaled(TEXT), Some(size)))
            }
            "find" | "findAll" => {
                let of = of_target()?;
                Some((pattern(of, known(0)?), Some(Range { min: 0, max: of.max })))
            }
            "ip" if id == "cidr_ip" => only(Range::ONE),
            "cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver" => {
                only(known(0)?.scaled(TEXT))
            }
            "ip.isCanonical" => only(known(0)?.scaled(2.0 * TEXT)),
            "containsIP" | "containsCIDR" => only(self.contained(function, id, &args[0])),
            "validate" => only(known(0)?.scaled(TEXT).scaled(FORMAT_PATTERN * PATTERN)),
            "_==_" => extensions_equal(args).and_then(only),
            name if NOMINAL.contains(&name) => only(Range::ONE),
            _ => None,
        }
    }

    /// What lies in a list.
    fn items<'n>(list: &Node<'n>) -> Option<Node<'n>> {
        let ty = (*list.ty.parameters().first()?).clone();
        let mut path = list.path.clone();
        if !path.is_empty() {
            path.push("@items".into());
        }
        Some(Node { path, ty, expr: None, computed: None })
    }

    fn traversal(&self, function: &str, target: &Node<'_>) -> Estimate {
        let size = self.known(target);
        let Some(items) = Self::items(target) else {
            return if function == "includes" { size } else { size.scaled(TEXT) };
        };
        let mut each = Range::ONE;
        if matches!(items.ty, Type::String | Type::Bytes) {
            each = each.plus(self.known(&items).scaled(TEXT));
        }
        size.times(each)
    }

    fn joined(&self, target: &Node<'_>, args: &[Node<'_>]) -> Size {
        let list = self.known(target);
        let mut size = Self::items(target).map_or(Range::ZERO, |items| list.times(self.known(&items)));
        if let Some(separator) = args.first() {
            let between = Range { min: list.min.saturating_sub(1), max: list.max.saturating_sub(1) };
            size = size.plus(self.known(separator).times(between));
        }
        size
    }

    fn contained(&self, function: &str, id: &str, other: &Node<'_>) -> Estimate {
        let address = Range { min: 4, max: 16 };
        let mut cost = address.plus(address).scaled(TEXT);
        if function == "containsCIDR" {
            cost = cost.plus(address.scaled(TEXT)).plus(Range::ONE);
        }
        if id.ends_with("_string") {
            cost = cost.plus(self.known(other).scaled(TEXT));
        }
        cost
    }
}

/// Functions of libraries that cost one.
const NOMINAL: [&str; 38] = [
    "serviceAccount",
    "path",
    "group",
    "resource",
    "subresource",
    "namespace",
    "name",
    "allowed",
    "reason",
    "error",
    "errored",
    "masked",
    "prefixLength",
    "family",
    "isUnspecified",
    "isLoopback",
    "isLinkLocalMulticast",
    "isLinkLocalUnicast",
    "isGlobalUnicast",
    "format.named",
    "sign",
    "asInteger",
    "isInteger",
    "asApproximateFloat",
    "isGreaterThan",
    "isLessThan",
    "compareTo",
    "add",
    "sub",
    "major",
    "minor",
    "patch",
    "getScheme",
    "getHostname",
    "getHost",
    "getPort",
    "getEscapedPath",
    "getQuery",
];

fn unknown(size: Option<Size>) -> Size {
    size.unwrap_or(Range::UNKNOWN)
}

fn pattern(text: Size, pattern: Size) -> Estimate {
    text.plus(Range::ONE).scaled(TEXT).times(pattern.scaled(PATTERN))
}

fn selector(text: Size) -> Estimate {
    let requirements = text.scaled(0.5).scaled((LIST + STRUCT) as f64);
    Range::fixed(LIST).plus(text.scaled(TEXT)).plus(requirements)
}

/// The value of a literal number.
fn number_signed(node: &Node<'_>) -> Option<i64> {
    match node.expr.map(|expr| &expr.kind) {
        Some(Kind::Literal(Literal::Int(value))) => Some(*value),
        _ => None,
    }
}

fn number(node: &Node<'_>) -> Option<u64> {
    number_signed(node).map(|value| u64::try_from(value).unwrap_or(0))
}

/// The size of a text in which something was replaced.
fn replaced(text: Size, old: Size, new: Size) -> Size {
    let (mut count, mut kept) = (Range::ZERO, Range::ZERO);
    if old.min == 0 {
        count.max = text.max.saturating_add(1);
        kept.max = text.max;
    } else if new.max <= old.min {
        kept.max = text.max;
    } else {
        count.max = (text.max as f64 / old.min as f64).ceil() as u64;
    }
    if old.max == 0 {
        count.min = text.min.saturating_add(1);
        kept.min = text.min;
    } else if old.max <= new.min {
        kept.min = text.min;
    } else {
        count.min = (text.min as f64 / old.max as f64).ceil() as u64;
    }
    count.times(new).plus(kept)
}

/// Equality of Kubernetes' own types.
fn extensions_equal(args: &[Node<'_>]) -> Option<Estimate> {
    let [left, right] = args else { return None };
    if left.ty != right.ty {
        return None;
    }
    let (Type::Object(name) | Type::Opaque(name)) = &left.ty else { return None };
    match &**name {
        "net.IP" | "net.CIDR" | "kubernetes.Quantity" | "kubernetes.Semver" => Some(Range::ONE),
        name if name.starts_with("kubernetes.authorization.") => Some(Range::ONE),
        "kubernetes.NamedFormat" => Some(Range { min: 1, max: FORMAT }.scaled(TEXT)),
        "kubernetes.URL" => {
            let size = right.computed.unwrap_or(Range::ONE);
            Some(Range { min: 1, max: size.max }.scaled(TEXT))
        }
        _ => None,
    }
}
