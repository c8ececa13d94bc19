//! Watch events into bytes, in the form that a client asked for: lines of JSON, frames of protobuf, items of CBOR.
//!
//! What all who watch in one form get alike is made once for an event ([`Change::line`]). A row of a Table tells an age,
//! so it is put together anew, from cells that are kept.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use kontiki_cache::{Change, Object, Shown};
use kontiki_machinery::encode::cbor;
use kontiki_machinery::table::{self, Cells};
use kontiki_machinery::{ResourceDef, Status};
use kontiki_store::{Entry, Revision};
use serde_json::{Value, json};

use super::list::{Rows, table_opening, write_partial};
use super::protobuf::{self, shown as json_of};
use super::shape::{Include, list_metadata, meta_version, partial};
use crate::clock::Clock;
use crate::negotiate::{Form, Media, Shape};
use crate::object::{set_resource_version, splice_into};

/// Turns events into the client's form.
pub(crate) struct Encoder {
    def: Arc<ResourceDef>,
    clock: Arc<dyn Clock>,
    form: Form,
    /// Of protobuf.
    protobuf: Option<protobuf::Form>,
    rows: Rows,
    /// Only the first Table of a stream has column definitions.
    first: bool,
}

impl Encoder {
    pub fn new(def: Arc<ResourceDef>, clock: Arc<dyn Clock>, form: Form, include: Include) -> Result<Self, Status> {
        let protobuf = (form.media == Media::Protobuf).then(|| protobuf::Form::of(&def, &form.shape)).transpose()?;
        let version = if let Shape::Table(version) = &form.shape { meta_version(version) } else { String::new() };
        Ok(Self { def, clock, form, protobuf, rows: Rows { include, version }, first: true })
    }

    /// Whether objects are shown by their cells.
    pub fn wants_cells(&self) -> bool {
        matches!(self.form.shape, Shape::Table(_))
    }

    /// `None` if the object cannot be read; such an object was not written by the API.
    pub fn change(&mut self, shown: Shown, change: &Change) -> Option<Bytes> {
        let (object, revision) = (change.shown(shown)?, change.revision);
        match self.shared_as(object) {
            Some(form) => change.line(shown, form, || self.plain(shown, object.entry(), Some(object), revision)),
            None => self.event(shown, object.entry(), Some(object), revision),
        }
    }

    /// An event about an object; `known` is what is kept of it.
    pub fn event(
        &mut self,
        shown: Shown,
        entry: &Entry,
        known: Option<&Arc<Object>>,
        revision: Revision,
    ) -> Option<Bytes> {
        match &self.form.shape {
            Shape::Table(version) => {
                let cells = match known.and_then(|object| object.cells(&self.def)) {
                    Some(cells) => cells,
                    None => Arc::new(Cells::of(&self.def, &kontiki_cache::served(&self.def, &entry.value).ok()?)),
                };
                let version = version.clone();
                let json = self.json(entry, known)?;
                self.row(word(shown), &version, &cells, &json, revision)
            }
            _ => self.plain(shown, entry, known, revision),
        }
    }

