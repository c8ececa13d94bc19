//! Looking at the pod in the runtime.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_cri::v1 as cri;
use kontiki_agent_plan::{
    observed::{Container, Sandbox, State},
    probe::Probed,
    rules,
};

use super::{
    mounts::termination_log,
    worker::{Worker, soon, spec},
};
use crate::runtime::{
    cri::CriError,
    labels::{CONTAINER_NAME, HASH, POD_UID},
    log_files::{self, tail_text},
};

/// As much of a termination message as kubelet takes.
const MAX_MESSAGE: u64 = 4096;
const FALLBACK_LINES: u64 = 80;
const FALLBACK_BYTES: usize = 2048;

fn time(nanos: i64) -> Option<Timestamp> {
    if nanos <= 0 { None } else { Timestamp::from_nanosecond(i128::from(nanos)).ok() }
}

impl Worker {
    /// Replaces what is seen. `false`: the runtime did not answer, and the old view stands.
    pub(super) async fn observe(&mut self) -> bool {
        match self.list().await {
            Ok(()) => {
                for id in self.seen.sandboxes.iter().map(|s| &s.id).chain(self.seen.containers.iter().map(|c| &c.id)) {
                    self.node.watchers.watch(id, &self.wake);
                }
                self.read_messages().await;
                true
            }
            Err(error) => {
                tracing::warn!(uid = %self.uid, %error, "the runtime cannot be asked about a pod");
                false
            }
        }
    }

    /// Looks after a change; after one that failed, says when to go on.
    pub(super) async fn observe_after(&mut self, change: Result<(), CriError>) -> Result<(), Timestamp> {
        let answered = self.observe().await;
        if let Err(error) = change {
            tracing::warn!(uid = %self.uid, %error, "a step of a pod failed; it is tried again");
            return Err(soon());
        }
        if answered { Ok(()) } else { Err(soon()) }
    }

    async fn list(&mut self) -> Result<(), CriError> {
        let label = [(POD_UID.to_owned(), self.uid.clone())];
        let filter = cri::PodSandboxFilter { label_selector: label.clone().into(), ..cri::PodSandboxFilter::default() };
        let sandboxes =
            self.node.cri.list_pod_sandbox(cri::ListPodSandboxRequest { filter: Some(filter) }).await?.items;
        let filter = cri::ContainerFilter { label_selector: label.into(), ..cri::ContainerFilter::default() };
        let containers =
            self.node.cri.list_containers(cri::ListContainersRequest { filter: Some(filter) }).await?.containers;
        let mut seen = Vec::new();
        for listed in sandboxes {
            if let Some(sandbox) = self.sandbox_status(&listed.id).await? {
                seen.push(sandbox);
            }
        }
        let mut found = Vec::new();
        for listed in containers {
            // An exited container does not change any more.
            let known = self.seen.containers.iter().find(|c| c.id == listed.id && c.state == State::Exited);
            match known {
                Some(known) => found.push(known.clone()),
                None => found.extend(self.container_status(&listed.id, &listed.pod_sandbox_id).await?),
            }
        }
        self.seen.sandboxes = seen;
        self.seen.containers = found;
        self.memory.forget_others(&self.seen);
        Ok(())
    }

    pub(super) async fn sandbox_status(&self, id: &str) -> Result<Option<Sandbox>, CriError> {
        let ask = cri::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let status = match self.node.cri.pod_sandbox_status(ask).await {
            Ok(answer) => answer.status,
            Err(error) if error.not_found() => None,
            Err(error) => return Err(error),
        };
        Ok(status.map(|status| {
            let network = status.network.unwrap_or_default();
            let more = network.additional_ips.iter().map(|ip| ip.ip.as_str());
            let ips: Vec<IpAddr> =
                std::iter::once(network.ip.as_str()).chain(more).filter_map(|ip| ip.parse().ok()).collect();
            Sandbox {
                id: status.id,
                attempt: status.metadata.map_or(0, |m| m.attempt),
                ready: status.state == i32::from(cri::PodSandboxState::SandboxReady),
                created: time(status.created_at).unwrap_or_default(),
                ips,
            }
        }))
    }

