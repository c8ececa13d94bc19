//! The kinds that a master serves, and the rules that name kinds: one row per kind, the steps of admission, the
//! authorizer of nodes. What is the same for all kinds is `kontiki-machinery`'s.
//!
//! Invariants
//! - Pure: no tokio, no I/O, no clock; `now`, chance and what lies in the cluster are arguments.
//! - A kind is one [`ResourceDef`] row plus its [`Strategy`]: adding one touches one file of [`rows`] and its list.

pub mod admission;
pub mod api_services;
pub mod authentication;
pub mod authorize;
pub mod backends;
pub mod bootstrap;
pub mod custom;
mod expressions;
mod kept;
pub mod matching;
mod options;
pub mod policies;
pub mod rows;
pub mod webhooks;

pub use kontiki_machinery::{
    Bad, FieldError, GroupResource, Handler, Path, ResourceDef, Scope, Status, Strategy, Subresource, Verb, Verbs,
};
use std::sync::Arc;

use kontiki_machinery::{
    Registry, allocation, apply, field_error, key_pair, meta, resource, schema, status, subresource, table,
};

/// What the rows depend on in a cluster.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What Services take from.
    pub services: rows::service::Ranges,
}

/// All built-in kinds, in discovery order: the core group first, then the groups as upstream lists them; after them those
/// that CustomResourceDefinitions define.
#[must_use]
pub fn registry(settings: &Settings) -> Registry {
    Registry::with_source(rows::all(settings.services.clone()), Arc::new(custom::Definitions::default()))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use jiff::Timestamp;
    use kontiki_machinery::{Table, decode::message_fields, measured::Origin, openapi, schema::Type};
    use serde_json::{Value, json};

    use super::*;

    fn facts(text: &str) -> Value {
        serde_json::from_str(text).expect("the facts are JSON")
    }

    fn table() -> Arc<Table> {
        let addresses = "10.96.0.0/16".parse().expect("a range");
        registry(&Settings { services: rows::service::Ranges { addresses, node_ports: 30000..=32767 } }).table()
    }

    #[test]
    fn rows_agree_with_upstreams_discovery() {
        let facts = facts(include_str!("../data/discovery.json"));
        for def in table().rows() {
            let served = &facts[def.api_version()]["resources"];
            let known = &served[def.plural.as_ref()];
            let list = |field: &str| known[field].as_array().cloned().unwrap_or_default();
            assert_eq!(known["kind"], def.kind.as_ref(), "{}", def.plural);
            assert_eq!(known["singularName"], def.singular.as_ref(), "{}", def.plural);
            assert_eq!(known["namespaced"], def.namespaced(), "{}", def.plural);
            assert_eq!(json!(list("verbs")), json!(def.verbs), "{}", def.plural);
            assert_eq!(json!(list("shortNames")), json!(def.short), "{}", def.plural);
            assert_eq!(json!(list("categories")), json!(def.categories), "{}", def.plural);
            for sub in &def.subresources {
                let known = &served[format!("{}/{}", def.plural, sub.name)];
                let expect = (&json!(sub.kind), &json!(sub.verbs));
                assert_eq!((&known["kind"], &known["verbs"]), expect, "{}/{}", def.plural, sub.name);
            }
        }
    }

    #[test]
    fn nothing_that_upstream_serves_is_missing() {
        let (facts, table) = (facts(include_str!("../data/discovery.json")), table());
        let served = |api_version: &str, name: &str| {
            let (plural, sub) = name.split_once('/').map_or((name, None), |(plural, sub)| (plural, Some(sub)));
            let row = table.rows().iter().find(|def| def.api_version_is(api_version) && def.plural == plural);
            row.is_some_and(|def| sub.is_none_or(|sub| def.subresource(sub).is_some()))
        };
        for (api_version, group) in facts.as_object().expect("an object") {
            for name in group["resources"].as_object().expect("an object").keys() {
                assert!(served(api_version, name), "{api_version} {name}");
            }
        }
    }

    #[test]
    fn whose_status_is_written_without_metadata() {
        let table = table();
        let without_metadata = resource::status_alone(Some("status"));
        let rows = table.rows().iter().filter(|def| def.strategy.counted(Some("status")) == without_metadata);
        let names: Vec<&str> = rows.filter(|def| def.subresource("status").is_some()).map(|def| &*def.plural).collect();
        let expect = [
            "servicecidrs",
            "volumeattachments",
            "podcertificaterequests",
            "validatingadmissionpolicies",
            "devicetaintrules",
            "resourceclaims",
            "flowschemas",
            "prioritylevelconfigurations",
            "storageversionmigrations",
        ];
        assert_eq!(names, expect);
    }

    #[test]
    fn rows_select_by_upstreams_fields() {
        let facts = facts(include_str!("../data/field-selectors.json"));
        for def in table().rows().iter().filter(|def| def.verbs.contains(Verb::List)) {
            let known = facts[format!("{} {}", def.api_version(), def.kind)].as_array().cloned().unwrap_or_default();
            let known: Vec<&str> = known.iter().filter_map(Value::as_str).collect();
            let mut own = def.fields.clone();
            own.sort();
            let all: Vec<&str> = known.into_iter().filter(|path| !path.starts_with("metadata.")).collect();
            assert_eq!(own, all, "{}", def.plural);
            for path in &def.fields {
                // The zero of its type, never a word for nothing.
                assert!(
                    ["", "0", "false"].contains(&def.strategy.field(&json!({}), path).as_str()),
                    "{} {path}",
                    def.plural
                );
            }
        }
    }

    #[test]
    fn rows_fit_their_columns() {
        for def in table().rows().iter().filter(|def| def.verbs.contains(Verb::List)) {
            let obj = json!({"metadata": {"name": "a"}});
            let cells = table::row(def, &obj, table::IncludeObject::None, Timestamp::UNIX_EPOCH);
            let count = table::columns(&def.api_version(), &def.kind).as_array().map(Vec::len);
            assert_eq!(cells["cells"].as_array().map(Vec::len), count, "{}", def.kind);
        }
    }

    #[test]
    fn stored_kinds_have_metadata() {
        for def in table().rows() {
            assert!(def.schema.field("metadata").is_some() || def.verbs == Verbs::CREATE, "{}", def.kind);
        }
    }

    #[test]
    fn every_type_can_be_sent_as_protobuf() {
        let table = table();
        // What nodes measure has durations, which are messages in protobuf and texts in JSON: it comes as JSON.
        let typed = table.rows().iter().filter(|def| !matches!(def.measured, Some(Origin::Nodes(_))));
        let mut waiting: Vec<&schema::Schema> = typed.map(|def| &def.schema).collect();
        let mut seen = HashSet::new();
        while let Some(schema) = waiting.pop() {
            // Schemas of custom kinds have unions, whose form in protobuf is not known here yet: they come as JSON.
            if !seen.insert(schema.name()) || schema.name().ends_with(".JSONSchemaProps") {
                continue;
            }
            let numbered = message_fields(schema.name()).unwrap_or_else(|| panic!("no numbers for {}", schema.name()));
            for (name, field) in schema.fields() {
                // Newer than the facts; it is in a status that only our own agents write, as JSON.
                let newer = ["apiVersion", "kind", "runningInUserNamespace"].contains(&name.as_str());
                assert!(newer || numbered.contains(name.as_str()), "{}.{name}", schema.name());
                let mut ty = &field.ty;
                while let Type::List(item) | Type::Map(item) = ty {
                    ty = item;
                }
                if let Type::Struct(inner) = ty {
                    waiting.push(inner);
                }
            }
        }
    }

    fn parsed(document: &[u8]) -> Value {
        serde_json::from_slice(document).expect("a document is JSON")
    }

    fn document(table: &Table, name: &str) -> Value {
        parsed(&table.documents().v3(name).expect("a row has a document").json())
    }

    /// Every `$ref` in `value`.
    fn refs<'a>(value: &'a Value, out: &mut Vec<&'a str>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(target)) = map.get("$ref") {
                    out.push(target);
                }
                map.values().for_each(|value| refs(value, out));
            }
            Value::Array(items) => items.iter().for_each(|value| refs(value, out)),
            _ => {}
        }
    }

    #[test]
    fn no_reference_dangles() {
        let table = table();
        let names = table.rows().iter().map(|def| openapi::document_name(def));
        let mut documents: Vec<Value> = names.map(|name| document(&table, &name)).collect();
        documents.push(parsed(&table.documents().v2("v1.37.0").json()));
        for document in &documents {
            let mut found = Vec::new();
            refs(document, &mut found);
            for target in found {
                assert!(document.pointer(target.trim_start_matches('#')).is_some(), "{target}");
            }
        }
    }

    #[test]
    fn every_row_can_be_explained_and_patched() {
        let table = table();
        for def in table.rows() {
            let document = document(&table, &openapi::document_name(def));
            let gvk = json!({"group": def.group, "version": def.version, "kind": def.kind});
            let schema = &document["components"]["schemas"][def.schema.name()];
            let known = schema["x-kubernetes-group-version-kind"].as_array().is_some_and(|list| list.contains(&gvk));
            assert!(known && schema["properties"].is_object(), "{}", def.kind);
            let scope = if def.namespaced() { "/namespaces/{namespace}" } else { "" };
            let path = format!("/{}{scope}/{}", openapi::document_name(def), def.plural);
            if def.verbs.contains(Verb::List) {
                let list = &document["paths"][&path]["get"];
                assert_eq!(
                    (&list["x-kubernetes-group-version-kind"], &list["x-kubernetes-action"]),
                    (&gvk, &json!("list")),
                    "{path}"
                );
            }
            if def.verbs.contains(Verb::Patch) {
                let patch = &document["paths"][format!("{path}/{{name}}")]["patch"];
                assert!(
                    patch["requestBody"]["content"]["application/strategic-merge-patch+json"].is_object(),
                    "{path}"
                );
                let named = |name: &str| {
                    patch["parameters"].as_array().is_some_and(|list| list.iter().any(|p| p["name"] == name))
                };
                assert!(named("fieldValidation") && named("dryRun"), "{path}");
            }
        }
    }

    /// By these names generated clients call their functions.
    #[test]
    fn operations_have_upstreams_names() {
        let table = table();
        let document = parsed(&table.documents().v2("v1.37.0").json());
        let operations = document["paths"].as_object().expect("paths").iter().flat_map(|(path, item)| {
            let methods = item.as_object().expect("an item").iter().filter(|(key, _)| *key != "parameters");
            methods.map(move |(method, op)| (format!("{method} {path}"), op))
        });
        let mut by_id = std::collections::BTreeMap::new();
        for (place, op) in operations {
            let before = by_id.insert(op["operationId"].as_str().expect("an id"), (place, op["tags"][0].clone()));
            assert!(before.is_none(), "two of one id: {before:?}");
        }
        let rbac = "/apis/rbac.authorization.k8s.io/v1";
        let pod = "/api/v1/namespaces/{namespace}/pods/{name}";
        for (id, place, tag) in [
            ("getCoreAPIVersions", "get /api/", "core"),
            ("getAPIVersions", "get /apis/", "apis"),
            ("getCoreV1APIResources", "get /api/v1/", "core_v1"),
            ("getAppsAPIGroup", "get /apis/apps/", "apps"),
            ("getAppsV1APIResources", "get /apis/apps/v1/", "apps_v1"),
            ("getFlowcontrolApiserverAPIGroup", "get /apis/flowcontrol.apiserver.k8s.io/", "flowcontrolApiserver"),
            ("getCodeVersion", "get /version/", "version"),
            ("getServiceAccountIssuerOpenIDKeyset", "get /openid/v1/jwks/", "openid"),
            ("getServiceAccountIssuerOpenIDConfiguration", "get /.well-known/openid-configuration/", "WellKnown"),
            ("listRbacAuthorizationV1ClusterRole", &format!("get {rbac}/clusterroles"), "rbacAuthorization_v1"),
            ("listCoreV1PodForAllNamespaces", "get /api/v1/pods", "core_v1"),
            ("deleteCoreV1CollectionNamespacedPod", "delete /api/v1/namespaces/{namespace}/pods", "core_v1"),
            ("deleteCoreV1CollectionNode", "delete /api/v1/nodes", "core_v1"),
            ("readCoreV1NamespacedPodLog", &format!("get {pod}/log"), "core_v1"),
            ("connectCoreV1PostNamespacedPodExec", &format!("post {pod}/exec"), "core_v1"),
            ("connectCoreV1HeadNamespacedPodProxy", &format!("head {pod}/proxy"), "core_v1"),
            ("connectCoreV1OptionsNodeProxyWithPath", "options /api/v1/nodes/{name}/proxy/{path}", "core_v1"),
        ] {
            assert_eq!(by_id.get(id), Some(&(place.to_owned(), tag.into())), "{id}");
        }
    }

    #[test]
    fn discovery_has_documents_of_its_own() {
        let table = table();
        for (name, kind) in [("api", "APIVersions"), ("apis", "APIGroupList"), ("apis/apps", "APIGroup")] {
            let document = document(&table, name);
            let definition = format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}");
            let answer = format!("#/components/schemas/{definition}");
            let content = &document["paths"][format!("/{name}/")]["get"]["responses"]["200"]["content"];
            assert_eq!(content["application/json"]["schema"]["$ref"], answer, "{name}");
            let kinds = &document["components"]["schemas"][definition]["x-kubernetes-group-version-kind"];
            assert_eq!(*kinds, json!([{"group": "", "version": "v1", "kind": kind}]));
        }
        let version = document(&table, "version");
        let formats = version["paths"]["/version/"]["get"]["responses"]["200"]["content"].as_object().expect("formats");
        assert_eq!(formats.keys().collect::<Vec<_>>(), ["application/json"]);
    }

    #[test]
    fn merge_keys_are_published() {
        let document = document(&table(), "apis/apps/v1");
        let containers = &document["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
        assert_eq!(containers["items"]["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.core.v1.Container");
    }

    #[test]
    fn the_index_names_every_document() {
        let table = table();
        for (name, entry) in parsed(&table.documents().v3_index().json())["paths"].as_object().expect("an object") {
            let text = table.documents().v3(name).expect("a document").json();
            let url = format!("/openapi/v3/{name}?hash={}", openapi::hash(std::str::from_utf8(&text).expect("text")));
            assert_eq!(entry["serverRelativeURL"], url);
        }
    }
}
