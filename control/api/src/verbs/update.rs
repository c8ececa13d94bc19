//! Update of an object or of a subresource that has the object's own type.

use jiff::Timestamp;
use kontiki_machinery::subresource::View;
use kontiki_machinery::{Bad, FieldError};
use serde_json::Value;

use crate::Status;
use crate::call::{Answer, Call, Input, Object};
use crate::codec;
use crate::object::{deleting, finalizers, meta_str, metadata_mut, set_resource_version};
use crate::owners::unchanged;
use crate::pipeline::{self, Draft, Phase, release};
use crate::verbs::change::{Changed, Decide, Decision, Next, Round};

const OPTIONS: &str = "UpdateOptions";

/// What a client sent is to be the new object, or its part or view.
struct Replacement {
    object: Value,
}

impl Decide for Replacement {
    async fn decide(&self, call: &Call, round: Round<'_>) -> Result<Decision, Status> {
        call.check_uid(round.current, &self.object)?;
        call.decide_replacement(round, self.object.clone()).await
    }
}

impl Call {
    /// Replaces what this call names.
    pub async fn update(&mut self, input: Input) -> Result<Answer, Status> {
        let dry_run = self.params.dry_run(OPTIONS)?;
        let validation = self.params.field_validation(OPTIONS)?;
        self.params.check_field_manager(OPTIONS)?;
        let mut object = codec::decode_object(self, input, validation)?;
        self.fit_namespace(&mut object)?;
        self.check_name(&object)?;
        let wish = Replacement { object };
        match self.change(dry_run, &wish).await {
            Err(status) if status.is_not_found() && self.creates_on_update() => {
                let Replacement { mut object } = wish;
                // A version of what is not there binds nobody.
                set_resource_version(&mut object, None);
                self.api.authorize(&self.user, &self.attributes("create", &[]), self.deadline).await?;
                let object = self.track(None, object, self.api.now()).await?;
                self.create_object(object, dry_run).await
            }
            changed => self.answer_change(changed?),
        }
    }

    fn creates_on_update(&self) -> bool {
        self.sub.is_none() && self.def.strategy.allow_create_on_update()
    }

    /// The decision for what a client sent as the new state, in the form of the subresource.
    pub async fn decide_replacement(&self, round: Round<'_>, mut new: Value) -> Result<Decision, Status> {
        match self.view() {
            Some(view) => self.track_view(&*view, round.current, &mut new, round.memo.now).await?,
            None => new = self.track(Some(&*round.current), new, round.memo.now).await?,
        }
        self.decide_owned(round, new).await
    }

    /// The same for what says who owns what of it already.
    pub async fn decide_owned(&self, round: Round<'_>, new: Value) -> Result<Decision, Status> {
        match self.view() {
            Some(view) => self.decide_viewed(&*view, round, new).await,
            None => self.decide_update(round, new, &pipeline::WRITE).await,
        }
    }

    /// Admission is asked about the view that is sent, not about what it makes of the object.
    async fn decide_viewed(&self, view: &dyn View, round: Round<'_>, sent: Value) -> Result<Decision, Status> {
        let Round { state, current, dry_run, memo } = round;
        let version = meta_str(&sent, "resourceVersion").to_owned();
        let mut old = view.of(current);
        set_resource_version(&mut old, None);
        let mut draft = Draft::update(self, state.clone(), &old, sent, dry_run, memo);
        pipeline::run(&mut draft, &pipeline::ADMISSION).await?;
        let Draft { object: mut sent, extra, warnings, .. } = draft;
        if !version.is_empty() {
            metadata_mut(&mut sent).insert("resourceVersion".into(), version.into());
        }
        let new = self.through(view, current, &sent, memo.now).await?;
        let round = Round { state, current, dry_run, memo };
        let decided = self.on_object().decide_update(round, new, &pipeline::VIEWED).await;
        let mut decision = self.warned(warnings, decided)?;
        if let Next::Put(_, more) | Next::Remove(_, more) = &mut decision.next {
            more.append(extra);
        }
        Ok(decision)
    }

