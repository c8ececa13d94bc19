//! What can be done to a kind, as paths with operations; free of any dialect.

use super::definitions::{PATCH, list_name};
use crate::{Handler, ResourceDef, Subresource, Verb, Verbs, subresource::NodeCall};

/// The body of a delete.
pub(super) const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
/// The answer to it.
pub(super) const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";

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
    ("shardSelector", "string"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const DELETE: Parameters = &[
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];
const DELETE_MANY: Parameters = &[
    ("continue", "string"),
    ("dryRun", "string"),
    ("fieldSelector", "string"),
    ("gracePeriodSeconds", "integer"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("shardSelector", "string"),
    ("timeoutSeconds", "integer"),
];
const LOG: Parameters = &[
    ("container", "string"),
    ("follow", "boolean"),
    ("insecureSkipTLSVerifyBackend", "boolean"),
    ("limitBytes", "integer"),
    ("previous", "boolean"),
    ("sinceSeconds", "integer"),
    ("stream", "string"),
    ("tailLines", "integer"),
    ("timestamps", "boolean"),
];
const EXEC: Parameters = &[
    ("command", "string"),
    ("container", "string"),
    ("stderr", "boolean"),
    ("stdin", "boolean"),
    ("stdout", "boolean"),
    ("tty", "boolean"),
];
const ATTACH: Parameters =
    &[("container", "string"), ("stderr", "boolean"), ("stdin", "boolean"), ("stdout", "boolean"), ("tty", "boolean")];
const PORT_FORWARD: Parameters = &[("ports", "integer")];
const PROXY: Parameters = &[("path", "string")];

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
    /// The kind that it acts on, if it does.
    pub gvk: Option<(String, String, String)>,
    pub query: Parameters,
    /// Definition of the request body.
    pub body: Option<String>,
    /// Definition of the answer; `None` for text.
    pub response: Option<String>,
    /// The only media type of its answer.
    pub only: Option<&'static str>,
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
        let path = format!("{item}/{}", sub.name);
        push(&mut out, path.clone(), parameters.clone(), sub_operations(def, sub, ""));
        if matches!(sub.handler, Handler::Proxy(_)) {
            let parameters = [&parameters[..], &["path"]].concat();
            push(&mut out, format!("{path}/{{path}}"), parameters, sub_operations(def, sub, "WithPath"));
        }
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

/// A text as a part of an operation's id: letters and digits, each beginning with a capital after the first. Upstream:
/// apiserver `pkg/endpoints/openapi`, `ToValidOperationID`.
pub(super) fn word(text: &str, capitalized: bool) -> String {
    let parts = text.split(|c: char| !c.is_alphanumeric() && c != '_').enumerate();
    parts.map(|(at, part)| if at > 0 || capitalized { capital(part) } else { part.to_owned() }).collect()
}

/// A group as such a part.
pub(super) fn group_word(group: &str, capitalized: bool) -> String {
    let name = if group.is_empty() { "core" } else { group.strip_suffix(".k8s.io").unwrap_or(group) };
    word(name, capitalized)
}

struct Template {
    method: &'static str,
    action: &'static str,
    verb: &'static str,
    /// What stands between version and kind.
    infix: &'static str,
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
    let place = format!("{}{}", group_word(&def.group, true), word(&def.version, true));
    Operation {
        method: t.method,
        action: t.action,
        id: format!("{}{place}{}{scope}{}{suffix}", t.verb, t.infix, def.kind),
        tag: format!("{}_{}", group_word(&def.group, false), word(&def.version, false)),
        description: format!("{} {}", t.text, def.kind),
        gvk: Some((def.group.to_string(), def.version.to_string(), def.kind.to_string())),
        query: t.query,
        body,
        response,
        only: None,
        built_in: def.schema.structural().is_none(),
    }
}

fn list(def: &ResourceDef, suffix: &str) -> Operation {
    let text = "list or watch objects of kind";
    let template = Template { method: "get", action: "list", verb: "list", infix: "", text, query: LIST };
    operation(def, &template, suffix, None, Some(list_name(def)))
}

fn collection_operations(def: &ResourceDef) -> Vec<Operation> {
    let has = |verb: Verb| def.verbs.contains(verb);
    let mut out = Vec::new();
    if has(Verb::List) {
        out.push(list(def, ""));
    }
    if has(Verb::Create) {
        let t = Template { method: "post", action: "post", verb: "create", infix: "", text: "create a", query: WRITE };
        out.push(operation(def, &t, "", Some(def.schema.name().into()), Some(def.schema.name().into())));
    }
    if has(Verb::DeleteCollection) {
        let t = Template {
            method: "delete",
            action: "deletecollection",
            verb: "delete",
            infix: "Collection",
            text: "delete collection of",
            query: DELETE_MANY,
        };
        let op = operation(def, &t, "", Some(DELETE_OPTIONS.into()), Some(STATUS.into()));
        out.push(op);
    }
    out
}

fn item_operations(def: &ResourceDef) -> Vec<Operation> {
    let mut out = object_operations(def, def.verbs, "", def.schema.name());
    // `create` belongs to the collection.
    out.retain(|op| op.method != "post");
    if def.verbs.contains(Verb::Delete) {
        let t =
            Template { method: "delete", action: "delete", verb: "delete", infix: "", text: "delete a", query: DELETE };
        out.push(operation(def, &t, "", Some(DELETE_OPTIONS.into()), Some(STATUS.into())));
    }
    out
}

/// get, create, update and patch of an object or subresource of type `schema`.
fn object_operations(def: &ResourceDef, verbs: Verbs, suffix: &str, schema: &str) -> Vec<Operation> {
    let same = || Some(schema.to_owned());
    let mut out = Vec::new();
    for (kube_verb, t) in [
        (
            Verb::Get,
            Template { method: "get", action: "get", verb: "read", infix: "", text: "read the specified", query: &[] },
        ),
        (
            Verb::Create,
            Template { method: "post", action: "post", verb: "create", infix: "", text: "create", query: WRITE },
        ),
        (
            Verb::Update,
            Template {
                method: "put",
                action: "put",
                verb: "replace",
                infix: "",
                text: "replace the specified",
                query: WRITE,
            },
        ),
        (
            Verb::Patch,
            Template {
                method: "patch",
                action: "patch",
                verb: "patch",
                infix: "",
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

fn sub_operations(def: &ResourceDef, sub: &Subresource, further: &str) -> Vec<Operation> {
    let suffix = format!("{}{further}", capital(&sub.name));
    let mut out = match &sub.handler {
        Handler::Node(NodeCall::Log, _) => {
            let t =
                Template { method: "get", action: "get", verb: "read", infix: "", text: "read the log", query: LOG };
            vec![operation(def, &t, &suffix, None, None)]
        }
        Handler::Node(NodeCall::Stream, _) | Handler::Proxy(_) => connect_operations(def, sub, &suffix),
        handler => {
            let schema = handler.schema().unwrap_or(&def.schema);
            object_operations(def, sub.verbs, &suffix, schema.name())
        }
    };
    for op in &mut out {
        op.gvk = Some((sub.group.to_string(), sub.version.to_string(), sub.kind.to_string()));
        op.description = format!("{} of the specified {}", op.description, def.kind);
    }
    out
}

/// Streams and proxies: no typed body, anything as the answer.
fn connect_operations(def: &ResourceDef, sub: &Subresource, suffix: &str) -> Vec<Operation> {
    let query = match sub.name.as_ref() {
        "exec" => EXEC,
        "attach" => ATTACH,
        "portforward" => PORT_FORWARD,
        _ => PROXY,
    };
    let passed_on = matches!(sub.handler, Handler::Proxy(_));
    let mut out = Vec::new();
    for (kube_verb, method, infix) in [
        (Verb::Get, "get", "Get"),
        (Verb::Create, "post", "Post"),
        (Verb::Update, "put", "Put"),
        (Verb::Patch, "patch", "Patch"),
        (Verb::Delete, "delete", "Delete"),
        (Verb::Get, "head", "Head"),
        (Verb::Get, "options", "Options"),
    ] {
        let beside = ["head", "options"].contains(&method);
        if sub.verbs.contains(kube_verb) && (passed_on || !beside) {
            let t = Template { method, action: "connect", verb: "connect", infix, text: "connect to", query };
            out.push(operation(def, &t, suffix, None, None));
        }
    }
    out
}
