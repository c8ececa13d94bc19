//! What pods ask for and what nodes have, as numbers.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use kontiki_model::Quantity;

/// What a container without a request is scored at: 100m and 200 MB, as upstream.
const SCORED_CPU: i64 = 100;
const SCORED_MEMORY: i64 = 200 * 1024 * 1024;

/// Amounts of each resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Resources {
    /// In thousandths of a core.
    pub milli_cpu: i64,
    /// In bytes.
    pub memory: i64,
    /// In bytes.
    pub ephemeral_storage: i64,
    /// Extended resources and huge pages, by name.
    pub scalar: BTreeMap<String, i64>,
}

type Map = BTreeMap<String, Text>;

impl Resources {
    /// Reads a resource list. A quantity that cannot be read counts as zero; validation keeps such
    /// out of the store. Pods are counted apart.
    #[must_use]
    pub fn read(map: Option<&Map>) -> Self {
        let mut out = Self::default();
        for (name, text) in map.into_iter().flatten() {
            let quantity: Quantity = text.0.parse().unwrap_or_default();
            match name.as_str() {
                "cpu" => out.milli_cpu = quantity.milli(),
                "memory" => out.memory = quantity.units(),
                "ephemeral-storage" => out.ephemeral_storage = quantity.units(),
                "pods" => {}
                other => drop(out.scalar.insert(other.to_owned(), quantity.units())),
            }
        }
        out
    }

    fn merge(&mut self, other: &Self, with: fn(i64, i64) -> i64) {
        self.milli_cpu = with(self.milli_cpu, other.milli_cpu);
        self.memory = with(self.memory, other.memory);
        self.ephemeral_storage = with(self.ephemeral_storage, other.ephemeral_storage);
        for (name, amount) in &other.scalar {
            let mine = self.scalar.entry(name.clone()).or_default();
            *mine = with(*mine, *amount);
        }
    }

    /// Adds another amount.
    pub fn add(&mut self, other: &Self) {
        self.merge(other, i64::saturating_add);
    }

    fn raise_to(&mut self, other: &Self) {
        self.merge(other, i64::max);
    }
}

fn requests(resources: Option<&ResourceRequirements>) -> Option<&Map> {
    resources.and_then(|resources| resources.requests.as_ref())
}

fn sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// What a pod needs at its hungriest moment: its containers and sidecars together, or an init
/// container with the sidecars before it; plus overhead. A request of the pod as a whole replaces
/// the sum.
#[must_use]
pub fn of_pod(spec: &PodSpec) -> Resources {
    total(spec, |container| Resources::read(requests(container.resources.as_ref())))
}

/// The same, with something for containers that ask for nothing: for scoring only, so that such
/// pods do not all land on one node.
#[must_use]
pub fn for_score(spec: &PodSpec) -> Resources {
    let mut amount = total(spec, |container| {
        let asked = requests(container.resources.as_ref());
        let asks_for = |name| asked.is_some_and(|asked| asked.contains_key(name));
        let mut amount = Resources::read(asked);
        if !asks_for("cpu") {
            amount.milli_cpu = SCORED_CPU;
        }
        if !asks_for("memory") {
            amount.memory = SCORED_MEMORY;
        }
        amount
    });
    amount.scalar.clear();
    amount
}

fn total(spec: &PodSpec, of: impl Fn(&Container) -> Resources) -> Resources {
    let mut running = Resources::default();
    spec.containers.iter().for_each(|container| running.add(&of(container)));
    let (mut sidecars, mut peak) = (Resources::default(), Resources::default());
    for container in spec.init_containers.iter().flatten() {
        let amount = of(container);
        if sidecar(container) {
            running.add(&amount);
            sidecars.add(&amount);
            peak.raise_to(&sidecars);
        } else {
            let mut moment = sidecars.clone();
            moment.add(&amount);
            peak.raise_to(&moment);
        }
    }
    running.raise_to(&peak);
    if let Some(whole) = requests(spec.resources.as_ref()) {
        let amount = Resources::read(Some(whole));
        if whole.contains_key("cpu") {
            running.milli_cpu = amount.milli_cpu;
        }
        if whole.contains_key("memory") {
            running.memory = amount.memory;
        }
    }
    running.add(&Resources::read(spec.overhead.as_ref()));
    running
}
