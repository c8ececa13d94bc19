//! Which objects a set manages: which it adopts and lets go, and whom a change of one concerns.

use std::sync::Arc;

use crate::action::{Action, Kind};
use crate::key::NamespacedName;
use crate::object::{self, adopt, controller, deleting, release, uid};
use crate::selection::Selects;

/// Those of `objects` that belong to `owner`, as they will after the patches that make or end that. An owner on its
/// way out neither adopts nor lets go.
pub fn claim<'a, O: Kind, K: Kind>(
    owner: &O,
    objects: impl IntoIterator<Item = &'a Arc<K>>,
    matches: impl Fn(&K) -> bool,
) -> (Vec<&'a Arc<K>>, Vec<Action>) {
    let (mut mine, mut actions) = (Vec::new(), Vec::new());
    let (own, gone) = (uid(owner.metadata()), deleting(owner.metadata()));
    for object in objects {
        let fits = matches(object);
        match controller(object.metadata()) {
            Some(manager) if manager.uid != own => {}
            Some(_) if fits => mine.push(object),
            Some(_) if !gone => actions.push(release(object.as_ref(), own)),
            None if fits && !gone && !deleting(object.metadata()) => {
                actions.push(adopt(object.as_ref(), owner));
                mine.push(object);
            }
            _ => {}
        }
    }
    (mine, actions)
}

/// The sets that a change of an object concerns: those that manage or managed it, and if nobody manages it, those that
/// may adopt it.
pub fn concerned<S: Selects, K: Kind>(
    old: Option<&K>,
    new: Option<&K>,
    selecting: impl FnOnce(&K) -> Vec<Arc<S>>,
) -> Vec<NamespacedName> {
    let managers = old.into_iter().chain(new).filter_map(|object| {
        let owner = controller(object.metadata()).filter(|owner| owner.kind == S::KIND)?;
        Some(NamespacedName::new(object::namespace(object.metadata()), &owner.name))
    });
    let mut keys: Vec<NamespacedName> = managers.collect();
    if let Some(stray) = new.filter(|object| controller(object.metadata()).is_none()) {
        let candidates = selecting(stray).into_iter().filter(|set| set.selects(stray.metadata()));
        keys.extend(candidates.map(|set| NamespacedName::of(set.metadata())));
    }
    keys.dedup();
    keys
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::ReplicaSet;
    use k8s_openapi::api::core::v1::{Pod, ReplicationController};

    use super::*;
    use crate::testing::{pods, replica_set};

    /// Who is asked when a pod changes from the one to the other; `web` and `other` are sets, `web` selects.
    #[test]
    fn a_pod_concerns_its_manager_and_who_may_adopt_it() {
        for (name, old, new, expect) in [
            ("a pod of the set", "", "a", "ns/web"),
            ("its end", "a", "", "ns/web"),
            ("a change", "a", "a!", "ns/web"),
            ("somebody else's", "", "a^", "ns/other"),
            ("a stray that matches", "", "a?", "ns/web"),
            ("the end of a stray", "a?", "", ""),
            ("a stray is adopted by another", "a?", "a^", "ns/other"),
            ("a pod is let go", "a^", "a?", "ns/other ns/web"),
        ] {
            let selecting = |_: &Pod| vec![Arc::new(replica_set("web", 1)), Arc::new(replica_set("else", 1))];
            let (old, new) = (pods("web", old), pods("web", new));
            let (old, new) = (old.first().map(Arc::as_ref), new.first().map(Arc::as_ref));
            let keys = concerned::<ReplicaSet, Pod>(old, new, selecting);
            let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
            assert_eq!(keys.join(" "), expect, "{name}");
            let none = concerned::<ReplicationController, Pod>(None, new, |_| Vec::new());
            assert!(none.is_empty(), "{name}: the kind of the manager counts");
        }
    }
}
