//! The built-in types, as data.
//!
//! `control/machinery/bake` makes `data/types.json`, and `build.rs` takes the descriptions from k8s-openapi's source:
//! one line per type, sorted. All stable types of Kubernetes are there; a new kind needs no word here. Types of upstream's
//! that k8s-openapi does not have are written by hand in `data/more-types.json`, from the Go module `k8s.io/metrics`.
//!
//! Invariants
//! - A type's fields are read from its line when they are first asked for, and live as long as the program.
//! - Descriptions are read when a document is made of them, and are not kept, but for where each lies.

use std::{
    collections::{BTreeMap, HashMap},
    sync::OnceLock,
};

use kontiki_model::GroupVersionKind;
use serde::Deserialize;

use super::{Field, Merge, Presence, Schema, Topology, Type};

const TYPES: &str = include_str!("../../data/types.json");
const MORE_TYPES: &str = include_str!("../../data/more-types.json");
const DESCRIPTIONS: &str = include_str!(concat!(env!("OUT_DIR"), "/descriptions.json"));

/// A type's line.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct TypeData<'a> {
    /// Of a struct.
    #[serde(default, borrow)]
    pub(crate) fields: BTreeMap<&'a str, FieldData<'a>>,
    /// Of anything else: its form in one word.
    #[serde(rename = "type")]
    pub(crate) word: Option<&'a str>,
    pub(crate) map_type: Option<&'a str>,
}

/// A field in a type's line.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct FieldData<'a> {
    /// Its type in one word: `string`, `[]io.k8s.api.core.v1.Container`, `map[string]bytes`.
    #[serde(rename = "type")]
    pub(crate) word: &'a str,
    #[serde(default)]
    pub(crate) required: bool,
    /// What it is when it is absent, where documents say so.
    pub(crate) default: Option<serde_json::Value>,
    #[serde(default)]
    pub(crate) presence: Presence,
    pub(crate) list_type: Option<&'a str>,
    #[serde(default, borrow)]
    pub(crate) list_map_keys: Vec<&'a str>,
    pub(crate) map_type: Option<&'a str>,
    pub(crate) patch_strategy: Option<&'a str>,
    pub(crate) patch_merge_key: Option<&'a str>,
}

/// What a name stands for.
enum Entry {
    Struct(Schema),
    /// A form without fields.
    Word(&'static str),
}

/// The type called `name`.
#[must_use]
pub fn get(name: &str) -> Option<&'static Schema> {
    match index().get(name)? {
        Entry::Struct(schema) => Some(schema),
        Entry::Word(_) => None,
    }
}

/// The type called `name`, which is one of the built-in ones.
///
/// # Panics
/// It is not: a fault of the table, which a test of it would find.
#[must_use]
pub fn known(name: &str) -> Schema {
    get(name).unwrap_or_else(|| panic!("there is no type {name}")).clone()
}

/// Full name of the type of a kind.
pub(crate) fn name_of(group: &str, version: &str, kind: &str) -> Option<&'static str> {
    let package = match group {
        "" => "io.k8s.api.core",
        "apiextensions.k8s.io" => "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions",
        "apiregistration.k8s.io" => "io.k8s.kube-aggregator.pkg.apis.apiregistration",
        "metrics.k8s.io" => "io.k8s.metrics.pkg.apis.metrics",
        group => &format!("io.k8s.api.{}", group.split('.').next().unwrap_or(group)),
    };
    index().get_key_value(format!("{package}.{version}.{kind}").as_str()).map(|(name, _)| *name)
}

/// The type of a kind, as objects name it; those that belong to every group (`DeleteOptions`) and those of discovery too.
#[must_use]
pub fn of_kind(api_version: &str, kind: &str) -> Option<&'static Schema> {
    const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
    let gvk = GroupVersionKind::new(api_version, kind);
    let everywhere = matches!(gvk.group.as_ref(), "" | "meta.k8s.io") || kind == "DeleteOptions";
    let own = name_of(&gvk.group, &gvk.version, &gvk.kind).and_then(get);
    own.or_else(|| everywhere.then(|| get(&format!("{META}.{kind}"))).flatten())
}

