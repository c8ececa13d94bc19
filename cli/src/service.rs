//! `kontiki server` and `kontiki agent`: configuration, logging, signals.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::ArgMatches;
use tokio_util::sync::CancellationToken;

use crate::overlay::{Key, Keys, Shape};

/// Keys of the server's configuration; a test compares them with the type's own.
pub static SERVER: Keys = Keys {
    default_file: "/etc/kontiki/server.yaml",
    keys: &[
        Key { path: "name", shape: Shape::Text, help: "Name of this server, unique in the cluster" },
        Key {
            path: "data_dir",
            shape: Shape::Text,
            help: "Where the server keeps its state [default: /var/lib/kontiki/server]",
        },
        Key { path: "advertise_address", shape: Shape::Text, help: "The address by which others reach this server" },
        Key { path: "listen_address", shape: Shape::Text, help: "The address to listen on [default: all]" },
        Key { path: "api_port", shape: Shape::Number, help: "Kubernetes API [default: 6443]" },
        Key { path: "node_port", shape: Shape::Number, help: "Node sessions and joining [default: 6444]" },
        Key { path: "peer_port", shape: Shape::Number, help: "Raft peers [default: 2380]" },
        Key {
            path: "etcd_listen",
            shape: Shape::Text,
            help: "Where to serve the etcd API, empty for nowhere [default: 127.0.0.1:2379]",
        },
        Key { path: "bootstrap", shape: Shape::Switch, help: "Start a new cluster if the data directory is empty" },
        Key { path: "join.servers", shape: Shape::List, help: "Join the cluster of these servers (address:6444)" },
        Key { path: "join.token", shape: Shape::Text, help: "Join token, from `kontiki token create`" },
        Key { path: "join.ca_hash", shape: Shape::Text, help: "Hash of the cluster CA, sha256:<hex>" },
        Key { path: "pod_cidr", shape: Shape::Text, help: "Addresses of pods [default: 10.244.0.0/16]" },
        Key { path: "service_cidr", shape: Shape::Text, help: "Addresses of Services [default: 10.96.0.0/16]" },
        Key {
            path: "dns",
            shape: Shape::Switch,
            help: "Whether nodes answer DNS for the cluster; off leaves it to others [default: true]",
        },
        Key {
            path: "lb",
            shape: Shape::Switch,
            help: "Whether load balancers get addresses of AddressPools; off leaves them to others [default: true]",
        },
        Key {
            path: "ingress",
            shape: Shape::Switch,
            help: "Whether nodes serve Ingresses of the class kontiki; off leaves all to others [default: true]",
        },
        Key { path: "cluster_domain", shape: Shape::Text, help: "DNS domain of the cluster [default: cluster.local]" },
        Key { path: "api", shape: Shape::Yaml, help: "Options of the API server: authentication, admission, fairness" },
        Key {
            path: "encryption",
            shape: Shape::Yaml,
            help: "What is ciphertext in the store, and the file of its keys [default: secrets, <data_dir>/pki/encryption.key]",
        },
        Key { path: "audit", shape: Shape::Yaml, help: "Policy and files of the audit log [default: none]" },
        Key { path: "vip", shape: Shape::Text, help: "Virtual address of the control plane, with its prefix length" },
        Key {
            path: "log_level",
            shape: Shape::Text,
            help: "error, warn, info, debug, trace or a filter [default: info]",
        },
        Key {
            path: "max_feature_level",
            shape: Shape::Number,
            help: "Keep the cluster below later feature levels, until an upgrade is surely kept",
        },
        Key {
            path: "history",
            shape: Shape::Text,
            help: "How long the past of objects is kept for kontiki get, log and undo [default: 8h]",
        },
        Key { path: "history_bytes", shape: Shape::Number, help: "Bytes that it may take [default: 67108864]" },
        Key { path: "log_file", shape: Shape::Text, help: "Where the log goes [default: standard error]" },
    ],
};

