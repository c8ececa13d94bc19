//! Probe thresholds: from single outcomes to verdicts.
//!
//! Invariants
//! - A verdict changes only after `failureThreshold` failures or `successThreshold` successes in a
//!   row, as in kubelet.
//! - Without an outcome a container is alive, not ready, and not started.
//!
//! Not here: running a probe, periods and time-outs (the shell's prober).

use k8s_openapi::api::core::v1::{Container, Probe};

/// Which probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    /// As kubelet's events spell it.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }

    /// The probe of this kind in a container's definition.
    #[must_use]
    pub fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

/// The verdicts on one container. `None`: no verdict yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probed {
    pub startup: Option<bool>,
    pub liveness: Option<bool>,
    pub readiness: Option<bool>,
}

impl Probed {
    /// Records a verdict.
    pub fn set(&mut self, kind: Kind, healthy: bool) {
        match kind {
            Kind::Startup => self.startup = Some(healthy),
            Kind::Liveness => self.liveness = Some(healthy),
            Kind::Readiness => self.readiness = Some(healthy),
        }
    }

    /// Whether a running container has started up.
    #[must_use]
    pub fn started(self, container: &Container) -> bool {
        container.startup_probe.is_none() || self.startup == Some(true)
    }

    /// Whether a running container is ready.
    #[must_use]
    pub fn ready(self, container: &Container) -> bool {
        self.started(container) && (container.readiness_probe.is_none() || self.readiness == Some(true))
    }

    /// The probe that condemns the container.
    #[must_use]
    pub fn condemned(self, container: &Container) -> Option<Kind> {
        let failed = |probe: &Option<Probe>, verdict| probe.is_some() && verdict == Some(false);
        if failed(&container.startup_probe, self.startup) {
            Some(Kind::Startup)
        } else if failed(&container.liveness_probe, self.liveness) {
            Some(Kind::Liveness)
        } else {
            None
        }
    }
}

/// Counts outcomes of one probe of one container.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counter {
    last: bool,
    run: u32,
}

impl Counter {
    /// Takes one outcome; returns the verdict once it is firm.
    pub fn observe(&mut self, probe: &Probe, healthy: bool) -> Option<bool> {
        self.run = if self.run > 0 && self.last == healthy { self.run.saturating_add(1) } else { 1 };
        self.last = healthy;
        let threshold =
            if healthy { probe.success_threshold.unwrap_or(1) } else { probe.failure_threshold.unwrap_or(3) };
        (self.run >= u32::try_from(threshold.max(1)).unwrap_or(1)).then_some(healthy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_count_runs() {
        for (name, success, failure, outcomes, expect) in [
            ("one success is enough", 1, 3, "+", "+"),
            ("failures must be in a row", 1, 3, "--+--", "..+.."),
            ("three failures condemn", 1, 3, "+---", "+..-"),
            ("two successes wanted", 2, 1, "+-++", ".-.+"),
        ] {
            let probe =
                Probe { success_threshold: Some(success), failure_threshold: Some(failure), ..Probe::default() };
            let mut counter = Counter::default();
            let got: String = outcomes
                .chars()
                .map(|c| match counter.observe(&probe, c == '+') {
                    Some(true) => '+',
                    Some(false) => '-',
                    None => '.',
                })
                .collect();
            assert_eq!(got, expect, "{name}");
        }
    }
}
