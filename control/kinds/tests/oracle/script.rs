//! The scenario files: steps, bodies with edits, and pointers into answers.
//!
//! Variants of a step and edits of a body apply in the order in which they are written, which a
//! JSON map forgets: [`read`] turns those two kinds of objects into lists of pairs.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value, json};

/// A namespace for every scenario: none of them sees another's objects.
pub const NAMESPACE: &str = "oracle-ns";

/// One request and the golden answer's name.
pub struct Request {
    pub name: String,
    pub verb: String,
    pub path: String,
    pub body: Option<Value>,
    pub only: Option<Vec<String>>,
    pub ignore: Vec<String>,
    /// Who asks, and its group, where a step speaks for somebody else.
    pub user: Option<(String, String)>,
    /// The text of a body that is not JSON.
    pub raw: Option<String>,
    /// Who asks, if that is not this program.
    pub agent: Option<String>,
    /// Whether the answer shows who owns what.
    pub managed_fields: bool,
    /// Pure functions cannot tell what a raw body or a special header does.
    pub plain: bool,
}

/// A scenario file.
pub struct Script {
    spec: Value,
}

impl Script {
    pub fn new(spec: Value) -> Self {
        Self { spec }
    }

    pub fn scenarios(&self) -> Vec<String> {
        self.spec["scenarios"].as_object().map(|map| map.keys().cloned().collect()).unwrap_or_default()
    }

    pub fn setup(&self) -> Vec<Request> {
        let steps = self.spec["setup"].as_array().cloned().unwrap_or_default();
        steps.iter().flat_map(|step| self.expand(step)).collect()
    }

    pub fn requests(&self, scenario: &str) -> Vec<Request> {
        let mut out: Vec<Request> = Vec::new();
        let steps = self.spec["scenarios"][scenario].as_array().cloned().unwrap_or_default();
        for mut request in steps.iter().flat_map(|step| self.expand(step)) {
            let base = request.name.clone();
            let mut n = 1;
            while out.iter().any(|other| other.name == request.name) {
                n += 1;
                request.name = format!("{base} #{n}");
            }
            out.push(request);
        }
        out
    }

    fn expand(&self, step: &Value) -> Vec<Request> {
        if step.get("watch").is_some() {
            return Vec::new();
        }
        let base = step["name"].as_str().or(step["do"].as_str()).unwrap_or_default();
        let Some(each) = step["each"].as_array() else { return vec![self.request(step, base.to_owned(), &[])] };
        each.iter()
            .map(|variant| {
                let mut merged = step.clone();
                let mut edits = Vec::new();
                for pair in variant[1].as_array().into_iter().flatten() {
                    let key = pair[0].as_str().unwrap_or_default();
                    if key.starts_with('/') {
                        edits.push(pair.clone());
                    } else if key == "query" {
                        let path = step["do"].as_str().unwrap_or_default();
                        let joint = if path.contains('?') { '&' } else { '?' };
                        merged["do"] = json!(format!("{path}{joint}{}", pair[1].as_str().unwrap_or_default()));
                    } else {
                        merged[key] = pair[1].clone();
                    }
                }
                self.request(&merged, format!("{base} / {}", variant[0].as_str().unwrap_or_default()), &edits)
            })
            .collect()
    }

    fn request(&self, step: &Value, name: String, edits: &[Value]) -> Request {
        let target = self.fill_text(step["do"].as_str().unwrap_or_default());
        let (verb, path) = target.split_once(' ').unwrap_or((&target, ""));
        let strings = |key: &str| -> Option<Vec<String>> {
            Some(step.get(key)?.as_array()?.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        };
        let headers = step.get("headers").and_then(Value::as_object);
        let header = |key: &str| headers?.get(key)?.as_str().map(|text| self.fill_text(text));
        let only = headers.is_some_and(|headers| headers.keys().all(|key| key.starts_with("Impersonate-")));
        let user = header("Impersonate-User").zip(header("Impersonate-Group")).filter(|_| only);
        Request {
            name,
            verb: verb.to_owned(),
            path: path.to_owned(),
            body: step.get("body").map(|body| self.body(body, edits)),
            only: strings("only"),
            ignore: strings("ignore").unwrap_or_default(),
            user: user.clone(),
            raw: step["raw"].as_str().map(|text| self.fill_text(text)),
            agent: step["headers"]["User-Agent"].as_str().map(str::to_owned),
            managed_fields: step["managedFields"] == true,
            plain: step.get("raw").is_none()
                && (user.is_some() || step.get("headers").is_none())
                && step.get("gzip").is_none(),
        }
    }

    fn body(&self, body: &Value, edits: &[Value]) -> Value {
        let (name, own) = match body {
            Value::String(name) if name.starts_with('@') => (Some(&name[1..]), &Value::Null),
            Value::Object(map) => (map.get("@").and_then(Value::as_str), &body["edits"]),
            _ => (None, &Value::Null),
        };
        let mut out = name.map_or_else(|| body.clone(), |name| self.spec["bodies"][name].clone());
        let own = own.as_array().into_iter().flatten().filter(|_| name.is_some());
        // An edit of the step replaces the body's own edit of the same place, in its place.
        let mut all: Vec<Value> = own.cloned().collect();
        for edit in edits {
            match all.iter_mut().find(|other| other[0] == edit[0]) {
                Some(other) => *other = edit.clone(),
                None => all.push(edit.clone()),
            }
        }
        for edit in &all {
            let named = edit[1]
                .as_str()
                .and_then(|text| text.strip_prefix('@'))
                .filter(|name| self.spec["bodies"].get(*name).is_some());
            let value = if named.is_some() { self.body(&edit[1], &[]) } else { edit[1].clone() };
            put(&mut out, &split(&self.fill_text(edit[0].as_str().unwrap_or_default())), value);
        }
        self.fill(&out)
    }

    fn fill(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.fill_text(text)),
            Value::Array(items) => Value::Array(items.iter().map(|item| self.fill(item)).collect()),
            Value::Object(map) => Value::Object(map.iter().map(|(k, v)| (self.fill_text(k), self.fill(v))).collect()),
            other => other.clone(),
        }
    }

    fn fill_text(&self, text: &str) -> String {
        let mut out = text.to_owned();
        for _ in 0..4 {
            let vars = self.spec["vars"].as_object();
            for (name, value) in vars.into_iter().flatten() {
                out = out.replace(&format!("${{{name}}}"), value.as_str().unwrap_or_default());
            }
        }
        out = out.replace("${ns}", NAMESPACE);
        if let Some(rest) = out.strip_prefix("!repeat ") {
            let (what, count) = rest.rsplit_once(' ').unwrap_or((rest, "1"));
            return what.repeat(count.parse().unwrap_or(1));
        }
        if let Some(rest) = out.strip_prefix("!b64 ") {
            use base64::Engine as _;
            return base64::engine::general_purpose::STANDARD.encode(rest);
        }
        out
    }
}

