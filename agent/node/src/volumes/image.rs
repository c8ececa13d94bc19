//! Volumes that show the files of an image, read-only ([KEP-4639]).
//!
//! [KEP-4639]: https://kep.k8s.io/4639

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ImageVolumeSource, Volume};
use kontiki_agent_plan::image::{self, PullPolicy};

use super::{
    mount,
    plugin::{Mounter, Plugin, blocking, create_dir},
};
use crate::runtime::{images, snapshots};

pub(super) struct Image;

impl Plugin for Image {
    fn name(&self) -> &'static str {
        "image"
    }

    fn can_support(&self, volume: &Volume) -> bool {
        volume.image.is_some()
    }

    fn read_only(&self) -> bool {
        true
    }

    fn set_up<'a>(&'a self, mounter: &'a Mounter<'a>) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            match &mounter.volume.image {
                Some(source) => show(mounter, source).await,
                None => Ok(()),
            }
        })
    }
}

async fn show(mounter: &Mounter<'_>, source: &ImageVolumeSource) -> Result<(), String> {
    let dir = mounter.dir.clone();
    if mount::is_mount_point(&dir).map_err(|e| e.to_string())? {
        return Ok(());
    }
    let image = source.reference.as_deref().unwrap_or_default();
    if !image::valid_reference(image) {
        return Err(format!("couldn't parse image name \"{image}\": invalid reference format"));
    }
    let id = present(mounter, image, source.pull_policy.as_deref()).await?;
    let uid = mounter.pod.metadata.uid.as_deref().unwrap_or_default();
    let key = format!("kontiki-volume-{uid}-{}", mounter.volume.name);
    let mounts = snapshots::of_image(&mounter.node.cri, &id, &key).await.map_err(|e| e.message)?;
    let [mount] = mounts.as_slice() else { return Err(format!("an image in {} mounts is not known", mounts.len())) };
    let mount = mount.clone();
    blocking(move || {
        create_dir(&dir, 0o755)?;
        mount::layers(&dir, &mount.kind, &mount.source, &mount.options)
    })
    .await
}

/// The id of the image, pulled if its policy says so.
async fn present(mounter: &Mounter<'_>, image: &str, policy: Option<&str>) -> Result<String, String> {
    let (node, policy) = (mounter.node, PullPolicy::of(policy, image));
    let local = images::local(&node.cri, image).await.map_err(|e| e.message)?;
    match (policy, local) {
        (PullPolicy::IfNotPresent | PullPolicy::Never, Some((id, _))) => return Ok(id),
        (PullPolicy::Never, None) => return Err(format!("image \"{image}\" is not present with pull policy of Never")),
        (PullPolicy::IfNotPresent, None) | (PullPolicy::Always, _) => {}
    }
    let namespace = mounter.pod.metadata.namespace.as_deref().unwrap_or_default();
    let names = mounter.pod.spec.iter().flat_map(|s| s.image_pull_secrets.iter().flatten()).map(|s| s.name.as_str());
    let secrets: Vec<_> = names.filter_map(|name| node.objects.secret(namespace, name)).collect();
    let secrets: Vec<_> = secrets.iter().map(AsRef::as_ref).collect();
    let credentials = images::credentials(image, &secrets, &node.config.registries);
    images::pull(&node.cri, image, None, credentials).await.map_err(|e| e.message)
}
