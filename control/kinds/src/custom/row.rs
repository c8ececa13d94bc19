//! A definition as rows.

use std::{
    hash::{DefaultHasher, Hasher},
    sync::Arc,
};

use bytes::Bytes;
use kontiki_machinery::{
    Name, ResourceDef, Scope, Verb, Verbs,
    conversion::Conversion,
    resource::{Creation, Storage},
    schema::{Schema, structural::Structural},
};
use serde_json::{Value, json};

use super::{columns::Columns, strategy::Custom};
use crate::rows::{
    scale::{self, Places, Selects},
    value::{get, list, on, some, text, texts},
};

/// The rows of a stored definition: one for each version that is served. None before its names are established.
pub(super) fn of(stored: &Bytes) -> Vec<Arc<ResourceDef>> {
    let Ok(definition) = serde_json::from_slice::<Value>(stored) else { return Vec::new() };
    if !is(&definition, "Established") {
        return Vec::new();
    }
    let served = |version: &&Value| on(version, "served");
    let versions = list(get(&definition, "spec"), "versions");
    versions.iter().filter(served).map(|version| Arc::new(row(stored, &definition, version))).collect()
}

/// Whether a condition holds.
fn is(definition: &Value, condition: &str) -> bool {
    let holds = |c: &Value| text(c, "type") == condition && text(c, "status") == "True";
    list(get(definition, "status"), "conditions").iter().any(holds)
}

fn name(value: &Value, field: &str) -> Name {
    text(value, field).to_owned().into()
}

fn row(stored: &Bytes, definition: &Value, version: &Value) -> ResourceDef {
    let (spec, names) = (get(definition, "spec"), get(get(definition, "status"), "acceptedNames"));
    let group = text(spec, "group");
    let own = schema_of(stored, text(version, "name"));
    let storage =
        list(spec, "versions").iter().find(|version| on(version, "storage")).map_or("", |it| text(it, "name"));
    let strategy = Custom {
        definition: (text(get(definition, "metadata"), "name").to_owned(), stored.clone()),
        schema: own.clone(),
        stored: (storage != text(version, "name")).then(|| schema_of(stored, storage)),
        conversion: Conversion::of(get(spec, "conversion")),
        status: has_status(version),
        scale: scale_of(version).map(|scale| [place(scale, "specReplicasPath"), place(scale, "statusReplicasPath")]),
        selector: scale_of(version).map(|scale| place(scale, "labelSelectorPath")).unwrap_or_default(),
        columns: Columns::of(list(version, "additionalPrinterColumns")),
        rules: Default::default(),
    };
    let document = format!("{}.{}.{}", reversed(group), text(version, "name"), text(names, "kind"));
    let def = ResourceDef {
        group: name(spec, "group"),
        version: name(version, "name"),
        plural: name(names, "plural"),
        singular: name(names, "singular"),
        kind: name(names, "kind"),
        list_kind: name(names, "listKind"),
        scope: if text(spec, "scope") == "Cluster" { Scope::Cluster } else { Scope::Namespaced },
        // Nothing new comes while all goes.
        verbs: if is(definition, "Terminating") { Verbs::ALL.without(Verb::Create) } else { Verbs::ALL },
        short: texts(names, "shortNames").into_iter().map(|name| name.to_owned().into()).collect(),
        categories: texts(names, "categories").into_iter().map(|name| name.to_owned().into()).collect(),
        subresources: Vec::new(),
        schema: Schema::custom(&document, own, digest(stored)),
        storage: Storage {
            group: name(spec, "group"),
            plural: name(names, "plural"),
            api_version: format!("{group}/{storage}").into(),
            kind: name(names, "kind"),
        },
        settles_on_read: true,
        fields: selectable(version),
        time_to_live: None,
        deprecation: deprecation(group, version, names),
        protected: None,
        delete_returns_object: false,
        creation: Creation::Stored,
        measured: None,
        strategy: Arc::new(strategy),
    };
    with_subresources(def, version)
}

/// In upstream's order, which discovery shows.
fn with_subresources(def: ResourceDef, version: &Value) -> ResourceDef {
    let mut def = if has_status(version) { def.with_part("status", Verbs::PART) } else { def };
    if let Some(scale) = scale_of(version) {
        let selector = place(scale, "labelSelectorPath");
        def = def.with(scale::of_places(Places {
            spec: place(scale, "specReplicasPath"),
            status: place(scale, "statusReplicasPath"),
            selector: if selector.is_empty() { Selects::Unsaid } else { Selects::At(selector) },
            judged: true,
        }));
    }
    def
}

fn has_status(version: &Value) -> bool {
    some(get(version, "subresources"), "status").is_some()
}

fn scale_of(version: &Value) -> Option<&Value> {
    some(get(version, "subresources"), "scale")
}

/// `.spec.replicas` as the names on the way.
fn place(value: &Value, field: &str) -> Vec<String> {
    text(value, field).split('.').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// The paths that selectors may name, sorted.
fn selectable(version: &Value) -> Vec<Name> {
    let fields = list(version, "selectableFields").iter();
    let mut paths: Vec<Name> =
        fields.map(|field| text(field, "jsonPath").trim_start_matches('.').to_owned().into()).collect();
    paths.sort();
    paths
}

fn deprecation(group: &str, version: &Value, names: &Value) -> Option<Name> {
    let usual = || format!("{group}/{} {} is deprecated", text(version, "name"), text(names, "kind"));
    let said = || some(version, "deprecationWarning").and_then(Value::as_str).map(str::to_owned);
    on(version, "deprecated").then(|| said().unwrap_or_else(usual).into())
}

/// The schema of a version, which is read from the definition's bytes when it is used.
fn schema_of(stored: &Bytes, version: &str) -> Structural {
    let (stored, version) = (stored.clone(), version.to_owned());
    Structural::new(Arc::new(move || {
        let definition: Value = serde_json::from_slice(&stored).unwrap_or_default();
        let spec = get(&definition, "spec");
        let found = list(spec, "versions").iter().find(|it| text(it, "name") == version);
        let mut schema = found.map_or(Value::Null, |found| get(get(found, "schema"), "openAPIV3Schema").clone());
        if !schema.is_object() {
            schema = json!({"type": "object"});
        }
        if on(spec, "preserveUnknownFields") {
            schema["x-kubernetes-preserve-unknown-fields"] = true.into();
        }
        schema
    }))
}

/// `example.com` as `com.example`.
fn reversed(group: &str) -> String {
    group.rsplit('.').collect::<Vec<_>>().join(".")
}

/// What changes with the definition.
fn digest(stored: &Bytes) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(stored);
    hasher.finish()
}

/// How versions are ordered: `v2` before `v1` before `v1beta2` before `v1alpha1` before all others, those by name.
pub(super) fn rank(version: &str) -> (u8, u64, u64, std::cmp::Reverse<String>) {
    let other = || (0, 0, 0, std::cmp::Reverse(version.to_owned()));
    let Some(rest) = version.strip_prefix('v') else { return other() };
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (major, rest) = rest.split_at(digits);
    let Ok(major) = major.parse() else { return other() };
    let known =
        |stage, minor: &str| minor.parse().ok().map(|minor| (stage, major, minor, std::cmp::Reverse(String::new())));
    match (rest, rest.strip_prefix("beta"), rest.strip_prefix("alpha")) {
        ("", ..) => (3, major, 0, std::cmp::Reverse(String::new())),
        (_, Some(minor), _) => known(2, minor).unwrap_or_else(other),
        (_, _, Some(minor)) => known(1, minor).unwrap_or_else(other),
        _ => other(),
    }
}
