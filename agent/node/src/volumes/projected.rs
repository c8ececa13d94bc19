//! projected volumes: ConfigMaps, Secrets, fields of the pod and tokens in one directory, in memory for the sake of
//! what is secret among them.

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Volume;
use kontiki_agent_plan::volumes::{self, Medium};

use super::{
    files,
    plugin::{Mounter, Plugin},
};

pub(super) struct Projected;

impl Plugin for Projected {
    fn name(&self) -> &'static str {
        "projected"
    }

    fn can_support(&self, volume: &Volume) -> bool {
        volume.projected.is_some()
    }

    fn read_only(&self) -> bool {
        true // the files are the node's to change
    }

    fn requires_remount(&self) -> bool {
        true
    }

    fn set_up<'a>(&'a self, mounter: &'a Mounter<'a>) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let Some(source) = &mounter.volume.projected else { return Ok(()) };
            files::set_up(mounter, Medium::Memory { size: None }, |place, sources| {
                volumes::projected(source, mounter.pod, place, sources)
            })
            .await
        })
    }
}
