//! The server's configuration: what was typed ([`Config`]) and what was meant ([`Settings`]).
//!
//! Invariants
//! - Unknown keys are errors, and so are values that do not fit together; nothing is guessed.
//! - Only [`Settings`] travels inward.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;
use jiff::{Span, SpanRelativeTo};
use serde::{Deserialize, Serialize};

use kontiki_store::Past;
use kontiki_tls::CaHash;

use crate::api_options::ApiOptions;
use crate::audit_log::AuditOptions;
use crate::sealing::Encryption;
use crate::token::JoinToken;

/// What was typed: the YAML file, with flags laid over it by the CLI.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Name of this server; unique in the cluster.
    pub name: String,
    /// Where the server keeps its state.
    pub data_dir: PathBuf,
    /// The address by which the other servers, agents and clients reach this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise_address: Option<IpAddr>,
    /// The address to listen on; all addresses unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen_address: Option<IpAddr>,
    /// Kubernetes API (HTTPS).
    pub api_port: u16,
    /// Node sessions and joining (gRPC).
    pub node_port: u16,
    /// Raft peers (gRPC).
    pub peer_port: u16,
    /// Where the etcd API is served (gRPC) to holders of a master's or an administrator's
    /// certificate; an empty text turns it off.
    pub etcd_listen: String,
    /// Whether to start a new cluster when `data_dir` is empty.
    pub bootstrap: bool,
    /// How to join a cluster when `data_dir` is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub join: Option<Join>,
    /// Addresses of pods; a setting of the whole cluster, fixed when it is started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_cidr: Option<IpNet>,
    /// Addresses of Services; as `pod_cidr`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_cidr: Option<IpNet>,
    /// DNS domain of the cluster; as `pod_cidr`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_domain: Option<String>,
    /// Whether the nodes answer DNS for the cluster, and the Service `kube-dns` says so.
    pub dns: bool,
    /// Whether Services of type LoadBalancer get addresses of AddressPools; off leaves them to others.
    pub lb: bool,
    /// Whether nodes serve Ingresses of classes with the controller `kontiki.dev/ingress`; off leaves all to others.
    pub ingress: bool,
    /// The control plane's virtual address with the prefix length of its network; as `pod_cidr`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vip: Option<IpNet>,
    /// `error`, `warn`, `info`, `debug`, `trace`, or a tracing filter.
    pub log_level: String,
    /// Keeps the cluster below later feature levels, so that an upgrade can be taken back until this is left away.
    pub max_feature_level: Option<u32>,
    /// How long the past of objects is kept for whoever asks for it, such as `8h`; `0s`: not at all.
    pub history: String,
    /// Bytes of files, about, that it may take. The oldest goes first.
    pub history_bytes: u64,
    /// The Kubernetes API: optional steps of admission, limits.
    pub api: ApiOptions,
    /// What is sealed in the store, and with which keys.
    pub encryption: Encryption,
    /// What is recorded of requests to the API, and where; nothing unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditOptions>,
    /// Where the log goes; standard error unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_file: Option<PathBuf>,
}

/// How to reach and trust a running cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// Servers of the cluster, `address:6444`.
    pub servers: Vec<String>,
    /// `id.secret`, as printed by `kontiki token create`.
    pub token: String,
    /// `sha256:<hex>`, the hash of the cluster CA's public key.
    pub ca_hash: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: String::new(),
            data_dir: PathBuf::from("/var/lib/kontiki/server"),
            advertise_address: None,
            listen_address: None,
            api_port: 6443,
            node_port: 6444,
            peer_port: 2380,
            etcd_listen: "127.0.0.1:2379".to_owned(),
            bootstrap: false,
            join: None,
            pod_cidr: None,
            service_cidr: None,
            cluster_domain: None,
            dns: true,
            lb: true,
            ingress: true,
            vip: None,
            log_level: "info".to_owned(),
            max_feature_level: None,
            history: "8h".to_owned(),
            history_bytes: 64 << 20,
            api: ApiOptions::default(),
            encryption: Encryption::default(),
            audit: None,
            log_file: None,
        }
    }
}

