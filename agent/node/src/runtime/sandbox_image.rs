//! Makes sure that the image of every sandbox is there, also where no registry can be reached.
//!
//! containerd's configuration names the image. If it is absent, our own pause program is imported
//! under that name by containerd's `ctr`, which every installation has beside the daemon.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, bail};
use k8s_cri::v1::StatusRequest;
use serde_json::Value;
use tokio::{io::AsyncWriteExt as _, process::Command};

use super::{cri::Cri, images, pause};
use crate::config::Config;

const IMPORT: Duration = Duration::from_secs(30);

/// Imports the sandbox image unless it is there.
///
/// # Errors
/// Why it could not be imported.
pub(crate) async fn ensure(cri: &Cri, config: &Config) -> anyhow::Result<()> {
    let status =
        cri.status(StatusRequest { verbose: true }).await.context("asking containerd for its configuration")?;
    let settings = status.info.get("config").and_then(|text| serde_json::from_str::<Value>(text).ok());
    let image = settings.as_ref().and_then(|s| s["sandboxImage"].as_str()).filter(|image| !image.is_empty());
    let Some(image) = image else { return Ok(()) }; // a newer containerd that tells otherwise
    if images::local(cri, image).await?.is_some() {
        return Ok(());
    }
    tracing::info!(%image, "importing the sandbox image");
    tokio::time::timeout(IMPORT, import(config, image)).await.context("ctr does not end")?
}

async fn import(config: &Config, image: &str) -> anyhow::Result<()> {
    let mut child = Command::new("ctr")
        .arg("--address")
        .arg(&config.containerd_socket)
        .args(["--namespace", "k8s.io", "images", "import", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("starting ctr")?;
    let mut stdin = child.stdin.take().context("ctr has no input")?;
    // If ctr ends early its own words are the better error.
    let _ = stdin.write_all(&pause::archive(image)).await;
    drop(stdin);
    let output = child.wait_with_output().await?;
    if !output.status.success() {
        bail!("ctr: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
