//! Resource requests and limits as cgroup values, by kubelet's arithmetic.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, PodSpec, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity as Text,
};
use kontiki_model::Quantity;

const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
/// CFS period in microseconds.
pub const PERIOD: i64 = 100_000;
const MIN_QUOTA: i64 = 1_000;

/// Quality of service: who is throttled and killed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    /// The class of a pod.
    #[must_use]
    pub fn of(spec: &PodSpec) -> Self {
        if let Some(whole) = pod_level(spec) {
            return Self::of_whole(whole);
        }
        let containers = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let asked = |c: &Container| ["cpu", "memory"].iter().any(|r| request(c, r).is_some() || limit(c, r).is_some());
        if !containers().any(asked) {
            return Self::BestEffort;
        }
        let guaranteed = |c: &Container| {
            ["cpu", "memory"].iter().all(|r| limit(c, r).is_some_and(|l| request(c, r).is_none_or(|r| r == l)))
        };
        if containers().all(guaranteed) { Self::Guaranteed } else { Self::Burstable }
    }

    /// The class of a pod that declares its resources as a whole.
    fn of_whole(whole: &ResourceRequirements) -> Self {
        let both = |resource| {
            let limit = amount(whole.limits.as_ref(), resource);
            (amount(whole.requests.as_ref(), resource).or(limit), limit)
        };
        let declared = ["cpu", "memory"].map(both);
        if declared.iter().all(|(request, limit)| request.is_none() && limit.is_none()) {
            return Self::BestEffort;
        }
        let guaranteed = declared.iter().all(|(request, limit)| limit.is_some() && request == limit);
        if guaranteed { Self::Guaranteed } else { Self::Burstable }
    }

    /// As `status.qosClass` spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }

    /// The parent cgroup of a pod of this class.
    #[must_use]
    pub fn cgroup_parent(self, uid: &str) -> String {
        match self {
            Self::Guaranteed => format!("/kubepods/pod{uid}"),
            Self::Burstable => format!("/kubepods/burstable/pod{uid}"),
            Self::BestEffort => format!("/kubepods/besteffort/pod{uid}"),
        }
    }
}

/// Cgroup values of one container. Zero means "not set".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cgroup {
    pub cpu_shares: i64,
    pub cpu_quota: i64,
    pub memory_limit: i64,
    pub oom_score_adj: i64,
}

/// A parsed, positive amount in a resource map.
#[must_use]
pub fn amount(map: Option<&BTreeMap<String, Text>>, resource: &str) -> Option<Quantity> {
    map?.get(resource)?.0.parse::<Quantity>().ok().filter(|q| *q > Quantity::ZERO)
}

fn requirements(container: &Container) -> Option<&ResourceRequirements> {
    container.resources.as_ref()
}

/// What the container asked for. A limit without a request is also the request.
#[must_use]
pub fn request(container: &Container, resource: &str) -> Option<Quantity> {
    let requirements = requirements(container)?;
    amount(requirements.requests.as_ref(), resource).or_else(|| {
        let unset = requirements.requests.as_ref().is_none_or(|r| !r.contains_key(resource));
        if unset { amount(requirements.limits.as_ref(), resource) } else { None }
    })
}

/// What the container may use at most.
#[must_use]
pub fn limit(container: &Container, resource: &str) -> Option<Quantity> {
    amount(requirements(container)?.limits.as_ref(), resource)
}

/// Resources that the pod declares as a whole ([KEP-2837]).
///
/// [KEP-2837]: https://kep.k8s.io/2837
#[must_use]
pub fn pod_level(spec: &PodSpec) -> Option<&ResourceRequirements> {
    let declares = |map: &Option<BTreeMap<String, Text>>| map.as_ref().is_some_and(|map| !map.is_empty());
    spec.resources.as_ref().filter(|whole| declares(&whole.requests) || declares(&whole.limits))
}

/// What the pod as a whole may use at most, if it says so.
#[must_use]
pub fn pod_limit(spec: &PodSpec, resource: &str) -> Option<Quantity> {
    amount(pod_level(spec)?.limits.as_ref(), resource)
}

/// What a container may use at most: its own limit, or the pod's.
fn bound(spec: &PodSpec, container: &Container, resource: &str) -> Option<Quantity> {
    limit(container, resource).or_else(|| pod_limit(spec, resource))
}

/// What the pod asks for: as a whole, or its containers together, or an init container alone beside the sidecars.
#[must_use]
pub fn pod_request(spec: &PodSpec, resource: &str) -> Quantity {
    let whole = pod_level(spec).and_then(|whole| {
        amount(whole.requests.as_ref(), resource).or_else(|| amount(whole.limits.as_ref(), resource))
    });
    if let Some(whole) = whole {
        return whole;
    }
    let (mut sidecars, mut init) = (Quantity::ZERO, Quantity::ZERO);
    for container in spec.init_containers.iter().flatten() {
        let asked = request(container, resource).unwrap_or(Quantity::ZERO);
        if crate::rules::sidecar(container) {
            sidecars = sidecars.plus(asked);
            init = init.max(sidecars);
        } else {
            init = init.max(sidecars.plus(asked));
        }
    }
    let regular = spec.containers.iter().filter_map(|c| request(c, resource)).fold(Quantity::ZERO, Quantity::plus);
    regular.plus(sidecars).max(init)
}

