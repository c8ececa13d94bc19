//! The agent's configuration file, its defaults and its checks.
//!
//! Invariants
//! - Unknown keys are errors; nothing is guessed from a value that does not parse.
//! - Only a [`Config`] that passed [`Config::validate`] travels inward.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use kontiki_tls::CaHash;
use serde::{Deserialize, Serialize};

/// Everything an agent is told. Keys of the YAML file are the field names.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Node name.
    pub name: String,
    /// Certificate, key, pod directories and checkpoints.
    #[serde(default = "default_data_dir")]
    pub data_dir: PathBuf,
    /// The address other nodes reach this one by.
    pub node_ip: IpAddr,
    /// Node-session addresses ("ip:6444") of some or all masters.
    pub servers: Vec<String>,
    /// Join token ("id.secret"); needed until a certificate is in `data_dir`.
    #[serde(default)]
    pub token: Option<String>,
    /// `sha256:<hex>` of the cluster CA's public key; needed with `token`.
    #[serde(default)]
    pub ca_hash: Option<String>,
    #[serde(default = "default_containerd_socket")]
    pub containerd_socket: PathBuf,
    #[serde(default = "default_cni_bin_dir")]
    pub cni_bin_dir: PathBuf,
    /// Where the CNI configuration list is written.
    #[serde(default = "default_cni_conf_dir")]
    pub cni_conf_dir: PathBuf,
    /// What pods use as their name server; the tenth address of the service range unless given.
    #[serde(default)]
    pub cluster_dns: Option<IpAddr>,
    /// Whether the agent itself answers there. Without it the address is somebody else's.
    #[serde(default = "yes")]
    pub dns: bool,
    /// Whether this node serves Ingresses.
    #[serde(default = "yes")]
    pub ingress: bool,
    /// The address where it does; all that the machine has unless given.
    #[serde(default)]
    pub ingress_address: Option<IpAddr>,
    #[serde(default = "default_ingress_http_port")]
    pub ingress_http_port: u16,
    #[serde(default = "default_ingress_https_port")]
    pub ingress_https_port: u16,
    #[serde(default)]
    pub node_labels: BTreeMap<String, String>,
    /// `key=value:Effect` or `key:Effect`, set when the node first registers.
    #[serde(default)]
    pub register_taints: Vec<String>,
    #[serde(default)]
    pub registries: Registries,
    /// containerd's registry `config_path`, where `hosts.toml` files are written.
    #[serde(default = "default_certs_dir")]
    pub certs_dir: PathBuf,
    /// Whether pods may reach addresses outside the cluster (source NAT).
    #[serde(default = "yes")]
    pub egress: bool,
    #[serde(default = "default_max_pods")]
    pub max_pods: u32,
    /// Where container logs are written; `<data_dir>/logs` unless given.
    #[serde(default)]
    pub log_dir: Option<PathBuf>,
    /// Loopback port of `/healthz`.
    #[serde(default = "default_health_port")]
    pub health_port: u16,
}

/// Mirrors and credentials of image registries, in the shape k3s users know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registries {
    #[serde(default)]
    pub mirrors: BTreeMap<String, Mirror>,
    #[serde(default)]
    pub configs: BTreeMap<String, RegistryConfig>,
}

/// Where to look for a registry's images instead.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    #[serde(default)]
    pub endpoint: Vec<String>,
}

/// How to talk to one registry host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryConfig {
    #[serde(default)]
    pub auth: Option<RegistryAuth>,
    #[serde(default)]
    pub tls: Option<RegistryTls>,
}

/// Credentials of one registry host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryAuth {
    #[serde(default)]
    pub username: String,
    #[serde(default)]
    pub password: String,
    #[serde(default)]
    pub auth: String,
    #[serde(default)]
    pub identity_token: String,
}

/// TLS files and checks of one registry host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryTls {
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    #[serde(default)]
    pub cert_file: Option<PathBuf>,
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    #[serde(default)]
    pub insecure_skip_verify: bool,
}

