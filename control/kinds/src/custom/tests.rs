//! Rows of definitions: what is served of which, and how objects fare.

use kontiki_machinery::{table, validate_create, validate_update};
use serde_json::{Value, json};

use super::*;

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(DEFINITIONS, None, name)
}

/// A definition of `frobs` with these versions, established.
fn definition(versions: &Value) -> Value {
    let names =
        json!({"plural": "frobs", "singular": "frob", "kind": "Frob", "listKind": "FrobList", "shortNames": ["fb"]});
    json!({
        "metadata": {"name": "frobs.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": names, "versions": versions},
        "status": {"acceptedNames": names, "conditions": [{"type": "Established", "status": "True"}]},
    })
}

fn version(name: &str, storage: bool, schema: &Value) -> Value {
    json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": schema}, "subresources": {"status": {}}})
}

fn served(source: &Definitions, registry: &Registry, definition: Option<&Value>) {
    source.changed(&key("frobs.example.com"), definition.map(|it| Bytes::from(it.to_string())));
    source.settle(registry);
}

fn row(schema: &Value) -> Arc<ResourceDef> {
    let (source, registry) = (Definitions::default(), Registry::new(Vec::new()));
    served(&source, &registry, Some(&definition(&json!([version("v1", true, schema)]))));
    Arc::clone(registry.table().find("example.com", "v1", "frobs").expect("it is served"))
}

#[test]
fn rows_follow_definitions() {
    let (source, registry) = (Definitions::default(), Registry::new(Vec::new()));
    let any = json!({"type": "object"});
    let names = |registry: &Registry| {
        registry.table().rows().iter().map(|row| format!("{}/{}", row.version, row.plural)).collect::<Vec<_>>()
    };
    let mut all =
        definition(&json!([version("v1beta1", false, &any), version("v2", true, &any), version("x", false, &any)]));
    served(&source, &registry, Some(&all));
    assert_eq!(names(&registry), ["v2/frobs", "v1beta1/frobs", "x/frobs"], "the best version first");
    all["spec"]["versions"][2]["served"] = false.into();
    served(&source, &registry, Some(&all));
    assert_eq!(names(&registry), ["v2/frobs", "v1beta1/frobs"]);
    all["status"]["conditions"][0]["status"] = "False".into();
    served(&source, &registry, Some(&all));
    assert!(names(&registry).is_empty(), "its names are not established");
    served(&source, &registry, Some(&definition(&json!([version("v1", true, &any)]))));
    assert_eq!(names(&registry), ["v1/frobs"]);
    served(&source, &registry, None);
    assert!(names(&registry).is_empty());
}

#[test]
fn nonsense_serves_nothing_or_anything_and_breaks_nothing() {
    let (source, registry) = (Definitions::default(), Registry::new(Vec::new()));
    for versions in [json!(null), json!([null]), json!("x"), json!([{"name": 7, "served": true}])] {
        served(&source, &registry, Some(&definition(&versions)));
        for row in registry.table().rows() {
            let mut object = json!({"spec": {"a": [null, {}]}});
            row.schema.normalize(&mut object);
            row.strategy.default(&mut object);
            let _ = validate_create(row, &object);
        }
    }
    source.changed(&key("frobs.example.com"), Some(Bytes::from_static(b"{")));
    source.settle(&registry);
    assert!(registry.table().rows().is_empty());
}

#[test]
fn a_kind_that_goes_takes_nothing_new() {
    let (source, registry) = (Definitions::default(), Registry::new(Vec::new()));
    let mut going = definition(&json!([version("v1", true, &json!({"type": "object"}))]));
    going["status"]["conditions"]
        .as_array_mut()
        .expect("a list")
        .push(json!({"type": "Terminating", "status": "True"}));
    served(&source, &registry, Some(&going));
    let table = registry.table();
    let row = table.find("example.com", "v1", "frobs").expect("it is served");
    assert!(!row.verbs.contains(crate::Verb::Create) && row.verbs.contains(crate::Verb::Update));
}

