//! Removes join tokens that have expired.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kontiki_api::Api;
use kontiki_cache::{Informer, TypedChange};
use kontiki_plan::Plan;
use kontiki_plan::key::NamespacedName;
use kontiki_plan::lifecycle::bootstrap_token;

use crate::controller::{Context, Controller, Inputs, NoFailure};

pub(crate) struct TokenCleaner {
    secrets: Informer<Secret>,
}

impl TokenCleaner {
    fn token(&self, change: &TypedChange<Secret>) -> Option<NamespacedName> {
        change.new.as_deref().filter(|secret| bootstrap_token::is_token(secret)).map(|_| (&change.key).into())
    }
}

impl Controller for TokenCleaner {
    const NAME: &'static str = "token-cleaner";
    const WORKERS: usize = 1;
    type Key = NamespacedName;
    type View = Arc<Secret>;
    type Failure = NoFailure;

    fn new(api: &Api) -> Self {
        Self { secrets: api.cache().get() }
    }

    fn inputs(&self, inputs: &mut Inputs<Self>) {
        inputs.on(&self.secrets, Self::token);
    }

    fn view(&self, key: &NamespacedName, _: &Context<'_, NoFailure>) -> Option<Arc<Secret>> {
        self.secrets.get(Some(&key.namespace), &key.name)
    }

    fn plan(view: &Arc<Secret>, now: Timestamp) -> Plan {
        bootstrap_token::plan(view, now)
    }
}
