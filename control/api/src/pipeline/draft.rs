//! One write on its way through the phases.

use kontiki_cache::Snapshot;
use kontiki_machinery::admission::{Operation, Request};
use kontiki_machinery::meta;
use serde_json::Value;

use crate::call::Call;
use crate::pipeline::lookup::Seen;
use crate::pipeline::memo::Memo;
use crate::state::Extra;

/// What is to be written, and what came of the phases so far.
pub(crate) struct Draft<'a> {
    pub call: &'a Call,
    pub operation: Operation,
    /// The object before, without its version; `None` on create.
    pub old: Option<&'a Value>,
    /// The object as it is to be, without its version; null on delete.
    pub object: Value,
    pub dry_run: bool,
    /// What has to hold, and what is written, beside the object.
    pub extra: Extra,
    pub warnings: Vec<String>,
    /// The state that phases look at; newer after each wait.
    pub state: Snapshot,
    pub memo: &'a mut Memo,
}

impl<'a> Draft<'a> {
    /// A new object.
    pub fn create(call: &'a Call, state: Snapshot, object: Value, dry_run: bool, memo: &'a mut Memo) -> Self {
        Self::of(call, Operation::Create, state, None, object, dry_run, memo)
    }

    /// `object` in the place of `old`.
    pub fn update(
        call: &'a Call,
        state: Snapshot,
        old: &'a Value,
        mut object: Value,
        dry_run: bool,
        memo: &'a mut Memo,
    ) -> Self {
        meta::keep_system_fields(&mut object, old);
        Self::of(call, Operation::Update, state, Some(old), object, dry_run, memo)
    }

    /// Nothing in the place of `old`.
    pub fn removal(call: &'a Call, state: Snapshot, old: &'a Value, dry_run: bool, memo: &'a mut Memo) -> Self {
        Self::of(call, Operation::Delete, state, Some(old), Value::Null, dry_run, memo)
    }

    /// A stream that is asked for by `options`.
    pub fn connect(call: &'a Call, state: Snapshot, options: Value, memo: &'a mut Memo) -> Self {
        Self::of(call, Operation::Connect, state, None, options, false, memo)
    }

    fn of(
        call: &'a Call,
        operation: Operation,
        state: Snapshot,
        old: Option<&'a Value>,
        mut object: Value,
        dry_run: bool,
        memo: &'a mut Memo,
    ) -> Self {
        memo.begin();
        let warnings = meta::dedup_owners(&mut object).into_iter().collect();
        Self { call, operation, old, object, dry_run, extra: Extra::default(), warnings, state, memo }
    }

    /// What steps of admission are asked about.
    pub fn request(&self) -> Request<'_> {
        request(self.call, self.operation, self.old, self.dry_run)
    }

    /// The request, the cluster and the object, for a step of admission.
    pub fn parts(&mut self) -> (Request<'_>, Seen<'_>, &mut Value) {
        let Self { call, operation, old, object, dry_run, extra, state, memo, .. } = self;
        let seen = Seen { api: &call.api, state, extra, tips: None, memo };
        (request(call, *operation, *old, *dry_run), seen, object)
    }

    /// What was seen before a wait is old.
    pub fn look_again(&mut self) {
        self.state = self.call.api.backend().snapshot();
    }
}

fn request<'r>(call: &'r Call, operation: Operation, old: Option<&'r Value>, dry_run: bool) -> Request<'r> {
    Request {
        operation,
        user: &call.user,
        def: &call.def,
        sub: call.sub_name(),
        namespace: call.namespace(),
        name: call.name(),
        old,
        dry_run,
    }
}
