//! Finding the image of a container: here, or in a registry.
//!
//! Invariants
//! - A pull that fails again is no news: the status says `ImagePullBackOff` from the second failure on, and does
//!   not change while the reason stays the same.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};
use kontiki_agent_plan::{backoff::Backoff, observed::Failure, rules};
use tokio::time::Instant;

use super::{Report, Worker};
use crate::{
    events::Kind,
    images::{self, PullPolicy},
    runtime_config,
};

/// How long `ErrImagePull` shows before it turns into `ImagePullBackOff`.
const SHOWN: SignedDuration = SignedDuration::from_secs(3);
const NEVER_RETRY: SignedDuration = SignedDuration::from_secs(10);

impl Worker {
    /// Settles at once what can be, and starts a pull otherwise.
    pub(super) async fn find_image(&mut self, pod: &Pod, name: &str, attempt: u32) -> Result<(), Timestamp> {
        let Some(container) = rules::definition(self.spec(pod), name).cloned() else { return Ok(()) };
        let image = container.image.clone().unwrap_or_default();
        if !images::valid_reference(&image) {
            let message = format!(
                "Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": invalid reference format"
            );
            self.tell(pod, name, Kind::Warning, "InspectFailed", &message);
            self.refuse(pod, name, "InvalidImageName", message, NEVER_RETRY);
            return Ok(());
        }
        let policy = PullPolicy::of(container.image_pull_policy.as_deref(), &image);
        let here = match images::local(&self.node.cri, &image).await {
            Ok(here) => here,
            Err(error) => {
                self.refuse(
                    pod,
                    name,
                    "ImageInspectError",
                    format!("Failed to inspect image \"{image}\": {error}"),
                    NEVER_RETRY,
                );
                return Ok(());
            }
        };
        match (policy, here) {
            (PullPolicy::Never, None) => {
                let message = format!("Container image \"{image}\" is not present with pull policy of Never");
                self.tell(pod, name, Kind::Warning, "ErrImageNeverPull", &message);
                self.refuse(pod, name, "ErrImageNeverPull", message, NEVER_RETRY);
            }
            (PullPolicy::Never | PullPolicy::IfNotPresent, Some((id, _))) => {
                self.tell(
                    pod,
                    name,
                    Kind::Normal,
                    "Pulled",
                    &format!("Container image \"{image}\" already present on machine"),
                );
                self.image_ready(name, attempt, id);
            }
            (PullPolicy::Always | PullPolicy::IfNotPresent, _) => self.start_pull(pod, &container, attempt, image),
        }
        Ok(())
    }

    fn image_ready(&mut self, name: &str, attempt: u32, id: String) {
        self.memory.images.insert(name.to_owned(), (attempt, id));
        self.memory.failures.remove(name);
    }

    fn start_pull(&mut self, pod: &Pod, container: &Container, attempt: u32, image: String) {
        let name = container.name.clone();
        if self.back_off(pod, &name, &image) {
            return;
        }
        self.tell(pod, &name, Kind::Normal, "Pulling", &format!("Pulling image \"{image}\""));
        self.memory.pulling.insert(name.clone());
        let credentials = self.credentials(pod, &image);
        let spec = self.spec(pod);
        let attempt_of_sandbox = self.seen.sandbox().map_or(0, |s| s.attempt);
        let sandbox = runtime_config::sandbox(&self.node, pod, spec, attempt_of_sandbox);
        let (node, pod, begun) = (self.node.clone(), self.desired.borrow().pod.clone(), Instant::now());
        let init = pod.spec.as_ref().is_some_and(|s| rules::is_init(s, &name));
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
                    node.recorder.pod(&node.outbox, &pod, Some((&name, init)), Kind::Normal, "Pulled", &message);
                    Ok(id)
                }
                Ok(None) => Err(format!("image \"{image}\" is gone again")),
                Err(error) => Err(error.to_string()),
            };
            Report::Image { container: name, attempt, result }
        });
        self.pulls.insert(container, task);
    }

    /// Whether the image must not be pulled yet; that is told then.
    fn back_off(&mut self, pod: &Pod, name: &str, image: &str) -> bool {
        let Some((backoff, failed, reason)) = self.image_backoff.get(image) else { return false };
        let now = Timestamp::now();
        let Some(until) = Backoff::until(Some(*backoff), *failed).filter(|until| *until > now) else { return false };
        let short = format!("Back-off pulling image \"{image}\"");
        let message = format!("{short}: ErrImagePull: {reason}");
        self.tell(pod, name, Kind::Normal, "BackOff", &short);
        self.refuse(pod, name, "ImagePullBackOff", message, until.duration_since(now));
        true
    }

    fn credentials(&self, pod: &Pod, image: &str) -> Vec<k8s_cri::v1::AuthConfig> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let names = self.spec(pod).image_pull_secrets.iter().flatten().map(|s| s.name.as_str());
        let secrets: Vec<_> = names.filter_map(|name| self.node.objects.secret(namespace, name)).collect();
        let secrets: Vec<_> = secrets.iter().map(AsRef::as_ref).collect();
        images::credentials(image, &secrets, &self.node.config.registries)
    }

    pub(super) fn image_found(&mut self, name: &str, attempt: u32, result: Result<String, String>) {
        self.memory.pulling.remove(name);
        self.pulls.remove(name);
        let pod = self.desired.borrow().pod.clone();
        let image = rules::definition(self.spec(&pod), name).and_then(|c| c.image.clone()).unwrap_or_default();
        match result {
            Ok(id) => {
                self.image_backoff.remove(&image);
                self.image_ready(name, attempt, id);
            }
            Err(reason) => {
                let (now, reason) = (Timestamp::now(), images::without_own_end(&reason));
                let known = self.memory.failures.get(name).is_some_and(|f| f.reason == "ImagePullBackOff");
                let backoff = Backoff::next(self.image_backoff.get(&image).map(|(b, _, _)| *b), now);
                let message = format!("failed to pull and unpack image \"{image}\": {reason}");
                let text = if reason.contains("failed to pull") { reason.clone() } else { message };
                self.image_backoff.insert(image.clone(), (backoff, now, reason));
                self.tell(&pod, name, Kind::Warning, "Failed", &format!("Failed to pull image \"{image}\": {text}"));
                if !(known && self.back_off(&pod, name, &image)) {
                    self.refuse(&pod, name, "ErrImagePull", text, SHOWN);
                }
            }
        }
    }

    /// Records why a container cannot be started, in its status and as an event.
    pub(super) fn refuse(&mut self, pod: &Pod, name: &str, reason: &str, message: String, wait: SignedDuration) {
        let event = match reason {
            "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" | "InvalidImageName" => {
                format!("Error: {reason}")
            }
            _ => format!("Error: {message}"),
        };
        self.tell(pod, name, Kind::Warning, "Failed", &event);
        let failure = Failure { reason: reason.to_owned(), message, retry: Timestamp::now() + wait };
        self.memory.failures.insert(name.to_owned(), failure);
    }

    /// An event about a container.
    pub(super) fn tell(&self, pod: &Pod, container: &str, kind: Kind, reason: &'static str, message: &str) {
        let init = pod.spec.as_ref().is_some_and(|s| rules::is_init(s, container));
        self.node.recorder.pod(&self.node.outbox, pod, Some((container, init)), kind, reason, message);
    }
}

/// A duration as Go prints it, to the millisecond.
fn go_seconds(duration: std::time::Duration) -> String {
    if duration.as_secs() == 0 {
        format!("{}ms", duration.as_millis())
    } else {
        format!("{:.3}s", duration.as_secs_f64())
    }
}
