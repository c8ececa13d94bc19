//! The mounts of one container: its volumes and the files that every container gets.

use std::{
    net::IpAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use k8s_cri::v1::Mount;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use crate::{node::Node, runtime, volumes::volume_mounts};

const HOSTS: &str = "/etc/hosts";
const TERMINATION_LOG: &str = "/dev/termination-log";

/// What a container's mounts are made from.
pub(super) struct Context<'a> {
    pub(super) node: &'a Node,
    pub(super) pod: &'a Pod,
    pub(super) spec: &'a PodSpec,
    pub(super) container: &'a Container,
    pub(super) attempt: u32,
    pub(super) env: &'a [(String, String)],
    pub(super) ips: &'a [IpAddr],
}

/// Prepares and lists the mounts.
///
/// # Errors
/// A text for the container's `waiting` message.
pub(super) fn mounts(context: &Context<'_>) -> Result<Vec<Mount>, String> {
    let uid = context.pod.metadata.uid.as_deref().unwrap_or_default();
    let pod_dir = context.node.config.pod_dir(uid);
    let mut out = volume_mounts::mounts(&pod_dir, context.spec, context.container, context.env)?;
    let taken = |path: &str| context.container.volume_mounts.iter().flatten().any(|m| m.mount_path == path);
    if !taken(HOSTS) {
        let path = pod_dir.join("etc-hosts");
        write_hosts(&path, context).map_err(|e| format!("writing {}: {e}", path.display()))?;
        out.push(file_mount(HOSTS, &path));
    }
    let log = termination_log(&pod_dir, &context.container.name, context.attempt);
    prepare_log(&log).map_err(|e| format!("creating {}: {e}", log.display()))?;
    let target = context.container.termination_message_path.as_deref().unwrap_or(TERMINATION_LOG);
    out.push(file_mount(target, &log));
    Ok(out)
}

/// Where the termination message of an attempt is written.
pub(super) fn termination_log(pod_dir: &Path, container: &str, attempt: u32) -> PathBuf {
    pod_dir.join("containers").join(container).join(attempt.to_string())
}

fn prepare_log(path: &Path) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(path, [])?;
    // Any user of the container may leave a message.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))
}

fn file_mount(container_path: &str, host_path: &Path) -> Mount {
    Mount { container_path: container_path.to_owned(), host_path: host_path.display().to_string(), ..Mount::default() }
}

/// Rewritten for each container, so that a new sandbox's address is right.
fn write_hosts(path: &Path, context: &Context<'_>) -> std::io::Result<()> {
    let text = hosts_file(context);
    if std::fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    std::fs::write(path, text)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
}

fn hosts_file(context: &Context<'_>) -> String {
    let mut out = if context.spec.host_network == Some(true) {
        let host = std::fs::read_to_string(HOSTS).unwrap_or_default();
        format!("# Kubernetes-managed hosts file (host network).\n{host}")
    } else {
        let mut out = String::from(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        );
        let (hostname, domain) = runtime::hostname(context.node.settings(), context.pod, context.spec);
        for ip in context.ips {
            let full = domain.as_ref().map(|d| format!("{hostname}.{d}\t")).unwrap_or_default();
            out.push_str(&format!("{ip}\t{full}{hostname}\n"));
        }
        out
    };
    let aliases: Vec<_> = context.spec.host_aliases.iter().flatten().collect();
    if !aliases.is_empty() {
        out.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in aliases {
        let names = alias.hostnames.iter().flatten().map(String::as_str).collect::<Vec<_>>().join("\t");
        out.push_str(&format!("{}\t{names}\n", alias.ip));
    }
    out
}