/// CFS quota for so much CPU, in microseconds of a [`PERIOD`].
#[must_use]
pub fn quota(cpu: Quantity) -> i64 {
    (cpu.milli().saturating_mul(PERIOD) / 1000).max(MIN_QUOTA)
}

/// CPU shares for so many millicores.
#[must_use]
pub fn shares(milli: i64) -> i64 {
    if milli <= 0 { MIN_SHARES } else { (milli.saturating_mul(1024) / 1000).clamp(MIN_SHARES, MAX_SHARES) }
}

/// Cgroup values of a container in a pod, on a node with so much memory.
#[must_use]
pub fn cgroup(spec: &PodSpec, container: &Container, node_memory: u64) -> Cgroup {
    let cpu = request(container, "cpu").map_or(0, Quantity::milli);
    Cgroup {
        cpu_shares: shares(cpu),
        cpu_quota: bound(spec, container, "cpu").map_or(0, quota),
        memory_limit: bound(spec, container, "memory").map_or(0, Quantity::units),
        oom_score_adj: oom_score_adj(spec, container, node_memory),
    }
}

/// How willingly the kernel kills the container.
#[must_use]
pub fn oom_score_adj(spec: &PodSpec, container: &Container, node_memory: u64) -> i64 {
    const CRITICAL_PRIORITY: i32 = 2_000_000_000;
    if spec.priority.is_some_and(|p| p >= CRITICAL_PRIORITY) {
        return -997;
    }
    match Qos::of(spec) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let memory = i128::from(request(container, "memory").map_or(0, Quantity::units));
            let share = 1000 * memory / i128::from(node_memory.max(1));
            let adj = i64::try_from(1000 - share).unwrap_or(0);
            if adj < 3 { 3 } else { adj.min(999) }
        }
    }
}

/// CPU shares of the whole pod's cgroup.
#[must_use]
pub fn pod_shares(spec: &PodSpec) -> i64 {
    shares(pod_request(spec, "cpu").milli())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    #[test]
    fn classes_and_cgroups_match_kubelet() {
        let gib = 1 << 30;
        for (name, resources, class, expect) in [
            ("nothing", "", "BestEffort", (2, 0, 0, 1000)),
            ("request only", "requests: {cpu: 100m, memory: 1Gi}", "Burstable", (102, 0, 0, 750)),
            ("limit is request", "limits: {cpu: 500m, memory: 64Mi}", "Guaranteed", (512, 50_000, 64 << 20, -997)),
            ("tiny quota", "limits: {cpu: 1m}", "Burstable", (2, 1_000, 0, 999)),
            ("big request", "requests: {memory: 4Gi}", "Burstable", (2, 0, 0, 3)),
        ] {
            let pod = pod(&format!("containers: [{{name: a, resources: {{{resources}}}}}]"));
            let spec = pod.spec.expect("has a spec");
            assert_eq!(Qos::of(&spec).name(), class, "{name}");
            let got = cgroup(&spec, &spec.containers[0], 4 * gib);
            assert_eq!((got.cpu_shares, got.cpu_quota, got.memory_limit, got.oom_score_adj), expect, "{name}");
        }
    }

    #[test]
    fn a_pod_may_declare_its_resources_as_a_whole() {
        for (name, whole, class, request, memory) in [
            ("nothing", "{}", "Burstable", 100, 0),
            ("guaranteed", "{limits: {cpu: 1, memory: 1Mi}}", "Guaranteed", 1000, 1 << 20),
            ("burstable", "{requests: {cpu: 300m}, limits: {memory: 1Mi}}", "Burstable", 300, 1 << 20),
        ] {
            let containers = "[{name: a, resources: {requests: {cpu: 100m}}}, {name: b}]";
            let pod = pod(&format!("resources: {whole}, containers: {containers}"));
            let spec = pod.spec.expect("has a spec");
            let got = (Qos::of(&spec).name(), pod_request(&spec, "cpu").milli());
            assert_eq!(got, (class, request), "{name}");
            assert_eq!(cgroup(&spec, &spec.containers[1], 1 << 30).memory_limit, memory, "{name}");
        }
        let sidecar = "{name: s, restartPolicy: Always, resources: {requests: {cpu: 10m}}}";
        let init = "{name: i, resources: {requests: {cpu: 200m}}}";
        for (first, expect) in [([sidecar, init], 210), ([init, sidecar], 200)] {
            let containers = "[{name: a, resources: {requests: {cpu: 100m}}}]";
            let pod = pod(&format!("initContainers: [{}], containers: {containers}", first.join(", ")));
            assert_eq!(pod_request(&pod.spec.expect("has a spec"), "cpu").milli(), expect);
        }
    }
}
