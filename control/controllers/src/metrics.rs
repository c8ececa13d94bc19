//! What is counted of each controller, in Prometheus' text form: its queue under the names of upstream's work queues,
//! its plans and actions under our own. Labels are static names and the plans' fixed texts, so the number of series is
//! bounded.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kontiki_model::metrics::{Histogram, Kind, heading, sample};

/// Upper bounds of the histograms' buckets in seconds, as upstream's.
const BUCKETS: &[f64; 12] = &[1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1000.0];

#[derive(Clone)]
struct Counts {
    depth: usize,
    adds: u64,
    retries: u64,
    waited: Histogram<12>,
    worked: Histogram<12>,
    /// How many turns began when.
    running: BTreeMap<Instant, usize>,
    /// By reason.
    plans: HashMap<&'static str, u64>,
    actions: u64,
    failed: u64,
    held: u64,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            depth: 0,
            adds: 0,
            retries: 0,
            waited: Histogram::new(BUCKETS),
            worked: Histogram::new(BUCKETS),
            running: BTreeMap::new(),
            plans: HashMap::new(),
            actions: 0,
            failed: 0,
            held: 0,
        }
    }
}

impl Counts {
    fn unfinished(&self, now: Instant) -> f64 {
        let ages = self.running.iter().map(|(began, turns)| (now.saturating_duration_since(*began), turns));
        ages.map(|(age, turns)| age.as_secs_f64() * f64::from(u32::try_from(*turns).unwrap_or(u32::MAX))).sum()
    }

    fn longest(&self, now: Instant) -> f64 {
        self.running.keys().next().map_or(0.0, |began| now.saturating_duration_since(*began).as_secs_f64())
    }
}

/// One controller.
#[derive(Default)]
pub(crate) struct Measured(Mutex<Counts>);

impl Measured {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Nothing panics while it holds the lock, so a poisoned one is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn depth(&self, depth: usize) {
        self.lock().depth = depth;
    }

    pub fn added(&self) {
        self.lock().adds += 1;
    }

    pub fn retried(&self) {
        self.lock().retries += 1;
    }

    /// A turn begins at `now`, after its key `waited`.
    pub fn started(&self, waited: Duration, now: Instant) {
        let mut counts = self.lock();
        counts.waited.observe(waited.as_secs_f64());
        *counts.running.entry(now).or_default() += 1;
    }

    /// The turn that began at `began` ends.
    pub fn ended(&self, began: Instant, now: Instant) {
        let mut counts = self.lock();
        counts.worked.observe(now.saturating_duration_since(began).as_secs_f64());
        if let Some(turns) = counts.running.get_mut(&began) {
            *turns -= 1;
            if *turns == 0 {
                counts.running.remove(&began);
            }
        }
    }

    pub fn planned(&self, why: &'static str) {
        *self.lock().plans.entry(why).or_default() += 1;
    }

    pub fn applied(&self, actions: usize, failed: bool) {
        let mut counts = self.lock();
        counts.actions += actions as u64;
        counts.failed += u64::from(failed);
    }

    pub fn held(&self) {
        self.lock().held += 1;
    }
}

