//! The conditions of the Node object, and when its status is sent.
//!
//! Invariants
//! - `lastTransitionTime` changes only with a condition's status.
//! - A status is sent when something but its times changed, on every new session, and when the API holds another
//!   readiness. Nothing is sent to say that all is as it was: that is what the Lease says.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Node, NodeCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kontiki_model::ingress::CONDITION;
use serde_json::Value;

use crate::time::whole_seconds;

/// Until the node is ready it looks often.
const NOT_READY_PERIOD: Duration = Duration::from_millis(300);
const READY_PERIOD: Duration = Duration::from_secs(10);
/// Below these the kernel or containerd are about to suffer.
const MIN_FREE_MEMORY: u64 = 100 << 20;
const MIN_FREE_DISK_PERCENT: u64 = 5;

/// What is seen of the machine.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Bytes that programs may still have; `None` if the kernel does not tell.
    pub available_memory: Option<u64>,
    /// Size and free bytes of the disk that pods live on.
    pub disk: Option<(u64, u64)>,
    /// The runtime's conditions, or why it does not answer.
    pub runtime: Result<Vec<RuntimeCondition>, String>,
    /// Whether Ingresses are served as they should be, or why not; `None` while there is none to serve.
    pub ingress: Option<Result<(), String>>,
}

/// A condition of the runtime.
#[derive(Clone, Debug, Default)]
pub struct RuntimeCondition {
    pub name: String,
    pub status: bool,
    pub reason: String,
    pub message: String,
}

/// The node's conditions now; `before` are those that the API has.
#[must_use]
pub fn conditions(facts: &Facts, before: &[NodeCondition], now: Timestamp) -> Vec<NodeCondition> {
    let now = Time(whole_seconds(now));
    let condition = |type_: &str, holds: bool, reason: &str, message: String| {
        let status = if holds { "True" } else { "False" };
        let old = before.iter().find(|c| c.type_ == type_ && c.status == status);
        NodeCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_heartbeat_time: Some(now.clone()),
            last_transition_time: old.and_then(|c| c.last_transition_time.clone()).or_else(|| Some(now.clone())),
        }
    };
    let memory = facts.available_memory.is_some_and(|bytes| bytes < MIN_FREE_MEMORY);
    let disk = facts.disk.is_some_and(|(size, free)| free < size / 100 * MIN_FREE_DISK_PERCENT);
    let [memory_reason, memory_message] = if memory {
        ["KubeletHasInsufficientMemory", "kubelet has insufficient memory available"]
    } else {
        ["KubeletHasSufficientMemory", "kubelet has sufficient memory available"]
    };
    let [disk_reason, disk_message] = if disk {
        ["KubeletHasDiskPressure", "kubelet has disk pressure"]
    } else {
        ["KubeletHasNoDiskPressure", "kubelet has no disk pressure"]
    };
    let (ready, ready_reason, ready_message) = match not_ready(&facts.runtime) {
        None => (true, "KubeletReady", "kubelet is posting ready status".to_owned()),
        Some(message) => (false, "KubeletNotReady", message),
    };
    let ingress = facts.ingress.as_ref().map(|served| match served {
        Ok(()) => condition(CONDITION, true, "Serving", "Ingresses are served".to_owned()),
        Err(reason) => condition(CONDITION, false, "NotServing", reason.clone()),
    });
    let own = [
        condition("MemoryPressure", memory, memory_reason, memory_message.to_owned()),
        condition("DiskPressure", disk, disk_reason, disk_message.to_owned()),
        condition("PIDPressure", false, "KubeletHasSufficientPID", "kubelet has sufficient PID available".to_owned()),
        condition("Ready", ready, ready_reason, ready_message),
    ];
    own.into_iter().chain(ingress).collect()
}

fn not_ready(runtime: &Result<Vec<RuntimeCondition>, String>) -> Option<String> {
    let conditions = match runtime {
        Ok(conditions) => conditions,
        Err(error) => return Some(format!("container runtime is down: {error}")),
    };
    conditions.iter().filter(|c| !c.status).find_map(|RuntimeCondition { name, reason, message, .. }| {
        let what = match name.as_str() {
            "RuntimeReady" => "container runtime",
            "NetworkReady" => "container runtime network",
            _ => return None,
        };
        Some(format!("{what} not ready: {name}=false reason:{reason} message:{message}"))
    })
}

