//! Lists into bytes, piece by piece from the stored ones, so that memory does not grow with their length; protobuf, whose
//! lengths stand first, is written as a whole.

use std::sync::Arc;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::Response;
use jiff::Timestamp;
use kontiki_cache::Object as Cached;
use kontiki_machinery::encode::cbor;
use kontiki_machinery::table::Cells;
use kontiki_machinery::{ResourceDef, Status, table};
use kontiki_store::{Entry, Revision};
use serde_json::{Value, json};

use super::protobuf;
use super::response::{PIECE, size, sized, stream};
use super::shape::{Include, include_object, list_metadata, meta_version, partial, row, wrong_shape};
use super::value::formatted;
use crate::call::{Call, List};
use crate::negotiate::{Form, Media, Shape};
use crate::object::{decode, encode, list_item_head, splice_into, splice_item_into, splice_metadata_into};
use crate::state::{collection_prefix, served};

pub(super) async fn response(call: &Call, mut list: List, form: &Form, gzip: bool) -> Result<Response<Body>, Status> {
    let def = &*call.def;
    let metadata = list_metadata(Some(&list.revision.to_string()), &list.continue_token, list.remaining);
    let by_bytes = form.media == Media::Json && !form.pretty;
    if by_bytes && def.is_view() {
        list.items = shown(call, list.items)?;
    }
    match &form.shape {
        Shape::Partial(_) => Err(wrong_shape(def, "PartialObjectMetadata", "a list", "List")),
        Shape::Full | Shape::PartialList(_) if form.media == Media::Protobuf => {
            let (pieces, total) = protobuf::list(call, list, &form.shape).await?;
            stream(form.media.name(), pieces, total, gzip).await
        }
        Shape::Full if by_bytes => stream_list(def, list.items, &metadata, gzip).await,
        // Upstream prints an empty one otherwise.
        Shape::PartialList(version) if by_bytes && !list.items.is_empty() => {
            stream_partial(list.items, &metadata, version, gzip).await
        }
        Shape::Table(version) if by_bytes => stream_table(call, list.items, metadata, version, gzip).await,
        shape => sized(form.media.name(), by_value(call, &list, metadata, shape, form)?, gzip).await,
    }
}

/// Entries whose values are what the row shows: those that are stored so as they are, others made anew.
fn shown(call: &Call, items: Vec<Arc<Entry>>) -> Result<Vec<Arc<Entry>>, Status> {
    let def = &call.def;
    let known = match def.is_converted() {
        true => vec![None; items.len()],
        false => call.api.cache().collection(&collection_prefix(def, None)).of(&items),
    };
    let shown = |(entry, known): (Arc<Entry>, Option<Arc<Cached>>)| {
        if known.is_some_and(|object| object.is_as_stored(def)) {
            return Ok(entry);
        }
        Ok(Arc::new(Entry { value: encode(&served(def, &entry)?), ..Entry::clone(&entry) }))
    };
    items.into_iter().zip(known).map(shown).collect()
}

/// A list of objects that were made for this answer: it has no version.
pub(super) async fn made(call: &Call, items: Vec<Value>, form: &Form, gzip: bool) -> Result<Response<Body>, Status> {
    if matches!(form.shape, Shape::Partial(_)) {
        return Err(wrong_shape(&call.def, "PartialObjectMetadata", "a list", "List"));
    }
    let bytes = match (&form.shape, form.media) {
        (shape @ (Shape::Full | Shape::PartialList(_)), Media::Protobuf) => protobuf::made(&call.def, &items, shape)?,
        (shape, _) => of_values(call, items, json!({}), shape, form)?,
    };
    sized(form.media.name(), bytes, gzip).await
}

/// A list in a form for which its objects have to be read.
fn by_value(call: &Call, list: &List, metadata: Value, shape: &Shape, form: &Form) -> Result<Bytes, Status> {
    let items = list.items.iter().map(|entry| served(&call.def, entry)).collect::<Result<Vec<_>, Status>>()?;
    of_values(call, items, metadata, shape, form)
}

fn of_values(call: &Call, items: Vec<Value>, metadata: Value, shape: &Shape, form: &Form) -> Result<Bytes, Status> {
    let def = &*call.def;
    let each = |show: &dyn Fn(Value) -> Value| items.into_iter().map(show).collect::<Vec<Value>>();
    let value = match shape {
        Shape::Full => {
            let kind = def.list_kind.as_ref();
            json!({"kind": kind, "apiVersion": def.api_version(), "metadata": metadata, "items": each(&bare)})
        }
        Shape::Partial(version) | Shape::PartialList(version) => {
            let items = each(&|object| partial(version, &object));
            let empty = items.is_empty();
            let mut value = table::partial_list(items, metadata, &meta_version(version));
            if empty {
                value["items"] = Value::Null; // as upstream prints it
            }
            value
        }
        Shape::Table(version) => {
            let (include, now) = (include_object(&call.params)?, call.api.now());
            let rows = each(&|object| row(def, version, include, &object, now));
            table::table(def, rows, metadata, version, true)
        }
    };
    match (shape, form.media) {
        (Shape::Full, Media::Cbor) => Ok(cbor::list(&value, &def.schema).into()),
        _ => formatted(&value, form),
    }
}

/// Items of a list do not repeat their type.
fn bare(mut item: Value) -> Value {
    if let Some(fields) = item.as_object_mut() {
        fields.remove("apiVersion");
        fields.remove("kind");
    }
    item
}

