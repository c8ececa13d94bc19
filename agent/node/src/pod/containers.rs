//! Making and starting containers.

use jiff::{SignedDuration, Timestamp};
use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container, Pod};
use kontiki_agent_plan::{
    backoff::Backoff,
    env,
    observed::{self, State},
    rules,
};

use super::Worker;
use crate::{
    events::Kind,
    objects::PodSources,
    runtime_config::{self, Given},
    volumes::mounts,
};

/// Between attempts at a container that cannot be made.
const RETRY: SignedDuration = SignedDuration::from_secs(10);

impl Worker {
    pub(super) async fn create_container(&mut self, pod: &Pod, name: &str, attempt: u32, image: &str) {
        let Some(definition) = rules::definition(self.spec(pod), name).cloned() else { return };
        let Some(sandbox) = self.seen.sandbox().cloned() else { return };
        let config = match self.configure(pod, &definition, attempt, image).await {
            Ok(config) => config,
            Err(message) => {
                self.refuse(pod, name, "CreateContainerConfigError", message, RETRY);
                return;
            }
        };
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.id.clone(),
            config: Some(config),
            sandbox_config: Some(runtime_config::sandbox(&self.node, pod, self.spec(pod), sandbox.attempt)),
        };
        // From here on a restart counts, whatever becomes of it.
        if attempt > 0 && self.seen.latest(name).is_some_and(|c| c.state == State::Exited) {
            let backoff = Backoff::next(self.memory.restarts.get(name).copied(), Timestamp::now());
            self.memory.restarts.insert(name.to_owned(), backoff);
        }
        match self.node.cri.create_container(request).await {
            Ok(answer) => self.created(pod, &definition, answer.container_id, &sandbox.id, attempt),
            Err(error) => {
                self.refuse(pod, name, "CreateContainerError", error.message, RETRY);
                self.look().await;
            }
        }
    }

    fn created(&mut self, pod: &Pod, definition: &Container, id: String, sandbox: &str, attempt: u32) {
        self.tell(pod, &definition.name, Kind::Normal, "Created", &format!("Created container: {}", definition.name));
        self.node.watchers.watch(&id, &self.wake);
        self.memory.fresh.insert(id.clone());
        self.memory.images.remove(&definition.name);
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
        let spec = self.spec(pod);
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
        let log_dir = self.node.config.logs().join(runtime_config::log_dir_name(pod)).join(&definition.name);
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
        Ok(runtime_config::container(Given {
            node: &self.node,
            pod,
            spec,
            container: definition,
            attempt,
            image,
            env,
            mounts,
        }))
    }

    async fn check_user(&self, pod: &Pod, definition: &Container, image: &str) -> Result<(), String> {
        let spec = self.spec(pod);
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
        runtime_config::check_user(pod, spec, definition, &status.image.unwrap_or_default())
    }

    pub(super) async fn start_container(&mut self, pod: &Pod, name: &str, id: &str) {
        let Some(definition) = rules::definition(self.spec(pod), name).cloned() else { return };
        self.memory.fresh.remove(id);
        if let Err(error) =
            self.node.cri.start_container(cri::StartContainerRequest { container_id: id.to_owned() }).await
        {
            let message = format!("failed to start container \"{id}\": {}", error.message);
            // The container's own back-off decides when the next one is tried.
            self.refuse(pod, name, "RunContainerError", message, SignedDuration::from_secs(1));
            self.look().await;
            return;
        }
        self.memory.failures.remove(name);
        self.tell(pod, name, Kind::Normal, "Started", &format!("Started container {name}"));
        let sandbox = self.seen.containers.iter().find(|c| c.id == id).map(|c| c.sandbox.clone()).unwrap_or_default();
        match self.container_status(id, &sandbox).await {
            Ok(Some(status)) => {
                self.seen.containers.retain(|c| c.id != id);
                self.seen.containers.push(status);
                self.post_start(&definition, id);
            }
            Ok(None) | Err(_) => {
                self.look().await;
            }
        }
    }
}
