//! What a Job's status may say. Others than our own controller may write it (`spec.managedBy`), and clients count on it:
//! a Job that has ended stays so, and its counters do not go back.

use kontiki_model::indexes::Indexes;
use serde_json::Value;

use super::super::value::{get, has, int, list, num, on, some, text, texts};
use super::super::vocab::{self, Errors};
use super::is_true;
use crate::{Bad, FieldError, Path};

/// Both statuses, and the Job that they are of.
struct Change<'a> {
    spec: &'a Value,
    now: &'a Value,
    before: &'a Value,
}

impl Change<'_> {
    /// Whether one of the fields says something else than before: a rule holds for those who change what it is about.
    fn touches(&self, fields: &[&str]) -> bool {
        fields.iter().any(|field| match *field {
            "finished" => finished(self.now) != finished(self.before),
            kind if kind.starts_with(char::is_uppercase) => is_true(self.now, kind) != is_true(self.before, kind),
            field => self.now.get(field) != self.before.get(field),
        })
    }
}

fn finished(status: &Value) -> bool {
    is_true(status, "Complete") || is_true(status, "Failed")
}

/// Checks an update of the status.
pub(super) fn check(new: &Value, old: &Value) -> Errors {
    let change = Change { spec: get(new, "spec"), now: get(new, "status"), before: get(old, "status") };
    let (mut errs, path) = (Errors::new(), Path::new("status"));
    check_counts(&mut errs, &path, change.now);
    check_ends(&mut errs, &path, &change);
    check_finished(&mut errs, &path, &change);
    check_indexes(&mut errs, &path, &change);
    check_success(&mut errs, &path, &change);
    check_history(&mut errs, &path, &change);
    errs
}

fn check_counts(errs: &mut Errors, path: &Path, status: &Value) {
    for field in ["active", "succeeded", "failed", "ready", "terminating"] {
        vocab::not_negative(errs, &path.child(field), num(status, field));
    }
    let uncounted = get(status, "uncountedTerminatedPods");
    let mut seen = Vec::new();
    for field in ["succeeded", "failed"] {
        let path = path.child("uncountedTerminatedPods").child(field);
        for (i, uid) in texts(uncounted, field).into_iter().enumerate() {
            if uid.is_empty() {
                errs.push(FieldError::invalid(path.index(i), uid, "must not be empty"));
            } else if seen.contains(&uid) {
                errs.push(FieldError::duplicate(path.index(i), uid));
            } else {
                seen.push(uid);
            }
        }
    }
}

/// Conditions that exclude each other, and the time of completion.
fn check_ends(errs: &mut Errors, path: &Path, change: &Change<'_>) {
    let Change { now, .. } = change;
    let (complete, failed) = (is_true(now, "Complete"), is_true(now, "Failed"));
    let mut condition = |wrong: bool, message: &str| {
        if wrong {
            errs.push(FieldError::invalid(path.child("conditions"), Bad::Omitted, message));
        }
    };
    if change.touches(&["Complete", "Failed"]) {
        condition(complete && failed, "cannot set Complete=True and Failed=true conditions");
    }
    if change.touches(&["Complete", "FailureTarget"]) {
        let both = complete && is_true(now, "FailureTarget");
        condition(both, "cannot set Complete=True and FailureTarget=true conditions");
    }
    let at = path.child("completionTime");
    if change.touches(&["Complete", "completionTime"]) {
        match some(now, "completionTime") {
            Some(time) if !complete => {
                let message = "cannot set completionTime when there is no Complete=True condition";
                errs.push(FieldError::invalid(&at, time.clone(), message));
            }
            None if complete => errs.push(FieldError::required(&at, "completionTime is required for Complete jobs")),
            _ => {}
        }
    }
    let moment = |field: &str| crate::schema::time::parse(text(now, field));
    if let (Some(start), Some(end)) = (moment("startTime"), moment("completionTime"))
        && end < start
        && change.touches(&["startTime", "completionTime"])
    {
        let message = "completionTime cannot be set before startTime";
        errs.push(FieldError::invalid(&at, get(now, "completionTime").clone(), message));
    }
    let mut without = |end: &str, interim: &str| {
        if change.touches(&[end]) && is_true(now, end) && !is_true(now, interim) {
            let message = format!("cannot set {end}=True condition without the {interim}=true condition");
            errs.push(FieldError::invalid(path.child("conditions"), Bad::Omitted, message));
        }
    };
    without("Failed", "FailureTarget");
    without("Complete", "SuccessCriteriaMet");
}

