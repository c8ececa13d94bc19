//! What lies in a pod's volumes: where each mount comes from and the files of the generated ones.
//!
//! Invariants
//! - A path of a generated file is relative and never leaves its volume.
//! - Only the volume kinds named in [`Source`] exist; another kind is an error, never an empty
//!   directory.
//!
//! Not here: mounts and writing (the agent's volume code).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, Secret, Volume, VolumeProjection,
};
use kontiki_model::Quantity;

use crate::{
    env::Sources,
    field::{self, FieldError, Place},
};

/// Mode of generated files unless told otherwise.
pub const DEFAULT_MODE: u32 = 0o644;

/// What a volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// An empty directory: on disk, or in memory with a size.
    Empty { memory: Option<Option<u64>> },
    /// A path of the host, with the `type` that it must have.
    Host { path: String, kind: String },
    /// Files computed from objects; `memory` keeps them off the disk.
    Files { kind: FileKind, memory: bool },
}

/// Which generated volume: it names the directory, as kubelet's plugins do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    ConfigMap,
    Secret,
    Downward,
    Projected,
}

impl Source {
    /// The directory of volumes of this kind below `volumes/` in the pod's directory.
    #[must_use]
    pub fn plugin(&self) -> &'static str {
        match self {
            Self::Empty { .. } => "kubernetes.io~empty-dir",
            Self::Host { .. } => "kubernetes.io~host-path",
            Self::Files { kind: FileKind::ConfigMap, .. } => "kubernetes.io~configmap",
            Self::Files { kind: FileKind::Secret, .. } => "kubernetes.io~secret",
            Self::Files { kind: FileKind::Downward, .. } => "kubernetes.io~downward-api",
            Self::Files { kind: FileKind::Projected, .. } => "kubernetes.io~projected",
        }
    }
}

/// A generated file.
#[derive(Clone, PartialEq, Eq)]
pub struct File {
    pub data: Vec<u8>,
    pub mode: u32,
}

impl std::fmt::Debug for File {
    /// The content may be secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes, mode {:o}", self.data.len(), self.mode)
    }
}

/// A token that a projected volume must hold; the shell asks a master for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenFile {
    pub path: String,
    pub audience: String,
    pub expiration_seconds: i64,
    pub mode: u32,
}

/// The files of one generated volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    pub files: BTreeMap<String, File>,
    pub tokens: Vec<TokenFile>,
}

/// A volume cannot be filled. The text is for the `FailedMount` event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VolumeError {
    #[error("configmap \"{0}\" not found")]
    NoConfigMap(String),
    #[error("secret \"{0}\" not found")]
    NoSecret(String),
    #[error("references non-existent {kind} key: {key}")]
    NoKey { kind: &'static str, key: String },
    #[error("volume kind is not supported by this node")]
    Unsupported,
    #[error("invalid path {0:?}")]
    Path(String),
    #[error("{0}")]
    Field(#[from] FieldError),
}

impl VolumeError {
    /// Whether an object that may yet arrive would help.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::NoConfigMap(_) | Self::NoSecret(_) | Self::NoKey { .. })
    }
}

/// What `volume` is.
///
/// # Errors
/// [`VolumeError::Unsupported`] for kinds that this node cannot mount.
pub fn source(volume: &Volume) -> Result<Source, VolumeError> {
    if let Some(empty) = &volume.empty_dir {
        let size = empty.size_limit.as_ref().and_then(|q| q.0.parse::<Quantity>().ok()).map(Quantity::units);
        let size = size.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0);
        return Ok(Source::Empty { memory: (empty.medium.as_deref() == Some("Memory")).then_some(size) });
    }
    if let Some(host) = &volume.host_path {
        return Ok(Source::Host { path: host.path.clone(), kind: host.type_.clone().unwrap_or_default() });
    }
    let (kind, memory) = if volume.config_map.is_some() {
        (FileKind::ConfigMap, false)
    } else if volume.secret.is_some() {
        (FileKind::Secret, true)
    } else if volume.downward_api.is_some() {
        (FileKind::Downward, false)
    } else if volume.projected.is_some() {
        // It may hold tokens and secrets.
        (FileKind::Projected, true)
    } else {
        return Err(VolumeError::Unsupported);
    };
    Ok(Source::Files { kind, memory })
}

