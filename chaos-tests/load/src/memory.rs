//! What one server keeps of many Pods, right after they were written and when it has rested.
//!
//! One master, which leads, has all the work and caches that any has: three of them would take three times the machine
//! and say the same.

use std::time::Duration;

use anyhow::Result;
use kontiki_etcd_tests::load::figures::Column;

use crate::{
    cases::fill_pods,
    compare::Scale,
    objects::{self, name, part},
    peer::Peer,
};

pub const TITLE: &str = "memory of one server";
const NAMESPACE: &str = "memory";
const NODES: u64 = 100;
const MIB: f64 = 1024.0 * 1024.0;

/// # Errors
/// A server refuses, or ends.
pub async fn measure(peer: &Peer, scale: &Scale, column: &mut Column<'_>) -> Result<()> {
    peer.ensure("/api/v1/namespaces", &objects::namespace(NAMESPACE)).await?;
    let accounts = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts");
    peer.ensure(&accounts, &objects::service_account()).await?;
    for number in 0..NODES {
        peer.ensure("/api/v1/nodes", &objects::node(&part('m', number))).await?;
    }
    let title = format!("{TITLE}, {} Pods", scale.kept);
    tell(peer, &format!("{TITLE}, empty"), None, column)?;
    let holes = |number| vec![name(number), part('g', number % 100), part('m', number % NODES)];
    let bytes = fill_pods(peer, NAMESPACE, holes, scale.kept).await?;
    #[expect(clippy::cast_precision_loss, reason = "a few gigabytes")]
    let bytes = bytes as f64;
    column.add(&title, "bytes of the objects, MiB", bytes / MIB);
    tell(peer, &format!("{title}, right after"), Some(bytes), column)?;
    let rest: Duration = scale.rest;
    tokio::time::sleep(rest).await;
    tell(peer, &format!("{title}, {} s later", rest.as_secs()), Some(bytes), column)
}

/// Of a kube-apiserver, its etcd is told apart.
#[expect(clippy::cast_precision_loss, reason = "a few gigabytes")]
fn tell(peer: &Peer, title: &str, objects: Option<f64>, column: &mut Column<'_>) -> Result<()> {
    let resident = peer.rss()?;
    let server = resident[0] as f64;
    column.add(title, "RSS of the API server or master, MiB", server / MIB);
    column.add(title, "RSS with etcd, MiB", resident.iter().sum::<u64>() as f64 / MIB);
    if let Some(objects) = objects {
        column.add(title, "RSS of the API server or master / bytes of the objects", server / objects);
    }
    Ok(())
}
