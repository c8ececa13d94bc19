//! From the older build to the newer one, and back while that is possible.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use kontiki_etcd_tests::wait::until;
use kontiki_nemesis::{
    History,
    clients::Shared,
    faults::recovered,
    group::Group,
    upgrade::{
        Builds, How, RISES, busy, lead, not_risen, risen, swapped,
        together::{LEASES, end_together, ends},
    },
};
use tokio::time::Instant;

/// The first clients of leases that end together before and after the level has risen.
const BEFORE: u32 = 1000;
const AFTER: u32 = 2000;
/// Leases that were granted at once may be due at a few looks of the leader.
const LOOKS: usize = 4;

/// Three members are upgraded one after the other, those that lead too. Each build leads the other for a while.
pub fn rolling(builds: &Builds) -> Result<()> {
    let story = async |group: &mut Group, shared: &Arc<Shared>| {
        let recorder = &shared.recorder;
        recovered(group, recorder).await?;
        let first = super::follower(group).await?;
        tokio::try_join!(busy(group, recorder, builds), end_together(shared, BEFORE, first))?;
        swapped(group, recorder, builds, first, &builds.newer, How::Stopped).await?;
        lead(group, recorder, first).await?;
        busy(group, recorder, builds).await?;
        not_risen(group).await?;
        let [second, third] = [1, 2].map(|step| (first + step) % 3);
        swapped(group, recorder, builds, second, &builds.newer, How::Stopped).await?;
        lead(group, recorder, third).await?;
        busy(group, recorder, builds).await?;
        not_risen(group).await?;
        swapped(group, recorder, builds, third, &builds.newer, How::Stopped).await?;
        let begun = Instant::now();
        risen(group).await?;
        println!(
            "            the level has risen on all {:.1} s after the last was well",
            begun.elapsed().as_secs_f64()
        );
        tokio::try_join!(busy(group, recorder, builds), end_together(shared, AFTER, first))?;
        compared(group).await
    };
    super::told("rolling", &builds.older, story, |report| {
        let history = History::load(&report.history)?;
        let [before, after] = [ends(&history, BEFORE)?, ends(&history, AFTER)?];
        println!("{LEASES} leases that end together took {} revisions, and {} later", before.len(), after.len());
        ensure!(before.len() == LEASES as usize, "the older build ended several leases at once: {before:?}");
        ensure!(after.len() <= LOOKS, "the newer build ended leases one by one: {after:?}");
        Ok(())
    })
}

/// The leader has compared the hashes of all members and found them equal.
async fn compared(group: &Group) -> Result<()> {
    until("a comparison of all states", RISES, async || {
        let leader = group.leader().await.context("nobody leads")?;
        let metrics = group.metrics(leader).await?;
        let count = metrics.get("kontiki_store_state_checks_total").unwrap_or(0);
        ensure!(count > 0, "the leader has compared none yet");
        println!("            the leader found all states equal {count} times");
        Ok(())
    })
    .await
}

/// All go up while the level is held, all go back, and all go up for good.
pub fn rollback(builds: &Builds) -> Result<()> {
    let held = [builds.held.clone(), builds.held_by_environment(), builds.held.clone()];
    let story = async |group: &mut Group, shared: &Arc<Shared>| {
        let recorder = &shared.recorder;
        recovered(group, recorder).await?;
        for (slot, held) in held.iter().enumerate() {
            swapped(group, recorder, builds, slot, held, How::Stopped).await?;
        }
        busy(group, recorder, builds).await?;
        not_risen(group).await?;
        for (slot, how) in [How::Stopped, How::Killed, How::Stopped].into_iter().enumerate() {
            swapped(group, recorder, builds, slot, &builds.older, how).await?;
            busy(group, recorder, builds).await?;
        }
        for slot in 0..held.len() {
            not_risen(group).await?;
            swapped(group, recorder, builds, slot, &builds.newer, How::Stopped).await?;
        }
        risen(group).await?;
        busy(group, recorder, builds).await
    };
    super::told("rollback", &builds.older, story, |_| Ok(()))
}
