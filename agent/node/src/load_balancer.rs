//! Announces the addresses of load balancers that name this node. What is to be done is decided in kontiki-agent-plan.
//!
//! Invariants
//! - Nothing happens before the first snapshot, nor while there is neither an address nor a Service that names this node.
//! - When the agent stops, addresses stay for as long as the kernel was told: nobody else takes them before.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use kontiki_agent_plan::load_balancer::{self as plan, PROBE, Step, Tenure};
use kontiki_net::load_balancer::{Addresses, Held, Link, Seen, announce, announcements, other_holder};
use tokio_util::sync::CancellationToken;

use crate::node::Node;

/// Who says what is told of Services here.
const COMPONENT: &str = "load-balancer-announcer";
/// Somebody else may have changed the kernel's state.
const AGAIN: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(1);
/// Addresses that others are asked about at a time: each takes a thread while it listens.
const ASKED: usize = 64;

/// Keeps the addresses as they should be until `stop`.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    let (mut changed, mut renewed) = (node.objects.network_changed(), node.renewed.subscribe());
    let mut keeper = Keeper::default();
    loop {
        changed.borrow_and_update();
        renewed.borrow_and_update();
        let pause = match keeper.turn(&node).await {
            Ok(pause) => pause,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "addresses of load balancers are not as they should be");
                RETRY
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            // Cancel-safe: receivers keep the unseen version.
            _ = changed.changed() => {}
            _ = renewed.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

struct Look {
    named: BTreeSet<IpAddr>,
    renewed: Option<Instant>,
    until: Instant,
}

#[derive(Default)]
struct Keeper {
    addresses: Option<Addresses>,
    /// What the last look was at, and until when nothing else is due; `None` before the first that succeeded.
    last: Option<Look>,
    /// When each address was taken, and how often it was announced.
    taken: BTreeMap<IpAddr, (Instant, usize)>,
    /// Addresses that somebody else has: how often that was heard, and when to ask again.
    contested: BTreeMap<IpAddr, (u32, Instant)>,
}

impl Keeper {
    /// One look. Returns how long to wait for the next.
    async fn turn(&mut self, node: &Node) -> Result<Duration> {
        if node.objects.snapshots() == 0 {
            return Ok(AGAIN); // nothing is known
        }
        let services = node.objects.services();
        let named = plan::named(services.iter().map(Arc::as_ref), &node.config.name);
        let (now, renewed) = (Instant::now(), *node.renewed.borrow());
        if let Some(last) = self.last.take().filter(|last| {
            let idle = named.is_empty() && self.taken.is_empty();
            last.named == named && (idle || last.renewed == renewed && now < last.until)
        }) {
            let left = if self.taken.is_empty() && named.is_empty() { AGAIN } else { last.until - now };
            self.last = Some(last);
            return Ok(left);
        }
        self.contested.retain(|address, _| named.contains(address));
        let addresses = match self.addresses.take() {
            Some(addresses) => addresses,
            None => Addresses::new(node.config.node_ip).context("opening a netlink socket")?,
        };
        let done = self.settle(node, &addresses, &named).await;
        self.addresses = Some(addresses);
        done?;
        let pause = self.next(node);
        self.last = Some(Look { named, renewed, until: Instant::now() + pause });
        Ok(pause)
    }

    async fn settle(&mut self, node: &Node, addresses: &Addresses, named: &BTreeSet<IpAddr>) -> Result<()> {
        let seen = addresses.look().await?;
        // Those elsewhere are from before the node's own address moved to another interface.
        let (here, elsewhere): (Vec<_>, Vec<_>) =
            seen.held.iter().cloned().partition(|held| held.index == seen.link.index);
        for stray in elsewhere {
            addresses.remove(stray).await?;
        }
        let left = here.iter().map(|held| (held.address, held.left)).collect();
        let mut held: BTreeMap<IpAddr, Held> = here.into_iter().map(|held| (held.address, held)).collect();
        self.taken.retain(|address, _| held.contains_key(address));
        // What an agent before this one took is announced once more.
        for address in held.keys() {
            self.taken.entry(*address).or_insert((Instant::now(), 0));
        }
        let (mut wanted, mut failed) = (Vec::new(), Vec::new());
        for step in plan::steps(named, &left, tenure(node)) {
            let done = match step {
                Step::Leave(address) => {
                    self.taken.remove(&address);
                    tracing::info!(%address, "gave up the address of a load balancer");
                    match held.remove(&address) {
                        Some(held) => addresses.remove(held).await,
                        None => Ok(()),
                    }
                }
                Step::Keep(address) => match tenure(node).seconds() {
                    Some(seconds) => addresses.set(&seen, address, seconds).await,
                    None => Ok(()),
                },
                Step::Take(address) => {
                    wanted.push(address);
                    Ok(())
                }
            };
            failed.extend(done.err().map(|error| format!("{error:#}")));
        }
        wanted.retain(|address| self.contested.get(address).is_none_or(|(_, at)| *at <= Instant::now()));
        for (address, other) in ask(seen.link, wanted).await {
            match other {
                Ok(None) => {
                    if let Err(error) = self.take(node, addresses, &seen, address).await {
                        self.contest(address);
                        failed.push(format!("{address}: {error:#}"));
                    }
                }
                Ok(Some(mac)) => {
                    if self.contest(address) {
                        tell_of_other(node, address, mac);
                    }
                }
                Err(error) => failed.push(format!("asking for {address}: {error}")),
            }
        }
        self.tell(seen.link);
        anyhow::ensure!(failed.is_empty(), "{}", failed.join("; "));
        Ok(())
    }

    async fn take(&mut self, node: &Node, addresses: &Addresses, seen: &Seen, address: IpAddr) -> Result<()> {
        // Time has passed, and what names this node may have changed: then the next turn gives it up.
        let Some(seconds) = tenure(node).seconds() else { return Ok(()) };
        addresses.set(seen, address, seconds).await?;
        self.contested.remove(&address);
        self.taken.insert(address, (Instant::now(), 0));
        tracing::info!(%address, "took the address of a load balancer");
        Ok(())
    }

    /// It is asked for again later. True if that is news.
    fn contest(&mut self, address: IpAddr) -> bool {
        let (times, at) = self.contested.entry(address).or_insert((0, Instant::now()));
        *at = Instant::now() + plan::pause(*times, rand::random());
        *times = times.saturating_add(1);
        // The one that gives it up is often heard once.
        *times == 4
    }

    /// Makes the announcements that are due.
    fn tell(&mut self, link: Link) {
        for (address, (since, told)) in &mut self.taken {
            let (due, _) = announcements(since.elapsed());
            if due > *told {
                *told = due;
                if let Err(error) = announce(link, *address) {
                    tracing::debug!(%address, %error, "the address of a load balancer could not be announced");
                }
            }
        }
    }

    fn next(&self, node: &Node) -> Duration {
        let told = self.taken.values().filter_map(|(since, _)| announcements(since.elapsed()).1);
        let contests = self.contested.values().map(|(_, at)| at.saturating_duration_since(Instant::now()));
        let tenure = match tenure(node) {
            Tenure::Left(left) if !self.taken.is_empty() => Some(left),
            _ => None,
        };
        let first = told.chain(contests).chain(tenure).min().unwrap_or(AGAIN);
        // Never zero: what fails must not spin.
        first.clamp(Duration::from_millis(5), AGAIN)
    }
}

/// Who else has each address.
async fn ask(link: Link, addresses: Vec<IpAddr>) -> Vec<(IpAddr, io::Result<Option<[u8; 6]>>)> {
    let asked = futures::stream::iter(addresses).map(|address| async move {
        let other = match address {
            IpAddr::V4(four) => other_holder(link, four, PROBE).await,
            IpAddr::V6(_) => Ok(None),
        };
        (address, other)
    });
    asked.buffer_unordered(ASKED).collect().await
}

/// Tells whoever looks after the Services with an address that another machine has it.
fn tell_of_other(node: &Node, address: IpAddr, mac: [u8; 6]) {
    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
    tracing::warn!(%address, %mac, "somebody else has the address of a load balancer; waiting for it");
    let name = &node.config.name;
    let message = format!("the machine {mac} on the network has {address}: node {name} waits until it gives it up");
    for service in node.objects.services().iter().filter(|service| plan::is_for(service, name, address)) {
        node.recorder.service(&node.outbox, service, COMPONENT, "AddressInUse", &message);
    }
}

fn tenure(node: &Node) -> Tenure {
    Tenure::of(node.renewed.borrow().map(|sent| sent.elapsed()))
}
