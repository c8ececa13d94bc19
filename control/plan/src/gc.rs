//! Garbage collection by owner references: background, foreground, orphan.
//!
//! Invariants
//! - An object goes only when *none* of its owners is left. An owner is absent when its uid is not
//!   in a cache that shows everything at one revision, never because a name is taken by another.
//! - An owner of a kind that is not served here is taken to exist.
//! - A cycle of foreground deletions does not block itself, nor does an object that owns itself.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kontiki_model::ObjectKey;
use serde_json::{Value, json};

use crate::action::{Action, DeleteHow, Patch, Plan, Propagation, to_value};

/// Finalizer: dependents lose their owner before it goes.
pub const ORPHAN: &str = "orphan";
/// Finalizer: dependents that block go before their owner.
pub const FOREGROUND: &str = "foregroundDeletion";

/// One object of any kind.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// Its address.
    pub key: &'a ObjectKey,
    /// Its incarnation.
    pub uid: &'a str,
    /// Its owners.
    pub owners: &'a [OwnerReference],
    /// Its finalizers.
    pub finalizers: &'a [String],
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Its version.
    pub revision: u64,
}

impl Item<'_> {
    fn has(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|f| f == finalizer)
    }

    /// Whether it waits for its dependents to go first.
    #[must_use]
    pub fn deleting_dependents(&self) -> bool {
        self.deleting && self.has(FOREGROUND)
    }

    fn patch(&self, metadata: Value) -> Action {
        let mut metadata = metadata;
        metadata["resourceVersion"] = json!(self.revision.to_string());
        metadata["uid"] = json!(self.uid);
        let body = json!({ "metadata": metadata });
        Action::Patch(Patch { key: self.key.clone(), subresource: None, body, announce: None })
    }

    fn without_finalizer(&self, finalizer: &str) -> Action {
        let left: Vec<&String> = self.finalizers.iter().filter(|f| *f != finalizer).collect();
        self.patch(json!({"finalizers": or_null(&left)}))
    }

    fn with_owners(&self, owners: &[OwnerReference]) -> Action {
        self.patch(json!({"ownerReferences": or_null(owners)}))
    }

    fn delete(&self, propagation: Propagation, revision: Option<u64>) -> Action {
        let how = DeleteHow { revision, ..DeleteHow::with(propagation) };
        Action::Delete { key: self.key.clone(), uid: self.uid.to_owned(), how, announce: None }
    }
}

fn or_null<T: serde::Serialize>(list: &[T]) -> Value {
    if list.is_empty() { Value::Null } else { to_value(&list) }
}

/// What is known of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// There, and staying as far as its dependents are concerned.
    Solid,
    /// Not there.
    Absent,
    /// Waits for its dependents to go.
    Waiting,
}

/// What a plan is made from.
pub struct View<'a> {
    /// The object.
    pub item: Item<'a>,
    /// The state of each of `item.owners`, in their order.
    pub owners: Vec<Owner>,
    /// The objects that name it as an owner.
    pub dependents: Vec<Item<'a>>,
}

/// Decides the next writes for one object.
#[must_use]
pub fn plan(view: &View<'_>) -> Plan {
    let item = &view.item;
    if item.deleting && item.has(ORPHAN) {
        return Plan::now(orphan(view));
    }
    if item.deleting_dependents() {
        let blocked = view.dependents.iter().any(|dependent| dependent.uid != item.uid && blocks(dependent, item.uid));
        return Plan::now(if blocked { Vec::new() } else { vec![item.without_finalizer(FOREGROUND)] });
    }
    if item.deleting || item.owners.is_empty() {
        return Plan::default();
    }
    Plan::now(judge(view))
}

fn blocks(dependent: &Item<'_>, owner: &str) -> bool {
    dependent.owners.iter().any(|reference| reference.uid == owner && reference.block_owner_deletion == Some(true))
}

/// Takes the owner off its dependents; once none is left, lets it go.
fn orphan(view: &View<'_>) -> Vec<Action> {
    if view.dependents.is_empty() {
        return vec![view.item.without_finalizer(ORPHAN)];
    }
    let release = |dependent: &Item<'_>| {
        let left: Vec<OwnerReference> =
            dependent.owners.iter().filter(|owner| owner.uid != view.item.uid).cloned().collect();
        dependent.with_owners(&left)
    };
    view.dependents.iter().map(release).collect()
}

