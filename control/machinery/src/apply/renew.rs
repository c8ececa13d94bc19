//! The update that most writers make most of the time: of what they own already, and nobody else does.
//!
//! Who owns what is then as it was, but for the time. That is seen in `metadata.managedFields` as it is stored, of which no
//! set is made and written again: a third of what an update of a Pod costs else.

use serde_json::{Map, Value};

use super::{
    compare::Comparison,
    managed::{self, Manager},
    set::Set,
};

/// The entries after an update by `manager` of what `compared` says, of which `owned` counts as theirs. `None`: somebody
/// owns more or less then, or an entry is of another version.
pub(super) fn renewed(
    entries: &Value,
    compared: &Comparison,
    owned: &Set,
    manager: &Manager,
    now: &str,
) -> Option<Value> {
    let list = entries.as_array().filter(|list| !list.is_empty())?;
    let changed = compared.changed();
    let mut own = None;
    for (index, entry) in list.iter().enumerate() {
        let fields = entry["fieldsV1"].as_object()?;
        let is_own = is_of(entry, manager);
        let more_or_less = if is_own { !within(owned, fields) } else { touches(&changed, fields) };
        if entry["apiVersion"].as_str() != manager.updates_in.as_deref()
            || more_or_less
            || touches(&compared.removed, fields)
        {
            return None;
        }
        if is_own {
            own = Some(index);
        }
    }
    let mut out = list.clone();
    if !owned.is_empty() {
        out[own?]["time"] = now.into();
        managed::sort(&mut out);
    }
    Some(out.into())
}

fn text<'a>(entry: &'a Value, field: &str) -> &'a str {
    entry[field].as_str().unwrap_or_default()
}

fn is_of(entry: &Value, manager: &Manager) -> bool {
    text(entry, "operation") == "Update"
        && text(entry, "manager") == manager.name
        && text(entry, "subresource") == manager.subresource
}

/// Whether a part of this form in `fieldsV1` is owned itself.
fn is_member(part: &Value) -> bool {
    part.as_object().is_none_or(|below| below.is_empty() || below.contains_key("."))
}

/// Whether all of `set` is in `fields`.
fn within(set: &Set, fields: &Map<String, Value>) -> bool {
    set.nodes().iter().all(|node| {
        fields.get(&node.element.text()).is_some_and(|part| {
            (!node.member || is_member(part))
                && (node.below.is_empty() || part.as_object().is_some_and(|below| within(&node.below, below)))
        })
    })
}

/// Whether any of `set` is in `fields`.
fn touches(set: &Set, fields: &Map<String, Value>) -> bool {
    set.nodes().iter().any(|node| {
        fields.get(&node.element.text()).is_some_and(|part| {
            (node.member && is_member(part)) || part.as_object().is_some_and(|below| touches(&node.below, below))
        })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(fields: Value) -> Set {
        Set::from_fields(&fields).expect("it is a set")
    }

    #[test]
    fn only_what_leaves_all_owners_as_they_are_is_renewed() {
        let entry = |manager: &str, operation: &str, time: &str, fields: Value| {
            json!({"apiVersion": "v1", "fieldsType": "FieldsV1",
            "fieldsV1": fields, "manager": manager, "operation": operation, "time": time})
        };
        let a = || entry("a", "Update", "2020-01-01T00:00:00Z", json!({"f:x": {".": {}, "f:y": {}}, "f:z": {}}));
        let b = || entry("b", "Update", "2021-01-01T00:00:00Z", json!({"f:w": {}}));
        let c = || entry("c", "Apply", "2021-01-01T00:00:00Z", json!({"f:z": {"f:deep": {}}}));
        let mut other = b();
        other["apiVersion"] = "v2".into();
        let none = || set(json!({}));
        for (what, entries, modified, removed, expect) in [
            ("its own part", json!([c(), a(), b()]), set(json!({"f:x": {"f:y": {}}})), none(), Some("c b a")),
            ("nothing", json!([c(), a(), b()]), none(), none(), Some("c a b")),
            ("a part that is not its own", json!([c(), a(), b()]), set(json!({"f:x": {"f:new": {}}})), none(), None),
            ("a part of somebody else's", json!([c(), a(), b()]), set(json!({"f:w": {}})), none(), None),
            ("what is in its part", json!([c(), a(), b()]), set(json!({"f:z": {"f:deep": {}}})), none(), None),
            ("what holds another's part", json!([c(), a()]), set(json!({"f:z": {}})), none(), Some("c a")),
            ("less of its own", json!([a(), b()]), none(), set(json!({"f:z": {}})), None),
            ("less of another's", json!([a(), b()]), set(json!({"f:z": {}})), set(json!({"f:w": {}})), None),
            ("less of nobody's", json!([a(), b()]), set(json!({"f:z": {}})), set(json!({"f:q": {}})), Some("b a")),
            ("where it owns nothing", json!([b()]), set(json!({"f:x": {}})), none(), None),
            ("where somebody owns in another version", json!([a(), other]), set(json!({"f:z": {}})), none(), None),
            ("where nobody owns anything", json!([]), set(json!({"f:z": {}})), none(), None),
        ] {
            let compared = Comparison { modified: modified.clone(), removed, added: Set::default() };
            let manager = Manager::updater("a", "v1", "");
            let got = renewed(&entries, &compared, &modified, &manager, "2022-01-01T00:00:00Z");
            let names = got.as_ref().map(|entries| {
                let entries = entries.as_array().expect("entries").iter();
                entries.map(|entry| text(entry, "manager")).collect::<Vec<_>>().join(" ")
            });
            assert_eq!(names.as_deref(), expect, "{what}");
            let renewed =
                |entries: &Value| entries.as_array().is_some_and(|all| all.iter().any(|e| text(e, "time") > "2022"));
            assert_eq!(got.as_ref().is_some_and(renewed), got.is_some() && !modified.is_empty(), "{what}");
        }
    }
}
