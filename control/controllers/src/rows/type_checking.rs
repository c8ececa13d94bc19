//! Tells in the status of ValidatingAdmissionPolicies what the types of objects say of their expressions.
//!
//! The row of the kind finds that out, by the kinds that are served when a policy is looked at. It may take a while: it has a
//! thread of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use k8s_openapi::Resource as _;
use k8s_openapi::api::admissionregistration::v1::{TypeChecking, ValidatingAdmissionPolicy};
use kontiki_api::{Api, Registry};
use kontiki_cache::Informer;
use kontiki_plan::Plan;
use kontiki_plan::key::Name;
use kontiki_plan::policy::type_checking::{self, is_due};
use tokio::task::spawn_blocking;
use tracing::error;

use crate::controller::{Context, Controller, Inputs, NoFailure};

pub(crate) struct TypeChecks {
    policies: Informer<ValidatingAdmissionPolicy>,
    registry: Registry,
    /// For the next view: what was found out, and of what.
    found: Mutex<HashMap<Name, View>>,
}

/// A policy, and what types say of it.
pub(crate) struct View {
    policy: Arc<ValidatingAdmissionPolicy>,
    found: Option<TypeChecking>,
}

impl TypeChecks {
    fn found(&self) -> MutexGuard<'_, HashMap<Name, View>> {
        // Nothing panics while it holds the lock, so a poisoned one is whole.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What types say of a policy; `None`: nothing.
fn check(policy: &ValidatingAdmissionPolicy, registry: &Registry) -> Option<TypeChecking> {
    type Kind = ValidatingAdmissionPolicy;
    // Kinds that were there before the policy are served, too.
    registry.settle();
    let table = registry.table();
    let def = table.find_kind(Kind::GROUP, Kind::VERSION, Kind::KIND)?;
    let found = def.strategy.observed(&serde_json::to_value(policy).ok()?, &table)?;
    serde_json::from_value(found).ok()
}

impl Controller for TypeChecks {
    const NAME: &'static str = "validatingadmissionpolicy-status";
    const WORKERS: usize = 1;
    type Key = Name;
    type View = View;
    type Failure = NoFailure;

    fn new(api: &Api) -> Self {
        Self { policies: api.cache().get(), registry: api.registry().clone(), found: Mutex::default() }
    }

    fn inputs(&self, inputs: &mut Inputs<Self>) {
        inputs.on_own(&self.policies);
    }

    async fn learn(&self, key: &Name) {
        let Some(policy) = self.policies.get(None, key.as_str()).filter(|policy| is_due(policy)) else { return };
        let (of, registry) = (policy.clone(), self.registry.clone());
        match spawn_blocking(move || check(&of, &registry)).await {
            Ok(found) => drop(self.found().insert(key.clone(), View { policy, found })),
            Err(error) => error!(%error, policy = %key, "types could not be checked; this is a bug"),
        }
    }

    fn view(&self, key: &Name, _: &Context<'_, NoFailure>) -> Option<View> {
        let learned = self.found().remove(key);
        let policy = self.policies.get(None, key.as_str())?;
        let about = |policy: &ValidatingAdmissionPolicy| (policy.metadata.uid.clone(), policy.metadata.generation);
        let found =
            learned.filter(|learned| about(&learned.policy) == about(&policy)).and_then(|learned| learned.found);
        Some(View { policy, found })
    }

    fn plan(view: &View, _: Timestamp) -> Plan {
        type_checking::plan(&view.policy, view.found.as_ref())
    }
}
