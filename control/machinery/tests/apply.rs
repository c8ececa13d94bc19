//! Ownership and conflicts, in tables: cases of our own (`apply/cases.txt`) and what structured-merge-diff answered
//! (`libraries/apply.jsonl` among the recorded answers).

#![allow(clippy::unwrap_used)] // a test may panic

#[path = "../../../chaos-tests/src/ratchet.rs"]
#[allow(dead_code, reason = "shared with tests that compare more")]
mod ratchet;

use std::{collections::BTreeMap, fs, path::PathBuf};

use kontiki_machinery::{
    apply::{Counted, Manager, Managers, Owned, Refusal, Single, Updater, validate},
    decode::decode_yaml,
    schema::shape::{Key, Relation, Scalar, Shape},
};
use serde_json::{Value, json};

const VERSION: &str = "v1";

fn yaml(text: &str) -> Value {
    decode_yaml(text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {text}")).value
}

/// The type called `root` in a schema of structured-merge-diff.
fn root(text: &str) -> Shape {
    let types = yaml(text)["types"].as_array().expect("types").clone();
    let types: BTreeMap<String, Value> =
        types.into_iter().map(|ty| (ty["name"].as_str().expect("a name").to_owned(), ty)).collect();
    shape(&json!({"namedType": "root"}), &types)
}

fn shape(ty: &Value, types: &BTreeMap<String, Value>) -> Shape {
    if let Some(name) = ty["namedType"].as_str() {
        return if name.starts_with("__") { Shape::free().clone() } else { shape(&types[name], types) };
    }
    match ty["scalar"].as_str() {
        Some("string") => return Shape::scalar(Scalar::String),
        Some("numeric") => return Shape::scalar(Scalar::Numeric),
        Some("boolean") => return Shape::scalar(Scalar::Boolean),
        Some(_) => return Shape::scalar(Scalar::Untyped),
        None => {}
    }
    let atomic = |form: &Value| form["elementRelationship"] == "atomic";
    if let Some(list) = ty.get("list") {
        return Shape::list(shape(&list["elementType"], types), relation(list, types));
    }
    let map = &ty["map"];
    let Some(fields) = map["fields"].as_array().cloned() else {
        return Shape::map(shape(&map["elementType"], types), atomic(map));
    };
    let types = types.clone();
    Shape::fields(atomic(map), None, move || {
        fields.iter().map(|field| (field["name"].as_str().unwrap().to_owned(), shape(&field["type"], &types))).collect()
    })
}

fn relation(list: &Value, types: &BTreeMap<String, Value>) -> Relation {
    if list["elementRelationship"] != "associative" {
        return Relation::Atomic;
    }
    let Some(keys) = list["keys"].as_array() else { return Relation::Set };
    let item = match list["elementType"]["namedType"].as_str() {
        Some(name) => &types[name],
        None => &list["elementType"],
    };
    let fields = item["map"]["fields"].as_array().expect("items have fields");
    let default = |name: &str| fields.iter().find(|field| field["name"] == name)?.get("default").cloned();
    let key = |name: &Value| name.as_str().map(|name| Key { name: name.to_owned(), default: default(name) });
    Relation::Keyed(keys.iter().filter_map(key).collect())
}

/// An object on its way through the steps of a case.
struct Case<'a> {
    shape: &'a Shape,
    live: Value,
    managers: Managers,
}

impl<'a> Case<'a> {
    fn new(shape: &'a Shape) -> Self {
        Self { shape, live: json!({}), managers: Managers::new() }
    }

    /// What is answered to a step that changes nothing; empty otherwise.
    fn step(&mut self, verb: &str, manager: &str, object: &Value) -> String {
        if let Err(why) = validate(object, self.shape, verb == "update") {
            return format!("unfit {why}");
        }
        let versions = Single { api_version: VERSION, shape: self.shape };
        let updater = Updater { versions: &versions, api_version: VERSION, shape: self.shape, counted: &Counted::All };
        let done = match verb {
            "update" => updater.update(&self.live, object, self.managers.clone()).map(|(changed, mut managers)| {
                let id = Manager::updater(manager, VERSION, "");
                let set = managers.remove(&id).map_or_else(|| changed.clone(), |owned| owned.set.union(&changed));
                if !set.is_empty() {
                    managers.insert(id, Owned { set, api_version: VERSION.into(), time: None });
                }
                (Some(object.clone()), managers)
            }),
            verb => {
                let id = Manager::applier(manager, "");
                updater.apply(&self.live, object, self.managers.clone(), &id, verb == "force")
            }
        };
        match done {
            Ok((new, managers)) => {
                self.managers = managers;
                let same = new.is_none();
                self.live = new.unwrap_or_else(|| self.live.clone());
                if same { "as it was".into() } else { String::new() }
            }
            Err(Refusal::Unfit(why)) => why,
            Err(Refusal::Conflicts(found)) => {
                let parts = found.iter().map(|conflict| {
                    (conflict.manager.name.clone(), conflict.path.iter().map(ToString::to_string).collect::<String>())
                });
                conflicts(&parts.collect::<Vec<_>>())
            }
        }
    }
}