/// Keys of the agent's configuration.
pub static AGENT: Keys = Keys {
    default_file: "/etc/kontiki/agent.yaml",
    keys: &[
        Key { path: "name", shape: Shape::Text, help: "Node name" },
        Key {
            path: "data_dir",
            shape: Shape::Text,
            help: "Where the agent keeps its state [default: /var/lib/kontiki/agent]",
        },
        Key { path: "node_ip", shape: Shape::Text, help: "The address by which other nodes reach this one" },
        Key { path: "servers", shape: Shape::List, help: "Some or all servers (address:6444)" },
        Key { path: "token", shape: Shape::Text, help: "Join token, needed until the agent has a certificate" },
        Key { path: "ca_hash", shape: Shape::Text, help: "Hash of the cluster CA, sha256:<hex>" },
        Key {
            path: "containerd_socket",
            shape: Shape::Text,
            help: "containerd's socket [default: /run/containerd/containerd.sock]",
        },
        Key { path: "cni_bin_dir", shape: Shape::Text, help: "CNI plugins [default: /usr/lib/cni]" },
        Key {
            path: "cni_conf_dir",
            shape: Shape::Text,
            help: "Where the CNI configuration is written [default: /etc/cni/net.d]",
        },
        Key {
            path: "cluster_dns",
            shape: Shape::Text,
            help: "Name server of pods [default: the tenth address of the service range]",
        },
        Key {
            path: "dns",
            shape: Shape::Switch,
            help: "Whether the agent answers there; off leaves cluster DNS to others [default: true]",
        },
        Key {
            path: "ingress",
            shape: Shape::Switch,
            help: "Whether this node serves Ingresses of the class kontiki [default: true]",
        },
        Key {
            path: "ingress_address",
            shape: Shape::Text,
            help: "The address where it serves them [default: all that the machine has]",
        },
        Key { path: "ingress_http_port", shape: Shape::Number, help: "Their port of HTTP [default: 80]" },
        Key { path: "ingress_https_port", shape: Shape::Number, help: "Their port of HTTPS [default: 443]" },
        Key { path: "node_labels", shape: Shape::Map, help: "Labels the node registers with" },
        Key { path: "register_taints", shape: Shape::List, help: "Taints the node registers with (key=value:Effect)" },
        Key { path: "registries", shape: Shape::Yaml, help: "Mirrors and credentials of image registries" },
        Key {
            path: "certs_dir",
            shape: Shape::Text,
            help: "containerd's registry directory [default: /etc/containerd/certs.d]",
        },
        Key {
            path: "egress",
            shape: Shape::Switch,
            help: "Whether pods may reach addresses outside the cluster [default: true]",
        },
        Key {
            path: "log_dir",
            shape: Shape::Text,
            help: "Where container logs are written [default: <data_dir>/logs]",
        },
        Key { path: "max_pods", shape: Shape::Number, help: "How many pods the node takes [default: 110]" },
        Key { path: "health_port", shape: Shape::Number, help: "Loopback port of /healthz [default: 10248]" },
    ],
};

/// Runs a server until it is told to stop.
pub fn server(flags: &ArgMatches) -> Result<ExitCode> {
    let config: kontiki_server::Config = SERVER.read(flags)?;
    runtime()?.block_on(kontiki_server::run(config))?;
    Ok(ExitCode::SUCCESS)
}

/// Runs an agent until it is told to stop.
pub fn agent(flags: &ArgMatches) -> Result<ExitCode> {
    let config: kontiki_agent::Config = AGENT.read(flags)?;
    log()?;
    runtime()?.block_on(async {
        let stop = CancellationToken::new();
        let signals = watch_signals(stop.clone())?;
        let result = kontiki_agent::run(config, stop).await;
        signals.abort();
        result
    })?;
    Ok(ExitCode::SUCCESS)
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")
}

fn log() -> Result<()> {
    let filter = match std::env::var("KONTIKI_LOG").or_else(|_| std::env::var("RUST_LOG")) {
        Ok(text) => tracing_subscriber::EnvFilter::try_new(&text).with_context(|| format!("log filter {text:?}"))?,
        Err(_) => tracing_subscriber::EnvFilter::new("info"),
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
    Ok(())
}

fn watch_signals(stop: CancellationToken) -> Result<tokio::task::JoinHandle<()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("watching for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watching for SIGINT")?;
    Ok(tokio::spawn(async move {
        // Cancel-safe: a signal that arrives while the other is taken stays recorded.
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    }))
}

#[cfg(test)]
mod tests {
    use serde_yaml_ng::Value;

    use super::*;

    /// Top-level keys that a type accepts, as serde names them when it meets an unknown one.
    fn accepted<T: serde::de::DeserializeOwned>() -> Vec<String> {
        let probe: Value = serde_yaml_ng::from_str("{no_such_key: 1}").unwrap();
        let Err(error) = serde_yaml_ng::from_value::<T>(probe) else { panic!("unknown keys must be errors") };
        let text = error.to_string();
        let (_, list) = text.split_once("expected one of ").expect("serde lists the keys");
        list.split(", ").map(|key| key.trim_matches('`').to_owned()).collect()
    }

    #[test]
    fn every_key_is_a_flag() {
        for (keys, mut accepted) in
            [(&SERVER, accepted::<kontiki_server::Config>()), (&AGENT, accepted::<kontiki_agent::Config>())]
        {
            let mut flags: Vec<String> =
                keys.keys.iter().map(|key| key.path.split('.').next().unwrap().to_owned()).collect();
            flags.dedup();
            flags.sort();
            accepted.sort();
            assert_eq!(flags, accepted);
        }
    }
}
