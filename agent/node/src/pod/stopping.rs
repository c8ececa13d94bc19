//! Stopping containers: hooks, grace, the kill.

use std::{borrow::Cow, net::IpAddr, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use kontiki_agent_plan::{
    probe, rules,
    step::{Stop, Why},
    termination,
};

use super::{
    check::Target,
    worker::{Report, Worker},
};
use crate::{node::Node, session::recorder::EventType};

impl Worker {
    pub(super) fn stop_containers(&mut self, pod: &Pod, stops: Vec<Stop>) {
        for stop in stops {
            let again = self.memory.stopping.insert(stop.id.clone(), stop.deadline).is_some();
            let definition = pod.spec.as_ref().and_then(|s| rules::definition(s, &stop.container)).map(Cow::into_owned);
            if !again {
                self.container_event(pod, &stop.container, EventType::Normal, "Killing", &killing(&stop));
            }
            let job = StopJob {
                node: self.node.clone(),
                pod: self.api_pod(),
                definition: definition.filter(|_| !again),
                ip: self.pod_ips().first().copied(),
                stop,
            };
            self.jobs.spawn(job.run());
        }
    }

    pub(super) fn stopped(&mut self, id: &str, result: Result<(), String>) {
        if let Err(error) = result {
            tracing::warn!(uid = %self.uid, container = %id, %error, "a container did not stop");
        }
        self.memory.stopping.remove(id);
    }
}

fn killing(stop: &Stop) -> String {
    let name = &stop.container;
    match &stop.why {
        Why::PodEnds => format!("Stopping container {name}"),
        Why::Unhealthy(probe::Kind::Startup) => format!("Container {name} failed startup probe, will be restarted"),
        Why::Unhealthy(_) => format!("Container {name} failed liveness probe, will be restarted"),
        Why::Changed => format!("Container {name} definition changed, will be restarted"),
        Why::Resized => format!("Container {name} resize requires restart"),
        Why::SandboxLost => format!("Stopping container {name}"),
        Why::Other(reason) => reason.clone(),
    }
}

struct StopJob {
    node: Arc<Node>,
    pod: Arc<Pod>,
    /// For its preStop hook; `None` if that has run.
    definition: Option<Container>,
    ip: Option<IpAddr>,
    stop: Stop,
}

impl StopJob {
    async fn run(self) -> Report {
        let hooked = self.pre_stop().await;
        let timeout = termination::stop_timeout(self.stop.deadline, hooked, Timestamp::now());
        let result = match self.node.cri.stop_container(&self.stop.id, timeout).await {
            Err(error) if !error.not_found() => Err(error.to_string()),
            _ => Ok(()),
        };
        Report::Stopped { id: self.stop.id, result }
    }

    /// Runs the hook within the grace period. Whether there was one.
    async fn pre_stop(&self) -> bool {
        let Some(definition) = &self.definition else { return false };
        let Some(hook) = definition.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()) else { return false };
        let left = Duration::try_from(self.stop.deadline.duration_since(Timestamp::now())).unwrap_or_default();
        if left.is_zero() {
            return false;
        }
        let target = Target { cri: &self.node.cri, container: definition, id: &self.stop.id, ip: self.ip };
        let outcome = tokio::time::timeout(left, target.hook(hook, left)).await;
        if let Ok(Err(reason)) = outcome {
            let place = Some(definition.name.as_str());
            let message = format!("PreStopHook failed: {reason}");
            self.node.recorder.pod(
                &self.node.outbox,
                &self.pod,
                place,
                EventType::Warning,
                "FailedPreStopHook",
                &message,
            );
        }
        true
    }
}
