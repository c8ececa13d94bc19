//! downwardAPI volumes: fields of the pod as files.

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Volume;
use kontiki_agent_plan::volumes::{self, Medium};

use super::{
    files,
    plugin::{Mounter, Plugin},
};

pub(super) struct DownwardApi;

impl Plugin for DownwardApi {
    fn name(&self) -> &'static str {
        "downward-api"
    }

    fn can_support(&self, volume: &Volume) -> bool {
        volume.downward_api.is_some()
    }

    fn read_only(&self) -> bool {
        true // the files are the node's to change
    }

    fn requires_remount(&self) -> bool {
        true
    }

    fn set_up<'a>(&'a self, mounter: &'a Mounter<'a>) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let Some(source) = &mounter.volume.downward_api else { return Ok(()) };
            files::set_up(mounter, Medium::Disk, |place, _| volumes::downward_api(source, mounter.pod, place)).await
        })
    }
}
