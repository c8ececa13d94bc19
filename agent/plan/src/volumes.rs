//! What lies in a pod's volumes: the files of those that are made from objects.
//!
//! Invariants
//! - A path of a generated file is relative and never leaves its volume.
//!
//! Not here: which kinds there are, mounts and writing (the agent's volume plugins).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapVolumeSource, DownwardAPIVolumeFile, DownwardAPIVolumeSource, EmptyDirVolumeSource, KeyToPath,
    Pod, ProjectedVolumeSource, Secret, SecretVolumeSource, VolumeProjection,
};
use kontiki_model::Quantity;

use crate::{
    certificates::CertificateFiles,
    env::Sources,
    field::{self, FieldError, Place},
    trust::{self, TrustError},
};

/// Mode of generated files unless told otherwise.
const DEFAULT_MODE: u32 = 0o644;

/// What an empty directory is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    Disk,
    /// A tmpfs, at most this many bytes of it.
    Memory {
        size: Option<u64>,
    },
}

/// Where an emptyDir volume lies.
#[must_use]
pub fn medium(source: &EmptyDirVolumeSource) -> Medium {
    if source.medium.as_deref() != Some("Memory") {
        return Medium::Disk;
    }
    let limit = source.size_limit.as_ref().and_then(|q| q.0.parse::<Quantity>().ok()).map(Quantity::units);
    Medium::Memory { size: limit.and_then(|bytes| u64::try_from(bytes).ok()).filter(|bytes| *bytes > 0) }
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
    /// What the shell has made by a signer.
    pub certificates: Vec<CertificateFiles>,
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
    Trust(#[from] TrustError),
    #[error("{0}")]
    Field(#[from] FieldError),
}

impl VolumeError {
    /// Whether an object that may yet arrive would help.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::NoConfigMap(_) | Self::NoSecret(_) | Self::NoKey { .. } | Self::Trust(_))
    }
}

fn mode_or(mode: Option<i32>, default: u32) -> u32 {
    mode.and_then(|mode| u32::try_from(mode).ok()).map_or(default, |mode| mode & 0o777)
}

/// The files of a configMap volume.
///
/// # Errors
/// What is missing and not optional.
pub fn config_map(source: &ConfigMapVolumeSource, objects: &dyn Sources) -> Result<Payload, VolumeError> {
    let mut out = Payload::default();
    let mode = mode_or(source.default_mode, DEFAULT_MODE);
    let object = objects.config_map(&source.name);
    add_config_map(&mut out, object, &source.name, source.items.as_deref(), source.optional, mode)?;
    out.checked()
}

/// The files of a secret volume.
///
/// # Errors
/// What is missing and not optional.
pub fn secret(source: &SecretVolumeSource, objects: &dyn Sources) -> Result<Payload, VolumeError> {
    let mut out = Payload::default();
    let name = source.secret_name.as_deref().unwrap_or_default();
    let mode = mode_or(source.default_mode, DEFAULT_MODE);
    add_secret(&mut out, objects.secret(name), name, source.items.as_deref(), source.optional, mode)?;
    out.checked()
}

/// The files of a downwardAPI volume.
///
/// # Errors
/// The first field that cannot be given.
pub fn downward_api(source: &DownwardAPIVolumeSource, pod: &Pod, place: &Place) -> Result<Payload, VolumeError> {
    let mut out = Payload::default();
    add_downward(&mut out, pod, place, source.items.as_deref(), mode_or(source.default_mode, DEFAULT_MODE))?;
    out.checked()
}

/// The files of a projected volume, and the tokens and certificates that it needs.
///
/// # Errors
/// The first thing missing that is not optional.
pub fn projected(
    source: &ProjectedVolumeSource,
    pod: &Pod,
    place: &Place,
    objects: &dyn Sources,
) -> Result<Payload, VolumeError> {
    let mut out = Payload::default();
    add_projected(&mut out, pod, place, objects, source, mode_or(source.default_mode, DEFAULT_MODE))?;
    out.checked()
}

impl Payload {
    fn checked(self) -> Result<Self, VolumeError> {
        let certificates = self.certificates.iter().flat_map(CertificateFiles::paths);
        let paths = self.files.keys().chain(self.tokens.iter().map(|t| &t.path)).chain(certificates);
        let unsafe_path = { paths }.find(|path| !safe(path)).cloned();
        unsafe_path.map_or(Ok(self), |path| Err(VolumeError::Path(path)))
    }
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
    for (index, source) in projected.sources.iter().flatten().enumerate() {
        let VolumeProjection { config_map, secret, downward_api, service_account_token, .. } = source;
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
        } else if let Some(bundle) = &source.cluster_trust_bundle {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
            let data = trust::anchors(bundle, sources, node)?.into_bytes();
            out.files.insert(bundle.path.clone(), File { data, mode: credential_mode(pod, mode) });
        } else if let Some(certificate) = &source.pod_certificate {
            out.certificates.push(CertificateFiles::new(index, certificate, credential_mode(pod, mode)));
        } else {
            return Err(VolumeError::Unsupported);
        }
    }
    Ok(())
}

