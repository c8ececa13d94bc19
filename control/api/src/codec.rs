//! Bodies into objects: format, type, unknown fields, canonical form, defaults.

use std::sync::Arc;

use kontiki_machinery::decode::{
    DecodeError, Decoded, Findings, decode_cbor, decode_json, decode_protobuf, decode_yaml,
};
use kontiki_machinery::schema::structural::Structural;
use kontiki_machinery::schema::{self, Schema};
use kontiki_machinery::{FieldError, GroupVersionKind, ResourceDef, apply};
use serde_json::{Value, json};

use crate::Status;
use crate::call::{Call, Input};
use crate::negotiate::{Media, body_media};
use crate::object::{meta_str, metadata_mut};
use crate::params::FieldValidation;

const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

/// The type that a request's body has to be of.
pub(crate) struct Wanted {
    pub gvk: GroupVersionKind,
    pub schema: Schema,
    /// Whether it is the resource's own type, which has defaults.
    own: bool,
    /// An earlier `apiVersion` that is taken for it.
    earlier: Option<&'static str>,
}

fn gvk(group: &str, version: &str, kind: &str) -> GroupVersionKind {
    GroupVersionKind { group: group.into(), version: version.into(), kind: kind.into() }
}

/// The resource's own type.
fn own(def: &ResourceDef) -> Wanted {
    Wanted { gvk: gvk(&def.group, &def.version, &def.kind), schema: def.schema.clone(), own: true, earlier: None }
}

/// The type that the body of `call` has to be of.
pub(crate) fn wanted(call: &Call) -> Wanted {
    let (def, sub) = (&call.def, call.sub.as_deref());
    if let Some(sub) = sub
        && let Some(schema) = sub.handler.schema()
    {
        return Wanted {
            gvk: gvk(&sub.group, &sub.version, &sub.kind),
            schema: schema.clone(),
            own: false,
            earlier: sub.handler.earlier_version(),
        };
    }
    own(def)
}

fn decode(input: &Input) -> Result<Result<Decoded, DecodeError>, Status> {
    match input {
        Input::Bytes { content_type, data } => Ok(match body_media(content_type.as_deref())? {
            Media::Json => decode_json(data),
            Media::Yaml => decode_yaml(data),
            Media::Protobuf => decode_protobuf(data),
            Media::Cbor => decode_cbor(data),
        }),
        Input::Value(value) => {
            let bytes = serde_json::to_vec(value).map_err(Status::internal)?;
            Ok(decode_json(&bytes))
        }
    }
}

/// The object in the body of a create or update: checked, in canonical form, with its defaults.
pub(crate) fn decode_object(call: &mut Call, input: Input, validation: FieldValidation) -> Result<Value, Status> {
    let wanted = wanted(call);
    if let Input::Value(mut value) = input {
        // From this process: unknown fields are dropped, wrong types are still refused.
        finish(&call.def, &wanted, &mut value)?;
        return Ok(value);
    }
    let unrecognized = |error: DecodeError| Status::unrecognized(&wanted.gvk.kind, error);
    let decoded = decode(&input)?.and_then(Decoded::into_object).map_err(unrecognized)?;
    let fits = check_type(&decoded, &wanted);
    if fits.is_err()
        && let Some((gvk, schema)) = other_version(call, &decoded, &wanted)
    {
        // What such an object says is read before its version is looked at.
        let kind = &wanted.gvk.kind;
        let refuse = |detail: String| Status::undecodable(&gvk.kind, &gvk.version, kind, detail);
        judge(call, decoded.findings(&schema, &schema.check(&decoded.value)), validation, refuse)?;
    }
    fits?;
    let problems = wanted.schema.check(&decoded.value);
    let findings = decoded.findings(&wanted.schema, &problems);
    if let Some(error) = problems.error {
        return Err(undecodable(&wanted, error));
    }
    let mut value = decoded.value;
    settle(&call.def, &wanted, &mut value);
    judge(call, findings, validation, |detail| undecodable(&wanted, detail))?;
    Ok(value)
}

fn undecodable(wanted: &Wanted, detail: impl std::fmt::Display) -> Status {
    Status::undecodable(&wanted.gvk.kind, &wanted.gvk.version, &wanted.gvk.kind, detail)
}

/// Refuses or warns, as `fieldValidation` says.
pub(crate) fn judge(
    call: &mut Call,
    findings: Findings,
    validation: FieldValidation,
    refuse: impl FnOnce(String) -> Status,
) -> Result<(), Status> {
    match (validation, findings.strict_error()) {
        (FieldValidation::Ignore, _) | (_, None) => Ok(()),
        (FieldValidation::Strict, Some(text)) => Err(refuse(text)),
        (FieldValidation::Warn, Some(_)) => {
            call.warnings.extend(findings.warnings());
            Ok(())
        }
    }
}

