//! Whether a node takes a pod that was bound to it: what a kubelet looks at before it starts anything of a pod
//! (`pkg/kubelet/lifecycle/predicate.go`). Who binds past the scheduler may ask for what others have.
//!
//! Invariants
//! - A pod is judged once, before anything of it exists; what runs is never refused.
//! - Of two that come at once and cannot both be here, the older one stays.

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use crate::observed::EndedByNode;
use crate::resize::{self, Amounts, Room};
use crate::rules;

/// What a node has for pods.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    pub amounts: Amounts,
    pub pods: usize,
}

/// Why `pod` cannot be here beside `all` pods of the node, if so.
#[must_use]
pub fn refusal(pod: &Pod, all: &[&Pod], node: Capacity) -> Option<EndedByNode> {
    let spec = pod.spec.as_ref()?;
    let others: Vec<&Pod> = all.iter().copied().filter(|other| stays(other) && comes_before(other, pod)).collect();
    let room = Room { allocatable: node.amounts, used: resize::used(others.iter().copied(), "") };
    short_of(spec, &others, node.pods, room).or_else(|| {
        let taken = others.iter().filter_map(|other| other.spec.as_ref()).any(|other| clash(spec, other));
        taken.then(|| {
            refused(
                "NodePorts",
                "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports",
            )
        })
    })
}

fn refused(reason: &'static str, text: &str) -> EndedByNode {
    EndedByNode { reason, message: format!("Pod was rejected: {text}") }
}

fn short_of(spec: &PodSpec, others: &[&Pod], pods: usize, room: Room) -> Option<EndedByNode> {
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let asked = resize::requests(spec);
    let (used, all) = (room.used, room.allocatable);
    let kinds = [
        ("OutOfpods", "pods", 1, count(others.len()), count(pods)),
        ("OutOfcpu", "cpu", asked.cpu, used.cpu, all.cpu),
        ("OutOfmemory", "memory", asked.memory, used.memory, all.memory),
    ];
    kinds.into_iter().find(|(.., asked, used, all)| *asked > 0 && *asked > all.saturating_sub(*used)).map(
        |(reason, resource, asked, used, all)| {
            refused(
                reason,
                &format!(
                    "Node didn't have enough resource: {resource}, requested: {asked}, used: {used}, capacity: {all}"
                ),
            )
        },
    )
}

fn stays(pod: &Pod) -> bool {
    !matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// Whether `other` has its place before `pod` gets one: it has begun, or it is older.
fn comes_before(other: &Pod, pod: &Pod) -> bool {
    let key = |pod: &Pod| (pod.metadata.creation_timestamp.as_ref().map(|time| time.0), pod.metadata.uid.clone());
    let begun = other.status.as_ref().is_some_and(|status| status.start_time.is_some());
    pod.metadata.uid != other.metadata.uid && (begun || key(other) < key(pod))
}

/// A port of the node that a pod takes: protocol, address ("" for all of them), number.
fn ports(spec: &PodSpec) -> impl Iterator<Item = (&str, &str, i32)> {
    rules::containers(spec).flat_map(|container| container.ports.iter().flatten()).filter_map(|port| {
        let number = port.host_port.filter(|number| *number > 0)?;
        let address = port.host_ip.as_deref().filter(|ip| *ip != "0.0.0.0" && *ip != "::").unwrap_or_default();
        Some((port.protocol.as_deref().unwrap_or("TCP"), address, number))
    })
}

fn clash(a: &PodSpec, b: &PodSpec) -> bool {
    let same = |a: &str, b: &str| a.is_empty() || b.is_empty() || a == b;
    ports(a).any(|(protocol, address, number)| {
        ports(b).any(|(other, at, port)| (other, port) == (protocol, number) && same(address, at))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    const NODE: Capacity = Capacity { amounts: Amounts { cpu: 2000, memory: 1 << 30 }, pods: 3 };

    fn made(uid: &str, phase: &str, second: i64, spec: &str) -> Pod {
        let mut pod = pod(spec);
        pod.metadata.uid = Some(uid.into());
        let at = jiff::Timestamp::from_second(second).expect("in range");
        pod.metadata.creation_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at));
        pod.status.get_or_insert_default().phase = Some(phase.into());
        pod
    }

    fn port(number: i32, more: &str) -> String {
        format!("containers: [{{name: a, ports: [{{containerPort: 1, hostPort: {number}{more}}}]}}]")
    }

    fn asks(resource: &str) -> String {
        format!("containers: [{{name: a, resources: {{requests: {{{resource}}}}}}}]")
    }

    #[test]
    fn what_others_have_is_refused() {
        let plain = "containers: [{name: a}]".to_owned();
        let few =
            "Pod was rejected: Node didn't have enough resource: cpu, requested: 1500, used: 1000, capacity: 2000";
        for (what, other, phase, own, reason) in [
            ("nothing asked for", plain.clone(), "Running", plain.clone(), None),
            ("another port", port(80, ""), "Running", port(81, ""), None),
            ("the same port", port(80, ""), "Running", port(80, ""), Some("NodePorts")),
            ("of one that is over", port(80, ""), "Failed", port(80, ""), None),
            ("of another protocol", port(80, ", protocol: UDP"), "Running", port(80, ""), None),
            ("of another address", port(80, ", hostIP: 10.0.0.1"), "Running", port(80, ", hostIP: 10.0.0.2"), None),
            (
                "of all addresses",
                port(80, ", hostIP: 0.0.0.0"),
                "Running",
                port(80, ", hostIP: 10.0.0.2"),
                Some("NodePorts"),
            ),
            ("room for both", asks("cpu: 1"), "Running", asks("cpu: 1"), None),
            ("no room", asks("cpu: 1"), "Running", asks("cpu: 1500m"), Some("OutOfcpu")),
            ("more than all", plain.clone(), "Running", asks("memory: 2Gi"), Some("OutOfmemory")),
        ] {
            let (other, own) = (made("o", phase, 1, &other), made("p", "Pending", 2, &own));
            let got = refusal(&own, &[&other, &own], NODE);
            assert_eq!(got.as_ref().map(|refusal| refusal.reason), reason, "{what}");
            assert!(reason != Some("OutOfcpu") || got.is_some_and(|refusal| refusal.message == few), "{what}");
        }
        let all: Vec<Pod> = (0..4).map(|i| made(&i.to_string(), "Pending", i, &plain)).collect();
        let all: Vec<&Pod> = all.iter().collect();
        assert_eq!(refusal(all[3], &all, NODE).map(|refusal| refusal.reason), Some("OutOfpods"));
        assert_eq!(refusal(all[2], &all, NODE), None, "older ones come first");
    }

    #[test]
    fn of_two_that_come_at_once_the_older_one_stays() {
        let (one, other) = (made("a", "Pending", 1, &port(80, "")), made("b", "Pending", 2, &port(80, "")));
        assert_eq!(refusal(&one, &[&one, &other], NODE), None);
        assert!(refusal(&other, &[&one, &other], NODE).is_some());
        let mut begun = other;
        begun.status.get_or_insert_default().start_time = begun.metadata.creation_timestamp.clone();
        assert!(refusal(&one, &[&one, &begun], NODE).is_some(), "what has begun keeps its port");
    }
}
