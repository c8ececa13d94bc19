//! Objects of kinds that a server outside converts between versions ([`kontiki_machinery::conversion`]).
//!
//! Invariants
//! - Conversion happens at the edge: for a request, or for an event of a watch. The store, the cache and who follows them
//!   see objects as they are stored, and wait for nobody.
//! - A row that nobody outside converts pays for a look at its strategy.
//! - What is to be written is converted to the stored version and back before it is written: what could not be read
//!   again is not stored.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use kontiki_machinery::ResourceDef;
use kontiki_machinery::conversion::{CALL, Conversion, Conversions, NO_WAY};
use kontiki_machinery::outcall::Caller;
use kontiki_store::Entry;
use serde_json::Value;

use crate::deadline::within;
use crate::object::{encode, set_resource_version};
use crate::{Api, Status};

/// How often something is run because it wants to see more objects in other versions: more than it can have versions.
pub(crate) const ROUNDS: usize = 32;

/// An object on its way into the store, where somebody outside had to be asked.
pub(crate) struct Form {
    /// As it is stored.
    pub stored: Bytes,
    /// As it is read from then on, without its version.
    pub read: Value,
}

impl Api {
    fn caller(&self) -> Result<&dyn Caller, Status> {
        self.inner.config.caller.as_deref().ok_or_else(|| Status::internal(NO_WAY))
    }

    /// Entries as if they had been stored in the version of `def`.
    pub(crate) async fn in_version(
        &self,
        def: &ResourceDef,
        mut entries: Vec<Arc<Entry>>,
        deadline: Instant,
    ) -> Result<Vec<Arc<Entry>>, Status> {
        let Some(conversion) = def.strategy.conversion() else { return Ok(entries) };
        let head = head(def);
        for piece in pieces(&entries, |entry| !entry.value.starts_with(&head)) {
            let read = |at: &usize| serde_json::from_slice(&entries[*at].value).map_err(Status::internal);
            let objects = piece.iter().map(read).collect::<Result<Vec<Value>, Status>>()?;
            let converted = self.convert(conversion, objects, &def.api_version(), deadline).await?;
            for (at, object) in piece.into_iter().zip(converted) {
                entries[at] = Arc::new(Entry { value: encode(&object), ..Entry::clone(&entries[at]) });
            }
        }
        Ok(entries)
    }

    /// The same of one entry.
    pub(crate) async fn one_in_version(
        &self,
        def: &ResourceDef,
        entry: Arc<Entry>,
        deadline: Instant,
    ) -> Result<Arc<Entry>, Status> {
        if def.strategy.conversion().is_none() {
            return Ok(entry);
        }
        let converted = Box::pin(self.in_version(def, vec![entry], deadline)).await?;
        Ok(converted.into_iter().next().expect("as many as there were"))
    }

    /// The same for a watch: whoever else watches this version has asked already, or waits for the same answer.
    pub(crate) async fn told_in_version(
        &self,
        def: &ResourceDef,
        entry: &Arc<Entry>,
        deadline: Instant,
    ) -> Result<Arc<Entry>, Status> {
        if def.strategy.conversion().is_none() || entry.value.starts_with(&head(def)) {
            return Ok(Arc::clone(entry));
        }
        let known = self.inner.recent.of(def, entry);
        let convert = || self.one_in_version(def, Arc::clone(entry), deadline);
        within(deadline, Box::pin(known.get_or_try_init(convert))).await?.cloned()
    }

    /// What `object`, in the version of `def`, becomes in the store; `None` if nobody has to be asked for that.
    pub(crate) async fn form(
        &self,
        def: &ResourceDef,
        object: &Value,
        deadline: Instant,
    ) -> Result<Option<Form>, Status> {
        let Some(conversion) = def.strategy.conversion().filter(|_| def.is_converted()) else { return Ok(None) };
        let mut sent = object.clone();
        set_resource_version(&mut sent, None);
        let mut stored = Box::pin(self.one(conversion, sent, &def.storage.api_version, deadline)).await?;
        def.strategy.to_storage(&mut stored);
        let bytes = encode(&stored);
        let mut read = Box::pin(self.one(conversion, stored, &def.api_version(), deadline)).await?;
        def.strategy.from_storage(&mut read);
        Ok(Some(Form { stored: bytes, read }))
    }

