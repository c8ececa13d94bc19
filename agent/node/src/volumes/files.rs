//! Volumes whose files are made from objects, one row a kind: waiting for the objects, and writing the files.
//!
//! Invariants
//! - Without a master, what is there from before serves on.

use std::{collections::BTreeMap, time::Duration};

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Volume;
use kontiki_agent_plan::{
    env::Sources,
    field::Place,
    volumes::{self, File, Medium, Payload, VolumeError},
};

use super::{
    atomic, mount,
    plugin::{Mounter, Plugin, blocking, create_dir},
};
use crate::session::objects::PodSources;

/// How long to wait for an object that should be on its way already: a pod may arrive a moment before the objects it
/// names.
const ARRIVAL: Duration = Duration::from_secs(1);

/// What a volume shows of the objects that are there.
type MakePayload = fn(&Mounter<'_>, &Place, &dyn Sources) -> Result<Payload, VolumeError>;

/// A kind of volume whose files are made from objects. They are the node's to change.
pub(super) struct FilesPlugin {
    name: &'static str,
    supports: fn(&Volume) -> bool,
    medium: Medium,
    payload: MakePayload,
}

/// The keys of a ConfigMap.
pub(super) static CONFIG_MAP: FilesPlugin = FilesPlugin {
    name: "configmap",
    supports: |volume| volume.config_map.is_some(),
    medium: Medium::Disk,
    payload: |mounter, _, sources| match &mounter.volume.config_map {
        Some(source) => volumes::config_map(source, sources),
        None => Ok(Payload::default()),
    },
};

/// Fields of the pod.
pub(super) static DOWNWARD_API: FilesPlugin = FilesPlugin {
    name: "downward-api",
    supports: |volume| volume.downward_api.is_some(),
    medium: Medium::Disk,
    payload: |mounter, place, _| match &mounter.volume.downward_api {
        Some(source) => volumes::downward_api(source, mounter.pod, place),
        None => Ok(Payload::default()),
    },
};

/// ConfigMaps, Secrets, fields of the pod, tokens, certificates and anchors of trust in one directory, in memory for the sake of what is secret.
pub(super) static PROJECTED: FilesPlugin = FilesPlugin {
    name: "projected",
    supports: |volume| volume.projected.is_some(),
    medium: Medium::Memory { size: None },
    payload: |mounter, place, sources| match &mounter.volume.projected {
        Some(source) => volumes::projected(source, mounter.pod, place, sources),
        None => Ok(Payload::default()),
    },
};

/// The keys of a Secret, in memory.
pub(super) static SECRET: FilesPlugin = FilesPlugin {
    name: "secret",
    supports: |volume| volume.secret.is_some(),
    medium: Medium::Memory { size: None },
    payload: |mounter, _, sources| match &mounter.volume.secret {
        Some(source) => volumes::secret(source, sources),
        None => Ok(Payload::default()),
    },
};

impl Plugin for FilesPlugin {
    fn name(&self) -> &'static str {
        self.name
    }

    fn can_support(&self, volume: &Volume) -> bool {
        (self.supports)(volume)
    }

    fn read_only(&self) -> bool {
        true
    }

    fn requires_remount(&self) -> bool {
        true
    }

    fn set_up<'a>(&'a self, mounter: &'a Mounter<'a>) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(self.show(mounter))
    }
}

impl FilesPlugin {
    async fn show(&self, mounter: &Mounter<'_>) -> Result<(), String> {
        let files = match files(mounter, self.payload).await {
            Ok(files) => files,
            Err(_) if mounter.dir.join("..data").exists() && !mounter.node.is_online() => return Ok(()),
            Err(message) => return Err(message),
        };
        let (dir, group, medium) = (mounter.dir.clone(), mounter.fs_group(), self.medium);
        blocking(move || {
            create_dir(&dir, 0o755)?;
            if let Medium::Memory { size } = medium {
                mount::tmpfs(&dir, size)?;
            }
            atomic::write(&dir, &files, group)
        })
        .await
    }
}

async fn files(mounter: &Mounter<'_>, payload: MakePayload) -> Result<BTreeMap<String, File>, String> {
    let Payload { mut files, tokens, certificates } = arrived(mounter, payload).await.map_err(|e| e.to_string())?;
    let Mounter { node, pod, volume, .. } = mounter;
    let mut known = mounter.credentials.lock().await;
    for wanted in tokens {
        let token = known.tokens.get(node, pod, &volume.name, &wanted).await?;
        files.insert(wanted.path, File { data: token.into_bytes(), mode: wanted.mode });
    }
    for wanted in certificates {
        let content = known.certificates.get(node, pod, &volume.name, &wanted).await?;
        files.extend(content.into_iter().map(|(path, data)| (path, File { data, mode: wanted.mode })));
    }
    Ok(files)
}

/// The payload, once the objects it names are there.
async fn arrived(mounter: &Mounter<'_>, payload: MakePayload) -> Result<Payload, VolumeError> {
    let objects = &mounter.node.objects;
    let namespace = mounter.pod.metadata.namespace.as_deref().unwrap_or_default();
    let place = mounter.node.place(mounter.ips.to_vec());
    let deadline = tokio::time::Instant::now() + ARRIVAL;
    let mut changed = objects.data_changed();
    loop {
        changed.borrow_and_update();
        let result = payload(mounter, &place, &PodSources::new(objects, namespace));
        let waits = result.as_ref().err().is_some_and(VolumeError::may_pass);
        if !waits || tokio::time::timeout_at(deadline, changed.changed()).await.is_err() {
            return result;
        }
    }
}
