//! Columns of Tables that a definition asks for. Upstream: apiextensions-apiserver
//! `pkg/registry/customresource/tableconvertor`.

use kontiki_machinery::{jsonpath::JsonPath, table::Cell};
use serde_json::{Value, json};

use crate::rows::value::{num, text};

/// The columns of a version. The paths are read when a row is made: Tables are rare, definitions many.
pub(super) struct Columns(Box<[Column]>);

struct Column {
    name: Box<str>,
    kind: Kind,
    format: Box<str>,
    description: Box<str>,
    priority: i64,
    path: Box<str>,
}

#[derive(Clone, Copy)]
enum Kind {
    Integer,
    Number,
    Boolean,
    Text,
    Date,
}

impl Kind {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Integer, "integer"),
        (Self::Number, "number"),
        (Self::Boolean, "boolean"),
        (Self::Text, "string"),
        (Self::Date, "date"),
    ];

    fn text(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

const CREATED: &str = "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";
const NAMED: &str = "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";

impl Columns {
    /// Those of a definition; where there are none, the age.
    pub fn of(columns: &[Value]) -> Self {
        if columns.is_empty() {
            let path = ".metadata.creationTimestamp";
            return Self::of(&[json!({"name": "Age", "type": "date", "jsonPath": path, "description": CREATED})]);
        }
        Self(columns.iter().map(column).collect())
    }

    /// Their definitions, that of the name first.
    pub fn definitions(&self) -> Value {
        let name = json!({"name": "Name", "type": "string", "format": "name", "description": NAMED, "priority": 0});
        let column = |column: &Column| {
            let usual = || format!("Custom resource definition column (in JSONPath format): {}", column.path);
            let said = column.description.to_string();
            json!({
                "name": column.name, "type": column.kind.text(), "format": column.format,
                "description": if said.is_empty() { usual() } else { said }, "priority": column.priority,
            })
        };
        std::iter::once(name).chain(self.0.iter().map(column)).collect()
    }

    /// The cells of an object.
    pub fn cells(&self, obj: &Value) -> Vec<Cell> {
        let name = Cell::Fixed(obj["metadata"]["name"].clone());
        std::iter::once(name).chain(self.0.iter().map(|column| column.cell(obj))).collect()
    }
}

fn column(said: &Value) -> Column {
    let kind = Kind::ALL.into_iter().find(|(_, word)| *word == text(said, "type")).map_or(Kind::Text, |(kind, _)| kind);
    Column {
        name: text(said, "name").into(),
        kind,
        format: text(said, "format").into(),
        description: text(said, "description").into(),
        priority: num(said, "priority"),
        path: text(said, "jsonPath").into(),
    }
}

impl Column {
    fn cell(&self, obj: &Value) -> Cell {
        let nothing = Cell::Fixed(Value::Null);
        let Ok(path) = JsonPath::parse(&self.path) else { return nothing };
        let Some(value) = path.find(obj).into_iter().next() else { return nothing };
        match self.kind {
            Kind::Text => Cell::Fixed(print(value).into()),
            Kind::Date => match value {
                Value::String(text) if kontiki_machinery::schema::time::parse(text).is_some() => Cell::since(text),
                Value::String(_) => Cell::Fixed("<invalid>".into()),
                _ => nothing,
            },
            Kind::Integer => Cell::Fixed(whole(value)),
            Kind::Number => Cell::Fixed(if value.is_number() { value.clone() } else { Value::Null }),
            Kind::Boolean => Cell::Fixed(if value.is_boolean() { value.clone() } else { Value::Null }),
        }
    }
}

/// A number without its fraction.
fn whole(value: &Value) -> Value {
    #[allow(clippy::cast_possible_truncation, reason = "what does not fit is the nearest that does")]
    match (value.as_i64(), value.as_f64()) {
        (Some(whole), _) => whole.into(),
        (None, Some(float)) => (float as i64).into(),
        _ => Value::Null,
    }
}

/// As Go prints it.
fn print(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