/// The line of a type.
pub(crate) fn data(name: &str) -> Option<TypeData<'static>> {
    Some(match index().get(name)? {
        Entry::Struct(schema) => read(schema.line()?),
        Entry::Word(word) => TypeData { fields: BTreeMap::new(), word: Some(word), map_type: None },
    })
}

/// What upstream says about its types and fields.
pub(crate) struct Descriptions(Option<&'static HashMap<&'static str, &'static str>>);

impl Descriptions {
    /// All there is: an index of lines, which are read when they are asked for.
    pub(crate) fn read() -> Self {
        static LINES: OnceLock<HashMap<&'static str, &'static str>> = OnceLock::new();
        Self(Some(LINES.get_or_init(|| lines(DESCRIPTIONS).collect())))
    }

    /// Nothing.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// By field; that of the type itself has no name.
    pub(crate) fn of(&self, name: &str) -> HashMap<String, String> {
        self.0.and_then(|lines| lines.get(name)).copied().map(read).unwrap_or_default()
    }
}

/// The fields that every object has.
pub(super) fn of_objects() -> &'static BTreeMap<String, Field> {
    static FIELDS: OnceLock<BTreeMap<String, Field>> = OnceLock::new();
    FIELDS.get_or_init(|| {
        let all = known("io.k8s.api.core.v1.ConfigMap");
        let own = all.fields().iter().filter(|(name, _)| matches!(name.as_str(), "apiVersion" | "kind" | "metadata"));
        own.map(|(name, field)| (name.clone(), field.clone())).collect()
    })
}