fn default_data_dir() -> PathBuf {
    Path::new("/var/lib/kontiki/agent").to_owned()
}

fn default_containerd_socket() -> PathBuf {
    Path::new("/run/containerd/containerd.sock").to_owned()
}

fn default_cni_bin_dir() -> PathBuf {
    Path::new("/usr/lib/cni").to_owned()
}

fn default_cni_conf_dir() -> PathBuf {
    Path::new("/etc/cni/net.d").to_owned()
}

fn default_certs_dir() -> PathBuf {
    Path::new("/etc/containerd/certs.d").to_owned()
}

fn default_max_pods() -> u32 {
    110
}

fn default_ingress_http_port() -> u16 {
    80
}

fn default_ingress_https_port() -> u16 {
    443
}

fn default_health_port() -> u16 {
    10248
}

fn yes() -> bool {
    true
}

impl Config {
    /// Checks what types cannot.
    ///
    /// # Errors
    /// The first thing that cannot work.
    pub fn validate(&self) -> anyhow::Result<()> {
        let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        if self.name.is_empty() || self.name.len() > 253 || !self.name.chars().all(label) {
            bail!("name: {:?} cannot be a node name: lower-case letters, digits, '-' and '.' only", self.name);
        }
        if self.servers.is_empty() {
            bail!("servers: at least one address (\"ip:6444\") is needed");
        }
        for server in &self.servers {
            let port = server.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            if port.is_none_or(|p| p == 0) {
                bail!("servers: {server:?} is not \"host:port\"");
            }
        }
        if let Some(hash) = &self.ca_hash {
            hash.parse::<CaHash>().context("ca_hash")?;
        }
        for taint in &self.register_taints {
            parse_taint(taint).with_context(|| format!("register_taints: {taint:?} is not \"key=value:Effect\""))?;
        }
        let ports = [self.ingress_http_port, self.ingress_https_port];
        if self.ingress && (ports.contains(&0) || ports[0] == ports[1]) {
            bail!("ingress_http_port and ingress_https_port must be two different ports above 0");
        }
        if !self.data_dir.is_absolute() {
            bail!("data_dir: {} is not an absolute path", self.data_dir.display());
        }
        Ok(())
    }

    /// Directory of container logs.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.log_dir.clone().unwrap_or_else(|| self.data_dir.join("logs"))
    }

    /// Directory of one pod's volumes and files.
    #[must_use]
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.data_dir.join("pods").join(uid)
    }
}

/// `(key, value, effect)` of a taint.
#[must_use]
pub(crate) fn parse_taint(text: &str) -> Option<(&str, &str, &str)> {
    let (rest, effect) = text.rsplit_once(':')?;
    let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
    let known = ["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect);
    (known && !key.is_empty()).then_some((key, value, effect))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_named() {
        let base = "name: a1\nnode_ip: 10.0.0.1\n";
        for (name, text, expect) in [
            ("complete", "servers: ['10.0.0.2:6444']", ""),
            ("no server", "servers: []", "servers"),
            ("no port", "servers: [10.0.0.2]", "servers"),
            ("unknown key", "servers: ['a:1']\nserver: x", "server"),
            ("bad taint", "servers: ['a:1']\nregister_taints: [x]", "register_taints"),
            ("bad hash", "servers: ['a:1']\nca_hash: md5:1", "ca_hash"),
            ("other ports", "servers: ['a:1']\ningress_http_port: 8080\ningress_https_port: 8443", ""),
            ("one port for both", "servers: ['a:1']\ningress_http_port: 443", "ingress_http_port"),
            ("no address", "servers: ['a:1']\ningress_address: here", "ingress_address"),
        ] {
            let config = serde_yaml_ng::from_str::<Config>(&format!("{base}{text}"));
            let got = match config {
                Ok(config) => config.validate().err().map(|e| e.to_string()).unwrap_or_default(),
                Err(error) => error.to_string(),
            };
            assert!(if expect.is_empty() { got.is_empty() } else { got.contains(expect) }, "{name}: {got}");
        }
    }
}
