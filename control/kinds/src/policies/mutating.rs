//! MutatingAdmissionPolicies as mutators: one for each policy, binding and parameter that a request is about.

use std::sync::Arc;

use kontiki_machinery::{
    GroupResource, Registry, ResourceDef, Status,
    admission::{Lookup, Member, Mutator, Mutators, Operation, Request},
    status::StatusCause,
};
use kontiki_model::ObjectKey;
use serde_json::Value;

use super::{
    known::{Compiled as _, Invocation, Known, subject_of},
    mutation::{Mutating, Wrong},
};
use crate::{
    rows::value::{get, text},
    webhooks::taken,
};

const POLICIES: GroupResource<'static> =
    GroupResource { group: "admissionregistration.k8s.io", resource: "mutatingadmissionpolicies" };
const BINDINGS: GroupResource<'static> =
    GroupResource { group: "admissionregistration.k8s.io", resource: "mutatingadmissionpolicybindings" };

/// The member of the chain of admission whose policies change objects: before webhooks, as upstream has it.
#[must_use]
pub fn member(registry: &Registry) -> Member {
    Member::Mutators(Arc::new(Policies(Known::new(registry, BINDINGS))))
}

struct Policies(Known<Mutating>);

impl Mutators for Policies {
    fn follows(&self) -> &'static [GroupResource<'static>] {
        &[POLICIES, BINDINGS]
    }

    fn changed(&self, key: &ObjectKey, object: Option<&[u8]>) {
        self.0.changed(key, object);
    }

    fn mutators(
        &self,
        request: &Request<'_>,
        object: &Value,
        cluster: &dyn Lookup,
    ) -> Result<Vec<Arc<dyn Mutator>>, Status> {
        if request.operation == Operation::Delete {
            // There is nothing to change.
            return Ok(Vec::new());
        }
        let invocations = self.0.invocations((request, object), cluster, &|_| true)?;
        Ok(invocations.into_iter().flat_map(Asked::all).map(|asked| Arc::new(asked) as Arc<dyn Mutator>).collect())
    }
}

/// A policy that is asked by a binding, with one of its parameters.
struct Asked {
    name: String,
    policy: (String, Arc<Mutating>),
    binding: String,
    def: Arc<ResourceDef>,
    params: Result<Value, String>,
}

impl Asked {
    fn all(invocation: Invocation<Mutating>) -> Vec<Self> {
        let Invocation { policy, binding: (binding, _), def, params } = invocation;
        let one = |params: Result<Value, String>| {
            let metadata = params.as_ref().ok().map(|params| get(params, "metadata"));
            let [namespace, param] = ["namespace", "name"].map(|field| metadata.map_or("", |it| text(it, field)));
            let name = format!("{}/{binding}/{namespace}/{param}", policy.0);
            Self { name, policy: policy.clone(), binding: binding.clone(), def: Arc::clone(&def), params }
        };
        match params {
            Ok(all) => all.into_iter().map(|params| one(Ok(params))).collect(),
            Err(why) => vec![one(Err(why))],
        }
    }

    /// What is answered if the policy cannot be asked, or fails; `None`: that does not matter.
    fn refusal(&self, request: &Request<'_>, object: &Value, reason: &str, why: &[String]) -> Option<Status> {
        if self.policy.1.head().ignores || why.is_empty() {
            return None;
        }
        let text =
            |why: &String| format!("policy '{}' with binding '{}' denied request: {why}", self.policy.0, self.binding);
        let mut status = request.forbid(object, "");
        status.message = text(&why[0]);
        reason.clone_into(&mut status.reason);
        if let Some(details) = &mut status.details {
            details.causes =
                why.iter().map(|why| StatusCause { message: text(why), ..StatusCause::default() }).collect();
        }
        Some(status)
    }
}

impl Mutator for Asked {
    fn name(&self) -> &str {
        &self.name
    }

    fn reinvocable(&self) -> bool {
        self.policy.1.again
    }

    fn mutate(&self, request: &Request<'_>, object: &mut Value, cluster: &mut dyn Lookup) -> Result<(), Status> {
        let policy = &self.policy.1;
        let params = match &self.params {
            Ok(params) => params.clone(),
            Err(why) => {
                let refusal = self.refusal(request, object, "Forbidden", std::slice::from_ref(why));
                return refusal.map_or(Ok(()), Err);
            }
        };
        let mut subject = subject_of(request, object, &self.def, cluster)?;
        subject.params = params;
        let refused = |why: &[String]| self.refusal(request, object, "Invalid", why).map_or(Ok(()), Err);
        match policy.head().meets(&subject, request, cluster) {
            Ok(true) if !subject.object.is_null() => {}
            Ok(_) => return Ok(()),
            Err(why) => return refused(&[why]),
        }
        if request.operation == Operation::Connect {
            return Err(unknown_type(request));
        }
        let (before, mut wrong) = (subject.object.clone(), Vec::new());
        for mutation in &policy.mutations {
            match policy.mutated(mutation, (&subject, &self.def), request, cluster) {
                Ok(mutated) => subject.object = mutated,
                Err(Wrong::Policy(why)) => wrong.push(why),
                Err(Wrong::Request(status)) => return Err(*status),
            }
        }
        refused(&wrong)?;
        if before != subject.object {
            let name = object["metadata"].get("name").cloned();
            *object = taken(request, &subject.object, &self.def, cluster)?;
            keep_name(object, name);
        }
        Ok(())
    }
}

/// What a stream is asked for by has no type that is published, as with upstream.
fn unknown_type(request: &Request<'_>) -> Status {
    let sub = request.sub.and_then(|sub| request.def.subresource(sub));
    let kind = sub.map(|sub| format!("{}/{}, Kind={}", sub.group, sub.version, sub.kind)).unwrap_or_default();
    Status::service_unavailable(format!(
        "Resource kind {kind} not found. There can be a delay between when CustomResourceDefinitions are created and when \
         they are available."
    ))
}

/// What an object is called is not changed.
fn keep_name(object: &mut Value, name: Option<Value>) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    match name {
        Some(name) => metadata.insert("name".to_owned(), name),
        None => metadata.remove("name"),
    };
}

#[cfg(test)]
mod tests;
