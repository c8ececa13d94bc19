//! Delete and deletecollection: grace, finalizers, propagation, preconditions.
//!
//! Invariants
//! - As upstream's `BeforeDelete` and `updateForGracefulDeletionAndFinalizers` decide. A delete may be
//!   sent any number of times: one that finds nothing to change writes nothing.

use std::collections::BTreeSet;

use futures::{StreamExt, stream};
use kontiki_machinery::FieldError;
use kontiki_machinery::status::StatusDetails;
use kontiki_model::GroupResource;
use serde_json::{Value, json};

use crate::call::{Answer, Call, Input};
use crate::clock::format_time;
use crate::codec;
use crate::object::{deleting, finalizers, meta_str, metadata_mut, set_resource_version};
use crate::params::{check_dry_run, options_error};
use crate::pipeline::{self, Draft, release};
use crate::state::{Extra, served};
use crate::verbs::change::{Changed, Decide, Decision, Next, Round};
use crate::{DeleteOptions, Propagation, Status};

const OPTIONS: &str = "DeleteOptions";
/// Deletes of one deletecollection that share group commits.
const DELETES_AT_ONCE: usize = 16;
/// The option that lets go what cannot be read.
const CORRUPT: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";
/// What it does not go with: nothing is known of the object.
const NOT_WITH_CORRUPT: [&str; 4] = ["propagationPolicy", "orphanDependents", "gracePeriodSeconds", "preconditions"];
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// The options of a delete, checked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    pub options: DeleteOptions,
    pub orphan_dependents: Option<bool>,
    pub dry_run: bool,
    /// Whether what cannot be read is to go.
    pub corrupt: bool,
}

impl Decide for Request {
    async fn decide(&self, call: &Call, round: Round<'_>) -> Result<Decision, Status> {
        call.check_delete_preconditions(round.current, &self.options)?;
        let old = round.current;
        set_resource_version(old, None);
        let now = round.memo.now;
        let mut draft = Draft::removal(call, round.state.clone(), old, round.dry_run, round.memo);
        pipeline::run(&mut draft, &pipeline::REMOVAL).await?;
        let Draft { extra, mut warnings, .. } = draft;
        warnings.extend(call.orphan_warning(self));
        Ok(Decision { next: call.decide_delete(old, self, extra, now), warnings })
    }
}

impl Call {
    /// The options of a delete: the body if there is one, else the query.
    pub fn delete_request(&mut self, input: Option<Input>) -> Result<Request, Status> {
        let from_query = || query_options(self);
        let body = match input {
            None => None,
            Some(Input::Bytes { data, .. }) if data.is_empty() => None,
            Some(input) => Some(codec::decode_delete_options(input)?),
        };
        let options = match body {
            Some(body) => body,
            None => from_query()?,
        };
        request_of(&options)
    }

    /// Deletes the object that this call names.
    pub async fn delete(&mut self, request: &Request) -> Result<Answer, Status> {
        if let Some(protected) = &self.def.protected
            && protected.names.iter().any(|name| name == self.name())
        {
            return Err(Status::forbidden(self.def.group_resource(), self.name(), &protected.why));
        }
        if request.corrupt {
            return Box::pin(self.delete_corrupt(request.dry_run)).await;
        }
        let Changed { object, removed, written, warnings, .. } = self.change(request.dry_run, request).await?;
        self.warnings.extend(warnings);
        self.effect = written.into();
        if !removed || self.def.delete_returns_object {
            return Ok(Answer::Object { code: 200, object });
        }
        let value = object.value()?;
        let details = StatusDetails {
            name: self.name().to_owned(),
            group: self.def.group.to_string(),
            kind: self.def.plural.to_string(),
            uid: meta_str(&value, "uid").to_owned(),
            ..StatusDetails::default()
        };
        Ok(Answer::Status { code: 200, status: Status::success(Some(details)) })
    }

    /// What to tell a client that did not say what becomes of the dependents.
    fn orphan_warning(&self, request: &Request) -> Option<String> {
        let said = request.orphan_dependents.is_some() || request.options.propagation.is_some();
        self.def.strategy.orphan_warning().filter(|_| !said).map(str::to_owned)
    }

