//! What planners ask for. Plain data; one executor carries all of it out.

use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{Metadata, Resource};
use kontiki_model::{GroupResource, ObjectKey};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::hash::prune;

/// What to do now, when to look again if nothing happens before, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// In order; creations and deletions next to each other may be done together.
    pub actions: Vec<Action>,
    /// When time alone will change the plan.
    pub wake: Option<Timestamp>,
    /// What decided, in a few words. Logs and metrics show it, so it is one of a fixed set of texts.
    pub why: &'static str,
}

impl Plan {
    /// A plan of `actions` that time alone will not change.
    #[must_use]
    pub fn new(why: &'static str, actions: Vec<Action>) -> Self {
        Self { actions, wake: None, why }
    }

    /// Nothing to do.
    #[must_use]
    pub fn rest(why: &'static str) -> Self {
        Self::new(why, Vec::new())
    }

    /// Asks to be woken at `at`, or earlier if something else asked for that.
    pub fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |old| old.min(at)));
    }

    /// Adds another plan's actions and wake-up. The reason is that of the first with something to do.
    pub fn extend(&mut self, other: Self) {
        if self.actions.is_empty() && !other.actions.is_empty() {
            self.why = other.why;
        }
        self.actions.extend(other.actions);
        if let Some(at) = other.wake {
            self.wake_at(at);
        }
    }
}

/// One write, or one event for people.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Creates an object; its name may be left to `generateName`.
    Create {
        /// Group of the resource.
        group: &'static str,
        /// Plural of the resource.
        resource: &'static str,
        /// Namespace of the new object.
        namespace: Option<String>,
        /// The object.
        object: Value,
        /// Event to record about the outcome.
        announce: Option<Announce>,
    },
    /// A merge patch. Its body carries the precondition.
    Patch(Patch),
    /// The first of these patches whose condition holds when it is asked; none if none does.
    FirstOf(Vec<(Condition, Patch)>),
    /// Deletes one incarnation of an object.
    Delete {
        /// Its address.
        key: ObjectKey,
        /// The incarnation; a namesake is left alone.
        uid: String,
        /// How.
        how: DeleteHow,
        /// Event to record about the outcome.
        announce: Option<Announce>,
    },
    /// Binds a namespace's fate: removes `kubernetes` from its `spec.finalizers`.
    FinalizeNamespace {
        /// Name of the namespace.
        name: String,
        /// The namespace, without the finalizer.
        object: Value,
    },
    /// Records an event.
    Event(EventRecord),
}

/// What somebody else says before a patch is made.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// The spec of a SubjectAccessReview, which must be allowed.
    Allowed(Value),
    /// The cluster's CA signs. The certificate becomes `status.certificate` of the patch.
    Signed(Order),
}

/// A certificate that the cluster's CA is asked for. Whoever asks has checked the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The request (RFC 2986), PEM.
    pub request_pem: String,
    /// What it may be used for, as `spec.usages` names it.
    pub usages: Vec<String>,
    /// How long it is to live, in seconds.
    pub seconds: i64,
}

impl Action {
    /// The patch that it makes, or would make first.
    fn patch(&self) -> Option<&Patch> {
        match self {
            Self::Patch(patch) => Some(patch),
            Self::FirstOf(choices) => choices.first().map(|(_, patch)| patch),
            _ => None,
        }
    }

    /// What it writes to, with the incarnation it means; `None` for what has no name yet, and for events.
    #[must_use]
    pub fn subject(&self) -> Option<(ObjectKey, String)> {
        match self {
            Self::Patch(_) | Self::FirstOf(_) => {
                let patch = self.patch()?;
                let uid = patch.body["metadata"]["uid"].as_str().unwrap_or_default();
                Some((patch.key.clone(), uid.to_owned()))
            }
            Self::Delete { key, uid, .. } => Some((key.clone(), uid.clone())),
            Self::FinalizeNamespace { name, object } => {
                let resource = GroupResource { group: "", resource: "namespaces" };
                let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
                Some((ObjectKey::new(resource, None, name), uid.to_owned()))
            }
            Self::Create { .. } | Self::Event(_) => None,
        }
    }

