//! What an update replaces: pods that do not serve anyway, and of the others as many as may be missing, or doubled, at a
//! time. Deleted pods do not count: updates go on while nodes are down.

use k8s_openapi::api::apps::v1::RollingUpdateDaemonSet;
use k8s_openapi::api::core::v1::Pod;

use super::{Place, Work};
use crate::object::deleting;
use crate::workloads::intstr::{Round, scaled};

/// The pods of a place that nobody has deleted; `None` if there are more than one of either sort.
struct Pair<'a> {
    new: Option<&'a Pod>,
    old: Option<&'a Pod>,
}

impl<'a> Work<'a> {
    fn limits(&self) -> Option<&'a RollingUpdateDaemonSet> {
        self.set.spec.update_strategy.as_ref()?.rolling_update.as_ref()
    }

    fn max_surge(&self, nodes: i32) -> i32 {
        let limit = self.limits().and_then(|limits| limits.max_surge.as_ref()).filter(|_| self.rolling());
        limit.map_or(0, |limit| scaled(limit, nodes, Round::Up))
    }

    /// Whether a node may have two pods for a while.
    pub(super) fn surges(&self) -> bool {
        self.max_surge(1) > 0
    }

    /// How many nodes should have a pod.
    pub(super) fn desired(&self) -> i32 {
        let desired = self.places.iter().filter(|place| place.verdict.run).count();
        i32::try_from(desired).unwrap_or(i32::MAX)
    }

    pub(super) fn roll(&mut self) {
        let desired = self.desired();
        let surge = self.max_surge(desired);
        if surge > 0 {
            self.roll_by_surge(usize::try_from(surge).unwrap_or(0));
            return;
        }
        let limit = self.limits().and_then(|limits| limits.max_unavailable.as_ref());
        // With both at zero nothing could ever move.
        let unavailable = limit.map_or(1, |limit| scaled(limit, desired, Round::Up)).max(1);
        self.roll_by_gaps(usize::try_from(unavailable).unwrap_or(0));
    }

    fn pair(&self, place: &Place<'a>) -> Option<Pair<'a>> {
        let mut pair = Pair { new: None, old: None };
        for pod in place.pods.iter().copied().filter(|pod| !deleting(&pod.metadata)) {
            let slot = if self.updated(pod) { &mut pair.new } else { &mut pair.old };
            if slot.replace(pod).is_some() {
                return None;
            }
        }
        Some(pair)
    }

    /// The places that have pods, or had some a moment ago.
    fn pairs(&self) -> Vec<(&'a str, bool, Option<Pair<'a>>)> {
        let inhabited = self.places.iter().filter(|place| !place.pods.is_empty());
        inhabited.map(|place| (place.node, place.verdict.run, self.pair(place))).collect()
    }

    /// Old pods go, and their nodes get new ones afterwards.
    fn roll_by_gaps(&mut self, limit: usize) {
        let (mut gaps, mut broken, mut candidates) = (0, Vec::new(), Vec::new());
        for (_, _, pair) in self.pairs() {
            match pair.map(|pair| (pair.new, pair.old)) {
                Some((Some(new), None)) => gaps += usize::from(!self.available(new)),
                Some((None, Some(old))) if self.available(old) => candidates.push(old),
                Some((None, Some(old))) => {
                    broken.push(old);
                    gaps += 1;
                }
                _ => gaps += 1,
            }
        }
        self.doomed.extend(broken);
        self.doomed.extend(candidates.into_iter().take(limit.saturating_sub(gaps)));
    }

    /// New pods come, and the old ones of their nodes go once they are available.
    fn roll_by_surge(&mut self, limit: usize) {
        let (mut surging, mut serving) = (0, 0);
        let (mut urgent, mut candidates, mut unwanted) = (Vec::new(), Vec::new(), Vec::new());
        for (node, run, pair) in self.pairs() {
            let Some(Pair { new, old }) = pair else {
                surging += 1;
                continue;
            };
            serving += usize::from(old.or(new).is_some_and(|pod| self.available(pod)));
            match (new, old) {
                (_, None) => {}
                (None, Some(old)) => match (self.available(old), run) {
                    (false, true) => urgent.push(node),
                    (false, false) => self.doomed.push(old),
                    (true, true) => candidates.push(node),
                    (true, false) => unwanted.push(old),
                },
                (Some(new), Some(old)) if self.available(new) => self.doomed.push(old),
                (Some(_), Some(_)) => surging += 1,
            }
        }
        // Where the set should no longer be, its pods stay until as many serve elsewhere as should.
        let spare = serving.saturating_sub(usize::try_from(self.desired()).unwrap_or(0));
        self.doomed.extend(unwanted.into_iter().take(spare));
        self.wanting.extend(urgent);
        self.wanting.extend(candidates.into_iter().take(limit.saturating_sub(surging)));
    }
}