    /// Runs what waits for nobody until it has seen all objects in all versions that it wants to see.
    pub(crate) async fn with_conversions<R>(
        &self,
        def: &ResourceDef,
        deadline: Instant,
        mut run: impl FnMut(&Conversions) -> R,
    ) -> Result<R, Status> {
        let known = Conversions::default();
        for _ in 0..ROUNDS {
            let result = run(&known);
            if !self.answer_open(def, &known, deadline).await? {
                return Ok(result);
            }
        }
        Err(too_many())
    }

    /// Answers the open questions about objects of a kind; whether there were any.
    pub(crate) async fn answer_open(
        &self,
        def: &ResourceDef,
        known: &Conversions,
        deadline: Instant,
    ) -> Result<bool, Status> {
        let Some(conversion) = def.strategy.conversion() else { return Ok(false) };
        let open = known.open();
        for (object, desired) in &open {
            let converted = Box::pin(self.one(conversion, object.clone(), desired, deadline)).await?;
            known.answer(object, desired, converted);
        }
        Ok(!open.is_empty())
    }

    async fn one(
        &self,
        conversion: &Conversion,
        object: Value,
        desired: &str,
        deadline: Instant,
    ) -> Result<Value, Status> {
        let converted = self.convert(conversion, vec![object], desired, deadline).await?;
        Ok(converted.into_iter().next().unwrap_or_default())
    }

    async fn convert(
        &self,
        conversion: &Conversion,
        objects: Vec<Value>,
        desired: &str,
        deadline: Instant,
    ) -> Result<Vec<Value>, Status> {
        conversion.convert(self.caller()?, objects, desired, deadline).await.map_err(Status::internal)
    }
}

/// How an entry in the version of `def` begins, if it was written here.
fn head(def: &ResourceDef) -> Vec<u8> {
    format!("{{\"apiVersion\":\"{}\",", def.api_version()).into_bytes()
}

/// Nothing that asks so often comes to an end.
pub(crate) fn too_many() -> Status {
    Status::internal("an object was asked for in too many versions")
}

/// Which of the entries are sent, those of each call together.
fn pieces(entries: &[Arc<Entry>], wanted: impl Fn(&Entry) -> bool) -> Vec<Vec<usize>> {
    let (mut pieces, mut size) = (Vec::<Vec<usize>>::new(), CALL);
    for (at, entry) in entries.iter().enumerate().filter(|(_, entry)| wanted(entry)) {
        size += entry.value.len();
        if size > CALL {
            size = entry.value.len();
            pieces.push(Vec::new());
        }
        pieces.last_mut().expect("one was just made").push(at);
    }
    pieces
}

#[cfg(test)]
mod tests {
    use kontiki_store::Revision;

    use super::*;

    #[test]
    fn entries_are_sent_in_pieces_of_bounded_size() {
        let entry = |size: usize| {
            Arc::new(Entry {
                key: Bytes::new(),
                value: vec![b' '; size].into(),
                create_revision: Revision(1),
                mod_revision: Revision(1),
                version: 1,
                expires: None,
                lease: 0,
            })
        };
        for (what, sizes, expect) in [
            ("nothing", vec![], vec![]),
            ("all in one", vec![1, 2, 3], vec![vec![0, 1, 2]]),
            ("a large one alone", vec![1, 2 * CALL, 1, 1], vec![vec![0], vec![1], vec![2, 3]]),
            ("as many as fit", vec![CALL / 2, CALL / 2, CALL / 2], vec![vec![0, 1], vec![2]]),
            ("what is not wanted", vec![1, 7, 1], vec![vec![0, 2]]),
        ] {
            let entries: Vec<_> = sizes.into_iter().map(entry).collect();
            assert_eq!(pieces(&entries, |entry| entry.value.len() != 7), expect, "{what}");
        }
    }
}
