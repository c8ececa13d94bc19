//! Namespaces and what every one of them has, owners, and join tokens.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kontiki_api::informer::{Change, Object, Registration};
use kontiki_model::GroupVersionKind;
use kontiki_plan::gc::{FOREGROUND, Item, ORPHAN, Owner};
use kontiki_plan::object::deleting;
use kontiki_plan::replicaset::Failure;
use kontiki_plan::{
    Plan, bootstrap_token, gc as collector, namespace as emptier, root_ca as publisher, service_account,
};

use super::{key, split};
use crate::queue::Queue;
use crate::world::{BY_NAMESPACE, BY_OWNER, BY_UID, World};

fn namespaces(world: &Arc<World>, queue: &Arc<Queue>, wanted: fn(&Change<Namespace>) -> bool) -> Registration {
    let queue = queue.clone();
    world.caches.namespaces.on_change(move |change| {
        if wanted(change) {
            queue.add(&change.key.name);
        }
    })
}

fn present(change: &Change<Namespace>) -> bool {
    change.new.is_some()
}

pub(super) fn namespace_inputs(world: &Arc<World>, queue: &Arc<Queue>) -> Vec<Registration> {
    let own =
        namespaces(world, queue, |change| change.new.as_ref().is_some_and(|namespace| deleting(&namespace.metadata)));
    let content = {
        let (world, queue) = (world.clone(), queue.clone());
        world.caches.objects.clone().on_change(move |change| {
            let Some(space) = change.key.namespace.as_deref() else { return };
            if world.namespace_going(space) {
                queue.add(space);
            }
        })
    };
    vec![own, content]
}

fn item(object: &Object) -> Item<'_> {
    Item {
        key: &object.key,
        uid: &object.uid,
        owners: &object.owners,
        finalizers: &object.finalizers,
        deleting: object.deleting,
        revision: object.revision.0,
    }
}

pub(super) fn namespace(world: &World, key: &str, now: Timestamp, _: Option<&Failure>) -> Plan {
    let Some(namespace) = world.caches.namespaces.get(None, key) else { return Plan::default() };
    let content = world.caches.objects.by_index(BY_NAMESPACE, key);
    let content = content.iter().map(|object| item(object)).collect();
    emptier::plan(&emptier::View { namespace: &namespace, content }, now)
}

pub(super) fn gc_inputs(world: &Arc<World>, queue: &Arc<Queue>) -> Vec<Registration> {
    let (world, queue) = (world.clone(), queue.clone());
    vec![world.caches.objects.clone().on_change(move |change| {
        if let (Some(old), Some(new)) = (&change.old, &change.new)
            && same_ties(old, new)
        {
            return;
        }
        if let Some(new) = change.new.as_ref().filter(|object| tied(object)) {
            queue.add(&new.uid);
        }
        concerned(&world, change).iter().for_each(|uid| queue.add(uid));
    })]
}

/// Whether nothing changed that collection looks at.
fn same_ties(old: &Object, new: &Object) -> bool {
    old.uid == new.uid && old.deleting == new.deleting && old.owners == new.owners && old.finalizers == new.finalizers
}

/// Whether the object itself may be collected or holds others up.
fn tied(object: &Object) -> bool {
    let waits = object.deleting && object.finalizers.iter().any(|f| f == ORPHAN || f == FOREGROUND);
    waits || !object.owners.is_empty()
}

/// Others whose fate may hang on the change: dependents of what goes, and owners that wait for it.
fn concerned(world: &World, change: &Change<Object>) -> Vec<String> {
    let mut out = Vec::new();
    let going = |object: &Arc<Object>| object.deleting;
    if change.new.as_ref().is_none_or(going)
        || change.new.as_ref().map(|o| &o.uid) != change.old.as_ref().map(|o| &o.uid)
    {
        for object in change.both() {
            let dependents = world.caches.objects.by_index(BY_OWNER, &object.uid);
            out.extend(dependents.iter().map(|dependent| dependent.uid.clone()));
        }
    }
    for owner in change.both().flat_map(|object| &object.owners) {
        let owners = world.caches.objects.by_index(BY_UID, &owner.uid);
        out.extend(owners.iter().filter(|owner| owner.deleting).map(|owner| owner.uid.clone()));
    }
    out
}

