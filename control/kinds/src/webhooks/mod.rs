//! Admission webhooks: the steps of admission that webhook configurations say there are.
//!
//! Invariants
//! - A configuration is compiled once for each of its versions, when the store tells of it. A cluster without webhooks
//!   pays one look at an empty list.
//! - Webhooks are asked in the order of their configurations' names, and as these list them.
//! - Whatever a webhook answers ends in a verdict or a Status. It changes nothing but the object that it was asked about,
//!   and of that only what a client could send.

mod hook;
pub(crate) mod review;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, RwLock, atomic::Ordering},
};

use kontiki_machinery::{
    GroupResource, Registry,
    admission::{AsyncStep, Member, Phase, Request, Source},
    outcall::Caller,
};
use kontiki_model::ObjectKey;
use serde_json::Value;

use crate::{matching, rows::value::list};
use hook::Hook;
pub(crate) use hook::{shown, taken};

const MUTATING: &[GroupResource<'static>] =
    &[GroupResource { group: "admissionregistration.k8s.io", resource: "mutatingwebhookconfigurations" }];
const VALIDATING: &[GroupResource<'static>] =
    &[GroupResource { group: "admissionregistration.k8s.io", resource: "validatingwebhookconfigurations" }];

/// The members of the chain of admission that ask webhooks, in upstream's order.
#[must_use]
pub fn members(registry: &Registry, caller: &Arc<dyn Caller>) -> [Member; 2] {
    [Phase::Mutating, Phase::Validating]
        .map(|phase| Member::Many(Arc::new(Webhooks::new(phase, registry.clone(), Arc::clone(caller)))))
}

/// The webhooks of one phase.
struct Webhooks {
    phase: Phase,
    /// What webhooks share.
    context: Arc<CallContext>,
    configurations: Mutex<BTreeMap<String, Vec<Arc<Hook>>>>,
    /// All of these, in order.
    hooks: RwLock<Arc<[Arc<Hook>]>>,
}

/// What a webhook is called with.
struct CallContext {
    registry: Registry,
    caller: Arc<dyn Caller>,
}

impl Webhooks {
    fn new(phase: Phase, registry: Registry, caller: Arc<dyn Caller>) -> Self {
        let context = Arc::new(CallContext { registry, caller });
        Self { phase, context, configurations: Mutex::default(), hooks: RwLock::default() }
    }

    fn compiled(&self, name: &str, stored: &[u8]) -> Vec<Arc<Hook>> {
        // What is stored has been validated; whatever is not JSON has no webhooks.
        let configuration: Value = serde_json::from_slice(stored).unwrap_or_default();
        let hooks = list(&configuration, "webhooks");
        let compiled = |(at, hook): (usize, &Value)| {
            let same = hooks[..at].iter().filter(|other| other["name"] == hook["name"]).count();
            Some(Arc::new(Hook::of(self.phase, &self.context, (name, same), hook)?))
        };
        hooks.iter().enumerate().filter_map(compiled).collect()
    }
}

impl Source for Webhooks {
    fn follows(&self) -> &'static [GroupResource<'static>] {
        if self.phase == Phase::Mutating { MUTATING } else { VALIDATING }
    }

    fn changed(&self, key: &ObjectKey, object: Option<&[u8]>) {
        let name = key.name.as_str();
        let compiled = object.map(|stored| self.compiled(name, stored)).unwrap_or_default();
        let mut configurations = self.configurations.lock().unwrap_or_else(PoisonError::into_inner);
        if compiled.is_empty() {
            configurations.remove(name);
        } else {
            configurations.insert(name.to_owned(), compiled);
        }
        let hooks: Arc<[Arc<Hook>]> = configurations.values().flatten().cloned().collect();
        hooks.iter().enumerate().for_each(|(at, hook)| hook.place.store(at, Ordering::Relaxed));
        *self.hooks.write().unwrap_or_else(PoisonError::into_inner) = hooks;
    }

    fn steps(&self, phase: Phase, request: &Request<'_>) -> Vec<Arc<dyn AsyncStep>> {
        let hooks = self.hooks.read().unwrap_or_else(PoisonError::into_inner).clone();
        if phase != self.phase || hooks.is_empty() || matching::is_exempt(request) {
            return Vec::new();
        }
        let table = self.context.registry.table();
        let meant = hooks.iter().filter(|hook| hook.resource(request, &table).is_some());
        meant.map(|hook| Arc::clone(hook) as Arc<dyn AsyncStep>).collect()
    }
}

#[cfg(test)]
mod tests;
