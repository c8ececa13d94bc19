//! emptyDir volumes: a directory of the pod's own, on disk or in memory.

use std::{io, os::unix::fs::PermissionsExt as _, path::Path};

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Volume;
use kontiki_agent_plan::volumes::{self, Medium};

use super::{
    mount,
    plugin::{Mounter, Plugin, blocking, create_dir},
};

pub(super) struct EmptyDir;

impl Plugin for EmptyDir {
    fn name(&self) -> &'static str {
        "empty-dir"
    }

    fn can_support(&self, volume: &Volume) -> bool {
        volume.empty_dir.is_some()
    }

    fn set_up<'a>(&'a self, mounter: &'a Mounter<'a>) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let Some(source) = &mounter.volume.empty_dir else { return Ok(()) };
            let (dir, medium, group) = (mounter.dir.clone(), volumes::medium(source), mounter.fs_group());
            blocking(move || make(&dir, medium, group)).await
        })
    }
}

fn make(dir: &Path, medium: Medium, group: Option<u32>) -> io::Result<()> {
    if dir.is_dir() && (medium == Medium::Disk || mount::is_mount(dir)?) {
        return Ok(()); // its owner may have changed modes since
    }
    create_dir(dir, 0o777)?;
    if let Medium::Memory { size } = medium {
        mount::tmpfs(dir, size)?;
    }
    let mut mode = 0o777;
    if let Some(group) = group {
        std::os::unix::fs::chown(dir, None, Some(group))?;
        mode |= 0o2000;
    }
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode))
}
