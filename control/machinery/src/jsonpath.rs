//! JSONPath as kubectl has it (client-go `util/jsonpath`), as far as paths go: fields, indexes, slices, wildcards, unions,
//! filters, descent. Without ranges and text around.

use std::cmp::Ordering;

use serde_json::Value;

/// A path, read.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    /// All that is right below.
    All,
    /// This and all below.
    Descent,
    Slice {
        from: Option<i64>,
        to: Option<i64>,
        by: Option<i64>,
    },
    Index(i64),
    Union(Vec<Step>),
    Filter(Operand, Option<(Compare, Operand)>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    Path(JsonPath),
    Value(Value),
}

/// Why a path is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PathError(String);

/// How deep filters may lie in each other.
const DEEPEST: usize = 8;

impl JsonPath {
    /// Reads `.spec.a[0]`.
    ///
    /// # Errors
    /// It is no path.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let mut reader = Reader { rest: text.trim(), depth: 0 };
        let path = reader.path()?;
        if !reader.rest.is_empty() {
            return Err(PathError(format!("unexpected text: {}", reader.rest)));
        }
        Ok(path)
    }

    /// What lies at it, in order.
    #[must_use]
    pub fn find<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        let mut found = vec![value];
        for step in &self.0 {
            found = found.into_iter().flat_map(|value| step.find(value)).collect();
        }
        found
    }
}

impl Step {
    fn find<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        match self {
            Self::Field(name) => value.get(name.as_str()).into_iter().collect(),
            Self::All => below(value),
            Self::Descent => {
                let mut out = vec![value];
                let mut at = 0;
                while at < out.len() {
                    out.extend(below(out[at]));
                    at += 1;
                }
                out
            }
            Self::Index(index) => {
                let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
                place(*index, items.len()).and_then(|at| items.get(at)).into_iter().collect()
            }
            Self::Slice { from, to, by } => slice(value, *from, *to, *by),
            Self::Union(steps) => steps.iter().flat_map(|step| step.find(value)).collect(),
            Self::Filter(left, test) => {
                below(value).into_iter().filter(|item| holds(left, test.as_ref(), item)).collect()
            }
        }
    }
}

fn below(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(map) => map.values().collect(),
        _ => Vec::new(),
    }
}

/// Counted from the end if negative.
fn place(index: i64, len: usize) -> Option<usize> {
    let len = i64::try_from(len).ok()?;
    usize::try_from(if index < 0 { index + len } else { index }).ok()
}

fn slice(value: &Value, from: Option<i64>, to: Option<i64>, by: Option<i64>) -> Vec<&Value> {
    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
    let bound = |index: Option<i64>, unsaid: usize| {
        index.map_or(unsaid, |index| place(index, items.len()).unwrap_or_default()).min(items.len())
    };
    let (from, to) = (bound(from, 0), bound(to, items.len()));
    let by = by.and_then(|by| usize::try_from(by).ok()).filter(|by| *by > 0).unwrap_or(1);
    items.get(from..to).unwrap_or_default().iter().step_by(by).collect()
}

fn holds(left: &Operand, test: Option<&(Compare, Operand)>, item: &Value) -> bool {
    let first = |operand: &Operand| match operand {
        Operand::Path(path) => path.find(item).first().map(|value| (*value).clone()),
        Operand::Value(value) => Some(value.clone()),
    };
    let Some(left) = first(left) else { return false };
    let Some((compare, right)) = test else { return true };
    let Some(right) = first(right) else { return false };
    let order = match (&left, &right) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (a, b) => a.as_f64().zip(b.as_f64()).and_then(|(a, b)| a.partial_cmp(&b)),
    };
    let Some(order) = order else { return *compare == Compare::NotEqual };
    match compare {
        Compare::Equal => order == Ordering::Equal,
        Compare::NotEqual => order != Ordering::Equal,
        Compare::Less => order == Ordering::Less,
        Compare::LessOrEqual => order != Ordering::Greater,
        Compare::Greater => order == Ordering::Greater,
        Compare::GreaterOrEqual => order != Ordering::Less,
    }
}

struct Reader<'t> {
    rest: &'t str,
    depth: usize,
}

impl<'t> Reader<'t> {
    fn skip(&mut self, text: &str) -> bool {
        self.rest.strip_prefix(text).map(|rest| self.rest = rest).is_some()
    }

    /// Until something that no step begins with.
    fn path(&mut self) -> Result<JsonPath, PathError> {
        let mut steps = Vec::new();
        if !self.skip("$") {
            self.skip("@");
        }
        loop {
            if self.skip("..") {
                steps.push(Step::Descent);
                if !self.rest.is_empty() && !self.rest.starts_with(['.', '[']) {
                    steps.push(self.field()?);
                }
            } else if self.skip(".") {
                // A dot alone, or before a bracket, is the value itself.
                if !self.rest.is_empty() && !self.rest.starts_with('[') {
                    steps.push(self.field()?);
                }
            } else if self.skip("[") {
                steps.push(self.bracket()?);
            } else {
                return Ok(JsonPath(steps));
            }
        }
    }

    fn field(&mut self) -> Result<Step, PathError> {
        if self.skip("*") {
            return Ok(Step::All);
        }
        let (mut name, mut escaped, mut end) = (String::new(), false, self.rest.len());
        for (at, c) in self.rest.char_indices() {
            match c {
                '\\' if !escaped => {
                    escaped = true;
                    continue;
                }
                c if !escaped && ".[]=<>!&| ()'\",".contains(c) => {
                    end = at;
                    break;
                }
                c => name.push(c),
            }
            escaped = false;
        }
        if name.is_empty() {
            return Err(PathError(format!("a name is missing before {:?}", self.rest)));
        }
        self.rest = &self.rest[end..];
        Ok(Step::Field(name))
    }