/// What the cluster's members must agree on; made by the first server, handed to those that join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterSettings {
    /// Addresses of pods.
    pub pod_cidr: IpNet,
    /// Addresses of Services.
    pub service_cidr: IpNet,
    /// DNS domain.
    pub cluster_domain: String,
    /// The control plane's virtual address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vip: Option<IpNet>,
}

/// Cluster-wide values that this server's configuration names; they must not contradict the
/// cluster's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterOptions {
    pod_cidr: Option<IpNet>,
    service_cidr: Option<IpNet>,
    cluster_domain: Option<String>,
    vip: Option<IpNet>,
}

/// How a server with an empty data directory begins.
#[derive(Clone, Debug)]
pub enum Origin {
    /// Starts a new cluster.
    Bootstrap,
    /// Joins a running one.
    Join(JoinSettings),
    /// Neither was configured: only a restart is possible.
    Restart,
}

/// A checked [`Join`].
#[derive(Clone, Debug)]
pub struct JoinSettings {
    /// `host:port` of node sessions.
    pub servers: Vec<String>,
    /// The token.
    pub token: JoinToken,
    /// The pin.
    pub ca_hash: CaHash,
}

/// What was meant.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of this server.
    pub name: String,
    /// State directory.
    pub data_dir: PathBuf,
    /// Address by which others reach this server.
    pub advertise: IpAddr,
    /// Whether the nodes answer DNS for the cluster.
    pub dns: bool,
    /// See [`Config::lb`].
    pub lb: bool,
    /// See [`Config::ingress`].
    pub ingress: bool,
    /// Kubernetes API.
    pub api_listen: SocketAddr,
    /// Node sessions.
    pub node_listen: SocketAddr,
    /// Raft peers.
    pub peer_listen: SocketAddr,
    /// Where the etcd API is served, if it is.
    pub etcd_listen: Option<SocketAddr>,
    /// What an empty data directory means.
    pub origin: Origin,
    /// Cluster-wide values named here.
    pub cluster: ClusterOptions,
    /// See [`Config::max_feature_level`].
    pub max_feature_level: Option<u32>,
    /// See [`Config::history`] and [`Config::history_bytes`].
    pub past: Past,
    /// See [`Config::api`].
    pub api: ApiOptions,
    /// See [`Config::encryption`].
    pub encryption: Encryption,
    /// See [`Config::audit`].
    pub audit: Option<AuditOptions>,
    /// See [`Config::flags`].
    pub flags: BTreeMap<String, String>,
}

/// What is wrong with a configuration; one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

fn error<T>(text: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError(text.into()))
}

/// A length of time, in which a day has 24 hours.
fn age(key: &str, text: &str) -> Result<Duration, ConfigError> {
    let span = text.parse::<Span>().and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()));
    let age = span.ok().and_then(|span| Duration::try_from(span).ok());
    age.map_or_else(|| error(format!("{key}: {text:?} is not a length of time such as 30m, 8h or 2d")), Ok)
}

/// Puts the keys within keys beside each other.
fn spread(flags: &mut BTreeMap<String, String>, key: String, value: serde_json::Value) {
    match value {
        serde_json::Value::Object(inner) => {
            for (name, value) in inner {
                let key = if key.is_empty() { name } else { format!("{key}.{name}") };
                spread(flags, key, value);
            }
        }
        serde_json::Value::String(text) => drop(flags.insert(key, text)),
        serde_json::Value::Null => drop(flags.insert(key, String::new())),
        other => drop(flags.insert(key, other.to_string())),
    }
}

