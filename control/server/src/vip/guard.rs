//! Attempts to connect to the virtual address wait while no server listens behind it.
//!
//! A killed server leaves the address on its interface until the next leader announces it, and its
//! kernel would refuse clients meanwhile. These packet rules outlive the server and keep the kernel
//! silent instead, so that TCP's own repetition, a second later (RFC 6298 §2.1), finds the new
//! holder. They ask for a listening socket, so they change nothing while a server runs.

use std::net::IpAddr;
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

const TABLE: &str = "kontiki_vip";

/// Puts the rules for one address and port in place, over those of a predecessor.
///
/// # Errors
/// nft is missing or refuses.
pub async fn set(vip: IpAddr, port: u16) -> anyhow::Result<()> {
    nft(&rules(vip, port)).await
}

/// Takes the rules away.
///
/// # Errors
/// nft is missing or refuses.
pub async fn remove() -> anyhow::Result<()> {
    nft(&format!("table inet {TABLE}\ndelete table inet {TABLE}\n")).await
}

fn rules(vip: IpAddr, port: u16) -> String {
    let family = if vip.is_ipv4() { "ip" } else { "ip6" };
    format!(
        "table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n\
         chain input {{\ntype filter hook input priority filter; policy accept;\n\
         {family} daddr {vip} tcp dport {port} tcp flags syn / fin,syn,rst,ack goto attempt\n}}\n\
         chain attempt {{\nsocket wildcard {{ 0, 1 }} accept\ndrop\n}}\n}}\n"
    )
}

async fn nft(script: &str) -> anyhow::Result<()> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().context("running nft")?;
    let mut stdin = child.stdin.take().context("nft takes no input")?;
    stdin.write_all(script.as_bytes()).await.context("writing to nft")?;
    drop(stdin);
    let ended = child.wait_with_output().await.context("waiting for nft")?;
    ensure!(ended.status.success(), "nft: {}", String::from_utf8_lossy(&ended.stderr).trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_name_the_address_in_its_family() {
        let four = rules(IpAddr::from([10, 0, 0, 10]), 6443);
        assert!(four.contains("ip daddr 10.0.0.10 tcp dport 6443"), "{four}");
        let six = rules("fd00::10".parse().expect("an address"), 443);
        assert!(six.contains("ip6 daddr fd00::10 tcp dport 443"), "{six}");
    }
}