    /// What stands before the bracket that closes this one.
    fn inside(&mut self) -> Result<&'t str, PathError> {
        let (mut depth, mut quote) = (0_usize, None);
        for (at, c) in self.rest.char_indices() {
            match (c, quote) {
                (c, Some(open)) if c == open => quote = None,
                (_, Some(_)) => {}
                ('\'' | '"', None) => quote = Some(c),
                ('[', None) => depth += 1,
                (']', None) if depth == 0 => {
                    let inside = &self.rest[..at];
                    self.rest = &self.rest[at + 1..];
                    return Ok(inside);
                }
                (']', None) => depth -= 1,
                _ => {}
            }
        }
        Err(PathError("unterminated array".to_owned()))
    }

    fn bracket(&mut self) -> Result<Step, PathError> {
        let inside = self.inside()?.trim();
        if let Some(test) = inside.strip_prefix("?(").and_then(|rest| rest.strip_suffix(')')) {
            return self.filter(test);
        }
        let mut steps = split(inside).into_iter().map(selection).collect::<Result<Vec<_>, _>>()?;
        Ok(if steps.len() == 1 { steps.remove(0) } else { Step::Union(steps) })
    }

    fn filter(&self, test: &str) -> Result<Step, PathError> {
        if self.depth >= DEEPEST {
            return Err(PathError("filters lie too deep in each other".to_owned()));
        }
        let mut reader = Reader { rest: test.trim(), depth: self.depth + 1 };
        let left = reader.operand()?;
        let known = [
            ("==", Compare::Equal),
            ("!=", Compare::NotEqual),
            ("<=", Compare::LessOrEqual),
            (">=", Compare::GreaterOrEqual),
            ("<", Compare::Less),
            (">", Compare::Greater),
        ];
        reader.rest = reader.rest.trim_start();
        let compare = known.into_iter().find(|(sign, _)| reader.skip(sign)).map(|(_, compare)| compare);
        let test = match compare {
            None => None,
            Some(compare) => {
                reader.rest = reader.rest.trim_start();
                Some((compare, reader.operand()?))
            }
        };
        match reader.rest.trim() {
            "" => Ok(Step::Filter(left, test)),
            rest => Err(PathError(format!("unexpected text in a filter: {rest}"))),
        }
    }

    fn operand(&mut self) -> Result<Operand, PathError> {
        if self.rest.starts_with(['@', '.', '$', '[']) {
            return self.path().map(Operand::Path);
        }
        let end = match self.rest.chars().next() {
            Some(quote @ ('\'' | '"')) => self.rest[1..].find(quote).map(|at| at + 2),
            _ => Some(self.rest.find(['=', '!', '<', '>', ' ']).unwrap_or(self.rest.len())),
        };
        let end = end.ok_or_else(|| PathError("unterminated quoted string".to_owned()))?;
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        let quoted = word.starts_with(['\'', '"']);
        let value = if quoted {
            Value::from(&word[1..word.len() - 1])
        } else {
            serde_json::from_str(word).map_err(|_| PathError(format!("unrecognized value: {word}")))?
        };
        Ok(Operand::Value(value))
    }
}

/// At commas outside of quotes.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut quote) = (Vec::new(), 0, None);
    for (at, c) in text.char_indices() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('\'' | '"', None) => quote = Some(c),
            (',', None) => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    parts
}

fn selection(text: &str) -> Result<Step, PathError> {
    let wrong = || PathError(format!("invalid array index {text}"));
    if text == "*" {
        return Ok(Step::All);
    }
    if text.len() >= 2 && text.starts_with(['\'', '"']) && text.ends_with(['\'', '"']) {
        return Ok(Step::Field(text[1..text.len() - 1].replace("\\'", "'").replace("\\\"", "\"")));
    }
    let number = |text: &str| match text.trim() {
        "" => Ok(None),
        text => text.parse::<i64>().map(Some).map_err(|_| wrong()),
    };
    let parts: Vec<&str> = text.split(':').collect();
    match parts[..] {
        [one] => number(one)?.map(Step::Index).ok_or_else(wrong),
        [from, to] => Ok(Step::Slice { from: number(from)?, to: number(to)?, by: None }),
        [from, to, by] => Ok(Step::Slice { from: number(from)?, to: number(to)?, by: number(by)? }),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_find_what_kubectl_finds() {
        let value = json!({
            "spec": {"a": 1, "b.c": "x", "list": [1, 2, 3], "deep": {"a": 2}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "n": 7}]},
        });
        for (path, expect) in [
            (".spec.a", json!([1])),
            (".spec['a']", json!([1])),
            (".spec.b\\.c", json!(["x"])),
            (".spec.list[0]", json!([1])),
            (".spec.list[-1]", json!([3])),
            (".spec.list[1:]", json!([2, 3])),
            (".spec.list[::2]", json!([1, 3])),
            (".spec.list[0,2]", json!([1, 3])),
            (".spec.list[*]", json!([1, 2, 3])),
            (".spec.none", json!([])),
            ("..a", json!([1, 2])),
            (".status.conditions[?(@.type==\"Ready\")].status", json!(["True"])),
            (".status.conditions[?(@.n > 6)].type", json!(["Other"])),
            (".status.conditions[?(@.status)].type", json!(["Ready"])),
        ] {
            let found = JsonPath::parse(path).map(|path| json!(path.find(&value)));
            assert_eq!(found, Ok(expect), "{path}");
        }
        for path in [".a[", ".a[x]", ".spec.list[?(@.a==)]", ".a]", "a"] {
            assert!(JsonPath::parse(path).is_err(), "{path}");
        }
    }
}
