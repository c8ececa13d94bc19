//! A POST that writes the object anew.

use std::sync::Arc;

use kontiki_machinery::Handler;
use kontiki_machinery::subresource::Write;
use serde_json::Value;

use crate::Status;
use crate::call::{Answer, Call, Input};
use crate::clock::format_time;
use crate::object::{meta_str, set_resource_version};
use crate::pipeline::{self, Draft};
use crate::verbs::change::{Decide, Decision, Next, Round};

/// Writes the object that `call` names.
pub(crate) async fn create(call: &mut Call, write: &dyn Write, input: Input) -> Result<Answer, Status> {
    let (sent, dry_run) = super::decoded(call, input)?;
    run(call, write, &sent, dry_run).await
}

/// The same by a path of its own, where only the body names the object.
pub(crate) async fn create_by_collection(
    call: &mut Call,
    plural: &str,
    sub: &str,
    input: Input,
) -> Result<Answer, Status> {
    let (mut sent, dry_run) = super::decoded(call, input)?;
    call.fit_namespace(&mut sent)?;
    let table = call.api.registry().table();
    let def = table.find(&call.def.group, &call.def.version, plural).ok_or_else(Status::no_such_resource)?;
    let sub = def.subresource(sub).ok_or_else(Status::no_such_resource)?;
    let Handler::Write(_, write) = &sub.handler else { return Err(Status::method_not_allowed()) };
    let mut on_object = call.on_object();
    on_object.def = Arc::clone(def);
    on_object.sub = Some(Arc::clone(sub));
    on_object.name = Some(meta_str(&sent, "name").to_owned());
    run(&on_object, *write, &sent, dry_run).await
}

async fn run(call: &Call, write: &dyn Write, sent: &Value, dry_run: bool) -> Result<Answer, Status> {
    super::check_name(call, sent)?;
    let errors = write.check(sent);
    if let (false, Some(sub)) = (errors.is_empty(), &call.sub) {
        return Err(Status::invalid(&sub.group, &sub.kind, call.name(), &errors));
    }
    call.change(dry_run, &Writing { write, sent }).await?;
    Ok(super::created())
}

/// What was sent is to be written into the object.
struct Writing<'a> {
    write: &'a dyn Write,
    sent: &'a Value,
}

impl Decide for Writing<'_> {
    async fn decide(&self, call: &Call, round: Round<'_>) -> Result<Decision, Status> {
        let (current, sent) = (round.current, self.sent);
        call.check_uid(current, sent)?;
        let wanted = meta_str(sent, "resourceVersion");
        if !wanted.is_empty() && wanted != meta_str(current, "resourceVersion") {
            return Err(Status::modified(call.def.group_resource(), call.name()));
        }
        let now = format_time(round.memo.now);
        let mut draft = Draft::create(call, round.state.clone(), sent.clone(), round.dry_run, round.memo);
        pipeline::run(&mut draft, &pipeline::ADMISSION).await?;
        let Draft { object: sent, extra, warnings, .. } = draft;
        let mut new = self.write.write(current, &sent, &now)?;
        set_resource_version(&mut new, None);
        Ok(Decision { next: Next::Put(new, extra), warnings })
    }
}
