//! Policies in expressions: ValidatingAdmissionPolicy (KEP-3488), one step of admission that asks what policies say, for
//! each of their bindings, and MutatingAdmissionPolicy (KEP-3962), whose policies change objects. Upstream:
//! `k8s.io/apiserver/pkg/admission/plugin/policy`.
//!
//! ```text
//! params        the parameters that a binding names
//!    │
//! known         which policies and bindings there are, and who is asked about a request
//!    │
//! policy        one validating policy          mutation      one mutating policy
//!    │                                            │
//! (here)        asks them, in one step         mutating      each is a mutator of its own
//!
//! typed         what is wrong with a validating policy by the types of its objects
//! ```
//!
//! Invariants
//! - The first validating policy that denies is heard. All of them are asked before that, for the audit log's sake.
//! - What audit annotations say is told whether the request passes or not.

mod known;
mod mutating;
mod mutation;
mod params;
mod policy;
pub(crate) mod typed;

use std::{collections::BTreeMap, sync::Arc};

use kontiki_machinery::{
    GroupResource, Registry, Status,
    admission::{Lookup, Member, Operation, Request, Step},
    status::StatusCause,
};
use kontiki_model::ObjectKey;
use serde_json::{Value, json};

use crate::expressions::admission::Subject;
use known::{Binding, Compiled as _, Known, subject_of};
use policy::{Decision, Policy, Said};

const POLICIES: GroupResource<'static> =
    GroupResource { group: "admissionregistration.k8s.io", resource: "validatingadmissionpolicies" };
const BINDINGS: GroupResource<'static> =
    GroupResource { group: "admissionregistration.k8s.io", resource: "validatingadmissionpolicybindings" };

/// The annotation that tells of what bindings wish to have audited, and how much of it at most.
const FAILURES: &str = "validation.policy.admission.k8s.io/validation_failure";
const MAX_FAILURES: usize = 50;

pub use mutating::member as mutating;

/// The member of the chain of admission that asks validating policies.
#[must_use]
pub fn member(registry: &Registry) -> Member {
    Member::Pure(Arc::new(Policies(Known::new(registry, BINDINGS))))
}

struct Policies(Known<Policy>);

/// What a policy says of a request by a binding.
struct Verdict {
    policy: String,
    binding: (String, Arc<Binding>),
    /// It says so whatever the binding wants done.
    always: bool,
    decision: Decision,
}

impl Verdict {
    fn text(&self) -> String {
        let (policy, (binding, _), why) = (&self.policy, &self.binding, &self.decision.message);
        format!("ValidatingAdmissionPolicy '{policy}' with binding '{binding}' denied request: {why}")
    }

    fn does(&self, action: &str) -> bool {
        !self.always && self.binding.1.does(action)
    }

    fn refusal(&self, request: &Request<'_>, object: &Value) -> Status {
        let message = self.text();
        let name = Some(request.named(object)).filter(|name| !name.is_empty()).unwrap_or("Unknown");
        let mut status = Status::forbidden(request.def.group_resource(), name, &message);
        let reason = if self.decision.reason.is_empty() { "Invalid" } else { &self.decision.reason };
        status.code = match reason {
            "Forbidden" => 403,
            "Unauthorized" => 401,
            "RequestEntityTooLarge" => 413,
            _ => 422,
        };
        reason.clone_into(&mut status.reason);
        if let Some(details) = &mut status.details {
            details.causes.push(StatusCause { message, ..StatusCause::default() });
        }
        status
    }

    /// As the audit log has it, fields in upstream's order.
    fn failure(&self) -> String {
        let [message, policy, binding] =
            [&self.decision.message, &self.policy, &self.binding.0].map(|text| json!(text));
        let (index, actions) = (self.decision.index, json!(self.binding.1.actions));
        format!(
            r#"{{"message":{message},"policy":{policy},"binding":{binding},"expressionIndex":{index},"validationActions":{actions}}}"#
        )
    }
}

/// What all policies say of a request.
#[derive(Default)]
struct Answers {
    verdicts: Vec<Verdict>,
    /// Values of audit annotations: several bindings may say different things.
    notes: BTreeMap<String, Vec<String>>,
}

impl Policies {
    /// Asks all policies that are meant, for those bindings of which `wanted` says so.
    fn ask(
        &self,
        (request, object): (&Request<'_>, &Value),
        cluster: &dyn Lookup,
        wanted: &dyn Fn(&Binding) -> bool,
    ) -> Result<Answers, Status> {
        let mut answers = Answers::default();
        // Bindings of one policy ask about the same.
        let mut last: Option<(String, Subject)> = None;
        for invocation in self.0.invocations((request, object), cluster, wanted)? {
            let (name, policy) = invocation.policy;
            let verdict = |always, decision| Verdict {
                policy: name.clone(),
                binding: invocation.binding.clone(),
                always,
                decision,
            };
            let params = match invocation.params {
                Ok(params) => params,
                Err(_) if policy.head().ignores => continue,
                Err(why) => {
                    answers.verdicts.push(verdict(true, Decision::error(why)));
                    continue;
                }
            };
            let known = last.take().filter(|(known, _)| *known == name);
            let (_, mut subject) = match known {
                Some(known) => known,
                None => (name.clone(), subject_of(request, object, &invocation.def, cluster)?),
            };
            for params in params {
                subject.params = params;
                let Said { denied, notes, unknown } = policy.judge(&subject, request, cluster);
                answers.verdicts.extend(denied.into_iter().map(|decision| verdict(false, decision)));
                answers.verdicts.extend(unknown.into_iter().map(|decision| verdict(true, decision)));
                for (key, value) in notes {
                    let values = answers.notes.entry(format!("{name}/{key}")).or_default();
                    if !values.contains(&value) {
                        values.push(value);
                    }
                }
            }
            last = Some((name, subject));
        }
        Ok(answers)
    }
}

impl Step for Policies {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    fn handles(&self, _: Operation) -> bool {
        true
    }

    fn follows(&self) -> &'static [GroupResource<'static>] {
        &[POLICIES, BINDINGS]
    }

    fn changed(&self, key: &ObjectKey, object: Option<&[u8]>) {
        self.0.changed(key, object);
    }

    fn validate(&self, request: &Request<'_>, object: &Value, cluster: &mut dyn Lookup) -> Result<(), Status> {
        let Answers { verdicts, notes } = self.ask((request, object), cluster, &|_| true)?;
        for (key, values) in notes {
            cluster.annotate(key, values.join(", "));
        }
        let failures: Vec<String> =
            verdicts.iter().filter(|it| it.does("Audit")).take(MAX_FAILURES).map(Verdict::failure).collect();
        if !failures.is_empty() {
            cluster.annotate(FAILURES.to_owned(), format!("[{}]", failures.join(",")));
        }
        let denies = |it: &&Verdict| it.always || it.does("Deny");
        verdicts.iter().find(denies).map_or(Ok(()), |it| Err(it.refusal(request, object)))
    }

    fn warns_whom_it_refuses(&self) -> bool {
        true
    }

    fn warn(&self, request: &Request<'_>, object: &Value, cluster: &mut dyn Lookup) -> Result<Vec<String>, Status> {
        let found = self.ask((request, object), cluster, &|binding| binding.does("Warn"))?.verdicts;
        let text = |it: &Verdict| {
            let (policy, binding, why) = (&it.policy, &it.binding.0, &it.decision.message);
            format!("Validation failed for ValidatingAdmissionPolicy '{policy}' with binding '{binding}': {why}")
        };
        Ok(found.iter().filter(|it| it.does("Warn")).map(text).collect())
    }
}

#[cfg(test)]
mod tests;
