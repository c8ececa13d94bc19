//! Leases that end together, and what that shows about the store.
//!
//! The older build ends every lease by a log entry of its own, the newer one all that are due by one: the keys of
//! several leases go at one revision.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use kontiki_etcd_tests::wait::until;
use tokio::{sync::Barrier, task::JoinSet};

use crate::{
    clients::{Client, Shared},
    history::{Ask, History, Kind, LeaseAsk, LeaseOutcome, Outcome, Part, Rev, Step, WatchStep},
    leases::BOUND,
    leasing,
};

/// Leases that end together.
pub const LEASES: u32 = 20;
const TTL: i64 = 3;

/// Grants leases at once through one member, ties a key to each, and waits until all are gone. `first` is the number of
/// the first client that does it, and names the keys.
///
/// # Errors
/// A lease was not granted, or is still there long after its time.
pub async fn end_together(shared: &Arc<Shared>, first: u32, member: usize) -> Result<()> {
    let ready = Arc::new(Barrier::new(LEASES as usize));
    let mut set = JoinSet::new();
    for process in first..first + LEASES {
        let mut client = Client::new(shared, process, u64::from(process));
        client.go_to(member);
        set.spawn(one(client, format!("{}{process}", prefix(first)), Arc::clone(&ready)));
    }
    while let Some(done) = set.join_next().await {
        done??;
    }
    let limit = Duration::from_secs(TTL.unsigned_abs()) + Duration::from_nanos(BOUND);
    let mut client = Client::new(shared, first + LEASES, u64::from(first));
    let from = prefix(first);
    let read = Step::Range { to: format!("{from}~"), from };
    until("the keys of leases that end together go", limit, async || {
        let answer = client.insist(|_| Ask::plain(Kind::Range, vec![read.clone()])).await;
        let left: usize =
            answer.parts.iter().map(|part| if let Part::Items(items) = part { items.len() } else { 0 }).sum();
        if left == 0 { Ok(()) } else { Err(format!("{left} are left")) }
    })
    .await
}

/// One lease with one key.
async fn one(mut client: Client, key: String, ready: Arc<Barrier>) -> Result<()> {
    // A connection first: what follows is to happen at one time.
    client.insist(|_| Ask::plain(Kind::Get, vec![Step::Get { key: "r/00".into() }])).await;
    ready.wait().await;
    let lease = i64::from(client.process()) * 1_000_000;
    let granted = leasing::ask(&mut client, LeaseAsk::Grant, lease, TTL).await;
    ensure!(matches!(granted, LeaseOutcome::Ok { .. }), "lease {lease}: {granted:?}");
    let put = Step::Put { key, value: client.value(), lease };
    let put = client.ask(Ask::plain(Kind::LeasePut, vec![put])).await;
    ensure!(matches!(put, Outcome::Ok(_)), "tied to lease {lease}: {put:?}");
    Ok(())
}

fn prefix(first: u32) -> String {
    format!("l/{first:05}-")
}

/// At which revisions the keys of such leases went, and how many at each.
///
/// # Errors
/// Not all of them were seen to go.
pub fn ends(history: &History, first: u32) -> Result<BTreeMap<Rev, usize>> {
    let prefix = prefix(first);
    let mut gone: BTreeMap<&str, Rev> = BTreeMap::new();
    for step in &history.watches {
        let WatchStep::Batch { events, .. } = &step.step else { continue };
        let deleted = events.iter().filter(|event| event.item.is_none() && event.key.starts_with(&prefix));
        gone.extend(deleted.map(|event| (event.key.as_str(), event.revision)));
    }
    let count = u32::try_from(gone.len()).context("a handful of keys")?;
    ensure!(count == LEASES, "{count} of {LEASES} leased keys were seen to go");
    let mut ends: BTreeMap<Rev, usize> = BTreeMap::new();
    gone.values().for_each(|revision| *ends.entry(*revision).or_default() += 1);
    Ok(ends)
}
