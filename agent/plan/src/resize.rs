//! Changes of CPU and memory while a pod runs ([KEP-1287]): what of them is granted, and what is left to do.
//!
//! Invariants
//! - What is granted fits into the node beside what its other pods were granted; what never can, or not now, is refused
//!   as a whole and the pod goes on as it is.
//! - A container's cgroup is changed at most to what is granted. Once it is, nothing is left to do.
//! - What was granted and applied is in the pod's status, so that an agent that starts anew goes on from there.
//!
//! [KEP-1287]: https://kep.k8s.io/1287

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use kontiki_model::Quantity;

use crate::{
    granted::{Pending, Resizing},
    observed::{Observed, State},
    resources, rules,
};

/// A change that the runtime refused is tried again after this long, one for which there was no room too.
const RETRY: SignedDuration = SignedDuration::from_secs(10);

impl Pending {
    /// As the condition spells it.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        if self.infeasible { "Infeasible" } else { "Deferred" }
    }
}

/// CPU in millicores and memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    pub cpu: i64,
    pub memory: i64,
}

/// The node's room for pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    pub allocatable: Amounts,
    /// Asked for by the node's other pods.
    pub used: Amounts,
}

/// What the containers of a pod ask for together.
#[must_use]
pub fn requests(spec: &PodSpec) -> Amounts {
    let amount = |resource| resources::pod_request(spec, resource);
    Amounts { cpu: amount("cpu").milli(), memory: amount("memory").units() }
}

/// The containers whose resources can change: those that stay.
fn lasting(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| rules::sidecar(c));
    sidecars.chain(&spec.containers)
}

fn declared(container: &Container) -> ResourceRequirements {
    container.resources.clone().unwrap_or_default()
}

/// Whether an amount of `resource` differs between two declarations.
fn differs(a: &ResourceRequirements, b: &ResourceRequirements, resource: &str) -> bool {
    let both =
        |of: &ResourceRequirements| [&of.requests, &of.limits].map(|map| resources::amount(map.as_ref(), resource));
    both(a) != both(b)
}

fn changed(a: &ResourceRequirements, b: &ResourceRequirements) -> Vec<&'static str> {
    ["cpu", "memory"].into_iter().filter(|resource| differs(a, b, resource)).collect()
}

impl Resizing {
    /// Takes over what an earlier agent told the API.
    pub fn adopt(&mut self, pod: &Pod) {
        let Some(status) = &pod.status else { return };
        let all = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
        for known in all {
            let Some(applied) = &known.resources else { continue };
            let id = known.container_id.as_deref().and_then(|id| id.strip_prefix("containerd://"));
            if let Some(id) = id {
                let requests = known.allocated_resources.clone().or_else(|| applied.requests.clone());
                let granted = ResourceRequirements { requests, ..applied.clone() };
                self.granted.insert(known.name.clone(), granted);
                self.applied.insert(id.to_owned(), applied.clone());
            }
        }
    }

    /// Decides on what `pod`, as the API has it, asks for. `room` is looked at only if that has changed.
    pub fn grant(&mut self, pod: &Pod, room: impl FnOnce() -> Room, now: Timestamp) {
        let Some(spec) = &pod.spec else { return };
        let mut asked = false;
        for container in lasting(spec) {
            let declared = declared(container);
            match self.granted.get(&container.name) {
                None => drop(self.granted.insert(container.name.clone(), declared)),
                Some(granted) => asked |= !changed(granted, &declared).is_empty(),
            }
        }
        if !asked {
            self.pending = None;
            return;
        }
        if self.pending.as_ref().is_some_and(|pending| !pending.infeasible && now < pending.retry) {
            return;
        }
        match refusal(requests(spec), room()) {
            Some((infeasible, message)) => {
                self.pending = Some(Pending { infeasible, message, retry: now + RETRY });
            }
            None => {
                self.granted = lasting(spec).map(|c| (c.name.clone(), declared(c))).collect();
                self.pending = None;
                self.failed = None;
            }
        }
    }