/// A Job that has ended has begun, and no pods are left to wait for.
fn check_finished(errs: &mut Errors, path: &Path, change: &Change<'_>) {
    let Change { now, .. } = change;
    let done = finished(now);
    for field in ["active", "terminating"] {
        let count = num(now, field);
        if done && count > 0 && change.touches(&["finished", field]) {
            let message = format!("{field}>0 is invalid for finished job");
            errs.push(FieldError::invalid(path.child(field), count, message));
        }
    }
    if done && !has(now, "startTime") && change.touches(&["finished", "startTime"]) {
        errs.push(FieldError::required(path.child("startTime"), "startTime is required for finished job"));
    }
    let uncounted = get(now, "uncountedTerminatedPods");
    let some_left = ["succeeded", "failed"].iter().any(|field| !list(uncounted, field).is_empty());
    if done && some_left && change.touches(&["finished", "uncountedTerminatedPods"]) {
        let message = "uncountedTerminatedPods needs to be empty for finished job";
        errs.push(FieldError::invalid(path.child("uncountedTerminatedPods"), uncounted.clone(), message));
    }
}

fn check_indexes(errs: &mut Errors, path: &Path, change: &Change<'_>) {
    let Change { spec, now, .. } = change;
    let (completed, failed) = (text(now, "completedIndexes"), some(now, "failedIndexes").and_then(Value::as_str));
    let completions = int(spec, "completions");
    let per_index = has(spec, "backoffLimitPerIndex");
    let mut format = |field: &str, text: &str, completions: i64| {
        if let Err(error) = Indexes::check(text, completions) {
            errs.push(FieldError::invalid(path.child(field), text, format!("error parsing {field}: {error}")));
        }
    };
    if let Some(completions) = completions {
        if change.touches(&["completedIndexes"]) {
            format("completedIndexes", completed, completions);
        }
        if let Some(failed) = failed.filter(|_| per_index && change.touches(&["failedIndexes"])) {
            format("failedIndexes", failed, completions);
        }
    }
    if change.touches(&["completedIndexes"]) && !completed.is_empty() && text(spec, "completionMode") != "Indexed" {
        let message = "cannot set non-empty completedIndexes when non-indexed completion mode";
        errs.push(FieldError::invalid(path.child("completedIndexes"), completed, message));
    }
    let Some(failed) = failed else { return };
    let at = path.child("failedIndexes");
    if !per_index && change.touches(&["failedIndexes"]) {
        let message = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        errs.push(FieldError::invalid(&at, failed, message));
    }
    let most = completions.and_then(|completions| u32::try_from(completions).ok()).unwrap_or(0);
    let common = Indexes::read(completed, most).first_common(&Indexes::read(failed, most));
    if let Some(index) = common.filter(|_| change.touches(&["completedIndexes", "failedIndexes"])) {
        let message = format!("failedIndexes and completedIndexes overlap at index: {index}");
        errs.push(FieldError::invalid(&at, failed, message));
    }
}

fn check_success(errs: &mut Errors, path: &Path, change: &Change<'_>) {
    let Change { now, .. } = change;
    if !is_true(now, "SuccessCriteriaMet") {
        return;
    }
    for kind in ["Failed", "FailureTarget"] {
        if is_true(now, kind) && change.touches(&["SuccessCriteriaMet", kind]) {
            let message = format!("cannot set {kind}=True and SuccessCriteriaMet=True");
            errs.push(FieldError::invalid(path.child("conditions"), Bad::Omitted, message));
        }
    }
}

/// What was said once is not taken back.
fn check_history(errs: &mut Errors, path: &Path, change: &Change<'_>) {
    let Change { spec, now, before } = change;
    for kind in ["Failed", "Complete", "FailureTarget", "SuccessCriteriaMet"] {
        if is_true(before, kind) && !is_true(now, kind) {
            let message = format!("cannot disable the terminal {kind}=True condition");
            errs.push(FieldError::invalid(path.child("conditions"), Bad::Omitted, message));
        }
    }
    // An Indexed Job whose two numbers are one may be scaled down.
    let elastic = text(spec, "completionMode") == "Indexed" && get(spec, "completions") == get(spec, "parallelism");
    for (field, may) in [("failed", false), ("succeeded", elastic)] {
        if num(now, field) < num(before, field) && !may {
            let message = format!("cannot decrease the {field} counter");
            errs.push(FieldError::invalid(path.child(field), num(now, field), message));
        }
    }
    if let (Some(time), Some(then)) = (some(now, "completionTime"), some(before, "completionTime"))
        && time != then
    {
        let message = "completionTime cannot be mutated";
        errs.push(FieldError::invalid(path.child("completionTime"), time.clone(), message));
    }
    let suspended = on(spec, "suspend") || is_true(before, "Suspended");
    if has(before, "startTime") && !suspended && change.touches(&["startTime"]) {
        let at = path.child("startTime");
        errs.push(match some(now, "startTime") {
            None => FieldError::required(at, "startTime cannot be removed for unsuspended job"),
            Some(time) => FieldError::invalid(at, time.clone(), "startTime cannot be updated for unsuspended job"),
        });
    }
}
