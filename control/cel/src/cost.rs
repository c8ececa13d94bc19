//! What a call costs when it runs. Upstream: cel-go's `interpreter/runtimecost.go` and the libraries' trackers,
//! `k8s.io/apiserver/pkg/cel/library/cost.go`.

use crate::functions::extension::Extension;
use crate::value::{List, Value};

pub(crate) const LIST: u64 = 10;
pub(crate) const MAP: u64 = 30;
pub(crate) const STRUCT: u64 = 40;
/// A check of the authorizer: two of them fit into a request.
pub(crate) const CHECK: u64 = 350_000;

/// How the cost of a call is worked out.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Cost {
    Fixed(u64),
    /// A tenth of the size of an argument, so many times over.
    Text {
        of: usize,
        times: u64,
    },
    /// Twice a tenth of the result's size.
    Result,
    Selector,
    /// Each item of the first argument, texts by their length.
    Traverse,
    /// A pattern as the second argument.
    Pattern,
    Contains,
    SizeOf(usize),
    /// Both arguments are copied.
    Sum,
    /// As much as the smaller argument has.
    Smaller,
    ContainsIp {
        parsed: bool,
    },
    ContainsCidr {
        parsed: bool,
    },
    Validate,
    NewList,
    Flatten,
    /// Each item of an argument with each other.
    Pairs(usize),
    Sets(u64),
}

/// A tenth, rounded up, as upstream's floating point has it: of 70 it is 8.
fn tenth(size: u64) -> u64 {
    (size as f64 * 0.1).ceil() as u64
}

fn quarter(size: u64) -> u64 {
    size.div_ceil(4)
}

impl Cost {
    /// By function and overload; `id` is empty where several overloads may run.
    pub(crate) fn of(function: &str, id: &str) -> Self {
        match id {
            "list_slice" | "lists_range" | "list_reverse" => return Self::NewList,
            "list_flatten" | "list_flatten_int" => return Self::Flatten,
            "list_distinct" => return Self::Pairs(0),
            "list_sets_contains_list" | "list_sets_intersects_list" => return Self::Sets(1),
            "list_sets_equivalent_list" => return Self::Sets(2),
            id if id.starts_with("list_") && id.ends_with("_sort") => return Self::Pairs(0),
            id if id.starts_with("list_") && id.ends_with("_sortByAssociatedKeys") => return Self::Pairs(1),
            _ => {}
        }
        Self::of_function(function, id).unwrap_or_else(|| Self::of_overload(id))
    }

    fn of_function(function: &str, id: &str) -> Option<Self> {
        Some(match function {
            "check" => Self::Fixed(CHECK),
            "fieldSelector" | "labelSelector" => Self::Selector,
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" | "includes" => Self::Traverse,
            "url"
            | "lowerAscii"
            | "upperAscii"
            | "substring"
            | "trim"
            | "jsonpatch.escapeKey"
            | "cidr"
            | "isIP"
            | "isCIDR"
            | "quantity"
            | "isQuantity"
            | "semver"
            | "isSemver" => Self::Text { of: 0, times: 1 },
            "replace" | "split" | "ip.isCanonical" => Self::Text { of: 0, times: 2 },
            "join" => Self::Result,
            "find" | "findAll" => Self::Pattern,
            "ip" if id == "cidr_ip" => Self::Fixed(1),
            "ip" => Self::Text { of: 0, times: 1 },
            "containsIP" => Self::ContainsIp { parsed: id == "cidr_contains_ip_string" },
            "containsCIDR" => Self::ContainsCidr { parsed: id == "cidr_contains_cidr_string" },
            "validate" => Self::Validate,
            _ => return None,
        })
    }

    fn of_overload(id: &str) -> Self {
        match id {
            "starts_with_string" | "ends_with_string" => Self::Text { of: 1, times: 1 },
            "string_to_bytes" | "bytes_to_string" | "strings_quote" | "string_format" => Self::Text { of: 0, times: 1 },
            "in_list" => Self::SizeOf(1),
            "add_string" | "add_bytes" => Self::Sum,
            "matches" | "matches_string" => Self::Pattern,
            "contains_string" => Self::Contains,
            "less_string"
            | "less_bytes"
            | "less_equals_string"
            | "less_equals_bytes"
            | "greater_string"
            | "greater_bytes"
            | "greater_equals_string"
            | "greater_equals_bytes"
            | "equals"
            | "not_equals" => Self::Smaller,
            _ => Self::Fixed(1),
        }
    }

    /// Of a call with these arguments. One that failed counts as null.
    pub(crate) fn charge(self, args: &[Value<'_>], result: &Value<'_>) -> u64 {
        let size = |at: usize| args.get(at).map_or(1, Value::size);
        match self {
            Self::Fixed(cost) => cost,
            Self::Text { of, times } => tenth(size(of).saturating_mul(times)),
            Self::Result => tenth(result.size().saturating_mul(2)),
            Self::Selector => LIST + tenth(size(1)) + size(1).div_ceil(2) * (LIST + STRUCT),
            Self::Traverse => args.first().map_or(0, traversal),
            Self::Pattern => tenth(size(0) + 1).saturating_mul(quarter(size(1))),
            Self::Contains => tenth(size(0)).saturating_mul(tenth(size(1))),
            Self::SizeOf(at) => size(at),
            Self::Sum => tenth(size(0) + size(1)),
            Self::Smaller => tenth(size(0).min(size(1))),
            Self::ContainsIp { parsed } => tenth(2 * size(0)) + if parsed { tenth(size(1)) } else { 0 },
            Self::ContainsCidr { parsed } => {
                tenth(2 * size(0)) + tenth(size(0)) + 1 + if parsed { tenth(size(1)) } else { 0 }
            }
            Self::Validate => match args.first() {
                Some(Value::Extension(Extension::Format(format))) => {
                    tenth(size(1) + 1).saturating_mul(quarter(format.pattern_size))
                }
                _ => 1,
            },
            Self::NewList => allocated(result.size(), 1.0),
            Self::Flatten => match args.get(1) {
                Some(Value::Int(depth)) => allocated(size(0), *depth as f64),
                _ => allocated(size(0), 1.0),
            },
            Self::Pairs(at) => args.get(at).map_or(1, pairs),
            Self::Sets(times) => size(0).saturating_mul(size(1)).saturating_mul(times).saturating_add(1),
        }
    }
}

fn allocated(size: u64, factor: f64) -> u64 {
    let factor = if factor < 0.0 { 1.0 } else { factor };
    ((size as f64 * factor) as u64).saturating_add(1 + LIST)
}

fn pairs(value: &Value<'_>) -> u64 {
    let Value::List(list) = value else { return 1 };
    let text = matches!(list.get(0), Some(Ok(Value::String(_) | Value::Bytes(_))));
    let size = list.len() as u64;
    allocated(size.saturating_mul(size), if text { 2.1 } else { 2.0 })
}

fn traversal(value: &Value<'_>) -> u64 {
    match value {
        Value::String(text) => (text.len() as f64 * 0.1) as u64,
        Value::Bytes(bytes) => (bytes.len() as f64 * 0.1) as u64,
        Value::List(list) => items(list),
        Value::Map(map) => {
            let entries = map.entries().unwrap_or_default();
            entries.iter().map(|(key, value)| traversal(key) + traversal(value)).sum()
        }
        _ => 1,
    }
}

fn items(list: &List<'_>) -> u64 {
    list.iter().map(|item| item.map_or(1, |item| traversal(&item))).sum()
}
