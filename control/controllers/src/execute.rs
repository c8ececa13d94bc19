//! Carries out plans: the only place from which controllers write.
//!
//! Invariants
//! - Every write goes through the fenced client and carries its plan's precondition.
//! - Nothing is retried here: a stale or failed action ends in another turn of its key, on a view
//!   that is new enough to tell why.
//! - After a creation or deletion failed, the plan's other creations and deletions are left out;
//!   patches (a status that tells of the failure) go on.
//! - A creation that is refused because its namespace is on its way out is over: it is not a failure, and
//!   nobody is told.
//! - Creations start slowly, so that a refusal costs one request, not hundreds.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ObjectReference;
use kontiki_api::leader::{LeaderContext, Signer};
use kontiki_api::recorder::Recorder;
use kontiki_api::{Client, DeleteOptions, Effect, PatchKind, Propagation, Registry, Status, Target, Writer};
use kontiki_model::{GroupResource, ObjectKey, Revision};
use kontiki_plan::{Action, Announce, Condition, DeleteHow, EventRecord, Order, Patch, Refusal, Verb, action};
use kontiki_store::Store;
use serde_json::{Value, json};
use tracing::{debug, warn};

/// The reason of the event about actions that come to nothing.
const WITHOUT_EFFECT: &str = "ActionWithoutEffect";
/// Most requests of one plan under way at once.
const TOGETHER: usize = 32;

/// Why an action did not happen.
enum ActionError {
    /// The view was out of date.
    Stale(Status),
    /// The API said no.
    Refused(Status),
    /// The API said no, and will say so as long as the namespace is there.
    NamespaceTerminating(Status),
    /// It may have happened.
    Unknown(Status),
}

/// What became of a plan.
#[derive(Default)]
pub struct Applied {
    /// A view has to show this to show what was done.
    pub floor: Revision,
    /// Whether something went wrong.
    pub failed: bool,
    /// Whether anything changed.
    pub effect: bool,
    /// How many actions were asked for.
    pub actions: usize,
    /// What the API refused, in order.
    pub refusals: Vec<Refusal>,
}

/// Applies actions.
#[derive(Clone)]
pub struct Executor {
    /// Name of the controller.
    controller: &'static str,
    client: Client,
    store: Store,
    recorder: Recorder,
    signer: Arc<dyn Signer>,
}

impl Executor {
    /// One whose writes carry the term of `context` and are counted for `writer`.
    #[must_use]
    pub fn new(context: &LeaderContext, recorder: &Recorder, controller: &'static str, writer: Writer) -> Self {
        Self {
            controller,
            client: context.client.counted_for(writer),
            store: context.api.store().clone(),
            recorder: recorder.counted_for(writer),
            signer: context.signer.clone(),
        }
    }

    /// Applies a plan's actions in order, those that do not depend on each other together.
    pub async fn apply(&self, actions: Vec<Action>) -> Applied {
        let mut applied = Applied::default();
        let (mut blocked, mut unknown) = (false, false);
        for batch in batches(actions) {
            if blocked && !matches!(batch[0], Action::Patch(_) | Action::FirstOf(_) | Action::Event(_)) {
                continue;
            }
            applied.actions += batch.len();
            let gate = !matches!(batch[0], Action::Event(_));
            let results = self.together(batch).await;
            applied.effect |= results.iter().any(|(_, result)| matches!(result, Ok(Effect::Changed)));
            for (verb, error) in results.into_iter().filter_map(|(verb, result)| Some((verb, result.err()?))) {
                applied.failed |= !matches!(error, ActionError::NamespaceTerminating(_));
                blocked |= gate;
                unknown |= matches!(error, ActionError::Unknown(_));
                let message = report(&error);
                if matches!(error, ActionError::Refused(_)) {
                    applied.refusals.push(Refusal { verb, message });
                }
            }
        }
        if unknown {
            // What is under way lands before the barrier or not at all in this term's log order.
            let _ = self.store.barrier().await;
        }
        applied.floor = self.store.snapshot().revision();
        applied
    }

    /// Applies a batch, creations in growing groups.
    async fn together(&self, batch: Vec<Action>) -> Vec<(Verb, Result<Effect, ActionError>)> {
        let slow = matches!(batch[0], Action::Create { .. });
        let (mut rest, mut out, mut group) = (batch, Vec::new(), if slow { 1 } else { TOGETHER });
        while !rest.is_empty() {
            let later = rest.split_off(group.min(rest.len()));
            let results = futures::stream::iter(rest.into_iter().map(|action| self.one(action)));
            let results: Vec<_> = results.buffer_unordered(TOGETHER).collect().await;
            let failed = results.iter().any(|(_, result)| result.is_err());
            out.extend(results);
            if failed {
                break;
            }
            rest = later;
            group = (group * 2).min(TOGETHER * 4);
        }
        out
    }