    pub(super) async fn container_status(&self, id: &str, sandbox: &str) -> Result<Option<Container>, CriError> {
        let ask = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let status = match self.node.cri.container_status(ask).await {
            Ok(answer) => answer.status,
            Err(error) if error.not_found() => None,
            Err(error) => return Err(error),
        };
        Ok(status.map(|status| container(status, sandbox)))
    }

    /// Reads what ended containers left to say.
    async fn read_messages(&mut self) {
        let pod = self.api_pod();
        let pod_dir = self.node.config.pod_dir(&self.uid);
        let logs = log_files::dir(&self.node.config, &pod);
        let spec = spec(&pod);
        let unread = |c: &&Container| c.state == State::Exited && !self.memory.messages.contains_key(&c.id);
        let mut read = Vec::new();
        for ended in self.seen.containers.iter().filter(unread) {
            let path = termination_log(&pod_dir, &ended.name, ended.attempt);
            let mut text = read_start(&path).await;
            let definition = rules::definition(spec, &ended.name);
            let policy = definition.as_ref().and_then(|c| c.termination_message_policy.as_deref());
            if text.is_empty() && ended.exit_code != 0 && policy == Some("FallbackToLogsOnError") {
                let log = log_files::of_attempt(&logs, &ended.name, ended.attempt);
                text = tail_text(&log, FALLBACK_LINES, FALLBACK_BYTES).await.unwrap_or_default();
            }
            if text.is_empty() {
                text.clone_from(&ended.message);
            }
            read.push((ended.id.clone(), text));
        }
        self.memory.messages.extend(read);
    }

    /// A worker that finds its containers running takes their probes' verdicts from the API:
    /// a restart of the agent must not make a ready pod unready.
    pub(super) fn adopt(&mut self) {
        let pod = self.api_pod();
        self.memory.resizing.adopt(&pod);
        let Some(status) = &pod.status else { return };
        let all = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
        for known in all {
            let id = known.container_id.as_deref().and_then(|id| id.strip_prefix("containerd://"));
            let Some(seen) = self.seen.containers.iter().find(|c| Some(c.id.as_str()) == id) else { continue };
            if seen.state == State::Running {
                let started = (known.started == Some(true)).then_some(true);
                let readiness = known.ready.then_some(true);
                self.memory.probed.insert(seen.id.clone(), Probed { startup: started, liveness: None, readiness });
            }
        }
    }
}

async fn read_start(path: &std::path::Path) -> String {
    use tokio::io::AsyncReadExt as _;
    let mut out = Vec::new();
    if let Ok(file) = tokio::fs::File::open(path).await {
        // Whatever was read before an error is better than nothing.
        let _ = file.take(MAX_MESSAGE).read_to_end(&mut out).await;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn container(status: cri::ContainerStatus, sandbox: &str) -> Container {
    let state = match status.state() {
        cri::ContainerState::ContainerCreated => State::Created,
        cri::ContainerState::ContainerRunning => State::Running,
        cri::ContainerState::ContainerExited => State::Exited,
        cri::ContainerState::ContainerUnknown => State::Unknown,
    };
    let metadata = status.metadata.unwrap_or_default();
    let exited = state == State::Exited;
    Container {
        id: status.id,
        sandbox: sandbox.to_owned(),
        name: status.labels.get(CONTAINER_NAME).cloned().unwrap_or(metadata.name),
        attempt: metadata.attempt,
        state,
        created: time(status.created_at).unwrap_or_default(),
        started: time(status.started_at),
        finished: if exited { time(status.finished_at) } else { None },
        exit_code: if exited { status.exit_code } else { 0 },
        // A pod-level OOM marks containers that still run, too.
        reason: if exited { status.reason } else { String::new() },
        message: if exited { status.message } else { String::new() },
        image: status.image.map(|i| i.image).unwrap_or_default(),
        image_id: status.image_ref,
        definition: status.annotations.get(HASH).cloned().unwrap_or_default(),
    }
}
