//! Paths in both dialects.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{
    definitions::{Flavor, PATCH, reference},
    operations::{Operation, PathItem},
};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const CBOR: &str = "application/cbor";
const FORMATS: [&str; 4] = ["application/json", "application/yaml", PROTOBUF, CBOR];
/// What a watch may be asked for beside.
const STREAMS: [&str; 3] =
    ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch", "application/cbor-seq"];
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const ANYTHING: &str = "*/*";
const PATCH_FORMATS: [&str; 5] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    STRATEGIC,
    "application/apply-patch+yaml",
    "application/apply-patch+cbor",
];

fn extensions(op: &Operation, out: &mut Map<String, Value>) {
    let Some((group, version, kind)) = &op.gvk else { return };
    out.insert("x-kubernetes-action".into(), op.action.into());
    out.insert("x-kubernetes-group-version-kind".into(), json!({"group": group, "version": version, "kind": kind}));
}

fn consumed(op: &Operation) -> Vec<&'static str> {
    match op.body.as_deref() {
        None if op.gvk.is_none() => produced(op),
        Some(PATCH) => PATCH_FORMATS.into_iter().filter(|format| op.built_in || *format != STRATEGIC).collect(),
        _ => vec![ANYTHING],
    }
}

fn produced(op: &Operation) -> Vec<&'static str> {
    let formats = match (&op.response, op.action) {
        _ if op.only.is_some() => return op.only.into_iter().collect(),
        (None, "connect") => return vec![ANYTHING],
        (None, _) => [&FORMATS[..], &["text/plain"]].concat(),
        (Some(_), "list") => [&FORMATS[..], &STREAMS[..]].concat(),
        (Some(_), _) => FORMATS.to_vec(),
    };
    formats.into_iter().filter(|format| op.built_in || !format.starts_with(PROTOBUF)).collect()
}

/// Codes of success beside 200.
fn further_codes(op: &Operation) -> &'static [(&'static str, &'static str)] {
    match op.action {
        "post" => &[("201", "Created"), ("202", "Accepted")],
        "put" | "patch" => &[("201", "Created")],
        "delete" => &[("202", "Accepted")],
        _ => &[],
    }
}

/// The parameters that all operations of a path have, and where they are.
fn path_parameters(item: &PathItem) -> impl Iterator<Item = (&'static str, &'static str)> {
    let pretty = item.operations.iter().any(|op| op.gvk.is_some() && op.action != "connect");
    let names: BTreeSet<&'static str> = item.parameters.iter().copied().collect();
    names.into_iter().map(|name| (name, "path")).chain(pretty.then_some(("pretty", "query")))
}

/// Documents have no empty lists of parameters.
fn insert_some(out: &mut Map<String, Value>, parameters: Vec<Value>) {
    if !parameters.is_empty() {
        out.insert("parameters".into(), parameters.into());
    }
}

/// The item of a path in OpenAPI 3.
pub(super) fn path_v3(item: &PathItem) -> Value {
    let mut out: Map<String, Value> =
        item.operations.iter().map(|op| (op.method.to_owned(), operation_v3(op))).collect();
    let parameters = path_parameters(item).map(|(name, place)| parameter_v3(name, place, "string"));
    insert_some(&mut out, parameters.collect());
    Value::Object(out)
}

fn parameter_v3(name: &str, place: &str, ty: &str) -> Value {
    let mut out =
        json!({"name": name, "in": place, "description": describe(name), "schema": {"type": ty, "uniqueItems": true}});
    if place == "path" {
        out["required"] = true.into();
    }
    out
}

fn content(schema: Value, formats: &[&str]) -> Value {
    let schema = json!({"schema": schema});
    formats.iter().map(|format| ((*format).to_owned(), schema.clone())).collect::<Map<_, _>>().into()
}

fn operation_v3(op: &Operation) -> Value {
    let schema = op.response.as_ref().map_or_else(|| json!({"type": "string"}), |name| reference(name, Flavor::V3));
    let answer = json!({"description": "OK", "content": content(schema, &produced(op))});
    let mut responses = json!({"401": {"description": "Unauthorized"}, "200": answer});
    for (code, description) in further_codes(op) {
        responses[*code] = responses["200"].clone();
        responses[*code]["description"] = (*description).into();
    }
    let query: Vec<Value> = op.query.iter().map(|(name, ty)| parameter_v3(name, "query", ty)).collect();
    let mut out = json!({
        "tags": [op.tag], "description": op.description, "operationId": op.id, "responses": responses,
    });
    if let Some(body) = &op.body {
        let required = op.method != "delete";
        out["requestBody"] = json!({"content": content(reference(body, Flavor::V3), &consumed(op))});
        if required {
            out["requestBody"]["required"] = true.into();
        }
    }
    if let Value::Object(map) = &mut out {
        insert_some(map, query);
        extensions(op, map);
    }
    out
}