/// Writes a list item by item, a piece at a time.
struct Pieces<T, W> {
    items: std::vec::IntoIter<T>,
    write: W,
    opening: Option<BytesMut>,
    first: bool,
    done: bool,
}

impl<T, W: FnMut(&mut BytesMut, &T)> Pieces<T, W> {
    /// `opening` is what comes before the first item; a bracket and a brace close what it opens.
    fn new(opening: &str, items: Vec<T>, write: W) -> Self {
        Self { items: items.into_iter(), write, opening: Some(opening.as_bytes().into()), first: true, done: false }
    }
}

impl<T, W: FnMut(&mut BytesMut, &T)> Iterator for Pieces<T, W> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        let mut out = self.opening.take().unwrap_or_else(|| BytesMut::with_capacity(PIECE + 4096));
        while out.len() < PIECE {
            let Some(item) = self.items.next() else {
                out.extend_from_slice(b"]}");
                self.done = true;
                break;
            };
            if !std::mem::take(&mut self.first) {
                out.extend_from_slice(b",");
            }
            (self.write)(&mut out, &item);
        }
        Some(out.freeze())
    }
}

/// Of entries as the row shows them, as all that follow.
async fn stream_list(
    def: &ResourceDef,
    items: Vec<Arc<Entry>>,
    metadata: &Value,
    gzip: bool,
) -> Result<Response<Body>, Status> {
    let api_version = def.api_version();
    let opening = format!(
        "{{\"kind\":\"{}\",\"apiVersion\":\"{api_version}\",\"metadata\":{metadata},\"items\":[",
        def.list_kind
    );
    let (total, head) = (size(&items), list_item_head(&api_version, &def.kind));
    let write = move |out: &mut BytesMut, entry: &Arc<Entry>| {
        splice_item_into(out, &entry.value, entry.mod_revision, &head);
    };
    stream(Media::Json.name(), Pieces::new(&opening, items, write), total, gzip).await
}

async fn stream_partial(
    items: Vec<Arc<Entry>>,
    metadata: &Value,
    version: &str,
    gzip: bool,
) -> Result<Response<Body>, Status> {
    let (total, version) = (size(&items), meta_version(version));
    let opening = format!(
        "{{\"kind\":\"PartialObjectMetadataList\",\"apiVersion\":\"{version}\",\"metadata\":{metadata},\"items\":["
    );
    let write = move |out: &mut BytesMut, entry: &Arc<Entry>| {
        write_partial(out, &entry.value, entry.mod_revision, &version);
    };
    stream(Media::Json.name(), Pieces::new(&opening, items, write), total, gzip).await
}

/// Writes the `PartialObjectMetadata` of a stored object.
pub(super) fn write_partial(out: &mut BytesMut, stored: &[u8], revision: Revision, version: &str) {
    let opening = format!("{{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"{version}\",\"metadata\":");
    out.extend_from_slice(opening.as_bytes());
    splice_metadata_into(out, stored, revision);
    out.extend_from_slice(b"}");
}

/// How rows of a Table are written.
#[derive(Clone)]
pub(super) struct Rows {
    pub include: Include,
    /// Group and version of what rows carry.
    pub version: String,
}

impl Rows {
    /// Writes the row of a stored object.
    pub fn write(&self, out: &mut BytesMut, cells: &Cells, now: Timestamp, stored: &[u8], revision: Revision) {
        out.extend_from_slice(b"{\"cells\":");
        cells.write(now, out).expect("bytes take everything");
        out.extend_from_slice(b",\"object\":");
        match self.include {
            Include::None => out.extend_from_slice(b"null"),
            Include::Metadata => write_partial(out, stored, revision, &self.version),
            Include::Object => splice_into(out, stored, revision),
        }
        out.extend_from_slice(b"}");
    }
}

/// What a Table has before its rows, which `]}` ends.
pub(super) fn table_opening(def: &ResourceDef, metadata: Value, version: &str, columns: bool) -> String {
    let mut opening = table::table(def, Vec::new(), metadata, version, columns).to_string();
    // The rows are its last field, and empty yet.
    opening.truncate(opening.len() - "]}".len());
    opening
}

async fn stream_table(
    call: &Call,
    items: Vec<Arc<Entry>>,
    metadata: Value,
    version: &str,
    gzip: bool,
) -> Result<Response<Body>, Status> {
    let (def, now) = (&call.def, call.api.now());
    let rows = Rows { include: include_object(&call.params)?, version: meta_version(version) };
    let opening = table_opening(def, metadata, version, true);
    let known = call.api.cache().collection(&collection_prefix(def, None)).of(&items);
    let cells = |(entry, known): (Arc<Entry>, Option<Arc<Cached>>)| {
        let cells = match known.and_then(|object| object.cells(def)) {
            Some(cells) => cells,
            None => Arc::new(Cells::of(def, &decode(&entry)?)),
        };
        Ok((entry, cells))
    };
    let total = size(&items);
    let items = items.into_iter().zip(known).map(cells).collect::<Result<Vec<_>, Status>>()?;
    let write = move |out: &mut BytesMut, (entry, cells): &(Arc<Entry>, Arc<Cells>)| {
        rows.write(out, cells, now, &entry.value, entry.mod_revision);
    };
    stream(Media::Json.name(), Pieces::new(&opening, items, write), total, gzip).await
}
