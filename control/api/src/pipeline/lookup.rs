//! The cluster as steps of admission see it: a snapshot. What they rely on goes into the transaction as a compare.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use kontiki_cache::Snapshot;
use kontiki_machinery::access::{Attributes, Rule};
use kontiki_machinery::admission::{Guard, Lookup};
use kontiki_machinery::{GroupResource, ResourceDef};
use kontiki_model::{ObjectKey, key};
use kontiki_store::{Compare, Entry};
use serde_json::Value;

use crate::ledger::Tips;
use crate::object;
use crate::pipeline::memo::Memo;
use crate::state::{Along, Extra};
use crate::{Api, Status, User};

/// A snapshot, and what was relied on in it.
pub(crate) struct Seen<'a> {
    pub api: &'a Api,
    pub state: &'a Snapshot,
    pub extra: &'a mut Extra,
    /// What is under way of objects that are written along.
    pub tips: Option<&'a Tips>,
    pub memo: &'a mut Memo,
}

impl Seen<'_> {
    fn seen(&self, entry: &Entry) -> Bytes {
        self.tips.map_or_else(|| entry.value.clone(), |tips| tips.value(entry, self.state.revision()))
    }
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
        self.extra.compares.push(match guard {
            Guard::Present => Compare::present(key),
            Guard::Unchanged => Compare::unchanged(key, entry.mod_revision),
        });
        serde_json::from_slice(&entry.value).map(Some).map_err(Status::internal)
    }

    fn stored(
        &mut self,
        resource: GroupResource<'_>,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Option<Bytes>, Status> {
        let key = ObjectKey::new(resource, namespace, name).encode();
        let entry = self.state.get(&key);
        self.extra.compares.push(match &entry {
            Some(entry) => Compare::unchanged(key, entry.mod_revision),
            None => Compare::absent(key),
        });
        Ok(entry.map(|entry| entry.value.clone()))
    }

    fn glance(
        &self,
        resource: GroupResource<'_>,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Option<Value>, Status> {
        let entry = self.state.get(&ObjectKey::new(resource, namespace, name).encode());
        entry.map(|entry| serde_json::from_slice(&entry.value).map_err(Status::internal)).transpose()
    }

    fn objects(&self, resource: GroupResource<'_>) -> Result<Vec<Value>, Status> {
        let found = self.state.range(key::prefix(resource, None).as_bytes());
        found.map(|entry| serde_json::from_slice(&entry.value).map_err(Status::internal)).collect()
    }

    fn within(&self, resource: GroupResource<'_>, namespace: &str) -> Result<Vec<Value>, Status> {
        let found = self.state.range(key::prefix(resource, Some(namespace)).as_bytes());
        found.map(|entry| serde_json::from_slice(&self.seen(&entry)).map_err(Status::internal)).collect()
    }

    fn write_along(
        &mut self,
        resource: GroupResource<'_>,
        namespace: Option<&str>,
        name: &str,
        object: &Value,
    ) -> Result<(), Status> {
        let key = ObjectKey::new(resource, namespace, name).encode();
        let entry = self.state.get(&key).ok_or_else(|| Status::not_found(resource, name))?;
        let along = Along { seen: self.seen(&entry), new: object::encode(object), key };
        self.extra.along.push(along);
        Ok(())
    }

    fn allows(&self, user: &User, asked: &Attributes<'_>) -> bool {
        self.api.allowed_at_once(user, asked, self.state)
    }

    fn rules(&self, user: &User, namespace: &str) -> Vec<Rule> {
        self.api.authorizers().iter().flat_map(|member| member.rules(user, namespace)).collect()
    }

    fn shown_as(&self, from: &ResourceDef, to: &ResourceDef, object: &Value) -> Result<Value, Status> {
        if to.strategy.conversion().is_none() || from.api_version() == to.api_version() {
            return Ok(from.shown_as(to, object.clone()));
        }
        let shown = self.memo.conversions.ask(object, &to.api_version());
        let mut shown = shown.ok_or_else(|| Status::internal("the object is not known in this version yet"))?;
        to.strategy.from_storage(&mut shown);
        Ok(shown)
    }

    fn row(&self, group: &str, version: &str, kind: &str) -> Option<Arc<ResourceDef>> {
        self.api.registry().table().find_kind(group, version, kind).cloned()
    }

    fn annotate(&mut self, key: String, value: String) {
        self.memo.annotations.insert(key, value);
    }

    fn random(&mut self) -> u64 {
        self.memo.draw(self.api.entropy())
    }

    fn now(&self) -> Timestamp {
        self.memo.now
    }
}