    /// Replaces what `spec` asks for by what is granted.
    pub fn overlay(&self, spec: &mut PodSpec) {
        for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
            if let Some(granted) = self.granted.get(&container.name) {
                let own = container.resources.get_or_insert_default();
                own.requests.clone_from(&granted.requests);
                own.limits.clone_from(&granted.limits);
            }
        }
    }

    /// What differs between the container that is seen as `id` and its definition.
    #[must_use]
    pub fn outstanding(&self, definition: &Container, id: &str) -> Vec<&'static str> {
        self.applied.get(id).map(|applied| changed(applied, &declared(definition))).unwrap_or_default()
    }

    /// Whether some running container has yet to become as it is granted.
    #[must_use]
    pub fn in_progress(&self, spec: &PodSpec, seen: &Observed) -> bool {
        lasting(spec).any(|container| {
            let latest = seen.latest(&container.name).filter(|seen| seen.state == State::Running);
            latest.is_some_and(|latest| !self.outstanding(container, &latest.id).is_empty())
        })
    }

    /// The runtime has set what `definition` says.
    pub fn applied(&mut self, definition: &Container, id: &str) {
        self.applied.insert(id.to_owned(), declared(definition));
        self.failed = None;
    }

    /// The runtime refused.
    pub fn failed(&mut self, message: String, now: Timestamp) {
        self.failed = Some((message, now + RETRY));
    }
}

/// Why so much cannot be granted, and whether it never can. `None`: it can.
fn refusal(asked: Amounts, Room { allocatable, used }: Room) -> Option<(bool, String)> {
    let table =
        [("memory", asked.memory, used.memory, allocatable.memory), ("cpu", asked.cpu, used.cpu, allocatable.cpu)];
    let never = table.iter().find(|(_, asked, _, capacity)| asked > capacity).map(|(name, asked, _, capacity)| {
        (true, format!("Node didn't have enough capacity: {name}, requested: {asked}, capacity: {capacity}"))
    });
    never.or_else(|| {
        let full = table.iter().rev().find(|(_, asked, used, capacity)| asked + used > *capacity);
        full.map(|(name, asked, used, capacity)| {
            let amounts = format!("requested: {asked}, used: {used}, capacity: {capacity}");
            (false, format!("Node didn't have enough resource: {name}, {amounts}"))
        })
    })
}

/// Whether a change of these resources needs the container to be started anew.
#[must_use]
pub fn needs_restart(definition: &Container, resources: &[&str]) -> bool {
    let policies = definition.resize_policy.iter().flatten();
    policies
        .filter(|policy| policy.restart_policy == "RestartContainer")
        .any(|policy| resources.contains(&policy.resource_name.as_str()))
}

/// What `pods` ask for together, without the one of this uid and those that are over.
#[must_use]
pub fn used<'a>(pods: impl Iterator<Item = &'a Pod>, but: &str) -> Amounts {
    let over = |pod: &Pod| matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
    let counted = pods.filter(|pod| pod.metadata.uid.as_deref() != Some(but) && !over(pod));
    counted.filter_map(|pod| pod.spec.as_ref()).map(requests).fold(Amounts::default(), |sum, more| Amounts {
        cpu: sum.cpu.saturating_add(more.cpu),
        memory: sum.memory.saturating_add(more.memory),
    })
}

