//! A delete that the row may refuse, because it would disturb somebody.
//!
//! Invariants
//! - What the row relied on is compared, and what it wants written beside is written, in the transaction that deletes or
//!   marks the object: a budget is never spent on an object that stays, nor twice by two who ask at once.
//! - Admission judges the eviction. It is not asked about the deletion that comes of it, as upstream does not.

use kontiki_machinery::subresource::{Evict, Evicted};
use serde_json::{Value, json};

use crate::Status;
use crate::call::{Answer, Call, Input};
use crate::object::{meta_str, set_resource_version};
use crate::pipeline::lookup::Seen;
use crate::state::{Extra, object_key, put, stored};
use crate::verbs::change::{Decide, Decision, Next, Round};
use crate::verbs::delete::{Request, request_of};

/// Evicts the object that `call` names.
pub(crate) async fn create(call: &mut Call, evict: &dyn Evict, input: Input) -> Result<Answer, Status> {
    let (eviction, dry_run) = super::decoded(call, input)?;
    super::check_name(call, &eviction)?;
    let eviction = super::admitted(call, eviction, dry_run).await?;
    let options = match &eviction["deleteOptions"] {
        Value::Null => json!({}),
        options => options.clone(),
    };
    let mut request = request_of(&options)?;
    request.dry_run |= dry_run;
    call.on_object().change(request.dry_run, &Evicting { evict, request: &request }).await?;
    Ok(super::created())
}

struct Evicting<'a> {
    evict: &'a dyn Evict,
    request: &'a Request,
}

impl Decide for Evicting<'_> {
    async fn decide(&self, call: &Call, round: Round<'_>) -> Result<Decision, Status> {
        let Round { state, current, memo, .. } = round;
        call.check_delete_preconditions(current, &self.request.options)?;
        let mut extra = Extra::default();
        let mut seen = Seen { api: &call.api, state, extra: &mut extra, tips: None, memo };
        let Evicted { object, beside } = self.evict.evict(current, &mut seen)?;
        let table = call.api.registry().table();
        for (resource, mut changed) in beside {
            let def = table.find_resource(resource).ok_or_else(Status::no_such_resource)?;
            set_resource_version(&mut changed, None);
            let key = object_key(def, call.namespace(), meta_str(&changed, "name"));
            extra.ops.push(put(def, key, stored(def, &changed), memo.now));
        }
        let mut marked = object;
        set_resource_version(&mut marked, None);
        let next = match call.decide_delete(&marked, self.request, Extra::default(), memo.now) {
            Next::Put(new, more) => Next::Put(new, extra.and(more)),
            Next::Remove(last, more) => Next::Remove(last, extra.and(more)),
            // It is on its way out already; that it was evicted is noted all the same.
            Next::Keep if differs(&marked, current) => Next::Put(marked, extra),
            Next::Keep => Next::Keep,
        };
        Ok(next.into())
    }
}

/// Whether two states of an object differ in more than their version.
fn differs(new: &Value, current: &Value) -> bool {
    let mut old = current.clone();
    set_resource_version(&mut old, None);
    *new != old
}
