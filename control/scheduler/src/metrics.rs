//! What is counted of the scheduler, under upstream's names where it has such a metric.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kontiki_model::metrics::{Histogram, Kind, heading, sample};

use crate::queue::Waiting;

/// Upper bounds of the histogram's buckets in seconds, as upstream's: doubled from a millisecond on.
const BUCKETS: [f64; 15] =
    [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384];
/// The only profile.
const PROFILE: (&str, &str) = ("profile", "default-scheduler");

/// How an attempt to schedule a pod ended, as upstream's label `result` says it.
#[derive(Clone, Copy)]
pub(crate) enum Attempt {
    /// It is bound.
    Scheduled,
    /// No node fits it.
    Unschedulable,
    /// Its binding failed.
    Error,
}

impl Attempt {
    const ALL: [Self; 3] = [Self::Scheduled, Self::Unschedulable, Self::Error];

    fn result(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Unschedulable => "unschedulable",
            Self::Error => "error",
        }
    }
}

pub(crate) struct Metrics {
    /// By [`Attempt`].
    attempts: [AtomicU64; 3],
    pending: Mutex<Waiting>,
    /// Of one pod, binding left out.
    decisions: Mutex<Histogram<15>>,
}

/// Nothing panics while it holds one of these, so a poisoned one is whole.
fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for Metrics {
    fn default() -> Self {
        let decisions = Mutex::new(Histogram::new(&BUCKETS));
        Self { attempts: Default::default(), pending: Mutex::default(), decisions }
    }
}

impl Metrics {
    /// Deciding about a pod took so long.
    pub fn took(&self, time: Duration) {
        lock(&self.decisions).observe(time.as_secs_f64());
    }

    pub fn ended(&self, attempt: Attempt) {
        self.attempts[attempt as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn waiting(&self, waiting: Waiting) {
        *lock(&self.pending) = waiting;
    }

    pub fn write(&self, out: &mut String) {
        let name = "scheduler_schedule_attempts_total";
        heading(out, name, Kind::Counter, "Attempts to schedule pods, by the result.");
        for attempt in Attempt::ALL {
            let count = self.attempts[attempt as usize].load(Ordering::Relaxed);
            sample(out, name, &[PROFILE, ("result", attempt.result())], count);
        }
        let name = "scheduler_pending_pods";
        let Waiting { active, backoff, unschedulable } = *lock(&self.pending);
        heading(out, name, Kind::Gauge, "Pods that wait for a node, by the queue they wait in.");
        for (queue, count) in [("active", active), ("backoff", backoff), ("unschedulable", unschedulable)] {
            sample(out, name, &[("queue", queue)], count);
        }
        let name = "scheduler_scheduling_algorithm_duration_seconds";
        heading(out, name, Kind::Histogram, "Time to decide about a pod.");
        lock(&self.decisions).write(out, name, &[]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_shown_under_upstreams_names() {
        let metrics = Metrics::default();
        for attempt in [Attempt::Scheduled, Attempt::Scheduled, Attempt::Error] {
            metrics.ended(attempt);
        }
        metrics.took(Duration::from_micros(1500));
        metrics.waiting(Waiting { active: 1, backoff: 2, unschedulable: 3 });
        let mut out = String::new();
        metrics.write(&mut out);
        for line in [
            "scheduler_schedule_attempts_total{profile=\"default-scheduler\",result=\"scheduled\"} 2",
            "scheduler_schedule_attempts_total{profile=\"default-scheduler\",result=\"unschedulable\"} 0",
            "scheduler_schedule_attempts_total{profile=\"default-scheduler\",result=\"error\"} 1",
            "scheduler_pending_pods{queue=\"active\"} 1",
            "scheduler_pending_pods{queue=\"backoff\"} 2",
            "scheduler_pending_pods{queue=\"unschedulable\"} 3",
            "scheduler_scheduling_algorithm_duration_seconds_bucket{le=\"0.001\"} 0",
            "scheduler_scheduling_algorithm_duration_seconds_bucket{le=\"0.002\"} 1",
            "scheduler_scheduling_algorithm_duration_seconds_count 1",
        ] {
            assert!(out.lines().any(|found| found == line), "{line} in\n{out}");
        }
    }
}
