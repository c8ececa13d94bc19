//! `metadata.managedFields` after writes of all sorts, by upstream's rules (`apimachinery/pkg/util/managedfields`).

use std::borrow::Cow;

use kontiki_machinery::{
    GroupVersionKind,
    apply::{ApplyError, Counted, Element, FieldManager, Set, Single, Versions, decode, keep_reset, write_entries},
    schema::{self, shape::Shape},
};
use serde_json::{Value, json};

const MAP: &str = "io.k8s.api.core.v1.ConfigMap";

/// A ConfigMap with writes made to it, each a second after the last.
struct Story {
    live: Option<Value>,
    second: u32,
    counted: Counted,
    subresource: &'static str,
}

impl Story {
    fn new() -> Self {
        Self { live: None, second: 0, counted: Counted::All, subresource: "" }
    }

    fn door<R>(&mut self, run: impl FnOnce(&FieldManager<'_>, Option<&Value>) -> R) -> R {
        self.second += 1;
        let (schema, now) = (schema::known(MAP), format!("2026-01-01T00:00:{:02}Z", self.second));
        let gvk = GroupVersionKind { group: String::new(), version: "v1".into(), kind: "ConfigMap".into() };
        let versions = Single { api_version: "v1", shape: schema.shape() };
        let (counted, subresource) = (&self.counted, self.subresource);
        let door = FieldManager { gvk: &gvk, schema: &schema, versions: &versions, subresource, counted, now: &now };
        run(&door, self.live.as_ref())
    }

    fn keep(&mut self, mut new: Value) {
        new["metadata"]["uid"] = "u".into();
        self.live = Some(new);
    }

    fn update(&mut self, manager: &str, data: Value) -> &mut Self {
        let mut new = self.live.clone().unwrap_or_else(|| object(json!({})));
        new["data"] = data;
        self.put(manager, new)
    }

    fn put(&mut self, manager: &str, mut new: Value) -> &mut Self {
        self.door(|door, live| door.update(live, &mut new, manager));
        self.keep(new);
        self
    }

    fn apply(&mut self, manager: &str, config: &Value, force: bool) -> Result<&mut Self, ApplyError> {
        let new = self.door(|door, live| door.apply(live, config, manager, force))?;
        self.keep(new);
        Ok(self)
    }

    fn applied(&mut self, manager: &str, data: Value) -> &mut Self {
        self.apply(manager, &object(data), false).expect("nobody is in conflict")
    }

    fn conflict(&mut self, manager: &str, data: Value) -> String {
        match self.apply(manager, &object(data), false) {
            Err(error) => error.status().message,
            Ok(_) => "none".into(),
        }
    }

    /// `manager operation second fields` of each entry.
    fn owners(&self) -> Vec<String> {
        let entries = self.live.as_ref().map(|live| live["metadata"]["managedFields"].clone()).unwrap_or_default();
        let show = |entry: &Value| {
            let text = |field: &str| entry[field].as_str().unwrap_or_default();
            let second = text("time").get(17..19).unwrap_or("--");
            format!("{} {} {second} {}", text("manager"), text("operation"), entry["fieldsV1"]["f:data"])
        };
        entries.as_array().into_iter().flatten().map(show).collect()
    }
}

fn object(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one", "namespace": "a"}, "data": data})
}

#[test]
fn times_move_when_somebody_gets_something() {
    let mut story = Story::new();
    story.update("u", json!({"a": "1"}));
    assert_eq!(story.owners(), [r#"u Update 01 {".":{},"f:a":{}}"#]);
    story.update("u", json!({"a": "1"}));
    assert_eq!(story.owners(), [r#"u Update 01 {".":{},"f:a":{}}"#], "nothing changed");
    story.update("v", json!({"a": "1", "b": "1"}));
    assert_eq!(story.owners(), [r#"u Update 01 {".":{},"f:a":{}}"#, r#"v Update 03 {"f:b":{}}"#]);
    story.update("v", json!({"b": "1"}));
    assert_eq!(story.owners(), [r#"u Update 01 {}"#, r#"v Update 03 {"f:b":{}}"#], "to take away is to get nothing");
    story.update("u", json!({"b": "2"}));
    assert_eq!(story.owners(), [r#"u Update 05 {".":{},"f:b":{}}"#]);
}

#[test]
fn an_apply_of_what_is_there_has_no_time() {
    let mut story = Story::new();
    story.applied("a", json!({"x": "1"}));
    story.applied("b", json!({"x": "1"}));
    assert_eq!(story.owners(), [r#"b Apply -- {"f:x":{}}"#, r#"a Apply 01 {"f:x":{}}"#]);
    story.applied("a", json!({"x": "1"}));
    assert_eq!(story.owners(), [r#"b Apply -- {"f:x":{}}"#, r#"a Apply 01 {"f:x":{}}"#]);
    story.applied("b", json!({"x": "1", "y": "1"}));
    assert_eq!(story.owners(), [r#"a Apply 01 {"f:x":{}}"#, r#"b Apply 04 {"f:x":{},"f:y":{}}"#]);
    story.applied("b", json!({}));
    assert_eq!(story.owners(), [r#"a Apply 01 {"f:x":{}}"#, r"b Apply 05 {}"], "an empty map is owned");
}

#[test]
fn what_only_names_an_object_is_owned_by_nobody() {
    let mut story = Story::new();
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one", "namespace": "a"}});
    story.apply("a", &config, false).expect("it is new");
    assert_eq!(story.owners(), Vec::<String>::new());
    let mut story = Story::new();
    story.put("u", config);
    assert_eq!(story.owners(), Vec::<String>::new());
}

#[test]
fn who_says_nothing_is_unknown() {
    let mut story = Story::new();
    story.update("", json!({"a": "1"}));
    assert_eq!(story.owners(), [r#"unknown Update 01 {".":{},"f:a":{}}"#]);
}

#[test]
fn the_oldest_of_many_updaters_are_forgotten_by_name() {
    let mut story = Story::new();
    let data = |count: usize| (0..count).map(|n| (format!("k{n}"), json!("1"))).collect::<Value>();
    for n in 0..15 {
        story.update(&format!("u{n}"), data(n + 1));
    }
    let owners = story.owners();
    assert_eq!(owners.len(), 10, "{owners:?}");
    assert!(owners[0].starts_with("ancient-changes Update 06 "), "{owners:?}");
    assert!(owners[1].starts_with("u6 Update 07 "), "{owners:?}");
    for n in 0..15 {
        story.applied(&format!("a{n}"), json!({"k0": "1"}));
    }
    assert_eq!(story.owners().len(), 25, "who applies is never forgotten");
}

#[test]
fn owners_can_be_forgotten_and_set_by_hand() {
    for reset in [json!([]), json!([{}])] {
        let mut story = Story::new();
        story.update("u", json!({"a": "1"}));
        let mut new = story.live.clone().expect("it is there");
        new["metadata"]["managedFields"] = reset;
        keep_reset(&mut new);
        story.put("u", new);
        assert_eq!(story.owners(), Vec::<String>::new());
        story.update("u", json!({"a": "2"}));
        assert_eq!(story.owners(), Vec::<String>::new(), "nobody is told apart");
        assert_eq!(
            story.conflict("a", json!({"a": "3"})),
            "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.a"
        );
        story.applied("a", json!({"a": "2"}));
        assert_eq!(story.owners(), [r#"a Apply -- {"f:a":{}}"#, r#"before-first-apply Update 05 {".":{},"f:a":{}}"#]);
    }
    let entry = |operation: &str| json!({"manager": "x", "operation": operation, "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:a": {}}}});
    for (entries, expect) in [
        (json!([entry("Apply")]), r#"x Apply -- {"f:a":{}}"#),
        (json!([entry("Frob")]), r#"u Update 01 {".":{},"f:a":{}}"#),
        (json!([{"manager": "x"}]), r#"u Update 01 {".":{},"f:a":{}}"#),
        (Value::Null, r#"u Update 01 {".":{},"f:a":{}}"#),
    ] {
        let mut story = Story::new();
        story.update("u", json!({"a": "1"}));
        let mut new = story.live.clone().expect("it is there");
        new["metadata"]["managedFields"] = entries;
        story.put("u", new);
        assert_eq!(story.owners(), [expect]);
    }
}

#[test]
fn a_subresource_is_a_manager_of_its_own_and_sets_nobody() {
    let mut story = Story::new();
    story.update("u", json!({"a": "1"}));
    story.subresource = "status";
    let mut new = story.live.clone().expect("it is there");
    new["metadata"]["managedFields"] = json!([{}]);
    new["data"]["a"] = "2".into();
    story.put("u", new);
    assert_eq!(story.owners(), [r#"u Update 01 {}"#, r#"u Update 02 {"f:a":{}}"#]);
    let entries = &story.live.as_ref().expect("it is there")["metadata"]["managedFields"];
    assert_eq!((&entries[0]["subresource"], &entries[1]["subresource"]), (&Value::Null, &json!("status")));
}

#[test]
fn what_does_not_count_is_owned_by_nobody() {
    let field = Element::field;
    let mut story = Story::new();
    story.counted = Counted::Without(Set::of([vec![field("data"), field("a")], vec![field("metadata")]]));
    story.update("u", json!({"a": "1", "b": "1"}));
    assert_eq!(story.owners(), [r#"u Update 01 {".":{},"f:b":{}}"#]);
    story.update("v", json!({"a": "2", "b": "1"}));
    assert_eq!(story.owners(), [r#"u Update 01 {".":{},"f:b":{}}"#]);
    story.applied("a", json!({"a": "3", "b": "1"}));
    assert_eq!(story.owners(), [r#"a Apply 03 {"f:b":{}}"#, r#"u Update 01 {".":{},"f:b":{}}"#]);
    let mut story = Story::new();
    story.counted = Counted::Only(vec![vec![Some(field("data")), None]]);
    let mut new = object(json!({"a": "1"}));
    new["immutable"] = true.into();
    story.put("u", new);
    assert_eq!(story.owners(), [r#"u Update 01 {".":{},"f:a":{}}"#]);
    assert!(story.live.expect("it is there")["metadata"]["managedFields"][0]["fieldsV1"].get("f:immutable").is_none());
}

#[test]
fn kubectl_takes_over_what_it_applied_itself() {
    const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
    let client_side = |live: Value, last: Value| {
        let mut new = object(live);
        new["metadata"]["annotations"] = json!({ANNOTATION: last.to_string()});
        new
    };
    let mut story = Story::new();
    story.put(
        "kubectl-client-side-apply",
        client_side(json!({"a": "1", "b": "<2>"}), object(json!({"a": "1", "b": "<2>"}))),
    );
    assert!(story.conflict("other", json!({"a": "9"})).contains("kubectl-client-side-apply"));
    story.applied("kubectl", json!({"a": "9", "b": "<2>"}));
    let live = story.live.as_ref().expect("it is there");
    let wanted = concat!(
        r#"{"apiVersion":"v1","data":{"a":"9","b":"\u003c2\u003e"},"kind":"ConfigMap","#,
        r#""metadata":{"name":"one","namespace":"a"}}"#,
        "\n"
    );
    assert_eq!(live["metadata"]["annotations"][ANNOTATION], wanted);
    // What somebody else has changed since is not the client's.
    let mut story = Story::new();
    story.put("u", client_side(json!({"a": "other", "b": "2"}), object(json!({"a": "1", "b": "2"}))));
    assert_eq!(
        story.conflict("kubectl", json!({"a": "9", "b": "9"})),
        "Apply failed with 1 conflict: conflict with \"u\" using v1: .data.a"
    );
    // An annotation that is not there is not made.
    let mut story = Story::new();
    story.applied("kubectl", json!({"a": "1"}));
    assert!(story.live.expect("it is there")["metadata"].get("annotations").is_none());
}

#[test]
fn an_annotation_that_outgrows_the_object_goes() {
    const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
    let mut story = Story::new();
    let mut new = object(json!({"a": "1"}));
    new["metadata"]["annotations"] = json!({ANNOTATION: "{}"});
    story.put("u", new);
    story.applied("kubectl", json!({"b": "x".repeat(300 << 10)}));
    assert!(story.live.expect("it is there")["metadata"]["annotations"].get(ANNOTATION).is_none());
}

/// A kind whose data was called something else in an earlier version.
struct Renamed;

impl Versions for Renamed {
    fn shape(&self, api_version: &str) -> Option<Shape> {
        ["v1", "v0"].contains(&api_version).then(|| schema::known(MAP).shape().clone())
    }

    fn convert<'a>(&self, object: &'a Value, from: &str, to: &str) -> Option<Cow<'a, Value>> {
        self.shape(to)?;
        if from == to {
            return Some(Cow::Borrowed(object));
        }
        let mut object = object.clone();
        let data = object["data"].take();
        object["data"] = object["binaryData"].take();
        object["binaryData"] = data;
        object.as_object_mut()?.retain(|_, value| !value.is_null());
        Some(Cow::Owned(object))
    }
}

#[test]
fn owners_in_other_versions_are_asked_in_theirs() {
    let gvk = GroupVersionKind { group: String::new(), version: "v1".into(), kind: "ConfigMap".into() };
    let (schema, now) = (schema::known(MAP), "2026-01-01T00:00:00Z");
    let door =
        FieldManager { gvk: &gvk, schema: &schema, versions: &Renamed, subresource: "", counted: &Counted::All, now };
    let entry = |manager: &str, version: &str, fields: Value| json!({"manager": manager, "operation": "Apply", "apiVersion": version, "fieldsType": "FieldsV1", "fieldsV1": fields});
    let mut live = object(json!({"a": "1"}));
    live["metadata"]["managedFields"] = json!([
        entry("old", "v0", json!({"f:binaryData": {"f:a": {}}})),
        entry("gone", "v9", json!({"f:data": {"f:a": {}}})),
    ]);
    let refused = door.apply(Some(&live), &object(json!({"a": "2"})), "me", false).expect_err("it is owned");
    assert_eq!(refused.status().message, "Apply failed with 1 conflict: conflict with \"old\": .binaryData.a");
    let forced = door.apply(Some(&live), &object(json!({"a": "2"})), "me", true).expect("it is forced");
    let managers = decode(&forced["metadata"]["managedFields"]).expect("entries");
    let names: Vec<&str> = managers.keys().map(|manager| manager.name.as_str()).collect();
    assert_eq!(names, ["me"], "a version that is gone is forgotten");
    // Who applies in another version than before lets go of what it had in that.
    let config = object(json!({"b": "1"}));
    let moved = door.apply(Some(&live), &config, "old", false).expect("it is its own");
    assert_eq!(moved["data"], json!({"b": "1"}));
}

#[test]
fn what_has_become_one_value_is_owned_as_one() {
    let mut live = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"nodeSelector": {"a": "b"}, "containers": [{"name": "c", "image": "i"}]}});
    let fields = json!({"f:spec": {"f:nodeSelector": {"f:a": {}}, "f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}}}}});
    live["metadata"]["managedFields"] = json!([{"manager": "m", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": fields}]);
    let gvk = GroupVersionKind { group: String::new(), version: "v1".into(), kind: "Pod".into() };
    let schema = schema::known("io.k8s.api.core.v1.Pod");
    let versions = Single { api_version: "v1", shape: schema.shape() };
    let door = FieldManager {
        gvk: &gvk,
        schema: &schema,
        versions: &versions,
        subresource: "",
        counted: &Counted::All,
        now: "2026-01-01T00:00:00Z",
    };
    let mut new = live.clone();
    new["spec"]["containers"][0]["image"] = "j".into();
    door.update(Some(&live), &mut new, "u");
    let mut text = Vec::new();
    write_entries(&new["metadata"]["managedFields"], &mut text);
    let text = String::from_utf8(text).expect("JSON is UTF-8");
    assert!(text.contains(r#"{"f:containers":{"k:{\"name\":\"c\"}":{}},"f:nodeSelector":{}}"#), "{text}");
    assert!(text.contains(r#"{"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{"f:image":{}}}}}"#), "{text}");
}
