//! How long one server takes from its start until it is ready, with the objects that it had before.

use anyhow::Result;
use kontiki_etcd_tests::load::figures::Column;

use crate::{
    cases::fill_pods,
    compare::Scale,
    objects::{self, name, part},
    peer::Peer,
};

pub const TITLE: &str = "start of one server";
const NAMESPACE: &str = "start";
const STARTS: usize = 5;

/// # Errors
/// A server refuses, or ends.
pub async fn measure(peer: &mut Peer, scale: &Scale, column: &mut Column<'_>) -> Result<()> {
    let title = |pods: u64| format!("{TITLE}, {pods} Pods");
    starts(peer, &title(0), column).await?;
    peer.ensure("/api/v1/namespaces", &objects::namespace(NAMESPACE)).await?;
    let accounts = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts");
    peer.ensure(&accounts, &objects::service_account()).await?;
    peer.ensure("/api/v1/nodes", &objects::node(&part('s', 0))).await?;
    let holes = |number| vec![name(number), part('g', number % 100), part('s', 0)];
    fill_pods(peer, NAMESPACE, holes, scale.pods).await?;
    starts(peer, &title(scale.pods), column).await
}

async fn starts(peer: &mut Peer, title: &str, column: &mut Column<'_>) -> Result<()> {
    for _ in 0..STARTS {
        column.add(title, "ready after ms", peer.restart().await?.as_secs_f64() * 1e3);
    }
    Ok(())
}
