//! Small questions about any object: owners, labels, time.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use serde_json::{Value, json};

use crate::action::{Action, Kind, patch, to_value};

/// An object's own label, annotation or selector map.
pub type Labels = BTreeMap<String, String>;

/// The name; empty before one was given.
#[must_use]
pub fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

/// The namespace; empty for cluster-scoped objects.
#[must_use]
pub fn namespace(meta: &ObjectMeta) -> &str {
    meta.namespace.as_deref().unwrap_or_default()
}

/// The uid; empty before one was given.
#[must_use]
pub fn uid(meta: &ObjectMeta) -> &str {
    meta.uid.as_deref().unwrap_or_default()
}

/// The labels.
#[must_use]
pub fn labels(meta: &ObjectMeta) -> Labels {
    meta.labels.clone().unwrap_or_default()
}

/// One label.
#[must_use]
pub fn label<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.labels.as_ref()?.get(key).map(String::as_str)
}

/// One annotation.
#[must_use]
pub fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Whether somebody asked for its deletion.
#[must_use]
pub fn deleting(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some()
}

/// Whether it was deleted without grace and only its finalizers hold it: to delete it again changes
/// nothing.
#[must_use]
pub fn only_held(meta: &ObjectMeta) -> bool {
    let held = meta.finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty());
    deleting(meta) && meta.deletion_grace_period_seconds == Some(0) && held
}

/// When it was created; the beginning of time before that.
#[must_use]
pub fn created(meta: &ObjectMeta) -> Timestamp {
    meta.creation_timestamp.as_ref().map_or(Timestamp::MIN, |time| time.0)
}

/// The owner that manages the object.
#[must_use]
pub fn controller(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// Whether `owner_uid` manages the object.
#[must_use]
pub fn controlled_by(meta: &ObjectMeta, owner_uid: &str) -> bool {
    controller(meta).is_some_and(|owner| owner.uid == owner_uid)
}

/// The reference by which `owner` manages its objects.
#[must_use]
pub fn controller_reference<K: Kind>(owner: &K) -> OwnerReference {
    let meta = owner.metadata();
    OwnerReference {
        api_version: K::API_VERSION.to_owned(),
        kind: K::KIND.to_owned(),
        name: name(meta).to_owned(),
        uid: uid(meta).to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Makes `owner` the manager of `object`.
#[must_use]
pub fn adopt<K: Kind, O: Kind>(object: &K, owner: &O) -> Action {
    let mut owners = object.metadata().owner_references.clone().unwrap_or_default();
    owners.push(controller_reference(owner));
    patch(object, None, json!({"metadata": {"ownerReferences": to_value(&owners)}}))
}

/// Takes the owner `owner_uid` off `object`.
#[must_use]
pub fn release<K: Kind>(object: &K, owner_uid: &str) -> Action {
    let owners = object.metadata().owner_references.iter().flatten();
    let left: Vec<&OwnerReference> = owners.filter(|owner| owner.uid != owner_uid).collect();
    let left = if left.is_empty() { Value::Null } else { to_value(&left) };
    patch(object, None, json!({"metadata": {"ownerReferences": left}}))
}

/// `now` as the API writes it: whole seconds.
#[must_use]
pub fn time(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

/// `at` plus some seconds; far in the future if that overflows.
#[must_use]
pub fn after_seconds(at: Timestamp, seconds: i64) -> Timestamp {
    at.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}
