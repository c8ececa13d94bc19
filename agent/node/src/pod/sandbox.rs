//! Performing the steps that the plan names.

use jiff::{SignedDuration, Timestamp};
use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::Pod;
use kontiki_agent_plan::{observed::Volumes, rules, step::Step};

use super::{HOLD, Report, Worker};
use crate::{cgroups, cri::CriError, events::Kind, runtime_config, volumes};

/// Between attempts at a sandbox that cannot be made; doubled up to the second.
const SANDBOX_RETRY: SignedDuration = SignedDuration::from_secs(1);
const SANDBOX_RETRY_MAX: SignedDuration = SignedDuration::from_secs(15);
/// Until the node's network is there.
const NETWORK_WAIT: SignedDuration = SignedDuration::from_millis(200);

fn soon() -> Timestamp {
    Timestamp::now() + SignedDuration::try_from(HOLD).expect("a second fits")
}

impl Worker {
    /// Performs one step. An error says when to think again.
    pub(super) async fn perform(&mut self, pod: &Pod, step: Step) -> Result<(), Timestamp> {
        match step {
            Step::Wait(_) | Step::Gone => Ok(()),
            Step::PrepareVolumes => {
                self.memory.volumes = Volumes::Preparing;
                let prepare = self.prepare_volumes();
                self.jobs.spawn(async move { Report::Volumes(prepare.await) });
                Ok(())
            }
            Step::CreateSandbox { attempt } => self.create_sandbox(pod, attempt).await,
            Step::StopSandbox { id } => self.stop_sandbox(pod, id).await,
            Step::RemoveSandbox { id } => {
                self.frozen |= self.ending.is_some();
                let ask = cri::RemovePodSandboxRequest { pod_sandbox_id: id };
                let result = self.node.cri.remove_pod_sandbox(ask).await;
                self.settled(result.map(drop)).await
            }
            Step::RemoveContainer { id } => self.remove_container(pod, id).await,
            Step::FindImage { container, attempt } => self.find_image(pod, &container, attempt).await,
            Step::CreateContainer { container, attempt, image } => {
                self.create_container(pod, &container, attempt, &image).await;
                Ok(())
            }
            Step::StartContainer { container, id } => {
                self.start_container(pod, &container, &id).await;
                Ok(())
            }
            Step::StopContainers(stops) => {
                self.stop_containers(pod, stops);
                Ok(())
            }
            Step::Release => self.release().await,
        }
    }

    /// Looks after a change, and holds back after a failure.
    async fn settled(&mut self, result: Result<(), CriError>) -> Result<(), Timestamp> {
        let looked = self.look().await;
        match result {
            Ok(()) if looked => Ok(()),
            Ok(()) => Err(soon()),
            Err(error) => {
                tracing::warn!(uid = %self.uid, %error, "a step of a pod failed; it is tried again");
                Err(soon())
            }
        }
    }

    async fn create_sandbox(&mut self, pod: &Pod, attempt: u32) -> Result<(), Timestamp> {
        let spec = self.spec(pod);
        let host_network = spec.host_network == Some(true);
        if !host_network && !self.node.ready.load(std::sync::atomic::Ordering::SeqCst) {
            // It would fail for want of a network, and the attempt would cost more than waiting.
            return Err(Timestamp::now() + NETWORK_WAIT);
        }
        let config = runtime_config::sandbox(&self.node, pod, spec, attempt);
        if let Err(error) = std::fs::create_dir_all(&config.log_directory) {
            return self.sandbox_failed(pod, &format!("creating {}: {error}", config.log_directory)).await;
        }
        let runtime_handler = spec.runtime_class_name.clone().unwrap_or_default();
        let request = cri::RunPodSandboxRequest { config: Some(config), runtime_handler };
        let id = match self.node.cri.run_pod_sandbox(request).await {
            Ok(answer) => answer.pod_sandbox_id,
            Err(error) => return self.sandbox_failed(pod, &error.to_string()).await,
        };
        self.sandbox_failures = 0;
        self.memory.sandbox_retry = None;
        self.node.watchers.watch(&id, &self.wake);
        cgroups::set_shares(spec, &self.uid);
        match self.sandbox_status(&id).await {
            Ok(Some(sandbox)) => self.seen.sandboxes.push(sandbox),
            Ok(None) | Err(_) => {
                self.look().await;
            }
        }
        Ok(())
    }

