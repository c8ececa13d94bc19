//! The CNI configuration that containerd attaches pods with: bridge, host-local, portmap.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use ipnet::Ipv4Net;
use kontiki_files::{Readers, replace};
use serde_json::{Value, json};

use crate::config::{BRIDGE, NetConfig};

/// Plugins that the configuration names, and `loopback`, which containerd always needs.
pub(crate) const PLUGINS: [&str; 4] = ["bridge", "host-local", "portmap", "loopback"];
/// containerd takes the first file by name.
const FILE: &str = "10-kontiki.conflist";

/// Replaces the list as a whole: containerd watches the directory and must never see half a file. It does not take the
/// draft for a list, whose name ends otherwise.
pub(crate) fn write(config: &NetConfig, own: Ipv4Net, mtu: u32) -> Result<()> {
    let path = config.cni_conf_dir.join(FILE);
    let text = format!("{:#}\n", conflist(&config.ipam_dir, own, mtu));
    if fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::create_dir_all(&config.cni_conf_dir)
        .and_then(|()| fs::create_dir_all(&config.ipam_dir))
        .with_context(|| format!("making {} and {}", config.cni_conf_dir.display(), config.ipam_dir.display()))?;
    replace(&path, text.as_bytes(), Readers::All).with_context(|| format!("writing {}", path.display()))
}

fn conflist(ipam_dir: &Path, own: Ipv4Net, mtu: u32) -> Value {
    json!({
        "cniVersion": "0.4.0",
        "name": "kontiki",
        "plugins": [
            {
                "type": "bridge",
                "bridge": BRIDGE,
                "isGateway": true,
                // Masquerading is the service proxy's; two places would disagree.
                "ipMasq": false,
                // A pod that reaches itself through its Service comes back by its own port.
                "hairpinMode": true,
                "mtu": mtu,
                "ipam": {
                    "type": "host-local",
                    "dataDir": ipam_dir,
                    "ranges": [[{"subnet": own.to_string()}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}
