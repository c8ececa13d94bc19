//! Finding the containers and sandboxes that clients ask for.

use k8s_cri::v1 as cri;

use crate::{
    node::Node,
    runtime::labels::{self, POD_UID},
    session::tunnels::TunnelError,
};

/// The latest container of this name in the pod, or the one before it.
pub(crate) async fn latest(
    node: &Node,
    uid: &str,
    name: &str,
    previous: bool,
) -> Result<Option<cri::Container>, TunnelError> {
    let filter =
        cri::ContainerFilter { label_selector: labels::selector(uid, name), ..cri::ContainerFilter::default() };
    let answer = node.cri.list_containers(cri::ListContainersRequest { filter: Some(filter) }).await;
    let mut containers = answer.map_err(|e| TunnelError::new(500, e.message))?.containers;
    let attempt = |c: &cri::Container| c.metadata.as_ref().map_or(0, |m| m.attempt);
    containers.sort_by_key(|c| std::cmp::Reverse((attempt(c), c.created_at)));
    Ok(containers.into_iter().nth(usize::from(previous)))
}

/// The pod's newest sandbox that is ready.
pub(crate) async fn ready_sandbox(node: &Node, uid: &str) -> Result<String, TunnelError> {
    let filter = cri::PodSandboxFilter {
        state: Some(cri::PodSandboxStateValue { state: cri::PodSandboxState::SandboxReady.into() }),
        label_selector: [(POD_UID.to_owned(), uid.to_owned())].into(),
        ..cri::PodSandboxFilter::default()
    };
    let answer = node.cri.list_pod_sandbox(cri::ListPodSandboxRequest { filter: Some(filter) }).await;
    let items = answer.map_err(|e| TunnelError::new(500, e.message))?.items;
    let newest = items.into_iter().max_by_key(|s| s.created_at);
    newest.map(|s| s.id).ok_or_else(|| TunnelError::new(404, "the pod is not running here"))
}