    /// What it does.
    #[must_use]
    pub fn verb(&self) -> Verb {
        match self {
            Self::Create { .. } => Verb::Create,
            Self::Patch(Patch { subresource: Some(_), .. }) | Self::FirstOf(_) => Verb::PatchStatus,
            Self::Patch(_) => Verb::Patch,
            Self::Delete { .. } => Verb::Delete,
            Self::FinalizeNamespace { .. } => Verb::Finalize,
            Self::Event(_) => Verb::Tell,
        }
    }
}

/// What an action does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Makes an object.
    Create,
    /// Changes one.
    Patch,
    /// Changes what one says about itself.
    PatchStatus,
    /// Ends one.
    Delete,
    /// Lets a namespace go.
    Finalize,
    /// Records an event.
    Tell,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Patch => "patch",
            Self::PatchStatus => "patch the status of",
            Self::Delete => "delete",
            Self::Finalize => "finalize",
            Self::Tell => "tell of",
        })
    }
}

/// An action that the API refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What was to be done.
    pub verb: Verb,
    /// What the API said.
    pub message: String,
}

/// A number that is the same for plans that ask for the same, however new their view is and whatever the time:
/// versions and times in the actions do not count. `None` for a plan that writes nothing.
#[must_use]
pub fn fingerprint(actions: &[Action]) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    let mut writes = false;
    for action in actions {
        writes |= !matches!(action, Action::Event(_));
        match action {
            Action::Create { group, resource, namespace, object, .. } => {
                (0u8, group, resource, namespace).hash(&mut hasher);
                hash_value(object, &mut hasher);
            }
            Action::Patch(patch) => hash_patch(patch, &mut hasher),
            Action::FirstOf(choices) => {
                (4u8, choices.len()).hash(&mut hasher);
                choices.iter().for_each(|(_, patch)| hash_patch(patch, &mut hasher));
            }
            Action::Delete { key, uid, how, .. } => {
                (2u8, key, uid, how.grace_seconds, how.propagation).hash(&mut hasher);
            }
            Action::FinalizeNamespace { name, object } => {
                (3u8, name).hash(&mut hasher);
                hash_value(&object["spec"], &mut hasher);
            }
            Action::Event(_) => {}
        }
    }
    writes.then(|| hasher.finish())
}

fn hash_patch(patch: &Patch, hasher: &mut DefaultHasher) {
    (1u8, &patch.key, patch.subresource).hash(hasher);
    hash_value(&patch.body, hasher);
}

fn hash_value(value: &Value, hasher: &mut DefaultHasher) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields.iter().filter(|(key, _)| *key != "resourceVersion") {
                key.hash(hasher);
                hash_value(value, hasher);
            }
        }
        Value::Array(items) => {
            items.len().hash(hasher);
            items.iter().for_each(|item| hash_value(item, hasher));
        }
        Value::String(text) if text.parse::<Timestamp>().is_ok() => "time".hash(hasher),
        Value::String(text) => text.hash(hasher),
        other => other.to_string().hash(hasher),
    }
}

/// A merge patch (RFC 7386) of one object.
#[derive(Clone, Debug, PartialEq)]
pub struct Patch {
    /// What is patched.
    pub key: ObjectKey,
    /// Through which subresource.
    pub subresource: Option<&'static str>,
    /// The patch, with `metadata.resourceVersion` or `metadata.uid` as precondition.
    pub body: Value,
    /// Event to record once it is done.
    pub announce: Option<EventRecord>,
}

/// Options of a deletion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeleteHow {
    /// Zero removes a pod at once.
    pub grace_seconds: Option<i64>,
    /// What happens to what it owns.
    pub propagation: Option<Propagation>,
    /// Delete only this version of the object.
    pub revision: Option<u64>,
}

impl DeleteHow {
    /// Without waiting for anybody.
    pub const FORCE: Self = Self { grace_seconds: Some(0), propagation: None, revision: None };

    /// With `propagation`, and the grace that the object asks for.
    #[must_use]
    pub fn with(propagation: Propagation) -> Self {
        Self { grace_seconds: None, propagation: Some(propagation), revision: None }
    }
}

/// What a deletion means for what the object owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Propagation {
    /// Collected afterwards.
    Background,
    /// Collected first.
    Foreground,
    /// Kept, without the owner.
    Orphan,
}

