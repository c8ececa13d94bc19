//! Finding the image of a container: here, or in a registry.

use std::{borrow::Cow, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use kontiki_agent_plan::{
    image::{self, Action, BackOff, PullPolicy},
    rules,
    start_failure::StartFailure,
};
use tokio::time::Instant;

use super::worker::{Report, Worker, spec};
use crate::{
    runtime::{images, sandbox_config},
    session::recorder::EventType,
};

impl Worker {
    /// Settles at once what can be, and starts a pull otherwise.
    pub(super) async fn find_image(&mut self, pod: &Pod, name: &str, attempt: u32) {
        let Some(container) = rules::definition(spec(pod), name).map(Cow::into_owned) else { return };
        let image = container.image.clone().unwrap_or_default();
        if !image::valid_reference(&image) {
            let message = format!(
                "Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": invalid reference format"
            );
            self.container_event(pod, name, EventType::Warning, "InspectFailed", &message);
            self.start_failed(pod, name, StartFailure::InvalidImageName, message);
            return;
        }
        let local = match images::local(&self.node.cri, &image).await {
            Ok(local) => local,
            Err(error) => {
                let message = format!("Failed to inspect image \"{image}\": {error}");
                self.start_failed(pod, name, StartFailure::ImageInspectError, message);
                return;
            }
        };
        let policy = PullPolicy::of(container.image_pull_policy.as_deref(), &image);
        match self.pulls.action(policy, local.is_some(), &image, Timestamp::now()) {
            Action::Use => {
                let message = format!("Container image \"{image}\" already present on machine");
                self.container_event(pod, name, EventType::Normal, "Pulled", &message);
                self.image_ready(name, attempt, local.map(|(id, _)| id).unwrap_or_default());
            }
            Action::Refuse => {
                let message = format!("Container image \"{image}\" is not present with pull policy of Never");
                self.container_event(pod, name, EventType::Warning, "ErrImageNeverPull", &message);
                self.start_failed(pod, name, StartFailure::ErrImageNeverPull, message);
            }
            Action::Wait(back_off) => self.pull_waits(pod, name, &image, back_off),
            Action::Pull => self.start_pull(pod, &container, attempt, image),
        }
    }

    fn image_ready(&mut self, name: &str, attempt: u32, id: String) {
        self.memory.images.insert(name.to_owned(), (attempt, id));
        self.memory.failures.remove(name);
    }

    fn start_pull(&mut self, pod: &Pod, container: &Container, attempt: u32, image: String) {
        let name = container.name.clone();
        self.container_event(pod, &name, EventType::Normal, "Pulling", &format!("Pulling image \"{image}\""));
        self.memory.pulling.insert(name.clone());
        let credentials = self.credentials(pod, &image);
        let attempt_of_sandbox = self.seen.sandbox().map_or(0, |s| s.attempt);
        let sandbox = sandbox_config::sandbox(self.node.settings(), pod, spec(pod), attempt_of_sandbox);
        let (node, pod, begun) = (self.node.clone(), self.api_pod(), Instant::now());
        let container = name.clone();
        let task = self.jobs.spawn(async move {
            let result = match images::pull(&node.cri, &image, Some(sandbox), credentials).await {
                Ok(_) => images::local(&node.cri, &image).await,
                Err(error) => Err(error),
            };
            let result = match result {
                Ok(Some((id, size))) => {
                    let took = go_seconds(begun.elapsed());
                    let message = format!(
                        "Successfully pulled image \"{image}\" in {took} ({took} including waiting). Image size: {size} bytes."
                    );
                    node.recorder.pod(&node.outbox, &pod, Some(&name), EventType::Normal, "Pulled", &message);
                    Ok(id)
                }
                Ok(None) => Err(format!("image \"{image}\" is gone again")),
                Err(error) => Err(error.to_string()),
            };
            Report::Pulled { container: name, attempt, result }
        });
        self.pull_jobs.insert(container, task);
    }

    /// The image is not pulled again yet; that is told.
    fn pull_waits(&mut self, pod: &Pod, name: &str, image: &str, BackOff { until, reason }: BackOff) {
        let short = format!("Back-off pulling image \"{image}\"");
        self.container_event(pod, name, EventType::Normal, "BackOff", &short);
        let message = format!("{short}: ErrImagePull: {reason}");
        self.start_waits(pod, name, StartFailure::ImagePullBackOff, message, until);
    }

    fn credentials(&self, pod: &Pod, image: &str) -> Vec<k8s_cri::v1::AuthConfig> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let names = spec(pod).image_pull_secrets.iter().flatten().map(|s| s.name.as_str());
        let secrets: Vec<_> = names.filter_map(|name| self.node.objects.secret(namespace, name)).collect();
        let secrets: Vec<_> = secrets.iter().map(AsRef::as_ref).collect();
        images::credentials(image, &secrets, &self.node.config.registries)
    }

    pub(super) fn pulled(&mut self, name: &str, attempt: u32, result: Result<String, String>) {
        self.memory.pulling.remove(name);
        self.pull_jobs.remove(name);
        let pod = self.api_pod();
        let image = rules::definition(spec(&pod), name).and_then(|c| c.image.clone()).unwrap_or_default();
        match result {
            Ok(id) => {
                self.pulls.succeeded(&image);
                self.image_ready(name, attempt, id);
            }
            Err(error) => self.pull_failed(&pod, name, &image, image::without_own_end(&error)),
        }
    }

    fn pull_failed(&mut self, pod: &Pod, name: &str, image: &str, reason: String) {
        let text = if reason.contains("failed to pull") {
            reason.clone()
        } else {
            format!("failed to pull and unpack image \"{image}\": {reason}")
        };
        let message = format!("Failed to pull image \"{image}\": {text}");
        self.container_event(pod, name, EventType::Warning, "Failed", &message);
        let shown = self.memory.failures.get(name).map(|failure| failure.why);
        match self.pulls.failed(image, reason, shown, Timestamp::now()) {
            Some(back_off) => self.pull_waits(pod, name, image, back_off),
            None => self.start_failed(pod, name, StartFailure::ErrImagePull, text),
        }
    }
}

/// A duration as Go prints it, to the millisecond.
fn go_seconds(duration: Duration) -> String {
    if duration.as_secs() == 0 {
        format!("{}ms", duration.as_millis())
    } else {
        format!("{:.3}s", duration.as_secs_f64())
    }
}
