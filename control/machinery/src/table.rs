//! Tables and metadata-only views, for clients that print objects without knowing them.

use std::{collections::HashMap, fmt, sync::OnceLock};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::ResourceDef;

const FACTS: &str = include_str!("../data/tables.json");

/// What a row carries of its object.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// Its metadata.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

impl IncludeObject {
    /// Reads the `includeObject` parameter. `None` if it is not one of the known words.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Metadata" => Some(Self::Metadata),
            "None" => Some(Self::None),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }
}

/// The column definitions of a kind, ready to be sent. A kind without facts of its own has name and age.
#[must_use]
pub fn columns(api_version: &str, kind: &str) -> &'static Value {
    static COLUMNS: OnceLock<(HashMap<String, Value>, Value)> = OnceLock::new();
    let (known, default) = COLUMNS.get_or_init(load);
    known.get(&format!("{api_version} {kind}")).unwrap_or(default)
}

fn load() -> (HashMap<String, Value>, Value) {
    let facts: Map<String, Value> = serde_json::from_str(FACTS).expect("the facts are JSON");
    let known = facts.into_iter().map(|(kind, columns)| (kind, complete(&columns))).collect();
    let default = json!([{"name": "Name", "type": "string", "format": "name"}, {"name": "Created At", "type": "date"}]);
    (known, complete(&default))
}

fn complete(columns: &Value) -> Value {
    let complete = |column: &Value| {
        let text = |field: &str| column[field].as_str().unwrap_or_default();
        let description = if text("format") == "name" { "Name must be unique within a namespace." } else { "" };
        json!({
            "name": text("name"), "type": text("type"), "format": text("format"),
            "description": description, "priority": column["priority"].as_i64().unwrap_or(0),
        })
    };
    columns.as_array().into_iter().flatten().map(complete).collect()
}

/// A cell of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// What is shown.
    Fixed(Value),
    /// How long ago something was, in a text: each look tells it anew.
    Age {
        /// The text before it.
        before: String,
        /// When it was, in seconds since 1970.
        moment: i64,
        /// The text after it.
        after: String,
    },
}

impl Cell {
    /// The time since a moment; `<unknown>` if that is none.
    #[must_use]
    pub fn since(moment: &str) -> Self {
        match crate::schema::time::parse(moment) {
            Some(then) => Self::Age { before: String::new(), moment: then.as_second(), after: String::new() },
            None => Self::Fixed("<unknown>".into()),
        }
    }

    /// A text in a longer one. Other values stay as they are.
    #[must_use]
    pub fn within(self, start: &str, end: &str) -> Self {
        match self {
            Self::Age { before, moment, after } => {
                Self::Age { before: format!("{start}{before}"), moment, after: format!("{after}{end}") }
            }
            Self::Fixed(Value::String(text)) => Self::Fixed(format!("{start}{text}{end}").into()),
            Self::Fixed(value) => Self::Fixed(value),
        }
    }

    /// What it shows at a time.
    #[must_use]
    pub fn at(&self, now: Timestamp) -> Value {
        match self {
            Self::Fixed(value) => value.clone(),
            Self::Age { before, moment, after } => {
                format!("{before}{}{after}", human_duration(now.as_second() - moment)).into()
            }
        }
    }
}

/// The cells of an object, written but for the ages: enough to show its row at any time without reading it again.
#[derive(Debug)]
pub struct Cells {
    json: Box<str>,
    /// Where in `json` an age belongs, and since when it counts.
    ages: Box<[(usize, i64)]>,
}

impl Cells {
    /// Those of an object.
    #[must_use]
    pub fn of(def: &ResourceDef, obj: &Value) -> Self {
        let (mut json, mut ages) = (String::from("["), Vec::new());
        for (i, cell) in cells(def, obj).iter().enumerate() {
            json.push_str(if i > 0 { "," } else { "" });
            match cell {
                Cell::Fixed(value) => json.push_str(&value.to_string()),
                Cell::Age { before, moment, after } => {
                    let (before, after) =
                        (Value::from(before.as_str()).to_string(), Value::from(after.as_str()).to_string());
                    json.push_str(&before[..before.len() - 1]);
                    ages.push((json.len(), *moment));
                    json.push_str(&after[1..]);
                }
            }
        }
        json.push(']');
        Self { json: json.into(), ages: ages.into() }
    }

    /// Writes them as a JSON array, as of a time.
    pub fn write(&self, now: Timestamp, out: &mut impl fmt::Write) -> fmt::Result {
        let mut written = 0;
        for (at, moment) in &self.ages {
            out.write_str(&self.json[written..*at])?;
            // Neither digits and units nor `<invalid>` have to be escaped.
            out.write_str(&human_duration(now.as_second() - moment))?;
            written = *at;
        }
        out.write_str(&self.json[written..])
    }
}

/// The cells of an object, in the order of [`columns`].
fn cells(def: &ResourceDef, obj: &Value) -> Vec<Cell> {
    let cells = def.strategy.row(obj);
    if !cells.is_empty() {
        return cells;
    }
    ["name", "creationTimestamp"].map(|field| Cell::Fixed(obj["metadata"][field].clone())).into()
}

