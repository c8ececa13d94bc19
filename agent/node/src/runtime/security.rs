//! Users, namespaces, capabilities and profiles of sandboxes and containers.

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext};
use kontiki_agent_plan::rules;

/// kubelet's defaults for a container that may not see all of /proc.
const MASKED: [&str; 10] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn text(field: &Option<String>) -> String {
    field.clone().unwrap_or_default()
}

fn namespaces(spec: &PodSpec) -> cri::NamespaceOption {
    let pick = |host: Option<bool>, otherwise| if host == Some(true) { cri::NamespaceMode::Node } else { otherwise };
    let shared = spec.share_process_namespace == Some(true);
    let own = if shared { cri::NamespaceMode::Pod } else { cri::NamespaceMode::Container };
    cri::NamespaceOption {
        network: pick(spec.host_network, cri::NamespaceMode::Pod).into(),
        // The protocol's default is to share the sandbox's; Kubernetes' is not to.
        pid: pick(spec.host_pid, own).into(),
        ipc: pick(spec.host_ipc, cri::NamespaceMode::Pod).into(),
        ..cri::NamespaceOption::default()
    }
}

fn int(value: Option<i64>) -> Option<cri::Int64Value> {
    value.map(|value| cri::Int64Value { value })
}

fn groups(security: Option<&PodSecurityContext>) -> Vec<i64> {
    let Some(security) = security else { return Vec::new() };
    security.fs_group.into_iter().chain(security.supplemental_groups.iter().flatten().copied()).collect()
}

fn profile(of: cri::security_profile::ProfileType, local: &str) -> cri::SecurityProfile {
    cri::SecurityProfile { profile_type: of.into(), localhost_ref: local.to_owned() }
}

/// What a sandbox may do.
pub(crate) fn of_sandbox(spec: &PodSpec) -> cri::LinuxSandboxSecurityContext {
    let pod = spec.security_context.as_ref();
    let privileged = |c: &Container| c.security_context.as_ref().is_some_and(|s| s.privileged == Some(true));
    cri::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(spec)),
        run_as_user: int(pod.and_then(|p| p.run_as_user)),
        run_as_group: int(pod.filter(|p| p.run_as_user.is_some()).and_then(|p| p.run_as_group)),
        supplemental_groups: groups(pod),
        privileged: rules::containers(spec).any(privileged),
        seccomp: Some(profile(cri::security_profile::ProfileType::RuntimeDefault, "")),
        ..cri::LinuxSandboxSecurityContext::default()
    }
}

fn seccomp(of: Option<&SeccompProfile>) -> cri::SecurityProfile {
    use cri::security_profile::ProfileType::{Localhost, RuntimeDefault, Unconfined};
    match of.map(|p| (p.type_.as_str(), p.localhost_profile.as_deref().unwrap_or_default())) {
        Some(("RuntimeDefault", _)) => profile(RuntimeDefault, ""),
        Some(("Localhost", path)) => profile(Localhost, path),
        _ => profile(Unconfined, ""),
    }
}

/// What a container may do.
pub(crate) fn of_container(
    spec: &PodSpec,
    container: &Container,
    target: Option<String>,
) -> cri::LinuxContainerSecurityContext {
    let mut namespaces = namespaces(spec);
    // Where the pod shares its processes anyway, there is nobody to aim at.
    if let (Some(target), cri::NamespaceMode::Container) = (target, namespaces.pid()) {
        namespaces.set_pid(cri::NamespaceMode::Target);
        namespaces.target_id = target;
    }
    let pod = spec.security_context.clone().unwrap_or_default();
    let own: SecurityContext = container.security_context.clone().unwrap_or_default();
    let privileged = own.privileged == Some(true);
    let user = own.run_as_user.or(pod.run_as_user);
    let unmasked = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let list = |paths: &[&str]| if unmasked { Vec::new() } else { paths.iter().map(|p| (*p).to_owned()).collect() };
    let capabilities = own.capabilities.unwrap_or_default();
    let profile = own.seccomp_profile.as_ref().or(pod.seccomp_profile.as_ref());
    cri::LinuxContainerSecurityContext {
        capabilities: Some(cri::Capability {
            add_capabilities: capabilities.add.unwrap_or_default(),
            drop_capabilities: capabilities.drop.unwrap_or_default(),
            add_ambient_capabilities: Vec::new(),
        }),
        privileged,
        namespace_options: Some(namespaces),
        run_as_user: int(user),
        // The runtime refuses a group without a user.
        run_as_group: int(own.run_as_group.or(pod.run_as_group).filter(|_| user.is_some())),
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: groups(spec.security_context.as_ref()),
        no_new_privs: own.allow_privilege_escalation == Some(false) && !privileged,
        masked_paths: list(&MASKED),
        readonly_paths: list(&READ_ONLY),
        seccomp: Some(if privileged { seccomp(None) } else { seccomp(profile) }),
        ..cri::LinuxContainerSecurityContext::default()
    }
}

/// Whether a container that must not run as root would.
///
/// # Errors
/// kubelet's words for why it is not created.
pub(crate) fn check_user(pod: &Pod, spec: &PodSpec, container: &Container, image: &cri::Image) -> Result<(), String> {
    let pod_context = spec.security_context.clone().unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    if own.run_as_non_root.or(pod_context.run_as_non_root) != Some(true) {
        return Ok(());
    }
    let place = format!(
        "(pod: \"{}_{}({})\", container: {})",
        text(&pod.metadata.name),
        text(&pod.metadata.namespace),
        text(&pod.metadata.uid),
        container.name
    );
    match own.run_as_user.or(pod_context.run_as_user) {
        Some(0) => return Err(format!("container's runAsUser breaks non-root policy {place}")),
        Some(_) => return Ok(()),
        None => {}
    }
    match (&image.uid, image.username.as_str()) {
        (Some(uid), _) if uid.value != 0 => Ok(()),
        (None, name) if !name.is_empty() => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {place}"
        )),
        _ => Err(format!("container has runAsNonRoot and image will run as root {place}")),
    }
}