/// As structured-merge-diff says it.
fn conflicts(found: &[(String, String)]) -> String {
    if let [(manager, path)] = found {
        return format!("conflict with {manager:?}: {path}");
    }
    let mut lines = Vec::new();
    for (at, (manager, path)) in found.iter().enumerate() {
        if at == 0 || found[at - 1].0 != *manager {
            lines.push(format!("conflicts with {manager:?}:"));
        }
        lines.push(format!("- {path}"));
    }
    lines.join("\n")
}

/// The managers by name, appliers and updaters of one name together.
fn owners(managers: &Managers, show: impl Fn(&Manager, &Owned) -> String) -> Vec<String> {
    let mut sorted: Vec<_> = managers.iter().collect();
    sorted.sort_by_key(|(manager, _)| &manager.name);
    sorted.into_iter().map(|(manager, owned)| show(manager, owned)).collect()
}

#[test]
fn own_cases_come_out_as_upstreams_library_has_them() {
    let here = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo test runs this")).join("tests/apply");
    let read = |name: &str| fs::read_to_string(here.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let (shape, text) = (root(&read("schema.yaml")), read("cases.txt"));
    let (mut count, mut wrong) = (0, Vec::new());
    for wanted in text.split("\n\n").map(str::trim).filter(|part| part.starts_with("# ")) {
        count += 1;
        let got = run(wanted, &shape);
        if got != wanted {
            wrong.push(format!("{wanted}\n--- came out as\n{got}\n"));
        }
    }
    assert!(count >= 120, "{count} cases");
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
}

/// The text of a case with what its steps come to.
fn run(wanted: &str, shape: &Shape) -> String {
    let mut case = Case::new(shape);
    let mut out = Vec::new();
    for line in wanted.lines().take_while(|line| !line.starts_with("= ")) {
        if line.starts_with("> ") {
            continue;
        }
        out.push(line.to_owned());
        if line.starts_with('#') {
            continue;
        }
        let (verb, rest) = line.split_once(' ').expect("a step has a verb");
        let (manager, object) = rest.split_once(": ").expect("a step has a manager");
        let answer = case.step(verb, manager, &yaml(object));
        if !answer.is_empty() {
            out.push(format!("> {}", answer.replace('\n', " | ")));
        }
    }
    out.push(format!("= {}", case.live));
    out.extend(owners(&case.managers, |manager, owned| {
        let verb = if manager.applies() { "applies" } else { "updates" };
        format!("{} {verb} {}", manager.name, owned.set.to_json())
    }));
    out.join("\n")
}

#[test]
fn recorded_cases_come_out_as_recorded() {
    let here = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo test runs this"));
    let Some(dir) = ratchet::recorded(&here.join("../..")).unwrap_or_else(|missing| panic!("{missing}")) else {
        return;
    };
    let read =
        |name: &str| fs::read_to_string(dir.join("libraries").join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let shape = root(&read("apply-schema.yaml"));
    let mut wrong = Vec::new();
    for line in read("apply.jsonl").lines() {
        let recorded: Value = serde_json::from_str(line).unwrap();
        let got = replay(&recorded, &shape);
        if recorded["upstream"] != got {
            wrong.push(format!("{}\n{}\n{got}", recorded["steps"], recorded["upstream"].as_str().unwrap()));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n\n"));
}

/// The answer to a recorded case, in the form of the record.
fn replay(recorded: &Value, shape: &Shape) -> String {
    let mut case = Case::new(shape);
    let mut answers = String::new();
    for step in recorded["steps"].as_array().unwrap() {
        let text = |field: &str| step[field].as_str().unwrap_or_default();
        let verb = if step["force"] == true { "force" } else { text("op") };
        let answer = case.step(verb, text("manager"), &yaml(text("yaml"))).replace('\n', " ");
        answers += &match answer.as_str() {
            "" => String::new(),
            "as it was" => "(noop)".to_owned(),
            unfit if unfit.starts_with("unfit ") => format!("TYPE {}", &unfit["unfit ".len()..]),
            conflict => format!("ERR {conflict}"),
        };
    }
    let owners = owners(&case.managers, |manager, owned| {
        format!("{}[applied={}]={}", manager.name, manager.applies(), owned.set.to_json())
    });
    format!("{answers} | {} | {}", case.live, owners.join(" "))
}
