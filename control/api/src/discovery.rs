//! Discovery documents, made once from the resource table.

use std::collections::BTreeMap;
use std::net::IpAddr;

use kontiki_machinery::{ResourceDef, Subresource, Table, Verb};
use serde_json::{Value, json};

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// `GET /api`
pub(crate) fn core_versions(server: IpAddr, port: u16) -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"],
           "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": std::net::SocketAddr::new(server, port).to_string()}]})
}

/// `GET /apis`
pub(crate) fn group_list(table: &Table) -> Value {
    let groups: Vec<Value> =
        table.groups().into_iter().filter(|(group, _)| !group.is_empty()).map(|(g, v)| group_value(g, &v)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

fn group_value(group: &str, versions: &[&str]) -> Value {
    let version = |v: &&str| json!({"groupVersion": group_version(group, v), "version": v});
    json!({"name": group, "versions": versions.iter().map(version).collect::<Vec<_>>(),
           "preferredVersion": versions.first().map(version)})
}

/// `GET /apis/<group>`
pub(crate) fn group(table: &Table, name: &str) -> Option<Value> {
    let (group, versions) = table.groups().into_iter().find(|(group, _)| *group == name)?;
    let mut value = group_value(group, &versions);
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    Some(value)
}

/// `GET /api/v1`, `GET /apis/<group>/<version>`
pub(crate) fn resource_list(table: &Table, group: &str, version: &str) -> Value {
    let mut rows = BTreeMap::new();
    for def in table.rows().iter().filter(|def| def.group == group && def.version == version) {
        rows.insert(def.plural.to_string(), resource_row(def));
        for sub in &def.subresources {
            rows.insert(format!("{}/{}", def.plural, sub.name), sub_row(def, sub));
        }
    }
    let rows: Vec<Value> = rows.into_values().collect();
    let mut list = json!({"kind": "APIResourceList", "groupVersion": group_version(group, version), "resources": rows});
    if !group.is_empty() {
        list["apiVersion"] = "v1".into(); // upstream leaves it out of the core group's list
    }
    list
}

/// The verbs of a resource, as upstream lists them: those of kinds that came at run time in an order of their own, and of
/// one that goes only those with which it does.
fn verbs(def: &ResourceDef) -> Value {
    const CUSTOM: [Verb; 8] = [
        Verb::Delete,
        Verb::DeleteCollection,
        Verb::Get,
        Verb::List,
        Verb::Patch,
        Verb::Create,
        Verb::Update,
        Verb::Watch,
    ];
    if def.schema.structural().is_none() {
        return json!(def.verbs);
    }
    let goes = !def.verbs.contains(Verb::Create);
    let listed = |verb: &Verb| def.verbs.contains(*verb) && !(goes && matches!(verb, Verb::Patch | Verb::Update));
    CUSTOM.into_iter().filter(listed).map(Verb::as_str).collect()
}

fn resource_row(def: &ResourceDef) -> Value {
    let mut row = json!({"name": def.plural, "singularName": def.singular, "namespaced": def.namespaced(), "kind": def.kind, "verbs": verbs(def)});
    if !def.short.is_empty() {
        row["shortNames"] = json!(def.short);
    }
    if !def.categories.is_empty() {
        row["categories"] = json!(def.categories);
    }
    if def.verbs.contains(Verb::Get) && def.measured.is_none() {
        row["storageVersionHash"] = storage_hash(def).into();
    }
    row
}

/// Lets a client see whether two resources share one stored form.
fn storage_hash(def: &ResourceDef) -> String {
    use base64::Engine;
    let text = format!("{}/{}", def.storage.api_version, def.storage.kind);
    let digest = <sha2::Sha256 as sha2::Digest>::digest(text.as_bytes());
    base64::engine::general_purpose::STANDARD.encode(&digest[..8])
}

/// A subresource of the parent's own type names neither group nor version.
fn own_type(def: &ResourceDef, sub: &Subresource) -> bool {
    sub.group == def.group && sub.version == def.version
}

fn sub_row(def: &ResourceDef, sub: &Subresource) -> Value {
    let mut row = json!({"name": format!("{}/{}", def.plural, sub.name), "singularName": "", "namespaced": def.namespaced(),
                         "kind": sub.kind, "verbs": sub.verbs});
    if !own_type(def, sub) {
        row["group"] = sub.group.as_ref().into();
        row["version"] = sub.version.as_ref().into();
    }
    row
}

/// `GET /api` or `/apis` in the aggregated form.
pub(crate) fn aggregated(table: &Table, core: bool) -> Value {
    let items: Vec<Value> = table
        .groups()
        .into_iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(g, v)| aggregated_group(table, g, &v))
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_group(table: &Table, group: &str, versions: &[&str]) -> Value {
    let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| {
            let mut defs: Vec<_> = table.rows().iter().filter(|d| d.group == group && d.version == *version).collect();
            defs.sort_by(|a, b| a.plural.cmp(&b.plural));
            let rows: Vec<Value> = defs.into_iter().map(|def| aggregated_row(def)).collect();
            json!({"version": version, "resources": rows, "freshness": "Current"})
        })
        .collect();
    json!({"metadata": metadata, "versions": versions})
}

fn aggregated_row(def: &ResourceDef) -> Value {
    let scope = if def.namespaced() { "Namespaced" } else { "Cluster" };
    // Upstream leaves group and version empty where they are the list's own.
    let mut row = json!({"resource": def.plural, "responseKind": {"group": "", "version": "", "kind": def.kind},
                         "scope": scope, "singularResource": def.singular, "verbs": verbs(def)});
    if !def.short.is_empty() {
        row["shortNames"] = json!(def.short);
    }
    if !def.categories.is_empty() {
        row["categories"] = json!(def.categories);
    }
    if !def.subresources.is_empty() {
        let subs: Vec<Value> = def.subresources.iter().map(|sub| aggregated_sub(def, sub)).collect();
        row["subresources"] = subs.into();
    }
    row
}

fn aggregated_sub(def: &ResourceDef, sub: &Subresource) -> Value {
    let (group, version) = if own_type(def, sub) { ("", "") } else { (sub.group.as_ref(), sub.version.as_ref()) };
    json!({"subresource": sub.name, "responseKind": {"group": group, "version": version, "kind": sub.kind}, "verbs": sub.verbs})
}