/// With an fsGroup only the group reads them beside the owner (the writer of the files sees to that).
fn credential_mode(pod: &Pod, mode: u32) -> u32 {
    let group = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()?.fs_group);
    if group.is_some() { 0o600 } else { mode }
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
                let own = mode_or(item.mode, mode);
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
        let own = mode_or(item.mode, mode);
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

    fn payload(pod: &Pod, objects: &dyn Sources) -> Result<Payload, VolumeError> {
        let volume = &pod.spec.as_ref().expect("a spec").volumes.as_ref().expect("volumes")[0];
        let place = Place::default();
        if let Some(source) = &volume.config_map {
            config_map(source, objects)
        } else if let Some(source) = &volume.secret {
            secret(source, objects)
        } else if let Some(source) = &volume.downward_api {
            downward_api(source, pod, &place)
        } else {
            projected(volume.projected.as_ref().expect("a generated volume"), pod, &place, objects)
        }
    }

    #[test]
    fn memory_is_bounded_by_its_limit() {
        for (source, expect) in [
            ("{}", Medium::Disk),
            ("{sizeLimit: 1Mi}", Medium::Disk),
            ("{medium: Memory}", Medium::Memory { size: None }),
            ("{medium: Memory, sizeLimit: 1Mi}", Medium::Memory { size: Some(1 << 20) }),
            ("{medium: Memory, sizeLimit: 0}", Medium::Memory { size: None }),
        ] {
            assert_eq!(medium(&serde_yaml_ng::from_str(source).expect("a source")), expect, "{source}");
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
                "a missing bundle",
                "projected: {sources: [{clusterTrustBundle: {name: b, path: p}}]}",
                Err("while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io \"b\" not found"),
            ),
            (
                "an optional bundle",
                "projected: {sources: [{clusterTrustBundle: {name: b, path: p, optional: true}}]}",
                Ok("p:644"),
            ),
            (
                "a certificate",
                "projected: {defaultMode: 256, sources: [{podCertificate: {signerName: s, keyType: ED25519, keyPath: k}}]}",
                Ok("*k:400"),
            ),
            (
                "token",
                "projected: {sources: [{serviceAccountToken: {path: token}}, {configMap: {name: cm}}]}",
                Ok("a:644 b:644 +token"),
            ),
        ] {
            let pod = pod(&format!("containers: [], volumes: [{{name: v, {volume}}}]"));
            let got = payload(&pod, &One(map.clone())).map(|p| {
                let files = p.files.iter().map(|(path, f)| format!("{path}:{:o}", f.mode));
                let certificates =
                    p.certificates.iter().flat_map(|c| c.paths().map(move |path| format!("*{path}:{:o}", c.mode)));
                let tokens = p.tokens.iter().map(|t| format!("+{}", t.path));
                files.chain(tokens).chain(certificates).collect::<Vec<_>>().join(" ")
            });
            assert_eq!(got.map_err(|e| e.to_string()), expect.map(str::to_owned).map_err(str::to_owned), "{name}");
        }
    }
}
