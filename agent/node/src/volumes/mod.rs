//! A pod's volumes on this machine.
//!
//! Invariants
//! - `prepare` is idempotent: it makes what is missing and updates what changed, also after a
//!   restart of the agent.
//! - Secrets and tokens are written to tmpfs only.
//! - `release` never deletes through a mount: a pod's directory is removed only once the kernel
//!   shows no mount below it.

mod atomic;
mod host_path;
pub mod mounts;
mod subpath;
mod tmpfs;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Volume};
use kontiki_agent_plan::volumes::{self as plan, File, Payload, Source, TokenFile};
use kontiki_proto::node::TokenRequest;

use crate::{
    node::Node,
    objects::PodSources,
    outbox::{Token, TokenAnswer},
};

pub use tmpfs::{mounts_below, share};

/// How long to wait for an object that should be on its way already.
const ARRIVAL: Duration = Duration::from_secs(1);
const TOKEN_ANSWER: Duration = Duration::from_secs(10);
/// A token is replaced when a fifth of its life is left, or after a day.
const TOKEN_DAY: i64 = 24 * 3600;

/// Why a volume is not in place.
#[derive(Debug)]
pub struct Failure {
    pub volume: String,
    pub message: String,
}

/// Tokens that were asked for, by (volume, path), with the time they were given.
#[derive(Default)]
pub struct Tokens(BTreeMap<(String, String), (Token, Timestamp)>);

/// Directory of a volume.
#[must_use]
pub fn volume_dir(node: &Node, uid: &str, volume: &str, source: &Source) -> PathBuf {
    node.config.pod_dir(uid).join("volumes").join(source.plugin()).join(volume)
}

/// Puts all volumes of a pod in place.
///
/// # Errors
/// The first volume that cannot be, and why.
pub async fn prepare(node: &Node, pod: &Pod, ips: &[IpAddr], tokens: &mut Tokens) -> Result<(), Failure> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    for dir in ["volumes", "containers", "plugins"] {
        let path = node.config.pod_dir(uid).join(dir);
        create_dir(&path, 0o750)
            .map_err(|e| Failure { volume: String::new(), message: format!("{}: {e}", path.display()) })?;
    }
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_ref());
    for volume in volumes.into_iter().flatten() {
        one(node, pod, uid, volume, ips, tokens)
            .await
            .map_err(|message| Failure { volume: volume.name.clone(), message })?;
    }
    Ok(())
}

async fn one(
    node: &Node,
    pod: &Pod,
    uid: &str,
    volume: &Volume,
    ips: &[IpAddr],
    tokens: &mut Tokens,
) -> Result<(), String> {
    let source = plan::source(volume).map_err(|e| e.to_string())?;
    let dir = volume_dir(node, uid, &volume.name, &source);
    let group = pod.spec.as_ref().and_then(|s| s.security_context.as_ref()?.fs_group);
    match &source {
        Source::Host { path, kind } => host_path::check(path, kind),
        Source::Empty { memory } => {
            let size = *memory;
            blocking(move || empty_dir(&dir, size, group)).await
        }
        Source::Files { memory, .. } => {
            let memory = *memory;
            let files = match files(node, pod, volume, ips, tokens).await {
                Ok(files) => files,
                // What is there from before serves until a master is back.
                Err(_) if filled(&dir) && !node.is_online() => return Ok(()),
                Err(message) => return Err(message),
            };
            blocking(move || {
                create_dir(&dir, 0o755)?;
                if memory {
                    tmpfs::mount(&dir, None)?;
                }
                atomic::write(&dir, &files, group.and_then(|g| u32::try_from(g).ok()))
            })
            .await
        }
    }
}

fn filled(dir: &Path) -> bool {
    dir.join("..data").exists()
}

async fn blocking(work: impl FnOnce() -> std::io::Result<()> + Send + 'static) -> Result<(), String> {
    let result = tokio::task::spawn_blocking(work).await;
    result.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
}

fn create_dir(path: &Path, mode: u32) -> std::io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

fn empty_dir(dir: &Path, memory: Option<Option<u64>>, group: Option<i64>) -> std::io::Result<()> {
    if dir.is_dir() && (memory.is_none() || tmpfs::is_mount(dir)?) {
        return Ok(()); // its owner may have changed modes since
    }
    create_dir(dir, 0o777)?;
    if let Some(size) = memory {
        tmpfs::mount(dir, size)?;
    }
    let mut mode = 0o777;
    if let Some(group) = group.and_then(|g| u32::try_from(g).ok()) {
        std::os::unix::fs::chown(dir, None, Some(group))?;
        mode |= 0o2000;
    }
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode))
}

