//! The kinds of volumes that this node has.

use k8s_openapi::api::core::v1::Volume;

use super::{
    empty_dir::EmptyDir,
    files::{CONFIG_MAP, DOWNWARD_API, PROJECTED, SECRET},
    host_path::HostPath,
    image::Image,
    plugin::{Plugin, dir_name},
};

const PLUGINS: &[&dyn Plugin] = &[&CONFIG_MAP, &DOWNWARD_API, &EmptyDir, &HostPath, &Image, &PROJECTED, &SECRET];

/// The plugin of a volume.
///
/// # Errors
/// If this node has none for it.
pub(super) fn of(volume: &Volume) -> Result<&'static dyn Plugin, String> {
    let found = PLUGINS.iter().find(|plugin| plugin.can_support(volume));
    found.copied().ok_or_else(|| "volume kind is not supported by this node".to_owned())
}

/// The plugin whose volumes lie in directories of this name.
pub(super) fn by_dir_name(name: &str) -> Option<&'static dyn Plugin> {
    PLUGINS.iter().copied().find(|plugin| dir_name(*plugin) == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_one_plugin() {
        for (name, volume, expect) in [
            ("empty", "emptyDir: {}", "kubernetes.io~empty-dir rw kept"),
            ("memory", "emptyDir: {medium: Memory}", "kubernetes.io~empty-dir rw kept"),
            ("host path", "hostPath: {path: /x}", "kubernetes.io~host-path rw kept"),
            ("config map", "configMap: {name: c}", "kubernetes.io~configmap ro updated"),
            ("secret", "secret: {secretName: s}", "kubernetes.io~secret ro updated"),
            ("downward", "downwardAPI: {}", "kubernetes.io~downward-api ro updated"),
            ("projected", "projected: {sources: []}", "kubernetes.io~projected ro updated"),
            ("image", "image: {reference: i}", "kubernetes.io~image ro kept"),
            ("another", "nfs: {server: s, path: /}", "volume kind is not supported by this node"),
        ] {
            let volume: Volume = serde_yaml_ng::from_str(&format!("{{name: v, {volume}}}")).expect("a volume");
            let got = of(&volume).map_or_else(
                |error| error,
                |plugin| {
                    let mode = if plugin.read_only() { "ro" } else { "rw" };
                    let life = if plugin.requires_remount() { "updated" } else { "kept" };
                    format!("{} {mode} {life}", dir_name(plugin))
                },
            );
            assert_eq!(got, expect, "{name}");
            let supporting = PLUGINS.iter().filter(|plugin| plugin.can_support(&volume)).count();
            assert!(supporting <= 1, "{name}: {supporting} plugins");
        }
        for plugin in PLUGINS {
            assert_eq!(by_dir_name(&dir_name(*plugin)).map(Plugin::name), Some(plugin.name()));
        }
    }
}
