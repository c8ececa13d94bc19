//! A container in the runtime's words.
//!
//! Invariants
//! - Nothing here asks the runtime or writes a file.

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use kontiki_agent_plan::{env, resources};

use super::{labels, security};

/// What a container's configuration is made from.
pub(crate) struct Given<'a> {
    /// Of the machine, in bytes.
    pub(crate) node_memory: u64,
    pub(crate) pod: &'a Pod,
    pub(crate) spec: &'a PodSpec,
    pub(crate) container: &'a Container,
    pub(crate) attempt: u32,
    pub(crate) image: &'a str,
    /// The container whose processes this one shares.
    pub(crate) target: Option<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) mounts: Vec<cri::Mount>,
}

/// Everything the runtime needs to make a container.
pub(crate) fn container(given: Given<'_>) -> cri::ContainerConfig {
    let Given { node_memory, pod, spec, container, attempt, image, target, env, mounts } = given;
    let lookup = |name: &str| env.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    let expand = |list: &Option<Vec<String>>| list.iter().flatten().map(|t| env::expand(t, lookup)).collect::<Vec<_>>();
    let mut all = labels::of_pod(pod);
    all.insert(labels::CONTAINER_NAME.to_owned(), container.name.clone());
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: container.name.clone(), attempt }),
        image: Some(cri::ImageSpec {
            image: image.to_owned(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..cri::ImageSpec::default()
        }),
        command: expand(&container.command),
        args: expand(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: env.iter().map(|(key, value)| cri::KeyValue { key: key.clone(), value: value.clone() }).collect(),
        mounts,
        labels: all,
        annotations: labels::annotations(spec, container, attempt),
        log_path: format!("{}/{attempt}.log", container.name),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(cgroup(node_memory, spec, container)),
            security_context: Some(security::of_container(spec, container, target)),
        }),
        ..cri::ContainerConfig::default()
    }
}

/// The cgroup values of a container.
pub(crate) fn cgroup(node_memory: u64, spec: &PodSpec, container: &Container) -> cri::LinuxContainerResources {
    let values = resources::cgroup(spec, container, node_memory);
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