    /// The object as the row shows it, without its version.
    fn json<'a>(&self, entry: &'a Entry, known: Option<&Arc<Object>>) -> Option<Cow<'a, [u8]>> {
        if known.is_some_and(|object| object.is_as_stored(&self.def)) {
            return Some(Cow::Borrowed(&entry.value));
        }
        json_of(&self.def, entry).ok()
    }

    /// The number under which others get the very same; `None`: nobody does.
    fn shared_as(&self, object: &Object) -> Option<usize> {
        if self.def.is_view() && !(self.form.media == Media::Json && object.is_as_stored(&self.def)) {
            return None;
        }
        let media = match self.form.media {
            Media::Json => 0,
            Media::Protobuf => 1,
            Media::Cbor => 2,
            Media::Yaml => return None,
        };
        match &self.form.shape {
            Shape::Full => Some(media),
            Shape::Partial(version) | Shape::PartialList(version) if version == "v1" => Some(media + 3),
            _ => None,
        }
    }

    /// A whole object or its metadata.
    fn plain(&self, shown: Shown, entry: &Entry, known: Option<&Arc<Object>>, revision: Revision) -> Option<Bytes> {
        let (word, json) = (word(shown), self.json(entry, known)?);
        if let Some(form) = &self.protobuf {
            return form.event(word, &json, Some(revision)).ok().map(Bytes::from);
        }
        if self.form.media == Media::Cbor {
            let mut object = serde_json::from_slice(&json).ok()?;
            set_resource_version(&mut object, Some(revision));
            return Some(self.item(word, object));
        }
        Some(line(word, json.len(), |out| match &self.form.shape {
            Shape::Partial(version) | Shape::PartialList(version) => {
                write_partial(out, &json, revision, &meta_version(version));
            }
            _ => splice_into(out, &json, revision),
        }))
    }

    /// A CBOR item.
    fn item(&self, word: &str, object: Value) -> Bytes {
        let bytes = match &self.form.shape {
            Shape::Partial(version) | Shape::PartialList(version) => cbor::object(&partial(version, &object), None),
            _ => cbor::object(&object, Some(&self.def.schema)),
        };
        cbor::event(word, &bytes).into()
    }

    fn row(&mut self, word: &str, version: &str, cells: &Cells, json: &[u8], revision: Revision) -> Option<Bytes> {
        let columns = std::mem::take(&mut self.first);
        let metadata = list_metadata(Some(&revision.to_string()), "", None);
        let (opening, now) = (table_opening(&self.def, metadata, version, columns), self.clock.now());
        Some(line(word, json.len() + opening.len(), |out| {
            out.extend_from_slice(opening.as_bytes());
            self.rows.write(out, cells, now, json, revision);
            out.extend_from_slice(b"]}");
        }))
    }

    /// That the client has seen everything up to a version. In a Table it is a row like any other.
    pub fn bookmark(&mut self, at: Revision, initial_done: bool) -> Option<Bytes> {
        let mut object = json!({"kind": self.def.kind, "apiVersion": self.def.api_version(), "metadata": {}});
        if initial_done {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let json = object.to_string();
        match (&self.form.shape, &self.protobuf) {
            (Shape::Table(version), _) => {
                let (version, cells) = (version.clone(), Cells::of(&self.def, &object));
                self.row(BOOKMARK, &version, &cells, json.as_bytes(), at)
            }
            (_, Some(form)) => form.event(BOOKMARK, json.as_bytes(), Some(at)).ok().map(Bytes::from),
            (shape, None) => {
                set_resource_version(&mut object, Some(at));
                match (shape, self.form.media) {
                    (_, Media::Cbor) => Some(self.item(BOOKMARK, object)),
                    (Shape::Partial(version) | Shape::PartialList(version), _) => {
                        Some(json_line(BOOKMARK, &table::partial(&object, &meta_version(version))))
                    }
                    _ => Some(json_line(BOOKMARK, &object)),
                }
            }
        }
    }

    /// Why there are no more events.
    pub fn failure(&self, status: &Status) -> Option<Bytes> {
        let value = serde_json::to_value(status).ok()?;
        match self.form.media {
            Media::Protobuf => protobuf::value_event(ERROR, &value),
            Media::Cbor => Some(cbor::event(ERROR, &cbor::object(&value, None)).into()),
            Media::Json | Media::Yaml => Some(json_line(ERROR, &value)),
        }
    }
}

const BOOKMARK: &str = "BOOKMARK";
const ERROR: &str = "ERROR";

fn word(shown: Shown) -> &'static str {
    match shown {
        Shown::Added => "ADDED",
        Shown::Modified => "MODIFIED",
        Shown::Deleted => "DELETED",
    }
}

fn json_line(kind: &str, object: &Value) -> Bytes {
    let text = object.to_string();
    line(kind, text.len(), |out| out.extend_from_slice(text.as_bytes()))
}

fn line(kind: &str, size: usize, write: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::with_capacity(size + 96);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    write(&mut out);
    out.extend_from_slice(b"}\n");
    out.freeze()
}
