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
use crate::key::Uid;
use crate::planted::{self, Bug};

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

    /// Whether it may be collected, or holds others up.
    fn may_act(&self) -> bool {
        !self.owners.is_empty() || (self.deleting && (self.has(ORPHAN) || self.has(FOREGROUND)))
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

/// What is known of an owner that `dependent` names, given the objects of its uid. One in another namespace does not
/// count; one of a kind that is not `served` here cannot be judged.
#[must_use]
pub fn owner_state(dependent: &Item<'_>, found: &[Item<'_>], served: bool) -> Owner {
    let reachable = |item: &&Item<'_>| item.key.namespace.is_none() || item.key.namespace == dependent.key.namespace;
    match found.iter().find(reachable) {
        Some(item) if item.deleting_dependents() => Owner::Waiting,
        Some(_) => Owner::Solid,
        None if served => Owner::Absent,
        None => Owner::Solid,
    }
}

/// The uids of those whose fate may hang on a change: the object itself, dependents of what goes, and owners that wait
/// for it (`going` says whether one of that uid is being deleted).
pub fn concerned(
    old: Option<Item<'_>>,
    new: Option<Item<'_>>,
    dependents: impl Fn(&str) -> Vec<Uid>,
    going: impl Fn(&str) -> bool,
) -> Vec<Uid> {
    if let (Some(old), Some(new)) = (&old, &new)
        && old.uid == new.uid
        && old.deleting == new.deleting
        && old.owners == new.owners
        && old.finalizers == new.finalizers
    {
        return Vec::new();
    }
    let mut out = Vec::new();
    if let Some(new) = new.as_ref().filter(|item| item.may_act()) {
        out.push(Uid::from(new.uid));
    }
    let replaced = old.filter(|old| new.is_none_or(|new| new.uid != old.uid));
    if replaced.is_some() || old.is_none() || new.is_some_and(|new| new.deleting) {
        replaced.iter().chain(&new).for_each(|item| out.extend(dependents(item.uid)));
    }
    let owners = old.iter().chain(&new).flat_map(|item| item.owners).filter(|owner| going(&owner.uid));
    out.extend(owners.map(|owner| Uid::from(owner.uid.as_str())));
    out
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
        return Plan::new("its dependents lose it as their owner", orphan(view));
    }
    if item.deleting_dependents() {
        let blocked = view.dependents.iter().any(|dependent| dependent.uid != item.uid && blocks(dependent, item.uid));
        if blocked {
            return Plan::rest("dependents block its deletion");
        }
        return Plan::new("no dependent blocks its deletion any more", vec![item.without_finalizer(FOREGROUND)]);
    }
    if item.deleting {
        return Plan::rest("it is being deleted");
    }
    if item.owners.is_empty() {
        return Plan::rest("nobody owns it");
    }
    judge(view)
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
    let mut actions: Vec<Action> = view.dependents.iter().map(release).collect();
    if planted::is(Bug::HastyOwner) {
        actions.insert(0, view.item.without_finalizer(ORPHAN));
    }
    actions
}