pub fn split(pointer: &str) -> Vec<String> {
    pointer.split('/').skip(1).map(|part| part.replace("~1", "/").replace("~0", "~")).collect()
}

fn put(node: &mut Value, parts: &[String], value: Value) {
    let Some((head, rest)) = parts.split_first() else { return };
    let dropped = value.as_str() == Some("!drop");
    match node {
        Value::Array(items) if rest.is_empty() && head == "-" => items.push(value),
        Value::Array(items) => {
            let Ok(i) = head.parse::<usize>() else { return };
            match items.get_mut(i) {
                Some(item) if rest.is_empty() => *item = value,
                Some(item) => put(item, rest, value),
                None => {}
            }
        }
        Value::Object(map) if rest.is_empty() && dropped => {
            map.remove(head);
        }
        Value::Object(map) if rest.is_empty() => {
            map.insert(head.clone(), value);
        }
        Value::Object(map) => put(map.entry(head.clone()).or_insert_with(|| Value::Object(Map::new())), rest, value),
        _ => {}
    }
}

/// The value at a pointer; `*` maps over every element.
pub fn lookup(node: &Value, parts: &[String]) -> Option<Value> {
    let Some((head, rest)) = parts.split_first() else { return Some(node.clone()) };
    match (node, head.as_str()) {
        (Value::Object(map), "*") => {
            Some(Value::Object(map.iter().filter_map(|(k, v)| Some((k.clone(), lookup(v, rest)?))).collect()))
        }
        (Value::Array(items), "*") => Some(Value::Array(items.iter().filter_map(|item| lookup(item, rest)).collect())),
        (Value::Object(map), key) => lookup(map.get(key)?, rest),
        (Value::Array(items), key) => lookup(items.get(key.parse::<usize>().ok()?)?, rest),
        _ => None,
    }
}

/// Removes what a pointer names.
pub fn remove(node: &mut Value, parts: &[String]) {
    let Some((head, rest)) = parts.split_first() else { return };
    match node {
        Value::Object(map) if rest.is_empty() => {
            map.remove(head);
        }
        Value::Object(map) => {
            if let Some(child) = map.get_mut(head) {
                remove(child, rest);
            }
        }
        Value::Array(items) if head == "*" => items.iter_mut().for_each(|item| remove(item, rest)),
        _ => {}
    }
}

/// Reads a scenario file.
pub fn read(text: &str) -> serde_json::Result<Value> {
    serde_json::from_str::<Tree>(text).map(|tree| tree.value(""))
}

/// JSON whose objects remember the order of their fields.
enum Tree {
    Object(Vec<(String, Tree)>),
    List(Vec<Tree>),
    Leaf(Value),
}

impl Tree {
    /// `owner` is the field that holds this.
    fn value(self, owner: &str) -> Value {
        match self {
            Self::Leaf(value) => value,
            Self::List(items) => Value::Array(items.into_iter().map(|item| item.value("")).collect()),
            Self::Object(fields) if owner == "each" => {
                fields.into_iter().map(|(label, variant)| json!([label, variant.pairs()])).collect()
            }
            Self::Object(fields) if fields.iter().any(|(key, _)| key == "@") => {
                let (name, edits): (Vec<_>, Vec<_>) = fields.into_iter().partition(|(key, _)| key == "@");
                let name = name.into_iter().next().map(|(_, name)| name.value(""));
                json!({"@": name, "edits": Self::Object(edits).pairs()})
            }
            Self::Object(fields) => {
                Value::Object(fields.into_iter().map(|(key, field)| (key.clone(), field.value(&key))).collect())
            }
        }
    }

    fn pairs(self) -> Value {
        match self {
            Self::Object(fields) => fields.into_iter().map(|(key, field)| json!([key, field.value(&key)])).collect(),
            other => other.value(""),
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Tree::Object(fields))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf(Value::Null))
    }
}
