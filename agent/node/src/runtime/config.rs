//! Pods and containers in the runtime's words.
//!
//! Invariants
//! - Labels and annotations are kubelet's, so that tools that look at containerd find what they
//!   expect, and so that a restarted agent recognizes its pods.
//! - Nothing here asks the runtime or writes a file.

use std::{collections::BTreeMap, collections::HashMap, net::IpAddr};

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext};
use kontiki_agent_plan::{
    env,
    resources::{self, Qos},
    rules,
    services::Protocol,
};

use crate::node::Node;

pub const POD_NAME: &str = "io.kubernetes.pod.name";
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub const POD_UID: &str = "io.kubernetes.pod.uid";
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
pub const HASH: &str = "io.kubernetes.container.hash";
const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

const MAX_HOSTNAME: usize = 63;
const MAX_NAMESERVERS: usize = 3;

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

fn pod_labels(pod: &Pod) -> HashMap<String, String> {
    [
        (POD_NAME.to_owned(), text(&pod.metadata.name)),
        (POD_NAMESPACE.to_owned(), text(&pod.metadata.namespace)),
        (POD_UID.to_owned(), text(&pod.metadata.uid)),
    ]
    .into()
}

/// Directory of a pod's logs, below the log directory.
#[must_use]
pub fn log_dir_name(pod: &Pod) -> String {
    let meta = &pod.metadata;
    format!("{}_{}_{}", text(&meta.namespace), text(&meta.name), text(&meta.uid))
}

/// The pod's host name, and its domain if it has one.
#[must_use]
pub fn hostname(node: &Node, pod: &Pod, spec: &PodSpec) -> (String, Option<String>) {
    if let Some(name) = spec.hostname_override.as_ref().filter(|n| !n.is_empty()) {
        return (name.clone(), None);
    }
    let own = spec.hostname.clone().filter(|h| !h.is_empty());
    let mut name = own.unwrap_or_else(|| text(&pod.metadata.name));
    if name.len() > MAX_HOSTNAME {
        name.truncate(MAX_HOSTNAME);
        name.truncate(name.trim_end_matches(['-', '.']).len());
    }
    let namespace = text(&pod.metadata.namespace);
    let subdomain = spec.subdomain.as_ref().filter(|s| !s.is_empty());
    (name, subdomain.map(|s| format!("{s}.{namespace}.svc.{}", node.cluster.cluster_domain)))
}

/// Everything the runtime needs to make the pod's sandbox.
#[must_use]
pub fn sandbox(node: &Node, pod: &Pod, spec: &PodSpec, attempt: u32) -> cri::PodSandboxConfig {
    let host_network = spec.host_network == Some(true);
    let (mut name, domain) = hostname(node, pod, spec);
    if spec.set_hostname_as_fqdn == Some(true)
        && let Some(domain) = domain
    {
        name = format!("{name}.{domain}");
    }
    let uid = text(&pod.metadata.uid);
    let mut labels = pod_labels(pod);
    labels.extend(pod.metadata.labels.clone().unwrap_or_default());
    let mut annotations: HashMap<_, _> = pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect();
    annotations.insert("kubernetes.io/config.source".to_owned(), "api".to_owned());
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: text(&pod.metadata.name),
            uid: uid.clone(),
            namespace: text(&pod.metadata.namespace),
            attempt,
        }),
        // The runtime refuses a name where there is no namespace to set it in.
        hostname: if host_network { String::new() } else { name },
        log_directory: node.config.logs().join(log_dir_name(pod)).display().to_string(),
        dns_config: dns(node, pod, spec),
        port_mappings: if host_network { Vec::new() } else { port_mappings(spec) },
        labels,
        annotations,
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: Qos::of(spec).cgroup_parent(&uid),
            security_context: Some(sandbox_security(spec)),
            sysctls: sysctls(spec),
            ..cri::LinuxPodSandboxConfig::default()
        }),
        windows: None,
    }
}

fn sysctls(spec: &PodSpec) -> HashMap<String, String> {
    let sysctls = spec.security_context.as_ref().and_then(|s| s.sysctls.as_ref());
    sysctls.into_iter().flatten().map(|s| (s.name.replace('/', "."), s.value.clone())).collect()
}

fn port_mappings(spec: &PodSpec) -> Vec<cri::PortMapping> {
    let ports = rules::containers(spec).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let host_port = port.host_port.filter(|p| *p > 0)?;
            let protocol = match Protocol::from_api(port.protocol.as_deref())? {
                Protocol::Tcp => cri::Protocol::Tcp,
                Protocol::Udp => cri::Protocol::Udp,
                Protocol::Sctp => cri::Protocol::Sctp,
            };
            Some(cri::PortMapping {
                protocol: protocol.into(),
                container_port: port.container_port,
                host_port,
                host_ip: text(&port.host_ip),
            })
        })
        .collect()
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

