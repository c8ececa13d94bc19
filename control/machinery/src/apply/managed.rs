//! `metadata.managedFields`: who owns what, since when.
//!
//! Invariants
//! - An updater is one for each version in which it updates, an applier is the same in all versions.
//! - Nobody is there who owns nothing.
//! - Entries are written in upstream's order: appliers first, then by time, name, version, subresource.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::set::Set;

/// How many updaters an object remembers by name.
const MAX_UPDATERS: usize = 10;
/// Under whose name what the oldest of them own is kept.
const ANCIENT: &str = "ancient-changes";

/// Somebody who owns parts of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Manager {
    /// Its name.
    pub name: String,
    /// The version in which it updates; `None` for an applier.
    pub updates_in: Option<String>,
    /// The subresource through which it does so; empty for the object.
    pub subresource: String,
}

impl Manager {
    /// One who applies.
    #[must_use]
    pub fn applier(name: &str, subresource: &str) -> Self {
        Self { name: name.into(), updates_in: None, subresource: subresource.into() }
    }

    /// One who updates in a version.
    #[must_use]
    pub fn updater(name: &str, api_version: &str, subresource: &str) -> Self {
        Self { name: name.into(), updates_in: Some(api_version.into()), subresource: subresource.into() }
    }

    /// Whether it applies.
    #[must_use]
    pub fn applies(&self) -> bool {
        self.updates_in.is_none()
    }

    /// Upstream's name for it, which orders what is as old as another.
    pub(super) fn identifier(&self) -> String {
        let mut out = "{".to_owned();
        let operation = if self.applies() { "Apply" } else { "Update" };
        let version = self.updates_in.as_deref().unwrap_or_default();
        let fields = [("manager", self.name.as_str()), ("operation", operation), ("apiVersion", version)];
        for (name, value) in fields.into_iter().chain([("subresource", self.subresource.as_str())]) {
            if !value.is_empty() {
                out.push_str(if out.len() > 1 { ",\"" } else { "\"" });
                out.push_str(name);
                out.push_str("\":");
                super::value::go_string(value, true, &mut out);
            }
        }
        out
    }
}

/// What somebody owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    /// The parts.
    pub set: Set,
    /// The version in which they are named.
    pub api_version: String,
    /// When it changed them last.
    pub time: Option<String>,
}

/// Who owns what.
pub type Managers = BTreeMap<Manager, Owned>;

/// Reads `metadata.managedFields`.
///
/// # Errors
/// It has not that form.
pub fn decode(entries: &Value) -> Result<Managers, String> {
    let mut out = Managers::new();
    for (index, entry) in entries.as_array().into_iter().flatten().enumerate() {
        let text = |field: &str| entry[field].as_str().unwrap_or_default();
        let (operation, api_version) = (text("operation"), text("apiVersion"));
        if !["Apply", "Update"].contains(&operation) {
            return Err("operation must be `Apply` or `Update`".into());
        }
        if api_version.is_empty() {
            return Err("apiVersion must not be empty".into());
        }
        match text("fieldsType") {
            "FieldsV1" => {}
            "" => return Err(format!("missing fieldsType in managed fields entry {index}")),
            other => return Err(format!("invalid fieldsType {other:?} in managed fields entry {index}")),
        }
        let manager = Manager {
            name: text("manager").into(),
            updates_in: (operation == "Update").then(|| api_version.into()),
            subresource: text("subresource").into(),
        };
        let set = Set::from_fields(&entry["fieldsV1"]).map_err(|error| format!("error decoding set: {error}"))?;
        let time = entry["time"].as_str().map(str::to_owned);
        out.insert(manager, Owned { set, api_version: api_version.into(), time });
    }
    Ok(out)
}

/// `metadata.managedFields`; null if nobody owns anything.
#[must_use]
pub fn encode(managers: &Managers) -> Value {
    if managers.is_empty() {
        return Value::Null;
    }
    let mut entries: Vec<Value> = managers.iter().map(|(manager, owned)| entry(manager, owned)).collect();
    sort(&mut entries);
    entries.into()
}

/// Brings entries into upstream's order.
pub(super) fn sort(entries: &mut [Value]) {
    fn order(entry: &Value) -> (bool, &str, &str, &str, &str) {
        let text = |field: &str| entry[field].as_str().unwrap_or_default();
        let time = seconds(entry["time"].as_str());
        (text("operation") != "Apply", time, text("manager"), text("apiVersion"), text("subresource"))
    }
    entries.sort_by(|a, b| order(a).cmp(&order(b)));
}