/// All of a node, in the same units.
#[must_use]
pub fn whole(cpus: u64, memory: u64) -> Amounts {
    let cpu = Quantity::from_units(i64::try_from(cpus).unwrap_or(i64::MAX)).milli();
    Amounts { cpu, memory: i64::try_from(memory).unwrap_or(i64::MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    fn of(cpu: &str, memory: &str) -> Pod {
        pod(&format!(
            "containers: [{{name: a, resources: {{requests: {{cpu: {cpu}, memory: {memory}}}}}}}, {{name: b}}]"
        ))
    }

    #[test]
    fn what_fits_is_granted_and_nothing_else() {
        let room =
            Room { allocatable: Amounts { cpu: 2_000, memory: 1_000 }, used: Amounts { cpu: 1_000, memory: 500 } };
        for (name, cpu, memory, granted, pending) in [
            ("the same, otherwise spelled", "0.1", "100", "0.1", None),
            ("more", "1", "500", "1", None),
            ("less", "1m", "1", "1m", None),
            (
                "more than there is now",
                "1500m",
                "100",
                "100m",
                Some("Deferred: Node didn't have enough resource: cpu, requested: 1500, used: 1000, capacity: 2000"),
            ),
            (
                "more than there ever is",
                "3",
                "100",
                "100m",
                Some("Infeasible: Node didn't have enough capacity: cpu, requested: 3000, capacity: 2000"),
            ),
            (
                "both too much",
                "3",
                "2000",
                "100m",
                Some("Infeasible: Node didn't have enough capacity: memory, requested: 2000, capacity: 1000"),
            ),
        ] {
            let mut resizing = Resizing::default();
            resizing.grant(&of("100m", "100"), || panic!("the first look grants"), at(0));
            let asked = of(cpu, memory);
            resizing.grant(&asked, || room, at(1));
            let mut spec = asked.spec.clone().expect("a spec");
            resizing.overlay(&mut spec);
            let got = spec.containers[0].resources.as_ref().and_then(|r| r.requests.as_ref()).expect("requests");
            let same = |a: &str, b: &str| a.parse::<Quantity>().ok() == b.parse::<Quantity>().ok();
            assert!(same(&got["cpu"].0, granted), "{name}: {got:?}");
            let got = resizing.pending.as_ref().map(|p| format!("{}: {}", p.reason(), p.message));
            assert_eq!(got.as_deref(), pending, "{name}");
        }
    }

    #[test]
    fn what_is_deferred_is_looked_at_again() {
        let mut resizing = Resizing::default();
        let full = Room { allocatable: Amounts { cpu: 100, memory: 100 }, used: Amounts { cpu: 50, memory: 0 } };
        resizing.grant(&of("10m", "1"), || full, at(0));
        resizing.grant(&of("60m", "1"), || full, at(1));
        assert!(resizing.pending.is_some());
        resizing.grant(&of("60m", "1"), || panic!("not yet"), at(2));
        resizing.grant(&of("60m", "1"), || Room { used: Amounts::default(), ..full }, at(12));
        assert_eq!(resizing.pending, None);
    }

    #[test]
    fn a_policy_may_want_the_container_anew() {
        let policies = "[{resourceName: cpu, restartPolicy: NotRequired}, \
                        {resourceName: memory, restartPolicy: RestartContainer}]";
        let pod = pod(&format!("containers: [{{name: a, resizePolicy: {policies}}}]"));
        let container = &pod.spec.as_ref().expect("a spec").containers[0];
        for (resources, expect) in
            [(&["cpu"][..], false), (&["memory"], true), (&["cpu", "memory"], true), (&[], false)]
        {
            assert_eq!(needs_restart(container, resources), expect, "{resources:?}");
        }
    }

    #[test]
    fn an_agent_that_starts_anew_goes_on_from_the_status() {
        let mut pod = of("100m", "100");
        let status = "{containerStatuses: [{name: a, containerID: 'containerd://x', image: i, imageID: i, ready: true, \
                      restartCount: 0, allocatedResources: {cpu: 100m, memory: 100}, \
                      resources: {requests: {cpu: 50m, memory: 100}}}]}";
        pod.status = serde_yaml_ng::from_str(status).expect("a status");
        let mut resizing = Resizing::default();
        resizing.adopt(&pod);
        let container = &pod.spec.as_ref().expect("a spec").containers[0];
        assert_eq!(resizing.outstanding(container, "x"), ["cpu"], "granted, not applied");
        resizing.applied(container, "x");
        assert_eq!(resizing.outstanding(container, "x"), [] as [&str; 0]);
    }
}