fn sandbox_security(spec: &PodSpec) -> cri::LinuxSandboxSecurityContext {
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

/// Name servers and search domains by the pod's policy.
fn dns(node: &Node, pod: &Pod, spec: &PodSpec) -> Option<cri::DnsConfig> {
    let host_network = spec.host_network == Some(true);
    let mut out = match (spec.dns_policy.as_deref().unwrap_or("ClusterFirst"), node.config.cluster_dns) {
        ("None", _) => cri::DnsConfig::default(),
        ("ClusterFirstWithHostNet", Some(server)) => cluster_dns(node, pod, server),
        ("ClusterFirst", Some(server)) if !host_network => cluster_dns(node, pod, server),
        _ => host_dns(),
    };
    if let Some(own) = &spec.dns_config {
        add_unique(&mut out.servers, own.nameservers.iter().flatten().cloned());
        add_unique(&mut out.searches, own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let name = text(&option.name);
            out.options.retain(|known| known.split(':').next() != Some(name.as_str()));
            out.options
                .push(option.value.as_ref().filter(|v| !v.is_empty()).map_or(name.clone(), |v| format!("{name}:{v}")));
        }
    }
    out.servers.truncate(MAX_NAMESERVERS);
    Some(out)
}

fn add_unique(list: &mut Vec<String>, more: impl Iterator<Item = String>) {
    for item in more {
        if !list.contains(&item) {
            list.push(item);
        }
    }
}

fn cluster_dns(node: &Node, pod: &Pod, server: IpAddr) -> cri::DnsConfig {
    let domain = &node.cluster.cluster_domain;
    let mut searches =
        vec![format!("{}.svc.{domain}", text(&pod.metadata.namespace)), format!("svc.{domain}"), domain.clone()];
    add_unique(&mut searches, host_dns().searches.into_iter());
    cri::DnsConfig { servers: vec![server.to_string()], searches, options: vec!["ndots:5".to_owned()] }
}

/// The machine's own resolver settings.
fn host_dns() -> cri::DnsConfig {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let mut out = cri::DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => out.servers.extend(words.next().map(str::to_owned)),
            Some("search") => out.searches = words.map(str::to_owned).collect(),
            Some("options") => out.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    out
}

/// What a container's configuration is made from.
pub struct Given<'a> {
    pub node: &'a Node,
    pub pod: &'a Pod,
    pub spec: &'a PodSpec,
    pub container: &'a Container,
    pub attempt: u32,
    pub image: &'a str,
    pub env: Vec<(String, String)>,
    pub mounts: Vec<cri::Mount>,
}

/// Everything the runtime needs to make a container.
#[must_use]
pub fn container(given: Given<'_>) -> cri::ContainerConfig {
    let Given { node, pod, spec, container, attempt, image, env, mounts } = given;
    let lookup = |name: &str| env.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    let expand = |list: &Option<Vec<String>>| list.iter().flatten().map(|t| env::expand(t, lookup)).collect::<Vec<_>>();
    let mut labels = pod_labels(pod);
    labels.insert(CONTAINER_NAME.to_owned(), container.name.clone());
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: container.name.clone(), attempt }),
        image: Some(cri::ImageSpec {
            image: image.to_owned(),
            user_specified_image: text(&container.image),
            ..cri::ImageSpec::default()
        }),
        command: expand(&container.command),
        args: expand(&container.args),
        working_dir: text(&container.working_dir),
        envs: env.iter().map(|(key, value)| cri::KeyValue { key: key.clone(), value: value.clone() }).collect(),
        mounts,
        labels,
        annotations: annotations(spec, container, attempt),
        log_path: format!("{}/{attempt}.log", container.name),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(cgroup(node, spec, container)),
            security_context: Some(security(spec, container)),
        }),
        ..cri::ContainerConfig::default()
    }
}

fn annotations(spec: &PodSpec, container: &Container, attempt: u32) -> HashMap<String, String> {
    let own: BTreeMap<&str, String> = [
        (HASH, rules::definition_hash(container)),
        (RESTART_COUNT, attempt.to_string()),
        (MESSAGE_PATH, container.termination_message_path.clone().unwrap_or_else(|| "/dev/termination-log".to_owned())),
        (MESSAGE_POLICY, container.termination_message_policy.clone().unwrap_or_else(|| "File".to_owned())),
        (GRACE, spec.termination_grace_period_seconds.unwrap_or(30).to_string()),
    ]
    .into();
    own.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn cgroup(node: &Node, spec: &PodSpec, container: &Container) -> cri::LinuxContainerResources {
    let values = resources::cgroup(spec, container, node.host.memory);
    cri::LinuxContainerResources {
        cpu_shares: values.cpu_shares,
        cpu_quota: values.cpu_quota,
        cpu_period: if values.cpu_quota > 0 { resources::PERIOD } else { 0 },
        memory_limit_in_bytes: values.memory_limit,
        // No swap beyond the limit.
        memory_swap_limit_in_bytes: values.memory_limit,
        oom_score_adj: values.oom_score_adj,
        ..cri::LinuxContainerResources::default()
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

fn security(spec: &PodSpec, container: &Container) -> cri::LinuxContainerSecurityContext {
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
        namespace_options: Some(namespaces(spec)),
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
pub fn check_user(pod: &Pod, spec: &PodSpec, container: &Container, image: &cri::Image) -> Result<(), String> {
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