/// One row: cells by the kind's strategy, the object as asked.
#[must_use]
pub fn row(def: &ResourceDef, obj: &Value, include: IncludeObject, now: Timestamp) -> Value {
    let cells: Vec<_> = cells(def, obj).iter().map(|cell| cell.at(now)).collect();
    let object = match include {
        IncludeObject::None => Value::Null,
        IncludeObject::Metadata => partial(obj, "meta.k8s.io/v1"),
        IncludeObject::Object => obj.clone(),
    };
    json!({"cells": cells, "object": object})
}

/// A Table. `metadata` is that of the list, or of the one object's resourceVersion;
/// `version` is `v1` or `v1beta1`. A watch sends definitions with its first event only.
#[must_use]
pub fn table(def: &ResourceDef, rows: Vec<Value>, metadata: Value, version: &str, with_columns: bool) -> Value {
    let known = || columns(&def.api_version(), &def.kind).clone();
    let columns = if with_columns { def.strategy.columns().unwrap_or_else(known) } else { Value::Null };
    json!({
        "kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata,
        "columnDefinitions": columns, "rows": rows,
    })
}

/// `PartialObjectMetadata` of an object.
#[must_use]
pub fn partial(obj: &Value, api_version: &str) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": api_version, "metadata": obj["metadata"]})
}

/// `PartialObjectMetadataList`.
#[must_use]
pub fn partial_list(items: Vec<Value>, metadata: Value, api_version: &str) -> Value {
    json!({"kind": "PartialObjectMetadataList", "apiVersion": api_version, "metadata": metadata, "items": items})
}

/// A duration in seconds with two or three significant figures (`duration.HumanDuration`).
#[must_use]
pub fn human_duration(seconds: i64) -> String {
    let pair = |big: i64, big_unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{big_unit}") } else { format!("{big}{big_unit}{small}{small_unit}") }
    };
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match seconds {
        // Clocks of two machines may differ a little.
        i64::MIN..-1 => "<invalid>".into(),
        -1 => "0s".into(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => pair(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => pair(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 24 * 8 => pair(hours / 24, "d", hours % 24, "h"),
        _ if hours < 24 * 365 * 2 => format!("{}d", hours / 24),
        _ if hours < 24 * 365 * 8 => pair(hours / 24 / 365, "y", hours / 24 % 365, "d"),
        _ => format!("{}y", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_kubectl_prints_them() {
        const DAY: i64 = 86400;
        for (seconds, text) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (121, "2m1s"),
            (599, "9m59s"),
            (600, "10m"),
            (179 * 60 + 59, "179m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (8 * 3600, "8h"),
            (47 * 3600, "47h"),
            (2 * DAY, "2d"),
            (2 * DAY + 3600, "2d1h"),
            (8 * DAY, "8d"),
            (729 * DAY, "729d"),
            (730 * DAY, "2y"),
            (731 * DAY, "2y1d"),
            (8 * 365 * DAY, "8y"),
        ] {
            assert_eq!(human_duration(seconds), text, "{seconds}");
        }
    }

    struct Aged;

    impl crate::Strategy for Aged {
        fn row(&self, obj: &Value) -> Vec<Cell> {
            let since = Cell::since(obj["since"].as_str().unwrap_or_default());
            vec![
                Cell::Fixed(obj["any"].clone()),
                since.clone(),
                since.within("\"7\" (", " ago\\)"),
                Cell::Fixed(3.into()),
            ]
        }
    }

    #[test]
    fn written_cells_are_those_of_a_row_at_any_time() {
        let def = ResourceDef::new(("", "v1"), ("things", "thing", "Thing"), "io.k8s.api.core.v1.ConfigMap", Aged);
        let then = crate::schema::time::parse("2026-01-01T00:00:00Z").expect("a time");
        for obj in [
            json!({"any": "a\"\n", "since": "2026-01-01T00:00:00Z"}),
            json!({"any": null, "since": "never"}),
            json!({"any": true}),
        ] {
            let cells = Cells::of(&def, &obj);
            for seconds in [-7, 0, 61, 100_000] {
                let now = Timestamp::from_second(then.as_second() + seconds).expect("in range");
                let mut text = String::new();
                cells.write(now, &mut text).expect("a String takes everything");
                let written: Value = serde_json::from_str(&text).expect("JSON");
                assert_eq!(written, row(&def, &obj, IncludeObject::None, now)["cells"], "{obj}");
            }
            assert_eq!(row(&def, &obj, IncludeObject::None, then)["cells"].as_array().map(Vec::len), Some(4));
        }
        let now = Timestamp::from_second(then.as_second() + 61).expect("in range");
        let shown = row(&def, &json!({"since": "2026-01-01T00:00:00Z"}), IncludeObject::None, now);
        assert_eq!(shown["cells"], json!([null, "61s", "\"7\" (61s ago\\)", 3]));
    }

    #[test]
    fn columns_are_complete() {
        let pod = columns("v1", "Pod");
        assert_eq!(pod[0]["format"], "name");
        assert_eq!((&pod[5]["name"], &pod[5]["priority"], &pod[1]["format"]), (&"IP".into(), &1.into(), &"".into()));
        assert_eq!(columns("example.com/v1", "Thing")[1]["name"], "Created At");
    }
}
