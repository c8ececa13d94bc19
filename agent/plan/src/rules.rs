//! Rules about restarts and ends that the planner and the status share.

use std::borrow::Cow;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, EphemeralContainer, Pod, PodSpec};

use crate::{
    backoff::Backoff,
    observed::{self, Memory, Observed, State},
};

/// When a container is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    Always,
    OnFailure,
    Never,
}

/// How a pod ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodEnd {
    Succeeded,
    Failed,
    DeadlineExceeded,
}

fn parse(policy: Option<&str>) -> Option<Policy> {
    match policy? {
        "Always" => Some(Policy::Always),
        "OnFailure" => Some(Policy::OnFailure),
        "Never" => Some(Policy::Never),
        _ => None,
    }
}

/// Whether an init container keeps running beside the others.
#[must_use]
pub fn sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The restart policy of an init or regular container: its own, or the pod's. An init container that is no sidecar runs
/// until it succeeds.
fn policy(spec: &PodSpec, container: &Container) -> Policy {
    let own = parse(container.restart_policy.as_deref());
    let policy = own.or_else(|| parse(spec.restart_policy.as_deref())).unwrap_or(Policy::Always);
    let once = is_init(spec, &container.name) && !sidecar(container);
    if once && policy == Policy::Always { Policy::OnFailure } else { policy }
}

/// Whether a container that ended so is started again: the first of its own rules that fits the exit code says so
/// ([KEP-5307]), or its policy.
///
/// [KEP-5307]: https://kep.k8s.io/5307
#[must_use]
pub fn starts_again(spec: &PodSpec, container: &Container, exit_code: i32) -> bool {
    let fits = |rule: &&ContainerRestartRule| {
        let named = |values: &Option<Vec<i32>>| values.iter().flatten().any(|value| *value == exit_code);
        match rule.exit_codes.as_ref().map(|codes| (codes.operator.as_str(), named(&codes.values))) {
            Some(("In", named)) => named,
            Some(("NotIn", named)) => !named,
            _ => false,
        }
    };
    if let Some(rule) = container.restart_policy_rules.iter().flatten().find(fits) {
        return rule.action == "Restart";
    }
    match policy(spec, container) {
        Policy::Always => true,
        Policy::OnFailure => exit_code != 0,
        Policy::Never => false,
    }
}

/// Init containers, then regular ones.
pub fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

/// The ephemeral containers, as containers.
pub fn ephemeral(spec: &PodSpec) -> impl Iterator<Item = Container> {
    spec.ephemeral_containers.iter().flatten().map(as_container)
}

fn as_container(ephemeral: &EphemeralContainer) -> Container {
    let EphemeralContainer {
        args,
        command,
        env,
        env_from,
        image,
        image_pull_policy,
        lifecycle,
        liveness_probe,
        name,
        ports,
        readiness_probe,
        resize_policy,
        resources,
        restart_policy,
        restart_policy_rules,
        security_context,
        startup_probe,
        stdin,
        stdin_once,
        target_container_name: _,
        termination_message_path,
        termination_message_policy,
        tty,
        volume_devices,
        volume_mounts,
        working_dir,
    } = ephemeral.clone();
    Container {
        args,
        command,
        env,
        env_from,
        image,
        image_pull_policy,
        lifecycle,
        liveness_probe,
        name,
        ports,
        readiness_probe,
        resize_policy,
        resources,
        restart_policy,
        restart_policy_rules,
        security_context,
        startup_probe,
        stdin,
        stdin_once,
        termination_message_path,
        termination_message_policy,
        tty,
        volume_devices,
        volume_mounts,
        working_dir,
    }
}

/// The container whose processes an ephemeral one wants to see.
#[must_use]
pub fn target<'a>(spec: &'a PodSpec, name: &str) -> Option<&'a str> {
    let ephemeral = spec.ephemeral_containers.iter().flatten().find(|c| c.name == name)?;
    ephemeral.target_container_name.as_deref().filter(|target| !target.is_empty())
}

/// The definition of a container of any sort by name.
#[must_use]
pub fn definition<'a>(spec: &'a PodSpec, name: &str) -> Option<Cow<'a, Container>> {
    let lasting = containers(spec).find(|c| c.name == name).map(Cow::Borrowed);
    lasting.or_else(|| ephemeral(spec).find(|c| c.name == name).map(Cow::Owned))
}

/// The list of the pod's definition that holds a container.
#[must_use]
pub fn list_of(spec: &PodSpec, name: &str) -> &'static str {
    if is_init(spec, name) {
        "initContainers"
    } else if spec.ephemeral_containers.iter().flatten().any(|c| c.name == name) {
        "ephemeralContainers"
    } else {
        "containers"
    }
}

/// Whether `name` is an init container.
#[must_use]
pub fn is_init(spec: &PodSpec, name: &str) -> bool {
    spec.init_containers.iter().flatten().any(|c| c.name == name)
}