impl Config {
    /// Reads the YAML form.
    ///
    /// # Errors
    /// Unknown keys and values of the wrong type, with their line.
    pub fn from_yaml(text: &str) -> Result<Self, ConfigError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        serde_yaml_ng::from_str(text).map_err(|e| ConfigError(e.to_string().replace('\n', " ")))
    }

    /// Checks the values and fills the defaults in.
    ///
    /// # Errors
    /// The first value that cannot be used, and why.
    pub fn validate(&self) -> Result<Settings, ConfigError> {
        if !is_label(&self.name) {
            return error(format!("name: {:?} is not a lower-case DNS label such as \"s1\"", self.name));
        }
        let Some(advertise) = self.advertise_address else {
            return error("advertise_address: required, the address by which others reach this server");
        };
        if advertise.is_unspecified() || advertise.is_multicast() {
            return error(format!("advertise_address: {advertise} is not the address of one machine"));
        }
        let ports = [self.api_port, self.node_port, self.peer_port];
        if ports.contains(&0) || ports[0] == ports[1] || ports[0] == ports[2] || ports[1] == ports[2] {
            return error("api_port, node_port and peer_port must be three different ports above 0");
        }
        if let Some(vip) = self.vip {
            check_vip(vip, advertise)?;
        }
        let listen = self.listen_address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let cluster = ClusterOptions {
            pod_cidr: self.pod_cidr.map(|net| net.trunc()),
            service_cidr: self.service_cidr.map(|net| net.trunc()),
            cluster_domain: self.cluster_domain.clone(),
            vip: self.vip,
        };
        cluster.settle()?;
        self.api.admission(0).map_err(ConfigError)?;
        self.encryption.check().map_err(ConfigError)?;
        let etcd_listen = match self.etcd_listen.as_str() {
            "" => None,
            text => Some(text.parse().or_else(|_| {
                error(format!("etcd_listen: {text:?} is not an address with a port such as 127.0.0.1:2379"))
            })?),
        };
        Ok(Settings {
            name: self.name.clone(),
            data_dir: self.data_dir.clone(),
            advertise,
            dns: self.dns,
            lb: self.lb,
            ingress: self.ingress,
            api_listen: SocketAddr::new(listen, self.api_port),
            node_listen: SocketAddr::new(listen, self.node_port),
            peer_listen: SocketAddr::new(listen, self.peer_port),
            etcd_listen,
            origin: self.origin()?,
            cluster,
            max_feature_level: self.max_feature_level,
            past: Past { time: age("history", &self.history)?, bytes: self.history_bytes },
            api: self.api.clone(),
            encryption: self.encryption.clone(),
            audit: self.audit.clone(),
            flags: self.flags(),
        })
    }

    /// Every key with its value, as `/flagz` shows them. The token is not told.
    #[must_use]
    pub fn flags(&self) -> BTreeMap<String, String> {
        let mut flags = BTreeMap::new();
        spread(&mut flags, String::new(), serde_json::to_value(self).unwrap_or_default());
        if let Some(token) = flags.get_mut("join.token") {
            "CLASSIFIED".clone_into(token);
        }
        flags
    }

    fn origin(&self) -> Result<Origin, ConfigError> {
        match (&self.join, self.bootstrap) {
            (Some(_), true) => error("bootstrap and join exclude each other"),
            (None, true) => Ok(Origin::Bootstrap),
            (None, false) => Ok(Origin::Restart),
            (Some(join), false) => {
                if join.servers.is_empty() {
                    return error("join.servers: at least one server is needed");
                }
                if let Some(bad) = join.servers.iter().find(|server| !is_host_port(server)) {
                    return error(format!("join.servers: {bad:?} is not \"address:port\""));
                }
                let token = join.token.parse().map_err(|e| ConfigError(format!("join.token: {e}")))?;
                let ca_hash = join.ca_hash.parse().map_err(|e| ConfigError(format!("join.ca_hash: {e}")))?;
                Ok(Origin::Join(JoinSettings { servers: join.servers.clone(), token, ca_hash }))
            }
        }
    }
}

