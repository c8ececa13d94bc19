//! Empties namespaces that are being deleted.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kontiki_api::Api;
use kontiki_cache::{PartialObjectMetadata, TypedChange};
use kontiki_plan::Plan;
use kontiki_plan::key::Name;
use kontiki_plan::lifecycle::namespace;
use kontiki_plan::object::deleting;

use crate::controller::{Context, Controller, Inputs, NoFailure};
use crate::index::{Namespaces, Objects, item};

pub(crate) struct NamespaceController {
    namespaces: Namespaces,
    objects: Objects,
}

/// A namespace with all that lies in it.
pub(crate) struct View {
    namespace: Arc<Namespace>,
    content: Vec<Arc<PartialObjectMetadata>>,
}

impl NamespaceController {
    fn terminating(&self, change: &TypedChange<Namespace>) -> Option<Name> {
        change.new.as_ref().filter(|namespace| deleting(&namespace.metadata)).map(|_| Name::from(&change.key))
    }

    fn around(&self, change: &TypedChange<PartialObjectMetadata>) -> Option<Name> {
        let space = change.key.namespace.as_deref().filter(|space| self.namespaces.terminating(space))?;
        Some(space.into())
    }
}

impl Controller for NamespaceController {
    const NAME: &'static str = "namespace";
    const WORKERS: usize = 4;
    type Key = Name;
    type View = View;
    type Failure = NoFailure;

    fn new(api: &Api) -> Self {
        Self { namespaces: Namespaces::new(api), objects: Objects::new(api) }
    }

    fn inputs(&self, inputs: &mut Inputs<Self>) {
        inputs.on(&self.namespaces.0, Self::terminating);
        inputs.on(&self.objects.0, Self::around);
    }

    fn view(&self, key: &Name, _: &Context<'_, NoFailure>) -> Option<View> {
        Some(View { namespace: self.namespaces.get(key.as_str())?, content: self.objects.within(key.as_str()) })
    }

    fn plan(view: &View, now: Timestamp) -> Plan {
        let content = view.content.iter().map(|object| item(object)).collect();
        namespace::plan(&namespace::View { namespace: &view.namespace, content }, now)
    }
}
