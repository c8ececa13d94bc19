//! One webhook: whether it is asked, how it is asked, what its answer means.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use kontiki_machinery::{
    ResourceDef, Status, Table,
    admission::{Annotation, AnnotationKey, AsyncStep, Lookup, Phase, Request, Verdict, Waiting},
    conversion,
    outcall::{Patience, Target},
    patch::{PatchError, json_patch},
};
use serde_json::Value;

use super::{
    CallContext,
    review::{self, Answer, Version},
};
use crate::{
    expressions::{
        Age,
        admission::{CONDITIONS, Conditions, Run, Scope, Subject},
    },
    matching::Matching,
    rows::value::{int, list, text, texts},
};

/// Under which the audit log tells what a webhook wanted, and whether it changed anything.
const PATCHED: &str = "patch.webhook.admission.k8s.io/";
const MUTATED: &str = "mutation.webhook.admission.k8s.io/";

/// A webhook of a configuration.
pub(super) struct Hook {
    /// Unique among all webhooks of its phase.
    id: String,
    name: String,
    configuration: String,
    /// Which of all webhooks of its phase it is.
    pub place: AtomicUsize,
    phase: Phase,
    context: Arc<CallContext>,
    target: Target,
    matching: Matching,
    conditions: Conditions,
    /// Whether a request passes if the webhook cannot be asked.
    ignored: bool,
    /// Whether it may be asked about what is not stored.
    harmless: bool,
    timeout: Duration,
    version: Option<Version>,
    reinvocable: bool,
}

/// Why a webhook says nothing good.
enum CallFailure {
    /// It cannot be asked, or does not answer as it has to: the failure policy says what that means.
    Calling(String),
    /// The request is refused.
    Refused(Box<Status>),
}

impl Hook {
    /// The `at`th webhook of its name in a configuration, with its defaults; `None` if nobody could be called.
    pub fn of(
        phase: Phase,
        context: &Arc<CallContext>,
        (configuration, at): (&str, usize),
        hook: &Value,
    ) -> Option<Self> {
        let name = text(hook, "name").to_owned();
        Some(Self {
            id: format!("{configuration}/{name}/{at}"),
            configuration: configuration.to_owned(),
            place: AtomicUsize::new(0),
            phase,
            context: Arc::clone(context),
            target: Target::of(&hook["clientConfig"])?,
            matching: Matching::of(hook, "rules"),
            conditions: Conditions::of(list(hook, "matchConditions"), &Scope::new(false, true, Age::Stored)),
            ignored: text(hook, "failurePolicy") == "Ignore",
            harmless: matches!(text(hook, "sideEffects"), "None" | "NoneOnDryRun"),
            timeout: Duration::from_secs(int(hook, "timeoutSeconds").map_or(10, i64::unsigned_abs)),
            version: texts(hook, "admissionReviewVersions").into_iter().find_map(Version::of),
            reinvocable: text(hook, "reinvocationPolicy") == "IfNeeded",
            name,
        })
    }

    /// As what a request is meant for it by its rules.
    pub fn resource(&self, request: &Request<'_>, table: &Table) -> Option<Arc<ResourceDef>> {
        self.matching.resource(request, table)
    }

    /// Asks; gives the object that it wants in the place of `object`, if it wants another, and what it warns of.
    async fn ask(&self, request: &Request<'_>, object: &Value, deadline: Instant) -> Result<Verdict, CallFailure> {
        if request.dry_run && !self.harmless {
            let text = format!("admission webhook \"{}\" does not support dry run", self.name);
            return Err(CallFailure::Refused(Box::new(Status::bad_request(text))));
        }
        let table = self.context.registry.table();
        // A row that went meanwhile leaves the webhook with what the client sent.
        let def = self.resource(request, &table);
        let def = def.as_deref().unwrap_or(request.def);
        let seen = self.seen(request, object, def, deadline).await?;
        let answer = self.call(request, def, &seen, deadline).await?;
        let Answer { allowed, status, patch, warnings, annotations } = answer;
        let own = |(key, value): (String, String)| Annotation {
            key: AnnotationKey::Plain(format!("{}/{key}", self.name)),
            value,
        };
        let mut annotations: Vec<Annotation> = annotations.into_iter().map(own).collect();
        if !allowed {
            let refusal = Some(Box::new(review::refusal(&self.name, status)));
            return Ok(Verdict { refusal, warnings, annotations, ..Verdict::default() });
        }
        let (mut object, mut mutated) = (None, false);
        if let Some(patch) = patch {
            let new = patched(&self.name, seen.clone(), &patch)?;
            mutated = new != seen;
            annotations.push(self.tells(PATCHED, &format!("\"patch\":{patch},\"patchType\":\"JSONPatch\"")));
            let back = converted(request, def);
            object = Some(if back { self.shown_as((def, request.def), new, deadline).await? } else { new });
        }
        if self.phase == Phase::Mutating {
            annotations.push(self.tells(MUTATED, &format!("\"mutated\":{mutated}")));
        }
        Ok(Verdict { object, warnings, annotations, ..Verdict::default() })
    }