/// Times in their canonical form are ordered as texts; no time is as old as can be.
fn seconds(time: Option<&str>) -> &str {
    time.unwrap_or("1970-01-01T00:00:00Z")
}

fn entry(manager: &Manager, owned: &Owned) -> Value {
    let mut out = Map::new();
    out.insert("apiVersion".into(), owned.api_version.as_str().into());
    out.insert("fieldsType".into(), "FieldsV1".into());
    out.insert("fieldsV1".into(), owned.set.to_fields());
    let operation = if manager.applies() { "Apply" } else { "Update" };
    out.insert("operation".into(), operation.into());
    let texts =
        [("manager", Some(&manager.name)), ("subresource", Some(&manager.subresource)), ("time", owned.time.as_ref())];
    for (field, text) in texts {
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            out.insert(field.into(), text.as_str().into());
        }
    }
    Value::Object(out)
}

/// Writes entries as JSON, byte for byte as upstream does: what they own in the order of [`super::Element`].
///
/// # Panics
/// Never: values are JSON.
pub fn write_entries(entries: &Value, out: &mut Vec<u8>) {
    let Some(list) = entries.as_array() else { return write(entries, out) };
    out.push(b'[');
    for (index, entry) in list.iter().enumerate() {
        separate(index, out);
        match entry.as_object() {
            Some(fields) => {
                write_map(fields.iter().map(|(key, value)| (key.as_str(), value)), out, |key, value, out| {
                    if key == "fieldsV1" { write_fields(value, out) } else { write(value, out) }
                })
            }
            None => write(entry, out),
        }
    }
    out.push(b']');
}

fn write_fields(fields: &Value, out: &mut Vec<u8>) {
    match fields.as_object() {
        Some(fields) => {
            write_map(super::element::sorted(fields).into_iter(), out, |_, value, out| write_fields(value, out))
        }
        None => write(fields, out),
    }
}

fn write_map<'a>(
    fields: impl Iterator<Item = (&'a str, &'a Value)>,
    out: &mut Vec<u8>,
    put: impl Fn(&str, &Value, &mut Vec<u8>),
) {
    out.push(b'{');
    for (index, (key, value)) in fields.enumerate() {
        separate(index, out);
        serde_json::to_writer(&mut *out, key).expect("a string is JSON and a Vec does not fail");
        out.push(b':');
        put(key, value, out);
    }
    out.push(b'}');
}

fn write(value: &Value, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("a Value is JSON and a Vec does not fail");
}

fn separate(index: usize, out: &mut Vec<u8>) {
    if index > 0 {
        out.push(b',');
    }
}

/// Whether a client wants everybody to be forgotten: an empty list, or one empty entry.
#[must_use]
pub fn is_reset(entries: &Value) -> bool {
    match entries.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([entry]) => *entry == json!({}),
        _ => false,
    }
}

/// Makes one empty entry of an empty list: it says the same, that all are to be forgotten, and outlives
/// [`Schema::normalize`](crate::schema::Schema::normalize).
pub fn keep_reset(value: &mut Value) {
    let entries = value.get_mut("metadata").and_then(|metadata| metadata.get_mut("managedFields"));
    if let Some(entries) = entries.and_then(Value::as_array_mut).filter(|entries| entries.is_empty()) {
        entries.push(Value::Object(Map::new()));
    }
}

/// Keeps the number of updaters in bounds: what the oldest own goes into one entry for each version.
pub(super) fn cap(managers: &mut Managers) {
    let mut updaters: Vec<(String, String, Manager)> = managers
        .iter()
        .filter(|(manager, _)| !manager.applies())
        .map(|(manager, owned)| (seconds(owned.time.as_deref()).to_owned(), manager.identifier(), manager.clone()))
        .collect();
    let mut count = updaters.len();
    if count <= MAX_UPDATERS {
        return;
    }
    updaters.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
    let mut first_of: BTreeMap<String, Manager> = BTreeMap::new();
    for (_, _, manager) in updaters {
        if count <= MAX_UPDATERS {
            return;
        }
        let Some(owned) = managers.get(&manager).cloned() else { continue };
        let Some(first) = first_of.get(&owned.api_version) else {
            first_of.insert(owned.api_version.clone(), manager);
            continue;
        };
        let bucket = Manager::updater(ANCIENT, &owned.api_version, "");
        if !managers.contains_key(&bucket)
            && let Some(oldest) = managers.remove(first)
        {
            managers.insert(bucket.clone(), oldest);
        }
        managers.remove(&manager);
        if let Some(ancient) = managers.get_mut(&bucket) {
            ancient.set = owned.set.union(&ancient.set);
            ancient.time = owned.time;
        }
        count -= 1;
    }
}