    /// The object that a client wants whose view of it is to be `sent`.
    async fn through(&self, view: &dyn View, current: &Value, sent: &Value, now: Timestamp) -> Result<Value, Status> {
        let errors = view.check(sent);
        if let (false, Some(sub)) = (errors.is_empty(), &self.sub) {
            return Err(Status::invalid(&sub.group, &sub.kind, self.name(), &errors));
        }
        // Of the version that it has, unless the client says another: also where nothing is written without one.
        let mut new = current.clone();
        view.apply(&mut new, sent);
        self.take_owners(view, &mut new, sent, now).await?;
        Ok(new)
    }

    /// The answer to an update or patch.
    pub fn answer_change(&mut self, changed: Changed) -> Result<Answer, Status> {
        self.warnings.extend(changed.warnings);
        self.effect = changed.written.into();
        let object = match self.view() {
            Some(view) => Object::Built(view.of(&changed.object.value()?)),
            None if changed.removed => {
                // It went with its last finalizer: the answer is the object as it was before.
                let mut last = changed.object.value()?;
                set_resource_version(&mut last, Some(changed.before));
                Object::Built(last)
            }
            None => changed.object,
        };
        Ok(Answer::Object { code: 200, object })
    }

    /// The name in the object must be the one in the path.
    pub fn check_name(&self, object: &Value) -> Result<(), Status> {
        let name = self.name();
        match meta_str(object, "name") {
            "" => Err(Status::bad_request(format!(
                "the name of the object ({name} based on URL) was undeterminable: name must be provided"
            ))),
            own if own == name => Ok(()),
            own => Err(Status::bad_request(format!(
                "the name of the object ({own}) does not match the name on the URL ({name})"
            ))),
        }
    }

    /// What becomes of the object if a client wants it to be `new`.
    async fn decide_update(&self, round: Round<'_>, mut new: Value, phases: &[Phase]) -> Result<Decision, Status> {
        self.check_version(round.current, &new)?;
        let old = round.current;
        set_resource_version(old, None);
        set_resource_version(&mut new, None);
        let mut draft = Draft::update(self, round.state.clone(), old, new, round.dry_run, round.memo);
        pipeline::run(&mut draft, phases).await?;
        let Draft { object: new, mut extra, warnings, .. } = draft;
        let next = if gone_with(self, &new, old) {
            extra.append(release(&self.def, old));
            Next::Remove(new, extra)
        } else if unchanged(&new, old) {
            Next::Keep
        } else {
            Next::Put(new, extra)
        };
        Ok(Decision { next, warnings })
    }

    /// The uid in what a client sends is a precondition.
    pub fn check_uid(&self, current: &Value, new: &Value) -> Result<(), Status> {
        let (resource, name) = (self.def.group_resource(), self.name());
        let (uid, own) = (meta_str(new, "uid"), meta_str(current, "uid"));
        if !uid.is_empty() && uid != own {
            let key = String::from_utf8_lossy(&self.key()).into_owned();
            let text = format!(
                "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: \
                 Precondition failed: UID in precondition: {uid}, UID in object meta: {own}"
            );
            return Err(Status::conflict(resource, name, text));
        }
        Ok(())
    }

    /// So is the resourceVersion, also in a patch.
    pub fn check_version(&self, current: &Value, new: &Value) -> Result<(), Status> {
        let (resource, name) = (self.def.group_resource(), self.name());
        match meta_str(new, "resourceVersion") {
            "" | "0" if !self.def.strategy.allow_unconditional_update() => {
                let error = FieldError::invalid(
                    "metadata.resourceVersion",
                    Bad::Raw("0".into()),
                    "must be specified for an update",
                );
                Err(Status::invalid(resource.group, resource.resource, name, &[error]))
            }
            "" | "0" => Ok(()),
            version if version.parse::<u64>().is_err() => {
                Err(Status::bad_request(format!("strconv.ParseUint: parsing \"{version}\": invalid syntax")))
            }
            version if version != meta_str(current, "resourceVersion") => Err(Status::modified(resource, name)),
            _ => Ok(()),
        }
    }
}

/// Whether this update takes away the last thing that held an object back from being removed.
fn gone_with(call: &Call, new: &Value, old: &Value) -> bool {
    if !deleting(old) || !finalizers(new).is_empty() {
        return false;
    }
    call.def.strategy.ends_with_update(new, old)
}
