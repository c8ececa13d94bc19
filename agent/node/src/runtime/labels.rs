//! The labels and annotations that name a pod and its containers in the runtime.
//!
//! Invariants
//! - They are kubelet's, so that tools that look at containerd find what they expect, and so that a restarted agent
//!   recognizes its pods.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use kontiki_agent_plan::rules;

pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
pub(crate) const HASH: &str = "io.kubernetes.container.hash";
const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

/// What every sandbox and container of a pod is found by.
pub(crate) fn of_pod(pod: &Pod) -> HashMap<String, String> {
    let meta = &pod.metadata;
    let [name, namespace, uid] = [&meta.name, &meta.namespace, &meta.uid].map(|t| t.clone().unwrap_or_default());
    [(POD_NAME.to_owned(), name), (POD_NAMESPACE.to_owned(), namespace), (POD_UID.to_owned(), uid)].into()
}

/// The same with the pod's own labels, which never stand for what it is found by.
pub(crate) fn of_sandbox(pod: &Pod) -> HashMap<String, String> {
    let mut labels: HashMap<_, _> = pod.metadata.labels.clone().unwrap_or_default().into_iter().collect();
    labels.extend(of_pod(pod));
    labels
}

/// What selects one container of a pod, in whatever attempt.
pub(crate) fn selector(uid: &str, container: &str) -> HashMap<String, String> {
    [(POD_UID.to_owned(), uid.to_owned()), (CONTAINER_NAME.to_owned(), container.to_owned())].into()
}

/// What the runtime keeps of a container's definition.
pub(crate) fn annotations(spec: &PodSpec, container: &Container, attempt: u32) -> HashMap<String, String> {
    [
        (HASH, rules::definition_hash(container)),
        (RESTART_COUNT, attempt.to_string()),
        (MESSAGE_PATH, container.termination_message_path.clone().unwrap_or_else(|| "/dev/termination-log".to_owned())),
        (MESSAGE_POLICY, container.termination_message_policy.clone().unwrap_or_else(|| "File".to_owned())),
        (GRACE, spec.termination_grace_period_seconds.unwrap_or(30).to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_cannot_pass_for_another_one() {
        let text = r#"{"metadata": {"name": "a", "namespace": "n", "uid": "u",
            "labels": {"app": "x", "io.kubernetes.pod.uid": "other", "io.kubernetes.pod.name": "other"}}}"#;
        let labels = of_sandbox(&serde_json::from_str(text).expect("a pod"));
        for (key, expect) in [("app", "x"), (POD_UID, "u"), (POD_NAME, "a"), (POD_NAMESPACE, "n")] {
            assert_eq!(labels.get(key).map(String::as_str), Some(expect), "{key}");
        }
    }
}