    async fn sandbox_failed(&mut self, pod: &Pod, reason: &str) -> Result<(), Timestamp> {
        let message = format!("Failed to create pod sandbox: {reason}");
        self.node.recorder.pod(&self.node.outbox, pod, None, Kind::Warning, "FailedCreatePodSandBox", &message);
        let wait = SANDBOX_RETRY * (1 << self.sandbox_failures.min(4));
        self.sandbox_failures += 1;
        self.memory.sandbox_retry = Some(Timestamp::now() + wait.min(SANDBOX_RETRY_MAX));
        self.look().await;
        Ok(())
    }

    async fn stop_sandbox(&mut self, pod: &Pod, id: String) -> Result<(), Timestamp> {
        if self.ending.is_none() && self.seen.sandbox().is_some_and(|s| s.id == id && !s.ready) {
            let message = "Pod sandbox changed, it will be killed and re-created.";
            self.node.recorder.pod(&self.node.outbox, pod, None, Kind::Normal, "SandboxChanged", message);
        }
        let result = self.node.cri.stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await;
        if result.as_ref().is_ok_and(|_| true) || result.as_ref().is_err_and(CriError::not_found) {
            self.memory.stopped_sandboxes.insert(id);
        }
        self.settled(result.map(drop)).await
    }

    async fn remove_container(&mut self, pod: &Pod, id: String) -> Result<(), Timestamp> {
        let known = self.seen.containers.iter().find(|c| c.id == id).cloned();
        let result = self.node.cri.remove_container(cri::RemoveContainerRequest { container_id: id }).await;
        if let (Ok(_), Some(container)) = (&result, known) {
            let dir = self.node.config.logs().join(runtime_config::log_dir_name(pod)).join(&container.name);
            // The log may never have been begun.
            let _ = std::fs::remove_file(dir.join(format!("{}.log", container.attempt)));
        }
        self.settled(result.map(drop)).await
    }

    /// A crashed container is held back: says so once per attempt.
    pub(super) fn announce_backoff(&mut self, pod: &Pod, now: Timestamp) {
        for definition in rules::containers(self.spec(pod)) {
            let name = &definition.name;
            let Some(latest) = self.seen.latest(name) else { continue };
            let held = rules::crash_until(&self.memory, latest, now).is_some();
            if !held || self.ending.is_some() || self.announced.get(name) == Some(&latest.attempt) {
                continue;
            }
            self.announced.insert(name.clone(), latest.attempt);
            let text = |field: &Option<String>| field.clone().unwrap_or_default();
            let meta = &pod.metadata;
            let place = format!("{}_{}({})", text(&meta.name), text(&meta.namespace), text(&meta.uid));
            let message = format!("Back-off restarting failed container {name} in pod {place}");
            self.tell(pod, name, Kind::Warning, "BackOff", &message);
        }
    }

    async fn release(&mut self) -> Result<(), Timestamp> {
        self.jobs.abort_all();
        while self.jobs.join_next().await.is_some() {}
        self.refreshing = false;
        let (dir, uid) = (self.node.config.pod_dir(&self.uid), self.uid.clone());
        let work = tokio::task::spawn_blocking(move || {
            volumes::release(&dir)?;
            cgroups::remove(&uid)
        });
        match work.await.map_err(std::io::Error::other).and_then(|result| result) {
            Ok(()) => {
                self.memory.volumes = Volumes::Released;
                Ok(())
            }
            Err(error) => {
                tracing::warn!(uid = %self.uid, %error, "a pod's volumes or cgroup cannot be removed yet");
                Err(soon())
            }
        }
    }

    /// The last step: files and logs go, and the masters are told. `false`: try again.
    pub(super) async fn finish(&mut self, pod: &Pod) -> bool {
        let dir = self.node.config.pod_dir(&self.uid);
        let logs = self.node.config.logs().join(runtime_config::log_dir_name(pod));
        let work = tokio::task::spawn_blocking(move || {
            volumes::remove_pod_dir(&dir)?;
            match std::fs::remove_dir_all(logs) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        });
        if let Err(error) = work.await.map_err(std::io::Error::other).and_then(|result| result) {
            tracing::warn!(uid = %self.uid, %error, "a pod's files cannot be removed yet");
            return false;
        }
        if self.desired.borrow().present {
            let (namespace, name) = (pod.metadata.namespace.as_deref(), pod.metadata.name.as_deref());
            self.node.outbox.pod_gone(namespace.unwrap_or_default(), name.unwrap_or_default(), &self.uid);
        }
        true
    }
}
