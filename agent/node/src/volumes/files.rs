//! Volumes whose files are made from objects: waiting for those, and writing them.
//!
//! Invariants
//! - Without a master, what is there from before serves on.

use std::{collections::BTreeMap, time::Duration};

use kontiki_agent_plan::{
    env::Sources,
    field::Place,
    volumes::{File, Medium, Payload, VolumeError},
};

use super::{
    atomic, mount,
    plugin::{Mounter, blocking, create_dir},
};
use crate::session::objects::PodSources;

/// How long to wait for an object that should be on its way already: a pod may arrive a moment before the objects it
/// names.
const ARRIVAL: Duration = Duration::from_secs(1);

/// Makes the volume show what `payload` says of the objects that are there.
pub(super) async fn set_up(
    mounter: &Mounter<'_>,
    medium: Medium,
    payload: impl Fn(&Place, &dyn Sources) -> Result<Payload, VolumeError> + Send + Sync,
) -> Result<(), String> {
    let files = match files(mounter, payload).await {
        Ok(files) => files,
        Err(_) if mounter.dir.join("..data").exists() && !mounter.node.is_online() => return Ok(()),
        Err(message) => return Err(message),
    };
    let (dir, group) = (mounter.dir.clone(), mounter.fs_group());
    blocking(move || {
        create_dir(&dir, 0o755)?;
        if let Medium::Memory { size } = medium {
            mount::tmpfs(&dir, size)?;
        }
        atomic::write(&dir, &files, group)
    })
    .await
}

async fn files(
    mounter: &Mounter<'_>,
    payload: impl Fn(&Place, &dyn Sources) -> Result<Payload, VolumeError> + Send + Sync,
) -> Result<BTreeMap<String, File>, String> {
    let Payload { mut files, tokens } = arrived(mounter, payload).await.map_err(|e| e.to_string())?;
    for wanted in tokens {
        let mut known = mounter.tokens.lock().await;
        let token = known.get(mounter.node, mounter.pod, &mounter.volume.name, &wanted).await?;
        files.insert(wanted.path, File { data: token.into_bytes(), mode: wanted.mode });
    }
    Ok(files)
}

/// The payload, once the objects it names are there.
async fn arrived(
    mounter: &Mounter<'_>,
    payload: impl Fn(&Place, &dyn Sources) -> Result<Payload, VolumeError> + Send + Sync,
) -> Result<Payload, VolumeError> {
    let objects = &mounter.node.objects;
    let namespace = mounter.pod.metadata.namespace.as_deref().unwrap_or_default();
    let place = mounter.node.place(mounter.ips.to_vec());
    let deadline = tokio::time::Instant::now() + ARRIVAL;
    let mut changed = objects.data_changed();
    loop {
        changed.borrow_and_update();
        let result = payload(&place, &PodSources::new(objects, namespace));
        let waits = result.as_ref().err().is_some_and(VolumeError::may_pass);
        if !waits || tokio::time::timeout_at(deadline, changed.changed()).await.is_err() {
            return result;
        }
    }
}