#[test]
fn objects_are_pruned_defaulted_and_judged() {
    let row = row(&json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "size": {"type": "integer", "minimum": 1, "default": 3},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "maybe": {"type": "string", "nullable": true},
            "within": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
        }},
        "status": {"type": "object", "properties": {"n": {"type": "integer"}}},
    }}));
    let mut object = json!({
        "apiVersion": "example.com/v1", "kind": "Frob", "metadata": {"name": "a", "namespace": "ns", "labels": {}, "x": 1},
        "spec": {"unknown": 1, "free": {"x": {"y": null}}, "maybe": null, "size": null,
                 "within": {"apiVersion": "v1", "kind": "A", "metadata": {"bad": 1, "name": "x"}, "other": 1}},
        "status": {"n": 1}, "other": 2,
    });
    assert_eq!(
        row.schema.unknown_fields(&object),
        ["metadata.x", "other", "spec.unknown", "spec.within.metadata.bad"]
            .map(|path| format!("unknown field \"{path}\""))
    );
    row.schema.normalize(&mut object);
    row.strategy.default(&mut object);
    row.strategy.prepare_create(&mut object);
    let expect = json!({
        "apiVersion": "example.com/v1", "kind": "Frob", "metadata": {"name": "a", "namespace": "ns", "generation": 1},
        "spec": {"free": {"x": {"y": null}}, "maybe": null, "size": 3,
                 "within": {"apiVersion": "v1", "kind": "A", "metadata": {"name": "x"}, "other": 1}},
    });
    assert_eq!(object, expect);
    assert!(validate_create(&row, &object).is_empty());
    object["spec"]["size"] = 0.into();
    object["spec"]["within"] = json!({"kind": "A"});
    let errors: Vec<String> = validate_create(&row, &object).iter().map(ToString::to_string).collect();
    assert_eq!(
        errors,
        [
            "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1",
            "spec.within.apiVersion: Required value",
        ]
    );
    let mut new = object.clone();
    new["spec"]["within"]["apiVersion"] = "v1".into();
    new["metadata"]["labels"] = json!({"a": "b"});
    assert!(validate_update(&row, &new, &object, None).is_empty(), "what was wrong before is tolerated");
    new["spec"]["size"] = (-1).into();
    assert_eq!(validate_update(&row, &new, &object, None).len(), 1);
}

