//! The control plane's virtual address: held by the leader, lost by itself.
//!
//! The address is given to the kernel with a lifetime of a few seconds and renewed while this
//! server leads and a quorum says so. A killed or frozen leader renews nothing, and its kernel
//! removes the address; a leader that notices its loss removes it at once.
//!
//! Invariants
//! - It is renewed only with a quorum's confirmation younger than an election timeout. Two holders
//!   cannot outlast [`LIFETIME`] and the kernel's rounding, a quarter of a second. Of the two, the one that was
//!   killed says nothing but that it has the address (ARP): see [`guard`].
//! - A new holder announces itself several times: a neighbour may miss one, and a frozen holder's
//!   kernel may still answer for a moment.
//! - Nobody is refused while it moves: see [`guard`].
//! - The address carries no prefix route: it is a host address beside the server's own.

mod guard;
mod link;

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use kontiki_neighbours::announcements;
use kontiki_store::{Status, Store};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::link::Link;

/// How long the kernel keeps the address without renewal.
const LIFETIME: Duration = Duration::from_secs(3);
const RENEW: Duration = Duration::from_secs(1);
/// How soon to look again while nothing is certain.
const SOON: Duration = Duration::from_millis(50);

/// What to do about the address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Duty {
    /// Take it, or renew it.
    Hold,
    /// Neither: its lifetime decides.
    Wait,
    /// Remove it.
    Release,
}

/// `confirmed` is the age of the last quorum confirmation.
fn duty(leading: bool, confirmed: Option<Duration>, election: Duration) -> Duty {
    match (leading, confirmed) {
        (false, _) => Duty::Release,
        (true, Some(age)) if age < election => Duty::Hold,
        (true, Some(age)) if age < LIFETIME => Duty::Wait,
        (true, Some(_)) => Duty::Release,
        (true, None) => Duty::Wait,
    }
}

fn duty_of(status: &Status, election: Duration) -> Duty {
    duty(status.is_leader, status.last_quorum_ack.map(|at| at.elapsed()), election)
}

/// The keeper of one virtual address.
pub struct Keeper {
    /// The address.
    pub vip: IpAddr,
    /// The port that clients use there.
    pub port: u16,
    /// This server's own address; the virtual one goes to the same interface.
    pub advertise: IpAddr,
    /// The shortest time in which another leader may be elected.
    pub election: Duration,
}

impl Keeper {
    /// Keeps the address where it belongs until `stop`, then removes it.
    pub async fn run(self, store: Store, stop: CancellationToken) {
        let link = loop {
            match Link::find(self.advertise).await {
                Ok(link) => break link,
                Err(error) => warn!(error = format!("{error:#}"), "no interface for the virtual address yet"),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                // A dropped timer loses nothing.
                () = sleep(RENEW) => {}
            }
        };
        // A predecessor that was killed may have left it.
        self.remove(&link).await;
        if let Err(error) = guard::set(self.vip, self.port).await {
            warn!(
                error = format!("{error:#}"),
                "clients will be refused, not delayed, while the virtual address moves"
            );
        }
        let mut status = store.status();
        let mut held: Option<Held> = None;
        loop {
            let duty = duty_of(&status.borrow_and_update().clone(), self.election);
            held = self.turn(&link, held, duty).await;
            let wait = held.as_ref().map_or_else(|| if duty == Duty::Wait { SOON } else { RENEW }, Held::until_next);
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                // Cancel-safe: a watch receiver keeps the unseen version.
                changed = status.changed() => if changed.is_err() { break },
                () = sleep(wait) => {}
            }
        }
        if held.is_some() {
            self.remove(&link).await;
        }
        if let Err(error) = guard::remove().await {
            debug!(error = format!("{error:#}"), "the rules of the virtual address could not be removed");
        }
    }

    async fn turn(&self, link: &Link, held: Option<Held>, duty: Duty) -> Option<Held> {
        match (duty, held) {
            (Duty::Hold, held) => self.hold(link, held).await,
            (Duty::Wait, held) => held.filter(|held| held.renewed.elapsed() < LIFETIME),
            (Duty::Release, Some(_)) => {
                self.remove(link).await;
                info!(vip = %self.vip, "released the virtual address");
                None
            }
            (Duty::Release, None) => None,
        }
    }

    async fn hold(&self, link: &Link, held: Option<Held>) -> Option<Held> {
        let mut held = match held {
            Some(held) if held.renewed.elapsed() < RENEW => held,
            older => {
                let now = Instant::now();
                if let Err(error) = link.set(self.vip, LIFETIME).await {
                    warn!(error = format!("{error:#}"), vip = %self.vip, "the virtual address could not be set");
                    return None;
                }
                if older.is_none() {
                    info!(vip = %self.vip, "took the virtual address");
                }
                Held { renewed: now, ..older.unwrap_or(Held { taken: now, renewed: now, announced: 0 }) }
            }
        };
        let (due, _) = announcements(held.taken.elapsed());
        if due > held.announced {
            held.announced = due;
            if let Err(error) = kontiki_neighbours::announce(link.place, self.vip) {
                debug!(%error, "the virtual address could not be announced");
            }
        }
        Some(held)
    }

    async fn remove(&self, link: &Link) {
        if let Err(error) = link.remove(self.vip).await {
            warn!(error = format!("{error:#}"), vip = %self.vip, "the virtual address could not be removed");
        }
    }
}

/// The address while it is held.
struct Held {
    taken: Instant,
    renewed: Instant,
    announced: usize,
}

impl Held {
    fn until_next(&self) -> Duration {
        let renewal = RENEW.saturating_sub(self.renewed.elapsed());
        let (due, next) = announcements(self.taken.elapsed());
        let announcement = if due > self.announced { Duration::ZERO } else { next.unwrap_or(RENEW) };
        // Never zero: a failing renewal must not spin.
        renewal.min(announcement).max(Duration::from_millis(5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_confirmed_leader_holds_the_address() {
        let ms = Duration::from_millis;
        for (name, leading, confirmed, expect) in [
            ("a confirmed leader", true, Some(ms(10)), Duty::Hold),
            ("a leader that hears nothing for an election timeout", true, Some(ms(300)), Duty::Wait),
            ("a leader that was frozen", true, Some(LIFETIME), Duty::Release),
            ("a leader never confirmed", true, None, Duty::Wait),
            ("a follower", false, None, Duty::Release),
            ("a deposed leader with a fresh confirmation", false, Some(ms(1)), Duty::Release),
        ] {
            assert_eq!(duty(leading, confirmed, ms(300)), expect, "{name}");
        }
    }

    #[test]
    fn announcements_come_before_renewals_and_then_stop() {
        let now = Instant::now();
        let late = Held { taken: now, renewed: now, announced: 0 };
        assert_eq!(late.until_next(), Duration::from_millis(5), "one is due");
        let fresh = Held { taken: now, renewed: now, announced: 1 };
        assert!(fresh.until_next() <= Duration::from_millis(30));
        let Some(long_ago) = now.checked_sub(Duration::from_secs(60)) else { return };
        let settled = Held { taken: long_ago, renewed: now, announced: 9 };
        assert!(settled.until_next() > Duration::from_millis(500) && settled.until_next() <= RENEW);
    }
}