/// What becomes of an object, given its owners.
fn judge(view: &View<'_>) -> Plan {
    let item = &view.item;
    let any = |state: Owner| view.owners.contains(&state);
    if any(Owner::Solid) {
        let solid = |(_, state): &(&OwnerReference, &Owner)| **state == Owner::Solid;
        let left: Vec<OwnerReference> =
            item.owners.iter().zip(&view.owners).filter(solid).map(|(owner, _)| owner.clone()).collect();
        if left.len() == item.owners.len() {
            return Plan::rest("its owners are there");
        }
        return Plan::new("some of its owners are gone", vec![item.with_owners(&left)]);
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
        return Plan::new("its owner waits for it to go", actions);
    }
    let propagation = match (item.has(ORPHAN), item.has(FOREGROUND)) {
        (true, _) => Propagation::Orphan,
        (_, true) => Propagation::Foreground,
        _ => Propagation::Background,
    };
    Plan::new("all its owners are gone", vec![item.delete(propagation, Some(item.revision))])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kontiki_model::GroupResource;
    use proptest::prelude::*;

    use super::*;

    /// A small cluster of objects `name -> (owners, finalizers, deleting)`; uid = name.
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
        /// `pod<rs rs<web:fd web*`: `<` owners by comma (`!` at the end does not block), `:` finalizers (`f`, `o`), `*`
        /// deleting.
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

        fn plan(&self, name: &str) -> Plan {
            let keys = self.keys();
            let item = self.item(&keys, name);
            let state = |owner: &OwnerReference| {
                let found: Vec<_> =
                    self.0.get_key_value(&owner.uid).map(|(n, _)| self.item(&keys, n)).into_iter().collect();
                owner_state(&item, &found, true)
            };
            let owners = item.owners.iter().map(state).collect();
            let dependents = self.0.keys().map(|other| self.item(&keys, other));
            let dependents = dependents.filter(|d| d.owners.iter().any(|o| o.uid == name)).collect();
            super::plan(&View { item, owners, dependents })
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
                        let actions = self.plan(&name).actions;
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
        for (name, objects, expect) in [
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
            let mut objects = Objects::read(objects);
            assert!(objects.settle(), "{name}: {objects:?}");
            assert_eq!(objects.show(), expect, "{name}");
        }
    }

    #[test]
    fn says_why() {
        for (objects, name, expect) in [
            ("web rs<web", "web", "nobody owns it"),
            ("web rs<web", "rs", "its owners are there"),
            ("rs<web,live live", "rs", "some of its owners are gone"),
            ("rs<web", "rs", "all its owners are gone"),
            ("web:f* rs<web", "web", "dependents block its deletion"),
            ("web:f* rs<web!", "web", "no dependent blocks its deletion any more"),
            ("web:f* rs<web pod<rs", "rs", "its owner waits for it to go"),
            ("web:o* rs<web", "web", "its dependents lose it as their owner"),
            ("rs<web*", "rs", "it is being deleted"),
        ] {
            assert_eq!(Objects::read(objects).plan(name).why, expect, "{objects}");
        }
    }

    #[test]
    fn an_owner_elsewhere_or_of_an_unknown_kind_is_not_judged() {
        let key = |namespace| ObjectKey::new(GroupResource { group: "", resource: "things" }, namespace, "o");
        let (here, there, nowhere) = (key(Some("ns")), key(Some("other")), key(None));
        let finalizers = [FOREGROUND.to_owned()];
        let item = |key, deleting| Item { key, uid: "o", owners: &[], finalizers: &finalizers, deleting, revision: 1 };
        for (name, found, served, expect) in [
            ("in the same namespace", vec![item(&here, false)], true, Owner::Solid),
            ("without a namespace", vec![item(&nowhere, false)], true, Owner::Solid),
            ("waiting", vec![item(&here, true)], true, Owner::Waiting),
            ("in another namespace", vec![item(&there, false)], true, Owner::Absent),
            ("there and here", vec![item(&there, false), item(&here, false)], true, Owner::Solid),
            ("gone", vec![], true, Owner::Absent),
            ("of a kind that is not served", vec![], false, Owner::Solid),
        ] {
            assert_eq!(owner_state(&item(&here, false), &found, served), expect, "{name}");
        }
    }

    #[test]
    fn a_change_concerns_dependents_and_owners_that_wait() {
        for (name, old, new, expect) in [
            ("it comes without owners", "", "web", "rs"),
            ("it comes with an owner", "", "rs<web", "rs pod"),
            ("nothing that matters", "rs<web", "rs<web", ""),
            ("it is going", "web", "web*", "rs"),
            ("it waits for its dependents", "web", "web:f*", "web rs"),
            ("it is gone", "web", "", "rs"),
            ("one that an owner waits for is gone", "pod<going", "", "going"),
            ("its owner changes", "pod<going", "pod<live", "pod going"),
        ] {
            let (old, new) = (Objects::read(old), Objects::read(new));
            let (old_keys, new_keys) = (old.keys(), new.keys());
            let old = old.0.keys().next().map(|name| old.item(&old_keys, name));
            let new = new.0.keys().next().map(|name| new.item(&new_keys, name));
            let dependents = |uid: &str| match uid {
                "web" => vec![Uid::from("rs")],
                "rs" => vec![Uid::from("pod")],
                _ => Vec::new(),
            };
            let uids = concerned(old, new, dependents, |uid| uid == "going");
            assert_eq!(uids.iter().map(Uid::as_str).collect::<Vec<_>>().join(" "), expect, "{name}");
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
