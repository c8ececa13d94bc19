//! Kernel switches that forwarding between pods depends on.

use std::{fs, io, path::Path};

use anyhow::{Context as _, Result};

/// `key, value, required`: keys that a kernel may lack are not required.
const WANTED: &[(&str, &str, bool)] = &[
    ("net/ipv4/ip_forward", "1", true),
    // Pods of one bridge reach each other through it (`proxy::divert`): nobody is to be told of a shorter way.
    ("net/ipv4/conf/all/send_redirects", "0", false),
    ("net/ipv4/conf/default/send_redirects", "0", false),
    // A pod that reaches a pod of its own bridge through a Service needs its reply un-NATed.
    ("net/bridge/bridge-nf-call-iptables", "1", false),
    // Masqueraded and encapsulated traffic may come back by another interface.
    ("net/ipv4/conf/all/rp_filter", "0", false),
    ("net/ipv4/conf/default/rp_filter", "0", false),
    // A reply that a firewall drops as out of window must not leave its connection half NATed.
    ("net/netfilter/nf_conntrack_tcp_be_liberal", "1", false),
];

/// Sets all switches of the calling process's network namespace.
pub(crate) fn prepare() -> Result<()> {
    for (key, value, required) in WANTED {
        match set(key, value) {
            Ok(()) => {}
            Err(error) if !required => tracing::debug!(key, %error, "kernel switch left alone"),
            Err(error) => return Err(error).with_context(|| format!("setting {key} to {value}")),
        }
    }
    Ok(())
}

/// Nobody is told of a shorter way than through `link`, which may be older than [`prepare`].
pub(crate) fn no_redirects(link: &str) -> Result<()> {
    let key = format!("net/ipv4/conf/{link}/send_redirects");
    set(&key, "0").with_context(|| format!("setting {key} to 0"))
}

/// Writes one switch, unless it has that value already.
fn set(key: &str, value: &str) -> io::Result<()> {
    let path = Path::new("/proc/sys").join(key);
    if fs::read_to_string(&path)?.trim() == value {
        return Ok(());
    }
    fs::write(path, value)
}
