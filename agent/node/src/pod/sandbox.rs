//! The pod's sandbox: made, stopped, removed.

use jiff::Timestamp;
use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::Pod;
use kontiki_agent_plan::step;

use super::worker::{Worker, spec};
use crate::{
    host::cgroups,
    runtime::{cri::CriError, sandbox_config},
    session::recorder::EventType,
};

impl Worker {
    pub(super) async fn create_sandbox(&mut self, pod: &Pod, attempt: u32) -> Result<(), Timestamp> {
        if let Some(until) = step::sandbox_waits(pod, self.node.is_ready(), Timestamp::now()) {
            return Err(until);
        }
        let spec = spec(pod);
        let config = sandbox_config::sandbox(self.node.settings(), pod, spec, attempt);
        if let Err(error) = std::fs::create_dir_all(&config.log_directory) {
            self.sandbox_failed(pod, &format!("creating {}: {error}", config.log_directory)).await;
            return Ok(());
        }
        let runtime_handler = match spec.runtime_class_name.as_deref().unwrap_or_default() {
            "" => String::new(),
            name => match self.node.objects.runtime_class(name) {
                Some(class) => class.handler.clone(),
                None => {
                    let reason = format!("failed to get sandbox runtime: RuntimeClass \"{name}\" not found");
                    self.sandbox_failed(pod, &reason).await;
                    return Ok(());
                }
            },
        };
        let request = cri::RunPodSandboxRequest { config: Some(config), runtime_handler };
        let id = match self.node.cri.run_pod_sandbox(request).await {
            Ok(answer) => answer.pod_sandbox_id,
            Err(error) => {
                self.sandbox_failed(pod, &error.to_string()).await;
                return Ok(());
            }
        };
        self.memory.sandbox_created();
        self.node.watchers.watch(&id, &self.wake);
        cgroups::set_resources(spec, &self.uid);
        match self.sandbox_status(&id).await {
            Ok(Some(sandbox)) => self.seen.sandboxes.push(sandbox),
            Ok(None) | Err(_) => {
                self.observe().await;
            }
        }
        Ok(())
    }

    async fn sandbox_failed(&mut self, pod: &Pod, reason: &str) {
        let message = format!("Failed to create pod sandbox: {reason}");
        self.pod_event(pod, EventType::Warning, "FailedCreatePodSandBox", &message);
        self.memory.sandbox_failed(Timestamp::now());
        self.observe().await;
    }

    pub(super) async fn stop_sandbox(&mut self, pod: &Pod, id: String) -> Result<(), Timestamp> {
        if self.ending.is_none() && self.seen.sandbox().is_some_and(|s| s.id == id && !s.ready) {
            let message = "Pod sandbox changed, it will be killed and re-created.";
            self.pod_event(pod, EventType::Normal, "SandboxChanged", message);
        }
        let result = self.node.cri.stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await;
        if result.is_ok() || result.as_ref().is_err_and(CriError::not_found) {
            self.memory.stopped_sandboxes.insert(id);
        }
        self.observe_after(result.map(drop)).await
    }

    pub(super) async fn remove_sandbox(&mut self, id: String) -> Result<(), Timestamp> {
        self.status_final |= self.ending.is_some();
        let ask = cri::RemovePodSandboxRequest { pod_sandbox_id: id };
        let result = self.node.cri.remove_pod_sandbox(ask).await;
        self.observe_after(result.map(drop)).await
    }
}
