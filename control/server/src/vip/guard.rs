//! A machine without a server says nothing at the virtual address.
//!
//! A killed server leaves the address on its interface until its lifetime is over, and its kernel would refuse clients
//! meanwhile, and end the connections that they have to the next holder: some neighbour always sends to the wrong one of
//! two. These packet rules outlive the server and keep the kernel silent instead, so that TCP's own repetition, a second
//! later (RFC 6298 §2.1), finds the new holder. They ask for a socket, so they change nothing while a server runs.

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

/// Of what can be asked about a socket, `transparent` is known of those, too, whose handshake is under way.
fn rules(vip: IpAddr, port: u16) -> String {
    let family = if vip.is_ipv4() { "ip" } else { "ip6" };
    format!(
        "table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n\
         chain input {{\ntype filter hook input priority filter; policy accept;\n\
         {family} daddr {vip} tcp dport {port} goto known\n}}\n\
         chain known {{\nsocket transparent {{ 0, 1 }} accept\ndrop\n}}\n}}\n"
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
    use std::{net::Ipv4Addr, os::fd::AsRawFd as _, time::Duration};

    use nix::sys::{
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, setsockopt, socket,
            sockopt::ReceiveTimeout,
        },
        time::{TimeVal, TimeValLike as _},
    };
    use tokio::{
        io::AsyncReadExt as _,
        net::{TcpListener, TcpStream},
        time::timeout,
    };

    use super::*;

    const VIP: Ipv4Addr = Ipv4Addr::new(10, 198, 0, 10);
    const PORT: u16 = 6443;
    const SHORT: Duration = Duration::from_millis(300);

    /// An acknowledgement that belongs to no connection, from the address to itself.
    fn stray() -> Vec<u8> {
        let mut segment = [&40_000_u16.to_be_bytes()[..], &PORT.to_be_bytes(), &[0, 0, 0, 1, 0, 0, 0, 1]].concat();
        segment.extend([0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
        let pseudo = [&VIP.octets()[..], &VIP.octets(), &[0, 6, 0, 20], &segment].concat();
        let sum: u32 = pseudo.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let folded = u16::try_from((folded & 0xffff) + (folded >> 16)).expect("sixteen bits");
        segment[16..18].copy_from_slice(&(!folded).to_be_bytes());
        segment
    }

    /// Whether the kernel ends a connection that nobody has.
    fn resets() -> bool {
        let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp).expect("raw");
        setsockopt(&raw, ReceiveTimeout, &TimeVal::milliseconds(300)).expect("a deadline");
        let [a, b, c, d] = VIP.octets();
        sendto(raw.as_raw_fd(), &stray(), &SockaddrIn::new(a, b, c, d, 0), MsgFlags::empty()).expect("sent");
        let mut packet = [0; 128];
        while let Ok(length) = recv(raw.as_raw_fd(), &mut packet, MsgFlags::empty()) {
            // An IPv4 header of 20 bytes; RST is the third flag.
            if length >= 40 && packet[20..22] == PORT.to_be_bytes() && packet[33] & 4 != 0 {
                return true;
            }
        }
        false
    }

    async fn ip(args: &str) {
        let done = Command::new("ip").args(args.split(' ')).status().await.expect("ip is there");
        assert!(done.success(), "ip {args}");
    }

    async fn silence_without_a_server() {
        ip("link set lo up").await;
        ip(&format!("address add {VIP}/32 dev lo")).await;
        assert!(resets(), "as a kernel does");
        set(VIP.into(), PORT).await.expect("rules");
        assert!(!resets(), "somebody else's connection");
        assert!(timeout(SHORT, TcpStream::connect((VIP, PORT))).await.is_err(), "an attempt waits");
        let listener = TcpListener::bind((VIP, PORT)).await.expect("a server");
        for _ in 0..20 {
            let (there, here) = timeout(Duration::from_secs(5), async {
                tokio::join!(TcpStream::connect((VIP, PORT)), listener.accept())
            })
            .await
            .expect("at once");
            here.expect("accepted").0.write_all(b"hello").await.expect("written");
            let mut said = String::new();
            there.expect("connected").read_to_string(&mut said).await.expect("read");
            assert_eq!(said, "hello");
        }
        assert!(resets(), "a server's machine ends what it does not know");
        remove().await.expect("rules go");
    }

    #[test]
    fn a_machine_is_silent_unless_it_has_a_server() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: needs root to make a network namespace");
            return;
        }
        let story = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root may make namespaces");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(silence_without_a_server());
        };
        std::thread::spawn(story).join().expect("it holds");
    }

    #[test]
    fn the_rules_name_the_address_in_its_family() {
        let four = rules(IpAddr::from([10, 0, 0, 10]), 6443);
        assert!(four.contains("ip daddr 10.0.0.10 tcp dport 6443"), "{four}");
        let six = rules("fd00::10".parse().expect("an address"), 443);
        assert!(six.contains("ip6 daddr fd00::10 tcp dport 443"), "{six}");
    }
}
