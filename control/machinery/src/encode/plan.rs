//! Types compiled for writing protobuf: what a JSON field becomes on the wire.

use std::{
    collections::{HashMap, HashSet},
    sync::OnceLock,
};

use crate::{
    schema::registry,
    wire::{JSON_SCHEMA, Meaning, Union, messages, numbers, union_of},
};

/// A message. Its fields are compiled when they are first asked for: types may refer to each other in circles.
pub(super) struct Message {
    name: &'static str,
    fields: OnceLock<Fields>,
    whole: OnceLock<bool>,
}

/// The fields of a message, sorted by name, as stored objects have them.
#[derive(Default)]
struct Fields {
    known: Vec<Field>,
    /// Whether there are others, of types that have no place in protobuf here.
    others: bool,
}

/// A field of a message, by its name in JSON.
pub(super) struct Field {
    pub name: Box<[u8]>,
    /// Numbers of the messages that it lies in (structs embedded in its parent), outermost first.
    pub within: Box<[u32]>,
    pub number: u32,
    pub form: Form,
}

/// The form of a value.
pub(super) enum Form {
    Bool,
    Int,
    Double,
    String,
    Bytes,
    Time,
    MicroTime,
    Quantity,
    IntOrString,
    /// Its JSON text, as the first field of a message.
    Json,
    Message(&'static Message),
    List(Box<Form>),
    Map(Box<Form>),
    /// A list in a message of its own: what named list types become (`Verbs`, `ExtraValue`).
    Wrapped(Box<Form>),
    Union(Union, &'static Message),
}

/// The one field that is a named list type.
const NAMED_LIST: (&str, &str) = ("io.k8s.apimachinery.pkg.apis.meta.v1.APIResource", "verbs");

impl Message {
    /// The message of a type; `None` if it has no protobuf form.
    pub fn of(name: &str) -> Option<&'static Self> {
        static INDEX: OnceLock<HashMap<&'static str, Message>> = OnceLock::new();
        let make =
            || messages().map(|name| (name, Self { name, fields: OnceLock::new(), whole: OnceLock::new() })).collect();
        INDEX.get_or_init(make).get(name)
    }

    /// Sorted by name, as stored objects have them.
    pub fn fields(&self) -> &[Field] {
        &self.all().known
    }

    fn all(&self) -> &Fields {
        self.fields.get_or_init(|| {
            let words = registry::data(self.name).map(|data| data.fields).unwrap_or_default();
            let mut out = Fields::default();
            collect(self.name, self.name, &[], &|field| words.get(field).map(|data| data.word), &mut out);
            out.known.sort_by(|a, b| a.name.cmp(&b.name));
            out
        })
    }

    /// Whether nothing of an object would be lost.
    pub fn is_whole(&'static self) -> bool {
        *self.whole.get_or_init(|| {
            let (mut seen, mut waiting) = (HashSet::new(), vec![self]);
            while let Some(message) = waiting.pop() {
                if message.all().others {
                    return false;
                }
                let inner = message.fields().iter().filter_map(|field| field.form.message());
                waiting.extend(inner.filter(|inner| seen.insert(inner.name)));
            }
            true
        })
    }
}

impl Form {
    /// The message that it is, or holds.
    fn message(&self) -> Option<&'static Message> {
        match self {
            Self::Message(message) => Some(*message),
            Self::List(item) | Self::Map(item) | Self::Wrapped(item) => item.message(),
            _ => None,
        }
    }
}

/// Adds the fields of `table`, whose JSON names have the types that `word` knows.
fn collect(owner: &str, table: &str, within: &[u32], word: &dyn Fn(&str) -> Option<&'static str>, out: &mut Fields) {
    for (number, meaning) in numbers(table).into_iter().flatten() {
        let Ok(number) = u32::try_from(*number) else { continue };
        match meaning {
            Meaning::Embedded(table) => collect(owner, table, &[within, &[number]].concat(), word, out),
            Meaning::Field(name) => {
                // What has a number and no type is gone.
                let Some(word) = word(name) else { continue };
                let Some(form) = form(word) else {
                    out.others = true;
                    continue;
                };
                let form = match (union_of(table, name), form) {
                    (Some(kind), form) => union(kind, form),
                    (None, form) if (owner, name.as_str()) == NAMED_LIST => Form::Wrapped(Box::new(form)),
                    (None, form) => form,
                };
                out.known.push(Field { name: name.as_bytes().into(), within: within.into(), number, form });
            }
        }
    }
}

/// The form of a union, or of a map of them.
fn union(kind: Union, form: Form) -> Form {
    match (Message::of(JSON_SCHEMA), form) {
        (Some(schema), Form::Map(_)) => Form::Map(Box::new(Form::Union(kind, schema))),
        (Some(schema), _) => Form::Union(kind, schema),
        (None, form) => form,
    }
}

/// `None`: the type has no place in protobuf.
fn form(word: &str) -> Option<Form> {
    if let Some(item) = word.strip_prefix("[]") {
        return Some(Form::List(Box::new(form(item)?)));
    }
    if let Some(item) = word.strip_prefix("map[string]") {
        return Some(Form::Map(Box::new(match form(item)? {
            list @ Form::List(_) => Form::Wrapped(Box::new(list)),
            other => other,
        })));
    }
    Some(match word {
        "any" | "object" => Form::Json,
        "bool" => Form::Bool,
        "int32" | "int64" => Form::Int,
        "double" => Form::Double,
        "string" => Form::String,
        "bytes" => Form::Bytes,
        "time" => Form::Time,
        "micro-time" => Form::MicroTime,
        "quantity" => Form::Quantity,
        "int-or-string" => Form::IntOrString,
        name => match Message::of(name) {
            Some(message) => Form::Message(message),
            None => form(registry::data(name)?.word?)?,
        },
    })
}
