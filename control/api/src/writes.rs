//! Writes: whether one changed anything, and who makes how many of them, by writer and kind.
//!
//! Invariants
//! - One transaction is one write, as it is one revision, whatever it changes. Each server counts those that it
//!   carried to the leader itself, so the sum over the servers counts each once.
//! - Both labels are closed sets: a [`Writer`] is a part of the program or a class of users, a kind comes from
//!   the resource table. Nothing that a client sends becomes a label.
//! - Nothing runs in the background: a rate is worked out when somebody asks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use kontiki_machinery::Name;
use kontiki_model::metrics::{Kind, heading, sample};
use parking_lot::Mutex;

/// Seconds that a rate looks back.
const WINDOW: usize = 60;

/// Who asks for a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Writer {
    /// A controller, by its name in the table of controllers.
    Controller(&'static str),
    /// The scheduler.
    Scheduler,
    /// What nodes report through their sessions, and their Leases.
    NodeGateway,
    /// A master, for the cluster's own objects.
    Server,
    /// Clients in `system:masters`.
    Administrators,
    /// Clients in `system:nodes`.
    Nodes,
    /// Programs in pods.
    ServiceAccounts,
    /// Anybody else.
    Users,
}

impl Writer {
    /// The class of a client in `groups`.
    #[must_use]
    pub fn of(groups: &[String]) -> Self {
        let classes = [
            ("system:masters", Self::Administrators),
            ("system:nodes", Self::Nodes),
            ("system:serviceaccounts", Self::ServiceAccounts),
        ];
        let mut classes = classes.into_iter();
        classes.find(|(group, _)| groups.iter().any(|own| own == group)).map_or(Self::Users, |(_, class)| class)
    }

    /// The value of the `writer` label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Controller(name) => name,
            Self::Scheduler => "scheduler",
            Self::NodeGateway => "node-gateway",
            Self::Server => "server",
            Self::Administrators => "administrators",
            Self::Nodes => "nodes",
            Self::ServiceAccounts => "service-accounts",
            Self::Users => "users",
        }
    }
}

/// Whether a write changed anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effect {
    /// The object was as it was wanted: nothing was written.
    #[default]
    Nothing,
    /// The object changed, or went.
    Changed,
}

impl From<bool> for Effect {
    fn from(written: bool) -> Self {
        if written { Self::Changed } else { Self::Nothing }
    }
}

/// The count of one server. Cheap to clone; all clones count together.
#[derive(Clone)]
pub struct Writes {
    began: Instant,
    series: Arc<Mutex<BTreeMap<(Writer, Name), Series>>>,
}

/// What one writer did to one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Share {
    /// Who.
    pub writer: Writer,
    /// Plural of the kind.
    pub kind: Name,
    /// Writes a second, over the last minute.
    pub per_second: f64,
}

#[derive(Default)]
struct Series {
    total: u64,
    recent: Recent,
}

/// Counts of the last [`WINDOW`] seconds, each in the slot of its second.
struct Recent {
    slots: [u32; WINDOW],
    /// The latest second that was counted in.
    newest: u64,
}

impl Default for Recent {
    fn default() -> Self {
        Self { slots: [0; WINDOW], newest: 0 }
    }
}

impl Recent {
    /// Empties the slots between the latest second and `second`, which is not before it.
    fn advance(&mut self, second: u64) {
        let passed = second.saturating_sub(self.newest).min(WINDOW as u64);
        for back in 0..passed {
            self.slots[slot(second - back)] = 0;
        }
        self.newest = self.newest.max(second);
    }

    fn sum(&mut self, second: u64) -> u64 {
        self.advance(second);
        self.slots.iter().copied().map(u64::from).sum()
    }
}

fn slot(second: u64) -> usize {
    usize::try_from(second % WINDOW as u64).unwrap_or(0)
}

impl Default for Writes {
    fn default() -> Self {
        Self { began: Instant::now(), series: Arc::default() }
    }
}

impl Writes {
    /// One write was committed.
    pub fn committed(&self, writer: Writer, kind: impl Into<Name>) {
        self.committed_at(writer, kind.into(), self.began.elapsed().as_secs());
    }

