//! Kinds that CustomResourceDefinitions define: rows of the same table as all others, made of what lies in the store.
//!
//! ```text
//! columns, rules    cells of Tables; x-kubernetes-validations
//!    │
//! strategy          the behaviour that all custom kinds share
//!    │
//! row               a definition as rows, one for each version that is served
//!    │
//! Definitions       follows the definitions
//! ```
//!
//! Invariants
//! - Nothing here knows a kind: a definition says all there is to say.
//! - A row holds the definition's stored bytes, which it shares with the store, and reads the schema when it is first
//!   used. What is at rest is small.
//! - Whatever lies in a definition, making rows of it does not fail: one that says nonsense serves nothing.

mod columns;
mod row;
mod rules;
mod strategy;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use kontiki_machinery::{GroupResource, Registry, ResourceDef, Source};
use kontiki_model::ObjectKey;

/// The resource whose objects define kinds.
pub const DEFINITIONS: GroupResource<'static> =
    GroupResource { group: "apiextensions.k8s.io", resource: "customresourcedefinitions" };

/// Follows the definitions of a cluster, and makes rows of them.
#[derive(Default)]
pub struct Definitions {
    /// What changed since rows were made last, by name.
    noted: Mutex<BTreeMap<String, Option<Bytes>>>,
    /// The rows of each definition, by its name. Whoever makes rows holds it.
    rows: Mutex<BTreeMap<String, Vec<Arc<ResourceDef>>>>,
}

/// What a mutex guards here is whole after each step, also after one that panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Source for Definitions {
    fn follows(&self) -> GroupResource<'static> {
        DEFINITIONS
    }

    fn changed(&self, key: &ObjectKey, stored: Option<Bytes>) {
        lock(&self.noted).insert(key.name.clone(), stored);
    }

    fn settle(&self, registry: &Registry) {
        let mut rows = lock(&self.rows);
        let noted = std::mem::take(&mut *lock(&self.noted));
        if noted.is_empty() {
            return;
        }
        for (name, stored) in noted {
            match stored.map(|stored| row::of(&stored)).filter(|rows| !rows.is_empty()) {
                Some(made) => rows.insert(name, made),
                None => rows.remove(&name),
            };
        }
        let mut all: Vec<Arc<ResourceDef>> = rows.values().flatten().cloned().collect();
        all.sort_by(|a, b| {
            let by_version = || row::rank(&b.version).cmp(&row::rank(&a.version));
            a.group.cmp(&b.group).then_with(by_version).then_with(|| a.plural.cmp(&b.plural))
        });
        registry.replace(|row| row.schema.structural().is_some(), &all);
    }
}

#[cfg(test)]
mod tests;
