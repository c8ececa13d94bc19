//! Lists that a kind tells from none when they were sent empty, though what is stored has no empty lists.
//!
//! Invariants
//! - Such a list is kept from decoding until the object has been judged: defaults take it for given, validation sees it.
//!   Nothing behind that does.

use serde_json::{Value, json};

use crate::ResourceDef;

impl ResourceDef {
    /// Brings an object of the row's type into canonical form, but for empty lists that its kind tells from none.
    pub fn normalize(&self, object: &mut Value) {
        let paths = self.strategy.tells_empty();
        let sent = (!paths.is_empty()).then(|| object.clone());
        self.schema.normalize(object);
        if let Some(sent) = sent {
            paths.iter().for_each(|path| restore(&sent, object, &parts(path)));
        }
    }

    /// Takes these lists out of an object that has been judged.
    pub fn forget_empty(&self, object: &mut Value) {
        self.strategy.tells_empty().iter().for_each(|path| forget(object, &parts(path)));
    }
}

fn parts(path: &str) -> Vec<&str> {
    path.split('.').collect()
}

fn restore(sent: &Value, object: &mut Value, path: &[&str]) {
    match (path, sent, object) {
        ([last], sent, Value::Object(fields)) => {
            if sent.get(last).and_then(Value::as_array).is_some_and(Vec::is_empty) {
                fields.entry(*last).or_insert_with(|| json!([]));
            }
        }
        (["*", rest @ ..], Value::Array(sent), Value::Array(items)) => {
            sent.iter().zip(items).for_each(|(sent, item)| restore(sent, item, rest));
        }
        (["*", rest @ ..], Value::Object(sent), Value::Object(fields)) => {
            for (name, value) in fields {
                restore(sent.get(name).unwrap_or(&Value::Null), value, rest);
            }
        }
        ([field, rest @ ..], sent, object) => {
            if let (Some(sent), Some(inner)) = (sent.get(field), object.get_mut(field)) {
                restore(sent, inner, rest);
            }
        }
        ([], ..) => {}
    }
}

fn forget(object: &mut Value, path: &[&str]) {
    match (path, object) {
        ([last], Value::Object(fields)) => {
            if fields.get(*last).and_then(Value::as_array).is_some_and(Vec::is_empty) {
                fields.remove(*last);
            }
        }
        (["*", rest @ ..], Value::Array(items)) => items.iter_mut().for_each(|item| forget(item, rest)),
        (["*", rest @ ..], Value::Object(fields)) => fields.values_mut().for_each(|value| forget(value, rest)),
        ([field, rest @ ..], object) => {
            if let Some(inner) = object.get_mut(field) {
                forget(inner, rest);
            }
        }
        ([], _) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_lists_come_back_where_they_are_told_and_go_again() {
        for (path, sent, canonical, expect) in [
            ("a.b", json!({"a": {"b": []}}), json!({"a": {}}), json!({"a": {"b": []}})),
            ("a.b", json!({"a": {"b": []}}), json!({}), json!({})),
            ("a.b", json!({"a": {"b": null}}), json!({"a": {}}), json!({"a": {}})),
            ("a.b", json!({"a": {"b": [1]}}), json!({"a": {"b": [1]}}), json!({"a": {"b": [1]}})),
            ("a.*.b", json!({"a": [{"b": []}, {}]}), json!({"a": [{}, {}]}), json!({"a": [{"b": []}, {}]})),
            (
                "a.*.b",
                json!({"a": {"x": {"b": []}}}),
                json!({"a": {"x": {}, "y": {}}}),
                json!({"a": {"x": {"b": []}, "y": {}}}),
            ),
            ("a.*.b", json!({"a": "text"}), json!({"a": "text"}), json!({"a": "text"})),
            ("a.b", json!([1]), json!([1]), json!([1])),
        ] {
            let mut object = canonical.clone();
            restore(&sent, &mut object, &parts(path));
            assert_eq!(object, expect, "{path} of {sent}");
            forget(&mut object, &parts(path));
            assert_eq!(object, canonical, "{path} of {sent}");
        }
    }
}