#[test]
fn an_update_of_the_status_changes_nothing_else() {
    let row = row(&json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
    let old = json!({"metadata": {"name": "a", "generation": 2, "labels": {"a": "b"}}, "spec": 1, "status": {"n": 1}});
    let mut new = json!({"metadata": {"name": "a", "managedFields": [1]}, "spec": 2, "status": {"n": 2}});
    row.strategy.prepare_update(&mut new, &old, Some("status"));
    let metadata = json!({"name": "a", "generation": 2, "labels": {"a": "b"}, "managedFields": [1]});
    assert_eq!(new, json!({"metadata": metadata, "spec": 1, "status": {"n": 2}}));
    let mut new = json!({"metadata": {"name": "a"}, "spec": 2, "status": {"n": 7}});
    row.strategy.prepare_update(&mut new, &old, None);
    assert_eq!(new, json!({"metadata": {"name": "a", "generation": 3}, "spec": 2, "status": {"n": 1}}));
}

#[test]
fn columns_show_what_lies_at_their_paths() {
    let (source, registry) = (Definitions::default(), Registry::new(Vec::new()));
    let mut all = definition(&json!([version("v1", true, &json!({"type": "object"}))]));
    all["spec"]["versions"][0]["additionalPrinterColumns"] = json!([
        {"name": "A", "type": "integer", "jsonPath": ".spec.a"}, {"name": "B", "type": "string", "jsonPath": ".spec.b"},
        {"name": "C", "type": "date", "jsonPath": ".spec.c"}, {"name": "D", "type": "boolean", "jsonPath": ".spec.d"},
    ]);
    served(&source, &registry, Some(&all));
    let table_of = registry.table();
    let row = table_of.find("example.com", "v1", "frobs").expect("it is served");
    for (spec, cells) in [
        (json!({"a": 1.5, "b": {"x": 1}, "c": "never", "d": true}), json!(["n", 1, "{\"x\":1}", "<invalid>", true])),
        (json!({"a": "7", "b": null, "c": 7, "d": "x"}), json!(["n", null, "<no value>", null, null])),
        (json!({}), json!(["n", null, null, null, null])),
    ] {
        let object = json!({"metadata": {"name": "n"}, "spec": spec});
        let shown = table::row(row, &object, table::IncludeObject::None, jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(shown["cells"], cells, "{object}");
    }
}

#[test]
fn what_is_at_rest_shares_the_stored_bytes() {
    let many: serde_json::Map<String, Value> = (0..500)
        .map(|n| (format!("field{n}"), json!({"type": "string", "description": "words ".repeat(20)})))
        .collect();
    let stored = Bytes::from(
        definition(&json!([version("v1", true, &json!({"type": "object", "properties": many}))])).to_string(),
    );
    let rows = row::of(&stored);
    let held = std::mem::size_of::<ResourceDef>();
    assert!(rows.len() == 1 && held < 2 << 10, "{held}");
    drop(rows);
    assert!(stored.try_into_mut().is_ok(), "nobody holds the bytes any more");
}

/// What is said of an update of the spec.
fn said(row: &ResourceDef, new: &Value, old: &Value) -> String {
    let object =
        |spec: &Value| json!({"apiVersion": "example.com/v1", "kind": "Frob", "metadata": {"name": "a"}, "spec": spec});
    let found = row.strategy.validate_update(&object(new), &object(old), None);
    found.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn ruled(properties: &Value, rules: &Value) -> Arc<ResourceDef> {
    let spec = json!({"type": "object", "properties": properties, "x-kubernetes-validations": rules});
    row(&json!({"type": "object", "properties": {"spec": spec}}))
}

#[test]
fn findings_of_rules_are_where_and_what_the_rule_says() {
    let properties =
        json!({"n": {"type": "integer"}, "m": {"type": "object", "additionalProperties": {"type": "string"}}});
    for (rule, expect) in [
        (json!({"rule": "self.n > 5", "message": " too few "}), "spec: Invalid value: too few"),
        (
            json!({"rule": "self.n > 5", "reason": "FieldValueForbidden", "fieldPath": ".n"}),
            "spec.n: Forbidden: failed rule: self.n > 5",
        ),
        (
            json!({"rule": "self.n > 5", "reason": "FieldValueRequired", "fieldPath": ".m['k']"}),
            "spec.m[k]: Required value: failed rule: self.n > 5",
        ),
        (json!({"rule": "self.n > 5", "reason": "FieldValueDuplicate"}), "spec: Duplicate value"),
        (json!({"rule": "self.n > 5", "messageExpression": "string(self.n) + ' of 6'"}), "spec: Invalid value: 1 of 6"),
        (json!({"rule": "self.n > 5", "message": "m", "messageExpression": "'a\\nb'"}), "spec: Invalid value: m"),
        (
            json!({"rule": "self.n / 0 == 1"}),
            "spec: Invalid value: \"object\": division by zero evaluating rule: self.n / 0 == 1",
        ),
        (json!({"rule": "self.n > oldSelf.n"}), "spec: Invalid value: failed rule: self.n > oldSelf.n"),
        (
            json!({"rule": "oldSelf.hasValue() && oldSelf.value().n > self.n", "optionalOldSelf": true}),
            "spec: Invalid value: failed rule: oldSelf.hasValue() && oldSelf.value().n > self.n",
        ),
    ] {
        let row = ruled(&properties, &json!([rule]));
        assert_eq!(said(&row, &json!({"n": 1}), &json!({"n": 1, "m": {}})), expect, "{rule}");
    }
}

#[test]
fn rules_do_not_hold_against_an_update_what_it_leaves() {
    let text = json!({"type": "string", "x-kubernetes-validations": [{"rule": "self != 'bad'"}]});
    let row = ruled(
        &json!({"a": text, "b": text, "l": {"type": "array", "items": text}, "t": {"type": "string"}}),
        &json!([]),
    );
    for (new, old, expect) in [
        (json!({"a": "bad", "t": "x"}), json!({"a": "bad"}), ""),
        (
            json!({"a": "bad", "b": "bad"}),
            json!({"a": "bad"}),
            "spec.b: Invalid value: \"bad\": failed rule: self != 'bad'",
        ),
        (json!({"l": ["bad"], "t": "x"}), json!({"l": ["bad"]}), ""),
        (
            json!({"l": ["bad", "x"]}),
            json!({"l": ["bad"]}),
            "spec.l[0]: Invalid value: \"bad\": failed rule: self != 'bad'",
        ),
    ] {
        assert_eq!(said(&row, &new, &old), expect, "{new}");
    }
}

#[test]
fn rules_stop_when_they_have_cost_too_much() {
    let deep = "self.l.all(a, self.l.all(b, self.l.all(c, a + b + c >= 0)))";
    let rules = json!([{"rule": deep}, {"rule": "false"}]);
    let row = ruled(&json!({"l": {"type": "array", "items": {"type": "integer"}}}), &rules);
    let spec = json!({"l": vec![1; 100]});
    let found = said(&row, &spec, &json!({}));
    assert!(found.contains("call cost exceeds limit for rule") && !found.contains("false"), "{found}");
}

#[test]
fn a_definition_says_who_converts() {
    let webhook = json!({"clientConfig": {"service": {"namespace": "n", "name": "s", "port": 443}},
        "conversionReviewVersions": ["v1"]});
    for (conversion, expect) in [
        (json!({"strategy": "Webhook", "webhook": webhook}), true),
        (json!({"strategy": "None"}), false),
        (json!({"strategy": "Webhook"}), false),
        (Value::Null, false),
    ] {
        let (source, registry) = (Definitions::default(), Registry::new(Vec::new()));
        let any = json!({"type": "object"});
        let mut all = definition(&json!([version("v1", true, &any), version("v2", false, &any)]));
        all["spec"]["conversion"] = conversion.clone();
        served(&source, &registry, Some(&all));
        for row in registry.table().rows() {
            assert_eq!(row.strategy.conversion().is_some(), expect, "{conversion} {}", row.version);
        }
    }
}

/// The definitions of OpenAPI, version 2 and 3, where one kind has this schema.
fn published(schema: &Value) -> [Value; 2] {
    let (source, registry) = (Definitions::default(), Registry::new(Vec::new()));
    served(&source, &registry, Some(&definition(&json!([version("v1", true, schema)]))));
    let table = registry.table();
    let read = |text: Bytes| serde_json::from_slice::<Value>(&text).expect("a document is JSON");
    let v3 = table.documents().v3("apis/example.com/v1").expect("a document of the group");
    [read(table.documents().v2("v1").json())["definitions"].clone(), read(v3.json())["components"]["schemas"].clone()]
}

/// A definition without what is said of every object.
fn own(definition: &Value) -> Value {
    let mut own = definition.clone();
    if let Some(properties) = own.get_mut("properties").and_then(Value::as_object_mut) {
        for name in ["apiVersion", "kind", "metadata"] {
            assert!(properties.remove(name).is_some(), "{name}");
        }
    }
    own
}

#[test]
fn definitions_are_published_as_upstream_does() {
    let kind = |kind: &str| json!([{"group": "example.com", "version": "v1", "kind": kind}]);
    let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let plain = json!({"type": "object"});
    let spec = json!({"type": "object", "properties": {"spec": any}});
    for (schema, v2, v3) in [
        // Version 2 does not say that fields may be unknown: kubectl would take what is said for all there may be.
        (
            &any,
            json!({"type": "object"}),
            json!({"type": "object", "properties": {}, "x-kubernetes-preserve-unknown-fields": true}),
        ),
        (&plain, json!({"type": "object", "properties": {}}), json!({"type": "object", "properties": {}})),
        (
            &spec,
            json!({"type": "object", "properties": {"spec": {"x-kubernetes-preserve-unknown-fields": true}}}),
            json!({"type": "object", "properties": {"spec": any}}),
        ),
    ] {
        for (all, mut expect) in published(schema).into_iter().zip([v2, v3]) {
            expect["x-kubernetes-group-version-kind"] = kind("Frob");
            assert_eq!(own(&all["com.example.v1.Frob"]), expect, "{schema}");
            let list = &all["com.example.v1.FrobList"];
            assert_eq!(list["x-kubernetes-group-version-kind"], kind("FrobList"));
            assert_eq!(
                (&list["required"], list["properties"]["items"]["type"].as_str()),
                (&json!(["items"]), Some("array"))
            );
            for shared in ["ListMeta", "DeleteOptions", "Status", "Patch"] {
                assert!(all[format!("io.k8s.apimachinery.pkg.apis.meta.v1.{shared}")].is_object(), "{shared}");
            }
        }
    }
}
