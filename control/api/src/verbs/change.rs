//! Read, decide, commit if unchanged, else again: the loop under update, patch and delete.
//!
//! Invariants
//! - A write carries the revision that the decision was made on; a change in between means a new
//!   decision on the newer object. What was decoded, and whom a decision has asked already, is kept.
//! - The first look is at local memory, which may be behind. So neither an error nor "nothing to
//!   do" is believed before a barrier has shown that the object is what it seemed.
//! - What is to be done to an object is compared with it as a whole: an update that changes nothing is
//!   no write, whoever asks, and is answered with the stored object and its version.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use kontiki_cache::Snapshot;
use kontiki_store::{Compare, Entry, Op, Revision};
use serde_json::Value;

use crate::Status;
use crate::call::{Call, Object};
use crate::clock::between;
use crate::convert::Form;
use crate::object::set_resource_version;
use crate::pipeline::Memo;
use crate::state::{Extra, as_read, put, served, stored};

/// How often a decision is made anew before the caller has to try again.
const ATTEMPTS: u32 = 100;
/// From this attempt on the loop pauses, so that many writers of one object get their turn.
const PAUSE_AFTER: u32 = 3;

/// What to do with the object.
pub(crate) enum Next {
    /// Write it, in its served form.
    Put(Value, Extra),
    /// Remove it. The value is what the answer shows.
    Remove(Value, Extra),
    /// Leave it as it is.
    Keep,
}

/// A decision and what to warn about.
pub(crate) struct Decision {
    pub next: Next,
    pub warnings: Vec<String>,
}

impl From<Next> for Decision {
    fn from(next: Next) -> Self {
        Self { next, warnings: Vec::new() }
    }
}

/// What a decision is made on.
pub(crate) struct Round<'a> {
    pub state: &'a Snapshot,
    /// The object in its served form, with its `resourceVersion`.
    pub current: &'a mut Value,
    pub dry_run: bool,
    pub memo: &'a mut Memo,
}

/// What somebody wants of an object.
pub(crate) trait Decide: Sync {
    /// What is to become of the object. Asked again on a newer object if that has changed.
    fn decide(&self, call: &Call, round: Round<'_>) -> impl Future<Output = Result<Decision, Status>> + Send;
}

/// What became of the object.
pub(crate) struct Changed {
    pub object: Object,
    pub removed: bool,
    /// Whether anything was written.
    pub written: bool,
    /// The object's version before.
    pub before: Revision,
    pub warnings: Vec<String>,
}

impl Call {
    /// A decision, or a refusal, before which something was to be warned of already.
    pub fn warned(
        &self,
        before: impl IntoIterator<Item = String>,
        mut decided: Result<Decision, Status>,
    ) -> Result<Decision, Status> {
        match &mut decided {
            Ok(decision) => drop(decision.warnings.splice(0..0, before)),
            Err(_) => drop(self.refused.lock().splice(0..0, before)),
        }
        decided
    }

    /// Runs the loop for the object that this call names.
    pub async fn change(&self, dry_run: bool, wish: &impl Decide) -> Result<Changed, Status> {
        let key = self.key();
        let mut memo = Memo::new(self.api.now());
        let mut state = self.api.backend().snapshot();
        let mut entry = state.get(&key);
        let mut fresh = false;
        for attempt in 0..ATTEMPTS {
            if let Some(stored) = entry.take() {
                entry = Some(self.api.one_in_version(&self.def, stored, self.deadline).await?);
            }
            let decision = self.consider(wish, &state, entry.as_deref(), dry_run, &mut memo).await;
            if !fresh && !matches!(&decision, Ok(Decision { next: Next::Put(..) | Next::Remove(..), .. })) {
                state = self.api.fresh().await?;
                fresh = true;
                let now = state.get(&key);
                if revision_of(now.as_ref()) != revision_of(entry.as_ref()) {
                    entry = now;
                    continue;
                }
            }
            let Decision { next, warnings } = decision?;
            let current = entry.as_ref().expect("a decision was made on it");
            let form = match &next {
                Next::Put(value, _) => self.api.form(&self.def, value, self.deadline).await?,
                Next::Remove(..) | Next::Keep => None,
            };
            if dry_run || matches!(next, Next::Keep) {
                return self.without_write(current, next, form, warnings);
            }
            match self.write(current, next, form).await? {
                Written::Done { object, removed } => {
                    return Ok(Changed { object, removed, written: true, before: current.mod_revision, warnings });
                }
                Written::Moved(newer) => {
                    fresh = false;
                    if revision_of(newer.as_ref()) == current.mod_revision {
                        state = self.api.fresh().await?;
                        fresh = true;
                    }
                    entry = newer;
                }
            }
            if attempt >= PAUSE_AFTER {
                tokio::time::sleep(Duration::from_millis(between(self.api.entropy(), 1..20))).await;
            }
        }
        Err(Status::modified(self.def.group_resource(), self.name()))
    }

    async fn consider(
        &self,
        wish: &impl Decide,
        state: &Snapshot,
        entry: Option<&Entry>,
        dry_run: bool,
        memo: &mut Memo,
    ) -> Result<Decision, Status> {
        let entry = entry.ok_or_else(|| self.not_found())?;
        let current = &mut served(&self.def, entry)?;
        wish.decide(self, Round { state, current, dry_run, memo }).await
    }

    fn without_write(
        &self,
        current: &Entry,
        next: Next,
        form: Option<Form>,
        warnings: Vec<String>,
    ) -> Result<Changed, Status> {
        let before = current.mod_revision;
        let shown = |mut value: Value| {
            set_resource_version(&mut value, Some(before));
            Object::Built(value)
        };
        let (object, removed) = match next {
            Next::Keep => (Object::of_entry(&self.def, current)?, false),
            Next::Put(value, _) => (shown(form.map_or(value, |form| form.read)), false),
            Next::Remove(value, _) => (shown(value), true),
        };
        Ok(Changed { object, removed, written: false, before, warnings })
    }

    async fn write(&self, current: &Arc<Entry>, next: Next, form: Option<Form>) -> Result<Written, Status> {
        let key = current.key.clone();
        let (op, bytes, value, extra) = match next {
            Next::Put(value, extra) => {
                let (bytes, value) = match form {
                    Some(form) => (form.stored, form.read),
                    None => (stored(&self.def, &value), as_read(&self.def, value)),
                };
                (put(&self.def, key.clone(), bytes.clone(), self.api.now()), Some(bytes), value, extra)
            }
            Next::Remove(value, extra) => (Op::delete(key.clone()), None, value, extra),
            Next::Keep => unreachable!("nothing is written for Keep"),
        };
        let result = self.commit(Compare::unchanged(key, current.mod_revision), op, extra).await?;
        if !result.succeeded {
            return Ok(Written::Moved(result.current(0).cloned()));
        }
        let removed = bytes.is_none();
        Ok(Written::Done { object: Object::of_write(&self.def, bytes, value, result.revision), removed })
    }
}

enum Written {
    Done {
        object: Object,
        removed: bool,
    },
    /// The object, or something the write depended on, is not what it was.
    Moved(Option<Arc<Entry>>),
}

fn revision_of(entry: Option<&Arc<Entry>>) -> Revision {
    entry.map_or(Revision(0), |entry| entry.mod_revision)
}