/// An event about the outcome of a creation or deletion: the name is known only afterwards.
///
/// In a text, `{object}` stands for the name of the object, `{owner}` for the name of whom the event is about, `{error}`
/// for the error. One without any of these ends with the name or the error.
#[derive(Clone, Debug, PartialEq)]
pub struct Announce {
    /// Whom it is about.
    pub regarding: ObjectReference,
    /// Who says so.
    pub component: &'static str,
    /// Reason and text, on success.
    pub done: (&'static str, &'static str),
    /// Reason and text, on failure.
    pub failed: (&'static str, &'static str),
}

impl Announce {
    /// The event about what became of the creation or deletion of `object`.
    #[must_use]
    pub fn event(&self, object: &str, error: Option<&str>) -> EventRecord {
        let (reason, text) = if error.is_some() { self.failed } else { self.done };
        let owner = self.regarding.name.as_deref().unwrap_or_default();
        let message = if text.contains('{') {
            // What is filled in last may hold anything.
            text.replace("{owner}", owner).replace("{object}", object).replace("{error}", error.unwrap_or_default())
        } else {
            format!("{text}{}", error.unwrap_or(object))
        };
        let (regarding, reason) = (self.regarding.clone(), reason.to_owned());
        EventRecord { regarding, component: self.component, warning: error.is_some(), reason, message }
    }
}

/// One event, before repeats are counted.
#[derive(Clone, Debug, PartialEq)]
pub struct EventRecord {
    /// Whom it is about.
    pub regarding: ObjectReference,
    /// Who says so.
    pub component: &'static str,
    /// Whether it is a warning.
    pub warning: bool,
    /// One word.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

impl EventRecord {
    /// A normal event.
    #[must_use]
    pub fn normal(regarding: ObjectReference, component: &'static str, reason: &str, message: String) -> Self {
        Self { regarding, component, warning: false, reason: reason.to_owned(), message }
    }

