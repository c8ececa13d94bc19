//! secret volumes: the keys of a Secret as files, in memory.

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Volume;
use kontiki_agent_plan::volumes::{self, Medium};

use super::{
    files,
    plugin::{Mounter, Plugin},
};

pub(super) struct Secret;

impl Plugin for Secret {
    fn name(&self) -> &'static str {
        "secret"
    }

    fn can_support(&self, volume: &Volume) -> bool {
        volume.secret.is_some()
    }

    fn read_only(&self) -> bool {
        true // the files are the node's to change
    }

    fn requires_remount(&self) -> bool {
        true
    }

    fn set_up<'a>(&'a self, mounter: &'a Mounter<'a>) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let Some(source) = &mounter.volume.secret else { return Ok(()) };
            files::set_up(mounter, Medium::Memory { size: None }, |_, sources| volumes::secret(source, sources)).await
        })
    }
}
