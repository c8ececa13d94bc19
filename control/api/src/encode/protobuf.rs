//! Answers in protobuf, from the stored bytes by the type's plan.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use kontiki_machinery::encode::EncodeError;
use kontiki_machinery::encode::protobuf::{self as wire, ListMeta, Shape as Plan};
use kontiki_machinery::{ResourceDef, Status};
use kontiki_store::{Entry, Revision};
use serde_json::Value;

use super::response::{GZIP_FROM, PIECE, size};
use super::shape::meta_version;
use crate::call::{Call, List, Object};
use crate::negotiate::Shape;

/// The version of types that name none.
const NO_VERSION: &str = "v1";

/// What objects of a kind become.
#[derive(Clone)]
pub(crate) struct Form {
    plan: Plan,
    api_version: String,
    kind: String,
}

impl Form {
    /// Objects of `def` in a shape.
    ///
    /// # Errors
    /// 406 if it has no protobuf form.
    pub fn of(def: &ResourceDef, shape: &Shape) -> Result<Self, Status> {
        let (plan, api_version, kind) = match shape {
            Shape::Full => (Plan::of(def.schema.name()), def.api_version(), def.kind.to_string()),
            Shape::Partial(version) | Shape::PartialList(version) | Shape::Table(version) => {
                (Plan::partial(), meta_version(version), "PartialObjectMetadata".to_owned())
            }
        };
        Ok(Self { plan: plan.ok_or_else(none)?, api_version, kind })
    }

    /// The enveloped object.
    pub fn object(&self, json: &[u8], revision: Option<Revision>) -> Result<Vec<u8>, EncodeError> {
        let mut out = Vec::with_capacity(json.len());
        self.write(json, revision, &mut out)?;
        Ok(out)
    }

    /// A watch event about the object.
    pub fn event(&self, event: &str, json: &[u8], revision: Option<Revision>) -> Result<Vec<u8>, EncodeError> {
        wire::frame(event, |out| self.write(json, revision, out))
    }

    fn write(&self, json: &[u8], revision: Option<Revision>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let version = revision.map(|revision| revision.to_string());
        wire::envelope((&self.api_version, &self.kind), out, |out| self.plan.write(json, version.as_deref(), out))
    }
}

fn none() -> Status {
    Status::not_acceptable(&[crate::negotiate::JSON, crate::negotiate::YAML])
}

/// An answer of one object.
pub(super) fn object(def: &ResourceDef, object: &Object, shape: &Shape) -> Result<Bytes, Status> {
    let (json, revision) = match object {
        Object::Stored { bytes, revision, .. } => (bytes.clone(), Some(*revision)),
        Object::Built(built) if *shape == Shape::Full => return value(built),
        Object::Built(_) => (object.json(), None),
    };
    Ok(Form::of(def, shape)?.object(&json, revision).map_err(Status::internal)?.into())
}

/// A value that names its type.
pub(super) fn value(value: &Value) -> Result<Bytes, Status> {
    let form = form_of(value).ok_or_else(none)?;
    Ok(form.object(value.to_string().as_bytes(), None).map_err(Status::internal)?.into())
}

/// A watch event about a value that names its type.
pub(super) fn value_event(event: &str, value: &Value) -> Option<Bytes> {
    Some(form_of(value)?.event(event, value.to_string().as_bytes(), None).ok()?.into())
}

fn form_of(value: &Value) -> Option<Form> {
    let text = |field: &str| value[field].as_str().unwrap_or_default();
    let api_version = if text("apiVersion").is_empty() { NO_VERSION } else { text("apiVersion") };
    let plan = Plan::of_kind(api_version, text("kind"))?;
    Some(Form { plan, api_version: api_version.to_owned(), kind: text("kind").to_owned() })
}

/// The pieces of a list, and how many bytes they are.
pub(super) async fn list(
    call: &Call,
    list: List,
    shape: &Shape,
) -> Result<(impl Iterator<Item = Bytes> + Send + 'static + use<>, usize), Status> {
    let (def, form) = (Arc::clone(&call.def), Form::of(&call.def, shape)?);
    let large = size(&list.items) >= GZIP_FROM;
    let write = move || pieces(&def, &list, &form);
    // Long ones would keep others waiting.
    if large { tokio::task::spawn_blocking(write).await.map_err(Status::internal)? } else { write() }
}

fn pieces(
    def: &ResourceDef,
    list: &List,
    form: &Form,
) -> Result<(impl Iterator<Item = Bytes> + Send + 'static + use<>, usize), Status> {
    let (mut done, mut piece) = (Vec::new(), Vec::with_capacity(PIECE + 4096));
    for entry in &list.items {
        let json = shown(def, entry).map_err(Status::internal)?;
        let version = entry.mod_revision.to_string();
        let write = |out: &mut Vec<u8>| form.plan.write(&json, Some(&version), out);
        wire::list_item(&mut piece, write).map_err(Status::internal)?;
        if piece.len() >= PIECE {
            done.push(Bytes::from(std::mem::replace(&mut piece, Vec::with_capacity(PIECE + 4096))));
        }
    }
    done.push(piece.into());
    let items = done.iter().map(Bytes::len).sum();
    let version = list.revision.to_string();
    let meta = ListMeta { version: &version, continue_token: &list.continue_token, remaining: list.remaining };
    let kind = format!("{}List", form.kind);
    let (opening, tail) = wire::list_ends((&form.api_version, &kind), &meta, items);
    let total = opening.len() + items + tail.len();
    let pieces = std::iter::once(opening.into()).chain(done).chain([Bytes::from_static(tail)]);
    Ok((pieces, total))
}

/// A list of objects that were made for this answer: it has no version.
pub(super) fn made(def: &ResourceDef, items: &[Value], shape: &Shape) -> Result<Bytes, Status> {
    let (form, mut body) = (Form::of(def, shape)?, Vec::new());
    for item in items {
        let json = item.to_string();
        let write = |out: &mut Vec<u8>| form.plan.write(json.as_bytes(), None, out);
        wire::list_item(&mut body, write).map_err(Status::internal)?;
    }
    let kind = format!("{}List", form.kind);
    let (mut out, tail) = wire::list_ends((&form.api_version, &kind), &ListMeta::default(), body.len());
    out.extend(body);
    out.extend_from_slice(tail);
    Ok(out.into())
}

/// A stored object as `def` shows it, in JSON without its version.
pub(crate) fn shown<'a>(def: &ResourceDef, entry: &'a Entry) -> Result<Cow<'a, [u8]>, serde_json::Error> {
    if !def.is_view() {
        return Ok(Cow::Borrowed(&entry.value));
    }
    Ok(Cow::Owned(kontiki_cache::served(def, &entry.value)?.to_string().into_bytes()))
}