    /// A warning.
    #[must_use]
    pub fn warning(regarding: ObjectReference, component: &'static str, reason: &str, message: String) -> Self {
        Self { warning: true, ..Self::normal(regarding, component, reason, message) }
    }
}

/// A kind that planners can write.
pub trait Kind: Resource + Metadata<Ty = ObjectMeta> {}
impl<K: Resource + Metadata<Ty = ObjectMeta>> Kind for K {}

/// The address of an object.
#[must_use]
pub fn key_of<K: Kind>(object: &K) -> ObjectKey {
    let meta = object.metadata();
    let resource = GroupResource { group: K::GROUP, resource: K::URL_PATH_SEGMENT };
    ObjectKey::new(resource, meta.namespace.as_deref(), meta.name.as_deref().unwrap_or_default())
}

/// A reference to an object, for events.
#[must_use]
pub fn reference<K: Kind>(object: &K) -> ObjectReference {
    let meta = object.metadata();
    ObjectReference {
        api_version: Some(K::API_VERSION.to_owned()),
        kind: Some(K::KIND.to_owned()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

/// Creates `object` in its own namespace.
#[must_use]
pub fn create<K: Kind + Serialize>(object: &K, announce: Option<Announce>) -> Action {
    Action::Create {
        group: K::GROUP,
        resource: K::URL_PATH_SEGMENT,
        namespace: object.metadata().namespace.clone(),
        object: to_value(object),
        announce,
    }
}

/// Deletes this incarnation of `object`.
#[must_use]
pub fn delete<K: Kind>(object: &K, how: DeleteHow, announce: Option<Announce>) -> Action {
    Action::Delete { key: key_of(object), uid: object.metadata().uid.clone().unwrap_or_default(), how, announce }
}

/// Patches exactly this version of `object` with `body`.
#[must_use]
pub fn patch<K: Kind>(object: &K, subresource: Option<&'static str>, mut body: Value) -> Action {
    let meta = object.metadata();
    if let Some(fields) = body.as_object_mut() {
        let metadata = fields.entry("metadata").or_insert_with(|| json!({}));
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.insert("resourceVersion".into(), json!(meta.resource_version));
            metadata.insert("uid".into(), json!(meta.uid));
        }
    }
    Action::Patch(Patch { key: key_of(object), subresource, body, announce: None })
}

/// The patch that turns `old` into `new`; nothing if they are the same, where an empty list is the
/// same as none. A status goes through the
/// `status` subresource, so `old` and `new` must not differ in other parts as well then.
#[must_use]
pub fn patch_to<K: Kind + Serialize>(old: &K, new: &K, subresource: Option<&'static str>) -> Option<Action> {
    let body = merge_diff(&prune(to_value(old)), &prune(to_value(new)))?;
    Some(patch(old, subresource, body))
}

/// An object as JSON. Typed API objects always have a JSON form.
#[must_use]
pub fn to_value<T: Serialize>(object: &T) -> Value {
    serde_json::to_value(object).expect("API types serialize")
}

/// The merge patch that turns `old` into `new`; `None` if they are equal.
#[must_use]
pub fn merge_diff(old: &Value, new: &Value) -> Option<Value> {
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return (old != new).then(|| new.clone());
    };
    let mut out = Map::new();
    for (key, value) in new {
        match old.get(key) {
            Some(before) => {
                if let Some(diff) = merge_diff(before, value) {
                    out.insert(key.clone(), diff);
                }
            }
            None => {
                out.insert(key.clone(), value.clone());
            }
        }
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        out.insert(key.clone(), Value::Null);
    }
    (!out.is_empty()).then_some(Value::Object(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_that_ask_for_the_same_have_one_fingerprint() {
        let key = |name: &str| ObjectKey::new(GroupResource { group: "", resource: "pods" }, Some("ns"), name);
        let patch = |name: &str, version: &str, status: &str, time: &str| {
            let body = json!({"metadata": {"resourceVersion": version}, "status": {"phase": status, "at": time}});
            Action::Patch(Patch { key: key(name), subresource: Some("status"), body, announce: None })
        };
        let delete = |revision| Action::Delete {
            key: key("a"),
            uid: "u".into(),
            how: DeleteHow { revision, ..DeleteHow::FORCE },
            announce: None,
        };
        let event = Action::Event(EventRecord::normal(ObjectReference::default(), "c", "Reason", "text".into()));
        let one = [patch("a", "1", "Failed", "2026-01-01T00:00:00Z"), delete(None)];
        for (name, other, same) in [
            ("itself", vec![one[0].clone(), one[1].clone()], true),
            ("later", vec![patch("a", "7", "Failed", "2026-01-01T00:05:00Z"), delete(Some(7))], true),
            ("with an event", vec![one[0].clone(), event.clone(), one[1].clone()], true),
            ("another object", vec![patch("b", "1", "Failed", "2026-01-01T00:00:00Z"), delete(None)], false),
            ("another value", vec![patch("a", "1", "Running", "2026-01-01T00:00:00Z"), delete(None)], false),
            ("less", vec![one[1].clone()], false),
        ] {
            assert_eq!(fingerprint(&one) == fingerprint(&other), same, "{name}");
        }
        assert_eq!(fingerprint(&[event]), None, "nothing is written");
    }

    #[test]
    fn an_outcome_is_told_in_the_words_of_its_kind() {
        let regarding = ObjectReference { name: Some("web".into()), ..ObjectReference::default() };
        let announce = |done, failed| Announce { regarding: regarding.clone(), component: "c", done, failed };
        let plain = announce(("Done", "Created pod: "), ("Failed", "Error creating: "));
        let full = announce(("Done", "{object} of {owner}"), ("Failed", "{object} of {owner}: {error}"));
        for (announce, error, expect) in [
            (&plain, None, "Done Created pod: web-0"),
            (&plain, Some("no"), "Failed Error creating: no"),
            (&full, None, "Done web-0 of web"),
            (&full, Some("no {object}"), "Failed web-0 of web: no {object}"),
        ] {
            let event = announce.event("web-0", error);
            assert_eq!(format!("{} {}", event.reason, event.message), expect);
            assert_eq!(event.warning, error.is_some());
        }
    }

    #[test]
    fn a_diff_says_only_what_changed() {
        for (old, new, expect) in [
            (json!({"a": 1}), json!({"a": 1}), None),
            (json!({"a": 1, "b": 2}), json!({"a": 1}), Some(json!({"b": null}))),
            (json!({"a": {"x": 1, "y": 1}}), json!({"a": {"x": 2, "y": 1}}), Some(json!({"a": {"x": 2}}))),
            (json!({"a": [1, 2]}), json!({"a": [2]}), Some(json!({"a": [2]}))),
            (json!({}), json!({"a": {"b": 1}}), Some(json!({"a": {"b": 1}}))),
        ] {
            assert_eq!(merge_diff(&old, &new), expect, "{old} -> {new}");
        }
    }
}
