//! A container's `volumeMounts`, for the runtime.

use std::path::Path;

use k8s_cri::v1::{Mount, MountPropagation};
use k8s_openapi::api::core::v1::{Container, PodSpec, VolumeMount};
use kontiki_agent_plan::env;

use super::{
    pod_volumes::{SUBPATHS, content},
    subpath,
};

/// Prepares and lists the mounts of a container's volumes.
///
/// # Errors
/// A text for the container's `waiting` message.
pub(crate) fn mounts(
    pod_dir: &Path,
    spec: &PodSpec,
    container: &Container,
    env: &[(String, String)],
) -> Result<Vec<Mount>, String> {
    let all = container.volume_mounts.iter().flatten().enumerate();
    all.map(|(index, mount)| one(pod_dir, spec, container, env, index, mount)).collect()
}

fn one(
    pod_dir: &Path,
    spec: &PodSpec,
    container: &Container,
    env: &[(String, String)],
    index: usize,
    mount: &VolumeMount,
) -> Result<Mount, String> {
    let volume = spec.volumes.iter().flatten().find(|v| v.name == mount.name);
    let volume = volume.ok_or_else(|| format!("volume {:?} is not defined", mount.name))?;
    let (root, read_only) = content(pod_dir, volume)?;
    let host_path = match sub_path(mount, env)? {
        None => root,
        Some(path) => {
            let place = pod_dir.join(SUBPATHS).join(&volume.name);
            let target = place.join(&container.name).join(index.to_string());
            subpath::bind(&root, &path, &target).map_err(|e| {
                format!(
                    "failed to prepare subPath for volumeMount {:?} of container {:?}: {e}",
                    mount.name, container.name
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
        readonly: mount.read_only == Some(true) || read_only,
        propagation: propagation.into(),
        ..Mount::default()
    })
}

fn sub_path(mount: &VolumeMount, env: &[(String, String)]) -> Result<Option<String>, String> {
    let path = match (&mount.sub_path, &mount.sub_path_expr) {
        (Some(path), _) if !path.is_empty() => path.clone(),
        (_, Some(text)) if !text.is_empty() => {
            let lookup = |name: &str| env.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
            env::expand(text, lookup)
        }
        _ => return Ok(None),
    };
    let escapes = path.starts_with('/') || path.split('/').any(|part| part == "..");
    if escapes { Err(format!("subPath {path:?} must be a relative path without '..'")) } else { Ok(Some(path)) }
}
