//! What an operator does on a good day, done on a bad one: compaction, and leadership handed over.

use anyhow::{Context, Result};
use kontiki_proto::etcd::{CompactionRequest, MoveLeaderRequest};
use rand::{Rng, rngs::StdRng};

use super::{any, leader};
use crate::group::{Group, name};

/// Revisions that are kept: more than any watcher falls behind by.
const KEPT: i64 = 3000;

/// Throws the older half of history away, or all but the newest part.
pub async fn compact(group: &mut Group, rng: &mut StdRng) -> Result<String> {
    let slot = any(group, rng);
    let status = group.status(slot).await?;
    let head = status.header.map_or(0, |header| header.revision);
    let revision = (head / 2).max(head - KEPT);
    let request = CompactionRequest { revision, physical: rng.random_bool(0.5) };
    // It may have been compacted further already.
    let answer = group.ask(slot, async |clients| clients.kv.compact(request).await.map(drop)).await;
    let word = answer.err().map_or_else(String::new, |error| format!(" ({error:#})"));
    Ok(format!("to {revision} of {head} by {}{word}", name(slot)))
}

/// Asks the leader to let another member lead.
pub async fn move_leader(group: &mut Group, rng: &mut StdRng) -> Result<String> {
    let old = leader(group, rng).await;
    let others: Vec<usize> = group.present().into_iter().filter(|slot| *slot != old).collect();
    if others.is_empty() {
        return Ok("nobody to move it to".into());
    }
    let new = others[rng.random_range(0..others.len())];
    let target_id = group.status(new).await?.header.context("a status without a header")?.member_id;
    let move_it = MoveLeaderRequest { target_id };
    let answer = group.ask(old, async |clients| clients.maintenance.move_leader(move_it).await.map(drop)).await;
    let word = answer.err().map_or_else(String::new, |error| format!(" ({error:#})"));
    Ok(format!("from {} to {}{word}", name(old), name(new)))
}
