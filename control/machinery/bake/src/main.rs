//! Bakes the types of Kubernetes into data.
//!
//! `cargo run --manifest-path control/machinery/bake/Cargo.toml` writes into `control/machinery/data`:
//! - `types.json`: types and their fields, from k8s-openapi; when fields are printed and how they merge, from the Go
//!   modules in which upstream publishes them (`go mod download` fetches them),
//! - `wire.json`: numbers of fields in protobuf, from the Go modules,
//! - `source.json`: what they were made from.
//!
//! The same sources give the same bytes. One line per type, sorted. What is not understood stops it.

mod facts;
mod go;
mod schemas;

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::{Value, json};

use crate::facts::Numbers;

/// Version of the Go modules: the release of k8s-openapi's types.
const GO_MODULES: &str = "v0.37.2";

/// A data file: one line per type.
type Lines = BTreeMap<String, Value>;

fn main() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("data");
    let definitions = schemas::definitions();
    let mut types: Lines =
        definitions.iter().map(|(name, json)| (name.clone(), schemas::of_type(name, json))).collect();
    let mut source = go::Source::new(GO_MODULES);
    for (name, line) in types.iter_mut().filter(|(_, line)| line.get("fields").is_some()) {
        facts::join(&mut source, name, line);
    }
    facts::default_keys(&mut source, &mut types);
    let mut numbers = Numbers::new();
    for (name, _) in types.iter().filter(|(_, line)| line.get("fields").is_some()) {
        facts::number(&mut source, name, &mut numbers);
    }
    let made_from = json!({"k8s-openapi": env!("K8S_OPENAPI"), "release": env!("RELEASE"), "go-modules": GO_MODULES});

    write(&data.join("types.json"), &lines(&types));
    write(&data.join("wire.json"), &table(&numbers));
    write(&data.join("source.json"), &format!("{made_from}\n"));
}

fn lines(types: &Lines) -> String {
    let lines: Vec<String> = types.iter().map(|(name, value)| format!("{}:{value}", json!(name))).collect();
    format!("{{\n{}\n}}\n", lines.join(",\n"))
}

/// `{message: {field: number}}`, fields in the order of their numbers.
fn table(numbers: &Numbers) -> String {
    let line = |(name, fields): (&String, &Vec<(u64, String)>)| {
        let fields: Vec<String> = fields.iter().map(|(number, name)| format!("{}: {number}", json!(name))).collect();
        format!(" {}: {{{}}}", json!(name), fields.join(", "))
    };
    format!("{{\n{}\n}}\n", numbers.iter().map(line).collect::<Vec<_>>().join(",\n"))
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    eprintln!("{}: {} lines, {} bytes", path.display(), text.lines().count(), text.len());
}
