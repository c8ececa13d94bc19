//! Paths in both dialects.

use serde_json::{Map, Value, json};

use super::{
    definitions::{Flavor, PATCH, reference},
    operations::{Operation, PathItem},
};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const FORMATS: [&str; 3] = ["application/json", "application/yaml", PROTOBUF];
/// What a watch may be asked for beside.
const STREAMS: [&str; 2] = ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const ANYTHING: &str = "*/*";
const PATCH_FORMATS: [&str; 4] =
    ["application/json-patch+json", "application/merge-patch+json", STRATEGIC, "application/apply-patch+yaml"];

fn extensions(op: &Operation, out: &mut Map<String, Value>) {
    let (group, version, kind) = &op.gvk;
    out.insert("x-kubernetes-action".into(), op.action.into());
    out.insert("x-kubernetes-group-version-kind".into(), json!({"group": group, "version": version, "kind": kind}));
}

fn consumed(op: &Operation) -> Vec<&'static str> {
    match op.body.as_deref() {
        Some(PATCH) => PATCH_FORMATS.into_iter().filter(|format| op.built_in || *format != STRATEGIC).collect(),
        _ => vec![ANYTHING],
    }
}

fn produced(op: &Operation) -> Vec<&'static str> {
    let formats = match (&op.response, op.action) {
        (None, _) => return vec![ANYTHING],
        (Some(_), "list") => [&FORMATS[..], &STREAMS[..]].concat(),
        (Some(_), _) => FORMATS.to_vec(),
    };
    formats.into_iter().filter(|format| op.built_in || !format.starts_with(PROTOBUF)).collect()
}

/// The item of a path in OpenAPI 3.
pub(super) fn path_v3(item: &PathItem) -> Value {
    let mut out: Map<String, Value> =
        item.operations.iter().map(|op| (op.method.to_owned(), operation_v3(op))).collect();
    let path = item.parameters.iter().map(|name| parameter_v3(name, "path", "string"));
    out.insert("parameters".into(), path.chain([parameter_v3("pretty", "query", "string")]).collect());
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

fn content(name: &str, formats: &[&str]) -> Value {
    let schema = json!({"schema": reference(name, Flavor::V3)});
    formats.iter().map(|format| ((*format).to_owned(), schema.clone())).collect::<Map<_, _>>().into()
}

fn operation_v3(op: &Operation) -> Value {
    let answer = match &op.response {
        Some(name) => json!({"description": "OK", "content": content(name, &produced(op))}),
        None => json!({"description": "OK", "content": {"*/*": {"schema": {"type": "string"}}}}),
    };
    let mut responses = json!({"401": {"description": "Unauthorized"}, "200": answer});
    if op.creates {
        responses["201"] = responses["200"].clone();
        responses["201"]["description"] = "Created".into();
    }
    let query: Vec<Value> = op.query.iter().map(|(name, ty)| parameter_v3(name, "query", ty)).collect();
    let mut out = json!({
        "tags": [op.tag], "description": op.description, "operationId": op.id, "parameters": query, "responses": responses,
    });
    if let Some(body) = &op.body {
        let required = op.method != "delete";
        out["requestBody"] = json!({"content": content(body, &consumed(op))});
        if required {
            out["requestBody"]["required"] = true.into();
        }
    }
    if let Value::Object(map) = &mut out {
        extensions(op, map);
    }
    out
}

/// The item of a path in OpenAPI 2.
pub(super) fn path_v2(item: &PathItem) -> Value {
    let mut out: Map<String, Value> =
        item.operations.iter().map(|op| (op.method.to_owned(), operation_v2(op))).collect();
    let path = item.parameters.iter().map(|name| parameter_v2(name, "path", "string"));
    out.insert("parameters".into(), path.chain([parameter_v2("pretty", "query", "string")]).collect());
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
    if op.creates {
        responses["201"] = json!({"description": "Created", "schema": schema});
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
        "tags": [op.tag], "description": op.description, "operationId": op.id, "schemes": ["https"], "parameters": parameters,
        "consumes": consumed(op), "produces": produced(op),
        "responses": responses,
    });
    if let Value::Object(map) = &mut out {
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
        "sendInitialEvents" => "With watch: start with the objects there are, and a bookmark after them.",
        "timeoutSeconds" => "Limits the duration of the call.",
        "watch" => "Watch for changes and return them as a stream of notifications.",
        "gracePeriodSeconds" => "Seconds before the object is deleted. Zero means at once.",
        "orphanDependents" => "Deprecated: use propagationPolicy.",
        "propagationPolicy" => "Whether and how garbage collection is performed: Orphan, Background or Foreground.",
        _ => "",
    }
}