    /// What a delete that admission has let pass makes of `old`, which has no version.
    pub(crate) fn decide_delete(&self, old: &Value, request: &Request, extra: Extra, now: jiff::Timestamp) -> Next {
        let mut new = old.clone();
        if let Some(over) = self.def.strategy.terminate(&mut new, &format_time(now)) {
            return self.next(new, old, over, extra);
        }
        let requested = request.options.grace_period_seconds;
        let grace = self.def.strategy.grace_period(&new, requested);
        let end = give_grace(&mut new, grace, requested, now);
        if end == End::Pending {
            return Next::Keep;
        }
        set_collection_finalizers(&mut new, request, self.def.strategy.orphans_by_default());
        let held = !finalizers(&new).is_empty();
        if end == End::Now && held {
            mark(&mut new, now);
        }
        let over = end == End::Now || new["metadata"]["deletionGracePeriodSeconds"] == 0;
        self.next(new, old, over && !held, extra)
    }

    fn next(&self, new: Value, old: &Value, gone: bool, mut extra: Extra) -> Next {
        if gone {
            extra.append(release(&self.def, &new));
            return Next::Remove(new, extra);
        }
        if new == *old { Next::Keep } else { Next::Put(new, extra) }
    }

    pub(crate) fn check_delete_preconditions(&self, current: &Value, options: &DeleteOptions) -> Result<(), Status> {
        let conflict = |text: String| {
            let kind = GroupResource { group: &self.def.group, resource: &self.def.kind };
            Status::conflict(kind, self.name(), text)
        };
        let uid = meta_str(current, "uid");
        if let Some(wanted) = options.precondition_uid.as_deref().filter(|wanted| *wanted != uid) {
            return Err(conflict(format!(
                "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). \
                 The object might have been deleted and then recreated"
            )));
        }
        let version = meta_str(current, "resourceVersion");
        if let Some(wanted) = options.precondition_resource_version.as_deref().filter(|wanted| *wanted != version) {
            return Err(conflict(format!(
                "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({version}). \
                 The object might have been modified"
            )));
        }
        Ok(())
    }

    /// Deletes what a list of this collection would show. Answers with that list.
    pub async fn delete_collection(&mut self, request: &Request) -> Result<Answer, Status> {
        if request.corrupt {
            let why = "is not allowed with DELETECOLLECTION, try again after removing the option";
            return Err(options_error(OPTIONS, &[FieldError::invalid(CORRUPT, true, why)]));
        }
        let list = self.collect().await?;
        let mut calls = Vec::with_capacity(list.items.len());
        for entry in &list.items {
            let object = served(&self.def, entry)?;
            let mut one = self.on_object();
            one.name = Some(meta_str(&object, "name").to_owned());
            one.namespace = Some(meta_str(&object, "namespace").to_owned()).filter(|ns| !ns.is_empty());
            calls.push(one);
        }
        let mut deletes = stream::iter(calls)
            .map(|mut one| async move { one.delete(request).await.map(|_| ()) })
            .buffered(DELETES_AT_ONCE); // in order, so that watchers see them in the list's order
        while let Some(deleted) = deletes.next().await {
            match deleted {
                Err(status) if !status.is_not_found() => return Err(status),
                _ => {} // gone, by us or somebody faster
            }
        }
        drop(deletes);
        self.warnings.extend(self.orphan_warning(request));
        Ok(Answer::List(list))
    }
}

fn query_options(call: &Call) -> Result<Value, Status> {
    let params = &call.params;
    let mut options = json!({});
    if let Some(seconds) = params.int("gracePeriodSeconds")? {
        options["gracePeriodSeconds"] = seconds.into();
    }
    if let Some(policy) = params.get("propagationPolicy") {
        options["propagationPolicy"] = policy.into();
    }
    if let Some(orphan) = params.flag("orphanDependents") {
        options["orphanDependents"] = orphan.into();
    }
    if let Some(corrupt) = params.flag(CORRUPT) {
        options[CORRUPT] = corrupt.into();
    }
    options["dryRun"] = params.all("dryRun").collect::<Vec<_>>().into();
    Ok(options)
}

