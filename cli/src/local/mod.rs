//! The local cluster: every server and agent a process of its own in a network namespace of its
//! own, on one bridge; real addresses, real partitions.
//!
//! Invariants
//! - What exists is found by looking (processes, namespaces, links, mounts), never by trusting a
//!   record of an earlier run: a machine may have crashed in between.
//! - Everything of a cluster carries its name or lies beneath its two directories (`dir` for what
//!   lasts, `/run/kontiki/NAME` for what does not), so `down` finds all of it by name.
//! - `up` starts what is not running and leaves the rest alone.

mod containerd;
mod demo;
mod down;
mod network;
mod plan;
mod preflight;
mod process;
mod progress;
mod settings;
mod sweep;
#[cfg(test)]
mod tests;
mod up;

use std::{net::Ipv4Addr, path::PathBuf};

pub use down::down;
use ipnet::Ipv4Net;
pub use plan::Saved;
pub use up::up;

#[derive(clap::Args)]
pub struct UpArgs {
    /// How many servers (masters) [default: 3]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=9))]
    servers: Option<u8>,
    /// How many agents (workers) [default: 2]
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=100))]
    agents: Option<u8>,
    /// Where the cluster's files are
    #[arg(long, default_value = ".kontiki", value_name = "DIR")]
    dir: PathBuf,
    /// Network of the cluster's machines [default: 10.213.0.0/24]
    #[arg(long, value_name = "CIDR")]
    subnet: Option<Ipv4Net>,
    /// Name of the cluster: prefix of its namespaces and bridge [default: kontiki]
    #[arg(long)]
    name: Option<String>,
    /// Pull images of a registry from elsewhere, such as docker.io=http://192.0.2.7:5000
    #[arg(long = "mirror", value_name = "HOST=URL")]
    mirrors: Vec<String>,
    /// Leave the demo out
    #[arg(long)]
    no_demo: bool,
    /// Keep the cluster from reaching anything outside this machine
    #[arg(long)]
    no_egress: bool,
}

#[derive(clap::Args)]
pub struct DownArgs {
    /// Where the cluster's files are
    #[arg(long, default_value = ".kontiki", value_name = "DIR")]
    dir: PathBuf,
    /// Name of the cluster, if its directory is gone [default: the one in DIR, else kontiki]
    #[arg(long)]
    name: Option<String>,
    /// Delete the cluster's data as well
    #[arg(long)]
    purge: bool,
}

/// Ranges of pods and Services; a second local cluster may use the same, they never meet.
const POD_CIDR: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16);
const SERVICE_CIDR: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 16);