/// The fields of a struct's line.
pub(super) fn fields(line: &'static str) -> BTreeMap<String, Field> {
    let field = |(name, data): (&str, FieldData<'_>)| (name.to_owned(), field(&data));
    read::<TypeData<'_>>(line).fields.into_iter().map(field).collect()
}

fn field(data: &FieldData<'_>) -> Field {
    let strategies = || data.patch_strategy.into_iter().flat_map(|strategy| strategy.split(','));
    Field {
        ty: ty(data.word),
        presence: data.presence,
        merge: Merge {
            merge: strategies().any(|strategy| strategy == "merge"),
            retain_keys: strategies().any(|strategy| strategy == "retainKeys"),
            key: data.patch_merge_key.map(str::to_owned),
        },
        topology: topology(data),
        required: data.required,
        default: data.default.as_ref().and_then(|value| value.as_str()).map(str::to_owned),
    }
}

fn topology(data: &FieldData<'_>) -> Topology {
    match (data.list_type, data.map_type) {
        (Some("set"), _) => Topology::Set,
        (Some("map"), _) => Topology::Keyed(data.list_map_keys.iter().map(|key| (*key).to_owned()).collect()),
        (Some("atomic"), _) | (_, Some("atomic")) => Topology::Atomic,
        _ => Topology::Plain,
    }
}

/// Whether a struct's line says that it is one value.
pub(super) fn is_atomic(line: &'static str) -> bool {
    read::<TypeData<'_>>(line).map_type == Some("atomic")
}

fn ty(word: &str) -> Type {
    if let Some(item) = word.strip_prefix("[]") {
        return Type::List(Box::new(ty(item)));
    }
    if let Some(item) = word.strip_prefix("map[string]") {
        return Type::Map(Box::new(ty(item)));
    }
    match word {
        "any" | "object" => Type::Any,
        "bool" => Type::Bool,
        "int32" => Type::Int32,
        "int64" => Type::Int64,
        "double" => Type::Float,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "time" => Type::Time,
        "micro-time" => Type::MicroTime,
        "quantity" => Type::Quantity,
        "int-or-string" => Type::IntOrString,
        name => match index().get(name) {
            Some(Entry::Struct(schema)) => Type::Struct(schema.clone()),
            Some(Entry::Word(word)) => ty(word),
            None => panic!("there is no type {name}"),
        },
    }
}

fn index() -> &'static HashMap<&'static str, Entry> {
    static INDEX: OnceLock<HashMap<&'static str, Entry>> = OnceLock::new();
    let all = || lines(TYPES).chain(lines(MORE_TYPES));
    INDEX.get_or_init(|| all().map(|(name, line)| (name, entry(name, line))).collect())
}

fn entry(name: &'static str, line: &'static str) -> Entry {
    match line.strip_prefix(r#"{"type":""#).and_then(|rest| rest.strip_suffix("\"}")) {
        Some(word) => Entry::Word(word),
        None => Entry::Struct(Schema::built(name, line)),
    }
}

/// Names and values of a data file.
fn lines(file: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> {
    file.lines().filter_map(|line| {
        let (name, value) = line.strip_prefix('"')?.split_once("\":")?;
        Some((name, value.strip_suffix(',').unwrap_or(value)))
    })
}

/// # Panics
/// The line does not have its form. A test reads all of them.
fn read<T: Deserialize<'static>>(line: &'static str) -> T {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    lines(TYPES).chain(lines(MORE_TYPES)).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const BAKE: &str = "bake anew: cargo run --manifest-path control/machinery/bake/Cargo.toml";

    const OWN_LOCK: &str = include_str!("../../bake/Cargo.lock");
    const LOCK: &str = include_str!("../../../../Cargo.lock");
    const MANIFEST: &str = include_str!("../../../../Cargo.toml");

    /// The version of a package in a lock file.
    fn locked<'a>(lock: &'a str, package: &str) -> Option<&'a str> {
        let (_, entry) = lock.split_once(&format!("name = \"{package}\"\nversion = \""))?;
        entry.split('"').next()
    }

    #[test]
    fn types_are_those_of_the_workspaces_k8s_openapi() {
        let source: Value = serde_json::from_str(include_str!("../../data/source.json")).expect("JSON");
        let (baked, release) = (source["k8s-openapi"].as_str(), source["release"].as_str().expect("a release"));
        assert!(baked.is_some());
        assert_eq!(locked(LOCK, "k8s-openapi"), baked, "{BAKE}");
        assert_eq!(locked(OWN_LOCK, "k8s-openapi"), baked, "{BAKE}");
        let chosen = MANIFEST.lines().find(|line| line.starts_with("k8s-openapi = "));
        assert!(chosen.is_some_and(|line| line.contains(&format!("{release:?}"))), "{chosen:?}: {BAKE}");
        let modules = source["go-modules"].as_str().expect("a version of Go modules");
        // v1_37 is v0.37.x there.
        assert!(modules.starts_with(&format!("{}.", release.replace("v1_", "v0."))), "{modules}: {BAKE}");
    }

    #[test]
    fn data_files_are_sorted_and_their_lines_have_their_form() {
        for file in [TYPES, MORE_TYPES, DESCRIPTIONS] {
            let names: Vec<&str> = lines(file).map(|(name, _)| name).collect();
            assert!(names.is_sorted() && names.len() == file.lines().count() - 2);
        }
        let descriptions = Descriptions::read();
        for name in names() {
            let data = data(name).expect("a name has a line");
            assert!(data.word.is_none() == get(name).is_some(), "{name}");
            let described = descriptions.of(name);
            let stray = described.keys().find(|field| !field.is_empty() && !data.fields.contains_key(field.as_str()));
            assert_eq!(stray, None, "{name}");
            // Panics if a field has a type that is not there.
            get(name).map(Schema::fields);
        }
    }

    #[test]
    fn kinds_have_types() {
        for (group, version, kind, name) in [
            ("", "v1", "Pod", Some("io.k8s.api.core.v1.Pod")),
            ("apps", "v1", "Deployment", Some("io.k8s.api.apps.v1.Deployment")),
            ("rbac.authorization.k8s.io", "v1", "Role", Some("io.k8s.api.rbac.v1.Role")),
            (
                "apiextensions.k8s.io",
                "v1",
                "CustomResourceDefinition",
                Some("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition"),
            ),
            (
                "apiregistration.k8s.io",
                "v1",
                "APIService",
                Some("io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIService"),
            ),
            ("metrics.k8s.io", "v1beta1", "PodMetrics", Some("io.k8s.metrics.pkg.apis.metrics.v1beta1.PodMetrics")),
            ("apps", "v1", "Pod", None),
        ] {
            assert_eq!(name_of(group, version, kind), name, "{group} {kind}");
        }
    }
}