pub(super) fn gc(world: &World, key: &str, _: Timestamp, _: Option<&Failure>) -> Plan {
    let objects = &world.caches.objects;
    let mut plan = Plan::default();
    for object in objects.by_index(BY_UID, key) {
        let dependents = objects.by_index(BY_OWNER, key);
        let owners = object.owners.iter().map(|owner| owner_state(world, &object, owner)).collect();
        let dependents = dependents.iter().map(|dependent| item(dependent)).collect();
        plan.extend(collector::plan(&collector::View { item: item(&object), owners, dependents }));
    }
    plan
}

/// Whether an owner is there. One in another namespace does not count; one of a kind that is not
/// served here cannot be judged.
fn owner_state(world: &World, dependent: &Object, owner: &OwnerReference) -> Owner {
    let found = world.caches.objects.by_index(BY_UID, &owner.uid);
    let reachable = |o: &&Arc<Object>| o.key.namespace.is_none() || o.key.namespace == dependent.key.namespace;
    match found.iter().find(reachable) {
        Some(object) if item(object).deleting_dependents() => Owner::Waiting,
        Some(_) => Owner::Solid,
        None if served(owner) => Owner::Absent,
        None => Owner::Solid,
    }
}

fn served(owner: &OwnerReference) -> bool {
    let kind = GroupVersionKind::new(&owner.api_version, &owner.kind);
    kontiki_kinds::resources().iter().any(|def| def.group == kind.group && def.kind == kind.kind)
}

pub(super) fn account_inputs(world: &Arc<World>, queue: &Arc<Queue>) -> Vec<Registration> {
    let accounts = {
        let queue = queue.clone();
        world.caches.accounts.on_change(move |change| {
            if change.key.name == "default" && change.new.is_none() {
                queue.add(change.key.namespace.as_deref().unwrap_or_default());
            }
        })
    };
    vec![namespaces(world, queue, present), accounts]
}

pub(super) fn account(world: &World, key: &str, _: Timestamp, _: Option<&Failure>) -> Plan {
    let Some(namespace) = world.caches.namespaces.get(None, key) else { return Plan::default() };
    service_account::plan(&namespace, world.caches.accounts.get(Some(key), "default").is_some())
}

pub(super) fn root_ca_inputs(world: &Arc<World>, queue: &Arc<Queue>) -> Vec<Registration> {
    let maps = {
        let queue = queue.clone();
        world.caches.config_maps.on_change(move |change| {
            if change.key.name == publisher::NAME {
                queue.add(change.key.namespace.as_deref().unwrap_or_default());
            }
        })
    };
    vec![namespaces(world, queue, present), maps]
}

pub(super) fn root_ca(world: &World, key: &str, _: Timestamp, _: Option<&Failure>) -> Plan {
    let Some(namespace) = world.caches.namespaces.get(None, key) else { return Plan::default() };
    let present = world.caches.config_maps.get(Some(key), publisher::NAME);
    publisher::plan(&namespace, present.as_deref(), &world.settings.ca_pem)
}

pub(super) fn token_inputs(world: &Arc<World>, queue: &Arc<Queue>) -> Vec<Registration> {
    let queue = queue.clone();
    vec![world.caches.secrets.on_change(move |change| {
        if change.new.as_ref().is_some_and(|secret| secret.type_.as_deref() == Some(bootstrap_token::TYPE)) {
            queue.add(&key(change.key.namespace.as_deref().unwrap_or_default(), &change.key.name));
        }
    })]
}

pub(super) fn token(world: &World, key: &str, now: Timestamp, _: Option<&Failure>) -> Plan {
    let (space, name) = split(key);
    world.caches.secrets.get(Some(space), name).map(|secret| bootstrap_token::plan(&secret, now)).unwrap_or_default()
}
