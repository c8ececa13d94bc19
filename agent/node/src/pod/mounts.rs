//! The mounts of one container: its volumes and the files that every container gets.

use std::{
    net::IpAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use k8s_cri::v1::{Mount, MountPropagation};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, VolumeMount};
use kontiki_agent_plan::{env, volumes as plan};

use super::{subpath, volume_dir};
use crate::node::Node;

const HOSTS: &str = "/etc/hosts";
const TERMINATION_LOG: &str = "/dev/termination-log";

/// What a container's mounts are made from.
pub struct Context<'a> {
    pub node: &'a Node,
    pub pod: &'a Pod,
    pub spec: &'a PodSpec,
    pub container: &'a Container,
    pub attempt: u32,
    pub env: &'a [(String, String)],
    pub ips: &'a [IpAddr],
}

/// Prepares and lists the mounts.
///
/// # Errors
/// A text for the container's `waiting` message.
pub fn mounts(context: &Context<'_>) -> Result<Vec<Mount>, String> {
    let uid = context.pod.metadata.uid.as_deref().unwrap_or_default();
    let mut out = Vec::new();
    for (index, mount) in context.container.volume_mounts.iter().flatten().enumerate() {
        out.push(volume_mount(context, uid, index, mount)?);
    }
    let pod_dir = context.node.config.pod_dir(uid);
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
#[must_use]
pub fn termination_log(pod_dir: &Path, container: &str, attempt: u32) -> PathBuf {
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

fn volume_mount(context: &Context<'_>, uid: &str, index: usize, mount: &VolumeMount) -> Result<Mount, String> {
    let volume = context.spec.volumes.iter().flatten().find(|v| v.name == mount.name);
    let volume = volume.ok_or_else(|| format!("volume {:?} is not defined", mount.name))?;
    let source = plan::source(volume).map_err(|e| e.to_string())?;
    let root = match &source {
        plan::Source::Host { path, .. } => PathBuf::from(path),
        _ => volume_dir(context.node, uid, &volume.name, &source),
    };
    let host_path = match sub_path(context, mount)? {
        None => root,
        Some(path) => {
            let place = context.node.config.pod_dir(uid).join("volume-subpaths").join(&volume.name);
            let target = place.join(&context.container.name).join(index.to_string());
            subpath::bind(&root, &path, &target).map_err(|e| {
                format!(
                    "failed to prepare subPath for volumeMount {:?} of container {:?}: {e}",
                    mount.name, context.container.name
                )
            })?
        }
    };
    let propagation = match mount.mount_propagation.as_deref() {
        Some("Bidirectional") => MountPropagation::PropagationBidirectional,
        Some("HostToContainer") => MountPropagation::PropagationHostToContainer,
        _ => MountPropagation::PropagationPrivate,
    };
    let container_path =
        if mount.mount_path.starts_with('/') { mount.mount_path.clone() } else { format!("/{}", mount.mount_path) };
    Ok(Mount {
        container_path,
        host_path: host_path.display().to_string(),
        // Generated files are the node's to change.
        readonly: mount.read_only == Some(true) || matches!(source, plan::Source::Files { .. }),
        propagation: propagation.into(),
        ..Mount::default()
    })
}

fn sub_path(context: &Context<'_>, mount: &VolumeMount) -> Result<Option<String>, String> {
    let path = match (&mount.sub_path, &mount.sub_path_expr) {
        (Some(path), _) if !path.is_empty() => path.clone(),
        (_, Some(text)) if !text.is_empty() => {
            let lookup = |name: &str| context.env.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
            env::expand(text, lookup)
        }
        _ => return Ok(None),
    };
    let escapes = path.starts_with('/') || path.split('/').any(|part| part == "..");
    if escapes { Err(format!("subPath {path:?} must be a relative path without '..'")) } else { Ok(Some(path)) }
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
        let (hostname, domain) = crate::runtime_config::hostname(context.node, context.pod, context.spec);
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