/// Whether these conditions say that the node is ready.
#[must_use]
pub fn is_ready(conditions: &[NodeCondition]) -> bool {
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// How long until the node is looked at again.
#[must_use]
pub fn period(ready: bool) -> Duration {
    if ready { READY_PERIOD } else { NOT_READY_PERIOD }
}

/// What was said of the node.
#[derive(Clone, Debug, Default)]
pub struct NodeStatusSync {
    sent: Option<Value>,
    snapshots: u64,
}

impl NodeStatusSync {
    /// Whether `status` must be sent. `snapshots`: how many the sessions completed; `api`: the Node as the API has it.
    pub fn is_due(&mut self, status: &Value, ready: bool, snapshots: u64, api: Option<&Node>) -> bool {
        let resynced = snapshots != std::mem::replace(&mut self.snapshots, snapshots);
        resynced || self.sent != Some(without_times(status)) || api.is_some_and(|api| says_otherwise(api, ready))
    }

    /// It was sent.
    pub fn sent(&mut self, status: &Value) {
        self.sent = Some(without_times(status));
    }
}

/// Whether the API says something else about the node's readiness (a leader had given it up).
fn says_otherwise(api: &Node, ready: bool) -> bool {
    let conditions = api.status.as_ref().and_then(|s| s.conditions.as_ref());
    let status = conditions.into_iter().flatten().find(|c| c.type_ == "Ready").map(|c| c.status.as_str());
    status != Some(if ready { "True" } else { "False" })
}

fn without_times(status: &Value) -> Value {
    let mut out = status.clone();
    for condition in out["conditions"].as_array_mut().into_iter().flatten() {
        if let Some(condition) = condition.as_object_mut() {
            condition.remove("lastHeartbeatTime");
            condition.remove("lastTransitionTime");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    fn runtime(name: &str, status: bool) -> RuntimeCondition {
        RuntimeCondition { name: name.into(), status, reason: "r".into(), message: "m".into() }
    }

    #[test]
    fn conditions_follow_the_machine() {
        const GIB: u64 = 1 << 30;
        let well = Facts {
            available_memory: Some(GIB),
            disk: Some((100 * GIB, 50 * GIB)),
            runtime: Ok(vec![runtime("RuntimeReady", true), runtime("NetworkReady", true)]),
            ingress: None,
        };
        let ready = "kubelet is posting ready status";
        for (name, facts, holding, message) in [
            ("well", well.clone(), "Ready", ready),
            (
                "short of memory",
                Facts { available_memory: Some(1 << 20), ..well.clone() },
                "MemoryPressure Ready",
                ready,
            ),
            ("memory unknown", Facts { available_memory: None, ..well.clone() }, "Ready", ready),
            ("short of disk", Facts { disk: Some((100 * GIB, 4 * GIB)), ..well.clone() }, "DiskPressure Ready", ready),
            ("disk unknown", Facts { disk: None, ..well.clone() }, "Ready", ready),
            (
                "no runtime",
                Facts { runtime: Err("gone".into()), ..well.clone() },
                "",
                "container runtime is down: gone",
            ),
            (
                "runtime not ready",
                Facts { runtime: Ok(vec![runtime("RuntimeReady", false)]), ..well.clone() },
                "",
                "container runtime not ready: RuntimeReady=false reason:r message:m",
            ),
            (
                "no network",
                Facts {
                    runtime: Ok(vec![runtime("RuntimeReady", true), runtime("NetworkReady", false)]),
                    ..well.clone()
                },
                "",
                "container runtime network not ready: NetworkReady=false reason:r message:m",
            ),
            ("Ingresses", Facts { ingress: Some(Ok(())), ..well.clone() }, "Ready IngressReady", ready),
            ("a port is taken", Facts { ingress: Some(Err("taken".into())), ..well.clone() }, "Ready", ready),
            ("a condition of its own", Facts { runtime: Ok(vec![runtime("Other", false)]), ..well }, "Ready", ready),
        ] {
            let got = conditions(&facts, &[], at(10));
            let holds: Vec<_> = got.iter().filter(|c| c.status == "True").map(|c| c.type_.as_str()).collect();
            assert_eq!((holds.join(" ").as_str(), got[3].message.as_deref()), (holding, Some(message)), "{name}");
            assert_eq!(is_ready(&got), holding.contains("Ready"), "{name}");
        }
    }

    #[test]
    fn transitions_are_timed() {
        let ok = Facts { available_memory: None, disk: None, runtime: Ok(vec![]), ingress: None };
        let down = Facts { runtime: Err(String::new()), ..ok.clone() };
        let first = conditions(&ok, &[], at(10));
        let second = conditions(&ok, &first, at(20));
        let third = conditions(&down, &second, at(30));
        let shown = [&first, &second, &third].map(|conditions| {
            let times = [&conditions[3].last_transition_time, &conditions[3].last_heartbeat_time];
            times.map(|time| time.as_ref().map_or(0, |time| time.0.as_second()))
        });
        assert_eq!(shown, [[10, 10], [10, 20], [30, 30]]);
    }

    #[test]
    fn only_news_is_sent() {
        let status = |ready: &str, heartbeat: i64| json!({"conditions": [{"type": "Ready", "status": ready, "lastHeartbeatTime": heartbeat}]});
        let api = |ready: &str| -> Node {
            let conditions = json!([{"type": "Ready", "status": ready}]);
            serde_json::from_value(json!({"metadata": {}, "status": {"conditions": conditions}})).expect("a Node")
        };
        let mut sync = NodeStatusSync::default();
        for (name, ready, heartbeat, snapshots, held, expect) in [
            ("the first", "True", 1, 1, Some("True"), true),
            ("only a time changed", "True", 2, 1, Some("True"), false),
            ("a new session", "True", 3, 2, Some("True"), true),
            ("a change", "False", 4, 2, Some("True"), true),
            ("the API is behind", "False", 5, 2, Some("True"), true),
            ("the API has it", "False", 6, 2, Some("False"), false),
            ("a leader gave the node up", "False", 7, 2, Some("Unknown"), true),
            ("the API's Node is not known", "False", 8, 2, None, false),
        ] {
            let (status, api) = (status(ready, heartbeat), held.map(&api));
            let due = sync.is_due(&status, ready == "True", snapshots, api.as_ref());
            assert_eq!(due, expect, "{name}");
            if due {
                sync.sent(&status);
            }
        }
    }

    #[test]
    fn an_unready_node_is_looked_at_often() {
        assert_eq!((period(true).as_millis(), period(false).as_millis()), (10_000, 300));
    }
}