/// Checks DeleteOptions, as upstream's `ValidateDeleteOptions` does.
pub(crate) fn request_of(options: &Value) -> Result<Request, Status> {
    let mut errors = Vec::new();
    let orphan_dependents = options["orphanDependents"].as_bool();
    let policy = options["propagationPolicy"].as_str();
    let propagation = match policy {
        None => None,
        Some("Foreground") => Some(Propagation::Foreground),
        Some("Background") => Some(Propagation::Background),
        Some("Orphan") => Some(Propagation::Orphan),
        Some(other) => {
            let known = ["Foreground", "Background", "Orphan", "nil"];
            errors.push(FieldError::not_supported("propagationPolicy", other, &known));
            None
        }
    };
    if let (Some(policy), Some(_)) = (policy, orphan_dependents) {
        let text = "orphanDependents and deletionPropagation cannot be both set";
        errors.insert(0, FieldError::invalid("propagationPolicy", policy, text));
    }
    let corrupt = options[CORRUPT] == true;
    let with = NOT_WITH_CORRUPT.iter().filter(|field| corrupt && !options[*field].is_null());
    errors
        .extend(with.map(|field| FieldError::invalid(CORRUPT, true, format!("cannot be set together with .{field}"))));
    if !errors.is_empty() {
        return Err(options_error(OPTIONS, &errors));
    }
    let texts: Vec<&str> = options["dryRun"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let precondition = |field: &str| options["preconditions"][field].as_str().map(str::to_owned);
    Ok(Request {
        dry_run: check_dry_run(&texts, OPTIONS)?,
        corrupt,
        orphan_dependents,
        options: DeleteOptions {
            grace_period_seconds: options["gracePeriodSeconds"].as_i64(),
            propagation,
            precondition_uid: precondition("uid"),
            precondition_resource_version: precondition("resourceVersion"),
        },
    })
}

/// Adds and removes the two finalizers of garbage collection as the options ask.
fn set_collection_finalizers(object: &mut Value, request: &Request, orphan_by_default: bool) {
    let has = |name: &str| finalizers(object).contains(&name);
    let (orphan, foreground) = match (request.orphan_dependents, request.options.propagation) {
        (Some(orphan), _) => (orphan, false),
        (None, Some(policy)) => (policy == Propagation::Orphan, policy == Propagation::Foreground),
        (None, None) if has(ORPHAN) => (true, false),
        (None, None) if has(FOREGROUND) => (false, true),
        (None, None) => (orphan_by_default, false),
    };
    let mut kept: Vec<String> =
        finalizers(object).into_iter().filter(|f| *f != ORPHAN && *f != FOREGROUND).map(str::to_owned).collect();
    if orphan {
        kept.push(ORPHAN.into());
    }
    if foreground {
        kept.push(FOREGROUND.into());
    }
    let (had, wanted): (BTreeSet<&str>, BTreeSet<&str>) =
        (finalizers(object).into_iter().collect(), kept.iter().map(String::as_str).collect());
    if had == wanted {
        return; // their order says nothing
    }
    let metadata = metadata_mut(object);
    if kept.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".into(), kept.into());
    }
}

/// When an object that is deleted may go, its finalizers apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// At once: its kind knows no grace, or its grace is over.
    Now,
    /// After the grace that this request gave or shortened.
    Later,
    /// After the grace that an earlier request gave: this one changes nothing, finalizers included.
    Pending,
}

/// Gives the object its grace, or shortens what is left of it. `grace` is the strategy's answer.
fn give_grace(object: &mut Value, grace: Option<i64>, requested: Option<i64>, now: jiff::Timestamp) -> End {
    let Some(grace) = grace else { return End::Now };
    if !deleting(object) {
        begin(object, grace, now);
        return End::Later;
    }
    let left = object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    match requested.map(|seconds| if seconds < 0 { 1 } else { seconds }) {
        _ if left == 0 => End::Now,
        Some(wanted) if wanted < left => {
            shorten(object, left, wanted, now);
            End::Later
        }
        _ => End::Pending,
    }
}

/// Marks an object whose finalizers alone hold it.
fn mark(object: &mut Value, now: jiff::Timestamp) {
    match deletion_time(object) {
        None => begin(object, 0, now),
        Some(later) if later > now => set_deletion(object, now, 0),
        Some(_) => {
            metadata_mut(object).insert("deletionGracePeriodSeconds".into(), 0.into());
        }
    }
}

fn begin(object: &mut Value, grace: i64, now: jiff::Timestamp) {
    set_deletion(object, after(now, grace), grace);
    let metadata = metadata_mut(object);
    if let Some(generation) = metadata.get("generation").and_then(Value::as_i64).filter(|g| *g > 0) {
        metadata.insert("generation".into(), (generation + 1).into());
    }
}

/// Moves the end of the grace from `left` seconds after the deletion was asked for to `wanted`.
fn shorten(object: &mut Value, left: i64, wanted: i64, now: jiff::Timestamp) {
    let end = deletion_time(object).unwrap_or(now);
    set_deletion(object, after(end, wanted - left), wanted);
}

fn deletion_time(object: &Value) -> Option<jiff::Timestamp> {
    object["metadata"]["deletionTimestamp"].as_str()?.parse().ok()
}

fn set_deletion(object: &mut Value, at: jiff::Timestamp, grace: i64) {
    let metadata = metadata_mut(object);
    metadata.insert("deletionTimestamp".into(), format_time(at).into());
    metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
}

fn after(at: jiff::Timestamp, seconds: i64) -> jiff::Timestamp {
    at.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(jiff::Timestamp::MAX)
}
