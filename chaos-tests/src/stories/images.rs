//! Images from a real registry, through a mirror, with and without credentials.

use std::{path::Path, process::Stdio};

use anyhow::{Context, Result, anyhow, ensure};
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

use super::{IMAGE, Scratch, has, shows};
use crate::{cluster::Cluster, wait};

/// The registry behind [`Cluster::mirror`]; the user is `ali`, the password `opensesame`.
const CONFIG: &str = "version: 0.1\nstorage: {filesystem: {rootdirectory: DIR/data}}\n\
                      http: {addr: ADDRESS}\nauth: {htpasswd: {realm: test, path: DIR/htpasswd}}\n";
const HTPASSWD: &str = "ali:$2b$05$abcdefghijklmnopqrstuuQbLfdQZSxZ9gjhA5V9o8Tyc6aQRO0Qi\n";

/// Debian's docker-registry, unpacked beside the build and not installed: the package starts a service.
const FETCH: &str =
    "mkdir -p ~/.cache/kontiki && cd ~/.cache/kontiki && { test -x registry/usr/bin/docker-registry || {
  rm -rf registry.new && mkdir registry.new && cd registry.new &&
  apt() { apt-get -qq -o APT::Sandbox::User=root \"$@\"; } &&
  { apt download docker-registry || { apt update && apt download docker-registry; }; } &&
  dpkg -x docker-registry_*.deb . &&
  cd .. && rm -rf registry && mv registry.new registry; }; } && realpath registry/usr/bin/docker-registry";

pub async fn images_come_from_a_registry_behind_a_mirror(c: &Cluster) -> Result<()> {
    let s = Scratch::new(c, "story-images").await?;
    let (host, address) = c.mirror();
    let _registry = registry(&c.dir().join("registry"), &address).await?;
    let pushed = format!("{address}/team/web:1");
    let socket = c.socket("a1");
    let ctr = async |args: &[&str]| {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(&socket).args(["-n", "k8s.io", "images"]).args(args);
        let ended = command.output().await?;
        ensure!(ended.status.success(), "ctr {args:?}: {}", String::from_utf8_lossy(&ended.stderr));
        Ok(())
    };
    ctr(&["tag", IMAGE, &pushed]).await?;
    ctr(&["push", "--plain-http", "--user", "ali:opensesame", &pushed]).await?;
    ctr(&["rm", &pushed]).await?;

    let image = format!("{host}/team/web:1");
    s.kubectl_args(&["run", "refused", "--image", &image, "--image-pull-policy=Always"]).await?;
    let waiting = "get pod refused -o jsonpath={.status.containerStatuses[0].state.waiting}";
    wait::until("a pull without credentials fails", wait::PATIENCE, async || {
        let state = s.kubectl(waiting).await?;
        if state.contains("ImagePull") { Ok(()) } else { Err(anyhow!("{state}")) }
    })
    .await?;
    shows("why", "Failed to pull image", async || s.kubectl("describe pod refused").await).await?;
    let secret = "create secret docker-registry pull --docker-username=ali --docker-password=opensesame";
    s.kubectl(&format!("{secret} --docker-server={host}")).await?;
    let with = r#"--overrides={"spec":{"terminationGracePeriodSeconds":1,"imagePullSecrets":[{"name":"pull"}]}}"#;
    s.kubectl_args(&["run", "web", "--image", &image, "--image-pull-policy=Always", with]).await?;
    s.kubectl("wait --for=condition=Ready pod/web --timeout=180s").await?;
    shows("the pull", "Successfully pulled image", async || s.kubectl("describe pod web").await).await?;
    let id = s.kubectl("get pod web -o jsonpath={.status.containerStatuses[0].imageID}").await?;
    has(&id, &format!("{host}/team/web@sha256:"))?;
    s.done().await
}

/// Starts a registry; it ends with what is returned.
async fn registry(dir: &Path, address: &str) -> Result<Child> {
    let binary = wait::until("a registry is fetched", wait::PATIENCE, async || {
        let fetched = Command::new("sh").args(["-c", FETCH]).output().await?;
        ensure!(fetched.status.success(), "{}", String::from_utf8_lossy(&fetched.stderr));
        anyhow::Ok(String::from_utf8(fetched.stdout)?)
    })
    .await?;
    std::fs::create_dir_all(dir)?;
    std::fs::write(dir.join("htpasswd"), HTPASSWD)?;
    let config = CONFIG.replace("DIR", &dir.display().to_string()).replace("ADDRESS", address);
    std::fs::write(dir.join("config.yml"), config)?;
    let mut command = Command::new(binary.trim());
    command.arg("serve").arg(dir.join("config.yml")).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let child = command.spawn().context("starting the registry")?;
    wait::until("the registry", wait::PATIENCE, async || TcpStream::connect(address).await).await?;
    Ok(child)
}