/// The files of a generated volume, tokens included.
async fn files(
    node: &Node,
    pod: &Pod,
    volume: &Volume,
    ips: &[IpAddr],
    tokens: &mut Tokens,
) -> Result<BTreeMap<String, File>, String> {
    let payload = payload(node, pod, volume, ips).await.map_err(|e| e.to_string())?;
    let mut files = payload.files;
    for wanted in payload.tokens {
        let token = tokens.get(node, pod, &volume.name, &wanted).await?;
        files.insert(wanted.path.clone(), File { data: token.into_bytes(), mode: wanted.mode });
    }
    Ok(files)
}

/// A pod may arrive a moment before the objects it names.
async fn payload(node: &Node, pod: &Pod, volume: &Volume, ips: &[IpAddr]) -> Result<Payload, plan::VolumeError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let place = node.place(ips.to_vec());
    let deadline = tokio::time::Instant::now() + ARRIVAL;
    let mut changed = node.objects.data_changed();
    loop {
        changed.borrow_and_update();
        let result = plan::payload(pod, volume, &place, &PodSources::new(&node.objects, namespace));
        let waits = result.as_ref().err().is_some_and(plan::VolumeError::may_pass);
        if !waits || tokio::time::timeout_at(deadline, changed.changed()).await.is_err() {
            return result;
        }
    }
}

impl Tokens {
    async fn get(&mut self, node: &Node, pod: &Pod, volume: &str, wanted: &TokenFile) -> Result<String, String> {
        let key = (volume.to_owned(), wanted.path.clone());
        let now = Timestamp::now();
        if let Some((token, given)) = self.0.get(&key)
            && !due(token, *given, now)
        {
            return Ok(token.token.clone());
        }
        match request(node, pod, wanted).await {
            Ok(token) => {
                let text = token.token.clone();
                self.0.insert(key, (token, now));
                Ok(text)
            }
            // The old one is still good for a while.
            Err(reason) => match self.0.get(&key) {
                Some((token, _)) if token.expires > now => Ok(token.token.clone()),
                _ => Err(format!("failed to fetch token: {reason}")),
            },
        }
    }
}

fn due(token: &Token, given: Timestamp, now: Timestamp) -> bool {
    let (life, age) = (token.expires.as_second() - given.as_second(), now.as_second() - given.as_second());
    age >= (life / 5 * 4).min(TOKEN_DAY)
}

async fn request(node: &Node, pod: &Pod, wanted: &TokenFile) -> TokenAnswer {
    let own = |text: &Option<String>| text.clone().unwrap_or_default();
    let account =
        pod.spec.as_ref().and_then(|s| s.service_account_name.clone()).unwrap_or_else(|| "default".to_owned());
    let request = TokenRequest {
        id: 0,
        namespace: own(&pod.metadata.namespace),
        service_account: account,
        pod_name: own(&pod.metadata.name),
        pod_uid: own(&pod.metadata.uid),
        audiences: if wanted.audience.is_empty() { Vec::new() } else { vec![wanted.audience.clone()] },
        expiration_seconds: wanted.expiration_seconds,
    };
    match tokio::time::timeout(TOKEN_ANSWER, node.outbox.token(request)).await {
        Ok(Ok(answer)) => answer,
        _ => Err("no master answered".to_owned()),
    }
}

/// Unmounts everything below the pod's directory.
///
/// # Errors
/// If a mount cannot be removed; nothing is deleted then.
pub fn release(pod_dir: &Path) -> std::io::Result<()> {
    tmpfs::unmount_below(pod_dir)?;
    for dir in ["volumes", "volume-subpaths"] {
        remove(&pod_dir.join(dir))?;
    }
    Ok(())
}

/// Removes the pod's directory with all that is left in it.
///
/// # Errors
/// If a mount is left below it, or the disk refuses.
pub fn remove_pod_dir(pod_dir: &Path) -> std::io::Result<()> {
    tmpfs::unmount_below(pod_dir)?;
    remove(pod_dir)
}

fn remove(dir: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
