//! Which probes of a pod's containers run, and when.
//!
//! Invariants
//! - A probe belongs to one container id and kind; it ends with the container.
//! - Liveness and readiness are not probed before the container has started up.
//! - A pod that is ending is not killed by its probes.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Probe};

use crate::{observed::State, probe::Kind, rules, step::View};

/// A probe that should run.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted<'a> {
    /// Of the container.
    pub id: &'a str,
    pub kind: Kind,
    pub definition: &'a Container,
    pub started: Timestamp,
}

/// All probes that should run now.
#[must_use]
pub fn wanted<'a>(view: &View<'a>) -> Vec<Wanted<'a>> {
    let mut out = Vec::new();
    let Some(spec) = &view.pod.spec else { return out };
    for definition in rules::containers(spec) {
        let Some(seen) = view.seen.latest(&definition.name) else { continue };
        let busy = view.memory.post_start.contains(&seen.id) || view.memory.condemned.contains_key(&seen.id);
        if seen.state != State::Running || busy {
            continue;
        }
        let ending = view.ending.is_some() || view.memory.stopping.contains_key(&seen.id);
        let started_up = view.memory.probed.get(&seen.id).copied().unwrap_or_default().started(definition);
        for kind in [Kind::Startup, Kind::Liveness, Kind::Readiness] {
            let runs = match kind {
                Kind::Startup => !started_up && !ending,
                Kind::Liveness => started_up && !ending,
                Kind::Readiness => started_up,
            };
            if runs && kind.of(definition).is_some() {
                out.push(Wanted { id: &seen.id, kind, definition, started: seen.started.unwrap_or_default() });
            }
        }
    }
    out
}

fn seconds(value: Option<i32>, default: u64) -> u64 {
    value.map_or(default, |value| u64::try_from(value).unwrap_or(0))
}

/// How long a probe of a container that started at `started` waits before its first run.
#[must_use]
pub fn initial_delay(probe: &Probe, started: Timestamp, now: Timestamp) -> Duration {
    let age = now.duration_since(started).max(SignedDuration::ZERO).unsigned_abs();
    Duration::from_secs(seconds(probe.initial_delay_seconds, 0)).saturating_sub(age)
}

/// Between two runs.
#[must_use]
pub fn period(probe: &Probe) -> Duration {
    Duration::from_secs(seconds(probe.period_seconds, 10).max(1))
}

/// For one run.
#[must_use]
pub fn timeout(probe: &Probe) -> Duration {
    Duration::from_secs(seconds(probe.timeout_seconds, 1).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        observed::{self, Memory, Observed},
        probe::Probed,
        step::Ending,
        testing::pod,
    };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    fn show(state: State, memory: Memory, ending: bool) -> String {
        let exec = "{exec: {command: [x]}}";
        let pod = pod(&format!(
            "containers: [{{name: a, startupProbe: {exec}, livenessProbe: {exec}, readinessProbe: {exec}}}]"
        ));
        let container = observed::Container {
            id: "a0".into(),
            sandbox: "s".into(),
            name: "a".into(),
            attempt: 0,
            state,
            created: at(0),
            started: Some(at(1)),
            finished: None,
            exit_code: 0,
            reason: String::new(),
            message: String::new(),
            image: String::new(),
            image_id: String::new(),
            definition: String::new(),
        };
        let seen = Observed { sandboxes: vec![], containers: vec![container] };
        let ending = ending.then_some(Ending { deadline: at(30), remove: true });
        let view = View { pod: &pod, seen: &seen, memory: &memory, ending, now: at(10) };
        wanted(&view).iter().map(|w| w.kind.title()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn probes_follow_the_life_of_their_container() {
        let started = Probed { startup: Some(true), ..Probed::default() };
        let up = || Memory { probed: [("a0".to_owned(), started)].into(), ..Memory::default() };
        for (name, state, memory, ending, expect) in [
            ("not running", State::Created, up(), false, ""),
            ("starting up", State::Running, Memory::default(), false, "Startup"),
            ("started up", State::Running, up(), false, "Liveness Readiness"),
            ("the pod ends", State::Running, up(), true, "Readiness"),
            ("the pod ends before it was up", State::Running, Memory::default(), true, ""),
            (
                "being stopped",
                State::Running,
                Memory { stopping: [("a0".to_owned(), at(20))].into(), ..up() },
                false,
                "Readiness",
            ),
            ("its hook runs", State::Running, Memory { post_start: ["a0".to_owned()].into(), ..up() }, false, ""),
            (
                "condemned",
                State::Running,
                Memory { condemned: [("a0".to_owned(), String::new())].into(), ..up() },
                false,
                "",
            ),
        ] {
            assert_eq!(show(state, memory, ending), expect, "{name}");
        }
    }

    #[test]
    fn times_have_kubelets_defaults() {
        let probe = |delay, period, timeout| Probe {
            initial_delay_seconds: delay,
            period_seconds: period,
            timeout_seconds: timeout,
            ..Probe::default()
        };
        for (name, probe, expect) in [
            ("defaults", probe(None, None, None), [0, 10, 1]),
            ("the container's age counts", probe(Some(30), Some(3), Some(2)), [21, 3, 2]),
            ("it is older than the delay", probe(Some(5), Some(0), Some(0)), [0, 1, 1]),
        ] {
            let got = [initial_delay(&probe, at(1), at(10)), period(&probe), timeout(&probe)].map(|d| d.as_secs());
            assert_eq!(got, expect, "{name}");
        }
        assert_eq!(initial_delay(&probe(Some(5), None, None), at(10), at(1)).as_secs(), 5, "a clock that went back");
    }
}
