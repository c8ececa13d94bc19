//! The system's tools: nft, conntrack.

use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use tokio::{io::AsyncWriteExt as _, process::Command};

/// The tables that the kernel has, each as family and name.
pub(super) async fn tables() -> Result<Vec<String>> {
    let output = tool("nft").args(["-t", "list", "tables"]).output().await.context("running nft")?;
    if !output.status.success() {
        bail!("nft list tables: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| line.strip_prefix("table ").map(str::to_owned)).collect())
}

/// Runs a script as one transaction.
pub(super) async fn run(script: &str) -> Result<()> {
    let mut child = tool("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("running nft (package nftables)")?;
    let mut stdin = child.stdin.take().context("stdin was asked for")?;
    // nft reads all of its input before it writes anything.
    let fed = stdin.write_all(script.as_bytes()).await;
    drop(stdin);
    let output = child.wait_with_output().await.context("waiting for nft")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("nft: {}", said.lines().take(3).collect::<Vec<_>>().join(" "));
    }
    fed.context("feeding nft")
}

/// A system tool; these live in directories that a service's PATH may lack.
pub(super) fn tool(name: &str) -> Command {
    let mut command = Command::new(name);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin:/usr/bin:/bin")).kill_on_drop(true);
    command
}