impl ClusterOptions {
    /// The settings of a cluster started with these options.
    ///
    /// # Errors
    /// Ranges that are too small or overlap, or a bad domain.
    pub fn settle(&self) -> Result<ClusterSettings, ConfigError> {
        let v4 = |a, b, prefix| IpNet::new(IpAddr::V4(Ipv4Addr::new(10, a, b, 0)), prefix).expect("prefix within 32");
        let settings = ClusterSettings {
            pod_cidr: self.pod_cidr.unwrap_or_else(|| v4(244, 0, 16)),
            service_cidr: self.service_cidr.unwrap_or_else(|| v4(96, 0, 16)),
            cluster_domain: self.cluster_domain.clone().unwrap_or_else(|| "cluster.local".to_owned()),
            vip: self.vip,
        };
        let (pods, services) = (settings.pod_cidr, settings.service_cidr);
        if pods.contains(&services) || services.contains(&pods) {
            return error(format!("pod_cidr {pods} and service_cidr {services} overlap"));
        }
        if pods.max_prefix_len() - pods.prefix_len() < 9 {
            return error(format!("pod_cidr: {pods} is too small, each node takes 256 addresses of it"));
        }
        if services.max_prefix_len() - services.prefix_len() < 4 {
            return error(format!("service_cidr: {services} is too small"));
        }
        if !settings.cluster_domain.split('.').all(is_label) {
            return error(format!("cluster_domain: {:?} is not a DNS domain", settings.cluster_domain));
        }
        Ok(settings)
    }

    /// Whether a running cluster's settings are the ones asked for here.
    ///
    /// # Errors
    /// The first that differs.
    pub fn agree_with(&self, cluster: &ClusterSettings) -> Result<(), ConfigError> {
        fn check<T: PartialEq + std::fmt::Display>(key: &str, wish: Option<&T>, has: &T) -> Result<(), ConfigError> {
            match wish {
                Some(wish) if wish != has => error(format!("{key}: {wish} differs from the cluster's {has}")),
                _ => Ok(()),
            }
        }
        check("pod_cidr", self.pod_cidr.as_ref(), &cluster.pod_cidr)?;
        check("service_cidr", self.service_cidr.as_ref(), &cluster.service_cidr)?;
        check("cluster_domain", self.cluster_domain.as_ref(), &cluster.cluster_domain)?;
        match (self.vip, cluster.vip) {
            (Some(wish), has) if has != Some(wish) => {
                let has = has.map_or_else(|| "having none".to_owned(), |has| has.to_string());
                error(format!("vip: {wish} differs from the cluster's {has}"))
            }
            _ => Ok(()),
        }
    }
}

fn check_vip(vip: IpNet, advertise: IpAddr) -> Result<(), ConfigError> {
    if vip.addr() == advertise {
        return error(format!("vip: {} is this server's own address", vip.addr()));
    }
    if !vip.contains(&advertise) {
        return error(format!("vip: {advertise} is not in its network {}", vip.trunc()));
    }
    Ok(())
}

pub(crate) fn is_label(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= 63
        && bytes.iter().all(|c| inner(*c) || *c == b'-')
        && inner(bytes[0])
        && inner(bytes[bytes.len() - 1])
}