/// Writes the series of all controllers.
pub(crate) fn write(controllers: &[(&'static str, Arc<Measured>)], out: &mut String) {
    let counts: Vec<(&str, Counts)> = controllers.iter().map(|(name, all)| (*name, all.lock().clone())).collect();
    write_at(&counts, Instant::now(), out);
}

fn write_at(all: &[(&str, Counts)], now: Instant, out: &mut String) {
    type Read<'a> = &'a dyn Fn(&Counts) -> f64;
    let whole = |number: u64| number as f64;
    let series: [(&str, Kind, &str, &str, Read<'_>); 8] = [
        ("workqueue_depth", Kind::Gauge, "name", "Keys with a turn to come.", &|c| c.depth as f64),
        ("workqueue_adds_total", Kind::Counter, "name", "Turns asked for.", &|c| whole(c.adds)),
        ("workqueue_retries_total", Kind::Counter, "name", "Turns asked for after a failure.", &|c| whole(c.retries)),
        (
            "workqueue_unfinished_work_seconds",
            Kind::Gauge,
            "name",
            "How long the turns under way have taken, together.",
            &|c| c.unfinished(now),
        ),
        (
            "workqueue_longest_running_processor_seconds",
            Kind::Gauge,
            "name",
            "How long the longest turn under way has taken.",
            &|c| c.longest(now),
        ),
        ("kontiki_controller_actions_total", Kind::Counter, "controller", "Actions asked for.", &|c| whole(c.actions)),
        (
            "kontiki_controller_failed_turns_total",
            Kind::Counter,
            "controller",
            "Turns in which an action failed.",
            &|c| whole(c.failed),
        ),
        (
            "kontiki_controller_held_turns_total",
            Kind::Counter,
            "controller",
            "Turns put off because the same actions had come to nothing before.",
            &|c| whole(c.held),
        ),
    ];
    for (name, kind, label, help, read) in series {
        heading(out, name, kind, help);
        all.iter().for_each(|(controller, counts)| sample(out, name, &[(label, controller)], read(counts)));
    }
    type Pick = fn(&Counts) -> &Histogram<12>;
    let histograms: [(&str, &str, Pick); 2] = [
        ("workqueue_queue_duration_seconds", "How long keys waited for their turn.", |c| &c.waited),
        ("workqueue_work_duration_seconds", "How long turns took.", |c| &c.worked),
    ];
    for (name, help, pick) in histograms {
        heading(out, name, Kind::Histogram, help);
        all.iter().for_each(|(controller, counts)| pick(counts).write(out, name, &[("name", controller)]));
    }
    let name = "kontiki_controller_plans_total";
    heading(out, name, Kind::Counter, "Plans by what decided.");
    for (controller, counts) in all {
        let plans: BTreeMap<_, _> = counts.plans.iter().collect();
        for (why, count) in plans {
            sample(out, name, &[("controller", controller), ("why", why)], count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_shown_under_upstreams_names() {
        let (measured, begin) = (Measured::default(), Instant::now());
        let at = |millis| begin + Duration::from_millis(millis);
        measured.added();
        measured.added();
        measured.depth(1);
        measured.started(Duration::from_millis(5), at(0));
        measured.started(Duration::from_secs(5000), at(1000));
        measured.ended(at(0), at(250));
        measured.retried();
        measured.planned("too few pods");
        measured.applied(3, true);
        measured.held();
        let mut out = String::new();
        write_at(&[("replicaset", measured.lock().clone())], at(3000), &mut out);
        for line in [
            "workqueue_depth{name=\"replicaset\"} 1",
            "workqueue_adds_total{name=\"replicaset\"} 2",
            "workqueue_retries_total{name=\"replicaset\"} 1",
            "workqueue_unfinished_work_seconds{name=\"replicaset\"} 2",
            "workqueue_longest_running_processor_seconds{name=\"replicaset\"} 2",
            "workqueue_queue_duration_seconds_bucket{name=\"replicaset\",le=\"0.001\"} 0",
            "workqueue_queue_duration_seconds_bucket{name=\"replicaset\",le=\"0.01\"} 1",
            "workqueue_queue_duration_seconds_bucket{name=\"replicaset\",le=\"1000\"} 1",
            "workqueue_queue_duration_seconds_bucket{name=\"replicaset\",le=\"+Inf\"} 2",
            "workqueue_work_duration_seconds_sum{name=\"replicaset\"} 0.25",
            "workqueue_work_duration_seconds_count{name=\"replicaset\"} 1",
            "kontiki_controller_plans_total{controller=\"replicaset\",why=\"too few pods\"} 1",
            "kontiki_controller_actions_total{controller=\"replicaset\"} 3",
            "kontiki_controller_failed_turns_total{controller=\"replicaset\"} 1",
            "kontiki_controller_held_turns_total{controller=\"replicaset\"} 1",
        ] {
            assert!(out.lines().any(|found| found == line), "{line} in\n{out}");
        }
    }
}
