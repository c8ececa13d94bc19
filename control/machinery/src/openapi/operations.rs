//! What can be done to a kind, as paths with operations; free of any dialect.

use super::definitions::{PATCH, list_name};
use crate::{Handler, ResourceDef, Subresource, Verb, Verbs, subresource::NodeCall};

/// The body of a delete.
pub(super) const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";

/// Query parameters, with their types.
type Parameters = &'static [(&'static str, &'static str)];

const WRITE: Parameters = &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const PATCHING: Parameters =
    &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string"), ("force", "boolean")];
const LIST: Parameters = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const DELETE: Parameters = &[
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];
const DELETE_MANY: Parameters = &[
    ("continue", "string"),
    ("dryRun", "string"),
    ("fieldSelector", "string"),
    ("gracePeriodSeconds", "integer"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
];

/// A path and what it answers to.
pub(super) struct PathItem {
    pub path: String,
    /// Names of its path parameters.
    pub parameters: Vec<&'static str>,
    pub operations: Vec<Operation>,
}

/// One method on one path.
pub(super) struct Operation {
    pub method: &'static str,
    /// `list`, `post`, `patch`, …: what `x-kubernetes-action` says.
    pub action: &'static str,
    pub id: String,
    pub tag: String,
    pub description: String,
    pub gvk: (String, String, String),
    pub query: Parameters,
    /// Definition of the request body.
    pub body: Option<String>,
    /// Definition of the answer; `None` for text.
    pub response: Option<String>,
    /// 201 beside 200.
    pub creates: bool,
    /// Whether its objects have a form in protobuf, and merge strategically.
    pub built_in: bool,
}

/// All paths of a kind.
pub(super) fn paths_of(def: &ResourceDef) -> Vec<PathItem> {
    let root = format!("/{}", super::document_name(def));
    let (scope, parameters) =
        if def.namespaced() { ("/namespaces/{namespace}", vec!["namespace"]) } else { ("", vec![]) };
    let collection = format!("{root}{scope}/{}", def.plural);
    let mut out = Vec::new();
    push(&mut out, collection.clone(), parameters.clone(), collection_operations(def));
    if def.namespaced() && def.verbs.contains(Verb::List) {
        push(&mut out, format!("{root}/{}", def.plural), vec![], vec![list(def, "ForAllNamespaces")]);
    }
    let mut parameters = parameters;
    parameters.push("name");
    let item = format!("{collection}/{{name}}");
    push(&mut out, item.clone(), parameters.clone(), item_operations(def));
    for sub in &def.subresources {
        push(&mut out, format!("{item}/{}", sub.name), parameters.clone(), sub_operations(def, sub));
    }
    out
}

fn push(out: &mut Vec<PathItem>, path: String, parameters: Vec<&'static str>, operations: Vec<Operation>) {
    if !operations.is_empty() {
        out.push(PathItem { path, parameters, operations });
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

fn group_name(def: &ResourceDef) -> &str {
    match def.group.as_ref() {
        "" => "core",
        group => group.split('.').next().unwrap_or(group),
    }
}

struct Template {
    method: &'static str,
    action: &'static str,
    verb: &'static str,
    text: &'static str,
    query: Parameters,
}

fn operation(
    def: &ResourceDef,
    t: &Template,
    suffix: &str,
    body: Option<String>,
    response: Option<String>,
) -> Operation {
    let scope = if def.namespaced() && suffix != "ForAllNamespaces" { "Namespaced" } else { "" };
    let id = format!("{}{}{}{scope}{}{suffix}", t.verb, capital(group_name(def)), capital(&def.version), def.kind);
    Operation {
        method: t.method,
        action: t.action,
        id,
        tag: format!("{}_{}", group_name(def), def.version),
        description: format!("{} {}", t.text, def.kind),
        gvk: (def.group.to_string(), def.version.to_string(), def.kind.to_string()),
        query: t.query,
        body,
        response,
        creates: ["post", "put", "patch"].contains(&t.method),
        built_in: def.schema.structural().is_none(),
    }
}

fn list(def: &ResourceDef, suffix: &str) -> Operation {
    let template =
        Template { method: "get", action: "list", verb: "list", text: "list or watch objects of kind", query: LIST };
    operation(def, &template, suffix, None, Some(list_name(def)))
}

fn collection_operations(def: &ResourceDef) -> Vec<Operation> {
    let has = |verb: Verb| def.verbs.contains(verb);
    let mut out = Vec::new();
    if has(Verb::List) {
        out.push(list(def, ""));
    }
    if has(Verb::Create) {
        let t = Template { method: "post", action: "post", verb: "create", text: "create a", query: WRITE };
        out.push(operation(def, &t, "", Some(def.schema.name().into()), Some(def.schema.name().into())));
    }
    if has(Verb::DeleteCollection) {
        let t = Template {
            method: "delete",
            action: "deletecollection",
            verb: "deleteCollection",
            text: "delete collection of",
            query: DELETE_MANY,
        };
        let mut op = operation(def, &t, "", Some(DELETE_OPTIONS.into()), Some(STATUS.into()));
        op.id = op.id.replacen("deleteCollection", "delete", 1).replacen("Namespaced", "CollectionNamespaced", 1);
        if !def.namespaced() {
            op.id = op.id.replacen(def.kind.as_ref(), &format!("Collection{}", def.kind), 1);
        }
        out.push(op);
    }
    out
}

fn item_operations(def: &ResourceDef) -> Vec<Operation> {
    let mut out = object_operations(def, def.verbs, "", def.schema.name());
    // `create` belongs to the collection.
    out.retain(|op| op.method != "post");
    if def.verbs.contains(Verb::Delete) {
        let t = Template { method: "delete", action: "delete", verb: "delete", text: "delete a", query: DELETE };
        out.push(operation(def, &t, "", Some(DELETE_OPTIONS.into()), Some(STATUS.into())));
    }
    out
}

/// get, create, update and patch of an object or subresource of type `schema`.
fn object_operations(def: &ResourceDef, verbs: Verbs, suffix: &str, schema: &str) -> Vec<Operation> {
    let same = || Some(schema.to_owned());
    let mut out = Vec::new();
    for (kube_verb, t) in [
        (Verb::Get, Template { method: "get", action: "get", verb: "read", text: "read the specified", query: &[] }),
        (Verb::Create, Template { method: "post", action: "post", verb: "create", text: "create", query: WRITE }),
        (
            Verb::Update,
            Template { method: "put", action: "put", verb: "replace", text: "replace the specified", query: WRITE },
        ),
        (
            Verb::Patch,
            Template {
                method: "patch",
                action: "patch",
                verb: "patch",
                text: "partially update the specified",
                query: PATCHING,
            },
        ),
    ] {
        if verbs.contains(kube_verb) {
            let body = match kube_verb {
                Verb::Get => None,
                Verb::Patch => Some(PATCH.to_owned()),
                _ => same(),
            };
            out.push(operation(def, &t, suffix, body, same()));
        }
    }
    out
}

fn sub_operations(def: &ResourceDef, sub: &Subresource) -> Vec<Operation> {
    let suffix = capital(&sub.name);
    let mut out = match &sub.handler {
        Handler::Node(..) | Handler::Proxy(_) => connect_operations(def, sub, &suffix),
        handler => {
            let schema = handler.schema().unwrap_or(&def.schema);
            object_operations(def, sub.verbs, &suffix, schema.name())
        }
    };
    for op in &mut out {
        op.gvk = (sub.group.to_string(), sub.version.to_string(), sub.kind.to_string());
        op.description = format!("{} of the specified {}", op.description, def.kind);
    }
    out
}

/// Streams and logs: no typed body, text as the answer.
fn connect_operations(def: &ResourceDef, sub: &Subresource, suffix: &str) -> Vec<Operation> {
    let text = matches!(sub.handler, Handler::Node(NodeCall::Log, _));
    let (action, verb) = if text { ("get", "read") } else { ("connect", "connect") };
    let mut out = Vec::new();
    for (kube_verb, method) in [
        (Verb::Get, "get"),
        (Verb::Create, "post"),
        (Verb::Update, "put"),
        (Verb::Patch, "patch"),
        (Verb::Delete, "delete"),
    ] {
        if sub.verbs.contains(kube_verb) {
            let t = Template { method, action, verb, text: "connect to", query: &[] };
            let mut op = operation(def, &t, suffix, None, None);
            if action == "connect" {
                op.id = op.id.replacen("connect", &format!("connect{}", capital(method)), 1);
            }
            op.creates = false;
            out.push(op);
        }
    }
    out
}