/// The files of a generated volume. Empty for other kinds.
///
/// # Errors
/// The first thing missing that is not optional.
pub fn payload(pod: &Pod, volume: &Volume, place: &Place, sources: &dyn Sources) -> Result<Payload, VolumeError> {
    let mut out = Payload::default();
    let mode = |mode: Option<i32>| mode.and_then(|m| u32::try_from(m).ok()).unwrap_or(DEFAULT_MODE) & 0o777;
    if let Some(map) = &volume.config_map {
        let object = sources.config_map(&map.name);
        add_config_map(&mut out, object, &map.name, map.items.as_deref(), map.optional, mode(map.default_mode))?;
    } else if let Some(secret) = &volume.secret {
        let name = secret.secret_name.as_deref().unwrap_or_default();
        add_secret(
            &mut out,
            sources.secret(name),
            name,
            secret.items.as_deref(),
            secret.optional,
            mode(secret.default_mode),
        )?;
    } else if let Some(downward) = &volume.downward_api {
        add_downward(&mut out, pod, place, downward.items.as_deref(), mode(downward.default_mode))?;
    } else if let Some(projected) = &volume.projected {
        add_projected(&mut out, pod, place, sources, projected, mode(projected.default_mode))?;
    }
    for path in out.files.keys().chain(out.tokens.iter().map(|t| &t.path)) {
        if !safe(path) {
            return Err(VolumeError::Path(path.clone()));
        }
    }
    Ok(out)
}

/// Relative, without `..`, and not in the way of the atomic writer's own names.
fn safe(path: &str) -> bool {
    !path.is_empty()
        && !path.starts_with('/')
        && path.split('/').all(|part| !part.is_empty() && part != "." && !part.starts_with(".."))
}

fn add_projected(
    out: &mut Payload,
    pod: &Pod,
    place: &Place,
    sources: &dyn Sources,
    projected: &ProjectedVolumeSource,
    mode: u32,
) -> Result<(), VolumeError> {
    for VolumeProjection { config_map, secret, downward_api, service_account_token, cluster_trust_bundle, .. } in
        projected.sources.iter().flatten()
    {
        if let Some(map) = config_map {
            add_config_map(out, sources.config_map(&map.name), &map.name, map.items.as_deref(), map.optional, mode)?;
        } else if let Some(secret) = secret {
            let object = sources.secret(&secret.name);
            add_secret(out, object, &secret.name, secret.items.as_deref(), secret.optional, mode)?;
        } else if let Some(downward) = downward_api {
            add_downward(out, pod, place, downward.items.as_deref(), mode)?;
        } else if let Some(token) = service_account_token {
            out.tokens.push(TokenFile {
                path: token.path.clone(),
                audience: token.audience.clone().unwrap_or_default(),
                expiration_seconds: token.expiration_seconds.unwrap_or(3600),
                // Others than root must read it only through fsGroup or their own uid.
                mode: if runs_as_other(pod) { 0o644 } else { 0o600 } & mode,
            });
        } else if cluster_trust_bundle.as_ref().is_none_or(|b| b.optional != Some(true)) {
            return Err(VolumeError::Unsupported);
        }
    }
    Ok(())
}

/// Whether some container may run as another user than root, so that a token of mode 0600 owned
/// by root would be of no use to it.
fn runs_as_other(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let pod_user = spec.security_context.as_ref().and_then(|s| s.run_as_user);
    crate::rules::containers(spec).any(|c| {
        let own = c.security_context.as_ref().and_then(|s| s.run_as_user);
        own.or(pod_user) != Some(0)
    })
}

fn add_config_map(
    out: &mut Payload,
    object: Option<&ConfigMap>,
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    mode: u32,
) -> Result<(), VolumeError> {
    let optional = optional == Some(true);
    let Some(object) = object else {
        return if optional { Ok(()) } else { Err(VolumeError::NoConfigMap(name.to_owned())) };
    };
    let text = object.data.iter().flatten().map(|(k, v)| (k.as_str(), v.as_bytes()));
    let binary = object.binary_data.iter().flatten().map(|(k, v)| (k.as_str(), v.0.as_slice()));
    add_keys(out, text.chain(binary).collect(), items, optional, mode, "config")
}

