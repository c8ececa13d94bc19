//! The cluster as steps of admission see it: a snapshot. What they rely on goes into the transaction as a compare.

use jiff::Timestamp;
use kontiki_machinery::GroupResource;
use kontiki_machinery::admission::{Guard, Lookup};
use kontiki_model::{ObjectKey, key};
use kontiki_store::{Compare, Snapshot};
use serde_json::Value;

use crate::pipeline::memo::Memo;
use crate::{Api, Status};

/// A snapshot, and what was relied on in it.
pub(crate) struct Seen<'a> {
    pub api: &'a Api,
    pub state: &'a Snapshot,
    pub compares: &'a mut Vec<Compare>,
    pub memo: &'a mut Memo,
}

impl Lookup for Seen<'_> {
    fn object(
        &mut self,
        resource: GroupResource<'_>,
        namespace: Option<&str>,
        name: &str,
        guard: Guard,
    ) -> Result<Option<Value>, Status> {
        let key = ObjectKey::new(resource, namespace, name).encode();
        let Some(entry) = self.state.get(&key) else { return Ok(None) };
        self.compares.push(match guard {
            Guard::Present => Compare::present(key),
            Guard::Unchanged => Compare::unchanged(key, entry.mod_revision),
        });
        serde_json::from_slice(&entry.value).map(Some).map_err(Status::internal)
    }

    fn objects(&self, resource: GroupResource<'_>) -> Result<Vec<Value>, Status> {
        let found = self.state.range(key::prefix(resource, None).as_bytes());
        found.map(|entry| serde_json::from_slice(&entry.value).map_err(Status::internal)).collect()
    }

    fn random(&mut self) -> u64 {
        self.memo.draw(self.api.entropy())
    }

    fn now(&self) -> Timestamp {
        self.memo.now
    }
}
