//! The scheduler's counters, in Prometheus' text form.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::state::Decision;

#[derive(Default)]
pub(crate) struct Metrics {
    placed: AtomicU64,
    refused: AtomicU64,
    bound: AtomicU64,
    not_bound: AtomicU64,
    micros: AtomicU64,
    pending: AtomicU64,
}

impl Metrics {
    pub fn decided(&self, decisions: &[Decision], took: Duration, pending: usize) {
        let placed = decisions.iter().filter(|decision| matches!(decision, Decision::Bind(..))).count();
        self.placed.fetch_add(placed as u64, Ordering::Relaxed);
        self.refused.fetch_add((decisions.len() - placed) as u64, Ordering::Relaxed);
        self.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.pending.store(pending as u64, Ordering::Relaxed);
    }

    pub fn bound(&self) {
        self.bound.fetch_add(1, Ordering::Relaxed);
    }

    pub fn not_bound(&self) {
        self.not_bound.fetch_add(1, Ordering::Relaxed);
    }

    pub fn write(&self, out: &mut String) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        for (name, kind, help, value) in [
            ("kontiki_scheduler_placed_total", "counter", "Decisions for a node.", read(&self.placed)),
            ("kontiki_scheduler_unschedulable_total", "counter", "Decisions that no node fits.", read(&self.refused)),
            ("kontiki_scheduler_bound_total", "counter", "Bindings done.", read(&self.bound)),
            ("kontiki_scheduler_not_bound_total", "counter", "Bindings that failed.", read(&self.not_bound)),
            ("kontiki_scheduler_pending_pods", "gauge", "Pods that wait for a node.", read(&self.pending)),
        ] {
            let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
        }
        let name = "kontiki_scheduler_decision_seconds_total";
        let seconds = Duration::from_micros(read(&self.micros)).as_secs_f64();
        let _ = write!(out, "# HELP {name} Time spent deciding.\n# TYPE {name} counter\n{name} {seconds}\n");
    }
}
