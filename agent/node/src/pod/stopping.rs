//! Stopping containers: hooks, grace, the kill.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use kontiki_agent_plan::{
    probe, rules,
    step::{Stop, Why},
};

use super::{Report, Worker};
use crate::{check::Target, cri::Cri, events::Kind, node::Node};

/// Left for the container itself after its preStop hook took all the time.
const LEAST_GRACE: Duration = Duration::from_secs(2);
/// A postStart hook that takes longer holds up its pod for nothing.
const POST_START_LIMIT: Duration = Duration::from_secs(600);

impl Worker {
    pub(super) fn stop_containers(&mut self, pod: &Pod, stops: Vec<Stop>) {
        for stop in stops {
            let again = self.memory.stopping.insert(stop.id.clone(), stop.deadline).is_some();
            let definition = pod.spec.as_ref().and_then(|s| rules::definition(s, &stop.container)).cloned();
            if !again {
                self.tell(pod, &stop.container, Kind::Normal, "Killing", &killing(&stop));
            }
            let job = StopJob {
                node: self.node.clone(),
                pod: self.desired.borrow().pod.clone(),
                definition: definition.filter(|_| !again),
                ip: self.pod_ips().first().copied(),
                stop,
            };
            self.jobs.spawn(job.run());
        }
    }

    /// Runs the postStart hook, if there is one, beside the turns.
    pub(super) fn post_start(&mut self, definition: &Container, id: &str) {
        let Some(hook) = definition.lifecycle.as_ref().and_then(|l| l.post_start.clone()) else { return };
        self.memory.post_start.insert(id.to_owned());
        let (cri, definition, id): (Cri, Container, String) =
            (self.node.cri.clone(), definition.clone(), id.to_owned());
        let ip = self.pod_ips().first().copied();
        self.jobs.spawn(async move {
            let target = Target { cri: &cri, container: &definition, id: &id, ip };
            let hook = target.hook(&hook, POST_START_LIMIT);
            let result =
                tokio::time::timeout(POST_START_LIMIT, hook).await.unwrap_or_else(|_| Err("timed out".to_owned()));
            Report::PostStart { id, container: definition.name.clone(), result }
        });
    }

    pub(super) fn post_start_failed(&mut self, id: &str, container: &str, reason: &str) {
        let pod = self.desired.borrow().pod.clone();
        self.tell(&pod, container, Kind::Warning, "FailedPostStartHook", &format!("PostStartHook failed: {reason}"));
        self.memory.condemned.insert(id.to_owned(), "FailedPostStartHook".to_owned());
    }
}

fn killing(stop: &Stop) -> String {
    let name = &stop.container;
    match &stop.why {
        Why::PodEnds => format!("Stopping container {name}"),
        Why::Unhealthy(probe::Kind::Startup) => format!("Container {name} failed startup probe, will be restarted"),
        Why::Unhealthy(_) => format!("Container {name} failed liveness probe, will be restarted"),
        Why::Changed => format!("Container {name} definition changed, will be restarted"),
        Why::SandboxLost => format!("Stopping container {name}"),
        Why::Other(reason) => reason.clone(),
    }
}

struct StopJob {
    node: Arc<Node>,
    pod: Arc<Pod>,
    /// For its preStop hook; `None` if that has run.
    definition: Option<Container>,
    ip: Option<std::net::IpAddr>,
    stop: Stop,
}

impl StopJob {
    async fn run(self) -> Report {
        let hooked = self.pre_stop().await;
        let left = Duration::try_from(self.stop.deadline.duration_since(Timestamp::now())).unwrap_or_default();
        let grace = if hooked { left.max(LEAST_GRACE) } else { left };
        // Whole seconds, rounded up: 0 means "kill at once".
        let grace = Duration::from_secs(grace.as_secs() + u64::from(grace.subsec_millis() > 0));
        let result = self.node.cri.stop_container(&self.stop.id, grace).await;
        let result = match result {
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
            let init = self.pod.spec.as_ref().is_some_and(|s| rules::is_init(s, &definition.name));
            let place = Some((definition.name.as_str(), init));
            let message = format!("PreStopHook failed: {reason}");
            self.node.recorder.pod(&self.node.outbox, &self.pod, place, Kind::Warning, "FailedPreStopHook", &message);
        }
        true
    }
}
