//! Which Leases of nodes a master renews when, and what they say.
//!
//! Invariants
//! - Only a node whose agent is heard has its Lease renewed.
//! - Renewals come together: when the first is due, those that will be soon go with it.
//! - What others wrote into a Lease stays, but for who holds it and until when.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::liveness::NAMESPACE;

/// A third of the leader's patience, so that two renewals may fail.
const EVERY: Duration = Duration::from_secs(3);
/// How often [`Renewals::due`] is to be asked: how soon a new session's node is alive, and a failed renewal repeated.
pub const TICK: Duration = Duration::from_millis(500);
/// What clients are told; the leader's own grace is shorter.
const DURATION_SECONDS: u32 = 40;

/// When each node's Lease was last renewed from here.
#[derive(Debug, Default)]
pub struct Renewals {
    renewed: HashMap<String, Instant>,
}

impl Renewals {
    /// The nodes of `live`, those that are heard, to renew now.
    pub fn due(&mut self, live: Vec<String>, now: Instant) -> Vec<String> {
        let there: HashSet<&String> = live.iter().collect();
        self.renewed.retain(|node, _| there.contains(node));
        let older_than = |node: &String, age: Duration| self.renewed.get(node).is_none_or(|at| now - *at >= age);
        if !live.iter().any(|node| older_than(node, EVERY - TICK)) {
            return Vec::new();
        }
        live.into_iter().filter(|node| older_than(node, EVERY / 2)).collect()
    }

    /// A node's Lease was renewed.
    pub fn renewed(&mut self, node: String, at: Instant) {
        self.renewed.insert(node, at);
    }
}

/// Kubernetes' `MicroTime`.
fn micro(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// The stored Lease of a node, renewed; `None` if it is not one that can be.
#[must_use]
pub fn renewed(mut lease: Value, node: &str, now: Timestamp) -> Option<Value> {
    let spec = lease.get_mut("spec")?.as_object_mut()?;
    spec.insert("renewTime".to_owned(), micro(now).into());
    spec.insert("holderIdentity".to_owned(), node.into());
    Some(lease)
}

/// The first Lease of a node. The Node owns it, so that it goes with it.
#[must_use]
pub fn first(node: &str, owner: &Value, now: Timestamp) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": node, "namespace": NAMESPACE, "ownerReferences": [
            {"apiVersion": "v1", "kind": "Node", "name": node, "uid": owner["metadata"]["uid"]}]},
        "spec": {"holderIdentity": node, "leaseDurationSeconds": DURATION_SECONDS, "renewTime": micro(now)},
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::NOW;

    /// Each of `ages` is a live node's time since its last renewal, in milliseconds.
    fn due(ages: &[Option<u64>]) -> String {
        let now = Instant::now() + Duration::from_secs(60);
        let (mut renewals, mut live) = (Renewals::default(), Vec::new());
        for (number, age) in ages.iter().enumerate() {
            live.push(format!("n{number}"));
            if let Some(age) = age {
                renewals.renewed(format!("n{number}"), now - Duration::from_millis(*age));
            }
        }
        renewals.due(live, now).join(" ")
    }

    #[test]
    fn those_that_will_be_due_soon_go_with_the_first() {
        for (name, ages, expect) in [
            ("nobody is heard", vec![], ""),
            ("a new session", vec![None], "n0"),
            ("just renewed", vec![Some(0)], ""),
            ("not yet due", vec![Some(2499)], ""),
            ("due before the next look", vec![Some(2500)], "n0"),
            ("with it goes what is half way", vec![Some(2500), Some(1500), Some(1499)], "n0 n1"),
            ("a new session takes others along", vec![None, Some(1500), Some(1499)], "n0 n1"),
        ] {
            assert_eq!(due(&ages), expect, "{name}");
        }
    }

    #[test]
    fn a_node_that_is_not_heard_is_forgotten() {
        let (mut renewals, now) = (Renewals::default(), Instant::now());
        renewals.renewed("a".into(), now);
        assert!(renewals.due(Vec::new(), now).is_empty());
        assert_eq!(renewals.due(vec!["a".into()], now), ["a"], "its next session is a new one");
    }

    #[test]
    fn a_renewal_keeps_what_others_wrote() {
        let owner = json!({"metadata": {"uid": "u"}});
        let mut lease = first("n1", &owner, NOW);
        assert_eq!(lease["metadata"]["ownerReferences"][0]["uid"], "u");
        lease["metadata"]["labels"] = json!({"a": "b"});
        lease["spec"]["leaseTransitions"] = json!(3);
        lease["spec"]["holderIdentity"] = json!("other");
        let later = renewed(lease.clone(), "n1", crate::object::after_seconds(NOW, 3)).unwrap();
        let mut expect = lease;
        expect["spec"]["holderIdentity"] = json!("n1");
        expect["spec"]["renewTime"] = json!("2027-01-15T08:00:03.000000Z");
        assert_eq!(later, expect);
        assert_eq!(renewed(json!({}), "n1", NOW), None);
    }

    proptest! {
        /// Asked every tick, every live node is renewed in time, and none more often than at half the time.
        #[test]
        fn every_live_node_is_renewed_in_time(joins in prop::collection::vec(0u32..20, 1..8)) {
            let (mut renewals, begin) = (Renewals::default(), Instant::now());
            let mut last: HashMap<String, Instant> = HashMap::new();
            for tick in 0..60 {
                let now = begin + TICK * tick;
                let live = joins.iter().enumerate().filter(|(_, join)| tick >= **join);
                for node in renewals.due(live.map(|(number, _)| format!("n{number}")).collect(), now) {
                    if let Some(before) = last.insert(node.clone(), now) {
                        prop_assert!(now - before >= EVERY / 2 && now - before <= EVERY);
                    }
                    renewals.renewed(node, now);
                }
                let present = joins.iter().filter(|join| tick >= **join).count();
                prop_assert_eq!(last.len(), present, "a new session is renewed at once");
                prop_assert!(last.values().all(|at| now - *at <= EVERY));
            }
        }
    }
}