    /// What the audit log is told of this webhook's turn, `what` besides who it is.
    fn tells(&self, prefix: &'static str, what: &str) -> Annotation {
        let (configuration, webhook) = (Value::from(self.configuration.as_str()), Value::from(self.name.as_str()));
        let value = format!("{{\"configuration\":{configuration},\"webhook\":{webhook},{what}}}");
        Annotation { key: AnnotationKey::OfRound(prefix, self.place.load(Ordering::Relaxed)), value }
    }

    /// What is said of a webhook that could not be asked, where that does not matter.
    fn passed_over(&self) -> Verdict {
        let place = self.place.load(Ordering::Relaxed);
        let (mutating, prefix) = match self.phase {
            Phase::Mutating => (true, "failed-open.mutation.webhook.admission.k8s.io/"),
            Phase::Validating => (false, "failed-open.validating.webhook.admission.k8s.io/"),
        };
        let mut annotations = vec![Annotation { key: AnnotationKey::OfRound(prefix, place), value: self.name.clone() }];
        annotations.extend(mutating.then(|| self.tells(MUTATED, "\"mutated\":false")));
        Verdict { annotations, ..Verdict::default() }
    }

    /// Whether its conditions hold.
    fn meets(&self, request: &Request<'_>, object: &Value, cluster: &dyn Lookup) -> Result<bool, Status> {
        if self.conditions.is_empty() {
            return Ok(true);
        }
        let table = self.context.registry.table();
        let def = self.resource(request, &table);
        let def = def.as_deref().unwrap_or(request.def);
        let old = request.old.map(|old| shown(request, old, def, cluster)).transpose()?.unwrap_or_default();
        let object = shown(request, object, def, cluster)?;
        let about = review::about(request, def, (&object, request.old));
        let subject = Subject { object, old, request: about, ..Subject::default() };
        match Run::with((&subject, request.user, CONDITIONS), cluster, |run| self.conditions.hold(run)) {
            Ok(holds) => Ok(holds),
            Err(_) if self.ignored => Ok(false),
            Err(why) => Err(Status::forbidden(request.def.group_resource(), request.name, why)),
        }
    }

    async fn call(
        &self,
        request: &Request<'_>,
        def: &ResourceDef,
        object: &Value,
        deadline: Instant,
    ) -> Result<Answer, CallFailure> {
        let Some(version) = self.version else {
            let text = "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)";
            return Err(CallFailure::Calling(text.to_owned()));
        };
        let caller = &self.context.caller;
        let uid = caller.uid();
        let old = match request.old {
            Some(old) => Some(self.seen(request, old, def, deadline).await?),
            None => None,
        };
        let question = review::question(version, &uid, request, def, (object, old.as_ref()));
        let patience = Patience { timeout: self.timeout, deadline };
        let body = caller.post(&self.target, question.to_string().into_bytes(), patience).await;
        let body = body.map_err(|why| CallFailure::Calling(format!("failed to call webhook: {why}")))?;
        review::answer(version, &uid, self.phase, &body).map_err(CallFailure::Calling)
    }

    /// An object of the request as the webhook sees it.
    async fn seen(
        &self,
        request: &Request<'_>,
        object: &Value,
        def: &ResourceDef,
        deadline: Instant,
    ) -> Result<Value, CallFailure> {
        if !converted(request, def) || object.is_null() {
            return Ok(object.clone());
        }
        self.shown_as((request.def, def), object.clone(), deadline).await
    }

