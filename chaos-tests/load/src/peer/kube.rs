//! kube-apiserver with one etcd, as they come: admission, priority and fairness, and RBAC by their defaults.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;
use kontiki_etcd_tests::{
    binaries,
    group::{Group, Kind, Options},
    pki::Certs,
    process::{Daemon, LOOPBACK},
};

/// etcd refuses writes above 2 GiB unless told otherwise; ours has no such bound.
const QUOTA: &str = "--quota-backend-bytes=8589934592";
const LOG_LINES: usize = 15;

pub struct Kube {
    apiserver: Daemon,
    etcd: Group,
    address: SocketAddr,
    admin: Certs,
}

impl Kube {
    /// Starts both; `None` where they cannot be built.
    ///
    /// # Errors
    /// One of them does not start.
    pub async fn start() -> Result<Option<Self>> {
        let Some(bin) = binaries::kube_apiserver()? else { return Ok(None) };
        let etcd = Group::start(Options::new(Kind::Etcd37, 1).extra(&[QUOTA])).await?;
        let [address] = kontiki_test_ports::free()?;
        let serving = etcd.pki().issue("kube-apiserver", &[LOOPBACK])?;
        let admin = etcd.pki().issue_in("administrator", Some("system:masters"), &[])?;
        let mut command = Command::new(bin);
        command.args(flags(&etcd, address, &serving));
        let apiserver = Daemon::start(command, etcd.dir().join("kube-apiserver.log"))?;
        Ok(Some(Self { apiserver, etcd, address, admin }))
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn certs(&self) -> &Certs {
        &self.admin
    }

    /// Ends the API server in order and starts it anew. Its etcd goes on.
    ///
    /// # Errors
    /// It does not end, or cannot be started.
    pub fn restart(&mut self) -> Result<()> {
        self.apiserver.restart()
    }

    pub fn pids(&self) -> Vec<u32> {
        let members = self.etcd.members().iter().filter_map(|member| member.pid().ok());
        std::iter::once(self.apiserver.pid()).chain(members).collect()
    }

    /// # Errors
    /// It has ended.
    pub fn running(&mut self) -> Result<()> {
        self.apiserver.running()
    }

    pub fn tails(&self) -> String {
        format!("{}\n{}", self.apiserver.tail(LOG_LINES), self.etcd.tails(LOG_LINES))
    }
}

fn flags(etcd: &Group, address: SocketAddr, serving: &Certs) -> Vec<String> {
    let file = |path: &Path| path.display().to_string();
    let (ca, cert, key) = (file(&serving.ca), file(&serving.cert), file(&serving.key));
    let own: PathBuf = etcd.dir().join("certificates");
    let (client_cert, client_key) = (file(&etcd.certs.cert), file(&etcd.certs.key));
    let (port, own) = (address.port().to_string(), file(&own));
    let pairs = [
        ("etcd-servers", etcd.endpoints()),
        ("etcd-cafile", ca.clone()),
        ("etcd-certfile", client_cert),
        ("etcd-keyfile", client_key),
        ("bind-address", LOOPBACK.to_string()),
        ("advertise-address", LOOPBACK.to_string()),
        ("secure-port", port),
        ("cert-dir", own),
        ("tls-cert-file", cert.clone()),
        ("tls-private-key-file", key.clone()),
        ("client-ca-file", ca),
        ("service-account-issuer", "https://kubernetes.default.svc".to_owned()),
        // Any key does: nobody comes with a token. The public one is read from the certificate.
        ("service-account-key-file", cert),
        ("service-account-signing-key-file", key),
        ("service-cluster-ip-range", "10.96.0.0/16".to_owned()),
        ("authorization-mode", "Node,RBAC".to_owned()),
        ("anonymous-auth", "true".to_owned()),
        // The loopback is no address for endpoints.
        ("endpoint-reconciler-type", "none".to_owned()),
    ];
    pairs.map(|(flag, value)| format!("--{flag}={value}")).into()
}