fn add_secret(
    out: &mut Payload,
    object: Option<&Secret>,
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    mode: u32,
) -> Result<(), VolumeError> {
    let optional = optional == Some(true);
    let Some(object) = object else {
        return if optional { Ok(()) } else { Err(VolumeError::NoSecret(name.to_owned())) };
    };
    let data = object.data.iter().flatten().map(|(k, v)| (k.as_str(), v.0.as_slice()));
    add_keys(out, data.collect(), items, optional, mode, "secret")
}

fn add_keys(
    out: &mut Payload,
    data: BTreeMap<&str, &[u8]>,
    items: Option<&[KeyToPath]>,
    optional: bool,
    mode: u32,
    kind: &'static str,
) -> Result<(), VolumeError> {
    match items {
        None | Some([]) => {
            for (key, value) in data {
                out.files.insert(key.to_owned(), File { data: value.to_vec(), mode });
            }
        }
        Some(items) => {
            for item in items {
                let Some(value) = data.get(item.key.as_str()) else {
                    if optional {
                        continue;
                    }
                    return Err(VolumeError::NoKey { kind, key: item.key.clone() });
                };
                let own = item.mode.and_then(|m| u32::try_from(m).ok()).map_or(mode, |m| m & 0o777);
                out.files.insert(item.path.clone(), File { data: value.to_vec(), mode: own });
            }
        }
    }
    Ok(())
}

fn add_downward(
    out: &mut Payload,
    pod: &Pod,
    place: &Place,
    items: Option<&[DownwardAPIVolumeFile]>,
    mode: u32,
) -> Result<(), VolumeError> {
    for item in items.unwrap_or_default() {
        let text = match (&item.field_ref, &item.resource_field_ref, &pod.spec) {
            (Some(field), _, _) => field::field(pod, place, &field.field_path)?,
            (None, Some(selector), Some(spec)) => field::resource(spec, None, place, selector)?,
            _ => String::new(),
        };
        let own = item.mode.and_then(|m| u32::try_from(m).ok()).map_or(mode, |m| m & 0o777);
        out.files.insert(item.path.clone(), File { data: text.into_bytes(), mode: own });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    struct One(ConfigMap);

    impl Sources for One {
        fn config_map(&self, name: &str) -> Option<&ConfigMap> {
            (name == "cm").then_some(&self.0)
        }
        fn secret(&self, _: &str) -> Option<&Secret> {
            None
        }
    }

    #[test]
    fn files_follow_the_definition() {
        let map = ConfigMap {
            data: Some([("a".into(), "1".into()), ("b".into(), "2".into())].into()),
            ..ConfigMap::default()
        };
        for (name, volume, expect) in [
            ("all keys", "configMap: {name: cm, defaultMode: 256}", Ok("a:400 b:400")),
            ("chosen keys", "configMap: {name: cm, items: [{key: a, path: x/y, mode: 511}]}", Ok("x/y:777")),
            ("missing map", "configMap: {name: no}", Err("configmap \"no\" not found")),
            ("optional map", "configMap: {name: no, optional: true}", Ok("")),
            (
                "missing key",
                "configMap: {name: cm, items: [{key: z, path: z}]}",
                Err("references non-existent config key: z"),
            ),
            ("missing secret", "secret: {secretName: s}", Err("secret \"s\" not found")),
            ("a way out", "configMap: {name: cm, items: [{key: a, path: ../x}]}", Err("invalid path \"../x\"")),
            ("downward", "downwardAPI: {items: [{path: n, fieldRef: {fieldPath: metadata.name}}]}", Ok("n:644")),
            (
                "token",
                "projected: {sources: [{serviceAccountToken: {path: token}}, {configMap: {name: cm}}]}",
                Ok("a:644 b:644 +token"),
            ),
        ] {
            let pod = pod(&format!("containers: [], volumes: [{{name: v, {volume}}}]"));
            let volume = &pod.spec.as_ref().expect("a spec").volumes.as_ref().expect("volumes")[0];
            let got = payload(&pod, volume, &Place::default(), &One(map.clone())).map(|p| {
                let files = p.files.iter().map(|(path, f)| format!("{path}:{:o}", f.mode));
                files.chain(p.tokens.iter().map(|t| format!("+{}", t.path))).collect::<Vec<_>>().join(" ")
            });
            assert_eq!(got.map_err(|e| e.to_string()), expect.map(str::to_owned).map_err(str::to_owned), "{name}");
        }
    }
}
