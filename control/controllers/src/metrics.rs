//! Counters of the controller loops, in Prometheus' text form. Names of loops are the static names
//! of the table, so the number of series is fixed.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// One loop.
#[derive(Default)]
pub(crate) struct Loop {
    turns: AtomicU64,
    failures: AtomicU64,
    actions: AtomicU64,
    micros: AtomicU64,
    depth: AtomicU64,
    held: AtomicU64,
}

impl Loop {
    pub fn turn(&self, took: Duration, failed: bool) {
        self.turns.fetch_add(1, Ordering::Relaxed);
        self.failures.fetch_add(u64::from(failed), Ordering::Relaxed);
        self.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub fn actions(&self, count: usize) {
        self.actions.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub fn held(&self) {
        self.held.fetch_add(1, Ordering::Relaxed);
    }

    pub fn depth(&self, depth: usize) {
        self.depth.store(depth as u64, Ordering::Relaxed);
    }
}

/// Writes the series of all loops.
pub(crate) fn write(loops: &[(&'static str, Arc<Loop>)], out: &mut String) {
    type Read = fn(&Loop) -> &AtomicU64;
    let series: [(&str, &str, &str, Read); 5] = [
        ("kontiki_controller_turns_total", "counter", "Turns by controller.", |l| &l.turns),
        ("kontiki_controller_failed_turns_total", "counter", "Turns in which an action failed.", |l| &l.failures),
        ("kontiki_controller_actions_total", "counter", "Actions by controller.", |l| &l.actions),
        (
            "kontiki_controller_held_turns_total",
            "counter",
            "Turns put off because the same actions had come to nothing before.",
            |l| &l.held,
        ),
        ("kontiki_controller_queue_depth", "gauge", "Keys with a turn to come.", |l| &l.depth),
    ];
    for (name, kind, help, read) in series {
        let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for (controller, counters) in loops {
            let _ = writeln!(out, "{name}{{controller=\"{controller}\"}} {}", read(counters).load(Ordering::Relaxed));
        }
    }
    let name = "kontiki_controller_turn_seconds_total";
    let _ = write!(out, "# HELP {name} Time spent in turns.\n# TYPE {name} counter\n");
    for (controller, counters) in loops {
        let seconds = Duration::from_micros(counters.micros.load(Ordering::Relaxed)).as_secs_f64();
        let _ = writeln!(out, "{name}{{controller=\"{controller}\"}} {seconds}");
    }
}