/// The item of a path in OpenAPI 2.
pub(super) fn path_v2(item: &PathItem) -> Value {
    let mut out: Map<String, Value> =
        item.operations.iter().map(|op| (op.method.to_owned(), operation_v2(op))).collect();
    let parameters = path_parameters(item).map(|(name, place)| parameter_v2(name, place, "string"));
    insert_some(&mut out, parameters.collect());
    Value::Object(out)
}

fn parameter_v2(name: &str, place: &str, ty: &str) -> Value {
    let mut out = json!({"name": name, "in": place, "description": describe(name), "type": ty, "uniqueItems": true});
    if place == "path" {
        out["required"] = true.into();
    }
    out
}

fn operation_v2(op: &Operation) -> Value {
    let schema = op.response.as_ref().map_or_else(|| json!({"type": "string"}), |name| reference(name, Flavor::V2));
    let mut responses = json!({"401": {"description": "Unauthorized"}, "200": {"description": "OK", "schema": schema}});
    for (code, description) in further_codes(op) {
        responses[*code] = json!({"description": description, "schema": schema});
    }
    let mut parameters: Vec<Value> = op.query.iter().map(|(name, ty)| parameter_v2(name, "query", ty)).collect();
    if let Some(body) = &op.body {
        let mut parameter = json!({"name": "body", "in": "body", "schema": reference(body, Flavor::V2)});
        if op.method != "delete" {
            parameter["required"] = true.into();
        }
        parameters.push(parameter);
    }
    let mut out = json!({
        "tags": [op.tag], "description": op.description, "operationId": op.id, "schemes": ["https"],
        "consumes": consumed(op), "produces": produced(op),
        "responses": responses,
    });
    if let Value::Object(map) = &mut out {
        insert_some(map, parameters);
        extensions(op, map);
    }
    out
}

/// One sentence per parameter.
fn describe(name: &str) -> &'static str {
    match name {
        "name" => "name of the object",
        "namespace" => "object name and auth scope, such as for teams and projects",
        "pretty" => "If 'true', then the output is pretty printed.",
        "dryRun" => "When present, indicates that modifications should not be persisted. Valid value: All.",
        "fieldManager" => "Name of the actor or entity that is making these changes.",
        "fieldValidation" => "How to handle unknown and duplicate fields: Ignore, Warn (the default) or Strict.",
        "force" => "Apply requests only: take over fields that others own.",
        "allowWatchBookmarks" => "Requests watch events with type BOOKMARK.",
        "continue" => "Continues a list where the answer that gave this token stopped.",
        "fieldSelector" => "Restricts the returned objects by their fields. Defaults to everything.",
        "labelSelector" => "Restricts the returned objects by their labels. Defaults to everything.",
        "limit" => "The largest number of objects to return at once.",
        "resourceVersion" => "Constrains which resource versions a request may be served from.",
        "resourceVersionMatch" => "How resourceVersion is applied to list calls.",
        "shardSelector" => "Restricts the returned objects to a share of them. Not looked at yet.",
        "sendInitialEvents" => "With watch: start with the objects there are, and a bookmark after them.",
        "timeoutSeconds" => "Limits the duration of the call.",
        "watch" => "Watch for changes and return them as a stream of notifications.",
        "gracePeriodSeconds" => "Seconds before the object is deleted. Zero means at once.",
        "orphanDependents" => "Deprecated: use propagationPolicy.",
        "ignoreStoreReadErrorWithClusterBreakingPotential" => "Deletes an object that cannot be read, for good.",
        "path" => "Path to what is asked for behind the object.",
        "command" => "The command and its arguments, one each time; no shell is asked.",
        "container" => "Name of the container. Not needed where there is but one.",
        "stdin" | "stdout" | "stderr" => "Whether this stream is wanted.",
        "tty" => "Whether the command gets a terminal.",
        "ports" => "Ports to forward to.",
        "follow" => "Goes on with what is written later.",
        "insecureSkipTLSVerifyBackend" => "Of no effect: the way to the node is always verified.",
        "limitBytes" => "The largest number of bytes to return.",
        "previous" => "The log of the container before it was started again.",
        "sinceSeconds" => "Only what is not older.",
        "stream" => "All (the default), Stdout or Stderr.",
        "tailLines" => "How many lines from the end.",
        "timestamps" => "Each line with its time.",
        "propagationPolicy" => "Whether and how garbage collection is performed: Orphan, Background or Foreground.",
        _ => "",
    }
}
