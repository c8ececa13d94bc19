//! Gives CustomResourceDefinitions their names, and empties those that go.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kontiki_api::{Api, Registry};
use kontiki_cache::{Informer, PartialObjectMetadata, TypedChange};
use kontiki_model::GroupResource;
use kontiki_plan::Plan;
use kontiki_plan::key::Name;
use kontiki_plan::lifecycle::custom_kinds::{self, accepted, called};
use kontiki_plan::object::deleting;

use crate::controller::{Context, Controller, Inputs, NoFailure};
use crate::index::{Objects, item};

/// Definitions by their group.
const GROUP: &str = "group";

pub(crate) struct CustomKinds {
    definitions: Informer<CustomResourceDefinition>,
    objects: Objects,
    /// The kinds that are served.
    registry: Registry,
}

/// A definition, the others of its group, and the objects of its kind if it goes.
pub(crate) struct View {
    definition: Arc<CustomResourceDefinition>,
    others: Vec<Arc<CustomResourceDefinition>>,
    objects: Vec<Arc<PartialObjectMetadata>>,
    overlaps: bool,
}

impl CustomKinds {
    /// A definition, and those of its group that may wait for its names.
    fn concerned(&self, change: &TypedChange<CustomResourceDefinition>) -> Vec<Name> {
        let mut names = vec![Name::from(&change.key)];
        if custom_kinds::frees_names(change.old.as_deref(), change.new.as_deref()) {
            let group = change.old.as_ref().map(|old| old.spec.group.as_str()).unwrap_or_default();
            let others = self.definitions.by_index(GROUP, group);
            names.extend(others.iter().map(|other| Name::from(called(other))));
        }
        names
    }

    /// The definition that goes, of an object that goes.
    fn emptied(&self, change: &TypedChange<PartialObjectMetadata>) -> Option<Name> {
        let name = format!("{}.{}", change.key.resource, change.key.group);
        let definition = self.definitions.get(None, &name)?;
        deleting(&definition.metadata).then(|| Name::from(name.as_str()))
    }

    /// Whether objects of something else are stored where those of a definition are.
    fn overlaps(&self, resource: GroupResource<'_>) -> bool {
        let table = self.registry.table();
        table.rows().iter().any(|row| row.stored_as() == resource && row.schema.structural().is_none())
    }
}

impl Controller for CustomKinds {
    const NAME: &'static str = "custom-kinds";
    // Two that are asked at once could be given the same name.
    const WORKERS: usize = 1;
    type Key = Name;
    type View = View;
    type Failure = NoFailure;

    fn new(api: &Api) -> Self {
        let definitions: Informer<CustomResourceDefinition> = api.cache().get();
        definitions.add_index::<CustomResourceDefinition>(GROUP, |definition| vec![definition.spec.group.clone()]);
        Self { definitions, objects: Objects::new(api), registry: api.registry().clone() }
    }

    fn inputs(&self, inputs: &mut Inputs<Self>) {
        inputs.on(&self.definitions, Self::concerned);
        inputs.on(&self.objects.0, Self::emptied);
    }

    fn view(&self, key: &Name, _: &Context<'_, NoFailure>) -> Option<View> {
        let definition = self.definitions.get(None, key.as_str())?;
        let mut others = self.definitions.by_index(GROUP, &definition.spec.group);
        others.retain(|other| called(other) != called(&definition));
        let resource = GroupResource { group: &definition.spec.group, resource: &definition.spec.names.plural };
        let goes = deleting(&definition.metadata);
        let objects = if goes { self.objects.0.list_of(resource) } else { Vec::new() };
        let overlaps = goes && self.overlaps(resource);
        Some(View { definition, others, objects, overlaps })
    }

    fn plan(view: &View, now: Timestamp) -> Plan {
        let mut taken: [BTreeSet<&str>; 2] = Default::default();
        for other in &view.others {
            for (taken, names) in taken.iter_mut().zip(accepted(other)) {
                taken.extend(names);
            }
        }
        let objects = view.objects.iter().map(|object| item(object)).collect();
        let (definition, overlaps) = (&view.definition, view.overlaps);
        custom_kinds::plan(&custom_kinds::View { definition, taken, objects, overlaps }, now)
    }
}
