//! Memory, and what takes long with much data: a snapshot, a new member.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kontiki_proto::etcd as pb;

use super::{
    CONNECTIONS, Scale,
    driver::{Pool, fill_with, held},
    fanout::watch,
    figures::Column,
};
use crate::{group::Group, wait::until};

pub const TITLE: &str = "memory, snapshot and new member";
const SMALL: usize = 256;
const LARGE: usize = 8 * 1024;
const SMALL_KEYS: &str = "small/";
const LARGE_KEYS: &str = "large/";
/// Watches of one stream.
const WATCHES: usize = 100;
/// Memory is looked at when the work behind an answer has had time to end.
const CALM: Duration = Duration::from_secs(3);
const INSTALL: Duration = Duration::from_secs(600);
const MIB: f64 = 1024.0 * 1024.0;

pub async fn measure(mut group: Group, scale: &Scale, column: &mut Column<'_>) -> Result<()> {
    let name = group.kind().name();
    let pool = Pool::connect(&group, group.leader().await?, CONNECTIONS * group.members().len()).await?;
    memory(&group, "memory, idle", column).await?;
    idle_cpu(&group, column).await?;
    eprintln!("memory with {} watches, {name}", scale.idle_watches);
    watches(&group, &pool, scale, column).await?;

    eprintln!("memory with {} keys, {name}", scale.keys);
    let start = Instant::now();
    fill_with(&pool, SMALL_KEYS, 0..u32::try_from(scale.keys)?, SMALL).await?;
    column.add(&format!("load of {} keys, 512 clients", scale.keys), "s", start.elapsed().as_secs_f64());
    memory(&group, &format!("memory, {} keys of {SMALL} B", scale.keys), column).await?;

    eprintln!("{} values of {LARGE} bytes, {name}", scale.large);
    let start = Instant::now();
    fill_with(&pool, LARGE_KEYS, 0..u32::try_from(scale.large)?, LARGE).await?;
    column.add(&format!("load of {} values of {LARGE} B", scale.large), "s", start.elapsed().as_secs_f64());
    #[expect(clippy::cast_precision_loss, reason = "a few gigabytes")]
    let user = (scale.keys * SMALL + scale.large * LARGE) as f64 / MIB;
    eprintln!("snapshot, {name}");
    snapshot(&group, user, column).await?;
    eprintln!("new member, {name}");
    new_member(&mut group, scale, user, column).await
}

#[expect(clippy::cast_precision_loss, reason = "a few gigabytes")]
async fn memory(group: &Group, title: &str, column: &mut Column<'_>) -> Result<()> {
    tokio::time::sleep(CALM).await;
    let members: Vec<u64> = group.members().iter().map(crate::group::Member::rss).collect::<Result<_>>()?;
    column.add(title, "RSS of all, MiB", members.iter().sum::<u64>() as f64 / MIB);
    column.add(title, "RSS of the largest, MiB", members.iter().copied().max().unwrap_or(0) as f64 / MIB);
    Ok(())
}

async fn idle_cpu(group: &Group, column: &mut Column<'_>) -> Result<()> {
    let (start, before) = (Instant::now(), group.cpu()?);
    tokio::time::sleep(CALM).await;
    let share = (group.cpu()? - before) / start.elapsed().as_secs_f64();
    column.add("idle, three members", "% of a core", share * 100.0);
    Ok(())
}

/// Idle watches on as many keys, none of which exists.
async fn watches(group: &Group, pool: &Pool, scale: &Scale, column: &mut Column<'_>) -> Result<()> {
    let mut streams = Vec::new();
    for i in 0..scale.idle_watches / WATCHES {
        let keys = (0..WATCHES).map(|j| format!("watched/{i:04}/{j:04}"));
        streams.push(watch(pool, i, keys).await?);
    }
    memory(group, &format!("memory, {} watches", scale.idle_watches), column).await
}

async fn snapshot(group: &Group, user: f64, column: &mut Column<'_>) -> Result<()> {
    let mut maintenance = group.clients(group.leader().await?)?.maintenance;
    let start = Instant::now();
    let mut stream = maintenance.snapshot(pb::SnapshotRequest {}).await?.into_inner();
    let mut length = 0;
    while let Some(part) = stream.message().await? {
        length += part.blob.len();
    }
    let seconds = start.elapsed().as_secs_f64();
    ensure!(length > 0, "an empty snapshot");
    let title = format!("snapshot of {user:.0} MiB of values");
    column.add(&title, "s", seconds);
    column.add(&title, "MiB of values/s", user / seconds);
    #[expect(clippy::cast_precision_loss, reason = "a few gigabytes")]
    column.add(&title, "size, MiB", length as f64 / MIB);
    Ok(())
}

/// From the start of its process until it holds every key itself.
async fn new_member(group: &mut Group, scale: &Scale, user: f64, column: &mut Column<'_>) -> Result<()> {
    let index = group.join().await?;
    let start = Instant::now();
    let mut clients = group.clients(index)?;
    let want = (i64::try_from(scale.keys)?, i64::try_from(scale.large)?);
    until("the new member has all keys", INSTALL, async || {
        let small = held(&mut clients, SMALL_KEYS).await?;
        let have = (small, held(&mut clients, LARGE_KEYS).await?);
        ensure!(have == want, "it has {have:?} of {want:?}");
        Ok(())
    })
    .await
    .with_context(|| group.tails(5))?;
    column.add(&format!("new member gets {user:.0} MiB of values"), "s", start.elapsed().as_secs_f64());
    Ok(())
}
