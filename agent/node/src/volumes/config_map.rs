//! configMap volumes: the keys of a ConfigMap as files.

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Volume;
use kontiki_agent_plan::volumes::{self, Medium};

use super::{
    files,
    plugin::{Mounter, Plugin},
};

pub(super) struct ConfigMap;

impl Plugin for ConfigMap {
    fn name(&self) -> &'static str {
        "configmap"
    }

    fn can_support(&self, volume: &Volume) -> bool {
        volume.config_map.is_some()
    }

    fn read_only(&self) -> bool {
        true // the files are the node's to change
    }

    fn requires_remount(&self) -> bool {
        true
    }

    fn set_up<'a>(&'a self, mounter: &'a Mounter<'a>) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let Some(source) = &mounter.volume.config_map else { return Ok(()) };
            files::set_up(mounter, Medium::Disk, |_, sources| volumes::config_map(source, sources)).await
        })
    }
}