/// Whether two lists of entries are the same but for their times.
#[must_use]
pub fn same_but_times(a: &Value, b: &Value) -> bool {
    let timeless = |entry| {
        let fields = Value::as_object(entry).into_iter().flatten();
        fields.filter(|(field, _)| *field != "time")
    };
    match (a.as_array(), b.as_array()) {
        (Some(a), Some(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| timeless(a).eq(timeless(b))),
        (a, b) => a.is_none() && b.is_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(manager: &str, operation: &str, time: Option<&str>) -> Value {
        let mut out = json!({"manager": manager, "operation": operation, "apiVersion": "v1", "fieldsType": "FieldsV1",
            "fieldsV1": {format!("f:{manager}"): {}}});
        if let Some(time) = time {
            out["time"] = time.into();
        }
        out
    }

    fn names(entries: &Value) -> Vec<String> {
        entries
            .as_array()
            .expect("entries")
            .iter()
            .map(|entry| entry["manager"].as_str().unwrap_or("").into())
            .collect()
    }

    #[test]
    fn entries_are_read_and_written_in_order() {
        let entries = json!([
            entry("c", "Update", Some("2020-01-01T00:00:00Z")),
            entry("b", "Apply", Some("2021-01-01T00:00:00Z")),
            entry("d", "Apply", None),
            entry("a", "Apply", Some("2021-01-01T00:00:00Z")),
        ]);
        let managers = decode(&entries).expect("entries");
        let written = encode(&managers);
        assert_eq!(names(&written), ["d", "a", "b", "c"]);
        assert_eq!(decode(&written), Ok(managers));
        assert_eq!(encode(&Managers::new()), Value::Null);
    }

    #[test]
    fn what_is_no_entry_is_refused() {
        let good = entry("a", "Update", None);
        for (field, value, why) in [
            ("operation", json!("Frob"), "operation must be `Apply` or `Update`"),
            ("apiVersion", json!(""), "apiVersion must not be empty"),
            ("fieldsType", json!(null), "missing fieldsType in managed fields entry 0"),
            ("fieldsType", json!("FieldsV9"), "invalid fieldsType \"FieldsV9\" in managed fields entry 0"),
            ("fieldsV1", json!({"nonsense": {}}), "error decoding set: missing colon: nonsense"),
        ] {
            let mut bad = good.clone();
            bad[field] = value;
            assert_eq!(decode(&json!([bad])), Err(why.to_owned()));
        }
        assert!(decode(&json!([good])).is_ok() && decode(&Value::Null).is_ok_and(|all| all.is_empty()));
    }

    #[test]
    fn the_oldest_updaters_become_one() {
        let updater = |n: usize| entry(&format!("u{n:02}"), "Update", Some(&format!("2020-01-{:02}T00:00:00Z", n + 1)));
        let mut managers = decode(&(0..13).map(updater).collect()).expect("entries");
        cap(&mut managers);
        let written = encode(&managers);
        assert_eq!(names(&written)[..2], ["ancient-changes", "u04"]);
        assert_eq!(written[0]["time"], "2020-01-04T00:00:00Z");
        assert_eq!(written[0]["fieldsV1"], json!({"f:u00": {}, "f:u01": {}, "f:u02": {}, "f:u03": {}}));
        assert_eq!(managers.len(), MAX_UPDATERS);
    }

    #[test]
    fn only_empty_lists_reset() {
        for (entries, reset) in [
            (json!([]), true),
            (json!([{}]), true),
            (json!(null), false),
            (json!([{}, {}]), false),
            (json!([{"manager": "a"}]), false),
        ] {
            assert_eq!(is_reset(&entries), reset, "{entries}");
        }
        let (a, b) = (json!([{"manager": "a", "time": "1"}]), json!([{"manager": "a"}]));
        assert!(
            same_but_times(&a, &b)
                && !same_but_times(&a, &json!([{"manager": "b"}]))
                && !same_but_times(&a, &json!([]))
        );
    }
}
