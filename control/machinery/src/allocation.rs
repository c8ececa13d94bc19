//! What there is only one of (addresses, ports), taken and given back with the object that has it.
//!
//! A claim is a text, e.g. `serviceips/10.96.0.7`. The writer of the object stores each as a key of its own, in the
//! same transaction and on condition that nobody has it: no two objects ever hold the same.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::GroupResource;

/// The claims of one object that is being written.
pub struct Pool<'a> {
    /// Whether nobody has a claim, as of the state that the write is decided on.
    free: &'a dyn Fn(&str) -> bool,
    random: &'a mut dyn FnMut() -> u64,
    objects: &'a dyn Fn(GroupResource<'_>) -> Vec<Value>,
    held: BTreeSet<String>,
    wanted: BTreeSet<String>,
    /// Nothing will be written.
    pub dry_run: bool,
}

/// What changes hands.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// Claims to be taken.
    pub taken: Vec<String>,
    /// Claims to be given back.
    pub released: Vec<String>,
}

impl<'a> Pool<'a> {
    /// A pool for an object that holds `held`.
    pub fn new(
        held: BTreeSet<String>,
        free: &'a dyn Fn(&str) -> bool,
        random: &'a mut dyn FnMut() -> u64,
        dry_run: bool,
    ) -> Self {
        Self { free, random, objects: &|_| Vec::new(), held, wanted: BTreeSet::new(), dry_run }
    }

    /// The same pool, with what there is in the cluster as of the same state.
    #[must_use]
    pub fn seeing(self, objects: &'a dyn Fn(GroupResource<'_>) -> Vec<Value>) -> Self {
        Self { objects, ..self }
    }

    /// All objects of a resource: they say what may be taken. They guard nothing.
    #[must_use]
    pub fn objects(&self, resource: GroupResource<'_>) -> Vec<Value> {
        (self.objects)(resource)
    }

    /// Whether the object could have `claim`.
    #[must_use]
    pub fn is_free(&self, claim: &str) -> bool {
        !self.wanted.contains(claim) && (self.held.contains(claim) || (self.free)(claim))
    }

    /// Whether the object has `claim` already.
    #[must_use]
    pub fn holds(&self, claim: &str) -> bool {
        self.held.contains(claim)
    }

    /// The object is to have `claim`.
    pub fn take(&mut self, claim: String) {
        self.wanted.insert(claim);
    }

    /// A number of `range`, at random.
    pub fn pick(&mut self, first: u128, last: u128) -> u128 {
        let width = last.saturating_sub(first).saturating_add(1);
        first + u128::from((self.random)()) % width
    }

    /// What the write has to change.
    #[must_use]
    pub fn settle(self) -> Claims {
        let only = |a: &BTreeSet<String>, b: &BTreeSet<String>| a.difference(b).cloned().collect();
        Claims { taken: only(&self.wanted, &self.held), released: only(&self.held, &self.wanted) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changes_hands_is_told() {
        let set = |claims: &[&str]| claims.iter().map(|claim| (*claim).to_owned()).collect::<BTreeSet<_>>();
        let free = |claim: &str| claim != "c";
        let mut random = || 7;
        let mut pool = Pool::new(set(&["a", "b"]), &free, &mut random, false);
        assert!(pool.is_free("a") && pool.is_free("d") && !pool.is_free("c"));
        assert_eq!((pool.pick(1, 3), pool.pick(0, u128::MAX)), (2, 7));
        for claim in ["a", "d"] {
            pool.take(claim.into());
            assert!(!pool.is_free(claim), "wanted already");
        }
        assert_eq!(pool.settle(), Claims { taken: vec!["d".into()], released: vec!["b".into()] });
    }
}
