//! Collects what nobody owns any more, and what an owner waits for.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kontiki_api::{Api, Registry};
use kontiki_cache::{PartialObjectMetadata, TypedChange};
use kontiki_model::GroupVersionKind;
use kontiki_plan::Plan;
use kontiki_plan::key::Uid;
use kontiki_plan::lifecycle::gc::{self, Owner};

use crate::controller::{Context, Controller, Inputs, NoFailure};
use crate::index::{Objects, item};

pub(crate) struct GarbageCollector {
    objects: Objects,
    /// The kinds that are served.
    registry: Registry,
}

/// The objects of one uid, each with the state of its owners, and those that name it as theirs.
pub(crate) struct View {
    objects: Vec<(Arc<PartialObjectMetadata>, Vec<Owner>)>,
    dependents: Vec<Arc<PartialObjectMetadata>>,
}

impl GarbageCollector {
    fn concerned(&self, change: &TypedChange<PartialObjectMetadata>) -> Vec<Uid> {
        let dependents =
            |uid: &str| self.objects.owned_by(uid).iter().map(|dependent| Uid::from(dependent.uid.as_str())).collect();
        let going = |uid: &str| self.objects.with_uid(uid).iter().any(|object| object.deleting);
        gc::concerned(change.old.as_deref().map(item), change.new.as_deref().map(item), dependents, going)
    }

    fn owner_state(&self, dependent: &PartialObjectMetadata, owner: &OwnerReference) -> Owner {
        let found = self.objects.with_uid(&owner.uid);
        let found: Vec<_> = found.iter().map(|object| item(object)).collect();
        gc::owner_state(&item(dependent), &found, self.served(owner))
    }

    fn served(&self, owner: &OwnerReference) -> bool {
        let kind = GroupVersionKind::new(&owner.api_version, &owner.kind);
        self.registry.table().rows().iter().any(|def| def.group == kind.group && def.kind == kind.kind)
    }
}

impl Controller for GarbageCollector {
    const NAME: &'static str = "garbage-collector";
    const WORKERS: usize = 16;
    type Key = Uid;
    type View = View;
    type Failure = NoFailure;

    fn new(api: &Api) -> Self {
        Self { objects: Objects::new(api), registry: api.registry().clone() }
    }

    fn inputs(&self, inputs: &mut Inputs<Self>) {
        inputs.on(&self.objects.0, Self::concerned);
    }

    fn view(&self, key: &Uid, _: &Context<'_, NoFailure>) -> Option<View> {
        let objects = self.objects.with_uid(key.as_str());
        let dependents = if objects.is_empty() { Vec::new() } else { self.objects.owned_by(key.as_str()) };
        let judged = objects.into_iter().map(|object| {
            let owners = object.owners.iter().map(|owner| self.owner_state(&object, owner)).collect();
            (object, owners)
        });
        Some(View { objects: judged.collect(), dependents })
    }

    fn plan(view: &View, _: Timestamp) -> Plan {
        let plans = view.objects.iter().map(|(object, owners)| {
            let dependents = view.dependents.iter().map(|dependent| item(dependent)).collect();
            gc::plan(&gc::View { item: item(object), owners: owners.clone(), dependents })
        });
        let all = plans.reduce(|mut all, plan| {
            all.extend(plan);
            all
        });
        all.unwrap_or(Plan::rest("it is gone"))
    }
}
