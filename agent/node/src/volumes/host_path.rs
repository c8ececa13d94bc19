//! hostPath volumes: the path must be what its `type` says.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Volume;

use super::plugin::{Mounter, Plugin};

pub(super) struct HostPath;

impl Plugin for HostPath {
    fn name(&self) -> &'static str {
        "host-path"
    }

    fn can_support(&self, volume: &Volume) -> bool {
        volume.host_path.is_some()
    }

    fn path(&self, volume: &Volume, dir: &Path) -> PathBuf {
        volume.host_path.as_ref().map_or_else(|| dir.to_owned(), |source| PathBuf::from(&source.path))
    }

    fn set_up<'a>(&'a self, mounter: &'a Mounter<'a>) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let Some(source) = &mounter.volume.host_path else { return Ok(()) };
            check(&source.path, source.type_.as_deref().unwrap_or_default())
        })
    }
}

/// Checks, and for the `OrCreate` types creates, a path of the host.
fn check(path: &str, kind: &str) -> Result<(), String> {
    let at = Path::new(path);
    let found = fs::metadata(at).ok();
    let is = |test: fn(&fs::Metadata) -> bool| found.as_ref().is_some_and(test);
    let failed = |what: &str| Err(format!("hostPath type check failed: {path} is not a {what}"));
    match kind {
        "" => Ok(()),
        "Directory" if !is(fs::Metadata::is_dir) => failed("directory"),
        "File" if !is(fs::Metadata::is_file) => failed("file"),
        "Socket" if !is(|m| m.file_type().is_socket()) => failed("socket file"),
        "CharDevice" if !is(|m| m.file_type().is_char_device()) => failed("character device"),
        "BlockDevice" if !is(|m| m.file_type().is_block_device()) => failed("block device"),
        "Directory" | "File" | "Socket" | "CharDevice" | "BlockDevice" => Ok(()),
        "DirectoryOrCreate" if found.is_none() => {
            make(at, |p| fs::create_dir_all(p), 0o755).map_err(|e| format!("creating {path}: {e}"))
        }
        "DirectoryOrCreate" if !is(fs::Metadata::is_dir) => failed("directory"),
        "FileOrCreate" if found.is_none() => {
            make(at, |p| fs::File::create_new(p).map(drop), 0o644).map_err(|e| format!("creating {path}: {e}"))
        }
        "FileOrCreate" if !is(fs::Metadata::is_file) => failed("file"),
        "DirectoryOrCreate" | "FileOrCreate" => Ok(()),
        other => Err(format!("{other} is an invalid volume type")),
    }
}

fn make(path: &Path, create: impl Fn(&Path) -> std::io::Result<()>, mode: u32) -> std::io::Result<()> {
    create(path)?;
    fs::set_permissions(path, Permissions::from_mode(mode))
}