fn check_type(decoded: &Decoded, wanted: &Wanted) -> Result<(), Status> {
    let (version, kind) = decoded.type_meta().map_err(|e| Status::unrecognized(&wanted.gvk.kind, e))?;
    let own = wanted.gvk.api_version();
    let kind = if kind.is_empty() { &wanted.gvk.kind } else { kind };
    let version = if version.is_empty() { &own } else { version };
    let fits = version == own || wanted.earlier.is_some_and(|earlier| version == earlier);
    if kind == wanted.gvk.kind && fits {
        return Ok(());
    }
    let got = GroupVersionKind::new(version, kind);
    if wanted.schema.structural().is_some() {
        return Err(other_type(decoded, wanted, version, &got));
    }
    let detail = format!("no kind \"{kind}\" is registered for version \"{version}\" as a {}", wanted.gvk.kind);
    Err(Status::undecodable(kind, &got.version, &wanted.gvk.kind, detail))
}

/// The type of an object that is of another version of a kind that came at run time. Of a version that is not served
/// nothing is known.
fn other_version(call: &Call, decoded: &Decoded, wanted: &Wanted) -> Option<(GroupVersionKind, Schema)> {
    wanted.schema.structural()?;
    let (version, kind) = decoded.type_meta().ok()?;
    let gvk = GroupVersionKind::new(version, kind);
    if gvk.group != wanted.gvk.group || gvk.kind != wanted.gvk.kind || gvk.version == wanted.gvk.version {
        return None;
    }
    let table = call.api.registry().table();
    let known = table.find_kind(&gvk.group, &gvk.version, &gvk.kind).map(|def| def.schema.clone());
    let nothing = || Schema::custom("", Structural::new(Arc::new(|| json!({"type": "object"}))), 0);
    Some((gvk, known.unwrap_or_else(nothing)))
}

/// Of a kind that came at run time anything is read, and then compared.
fn other_type(decoded: &Decoded, wanted: &Wanted, version: &str, got: &GroupVersionKind) -> Status {
    let own = wanted.gvk.api_version();
    if version != own {
        let text = format!("the API version in the data ({version}) does not match the expected API version ({own})");
        return Status::bad_request(text);
    }
    let error = FieldError::invalid("kind", got.kind.as_str(), format!("must be {}", wanted.gvk.kind));
    Status::invalid(&wanted.gvk.group, &got.kind, meta_str(&decoded.value, "name"), &[error])
}

/// Types, canonical form, type names, defaults.
fn finish(def: &ResourceDef, wanted: &Wanted, value: &mut Value) -> Result<(), Status> {
    if let Some(error) = wanted.schema.check(value).error {
        return Err(undecodable(wanted, error));
    }
    settle(def, wanted, value);
    Ok(())
}

/// The same for what the request brings, which need not be of the resource's own type.
pub(crate) fn settle_sent(call: &Call, value: &mut Value) -> Result<(), Status> {
    finish(&call.def, &wanted(call), value)
}

/// Brings an object of the right type into canonical form and gives it its defaults.
pub(crate) fn settle(def: &ResourceDef, wanted: &Wanted, value: &mut Value) {
    apply::keep_reset(value);
    match wanted.own {
        true => def.normalize(value),
        false => wanted.schema.normalize(value),
    }
    value["apiVersion"] = wanted.gvk.api_version().into();
    value["kind"] = wanted.gvk.kind.as_str().into();
    if wanted.own {
        def.strategy.default(value);
    }
}

/// DeleteOptions from a body. Any group's version of them will do.
pub(crate) fn decode_delete_options(input: Input) -> Result<Value, Status> {
    let bad = |error: DecodeError| Status::bad_request(error.to_string());
    let decoded = decode(&input)?.and_then(Decoded::into_object).map_err(bad)?;
    let (version, kind) = decoded.type_meta().map_err(bad)?;
    if !matches!(kind, "" | "DeleteOptions") {
        let text = format!("no kind \"{kind}\" is registered for version \"{version}\" in scheme \"kontiki\"");
        return Err(Status::bad_request(text));
    }
    let mut value = decoded.value;
    let schema =
        schema::get(DELETE_OPTIONS).ok_or_else(|| Status::internal("DeleteOptions are not in the registry"))?;
    if let Some(error) = schema.check(&value).error {
        return Err(Status::bad_request(error.to_string()));
    }
    schema.normalize(&mut value);
    Ok(value)
}

impl Call {
    /// The namespace of the request goes into the object; another one there is an error.
    pub fn fit_namespace(&self, object: &mut Value) -> Result<(), Status> {
        let own = meta_str(object, "namespace").to_owned();
        let metadata = metadata_mut(object);
        match self.namespace() {
            None => {
                metadata.remove("namespace");
            }
            Some(namespace) if own.is_empty() || own == namespace => {
                metadata.insert("namespace".into(), namespace.into());
            }
            Some(_) => {
                let text = "the namespace of the provided object does not match the namespace sent on the request";
                return Err(Status::bad_request(text));
            }
        }
        Ok(())
    }
}