pub(crate) fn is_host_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "name: s1\nadvertise_address: 10.0.0.11\n";

    fn outcome(extra: &str) -> String {
        match Config::from_yaml(&format!("{BASE}{extra}")).and_then(|c| c.validate()) {
            Ok(_) => "ok".to_owned(),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn bad_values_are_named() {
        let token = "token: abcdef.0123456789abcdef";
        let hash = format!("ca_hash: 'sha256:{}'", "0".repeat(64));
        for (extra, expect) in [
            ("", "ok"),
            ("bootstrap: true\nvip: 10.0.0.10/24\n", "ok"),
            (&format!("join: {{servers: ['10.0.0.12:6444'], {token}, {hash}}}\n"), "ok"),
            (
                &format!("bootstrap: true\njoin: {{servers: ['10.0.0.12:6444'], {token}, {hash}}}\n"),
                "exclude each other",
            ),
            (&format!("join: {{servers: [], {token}, {hash}}}\n"), "at least one server"),
            (&format!("join: {{servers: ['10.0.0.12'], {token}, {hash}}}\n"), "is not \"address:port\""),
            (&format!("join: {{servers: ['10.0.0.12:6444'], token: x, {hash}}}\n"), "join.token"),
            (&format!("join: {{servers: ['10.0.0.12:6444'], {token}, ca_hash: md5}}\n"), "join.ca_hash"),
            ("colour: red\n", "unknown field `colour`"),
            ("history: 0s\n", "ok"),
            ("history: 2d\nhistory_bytes: 1000000000\n", "ok"),
            ("history: -8h\n", "history: \"-8h\" is not a length of time"),
            ("history: long\n", "history: \"long\" is not a length of time"),
            ("api_port: 6444\n", "three different ports"),
            ("api_port: many\n", "invalid type"),
            ("vip: 10.0.0.11/24\n", "own address"),
            ("vip: 10.0.1.10/24\n", "not in its network"),
            ("pod_cidr: 10.96.0.0/12\n", "overlap"),
            ("pod_cidr: 10.244.0.0/24\n", "too small"),
            ("cluster_domain: 'Bad domain'\n", "not a DNS domain"),
            ("encryption: {resources: [secrets, configmaps, widgets.example.com]}\n", "ok"),
            ("encryption: {resources: [nodes]}\n", "encryption.resources: nodes"),
        ] {
            let got = outcome(extra);
            assert!(if expect == "ok" { got == "ok" } else { got.contains(expect) }, "{extra}: {got}");
            assert!(!got.contains('\n'), "{got}");
        }
    }

    #[test]
    fn flags_show_every_key_but_no_secret() {
        let (token, hash) = ("token: abcdef.0123456789abcdef", format!("ca_hash: 'sha256:{}'", "0".repeat(64)));
        let text = format!(
            "{BASE}api: {{max_requests_inflight: 7}}\njoin: {{servers: ['10.0.0.12:6444'], {token}, {hash}}}\n"
        );
        let flags = Config::from_yaml(&text).and_then(|c| c.validate()).expect("valid").flags;
        for (key, value) in [
            ("name", "s1"),
            ("api_port", "6443"),
            ("api.max_requests_inflight", "7"),
            ("max_feature_level", ""),
            ("join.servers", "[\"10.0.0.12:6444\"]"),
            ("join.token", "CLASSIFIED"),
        ] {
            assert_eq!(flags.get(key).map(String::as_str), Some(value), "{key}");
        }
        assert!(!flags.values().any(|value| value.contains("0123456789abcdef")));
    }

    #[test]
    fn a_joining_server_may_not_contradict_the_cluster() {
        let cluster = ClusterOptions::default().settle().expect("defaults are valid");
        let with =
            |yaml: &str| Config::from_yaml(&format!("{BASE}{yaml}")).and_then(|c| c.validate()).expect("valid").cluster;
        assert_eq!(with("").agree_with(&cluster), Ok(()));
        assert_eq!(with("pod_cidr: 10.244.0.0/16").agree_with(&cluster), Ok(()));
        for (yaml, expect) in [
            ("pod_cidr: 10.250.0.0/16", "pod_cidr: 10.250.0.0/16 differs from the cluster's 10.244.0.0/16"),
            ("vip: 10.0.0.10/24", "vip: 10.0.0.10/24 differs from the cluster's having none"),
        ] {
            assert_eq!(with(yaml).agree_with(&cluster).map_err(|e| e.to_string()), Err(expect.to_owned()));
        }
    }
}
