//! Probe tasks of the pod's running containers. Which there are is kontiki-agent-plan's.

use std::{net::IpAddr, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use kontiki_agent_plan::{
    probe::{Counter, Kind},
    probes::{self, Wanted},
};
use tokio::sync::mpsc;

use super::{
    check::Target,
    worker::{ProbeResult, Worker},
};
use crate::{node::Node, session::recorder::EventType};

impl Worker {
    /// Starts the probes that should run, and ends the others.
    pub(super) fn update_probes(&mut self, pod: &Pod) {
        while self.probe_jobs.try_join_next().is_some() {}
        let view = self.view(pod, Timestamp::now());
        let wanted = probes::wanted(&view);
        let fresh: Vec<_> =
            wanted.iter().filter(|w| !self.probes.contains_key(&key(w))).map(|w| self.task(w)).collect();
        let wanted: Vec<_> = wanted.iter().map(key).collect();
        self.probes.retain(|key, task| {
            let keep = wanted.contains(key);
            if !keep {
                task.abort();
            }
            keep
        });
        for task in fresh {
            let key = (task.id.clone(), task.kind);
            let handle = self.probe_jobs.spawn(task.run());
            self.probes.insert(key, handle);
        }
    }

    fn task(&self, wanted: &Wanted<'_>) -> Task {
        let pod = self.api_pod();
        Task {
            node: self.node.clone(),
            pod,
            definition: wanted.definition.clone(),
            id: wanted.id.to_owned(),
            ip: self.pod_ips().first().copied(),
            kind: wanted.kind,
            started: wanted.started,
            results: self.probe_results.0.clone(),
        }
    }

    pub(super) fn probed(&mut self, result: ProbeResult) {
        self.memory.probed.entry(result.id).or_default().set(result.kind, result.healthy);
    }
}

fn key(wanted: &Wanted<'_>) -> (String, Kind) {
    (wanted.id.to_owned(), wanted.kind)
}

struct Task {
    node: Arc<Node>,
    pod: Arc<Pod>,
    definition: Container,
    id: String,
    ip: Option<IpAddr>,
    kind: Kind,
    started: Timestamp,
    results: mpsc::Sender<ProbeResult>,
}

impl Task {
    async fn run(self) {
        let Some(probe) = self.kind.of(&self.definition) else { return };
        tokio::time::sleep(probes::initial_delay(probe, self.started, Timestamp::now())).await;
        let mut period = tokio::time::interval(probes::period(probe));
        period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let target = Target { cri: &self.node.cri, container: &self.definition, id: &self.id, ip: self.ip };
        let mut counter = Counter::default();
        let mut told = None;
        loop {
            period.tick().await;
            let outcome = target.probe(probe).await;
            if let Err(reason) = &outcome {
                self.unhealthy(reason);
            }
            let Some(healthy) = counter.observe(probe, outcome.is_ok()) else { continue };
            if told != Some(healthy) {
                told = Some(healthy);
                let result = ProbeResult { id: self.id.clone(), kind: self.kind, healthy };
                if self.results.send(result).await.is_err() {
                    return;
                }
            }
            // The container is condemned; another one will be probed in its place.
            if !healthy && self.kind != Kind::Readiness {
                return;
            }
        }
    }

    fn unhealthy(&self, reason: &str) {
        let message = format!("{} probe failed: {reason}", self.kind.title());
        let place = Some(self.definition.name.as_str());
        let (node, type_) = (&self.node, EventType::Warning);
        node.recorder.pod(&node.outbox, &self.pod, place, type_, "Unhealthy", &message);
    }
}
