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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_lead_to_their_volumes() {
        let spec: PodSpec = serde_yaml_ng::from_str(
            "{containers: [], volumes: [{name: e, emptyDir: {}}, {name: h, hostPath: {path: /srv}}, \
             {name: s, secret: {secretName: x}}, {name: n, nfs: {server: s, path: /}}]}",
        )
        .expect("a spec");
        for (name, mount, expect) in [
            ("empty", "name: e, mountPath: /a", "/p/volumes/kubernetes.io~empty-dir/e -> /a rw 0"),
            ("relative", "name: e, mountPath: a, readOnly: true", "/p/volumes/kubernetes.io~empty-dir/e -> /a ro 0"),
            ("the host's own path", "name: h, mountPath: /h", "/srv -> /h rw 0"),
            ("shared", "name: h, mountPath: /h, mountPropagation: Bidirectional", "/srv -> /h rw 2"),
            ("generated", "name: s, mountPath: /s", "/p/volumes/kubernetes.io~secret/s -> /s ro 0"),
            ("no such kind", "name: n, mountPath: /n", "volume kind is not supported by this node"),
            ("no such volume", "name: z, mountPath: /z", "volume \"z\" is not defined"),
            (
                "a way out",
                "name: e, mountPath: /a, subPath: ../x",
                "subPath \"../x\" must be a relative path without '..'",
            ),
            (
                "a way out by a variable",
                "name: e, mountPath: /a, subPathExpr: $(UP)/x",
                "subPath \"../x\" must be a relative path without '..'",
            ),
        ] {
            let container: Container =
                serde_yaml_ng::from_str(&format!("{{name: c, volumeMounts: [{{{mount}}}]}}")).expect("a container");
            let env = [("UP".to_owned(), "..".to_owned())];
            let got = mounts(Path::new("/p"), &spec, &container, &env).map(|mounts| {
                let show = |m: &Mount| {
                    let mode = if m.readonly { "ro" } else { "rw" };
                    format!("{} -> {} {mode} {}", m.host_path, m.container_path, m.propagation)
                };
                mounts.iter().map(show).collect::<Vec<_>>().join(" ")
            });
            assert_eq!(got.unwrap_or_else(|error| error), expect, "{name}");
        }
    }
}
