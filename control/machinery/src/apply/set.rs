//! Sets of paths, and their form in `fieldsV1`.
//!
//! Invariants
//! - The nodes of a set are sorted, and none is there for nothing: it is a member or has members below it.
//! - A member says nothing about what lies below it.

use std::cmp::Ordering;

use serde_json::{Map, Value};

use super::{element::Element, value};

/// A path into an object.
pub type Path = Vec<Element>;

/// How deep a set may nest. Far beyond what an object may.
const MAX_DEPTH: usize = 256;

/// A set of paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    nodes: Vec<Node>,
}

/// A part, and the parts of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub element: Element,
    /// Whether the part itself is in the set.
    pub member: bool,
    /// What of it is.
    pub below: Set,
}

impl Node {
    fn is_needed(&self) -> bool {
        self.member || !self.below.is_empty()
    }
}

impl Set {
    /// The set of these paths. The empty path, the whole object, is in no set.
    #[must_use]
    pub fn of(paths: impl IntoIterator<Item = Path>) -> Self {
        let mut set = Self::default();
        paths.into_iter().for_each(|path| set.insert(&path));
        set
    }

    /// Adds a path.
    pub fn insert(&mut self, path: &[Element]) {
        let Some((first, rest)) = path.split_first() else { return };
        let node = self.node_mut(first);
        if rest.is_empty() {
            node.member = true;
        } else {
            node.below.insert(rest);
        }
    }

    fn node_mut(&mut self, element: &Element) -> &mut Node {
        let at = match self.find(element) {
            Ok(at) => at,
            Err(at) => {
                self.nodes.insert(at, Node { element: element.clone(), member: false, below: Self::default() });
                at
            }
        };
        &mut self.nodes[at]
    }

    fn find(&self, element: &Element) -> Result<usize, usize> {
        self.nodes.binary_search_by(|node| node.element.cmp(element))
    }

    /// Adds a part that stands behind all that are there.
    pub(super) fn push(&mut self, element: impl FnOnce() -> Element, member: bool, below: Self) {
        if member || !below.is_empty() {
            self.nodes.push(Node { element: element(), member, below });
        }
    }

    /// Sets the order right after [`Self::push`] of parts in any order.
    pub(super) fn sort(&mut self) {
        self.nodes.sort_by(|a, b| a.element.cmp(&b.element));
    }

    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Whether there is no path in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The part called `element`.
    pub(super) fn get(&self, element: &Element) -> Option<&Node> {
        self.find(element).ok().map(|at| &self.nodes[at])
    }

    /// Whether the path is in it.
    #[must_use]
    pub fn has(&self, path: &[Element]) -> bool {
        let Some((first, rest)) = path.split_first() else { return false };
        self.get(first).is_some_and(|node| if rest.is_empty() { node.member } else { node.below.has(rest) })
    }

    /// What is in one of the two.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.zip(other, |mine, theirs| match (mine, theirs) {
            (Some(mine), Some(theirs)) => Some(Node {
                element: mine.element.clone(),
                member: mine.member || theirs.member,
                below: mine.below.union(&theirs.below),
            }),
            (mine, theirs) => mine.or(theirs).cloned(),
        })
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.zip(other, |mine, theirs| {
            let (mine, theirs) = (mine?, theirs?);
            Some(Node {
                element: mine.element.clone(),
                member: mine.member && theirs.member,
                below: mine.below.intersection(&theirs.below),
            })
        })
    }

    /// What is in this one and not in the other: path by path, whatever lies above or below.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.zip(other, |mine, theirs| {
            let mine = mine?;
            let Some(theirs) = theirs else { return Some(mine.clone()) };
            Some(Node {
                element: mine.element.clone(),
                member: mine.member && !theirs.member,
                below: mine.below.difference(&theirs.below),
            })
        })
    }

    /// The same, and what lies below what is in the other goes as well.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        self.zip(other, |mine, theirs| {
            let mine = mine?;
            match theirs {
                None => Some(mine.clone()),
                Some(theirs) if theirs.member => None,
                Some(theirs) => Some(Node { below: mine.below.without(&theirs.below), ..mine.clone() }),
            }
        })
    }

    fn zip<'a>(&'a self, other: &'a Self, join: impl Fn(Option<&'a Node>, Option<&'a Node>) -> Option<Node>) -> Self {
        let (mut mine, mut theirs) = (self.nodes.iter().peekable(), other.nodes.iter().peekable());
        let mut nodes = Vec::new();
        while mine.peek().is_some() || theirs.peek().is_some() {
            let order = match (mine.peek(), theirs.peek()) {
                (Some(mine), Some(theirs)) => mine.element.cmp(&theirs.element),
                (Some(_), None) => Ordering::Less,
                _ => Ordering::Greater,
            };
            let a = if order.is_le() { mine.next() } else { None };
            let b = if order.is_ge() { theirs.next() } else { None };
            nodes.extend(join(a, b).filter(Node::is_needed));
        }
        Self { nodes }
    }

    /// All paths, those of one place before those below it.
    #[must_use]
    pub fn paths(&self) -> Vec<Path> {
        let mut out = Vec::new();
        self.paths_below(&mut Vec::new(), &mut out);
        out
    }

    fn paths_below(&self, prefix: &mut Path, out: &mut Vec<Path>) {
        for node in self.nodes.iter().filter(|node| node.member) {
            out.push([prefix.as_slice(), std::slice::from_ref(&node.element)].concat());
        }
        for node in &self.nodes {
            prefix.push(node.element.clone());
            node.below.paths_below(prefix, out);
            prefix.pop();
        }
    }

    /// Its form in `fieldsV1`.
    #[must_use]
    pub fn to_fields(&self) -> Value {
        Value::Object(self.fields(false))
    }

    fn fields(&self, member: bool) -> Map<String, Value> {
        let mut out = Map::new();
        if member && !self.is_empty() {
            out.insert(".".into(), Value::Object(Map::new()));
        }
        for node in &self.nodes {
            out.insert(node.element.text(), Value::Object(node.below.fields(node.member)));
        }
        out
    }

    /// The same as text, byte for byte as upstream writes it.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut out = String::new();
        self.write(false, &mut out);
        out
    }

    fn write(&self, member: bool, out: &mut String) {
        out.push('{');
        let mut first = true;
        if member && !self.is_empty() {
            out.push_str("\".\":{}");
            first = false;
        }
        for node in &self.nodes {
            if !std::mem::take(&mut first) {
                out.push(',');
            }
            value::go_string(&node.element.text(), false, out);
            out.push(':');
            node.below.write(node.member, out);
        }
        out.push('}');
    }

    /// Reads the form in `fieldsV1`. What has no known kind is passed over.
    ///
    /// # Errors
    /// It has not that form.
    pub fn from_fields(fields: &Value) -> Result<Self, String> {
        match fields {
            Value::Null => Ok(Self::default()),
            fields => Ok(read(fields, 0)?.1),
        }
    }
}

