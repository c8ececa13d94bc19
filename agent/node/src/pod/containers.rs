//! Making, starting and removing containers.

use std::borrow::Cow;

use jiff::Timestamp;
use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container, Pod};
use kontiki_agent_plan::{
    backoff::Backoff,
    env,
    observed::{self, State},
    rules,
    start_failure::StartFailure,
};

use super::{
    mounts,
    worker::{Worker, spec},
};
use crate::{
    runtime::{
        container_config::{self, Given},
        log_files, sandbox_config, security,
    },
    session::{objects::PodSources, recorder::EventType},
};

impl Worker {
    pub(super) async fn create_container(&mut self, pod: &Pod, name: &str, attempt: u32, image: &str) {
        let Some(definition) = rules::definition(spec(pod), name).map(Cow::into_owned) else { return };
        let Some(sandbox) = self.seen.sandbox().cloned() else { return };
        let config = match self.configure(pod, &definition, attempt, image).await {
            Ok(config) => config,
            Err(message) => {
                self.start_failed(pod, name, StartFailure::CreateContainerConfigError, message);
                return;
            }
        };
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.id.clone(),
            config: Some(config),
            sandbox_config: Some(sandbox_config::sandbox(self.node.settings(), pod, spec(pod), sandbox.attempt)),
        };
        // From here on a restart counts, whatever becomes of it.
        if attempt > 0 && self.seen.latest(name).is_some_and(|c| c.state == State::Exited) {
            let backoff = Backoff::next(self.memory.restarts.get(name).copied(), Timestamp::now());
            self.memory.restarts.insert(name.to_owned(), backoff);
        }
        match self.node.cri.create_container(request).await {
            Ok(answer) => self.created(pod, &definition, answer.container_id, &sandbox.id, attempt),
            Err(error) => {
                self.start_failed(pod, name, StartFailure::CreateContainerError, error.message);
                self.observe().await;
            }
        }
    }

    fn created(&mut self, pod: &Pod, definition: &Container, id: String, sandbox: &str, attempt: u32) {
        let message = format!("Created container: {}", definition.name);
        self.container_event(pod, &definition.name, EventType::Normal, "Created", &message);
        self.node.watchers.watch(&id, &self.wake);
        self.memory.fresh.insert(id.clone());
        self.memory.images.remove(&definition.name);
        self.memory.resizing.applied(definition, &id);
        self.seen.containers.push(observed::Container {
            id,
            sandbox: sandbox.to_owned(),
            name: definition.name.clone(),
            attempt,
            state: State::Created,
            created: Timestamp::now(),
            started: None,
            finished: None,
            exit_code: 0,
            reason: String::new(),
            message: String::new(),
            image: definition.image.clone().unwrap_or_default(),
            image_id: String::new(),
            definition: rules::definition_hash(definition),
        });
    }

    /// The container in the runtime's words.
    async fn configure(
        &self,
        pod: &Pod,
        definition: &Container,
        attempt: u32,
        image: &str,
    ) -> Result<cri::ContainerConfig, String> {
        let spec = spec(pod);
        self.check_user(pod, definition, image).await?;
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let ips = self.pod_ips();
        let context = env::Context {
            pod,
            place: &self.node.place(ips.clone()),
            sources: &PodSources::new(&self.node.objects, namespace),
            services: &self.node.service_addresses(),
        };
        let env = env::environment(definition, &context).map_err(|e| e.to_string())?;
        let log_dir = log_files::dir(&self.node.config, pod).join(&definition.name);
        std::fs::create_dir_all(&log_dir).map_err(|e| format!("creating {}: {e}", log_dir.display()))?;
        let mounts = mounts::mounts(&mounts::Context {
            node: &self.node,
            pod,
            spec,
            container: definition,
            attempt,
            env: &env,
            ips: &ips,
        })?;
        let node_memory = self.node.host.memory;
        let target = match rules::target(spec, &definition.name) {
            None => None,
            Some(name) => {
                let running = self.seen.latest(name).filter(|seen| seen.state == State::Running);
                Some(running.ok_or_else(|| format!("unable to find target container {name}"))?.id.clone())
            }
        };
        Ok(container_config::container(Given {
            node_memory,
            pod,
            spec,
            container: definition,
            attempt,
            image,
            target,
            env,
            mounts,
        }))
    }

    async fn check_user(&self, pod: &Pod, definition: &Container, image: &str) -> Result<(), String> {
        let spec = spec(pod);
        let pod_asks = spec.security_context.as_ref().and_then(|s| s.run_as_non_root);
        let own_asks = definition.security_context.as_ref().and_then(|s| s.run_as_non_root);
        if own_asks.or(pod_asks) != Some(true) {
            return Ok(());
        }
        let ask = cri::ImageStatusRequest {
            image: Some(cri::ImageSpec { image: image.to_owned(), ..cri::ImageSpec::default() }),
            verbose: false,
        };
        let status = self.node.cri.image_status(ask).await.map_err(|e| e.message)?;
        security::check_user(pod, spec, definition, &status.image.unwrap_or_default())
    }

    pub(super) async fn start_container(&mut self, pod: &Pod, name: &str, id: &str) {
        let Some(definition) = rules::definition(spec(pod), name).map(Cow::into_owned) else { return };
        self.memory.fresh.remove(id);
        let request = cri::StartContainerRequest { container_id: id.to_owned() };
        if let Err(error) = self.node.cri.start_container(request).await {
            let message = format!("failed to start container \"{id}\": {}", error.message);
            self.start_failed(pod, name, StartFailure::RunContainerError, message);
            self.observe().await;
            return;
        }
        self.memory.failures.remove(name);
        self.container_event(pod, name, EventType::Normal, "Started", &format!("Started container {name}"));
        let sandbox = self.seen.containers.iter().find(|c| c.id == id).map(|c| c.sandbox.clone()).unwrap_or_default();
        match self.container_status(id, &sandbox).await {
            Ok(Some(status)) => {
                self.seen.containers.retain(|c| c.id != id);
                self.seen.containers.push(status);
                self.post_start(&definition, id);
            }
            Ok(None) | Err(_) => {
                self.observe().await;
            }
        }
    }

    pub(super) async fn remove_container(&mut self, pod: &Pod, id: String) -> Result<(), Timestamp> {
        let known = self.seen.containers.iter().find(|c| c.id == id).cloned();
        let result = self.node.cri.remove_container(cri::RemoveContainerRequest { container_id: id }).await;
        if let (Ok(_), Some(container)) = (&result, known) {
            let dir = log_files::dir(&self.node.config, pod);
            // The log may never have been begun.
            let _ = std::fs::remove_file(log_files::of_attempt(&dir, &container.name, container.attempt));
        }
        self.observe_after(result.map(drop)).await
    }
}
