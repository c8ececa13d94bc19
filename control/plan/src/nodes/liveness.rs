//! When each node last gave a sign of life, by this process's own clock.
//!
//! Invariants
//! - A node is silent from the moment its Lease was last *seen* to change here. A new leader gives
//!   every node the full grace.
//! - If this process itself was stopped for a while, nobody is blamed: every node starts anew.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;

use crate::key::Name;

/// Where the Leases of nodes are.
pub const NAMESPACE: &str = "kube-node-lease";

struct Sign {
    renewal: Option<Timestamp>,
    seen: Instant,
}

/// See the module.
#[derive(Default)]
pub struct Liveness {
    nodes: HashMap<Name, Sign>,
}

impl Liveness {
    /// A node's Lease is there. Only a renewal that is new counts as a sign of life.
    pub fn heard(&mut self, node: &Name, lease: &Lease, now: Instant) {
        let renewal = lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0);
        match self.nodes.get(node) {
            Some(sign) if sign.renewal == renewal => {}
            _ => drop(self.nodes.insert(node.clone(), Sign { renewal, seen: now })),
        }
    }

    /// A node is gone.
    pub fn forget(&mut self, node: &Name) {
        self.nodes.remove(node);
    }

    /// How long a node has been silent. The first question about a node starts its clock.
    pub fn silent(&mut self, node: &Name, now: Instant) -> Duration {
        let sign = self.nodes.entry(node.clone()).or_insert(Sign { renewal: None, seen: now });
        now.saturating_duration_since(sign.seen)
    }

    /// Gives every node its grace anew.
    pub fn restart(&mut self, now: Instant) {
        self.nodes.values_mut().for_each(|sign| sign.seen = now);
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::coordination::v1::LeaseSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

    use super::*;
    use crate::object::after_seconds;
    use crate::testing::{NOW, meta};

    fn lease(renewed: i64) -> Lease {
        let renew_time = Some(MicroTime(after_seconds(NOW, renewed)));
        Lease { metadata: meta("n"), spec: Some(LeaseSpec { renew_time, ..LeaseSpec::default() }) }
    }

    /// `r<n>` the Lease shows renewal n, `?` the node is asked about, `!` this process stood still, `x` the node is
    /// gone; one each second. Shows the silence that the last question finds.
    #[test]
    fn only_a_new_renewal_counts() {
        for (name, steps, expect) in [
            ("asked first", "?", 0),
            ("asked again", "? . . ?", 3),
            ("renewed", "r1 . ?", 2),
            ("the same Lease again", "r1 r1 r1 ?", 3),
            ("another renewal", "r1 . r2 ?", 1),
            ("an older one, from a clock that was set back, is new too", "r2 . r1 ?", 1),
            ("after a stall", "r1 . . ! ?", 1),
            ("a namesake starts anew", "r1 . x . ?", 0),
        ] {
            let (mut liveness, mut now, node) = (Liveness::default(), Instant::now(), Name::from("n"));
            let mut silent = Duration::ZERO;
            for step in steps.split_whitespace() {
                match step.split_at(1) {
                    ("r", number) => liveness.heard(&node, &lease(number.parse().unwrap()), now),
                    ("?", _) => silent = liveness.silent(&node, now),
                    ("!", _) => liveness.restart(now),
                    ("x", _) => liveness.forget(&node),
                    _ => {}
                }
                now += Duration::from_secs(1);
            }
            assert_eq!(silent.as_secs(), expect, "{name}");
        }
    }
}
