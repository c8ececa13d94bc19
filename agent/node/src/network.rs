//! Keeps the node's network equal to what the masters say: its own pod range, the other nodes,
//! and the services.

use std::{sync::Arc, time::Duration};

use ipnet::IpNet;
use k8s_openapi::api::core::v1;
use kontiki_net::{Network, Peer};
use tokio_util::sync::CancellationToken;

use crate::node::Node;

/// Changes come in bursts (a rollout); one pass serves a burst.
const GATHER: Duration = Duration::from_millis(20);
const RETRY: Duration = Duration::from_secs(1);
/// Someone else may have changed the kernel's state.
const AGAIN: Duration = Duration::from_secs(60);

/// Follows the cache until `stop`.
pub(crate) async fn run(node: Arc<Node>, network: Network, stop: CancellationToken) {
    let mut changed = node.objects.network_changed();
    loop {
        changed.borrow_and_update();
        let pause = match turn(&node, &network).await {
            Ok(()) => AGAIN,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "the network is not as it should be yet");
                RETRY
            }
        };
        tokio::select! {
            // Cancel-safe: the receiver keeps the unseen version.
            _ = changed.changed() => tokio::time::sleep(GATHER).await,
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn turn(node: &Node, network: &Network) -> anyhow::Result<()> {
    if node.objects.snapshots() == 0 {
        return Ok(()); // nothing is known: what the kernel has is better
    }
    let nodes = node.objects.nodes();
    let own = nodes.iter().find(|n| n.metadata.name.as_ref() == Some(&node.config.name));
    if let Some(range) = own.and_then(|n| pod_range(n)) {
        network.set_node(range).await?;
        let others = nodes.iter().filter(|n| n.metadata.name.as_ref() != Some(&node.config.name));
        network.set_peers(others.filter_map(|n| peer(n)).collect()).await?;
    }
    network.set_services(node.service_ports()).await
}

fn pod_range(node: &v1::Node) -> Option<IpNet> {
    node.spec.as_ref()?.pod_cidr.as_ref()?.parse().ok()
}

fn peer(node: &v1::Node) -> Option<Peer> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let address = addresses.iter().find(|a| a.type_ == "InternalIP")?;
    Some(Peer { name: node.metadata.name.clone()?, node_ip: address.address.parse().ok()?, pod_cidr: pod_range(node)? })
}
