//! What containers and the machine use. CPU time becomes a rate between two looks.
//!
//! Invariants
//! - Nobody looks unless somebody asks. Who asks at once with another, or right after, gets the same look.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_cri::v1::{ContainerStats, ListContainerStatsRequest};
use tokio::{sync::Mutex, time::Instant};

use super::cri::{Cri, CriError};
use crate::host::facts;

/// A look that old is good enough.
const FRESH: Duration = Duration::from_secs(1);
/// An earlier look is compared with, unless it is older than this.
const WINDOW: Duration = Duration::from_secs(60);

/// Looks at usage.
#[derive(Default)]
pub(crate) struct Usage {
    looks: Mutex<Option<Seen>>,
}

/// Two looks, one after the other.
#[derive(Clone)]
pub(crate) struct Seen {
    before: Arc<Look>,
    pub(crate) latest: Arc<Look>,
}

/// What was used up to one moment.
pub(crate) struct Look {
    taken: Instant,
    pub(crate) at: Timestamp,
    pub(crate) containers: Vec<ContainerStats>,
    /// CPU time of the machine in nanoseconds.
    pub(crate) node_cpu: u64,
}

impl Usage {
    /// What is used now.
    ///
    /// # Errors
    /// If the runtime does not answer.
    pub(crate) async fn look(&self, cri: &Cri) -> Result<Seen, CriError> {
        let mut looks = self.looks.lock().await;
        let known = looks.as_ref().filter(|seen| seen.latest.taken.elapsed() < WINDOW);
        if let Some(seen) = known.filter(|seen| seen.latest.taken.elapsed() < FRESH) {
            return Ok(seen.clone());
        }
        let before = match known {
            Some(seen) => seen.latest.clone(),
            None => {
                let first = Look::take(cri).await?;
                tokio::time::sleep(FRESH).await; // a rate needs time between two looks
                first
            }
        };
        let seen = Seen { before, latest: Look::take(cri).await? };
        *looks = Some(seen.clone());
        Ok(seen)
    }
}

impl Look {
    async fn take(cri: &Cri) -> Result<Arc<Self>, CriError> {
        let containers = cri.list_container_stats(ListContainerStatsRequest::default()).await?.stats;
        let (taken, at, node_cpu) = (Instant::now(), Timestamp::now(), facts::cpu_nanoseconds());
        Ok(Arc::new(Self { taken, at, containers, node_cpu }))
    }

    fn cpu(&self, id: &str) -> Option<(i64, u64)> {
        let found = self.containers.iter().find(|stats| stats.attributes.as_ref().is_some_and(|a| a.id == id))?;
        cpu(found)
    }
}

/// When it was looked at, and the CPU time until then, both in nanoseconds.
fn cpu(stats: &ContainerStats) -> Option<(i64, u64)> {
    let cpu = stats.cpu.as_ref()?;
    Some((cpu.timestamp, cpu.usage_core_nano_seconds.as_ref()?.value))
}

impl Seen {
    /// CPU of a container in billionths of a core.
    pub(crate) fn rate(&self, stats: &ContainerStats) -> u64 {
        let id = stats.attributes.as_ref().map_or("", |attributes| &attributes.id);
        let told = || stats.cpu.as_ref().and_then(|cpu| cpu.usage_nano_cores.as_ref()).map_or(0, |value| value.value);
        match (self.before.cpu(id), cpu(stats)) {
            (Some((then, before)), Some((now, after))) if now > then => {
                per_second(after.saturating_sub(before), now.abs_diff(then))
            }
            _ => told(),
        }
    }

    /// CPU of the machine in billionths of a core.
    pub(crate) fn node_rate(&self) -> u64 {
        let time = self.latest.taken.duration_since(self.before.taken).as_nanos();
        let used = self.latest.node_cpu.saturating_sub(self.before.node_cpu);
        per_second(used, u64::try_from(time).unwrap_or(u64::MAX))
    }
}

/// Nanoseconds of CPU in nanoseconds of time, as billionths of a core.
fn per_second(used: u64, time: u64) -> u64 {
    let rate = u128::from(used) * 1_000_000_000 / u128::from(time.max(1));
    u64::try_from(rate).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use k8s_cri::v1::{ContainerAttributes, CpuUsage, UInt64Value};

    use super::*;

    fn look(containers: &[(&str, i64, u64)], node_cpu: u64) -> Arc<Look> {
        let stats = |(id, timestamp, used): &(&str, i64, u64)| ContainerStats {
            attributes: Some(ContainerAttributes { id: (*id).to_owned(), ..ContainerAttributes::default() }),
            cpu: Some(CpuUsage {
                timestamp: *timestamp,
                usage_core_nano_seconds: Some(UInt64Value { value: *used }),
                usage_nano_cores: Some(UInt64Value { value: 7 }),
            }),
            ..ContainerStats::default()
        };
        let containers = containers.iter().map(stats).collect();
        Arc::new(Look { taken: Instant::now(), at: Timestamp::UNIX_EPOCH, containers, node_cpu })
    }

    #[test]
    fn rates_lie_between_two_looks() {
        let second = 1_000_000_000;
        let before = look(&[("a", second, 500), ("b", second, 100)], 0);
        let latest = look(&[("a", 3 * second, 500 + 1_000_000_000), ("b", second, 100), ("c", second, 9)], 0);
        let seen = Seen { before, latest: latest.clone() };
        let rates: Vec<u64> = latest.containers.iter().map(|stats| seen.rate(stats)).collect();
        // Half a core; no time between; not seen before: what the runtime tells.
        assert_eq!(rates, [500_000_000, 7, 7]);
        assert_eq!((per_second(1, 0), per_second(u64::MAX, 1)), (1_000_000_000, u64::MAX));
    }
}