    async fn one(&self, action: Action) -> (Verb, Result<Effect, ActionError>) {
        let verb = action.verb();
        let result = match action {
            Action::Create { group, resource, namespace, object, announce } => {
                let resource = GroupResource { group, resource };
                let wanted = name_of(&object);
                let result = self.client.create(resource, namespace.as_deref(), object).await;
                let outcome = result.as_ref().map(|_| ());
                self.announce(announce.as_ref(), &result.as_ref().map_or(wanted, name_of), outcome);
                result.map(|_| Effect::Changed).map_err(judge)
            }
            Action::Delete { key, uid, how, announce } => {
                let result =
                    self.client.delete(target(&key, None), options(uid, how)).await.map(|written| written.effect);
                if !matches!(result, Ok(Effect::Nothing)) {
                    self.announce(announce.as_ref(), &key.name, result.as_ref().map(|_| ()));
                }
                gone_is_fine(result)
            }
            Action::Patch(patch) => self.patch(patch).await,
            Action::FirstOf(choices) => self.first_of(choices).await,
            Action::FinalizeNamespace { name, object } => {
                let resource = GroupResource { group: "", resource: "namespaces" };
                let target = Target { resource, namespace: None, name: &name, subresource: Some("finalize") };
                gone_is_fine(self.client.update(target, object).await.map(|written| written.effect))
            }
            Action::Event(event) => {
                self.record(&event);
                Ok(Effect::Nothing)
            }
        };
        (verb, result)
    }

    async fn patch(&self, patch: Patch) -> Result<Effect, ActionError> {
        let target = target(&patch.key, patch.subresource);
        let written = self.client.patch(target, PatchKind::Merge, patch.body).await;
        let effect = gone_is_fine(written.map(|written| written.effect))?;
        if let Some(event) = patch.announce.as_ref().filter(|_| effect == Effect::Changed) {
            self.record(event);
        }
        Ok(effect)
    }

    async fn first_of(&self, choices: Vec<(Condition, Patch)>) -> Result<Effect, ActionError> {
        for (condition, mut patch) in choices {
            let holds = match condition {
                Condition::Allowed(spec) => self.allowed(spec).await?,
                Condition::Signed(order) => {
                    patch.body["status"]["certificate"] = STANDARD.encode(self.sign(&order)?).into();
                    true
                }
            };
            if holds {
                return self.patch(patch).await;
            }
        }
        Ok(Effect::Nothing)
    }

    async fn allowed(&self, spec: Value) -> Result<bool, ActionError> {
        let resource = GroupResource { group: "authorization.k8s.io", resource: "subjectaccessreviews" };
        let review = self.client.create(resource, None, json!({ "spec": spec })).await.map_err(judge)?;
        Ok(review["status"]["allowed"] == true)
    }

    fn sign(&self, order: &Order) -> Result<String, ActionError> {
        let life = Duration::from_secs(u64::try_from(order.seconds).unwrap_or_default());
        let signed = self.signer.sign(&order.request_pem, &order.usages, life);
        signed.map_err(|why| ActionError::Refused(Status::bad_request(format!("error auto signing csr: {why}"))))
    }

    /// Tells people that what this controller asks for comes to nothing.
    pub(crate) fn tell_without_effect(&self, verb: Verb, key: &ObjectKey, uid: &str) {
        let controller = self.controller;
        warn!(controller, %verb, %key, "the same action again and again has no lasting effect; it waits");
        let message = format!(
            "{} asks again and again to {verb} this object, without lasting effect; it waits longer each time",
            self.controller
        );
        self.recorder.record(
            &reference(self.client.registry(), key, uid),
            self.controller,
            true,
            WITHOUT_EFFECT,
            &message,
        );
    }

    fn record(&self, event: &EventRecord) {
        self.recorder.record(&event.regarding, event.component, event.warning, &event.reason, &event.message);
    }

    fn announce(&self, announce: Option<&Announce>, object: &str, outcome: Result<(), &Status>) {
        let Some(announce) = announce else { return };
        let error = match outcome {
            Ok(()) => None,
            // Somebody else was faster, or the leadership is over, or the namespace goes: nothing that a person
            // should act on.
            Err(status) if status.is_not_found() => return,
            Err(status)
                if matches!(judge(status.clone()), ActionError::Stale(_) | ActionError::NamespaceTerminating(_)) =>
            {
                return;
            }
            Err(status) => Some(status.message.as_str()),
        };
        self.record(&announce.event(object, error));
    }
}

