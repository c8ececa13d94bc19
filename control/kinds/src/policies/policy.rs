//! One ValidatingAdmissionPolicy, compiled, and what it says of a request.

use kontiki_cel::{Program, Value as Known};
use kontiki_machinery::admission::{Lookup, Request};
use serde_json::Value;

use super::known::{Compiled, Head};
use crate::{
    expressions::admission::{Composed, EvalFailure, Returns, Run, SPENT, Scope, Slot, Subject, resulted},
    rows::value::{get, list, some, text},
};

/// What all validations of a policy may cost for one request; what all its audit annotations may.
pub(super) const BUDGET: u64 = 10_000_000;
/// The longest message that is worked out, in bytes.
const MAX_MESSAGE: usize = 5 * 1024;
/// The longest value of an audit annotation, in bytes.
const MAX_NOTE: usize = 10 * 1024;

/// A policy.
pub(super) struct Policy {
    head: Head,
    validations: Vec<Validation>,
    notes: Vec<Note>,
}

struct Validation {
    text: String,
    program: Result<Program, String>,
    message: String,
    worked_out: Option<Program>,
    reason: String,
}

/// An audit annotation.
struct Note {
    key: String,
    text: String,
    program: Result<Program, String>,
}

/// Why a policy denies.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Decision {
    pub message: String,
    /// Empty: none of its own.
    pub reason: String,
    /// Which of its validations says so.
    pub index: usize,
}

impl Decision {
    /// The policy could not be asked.
    pub fn error(message: String) -> Self {
        Self { message, ..Self::default() }
    }
}

/// What a policy says of a request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// Why it denies it; empty: it does not.
    pub denied: Vec<Decision>,
    /// What the audit log is to say: keys and values.
    pub notes: Vec<(String, String)>,
    /// Why some of that cannot be told.
    pub unknown: Vec<Decision>,
}

impl Compiled for Policy {
    fn of(stored: &Value) -> Self {
        let spec = get(stored, "spec");
        let (head, scope) = Head::of(stored);
        let quiet = Scope { authorizer: false, ..scope.clone() };
        let validation = |it: &Value| Validation {
            text: text(it, "expression").to_owned(),
            program: scope.compile(text(it, "expression"), Returns::Bool),
            message: text(it, "message").trim().to_owned(),
            worked_out: some(it, "messageExpression")
                .and_then(Value::as_str)
                .and_then(|text| quiet.compile(text, Returns::String).ok()),
            reason: some(it, "reason").and_then(Value::as_str).unwrap_or("Invalid").to_owned(),
        };
        let note = |it: &Value| Note {
            key: text(it, "key").to_owned(),
            text: text(it, "valueExpression").to_owned(),
            program: scope.compile(text(it, "valueExpression"), Returns::StringOrNull),
        };
        Self {
            validations: list(spec, "validations").iter().map(validation).collect(),
            notes: list(spec, "auditAnnotations").iter().map(note).collect(),
            head,
        }
    }

    fn head(&self) -> &Head {
        &self.head
    }
}

impl Policy {
    /// What it says of a request.
    pub fn judge(&self, subject: &Subject, request: &Request<'_>, cluster: &dyn Lookup) -> Said {
        match self.head.meets(subject, request, cluster) {
            Ok(true) => {}
            Err(why) if !self.head.ignores => return Said { denied: vec![Decision::error(why)], ..Said::default() },
            Ok(false) | Err(_) => return Said::default(),
        }
        let asked = || (subject, request.user, BUDGET);
        let denied = Run::with(asked(), cluster, |run| self.validate(run));
        let mut said = Said { denied, ..Said::default() };
        if !self.notes.is_empty() {
            let noted = Run::with(asked(), cluster, |run| self.note(run));
            for note in noted {
                match note {
                    Ok(note) => said.notes.extend(note),
                    Err(_) if self.head.ignores => {}
                    Err(why) => said.unknown.push(Decision::error(why)),
                }
            }
        }
        said
    }

    fn validate(&self, run: &Run<'_>) -> Vec<Decision> {
        let (slots, ignores) = (Slot::of(&self.head.variables), self.head.ignores);
        let composed = Composed { run, slots: &slots };
        let mut denied = Vec::new();
        for (index, validation) in self.validations.iter().enumerate() {
            let why = match &validation.program {
                Err(why) => format!("compilation error: {why}"),
                Ok(program) => match run.evaluate(program, Some(&composed)) {
                    Ok(holds) if holds.as_bool() == Some(true) => continue,
                    Ok(_) => {
                        denied.push(Decision { index, ..validation.broken(run, &composed) });
                        continue;
                    }
                    Err(EvalFailure::Spent) if ignores => return Vec::new(),
                    Err(EvalFailure::Spent) => return vec![Decision::error(SPENT.to_owned())],
                    Err(EvalFailure::Failed(why)) => resulted(&validation.text, &why),
                },
            };
            if !ignores {
                denied.push(Decision { index, ..Decision::error(why) });
            }
        }
        denied
    }

    fn note(&self, run: &Run<'_>) -> Vec<Result<Option<(String, String)>, String>> {
        let slots = Slot::of(&self.head.variables);
        let composed = Composed { run, slots: &slots };
        let mut told = Vec::with_capacity(self.notes.len());
        for note in &self.notes {
            told.push(note.told(run, &composed));
        }
        told
    }
}

impl Note {
    /// What the audit log is to say; nothing if the value is null or empty.
    fn told<'a>(&'a self, run: &'a Run<'a>, composed: &'a Composed<'a>) -> Result<Option<(String, String)>, String> {
        let program = self.program.as_ref().map_err(|why| format!("compilation error: {why}"))?;
        let value = run.evaluate(program, Some(composed)).map_err(|why| match why {
            EvalFailure::Spent => SPENT.to_owned(),
            EvalFailure::Failed(why) => resulted(&self.text, &why),
        })?;
        let value = value.as_str().unwrap_or_default().trim();
        let value = &value[..value.floor_char_boundary(MAX_NOTE)];
        Ok((!value.is_empty()).then(|| (self.key.clone(), value.to_owned())))
    }
}

impl Validation {
    fn broken<'a>(&'a self, run: &'a Run<'a>, composed: &'a Composed<'a>) -> Decision {
        let said = self.worked_out.as_ref().and_then(|program| run.evaluate(program, Some(composed)).ok());
        let said = said.as_ref().and_then(Known::as_str).unwrap_or_default().trim();
        let message = if !said.is_empty() && said.len() <= MAX_MESSAGE && !said.contains('\n') {
            said.to_owned()
        } else if !self.message.is_empty() {
            self.message.clone()
        } else {
            format!("failed expression: {}", self.text.trim())
        };
        Decision { message, reason: self.reason.clone(), index: 0 }
    }
}
