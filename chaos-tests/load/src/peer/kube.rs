//! kube-apiserver with one etcd, as they come: admission, priority and fairness, and RBAC by their defaults. Beside it
//! as many kube-controller-managers as are asked for.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use kontiki_etcd_tests::{
    binaries,
    group::{Group, Kind, Options},
    pki::Certs,
    process::{Daemon, LOOPBACK},
    wait::until,
};
use serde_json::json;
use tokio::net::TcpStream;

/// etcd refuses writes above 2 GiB unless told otherwise; ours has no such bound.
const QUOTA: &str = "--quota-backend-bytes=8589934592";
const LOG_LINES: usize = 15;
/// Until a controller manager listens.
const LISTENS: Duration = Duration::from_secs(120);
/// Requests a second of a controller manager, and at once: what it has by default (20 and 30) would be all that is
/// measured.
const MANAGER_RATE: [&str; 2] = ["--kube-api-qps=1000", "--kube-api-burst=2000"];

pub struct Kube {
    apiserver: Daemon,
    etcd: Group,
    address: SocketAddr,
    admin: Certs,
    serving: Certs,
    /// The one that leads, then those that stand by.
    managers: Vec<Manager>,
}

struct Manager {
    process: Daemon,
    address: SocketAddr,
}

impl Kube {
    /// Starts both; `None` where they cannot be built.
    ///
    /// # Errors
    /// One of them does not start.
    pub async fn start() -> Result<Option<Self>> {
        let Some(bin) = binaries::kubernetes("kube-apiserver")? else { return Ok(None) };
        let etcd = Group::start(Options::new(Kind::Etcd37, 1).extra(&[QUOTA])).await?;
        let [address] = kontiki_test_ports::free()?;
        let serving = etcd.pki().issue("kube-apiserver", &[LOOPBACK])?;
        let admin = etcd.pki().issue_in("administrator", Some("system:masters"), &[])?;
        let mut command = Command::new(bin);
        command.args(flags(&etcd, address, &serving));
        let apiserver = Daemon::start(command, etcd.dir().join("kube-apiserver.log"))?;
        Ok(Some(Self { apiserver, etcd, address, admin, serving, managers: Vec::new() }))
    }

    /// Adds a controller manager and waits until it listens; with `standby`, they elect one of them.
    ///
    /// # Errors
    /// It cannot be had, or does not start.
    pub async fn add_manager(&mut self, standby: bool) -> Result<()> {
        let bin = binaries::kubernetes("kube-controller-manager")?;
        let bin = bin.context("no Go to build kube-controller-manager with")?;
        let [address] = kontiki_test_ports::free()?;
        let name = format!("manager-{}", self.managers.len());
        let own = self.etcd.dir().join(&name);
        fs::create_dir_all(&own)?;
        let certs = self.etcd.pki().issue_in(&name, Some("system:masters"), &[])?;
        let kubeconfig = own.join("kubeconfig");
        fs::write(&kubeconfig, kubeconfig_text(self.address, &certs))?;
        let mut command = Command::new(bin);
        command.args(MANAGER_RATE).args([
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--service-account-private-key-file={}", self.serving.key.display()),
            format!("--root-ca-file={}", self.serving.ca.display()),
            "--use-service-account-credentials=false".to_owned(),
            format!("--leader-elect={standby}"),
            format!("--bind-address={LOOPBACK}"),
            format!("--secure-port={}", address.port()),
            format!("--cert-dir={}", own.display()),
        ]);
        let mut manager = Manager { process: Daemon::start(command, own.join("log"))?, address };
        manager.listens().await?;
        self.managers.push(manager);
        Ok(())
    }

    /// The process of the controllers, if they run here.
    pub fn manager(&self) -> Option<u32> {
        self.managers.first().map(|manager| manager.process.pid())
    }

    /// Kills the manager that leads: the next in the row is expected to.
    ///
    /// # Errors
    /// The system refuses.
    pub fn kill_manager(&mut self) -> Result<()> {
        self.managers[0].process.kill()?;
        self.managers.rotate_left(1);
        Ok(())
    }

    /// Starts the killed one: it stands by.
    ///
    /// # Errors
    /// It cannot be started.
    pub async fn mend(&mut self) -> Result<()> {
        let killed = self.managers.last_mut().context("a manager")?;
        killed.process.restart()?;
        killed.listens().await
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
        let managers = self.managers.iter().map(|manager| manager.process.pid());
        std::iter::once(self.apiserver.pid()).chain(members).chain(managers).collect()
    }

    /// # Errors
    /// It has ended.
    pub fn running(&mut self) -> Result<()> {
        self.managers.iter_mut().try_for_each(|manager| manager.process.running())?;
        self.apiserver.running()
    }

    pub fn tails(&self) -> String {
        let managers: String = self.managers.iter().map(|manager| manager.process.tail(LOG_LINES) + "\n").collect();
        format!("{}\n{managers}{}", self.apiserver.tail(LOG_LINES), self.etcd.tails(LOG_LINES))
    }
}

impl Manager {
    async fn listens(&mut self) -> Result<()> {
        let listens = until("a controller manager listens", LISTENS, async || {
            self.process.running()?;
            TcpStream::connect(self.address).await?;
            anyhow::Ok(())
        });
        let listens = listens.await;
        listens.with_context(|| self.process.tail(LOG_LINES))
    }
}

/// JSON is YAML, too.
fn kubeconfig_text(server: SocketAddr, certs: &Certs) -> String {
    let (cluster, user) = (
        json!({ "server": format!("https://{server}"), "certificate-authority": certs.ca }),
        json!({ "client-certificate": certs.cert, "client-key": certs.key }),
    );
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "it", "cluster": cluster }],
        "users": [{ "name": "it", "user": user }],
        "contexts": [{ "name": "it", "context": { "cluster": "it", "user": "it" } }],
        "current-context": "it",
    });
    config.to_string()
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
