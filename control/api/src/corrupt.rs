//! Stored objects that cannot be read: sealed under a key that is not here, or no objects at all. Upstream calls them
//! corrupt (`apiserver/pkg/storage/etcd3/corrupt_obj_deleter.go`, KEP-3926).
//!
//! Invariants
//! - No answer shows such an object, nor a list without it: reading it, and each list that it belongs to, is an error that
//!   names its key. A watch ends with that error.
//! - What is looked at is the first byte; objects are not parsed for this.

use std::sync::Arc;

use bytes::Bytes;
use kontiki_machinery::GroupResource;
use kontiki_machinery::status::{StatusCause, StatusDetails};
use kontiki_store::Entry;

use crate::Status;

/// Objects that one answer names.
const MAX_NAMED: usize = 100;

/// What is wrong with a stored object; `None` if it may be read.
fn wrong(entry: &Entry) -> Option<String> {
    let why = kontiki_cache::unreadable(&entry.value)?;
    let why = format!("data from the storage is not transformable revision={}: {why}", entry.mod_revision);
    Some(storage_error(("corrupt object", 7), &entry.key, &why))
}

/// The text of upstream's `StorageError`: what it is, and its code.
pub(crate) fn storage_error((what, code): (&str, u8), key: &Bytes, more: &str) -> String {
    let key = String::from_utf8_lossy(key);
    format!("StorageError: {what}, Code: {code}, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: {more}")
}

fn cause(entry: &Entry) -> Option<StatusCause> {
    let message = wrong(entry)?;
    let field = String::from_utf8_lossy(&entry.key).into_owned();
    Some(StatusCause { reason: "UnexpectedServerResponse".into(), message, field })
}

/// Whether an object cannot be read.
pub(crate) fn is_corrupt(entry: &Entry) -> bool {
    kontiki_cache::unreadable(&entry.value).is_some()
}

/// 500 if an object cannot be read.
pub(crate) fn check(entry: &Entry) -> Result<(), Status> {
    wrong(entry).map_or(Ok(()), |why| Err(Status::internal(why)))
}

/// The objects of one list that cannot be read.
#[derive(Default)]
pub(crate) struct Corrupt(Vec<StatusCause>);

impl Corrupt {
    /// Those of `entries` that cannot be read.
    pub fn among(entries: &[Arc<Entry>]) -> Self {
        let mut corrupt = Self::default();
        corrupt.0.extend(entries.iter().filter_map(|entry| cause(entry)).take(MAX_NAMED));
        corrupt
    }

    /// Whether an object can be read; one that cannot is noted.
    pub fn admits(&mut self, entry: &Entry) -> bool {
        let found = cause(entry);
        let readable = found.is_none();
        self.0.extend(found);
        readable
    }

    /// Whether as many are noted as are named.
    pub fn is_full(&self) -> bool {
        self.0.len() >= MAX_NAMED
    }

    /// 500 if any was noted: there is no list without them.
    pub fn judge(mut self, resource: GroupResource<'_>) -> Result<(), Status> {
        let Some(first) = self.0.first() else { return Ok(()) };
        let mut message = format!("failed to read one or more {resource} from the storage: {}", first.message);
        match self.0.len() - 1 {
            0 => {}
            more => message.push_str(&format!(" (and {more} more)")),
        }
        if self.is_full() {
            let message = "too many errors, the list is truncated".to_owned();
            self.0.push(StatusCause { reason: "FieldValueTooMany".into(), message, field: String::new() });
        }
        let details = StatusDetails {
            name: "list".into(),
            group: resource.group.into(),
            kind: resource.resource.into(),
            causes: self.0,
            ..StatusDetails::default()
        };
        Err(Status::failure(500, "StoreReadError", message).with_details(details))
    }
}

#[cfg(test)]
mod tests {
    use kontiki_store::Revision;

    use super::*;

    fn entry(number: usize, value: &'static [u8]) -> Entry {
        Entry {
            key: format!("/registry/core/secrets/a/{number}").into(),
            value: Bytes::from_static(value),
            create_revision: Revision(1),
            mod_revision: Revision(7),
            version: 1,
            expires: None,
            lease: 0,
        }
    }

    const SECRETS: GroupResource<'static> = GroupResource { group: "", resource: "secrets" };

    #[test]
    fn what_is_no_object_is_told_by_its_first_byte() {
        for (value, readable) in [
            (&b"{}"[..], true),
            (b" \n{\"a\": 1}", true),
            (b"\0\x01\0\0\0\x07nonce", false),
            (b"\0\x01", false),
            (b"k8s\0protobuf", false),
            (b"", false),
        ] {
            let entry = entry(0, value);
            assert_eq!((check(&entry).is_ok(), !is_corrupt(&entry)), (readable, readable), "{value:?}");
        }
        let said = check(&entry(3, b"\0\x01\0\0\0\x07nonce")).expect_err("sealed").message;
        for part in
            ["StorageError: corrupt object, Code: 7, Key: /registry/core/secrets/a/3,", "revision=7", "data key 7"]
        {
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn a_list_names_what_it_cannot_show() {
        for (good, bad, causes, more) in
            [(3, 0, 0, ""), (0, 1, 1, ""), (2, 3, 3, " (and 2 more)"), (0, 100, 101, " (and 99 more)")]
        {
            let mut corrupt = Corrupt::default();
            let objects =
                (0..good).map(|at| entry(at, b"{}")).chain((0..bad).map(|at| entry(at, b"\0\x01\0\0\0\x01x")));
            let shown = objects.filter(|entry| corrupt.admits(entry)).count();
            assert_eq!((shown, corrupt.is_full()), (good, bad >= MAX_NAMED));
            let said = corrupt.judge(SECRETS).err().unwrap_or_default();
            assert_eq!((said.code, &*said.reason), if bad == 0 { (0, "") } else { (500, "StoreReadError") });
            let named = said.details.unwrap_or_default().causes;
            assert_eq!((named.len(), said.message.ends_with(more)), (causes, true), "{}", said.message);
        }
    }
}
