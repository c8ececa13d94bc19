//! One step of a path into an object, and its text in `fieldsV1`.

use std::{cmp::Ordering, fmt};

use serde_json::{Map, Value};

use super::value;

/// How a part is found in what it is a part of.
#[derive(Clone, Debug)]
pub enum Element {
    /// A field of a struct, or a key of a map.
    Field(Box<str>),
    /// An item of a list, by what it has at the keys of the list, sorted by name.
    Key(Vec<(Box<str>, Value)>),
    /// An item of a list of scalars.
    Value(Value),
    /// An item of a list by its place. Nobody owns such a thing; errors name it.
    Index(i64),
}

impl Element {
    /// A field.
    #[must_use]
    pub fn field(name: &str) -> Self {
        Self::Field(name.into())
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Field(_) => 0,
            Self::Key(_) => 1,
            Self::Value(_) => 2,
            Self::Index(_) => 3,
        }
    }

    /// Its text in `fieldsV1`, e.g. `f:spec`, `k:{"name":"a"}`, `v:"x"`.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Key(keys) => {
                let mut out = "k:{".to_owned();
                for (index, (name, value)) in keys.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    value::go_string(name, false, &mut out);
                    out.push(':');
                    value::go_json(value, &mut out);
                }
                out.push('}');
                out
            }
            Self::Value(value) => {
                let mut out = "v:".to_owned();
                value::go_json(value, &mut out);
                out
            }
            Self::Index(at) => format!("i:{at}"),
        }
    }

    /// Reads such a text. `None`: of a kind that is not known, and passed over.
    ///
    /// # Errors
    /// It has not that form.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        let Some((kind, rest)) = text.split_at_checked(2) else {
            return Err("key must be 2 characters long:".into());
        };
        let json = |rest: &str| serde_json::from_str::<Value>(rest).map_err(|error| error.to_string());
        match kind {
            "f:" => Ok(Some(Self::Field(rest.into()))),
            "v:" => Ok(Some(Self::Value(json(rest)?))),
            "k:" => match json(rest)? {
                Value::Object(map) => Ok(Some(Self::Key(keys(map)))),
                Value::Null => Ok(Some(Self::Key(Vec::new()))),
                other => Err(format!("expect {{ or n, but found {other}")),
            },
            "i:" => rest.parse().map(|at| Some(Self::Index(at))).map_err(|error| format!("{error}")),
            _ if kind.ends_with(':') => Ok(None),
            _ => Err(format!("missing colon: {text}")),
        }
    }
}

/// A map forgets an order that it does not need: its keys are sorted.
fn keys(map: Map<String, Value>) -> Vec<(Box<str>, Value)> {
    map.into_iter().map(|(name, value)| (name.into(), value)).collect()
}

impl fmt::Display for Element {
    /// As errors and conflicts print it: `.spec`, `[name="a"]`, `[="x"]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(keys) => {
                let keys: Vec<String> =
                    keys.iter().map(|(name, value)| format!("{name}={}", value::show(value))).collect();
                write!(f, "[{}]", keys.join(","))
            }
            Self::Value(value) => write!(f, "[={}]", value::show(value)),
            Self::Index(at) => write!(f, "[{at}]"),
        }
    }
}

impl Ord for Element {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Field(a), Self::Field(b)) => a.cmp(b),
            (Self::Key(a), Self::Key(b)) => order_keys(a, b),
            (Self::Value(a), Self::Value(b)) => value::order(a, b),
            (Self::Index(a), Self::Index(b)) => a.cmp(b),
            (a, b) => a.rank().cmp(&b.rank()),
        }
    }
}

fn order_keys(a: &[(Box<str>, Value)], b: &[(Box<str>, Value)]) -> Ordering {
    let pairs = a.iter().zip(b);
    let differ = pairs.map(|((x, a), (y, b))| x.cmp(y).then_with(|| value::order(a, b))).find(|order| order.is_ne());
    differ.unwrap_or_else(|| a.len().cmp(&b.len()))
}

impl PartialOrd for Element {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Element {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Element {}

/// Puts the texts of what a set has at one place into the order in which upstream writes them: that of their elements,
/// which differs from that of the texts where keys are numbers.
#[must_use]
pub(super) fn sorted(map: &Map<String, Value>) -> Vec<(&str, &Value)> {
    let mut out: Vec<(&str, &Value)> = map.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let numbered = map.keys().filter(|key| key.starts_with("k:") || key.starts_with("v:")).count();
    if numbered > 1 {
        out.sort_by_cached_key(|(key, _)| Element::parse(key).ok().flatten());
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_are_read_and_written() {
        for text in [
            "f:spec",
            "f:",
            "f:a/b.c",
            r#"k:{"containerPort":80,"protocol":"TCP"}"#,
            r#"k:{"name":null}"#,
            "k:{}",
            r#"v:"example.com/a""#,
            "v:1.5",
            "v:true",
            r#"v:"a\u003cb""#,
            "i:3",
            "i:-1",
        ] {
            let element = Element::parse(text).expect("it is a path element").expect("of a known kind");
            assert_eq!(element.text(), text);
        }
        assert_eq!(Element::parse("x:1"), Ok(None));
        for bad in ["", "f", "nonsense", "k:[1]", "k:{", "v:", "v:1 2", "i:x", "é"] {
            assert!(Element::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn elements_are_ordered_by_kind_and_value() {
        let port = |port: i64| Element::Key(vec![("port".into(), json!(port))]);
        let sorted = [
            Element::field("a"),
            Element::field("b"),
            Element::Key(Vec::new()),
            port(80),
            port(443),
            Element::Value(json!(9)),
            Element::Value(json!("a")),
            Element::Index(2),
            Element::Index(10),
        ];
        assert!(sorted.is_sorted_by(|a, b| a < b));
        let shown: Vec<String> = sorted.iter().map(ToString::to_string).collect();
        assert_eq!(shown, [".a", ".b", "[]", "[port=80]", "[port=443]", "[=9]", "[=\"a\"]", "[2]", "[10]"]);
    }
}
