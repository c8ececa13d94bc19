//! Takes what upstream says about its types from k8s-openapi's source, for OpenAPI documents: the texts are upstream's
//! and are not kept here.
//!
//! Writes `descriptions.json`: one line per type of `data/types.json`, `{field: text}`, that of the type under no name.

use std::{
    collections::BTreeMap,
    env, fs, io,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

const TYPES: &str = "data/types.json";
const MADE_FROM: &str = "data/source.json";
/// What stands before the full name of a type, in its file.
const DEFINITION: &str = "// Generated from definition ";
/// What stands before a description, beside a type and beside a reference to one.
const DESCRIPTION: &str = "\"description\": ";
const INSERTED: &str = "schema_obj.ensure_object().insert(\"description\".into(), ";

fn main() {
    for file in ["build.rs", TYPES, MADE_FROM] {
        println!("cargo::rerun-if-changed={file}");
    }
    println!("cargo::rerun-if-env-changed=K8S_OPENAPI_SOURCE");
    let types: Map<String, Value> = serde_json::from_str(&read(Path::new(TYPES))).expect("types.json is JSON");
    let source = source();
    let mut found = BTreeMap::new();
    collect(&source, &types, &mut found).unwrap_or_else(|error| panic!("{}: {error}", source.display()));
    let missing: Vec<&String> = types.keys().filter(|name| !found.contains_key(*name)).collect();
    assert!(missing.is_empty(), "not in {}: {missing:?}", source.display());
    let lines: Vec<String> = found.iter().map(|(name, texts)| format!("{}:{texts}", json!(name))).collect();
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("descriptions.json");
    fs::write(out, format!("{{\n{}\n}}\n", lines.join(",\n"))).expect("OUT_DIR can be written");
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The types of the release, in the source of k8s-openapi as cargo has unpacked it.
fn source() -> PathBuf {
    let made_from: Value = serde_json::from_str(&read(Path::new(MADE_FROM))).expect("source.json is JSON");
    let text = |key: &str| made_from[key].as_str().unwrap_or_else(|| panic!("{MADE_FROM} has no {key}"));
    let (version, release) = (text("k8s-openapi"), text("release"));
    if let Some(folder) = env::var_os("K8S_OPENAPI_SOURCE") {
        return PathBuf::from(folder).join("src").join(release);
    }
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo"))).expect("CARGO_HOME or HOME");
    let (registries, folder) = (home.join("registry/src"), format!("k8s-openapi-{version}/src/{release}"));
    let known = fs::read_dir(&registries).into_iter().flatten().flatten().map(|entry| entry.path().join(&folder));
    known.into_iter().find(|path| path.is_dir()).unwrap_or_else(|| {
        panic!("there is no {folder} below {}: set K8S_OPENAPI_SOURCE to where k8s-openapi lies", registries.display())
    })
}

/// Looks through all files below `folder`.
fn collect(folder: &Path, types: &Map<String, Value>, found: &mut BTreeMap<String, Value>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, types, found)?;
            continue;
        }
        let text = fs::read_to_string(&path)?;
        for part in text.split(DEFINITION).skip(1) {
            let (name, code) = part.split_once('\n').unwrap_or((part, ""));
            if types.contains_key(name.trim()) {
                found.insert(name.trim().to_owned(), Value::Object(texts(code)));
            }
        }
    }
    Ok(())
}

/// Descriptions of a type and its fields: string literals in the code of its JSON schema, which is laid out one way.
fn texts(code: &str) -> Map<String, Value> {
    let (mut out, mut field) = (Map::new(), "");
    let (_, schema) = code.split_once("fn json_schema(").unwrap_or_default();
    for line in schema.lines().take_while(|line| *line != "}") {
        let item = line.trim_start();
        match (line.len() - item.len(), item.strip_prefix(DESCRIPTION).or_else(|| item.strip_prefix(INSERTED))) {
            (12, Some(literal)) => drop(out.insert(String::new(), text(literal))),
            (20, Some(literal)) => drop(out.insert(field.to_owned(), text(literal))),
            (16, _) if item.starts_with('"') => field = item.split('"').nth(1).unwrap_or_default(),
            _ => {}
        }
    }
    out
}

/// A string literal at the head of some code. Its escapes are those of JSON.
fn text(literal: &str) -> Value {
    let mut values = serde_json::Deserializer::from_str(literal).into_iter::<String>();
    values.next().and_then(Result::ok).unwrap_or_else(|| panic!("not a text: {literal}")).into()
}
