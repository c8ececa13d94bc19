//! Keeps a `default` ServiceAccount in every namespace.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kontiki_api::Api;
use kontiki_cache::{Informer, TypedChange};
use kontiki_plan::Plan;
use kontiki_plan::key::Name;
use kontiki_plan::lifecycle::service_account::{self, NAME};

use crate::controller::{Context, Controller, Inputs, NoFailure};
use crate::index::Namespaces;

pub(crate) struct ServiceAccountController {
    namespaces: Namespaces,
    accounts: Informer<ServiceAccount>,
}

/// A namespace, and whether the account is there.
pub(crate) struct View {
    namespace: Arc<Namespace>,
    present: bool,
}

impl ServiceAccountController {
    fn lost(&self, change: &TypedChange<ServiceAccount>) -> Option<Name> {
        let ours = change.key.name == NAME && change.new.is_none();
        change.key.namespace.as_deref().filter(|_| ours).map(Name::from)
    }
}

impl Controller for ServiceAccountController {
    const NAME: &'static str = "serviceaccount";
    const WORKERS: usize = 4;
    type Key = Name;
    type View = View;
    type Failure = NoFailure;

    fn new(api: &Api) -> Self {
        Self { namespaces: Namespaces::new(api), accounts: api.cache().get() }
    }

    fn inputs(&self, inputs: &mut Inputs<Self>) {
        inputs.on_own(&self.namespaces.0);
        inputs.on(&self.accounts, Self::lost);
    }

    fn view(&self, key: &Name, _: &Context<'_, NoFailure>) -> Option<View> {
        let namespace = self.namespaces.get(key.as_str())?;
        Some(View { namespace, present: self.accounts.get(Some(key.as_str()), NAME).is_some() })
    }

    fn plan(view: &View, _: Timestamp) -> Plan {
        service_account::plan(&view.namespace, view.present)
    }
}