    /// Whatever the failure policy says, a request whose object cannot be converted is refused.
    async fn shown_as(
        &self,
        rows: (&ResourceDef, &ResourceDef),
        object: Value,
        deadline: Instant,
    ) -> Result<Value, CallFailure> {
        let shown = conversion::shown_as(Some(&*self.context.caller), rows, object, deadline).await;
        shown.map_err(|why| CallFailure::Refused(Box::new(Status::internal(why))))
    }

    async fn judge(&self, request: &Request<'_>, object: &Value, deadline: Instant) -> Result<Verdict, Status> {
        match self.ask(request, object, deadline).await {
            Ok(verdict) => Ok(verdict),
            Err(CallFailure::Calling(_)) if self.ignored => Ok(self.passed_over()),
            Err(CallFailure::Calling(why)) => {
                Err(Status::internal(format!("failed calling webhook \"{}\": {why}", self.name)))
            }
            Err(CallFailure::Refused(status)) => Err(*status),
        }
    }
}

/// The object with a webhook's patch.
fn patched(name: &str, mut shown: Value, patch: &Value) -> Result<Value, CallFailure> {
    if shown.is_null() {
        let why = "attempted to modify the object, which is not supported for this operation";
        let text = format!("admission webhook \"{name}\" {why}");
        return Err(CallFailure::Refused(Box::new(Status::internal(text))));
    }
    let wrong = |error| match error {
        PatchError::Rejected(why) => CallFailure::Refused(Box::new(Status::internal(why))),
        other => CallFailure::Refused(Box::new(Status::internal(other))),
    };
    json_patch(&mut shown, patch).map_err(wrong)?;
    Ok(shown)
}

/// Whether the webhook sees the object in another form than the client.
fn converted(request: &Request<'_>, def: &ResourceDef) -> bool {
    let own_type = request
        .sub
        .and_then(|sub| request.def.subresource(sub))
        .is_some_and(|sub| sub.handler.schema().is_some() || matches!(sub.handler, crate::Handler::Node(..)));
    !own_type && (def.api_version() != request.def.api_version() || def.kind != request.def.kind)
}

/// What one who is asked about `def` made of an object, in the form of the request.
///
/// # Errors
/// As [`Lookup::shown_as`].
pub(crate) fn taken(
    request: &Request<'_>,
    object: &Value,
    def: &ResourceDef,
    cluster: &dyn Lookup,
) -> Result<Value, Status> {
    if converted(request, def) { cluster.shown_as(def, request.def, object) } else { Ok(object.clone()) }
}

/// An object of a request as one who is asked about `def` sees it.
///
/// # Errors
/// As [`Lookup::shown_as`].
pub(crate) fn shown(
    request: &Request<'_>,
    object: &Value,
    def: &ResourceDef,
    cluster: &dyn Lookup,
) -> Result<Value, Status> {
    let convert = converted(request, def) && !object.is_null();
    if convert { cluster.shown_as(request.def, def, object) } else { Ok(object.clone()) }
}

impl AsyncStep for Hook {
    fn name(&self) -> &str {
        self.id.as_str()
    }

    fn handles(
        &self,
        _: Phase,
        request: &Request<'_>,
        object: &Value,
        cluster: &mut dyn Lookup,
    ) -> Result<bool, Status> {
        // The rules were looked at already, and mean what they meant.
        Ok(self.matching.selects(request, object, cluster)? && self.meets(request, object, cluster)?)
    }

    fn reinvocable(&self) -> bool {
        self.reinvocable
    }

    fn mutate<'a>(
        &'a self,
        request: &'a Request<'a>,
        object: &'a Value,
        deadline: Instant,
    ) -> Waiting<'a, Result<Verdict, Status>> {
        Box::pin(self.judge(request, object, deadline))
    }

    fn validate<'a>(
        &'a self,
        request: &'a Request<'a>,
        object: &'a Value,
        deadline: Instant,
    ) -> Waiting<'a, Result<Verdict, Status>> {
        Box::pin(self.judge(request, object, deadline))
    }
}