    fn committed_at(&self, writer: Writer, kind: Name, second: u64) {
        let mut series = self.series.lock();
        let series = series.entry((writer, kind)).or_default();
        series.total += 1;
        series.recent.advance(second);
        let count = &mut series.recent.slots[slot(second)];
        *count = count.saturating_add(1);
    }

    /// Who wrote in the last minute, the busiest first. A server that is younger than that tells of its life so far.
    #[must_use]
    pub fn last_minute(&self) -> Vec<Share> {
        self.last_minute_at(self.began.elapsed().as_secs())
    }

    fn last_minute_at(&self, second: u64) -> Vec<Share> {
        let seconds = u32::try_from((second + 1).min(WINDOW as u64)).unwrap_or(1);
        let mut shares: Vec<(u64, Writer, Name)> = Vec::new();
        for ((writer, kind), series) in self.series.lock().iter_mut() {
            let count = series.recent.sum(second);
            if count > 0 {
                shares.push((count, *writer, kind.clone()));
            }
        }
        shares.sort_by(|(count, writer, kind), other| (other.0, *writer, kind).cmp(&(*count, other.1, &other.2)));
        let share = |(count, writer, kind): (u64, Writer, Name)| Share {
            writer,
            kind,
            per_second: f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / f64::from(seconds),
        };
        shares.into_iter().map(share).collect()
    }

    /// Writes the series in Prometheus' text form.
    pub(crate) fn write(&self, out: &mut String) {
        let name = "kontiki_api_writes_total";
        heading(out, name, Kind::Counter, "Committed writes, by writer and kind.");
        for ((writer, kind), series) in self.series.lock().iter() {
            sample(out, name, &[("writer", writer.name()), ("kind", kind)], series.total);
        }
        let name = "kontiki_api_busiest_writer_writes_per_second";
        heading(out, name, Kind::Gauge, "The busiest writer of the last minute.");
        if let Some(Share { writer, kind, per_second }) = self.last_minute().first() {
            sample(out, name, &[("writer", writer.name()), ("kind", kind)], per_second);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(writes: &Writes, second: u64) -> String {
        let shares = writes.last_minute_at(second);
        let words: Vec<String> =
            shares.iter().map(|s| format!("{} {} {:.2}", s.writer.name(), s.kind, s.per_second)).collect();
        words.join(", ")
    }

    #[test]
    fn a_rate_looks_back_one_minute() {
        let writes = Writes::default();
        for second in 0..120 {
            writes.committed_at(Writer::NodeGateway, "leases".into(), second);
            if second < 90 {
                writes.committed_at(Writer::Controller("podgc"), "pods".into(), second);
                writes.committed_at(Writer::Controller("podgc"), "pods".into(), second);
            }
        }
        for (second, expect) in [
            (119, "podgc pods 1.00, node-gateway leases 1.00"),
            (149, "node-gateway leases 0.50"),
            (178, "node-gateway leases 0.02"),
            (179, ""),
            (100_000, ""),
        ] {
            assert_eq!(show(&writes, second), expect, "{second}");
        }
        let mut text = String::new();
        writes.write(&mut text);
        assert!(text.contains("kontiki_api_writes_total{writer=\"podgc\",kind=\"pods\"} 180"), "{text}");
    }

    #[test]
    fn a_young_server_tells_of_its_life_so_far() {
        let writes = Writes::default();
        (0..10).for_each(|_| writes.committed_at(Writer::Users, "pods".into(), 3));
        assert_eq!(show(&writes, 4), "users pods 2.00");
    }

    #[test]
    fn clients_are_known_by_their_class() {
        for (groups, expect) in [
            (vec!["system:masters", "system:authenticated"], "administrators"),
            (vec!["system:nodes"], "nodes"),
            (vec!["system:serviceaccounts", "system:serviceaccounts:a"], "service-accounts"),
            (vec!["people"], "users"),
            (vec![], "users"),
        ] {
            let groups: Vec<String> = groups.into_iter().map(str::to_owned).collect();
            assert_eq!(Writer::of(&groups).name(), expect, "{groups:?}");
        }
    }
}