/// Whether a place is a member itself, and what lies below it.
fn read(fields: &Value, depth: usize) -> Result<(bool, Set), String> {
    let map = match fields {
        Value::Object(map) if depth < MAX_DEPTH => map,
        Value::Null => return Ok((true, Set::default())),
        Value::Object(_) => return Err("nested too deeply".into()),
        other => return Err(format!("expect {{ or n, but found {}", crate::decode::type_name(other))),
    };
    let mut set = Set::default();
    let mut member = false;
    for (text, fields) in map {
        if text == "." {
            member = true;
        } else if let Some(element) = Element::parse(text)? {
            let (member, below) = read(fields, depth + 1)?;
            set.push(|| element, member, below);
        }
    }
    if !set.nodes.is_sorted_by(|a, b| a.element < b.element) {
        set.sort();
        set.nodes.dedup_by(|later, earlier| later.element == earlier.element);
    }
    Ok((member || set.is_empty(), set))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(fields: Value) -> Set {
        Set::from_fields(&fields).expect("it is a set")
    }

    #[test]
    fn fields_are_read_and_written_byte_for_byte() {
        for text in [
            "{}",
            r#"{"f:a":{}}"#,
            r#"{"f:a":{".":{},"f:b":{}},"f:c":{"f:d":{}}}"#,
            r#"{"f:ports":{".":{},"k:{\"port\":80}":{".":{},"f:port":{}},"k:{\"port\":443}":{}}}"#,
            r#"{"f:s":{"v:\"a\\u003cb\"":{},"v:\"b\"":{}},"f:t":{"v:2":{},"v:10":{}}}"#,
        ] {
            let read = set(serde_json::from_str(text).expect("JSON"));
            assert_eq!(read.to_json(), text);
            assert_eq!(Set::from_fields(&read.to_fields()), Ok(read));
        }
    }

    #[test]
    fn what_is_no_set_is_refused() {
        for (fields, good) in [
            (json!(null), true),
            (json!({"f:a": null, "z:new": {"x": 1}, ".": 1}), true),
            (json!([]), false),
            (json!({"f:a": 1}), false),
            (json!({"nonsense": {}}), false),
            (json!({"f:a": {"k:x": {}}}), false),
        ] {
            assert_eq!(Set::from_fields(&fields).is_ok(), good, "{fields}");
        }
        let deep = (0..MAX_DEPTH + 2).fold(json!({}), |below, _| json!({"f:a": below}));
        assert!(Set::from_fields(&deep).is_err());
    }

    #[test]
    fn sets_are_computed_path_by_path() {
        let a = set(json!({"f:x": {}, "f:y": {".": {}, "f:z": {}}, "f:w": {"f:v": {}}}));
        let b = set(json!({"f:x": {"f:q": {}}, "f:y": {}, "f:w": {"f:v": {}, "f:u": {}}}));
        for (what, got, want) in [
            ("union", a.union(&b), r#"{"f:w":{"f:u":{},"f:v":{}},"f:x":{".":{},"f:q":{}},"f:y":{".":{},"f:z":{}}}"#),
            ("intersection", a.intersection(&b), r#"{"f:w":{"f:v":{}},"f:y":{}}"#),
            ("difference", a.difference(&b), r#"{"f:x":{},"f:y":{"f:z":{}}}"#),
            ("the other way", b.difference(&a), r#"{"f:w":{"f:u":{}},"f:x":{"f:q":{}}}"#),
            ("without", a.without(&b), r#"{"f:x":{}}"#),
            ("the other way", b.without(&a), r#"{"f:w":{"f:u":{}}}"#),
        ] {
            assert_eq!(got.to_json(), want, "{what}");
        }
        let paths: Vec<String> = a.paths().iter().map(|path| path.iter().map(ToString::to_string).collect()).collect();
        assert_eq!(paths, [".x", ".y", ".w.v", ".y.z"]);
        assert!(a.paths().iter().all(|path| a.has(path)) && !a.has(&[Element::field("w")]) && !a.has(&[]));
        assert_eq!(Set::of(a.paths()), a);
    }
}