/// What becomes of an object, given its owners.
fn judge(view: &View<'_>) -> Vec<Action> {
    let item = &view.item;
    let any = |state: Owner| view.owners.contains(&state);
    if any(Owner::Solid) {
        let solid = |(_, state): &(&OwnerReference, &Owner)| **state == Owner::Solid;
        let left: Vec<OwnerReference> =
            item.owners.iter().zip(&view.owners).filter(solid).map(|(owner, _)| owner.clone()).collect();
        return if left.len() == item.owners.len() { Vec::new() } else { vec![item.with_owners(&left)] };
    }
    if any(Owner::Waiting) && !view.dependents.is_empty() {
        let mut actions = Vec::new();
        if view.dependents.iter().any(Item::deleting_dependents) {
            // A circle: somebody has to stop blocking.
            let unblocked =
                |owner: &OwnerReference| OwnerReference { block_owner_deletion: Some(false), ..owner.clone() };
            if item.owners.iter().any(|owner| owner.block_owner_deletion == Some(true)) {
                actions.push(item.with_owners(&item.owners.iter().map(unblocked).collect::<Vec<_>>()));
            }
        }
        actions.push(item.delete(Propagation::Foreground, None));
        return actions;
    }
    let propagation = match (item.has(ORPHAN), item.has(FOREGROUND)) {
        (true, _) => Propagation::Orphan,
        (_, true) => Propagation::Foreground,
        _ => Propagation::Background,
    };
    vec![item.delete(propagation, Some(item.revision))]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kontiki_model::GroupResource;
    use proptest::prelude::*;

    use super::*;

    /// A small world of objects `name -> (owners, finalizers, deleting)`; uid = name.
    #[derive(Clone, Debug, Default)]
    struct Objects(BTreeMap<String, (Vec<OwnerReference>, Vec<String>, bool)>);

    fn owner(name: &str, blocks: bool) -> OwnerReference {
        OwnerReference {
            uid: name.into(),
            name: name.into(),
            block_owner_deletion: Some(blocks),
            ..OwnerReference::default()
        }
    }

    impl Objects {
        /// `pod<rs rs<web:fd web*`: `<` owners by comma (`!` at the end does not block), `:` finalizers (`f`, `o`), `*` deleting.
        fn read(text: &str) -> Self {
            let mut out = Self::default();
            for word in text.split_whitespace() {
                let (word, deleting) = word.strip_suffix('*').map_or((word, false), |word| (word, true));
                let (word, marks) = word.split_once(':').unwrap_or((word, ""));
                let (name, owners) = word.split_once('<').unwrap_or((word, ""));
                let owners = owners.split(',').filter(|o| !o.is_empty());
                let owners = owners.map(|o| owner(o.trim_end_matches('!'), !o.ends_with('!'))).collect();
                let finalizers = marks.chars().map(|c| if c == 'f' { FOREGROUND } else { ORPHAN }.to_owned()).collect();
                out.0.insert(name.into(), (owners, finalizers, deleting));
            }
            out
        }

        fn keys(&self) -> BTreeMap<String, ObjectKey> {
            let resource = GroupResource { group: "", resource: "things" };
            self.0.keys().map(|name| (name.clone(), ObjectKey::new(resource, Some("ns"), name))).collect()
        }

        fn item<'a>(&'a self, keys: &'a BTreeMap<String, ObjectKey>, name: &'a str) -> Item<'a> {
            let (owners, finalizers, deleting) = &self.0[name];
            Item { key: &keys[name], uid: name, owners, finalizers, deleting: *deleting, revision: 1 }
        }

        fn plan(&self, name: &str) -> Vec<Action> {
            let keys = self.keys();
            let item = self.item(&keys, name);
            let state = |owner: &OwnerReference| match self.0.get(&owner.uid) {
                None => Owner::Absent,
                Some(_) if self.item(&keys, &owner.uid).deleting_dependents() => Owner::Waiting,
                Some(_) => Owner::Solid,
            };
            let owners = item.owners.iter().map(state).collect();
            let dependents = self.0.keys().map(|other| self.item(&keys, other));
            let dependents = dependents.filter(|d| d.owners.iter().any(|o| o.uid == name)).collect();
            super::plan(&View { item, owners, dependents }).actions
        }

        fn apply(&mut self, action: Action) {
            match action {
                Action::Patch(patch) => {
                    let Some(object) = self.0.get_mut(&patch.key.name) else { return };
                    let metadata = &patch.body["metadata"];
                    if let Some(owners) = metadata.get("ownerReferences") {
                        object.0 = serde_json::from_value(owners.clone()).unwrap_or_default();
                    }
                    if let Some(finalizers) = metadata.get("finalizers") {
                        object.1 = serde_json::from_value(finalizers.clone()).unwrap_or_default();
                    }
                    if object.2 && object.1.is_empty() {
                        self.0.remove(&patch.key.name);
                    }
                }
                Action::Delete { key, how, .. } => self.delete(&key.name, how.propagation),
                _ => {}
            }
        }

        fn delete(&mut self, name: &str, propagation: Option<Propagation>) {
            let Some(object) = self.0.get_mut(name) else { return };
            match propagation {
                Some(Propagation::Foreground) => object.1 = vec![FOREGROUND.into()],
                Some(Propagation::Orphan) => object.1 = vec![ORPHAN.into()],
                _ => {}
            }
            object.2 = true;
            if object.1.is_empty() {
                self.0.remove(name);
            }
        }

        fn settle(&mut self) -> bool {
            for _ in 0..40 {
                let names: Vec<String> = self.0.keys().cloned().collect();
                let mut idle = true;
                for name in names {
                    if self.0.contains_key(&name) {
                        let actions = self.plan(&name);
                        idle &= actions.is_empty();
                        actions.into_iter().for_each(|action| self.apply(action));
                    }
                }
                if idle {
                    return true;
                }
            }
            false
        }

        fn show(&self) -> String {
            self.0.keys().cloned().collect::<Vec<_>>().join(" ")
        }
    }

    #[test]
    fn collects_what_nobody_owns() {
        for (name, world, expect) in [
            ("dependents follow their owner", "rs<web pod<rs", ""),
            ("an owner that is there keeps them", "web rs<web pod<rs", "pod rs web"),
            ("one owner of two is enough", "live pod<live,gone", "live pod"),
            ("foreground waits, then all goes", "web:f* rs<web pod<rs", ""),
            ("a dependent that does not block goes too", "web:f* pod<web!", ""),
            ("orphans stay", "web:o* rs<web pod<rs", "pod rs"),
            ("a circle without an outside is kept", "a<c b<a c<b", "a b c"),
            ("a circle goes when one is deleted in the foreground", "a<c:f* b<a c<b", ""),
            ("a living second owner survives a foreground deletion", "web:f* live pod<web,live", "live pod"),
        ] {
            let mut objects = Objects::read(world);
            assert!(objects.settle(), "{name}: {objects:?}");
            assert_eq!(objects.show(), expect, "{name}");
        }
    }

    proptest! {
        #[test]
        fn always_comes_to_rest(edges in prop::collection::vec((0usize..8, 0usize..9, any::<bool>()), 0..16),
                                doomed in 0usize..8, how in 0usize..3) {
            let mut objects = Objects::read("o0 o1 o2 o3 o4 o5 o6 o7");
            for (from, to, blocks) in edges {
                objects.0.get_mut(&format!("o{from}")).unwrap().0.push(owner(&format!("o{to}"), blocks));
            }
            let how = [Propagation::Background, Propagation::Foreground, Propagation::Orphan][how];
            objects.delete(&format!("o{doomed}"), Some(how));
            prop_assert!(objects.settle(), "{objects:?}");
            for (name, (owners, _, deleting)) in &objects.0 {
                let solid = owners.is_empty() || owners.iter().any(|o| objects.0.contains_key(&o.uid));
                prop_assert!(solid && !deleting, "{name} in {objects:?}");
            }
        }
    }
}