fn name_of(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

fn target<'a>(key: &'a ObjectKey, subresource: Option<&'a str>) -> Target<'a> {
    Target { resource: key.group_resource(), namespace: key.namespace.as_deref(), name: &key.name, subresource }
}

fn options(uid: String, how: DeleteHow) -> DeleteOptions {
    let propagation = how.propagation.map(|propagation| match propagation {
        action::Propagation::Background => Propagation::Background,
        action::Propagation::Foreground => Propagation::Foreground,
        action::Propagation::Orphan => Propagation::Orphan,
    });
    DeleteOptions {
        grace_period_seconds: how.grace_seconds,
        propagation,
        precondition_uid: Some(uid),
        precondition_resource_version: how.revision.map(|revision| revision.to_string()),
    }
}

/// A reference to the object at `key`, for events.
fn reference(registry: &Registry, key: &ObjectKey, uid: &str) -> ObjectReference {
    let table = registry.table();
    let def = table.find_resource(key.group_resource());
    ObjectReference {
        api_version: def.map(|def| def.api_version()),
        kind: def.map(|def| def.kind.to_string()),
        namespace: key.namespace.clone(),
        name: Some(key.name.clone()),
        uid: Some(uid.to_owned()).filter(|uid| !uid.is_empty()),
        ..ObjectReference::default()
    }
}

/// What is not there any more needs no patch and no deletion.
fn gone_is_fine(result: Result<Effect, Status>) -> Result<Effect, ActionError> {
    match result {
        Err(status) if status.is_not_found() => Ok(Effect::Nothing),
        other => other.map_err(judge),
    }
}

fn judge(status: Status) -> ActionError {
    match status.code {
        409 => ActionError::Stale(status),
        403 if status.is_namespace_terminating() => ActionError::NamespaceTerminating(status),
        400..=499 => ActionError::Refused(status),
        _ => ActionError::Unknown(status),
    }
}

fn report(error: &ActionError) -> String {
    match error {
        ActionError::Stale(status) => {
            debug!(status = status.message, "the view was out of date");
            status.message.clone()
        }
        ActionError::NamespaceTerminating(status) => {
            debug!(status = status.message, "the namespace is on its way out");
            status.message.clone()
        }
        ActionError::Refused(status) => {
            warn!(status = status.message, "an action was refused; it is tried again later");
            status.message.clone()
        }
        ActionError::Unknown(status) => {
            warn!(status = status.message, "the outcome of an action is not known; it is looked at again");
            status.message.clone()
        }
    }
}

/// Splits a plan where an action may depend on one before it: at a change of sort, and where an
/// object comes a second time.
fn batches(actions: Vec<Action>) -> Vec<Vec<Action>> {
    let mut out: Vec<Vec<Action>> = Vec::new();
    let mut seen: HashSet<ObjectKey> = HashSet::new();
    for action in actions {
        let key = match &action {
            Action::Patch(_) | Action::FirstOf(_) => action.subject().map(|(key, _)| key),
            Action::Delete { key, .. } => Some(key.clone()),
            _ => None,
        };
        let fits = out.last().and_then(|batch| batch.first()).is_some_and(|first| {
            std::mem::discriminant(first) == std::mem::discriminant(&action)
                && key.as_ref().is_none_or(|k| !seen.contains(k))
        });
        if !fits {
            out.push(Vec::new());
            seen.clear();
        }
        seen.extend(key);
        if let Some(batch) = out.last_mut() {
            batch.push(action);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use kontiki_plan::DeleteHow;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_plan_is_split_where_order_matters() {
        let key = |name: &str| ObjectKey::new(GroupResource { group: "", resource: "pods" }, Some("ns"), name);
        let patch =
            |name: &str| Action::Patch(Patch { key: key(name), subresource: None, body: json!({}), announce: None });
        let delete =
            |name: &str| Action::Delete { key: key(name), uid: "u".into(), how: DeleteHow::default(), announce: None };
        let sizes = |actions| batches(actions).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(vec![patch("a"), patch("b"), delete("a"), delete("b")]), [2, 2]);
        assert_eq!(sizes(vec![patch("a"), patch("a"), patch("b")]), [1, 2]);
        assert_eq!(sizes(vec![]), [0usize; 0]);
    }
}