/// Whether a container that is seen so should be started (again).
#[must_use]
pub fn should_start(spec: &PodSpec, container: &Container, latest: Option<&observed::Container>) -> bool {
    match latest {
        None => true,
        Some(latest) => match latest.state {
            State::Running | State::Unknown => false,
            State::Created => true,
            State::Exited => starts_again(spec, container, latest.exit_code),
        },
    }
}

/// How the pod ended. `None`: it has not.
#[must_use]
pub fn outcome(pod: &Pod, seen: &Observed, now: Timestamp) -> Option<PodEnd> {
    match pod.status.as_ref().and_then(|s| s.phase.as_deref()) {
        Some("Succeeded") => return Some(PodEnd::Succeeded),
        Some("Failed") => return Some(PodEnd::Failed),
        _ => {}
    }
    let spec = pod.spec.as_ref()?;
    if active_deadline(pod).is_some_and(|deadline| now >= deadline) {
        return Some(PodEnd::DeadlineExceeded);
    }
    let init_failed = |c: &Container| {
        let latest = seen.latest(&c.name).filter(|s| s.state == State::Exited && s.exit_code != 0);
        !sidecar(c) && latest.is_some_and(|s| !starts_again(spec, c, s.exit_code))
    };
    if spec.init_containers.iter().flatten().any(init_failed) {
        return Some(PodEnd::Failed);
    }
    let mut failed = false;
    for container in &spec.containers {
        let latest = seen.latest(&container.name)?;
        if latest.state != State::Exited || should_start(spec, container, Some(latest)) {
            return None;
        }
        failed |= latest.exit_code != 0;
    }
    Some(if failed { PodEnd::Failed } else { PodEnd::Succeeded })
}

/// When `activeDeadlineSeconds` runs out.
#[must_use]
pub fn active_deadline(pod: &Pod) -> Option<Timestamp> {
    let seconds = pod.spec.as_ref()?.active_deadline_seconds?;
    let started = pod.status.as_ref()?.start_time.as_ref()?.0;
    started.checked_add(SignedDuration::from_secs(seconds)).ok()
}

/// Until when a crashed container stays down. `None`: it may start now.
#[must_use]
pub fn crash_until(memory: &Memory, latest: &observed::Container, now: Timestamp) -> Option<Timestamp> {
    if latest.state != State::Exited {
        return None;
    }
    let backoff = memory.restarts.get(&latest.name).copied();
    Backoff::until(backoff, latest.finished.unwrap_or(latest.created)).filter(|until| *until > now)
}

/// The grace period that the pod's definition grants.
#[must_use]
pub fn grace(pod: &Pod) -> SignedDuration {
    let seconds = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(30);
    SignedDuration::from_secs(seconds.clamp(0, i64::from(i32::MAX)))
}

/// Changes when the container must be replaced: its image is the one mutable part.
#[must_use]
pub fn definition_hash(container: &Container) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let image = container.image.as_deref().unwrap_or("");
    for byte in container.name.bytes().chain([0]).chain(image.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{hash:x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    #[test]
    fn rules_of_a_container_come_before_policies() {
        let rules = "[{action: Restart, exitCodes: {operator: In, values: [42]}}, \
                     {action: Restart, exitCodes: {operator: NotIn, values: [0, 1, 42]}}]";
        let ruled = format!("restartPolicy: Never, restartPolicyRules: {rules}");
        for (name, pod_policy, own, expect) in [
            ("the pod's", "Always", "", [true, true, true, true]),
            ("the pod's", "OnFailure", "", [false, true, true, true]),
            ("the container's own", "Always", "restartPolicy: OnFailure", [false, true, true, true]),
            ("the container's own", "Always", "restartPolicy: Never", [false; 4]),
            ("by rule", "Always", ruled.as_str(), [false, false, true, true]),
        ] {
            let pod = pod(&format!("restartPolicy: {pod_policy}, containers: [{{name: a, {own}}}]"));
            let spec = pod.spec.expect("a spec");
            let got = [0, 1, 42, 7].map(|code| starts_again(&spec, &spec.containers[0], code));
            assert_eq!(got, expect, "{name} {pod_policy} {own}");
        }
        let pod =
            pod("restartPolicy: Always, initContainers: [{name: i}, {name: s, restartPolicy: Always}], containers: []");
        let spec = pod.spec.expect("a spec");
        let init = spec.init_containers.as_ref().expect("init containers");
        assert!(
            !starts_again(&spec, &init[0], 0) && starts_again(&spec, &init[0], 1) && starts_again(&spec, &init[1], 0)
        );
    }

    #[test]
    fn an_ephemeral_container_is_found_by_name() {
        let pod = pod("containers: [{name: a}], ephemeralContainers: [{name: d, image: i, targetContainerName: a}]");
        let spec = pod.spec.expect("a spec");
        assert_eq!(definition(&spec, "d").and_then(|c| c.image.clone()).as_deref(), Some("i"));
        assert_eq!((target(&spec, "d"), target(&spec, "a")), (Some("a"), None));
        assert_eq!((list_of(&spec, "d"), list_of(&spec, "a")), ("ephemeralContainers", "containers"));
    }
}
