//! The store as the verbs see it: where objects lie, in which form, and errors that say what to do next.

use bytes::Bytes;
use jiff::Timestamp;
use kontiki_machinery::ResourceDef;
use kontiki_machinery::status::{StatusCause, StatusDetails};
use kontiki_model::{ObjectKey, key};
use kontiki_store::{Compare, Entry, HistoryError, Op, ReadError, WriteError};
use serde_json::Value;

use crate::object;
use crate::{Status, corrupt};

/// What has to hold, and what is written, beside the object itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extra {
    pub compares: Vec<Compare>,
    pub ops: Vec<Op>,
    /// Other objects that are written if they are as they were seen.
    pub along: Vec<Along>,
}

/// Another object that is written.
#[derive(Clone, Debug)]
pub(crate) struct Along {
    pub key: Bytes,
    /// Its value, which the write depends on.
    pub seen: Bytes,
    pub new: Bytes,
}

impl Extra {
    pub fn append(&mut self, mut other: Extra) {
        self.compares.append(&mut other.compares);
        self.ops.append(&mut other.ops);
        self.along.append(&mut other.along);
    }

    /// Both.
    pub fn and(mut self, other: Extra) -> Self {
        self.append(other);
        self
    }
}

pub(crate) fn read_error(error: ReadError) -> Status {
    unavailable(&error)
}

pub(crate) fn write_error(error: WriteError) -> Status {
    match error {
        WriteError::NoLeader | WriteError::Stopped | WriteError::DiskFull => unavailable(&error),
        WriteError::Unknown => {
            Status::timeout("the request may or may not have been done: contact was lost while committing", 1)
        }
        WriteError::Refused(refusal) => Status::internal(refusal.to_string()),
        WriteError::Fenced => Status::failure(409, "Conflict", "the leadership this write belongs to is over"),
        WriteError::TooLarge => Status::too_large("the object does not fit into one transaction"),
    }
}

fn unavailable(error: &dyn std::fmt::Display) -> Status {
    Status::service_unavailable(format!("the cluster state is not available: {error}"))
        .with_details(StatusDetails { retry_after_seconds: 1, ..Default::default() })
}

/// 410 or 504 for a past or future that cannot be shown.
pub(crate) fn history_error(error: HistoryError, asked: u64) -> Status {
    match error {
        HistoryError::Compacted { oldest } => Status::expired(format!("too old resource version: {asked} ({oldest})")),
        HistoryError::Future { current } => too_large_version(asked, current.0),
        HistoryError::Storage(detail) => Status::internal(detail),
    }
}

/// 504: the version asked for has not happened.
pub(crate) fn too_large_version(asked: u64, current: u64) -> Status {
    let cause = StatusCause {
        reason: "ResourceVersionTooLarge".into(),
        message: "Too large resource version".into(),
        ..Default::default()
    };
    let mut status = Status::timeout(format!("Too large resource version: {asked}, current: {current}"), 1);
    if let Some(details) = &mut status.details {
        details.causes.push(cause);
    }
    status
}

/// Where an object of `def` is stored.
pub(crate) fn object_key(def: &ResourceDef, namespace: Option<&str>, name: &str) -> Bytes {
    ObjectKey::new(def.stored_as(), namespace, name).encode()
}

/// Where the objects of `def` are stored.
pub(crate) fn collection_prefix(def: &ResourceDef, namespace: Option<&str>) -> Bytes {
    key::prefix(def.stored_as(), namespace).into()
}

/// The object in its served form, `resourceVersion` included.
pub(crate) fn served(def: &ResourceDef, entry: &Entry) -> Result<Value, Status> {
    corrupt::check(entry)?;
    let mut value = kontiki_cache::served(def, &entry.value).map_err(Status::internal)?;
    object::set_resource_version(&mut value, Some(entry.mod_revision));
    Ok(value)
}

/// The bytes to store for an object in its served form.
pub(crate) fn stored(def: &ResourceDef, object: &Value) -> Bytes {
    if !def.is_view() {
        return object::encode(object);
    }
    let mut value = object.clone();
    def.strategy.to_storage(&mut value);
    value["apiVersion"] = def.storage.api_version.as_ref().into();
    value["kind"] = def.storage.kind.as_ref().into();
    object::encode(&value)
}

/// An object that was written, as it is read from now on: what its stored version does not have is not there.
pub(crate) fn as_read(def: &ResourceDef, object: Value) -> Value {
    if !def.is_converted() {
        return object;
    }
    let version = object::meta_str(&object, "resourceVersion").to_owned();
    match kontiki_cache::served(def, &stored(def, &object)) {
        Ok(mut read) => {
            if !version.is_empty() {
                object::metadata_mut(&mut read).insert("resourceVersion".into(), version.into());
            }
            read
        }
        Err(_) => object,
    }
}

/// The put of an object, with the time at which it is forgotten if its kind has one.
pub(crate) fn put(def: &ResourceDef, key: Bytes, value: Bytes, now: Timestamp) -> Op {
    let expires = def.time_to_live.map(|time| now.as_second().unsigned_abs().saturating_add(time.as_secs()));
    Op::put_until(key, value, expires)
}
