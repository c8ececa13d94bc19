//! What a group keeps of a million writes once it has nothing to do.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use kontiki_proto::etcd as pb;
use tokio::task::JoinSet;

use super::{
    Scale,
    driver::{Pool, random_value},
    figures::Column,
    latency::{quantile, tenths},
};
use crate::{group::Group, wait::until};

pub const TITLE: &str = "rest after writes";
const CLIENTS: usize = 256;
/// As many objects as a small cluster has.
const KEYS: u32 = 200;
const VALUE: usize = 1024;
/// Rest is when nothing has changed for so long.
const STILL: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_secs(300);
const MIB: f64 = 1024.0 * 1024.0;

/// Writes, forgets the past, and waits until memory and disk stand still.
///
/// # Errors
/// A request fails, or the group finds no rest.
pub async fn measure(group: Group, scale: &Scale, column: &mut Column<'_>) -> Result<()> {
    let pool = Pool::connect(&group, group.leader().await?, CLIENTS).await?;
    let (start, before) = (Instant::now(), group.cpu()?);
    let latencies = write(&pool, u32::try_from(scale.keys)?).await?;
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), group.cpu()? - before);
    let title = format!("puts of {VALUE} B on {KEYS} keys, {CLIENTS} clients");
    #[expect(clippy::cast_precision_loss, reason = "a count of requests")]
    let count = scale.keys as f64;
    column.add(&title, "ops/s", count / seconds);
    column.add(&title, "server CPU s per 100k", cpu / count * 1e5);
    for (name, share) in [("p50 ms", 0.5), ("p99 ms", 0.99), ("p999 ms", 0.999)] {
        column.add(&title, name, quantile(&latencies, share));
    }
    forget(&group).await?;
    let title = format!("at rest after {} of them", scale.keys);
    let (rss, disk) = rest(&group).await?;
    column.add(&title, "RSS of the largest, MiB", rss / MIB);
    column.add(&title, "disk of the largest, MiB", disk / MIB);
    column.add(&title, "seconds until then", start.elapsed().as_secs_f64() - seconds);
    Ok(())
}

/// Puts so many times; sorted latencies.
async fn write(pool: &Pool, count: u32) -> Result<Vec<u32>> {
    let next = Arc::new(AtomicU32::new(0));
    let mut tasks = JoinSet::new();
    for client in 0..CLIENTS {
        let (next, mut kv, value) = (next.clone(), pool.clients(client).kv, random_value(VALUE));
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return anyhow::Ok(latencies);
                }
                let (key, value) = (format!("rest/{:04}", number % KEYS).into(), value.clone());
                let asked = Instant::now();
                kv.put(pb::PutRequest { key, value, ..pb::PutRequest::default() }).await?;
                latencies.push(tenths(asked.elapsed()));
            }
        });
    }
    let mut all = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        all.extend(ended??);
    }
    all.sort_unstable();
    Ok(all)
}

/// Compacts all there is; etcd gives disk back only when told to.
async fn forget(group: &Group) -> Result<()> {
    let mut leader = group.clients(group.leader().await?)?;
    let now = leader.maintenance.status(pb::StatusRequest {}).await?.into_inner();
    let revision = now.header.context("a header")?.revision;
    leader.kv.compact(pb::CompactionRequest { revision, physical: true }).await?;
    for member in 0..group.members().len() {
        group.clients(member)?.maintenance.defragment(pb::DefragmentRequest {}).await?;
    }
    Ok(())
}

/// Bytes of memory and disk of the largest member, once they have stood still.
async fn rest(group: &Group) -> Result<(f64, f64)> {
    let (mut last, mut since) = ((0, 0), Instant::now());
    until("rest", LIMIT, async || {
        let now = largest(group)?;
        // Allocators give back a little now and then, and rows of the database's own log come and go.
        let moved = |a: u64, b: u64| a.abs_diff(b) > (4 << 20);
        if moved(now.0, last.0) || moved(now.1, last.1) {
            (last, since) = (now, Instant::now());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        ensure!(since.elapsed() >= STILL, "{} and {} MiB", now.0 >> 20, now.1 >> 20);
        Ok(())
    })
    .await?;
    let (rss, disk) = largest(group)?;
    #[expect(clippy::cast_precision_loss, reason = "a few gigabytes")]
    Ok((rss as f64, disk as f64))
}

fn largest(group: &Group) -> Result<(u64, u64)> {
    let rss = group.members().iter().map(crate::group::Member::rss).collect::<Result<Vec<_>>>()?;
    let disk = group.members().iter().map(|member| used(&member.dir)).collect::<Result<Vec<_>>>()?;
    Ok((rss.into_iter().max().unwrap_or(0), disk.into_iter().max().unwrap_or(0)))
}

/// Bytes that a directory takes, set aside ones included.
fn used(dir: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let mut sum = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // Files come and go while the store works.
        let Ok(meta) = entry.metadata() else { continue };
        sum += if meta.is_dir() { used(&entry.path())? } else { meta.blocks() * 512 };
    }
    Ok(sum)
}
