//! Probe tasks of the pod's running containers.
//!
//! Invariants
//! - A probe task belongs to one container id and kind; it ends with the container.
//! - Liveness and readiness are not probed before the container has started up.
//! - A pod that is ending is not killed by its probes.

use std::{net::IpAddr, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use kontiki_agent_plan::{
    observed::State,
    probe::{Counter, Kind},
    rules,
};
use tokio::sync::mpsc;

use super::{Verdict, Worker};
use crate::{check::Target, events, node::Node};

impl Worker {
    /// Starts the probes that should run, and ends the others.
    pub(super) fn update_probes(&mut self, pod: &Pod) {
        while self.probe_tasks.try_join_next().is_some() {}
        let wanted = self.wanted(pod);
        self.probes.retain(|key, task| {
            let keep = wanted.iter().any(|(id, kind, _, _)| (id, kind) == (&key.0, &key.1));
            if !keep {
                task.abort();
            }
            keep
        });
        for (id, kind, definition, started) in wanted {
            if self.probes.contains_key(&(id.clone(), kind)) {
                continue;
            }
            let task = Task {
                node: self.node.clone(),
                pod: self.desired.borrow().pod.clone(),
                init: pod.spec.as_ref().is_some_and(|s| rules::is_init(s, &definition.name)),
                definition,
                id: id.clone(),
                ip: self.pod_ips().first().copied(),
                kind,
                started,
                verdicts: self.verdicts.0.clone(),
            };
            let handle = self.probe_tasks.spawn(task.run());
            self.probes.insert((id, kind), handle);
        }
    }

    fn wanted(&self, pod: &Pod) -> Vec<(String, Kind, Container, Timestamp)> {
        let mut out = Vec::new();
        let Some(spec) = &pod.spec else { return out };
        for definition in rules::containers(spec) {
            let Some(seen) = self.seen.latest(&definition.name) else { continue };
            let busy = self.memory.post_start.contains(&seen.id) || self.memory.condemned.contains_key(&seen.id);
            if seen.state != State::Running || busy {
                continue;
            }
            let ending = self.ending.is_some() || self.memory.stopping.contains_key(&seen.id);
            let started = self.memory.probed.get(&seen.id).copied().unwrap_or_default().started(definition);
            for kind in [Kind::Startup, Kind::Liveness, Kind::Readiness] {
                let now = match kind {
                    Kind::Startup => !started && !ending,
                    Kind::Liveness => started && !ending,
                    Kind::Readiness => started,
                };
                if now && kind.of(definition).is_some() {
                    out.push((seen.id.clone(), kind, definition.clone(), seen.started.unwrap_or_default()));
                }
            }
        }
        out
    }
}

struct Task {
    node: Arc<Node>,
    pod: Arc<Pod>,
    definition: Container,
    init: bool,
    id: String,
    ip: Option<IpAddr>,
    kind: Kind,
    started: Timestamp,
    verdicts: mpsc::Sender<Verdict>,
}

impl Task {
    async fn run(self) {
        let Some(probe) = self.kind.of(&self.definition) else { return };
        let seconds = |value: Option<i32>, default: u64| value.map_or(default, |v| u64::try_from(v).unwrap_or(0));
        let age = Duration::try_from(Timestamp::now().duration_since(self.started)).unwrap_or_default();
        let delay = Duration::from_secs(seconds(probe.initial_delay_seconds, 0));
        tokio::time::sleep(delay.saturating_sub(age)).await;
        let mut period = tokio::time::interval(Duration::from_secs(seconds(probe.period_seconds, 10).max(1)));
        period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let target = Target { cri: &self.node.cri, container: &self.definition, id: &self.id, ip: self.ip };
        let mut counter = Counter::default();
        let mut told = None;
        loop {
            period.tick().await;
            let outcome = target.probe(probe).await;
            if let Err(reason) = &outcome {
                let message = format!("{} probe failed: {reason}", self.kind.title());
                let place = Some((self.definition.name.as_str(), self.init));
                self.node.recorder.pod(
                    &self.node.outbox,
                    &self.pod,
                    place,
                    events::Kind::Warning,
                    "Unhealthy",
                    &message,
                );
            }
            let Some(healthy) = counter.observe(probe, outcome.is_ok()) else { continue };
            if told != Some(healthy) {
                told = Some(healthy);
                let verdict = Verdict { container: self.id.clone(), kind: self.kind, healthy };
                if self.verdicts.send(verdict).await.is_err() {
                    return;
                }
            }
            // The container is condemned; another one will be probed in its place.
            if !healthy && self.kind != Kind::Readiness {
                return;
            }
        }
    }
}
